#include "sockops/policy_tables.hpp"

#include <bpf/bpf.h>

#include <algorithm>
#include <map>
#include <sockops/policy_loader.hpp>

namespace shunt {
namespace {

class MapTables : public PolicyTables {
 public:
  explicit MapTables(MapFinder map) : map_(std::move(map)) {
    if (auto head = read_policy_head(map_("sh_pol_heads"))) head_ = *head;
  }
  uint32_t generation() const override { return head_.generation; }
  sh_policy_existing existing() const override { return static_cast<sh_policy_existing>(head_.existing); }
  sh_u8 half() const override { return head_.generation & 1; }
  bool subject(const sh_policy_subject_key& key, sh_policy_subject& value) const override {
    return find("sh_pol_subjects", key, value);
  }
  bool entry(const sh_policy_key& key, sh_policy_entry& value) const override {
    return find("sh_pol_entries", key, value);
  }
  sh_u16 first_port(sh_u16 port) const override {
    const auto* found =
        block(ports_, "sh_pol_ports", half() * (SH_POLICY_PORT_BLOCKS / 2U) + port / SH_POLICY_BLOCK_CELLS);
    return found ? found->cells[port % SH_POLICY_BLOCK_CELLS] : sh_u16{0};
  }
  bool judged(sh_u16 port) const override {
    sh_u8 bits = 0;
    return find("sh_pol_judged", sh_u32{port}, bits) && (bits >> half() & 1) != 0;
  }
  bool set(sh_u32 number, sh_policy_set& value) const override { return find("sh_pol_sets", number, value); }
  const struct sh_policy_block* block(sh_u32 number) const override { return block(blocks_, "sh_pol_blocks", number); }
  sh_policy_result result(sh_u32 index) const override {
    sh_policy_result found = {};
    find("sh_pol_results", index, found);
    return found;
  }
  sh_u32 identity_of(const std::array<sh_u8, SH_ADDR_BYTES>& address) const override {
    sh_policy_cidr_key key = {};
    key.prefix_bits = 32 + 8 * SH_ADDR_BYTES;
    key.half = half();
    std::copy(address.begin(), address.end(), key.addr);
    sh_u32 identity = SH_IDENTITY_WORLD;
    find("sh_pol_cidrs", key, identity);
    return identity;
  }

  // As sh_identify() of the kernel side: the nearest cgroup first, 0 (any) last.
  sh_u32 identity_of_end(const PolicyEnd& end) const override {
    if ((end.remote.digest[0] | end.remote.digest[1]) != 0) {
      sh_u32 identity = SH_IDENTITY_WORLD;
      find("sh_pol_remotes", sh_policy_remote_key{end.remote, half(), 0}, identity);
      return identity;
    }
    for (const uint64_t cgroup : end.cgroups)
      if (const sh_u32 identity = identity_at(cgroup, end)) return identity;
    const sh_u32 anywhere = identity_at(0, end);
    return anywhere ? anywhere : sh_u32{SH_IDENTITY_HOST};
  }

 private:
  using Blocks = std::map<sh_u32, struct sh_policy_block>;

  sh_u32 identity_at(uint64_t cgroup, const PolicyEnd& end) const {
    for (int by = SH_POLICY_BY_BOTH; by >= SH_POLICY_BY_CGROUP; by--) {
      if (!(head_.by[half()] & 1U << by)) continue;
      sh_u32 identity = 0;
      const sh_policy_workload_key key = {cgroup, by & SH_POLICY_BY_NETNS ? end.netns : 0,
                                          by & SH_POLICY_BY_UID ? end.uid : SH_POLICY_UID_ANY, half(), 0};
      if (find("sh_pol_workload", key, identity)) return identity;
    }
    return 0;
  }
  template <typename K, typename V>
  bool find(const char* name, const K& key, V& value) const {
    return bpf_map_lookup_elem(map_(name), &key, &value) == 0;
  }
  const struct sh_policy_block* block(Blocks& known, const char* name, sh_u32 number) const {
    const auto [found, fresh] = known.try_emplace(number);
    if (!fresh || find(name, number, found->second)) return &found->second;
    known.erase(found);
    return nullptr;
  }

  MapFinder map_;
  sh_policy_head head_ = {};
  mutable Blocks ports_, blocks_;
};

}  // namespace

std::unique_ptr<PolicyTables> read_policy_tables(MapFinder map) { return std::make_unique<MapTables>(std::move(map)); }

}  // namespace shunt
