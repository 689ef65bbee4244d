// The self-test of the kernel: every behaviour that the shortcut depends on is tried in a private cgroup and network
// namespace; nothing is decided by the kernel's version.
#pragma once

#include <base/probe_item.hpp>
#include <base/result.hpp>
#include <string>
#include <vector>

namespace shunt {

// What the engine decides by.
struct ProbeReport {
  std::vector<ProbeItem> items;
  bool usable = false;               // no item is fatal
  bool verdict_works = false;        // a pass-all sk_skb verdict on the sockhash keeps order, bytes, FIN and window
  bool fionread_redirected = false;  // FIONREAD counts redirected bytes
  bool fionread_tcp = false;         // FIONREAD counts TCP bytes of a socket in the map without a verdict
  bool fionread_verdict = false;     // the same with the pass-all verdict
  bool rmem_charged = false;         // redirected bytes are charged to the reader's sk_rmem_alloc
};

// Takes a second or two. Needs root. Leaves nothing behind. `cgroup_root` empty: the cgroup v2 mount is found.
ProbeReport probe_kernel(const std::string& cgroup_root = {});

const char* probe_verdict_name(ProbeVerdict verdict);

}  // namespace shunt
