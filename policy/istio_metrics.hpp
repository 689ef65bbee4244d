// Requests under Istio's names for metrics, so that what reads a mesh's metrics reads ours: istio_requests_total and
// istio_request_duration_milliseconds. What a label has no value for is "unknown", as there.
#pragma once

#include <bpf/abi/responses.h>

#include <base/metrics.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <policy/compiler.hpp>

namespace shunt::policy {

struct ResponseKeyLess {
  bool operator()(const sh_response_key& a, const sh_response_key& b) const;
};

// The sums, by what workloads and services are called: they outlive a policy. May be used by several threads at once.
class IstioMetrics {
 public:
  bool any() const;  // was anything added?
  std::vector<prometheus::MetricFamily> families() const;

 private:
  friend class IstioReporter;

  sh_response_sum* sum_of(std::vector<std::string> values);  // null: too many

  mutable std::mutex mutex_;
  std::map<std::vector<std::string>, sh_response_sum> sums_;  // by the values of the labels, in their order
  uint64_t not_told_ = 0;
};

// Adds requests between the identities of one policy. All that it is made with must outlive it. May be used by several
// threads at once. What identities are called is looked up once for each key: a mesh has thousands of workloads.
class IstioReporter {
 public:
  IstioReporter(IstioMetrics& metrics, const Model& model, const Tables& tables);
  ~IstioReporter();

  // What the key says of the policy's generation is not looked at. Beyond SH_RESPONSES_MAX combinations of labels only
  // a metric of ours tells how many requests these were.
  void add(sh_response_key key, const sh_response_sum& sum);

 private:
  class Names;

  IstioMetrics& metrics_;
  const Model& model_;
  const Tables& tables_;
  // Under the mutex of the metrics.
  std::unique_ptr<const Names> names_;                                 // made when the first request is added
  std::map<sh_response_key, sh_response_sum*, ResponseKeyLess> sums_;  // null: not told
};

// One request, for what counts one by one.
sh_response_sum one_response(uint64_t duration_us);

}  // namespace shunt::policy
