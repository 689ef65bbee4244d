// What all threads of the gateway share.
#pragma once

#include <atomic>
#include <base/line_log.hpp>
#include <ktls/gateway/kernel_side.hpp>
#include <ktls/gateway/security.hpp>
#include <ktls/probe.hpp>
#include <map>
#include <mutex>

namespace shunt::gateway {

struct Counters {
  std::atomic<uint64_t> connections{0};  // open now
  std::atomic<uint64_t> handshakes{0};   // of the mesh, unfinished now
  std::atomic<uint64_t> from_mesh{0};    // connections, ever
  std::atomic<uint64_t> to_mesh{0};
  std::atomic<uint64_t> received_bytes{0};  // from the mesh, of closed connections
  std::atomic<uint64_t> sent_bytes{0};
  std::atomic<uint64_t> rotations{0};     // of certificates and bundles
  std::atomic<uint64_t> judged_again{0};  // peers of live connections, because bundles or lists have changed

  void count_reason(const std::string& reason) {
    const std::lock_guard lock(mutex_);
    reasons_[reason]++;
  }
  std::map<std::string, uint64_t> reasons() const {
    const std::lock_guard lock(mutex_);
    return reasons_;
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, uint64_t> reasons_;  // why connections were refused or failed
};

inline const char* mode_name(bool to_kernel) { return to_kernel ? "ktls" : "userspace"; }

struct Shared {
  Config config;
  KernelSide kernel;
  std::map<std::pair<Address, uint16_t>, const RemoteService*> dialled;  // services of the directory, by their address
  KtlsProbeReport probe;
  bool to_kernel = false;  // sessions are handed off
  CurrentSecurity security;
  LineLog access_log;
  Counters counters;

  const char* mode() const { return mode_name(to_kernel); }
};

}  // namespace shunt::gateway
