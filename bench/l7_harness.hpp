// The harness of the cores in the kernel (bpf/l7_harness.bpf.c), for benchmarks and tests.
#pragma once

#include <bpf/abi/l7_harness.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <l7parsers/core/resp_reply.h>

#include <l7parsers/http1.hpp>
#include <l7parsers/resp.hpp>
#include <policy/automaton.hpp>
// Uses the types of all of them.
#include "l7_harness.skel.h"

namespace shunt::bench {

// With maps for sets of this size; null: errno.
inline l7_bpf* open_harness(size_t blocks, size_t results) {
  l7_bpf* harness = l7_bpf__open();
  if (harness == nullptr) return nullptr;
  if (bpf_map__set_max_entries(harness->maps.policy_blocks, static_cast<uint32_t>(blocks)) == 0 &&
      bpf_map__set_max_entries(harness->maps.policy_results, static_cast<uint32_t>(results)) == 0 &&
      l7_bpf__load(harness) == 0)
    return harness;
  l7_bpf__destroy(harness);
  return nullptr;
}

// False: it does not fit, or errno.
inline bool install(l7_bpf& harness, const policy::Automaton& automaton) {
  const int blocks = bpf_map__fd(harness.maps.policy_blocks), results = bpf_map__fd(harness.maps.policy_results);
  for (uint32_t i = 0; i < automaton.blocks.size(); i++) {
    if (bpf_map_update_elem(blocks, &i, &automaton.blocks[i], BPF_ANY) != 0) return false;
  }
  for (uint32_t i = 0; i < automaton.results.size(); i++) {
    if (bpf_map_update_elem(results, &i, &automaton.results[i], BPF_ANY) != 0) return false;
  }
  harness.bss->policy_set = automaton.set;
  return true;
}

}  // namespace shunt::bench
