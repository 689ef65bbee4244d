#include <control/request_metrics.hpp>
#include <iterator>

namespace shunt {
namespace {

sh_response_sum difference(const sh_response_sum& now, const sh_response_sum& before) {
  sh_response_sum more = now;
  more.requests -= before.requests;
  more.duration_us -= before.duration_us;
  for (size_t i = 0; i < std::size(more.within); i++) more.within[i] -= before.within[i];
  return more;
}

}  // namespace

RequestMetrics::Policy RequestMetrics::policy_changed(uint32_t generation, Policy policy, bool keeps_before) {
  const size_t kept = keeps_before ? 2 : 1;
  Policy gone;
  auto reporter = std::make_unique<policy::IstioReporter>(metrics_, policy->loaded.model, policy->tables);
  policies_[generation] = {std::move(policy), std::move(reporter)};
  for (; policies_.size() > kept; policies_.erase(policies_.begin()))
    gone = std::move(policies_.begin()->second.policy);
  std::erase_if(taken_, [&](const auto& item) { return !policies_.contains(item.first.generation); });
  return gone;
}

void RequestMetrics::take(const std::vector<ResponseRow>& rows) {
  for (const ResponseRow& row : rows) {
    const auto found = policies_.find(row.key.generation);
    if (found == policies_.end()) continue;
    sh_response_sum& before = taken_[row.key];
    const sh_response_sum more = difference(row.sum, before);
    if (more.requests == 0) continue;
    found->second.reporter->add(row.key, more);
    before = row.sum;
  }
}

}  // namespace shunt
