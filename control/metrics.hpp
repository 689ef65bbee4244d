// The metrics, made from the lists in bpf/abi (counters.h, reasons.h), so that a new counter or reason needs no word
// here.
#pragma once

#include <base/metrics.hpp>
#include <control/documents.hpp>
#include <vector>

namespace shunt {

// What only the daemon knows.
struct DaemonNumbers {
  uint32_t monitor_clients = 0;
  uint64_t monitor_events_lost = 0;  // a client that read too slowly did not get them
  uint64_t reloads = 0;
  uint64_t reloads_failed = 0;
  uint64_t processes_verified = 0;
};

// Keeps what sums need to never go down: a socket may close between the reading of the counters and of the sockets, and
// the counters of a generation go away with it.
class MetricsSource {
 public:
  std::vector<prometheus::MetricFamily> collect(const Snapshot& snapshot, const DaemonNumbers& daemon);

 private:
  uint64_t monotonic(uint32_t sum, uint64_t value, bool generations_changed);

  static constexpr uint32_t kFirstReason = SH_COUNTER_COUNT;  // the reasons follow the counters
  static constexpr uint32_t kSums = kFirstReason + uint32_t{SH_REASON_COUNT};
  uint64_t last_[kSums] = {};
  uint64_t shown_[kSums] = {};
  uint64_t gone_[kSums] = {};
  std::vector<uint32_t> generations_;
};

}  // namespace shunt
