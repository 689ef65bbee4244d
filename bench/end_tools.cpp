#include <sys/resource.h>
#include <time.h>

#include <bench/end_tools.hpp>
#include <cstring>

namespace shunt::bench {
namespace {

constexpr unsigned char kGreeting = 'g';

uint64_t cpu_time_ns() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  auto ns = [](const timeval& tv) { return uint64_t(tv.tv_sec) * 1000000000u + uint64_t(tv.tv_usec) * 1000u; };
  return ns(usage.ru_utime) + ns(usage.ru_stime);
}

}  // namespace

uint64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return uint64_t(now.tv_sec) * 1000000000u + uint64_t(now.tv_nsec);
}

SocketAddress listening_address(const RunSpec& spec) {
  const uint16_t port = spec.variant == Variant::unix ? uint16_t(0) : spec.port;
  return {.port = port, .unix_id = uint64_t(getppid()), .ip = spec.listening_ip};
}

SocketAddress dialled_address(const RunSpec& spec) {
  SocketAddress address = listening_address(spec);
  address.ip = spec.dialled_ip;
  if (spec.dialled_port) address.port = spec.dialled_port;
  return address;
}

Meter::Meter(EndReport* report) : report_(report), cpu_ns_(cpu_time_ns()) { report_->start_ns = now_ns(); }

void Meter::stop() {
  report_->end_ns = now_ns();
  report_->cpu_ns = cpu_time_ns() - cpu_ns_;
}

void note_cost(const RunSpec& spec, CostReading* reading) {
  if (spec.cost) *reading = spec.cost();
}

bool signal_pipe(int fd) {
  char byte = 1;
  return write(fd, &byte, 1) == 1;
}

Result<void> await_pipe(int fd, const char* what) {
  char byte;
  if (read(fd, &byte, 1) != 1) return unexpected(Error{EPIPE, std::string("the other end died ") + what, {}});
  return {};
}

Result<void> greet(Channel* channel) { return channel->send_all(&kGreeting, 1); }

Result<void> await_greeting(Channel* channel) {
  unsigned char byte = 0;
  if (auto got = channel->receive_all(&byte, 1); !got) return got;
  if (byte != kGreeting)
    return unexpected(Error{EBADMSG, "integrity: the first byte is not the one that was sent", {}});
  return {};
}

void stamp(std::vector<unsigned char>* message, uint64_t number) {
  std::memcpy(message->data(), &number, sizeof(number));
  std::memcpy(message->data() + message->size() - sizeof(number), &number, sizeof(number));
}

uint64_t number_of(const std::vector<unsigned char>& message) {
  uint64_t number;
  std::memcpy(&number, message.data(), sizeof(number));
  return number;
}

Result<void> check_message(const std::vector<unsigned char>& message, const std::vector<unsigned char>& expected,
                           uint64_t number, bool whole) {
  uint64_t first, last;
  std::memcpy(&first, message.data(), sizeof(first));
  std::memcpy(&last, message.data() + message.size() - sizeof(last), sizeof(last));
  if (first == number && last == number && (!whole || message == expected)) return {};
  return unexpected(
      Error{EBADMSG, "integrity: message " + std::to_string(number) + " is not the one that was sent", {}});
}

}  // namespace shunt::bench
