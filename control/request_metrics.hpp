// What the kernel side counts of requests, made to metrics with Istio's names.
#pragma once

#include <control/policy_state.hpp>
#include <map>
#include <policy/istio_metrics.hpp>
#include <sockops/responses.hpp>

namespace shunt {

class RequestMetrics {
 public:
  using Policy = std::shared_ptr<const PolicyState::Prepared>;

  // Another policy is in force. With `keeps_before` the one before is kept, for programs that still judge by it, until
  // the next time. Returns the one that is not kept any more, if there is one.
  Policy policy_changed(uint32_t generation, Policy policy, bool keeps_before);
  // Of the oldest policy that is kept: what was counted under others may be forgotten.
  uint32_t oldest() const { return policies_.empty() ? 0 : policies_.begin()->first; }

  // Adds what has been counted since the last time. Under a policy that is not known nothing is added: an earlier
  // process had put it in force.
  void take(const std::vector<ResponseRow>& rows);

  std::vector<prometheus::MetricFamily> families() const { return metrics_.families(); }

 private:
  struct Known {
    Policy policy;
    std::unique_ptr<policy::IstioReporter> reporter;
  };

  policy::IstioMetrics metrics_;
  std::map<uint32_t, Known> policies_;  // by generation
  std::map<sh_response_key, sh_response_sum, policy::ResponseKeyLess> taken_;
};

}  // namespace shunt
