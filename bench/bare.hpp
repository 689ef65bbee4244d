// The redirect with nothing around it (bpf/bare.bpf.c): what the kernel's part of the shortcut alone can reach on this
// host. A figure that misses its bar is to be read beside this one.
#pragma once

#include <base/result.hpp>
#include <memory>
#include <string>

struct bare_bpf;
struct bpf_link;

namespace shunt::bench {

class BareRedirect {
 public:
  // `cgroup_folder`: the cgroup's, as mounted. Connections that are made there from now on are redirected, as long as
  // this lives; their sockets should have closed before it ends.
  static Result<std::unique_ptr<BareRedirect>> attach(const std::string& cgroup_folder);
  ~BareRedirect();
  BareRedirect(const BareRedirect&) = delete;
  BareRedirect& operator=(const BareRedirect&) = delete;

 private:
  explicit BareRedirect(bare_bpf* programs) : programs_(programs) {}

  bare_bpf* programs_;
  bpf_link* link_ = nullptr;
};

}  // namespace shunt::bench
