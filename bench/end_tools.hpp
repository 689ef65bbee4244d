// What the ends of all kinds of cells need: clocks, the pipes between them, numbered messages.
#pragma once

#include <bench/ends.hpp>
#include <cstdint>
#include <vector>

namespace shunt::bench {

uint64_t now_ns();

// Ends of one run find each other by address and port, or by the process that started them.
SocketAddress listening_address(const RunSpec& spec);
SocketAddress dialled_address(const RunSpec& spec);

// Takes the time and CPU time between construction and stop().
class Meter {
 public:
  explicit Meter(EndReport* report);
  void stop();
  uint64_t deadline_ns(double seconds) const { return report_->start_ns + uint64_t(seconds * 1e9); }

 private:
  EndReport* report_;
  uint64_t cpu_ns_;
};

// Where the run has a meter: what its processes have cost up to now.
void note_cost(const RunSpec& spec, CostReading* reading);

bool signal_pipe(int fd);
Result<void> await_pipe(int fd, const char* what);

// Both ends have a connection that goes all the way: between them may be others who accept, and then still have to
// connect.
Result<void> greet(Channel* channel);
Result<void> await_greeting(Channel* channel);

// Each message carries its number at both ends; the rest is the pattern.
void stamp(std::vector<unsigned char>* message, uint64_t number);
uint64_t number_of(const std::vector<unsigned char>& message);
// EBADMSG: not the message with that number. `whole`: all of it is compared.
Result<void> check_message(const std::vector<unsigned char>& message, const std::vector<unsigned char>& expected,
                           uint64_t number, bool whole);

}  // namespace shunt::bench
