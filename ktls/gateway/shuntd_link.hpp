// The link to shuntd: asks to be the gateway, and gets the maps of KernelSide.
#pragma once

#include <base/event_loop.hpp>
#include <base/unique_fd.hpp>
#include <functional>
#include <ktls/gateway/kernel_side.hpp>
#include <string>

namespace shunt::gateway {

class ShuntdLink {
 public:
  // `on_maps`: there are other maps now.
  ShuntdLink(std::string socket, KernelSide& kernel, std::function<Result<void>()> on_maps)
      : path_(std::move(socket)), kernel_(kernel), on_maps_(std::move(on_maps)) {}

  Result<void> open();  // waits for shuntd
  // What shuntd handed out goes on without it; the next shuntd is asked anew.
  Result<void> watch(EventLoop& loop);
  // When the gateway's certificate expires, in seconds since 1970. Before open() it is told there.
  void tell_expiry(uint64_t seconds);

 private:
  void lose(const Error& error);
  void try_again();

  std::string path_;
  KernelSide& kernel_;
  std::function<Result<void>()> on_maps_;
  EventLoop* loop_ = nullptr;
  UniqueFd socket_;
  uint64_t expiry_ = 0;
  bool told_ = false;  // that it cannot be reached
};

}  // namespace shunt::gateway
