// Connections that live as long as the traffic does: requests and responses, and streams one way and both ways, every
// byte checked, until told to finish. What happens to the host meanwhile happens in the middle of them.
#pragma once

#include <cstdint>

#include "socket/ledger.hpp"
#include "socket/stream.hpp"
#include "socket/traffic.hpp"

namespace shunt::test {

// What the two ends of a live connection say to each other, turn by turn, without an end. Both ends know it from its
// seed; positions count from the first byte of a direction.
class Conversation {
 public:
  explicit Conversation(uint64_t seed);
  void next_turn();

  uint64_t request_begin() const { return request_begin_; }
  uint64_t request_end() const { return request_end_; }
  uint64_t response_begin() const { return response_begin_; }
  uint64_t response_end() const { return response_end_; }
  // The response does not wait for the end of the request.
  bool both_at_once() const { return both_at_once_; }

 private:
  uint64_t seed_;
  uint64_t turn_ = 0;
  uint64_t request_begin_ = 0;
  uint64_t request_end_ = 0;
  uint64_t response_begin_ = 0;
  uint64_t response_end_ = 0;
  bool both_at_once_ = false;
};

// The processes of live connections, each until the traffic is told to finish. Their value is the exit code: 0, but for
// a process that could not do its work; what goes wrong with a connection is in the ledger.
int run_live_server(uint32_t threads, const TrafficConfig& config, Ledger& ledger);
int run_live_client(uint32_t threads, const TrafficConfig& config, Ledger& ledger);

}  // namespace shunt::test
