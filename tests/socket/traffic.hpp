// The traffic checker: many connections in all the ways in which programs use them, every byte checked, every wait
// bounded.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "socket/stream.hpp"

namespace shunt::test {

struct TrafficProgress {
  uint64_t connections = 0;  // begun so far, without live ones
  uint64_t live_bytes = 0;   // received and checked on live connections
  uint32_t live_open = 0;
  uint16_t live_port = 0;  // where they are accepted
  uint64_t errors = 0;
  std::vector<uint64_t> live_received;  // by live connection
};

struct TrafficConfig {
  uint64_t connections = 3000;          // no limit if `until_told`
  uint32_t connections_per_second = 0;  // 0: as fast as possible
  uint32_t live = 0;                    // further connections, from the beginning to the end: live.hpp
  uint64_t live_bytes_per_second = 0;   // of all live connections; 0: as fast as possible
  bool until_told = false;              // until SIGTERM: no process scenarios then
  std::function<void(const TrafficProgress&)> on_progress;  // ten times a second
  uint32_t at_once = 200;
  uint32_t threads = 8;
  uint32_t processes = 4;  // half of them connect, half accept; what forks and kills runs in others
  uint64_t seed = 1;
  uint64_t stream_bytes_max = 2 << 20;
  uint64_t turn_bytes_max = 64 << 10;
  uint32_t blocking_share = 12;        // one end in so many uses blocking calls, as long as there are not too many
  uint32_t process_share_percent = 4;  // connections with kills, forks and passed descriptors
  // Silence on a connection while all threads of the checker look at theirs; not the time in which one does not.
  std::chrono::milliseconds stall_limit{20000};
  std::chrono::milliseconds sleep_once{0};  // a thread in the middle of it: to see that this is no stall
  Fault fault = Fault::none;
};

struct TrafficReport {
  uint64_t connections = 0;  // that ended as they should
  uint64_t bytes = 0;        // received and checked
  uint64_t errors = 0;
  uint64_t stalled = 0;        // of the errors
  uint64_t early_wakeups = 0;  // blocking receives that gave EAGAIN without having waited: plain TCP never does
  std::map<std::string, uint64_t> kinds;
  std::vector<std::string> messages;  // the first errors
  double seconds = 0;
  double longest_round_seconds = 0;  // for so long a thread did not look: no CPU, or stopped. No stall by itself
};

// Forks its processes and waits for them. The caller must not have other threads.
TrafficReport run_traffic(const TrafficConfig& config);

}  // namespace shunt::test
