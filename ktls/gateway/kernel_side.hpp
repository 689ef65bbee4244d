// What shuntd's programs keep about sockets of the gateway: for whom one stands, which the gateway says, and what was
// dialled at its other end, which they say.
#pragma once

#include <base/sockets.hpp>
#include <base/spiffe_id.hpp>
#include <memory>
#include <mutex>
#include <optional>

namespace shunt::gateway {

class KernelSide {
 public:
  // Two maps of socket storage; from any thread, and again when shuntd has others.
  void set(UniqueFd remotes, UniqueFd dialled);

  // True, too, where shuntd has no part: before set().
  bool stands_for(int socket, const SpiffeId& who) const;
  std::optional<Endpoint> dialled(int socket) const;

 private:
  struct Maps {
    UniqueFd remotes, dialled;
  };
  std::shared_ptr<const Maps> maps() const {
    const std::lock_guard lock(mutex_);
    return maps_;
  }

  mutable std::mutex mutex_;
  std::shared_ptr<const Maps> maps_;
};

}  // namespace shunt::gateway
