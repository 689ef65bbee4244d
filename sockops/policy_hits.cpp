#include "sockops/policy_hits.hpp"

#include <bpf/bpf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <unordered_map>

namespace shunt {
namespace {

size_t mapped_bytes(size_t slots) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return (slots * sizeof(sh_policy_hit) + page - 1) / page * page;
}

}  // namespace

PolicyHits::~PolicyHits() {
  if (hits_) munmap(hits_, mapped_bytes(slots_));
}

Result<void> PolicyHits::open(int map) {
  bpf_map_info info = {};
  uint32_t bytes = sizeof(info);
  if (bpf_obj_get_info_by_fd(map, &info, &bytes) != 0) return unexpected(errno, "cannot look at the rules' counters");
  void* mapped = mmap(nullptr, mapped_bytes(info.max_entries), PROT_READ | PROT_WRITE, MAP_SHARED, map, 0);
  if (mapped == MAP_FAILED) return unexpected(errno, "cannot map the rules' counters");
  hits_ = static_cast<sh_policy_hit*>(mapped);
  slots_ = info.max_entries;
  used_[0] = used_[1] = slots();
  return {};
}

void PolicyHits::clear(uint32_t half) {
  for (size_t i = 0; i < used_[half]; i++) at(i, half) = {};
  used_[half] = 0;
}

void PolicyHits::begin(const std::vector<PolicyRows::Counted>& counted, uint32_t half) {
  clear(half);
  for (const PolicyRows::Counted& entry : counted) {
    const size_t end = std::min(entry.origin + entry.keys.size(), slots());
    for (size_t i = entry.origin; i < end; i++) at(i, half).rule = entry.keys[i - entry.origin];
    used_[half] = std::max(used_[half], end);
  }
}

// The kernel side counts in the half that is added to.
void PolicyHits::carry_over(uint32_t half) {
  std::unordered_map<uint64_t, uint64_t> before;
  for (size_t i = 0; i < used_[half ^ 1]; i++) {
    const sh_policy_hit& hit = at(i, half ^ 1);
    if (hit.rule != 0 && hit.hits != 0) before[hit.rule] += hit.hits;
  }
  for (size_t i = 0; i < used_[half] && !before.empty(); i++) {
    sh_policy_hit& hit = at(i, half);
    if (hit.rule == 0) continue;
    const auto found = before.find(hit.rule);
    if (found == before.end()) continue;
    __atomic_fetch_add(&hit.hits, found->second, __ATOMIC_RELAXED);
    before.erase(found);
  }
  clear(half ^ 1);
}

std::vector<uint64_t> PolicyHits::read(uint32_t half) const {
  std::vector<uint64_t> hits(slots());
  for (size_t i = 0; i < hits.size(); i++) hits[i] = __atomic_load_n(&at(i, half).hits, __ATOMIC_RELAXED);
  return hits;
}

}  // namespace shunt
