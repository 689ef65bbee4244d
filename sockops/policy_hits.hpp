// How often rules decided: the counters of sh_pol_hits. They lie in memory that the kernel side counts in, with the key
// of their rule, by which a counter is found again under another policy and by another daemon.
#pragma once

#include <base/result.hpp>
#include <bpf/abi/policy_rows.hpp>
#include <vector>

namespace shunt {

class PolicyHits {
 public:
  PolicyHits() = default;
  ~PolicyHits();
  PolicyHits(const PolicyHits&) = delete;
  PolicyHits& operator=(const PolicyHits&) = delete;

  Result<void> open(int map);
  bool is_open() const { return hits_ != nullptr; }

  // The counters of a half that nothing counts in begin, at 0. Rules for which there is no room are not counted.
  void begin(const std::vector<PolicyRows::Counted>& counted, uint32_t half);
  // The counters of the other half, in which nothing counts any more, are added to those of the same rules, and end.
  void carry_over(uint32_t half);
  void clear(uint32_t half);

  // By sh_policy_entry.origin of the rows, as bpf/abi/policy.h counts from there.
  std::vector<uint64_t> read(uint32_t half) const;

 private:
  size_t slots() const { return slots_ / 2; }  // of one half
  sh_policy_hit& at(size_t number, uint32_t half) const { return hits_[number << 1 | half]; }

  sh_policy_hit* hits_ = nullptr;
  size_t slots_ = 0;
  size_t used_[2] = {};  // of each half those below, at most: what lies there at first is not known
};

}  // namespace shunt
