// Requests under Istio's names for metrics, so that what reads a mesh's metrics reads ours: istio_requests_total and
// istio_request_duration_milliseconds. What a label has no value for is "unknown", as there.
#pragma once

#include <bpf/abi/responses.h>

#include <base/metrics.hpp>
#include <map>
#include <mutex>
#include <policy/compiler.hpp>

namespace shunt::policy {

// May be used by several threads at once.
class IstioMetrics {
 public:
  // Adds requests between two identities of these tables; what the key says of the policy's generation is not looked
  // at. Beyond SH_RESPONSES_MAX combinations of labels only a metric of ours tells how many requests these were.
  void add(const Model& model, const Tables& tables, const sh_response_key& key, const sh_response_sum& sum);

  bool any() const;  // was anything added?
  std::vector<prometheus::MetricFamily> families() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::vector<std::string>, sh_response_sum> sums_;  // by the values of the labels, in their order
  uint64_t not_told_ = 0;
};

// One request, for what counts one by one.
sh_response_sum one_response(uint64_t duration_us);

}  // namespace shunt::policy
