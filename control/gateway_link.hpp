// The daemon's end of the link to the gateway: hands out the maps by which the gateway says for whom its sockets stand,
// to one gateway at a time.
#pragma once

#include <base/event_loop.hpp>
#include <base/proxy_link.hpp>
#include <functional>
#include <sockops/engine.hpp>
#include <string>

namespace shunt {

class GatewayLink {
 public:
  // `engine`: null while it is not to be had (it drains). `user`: who besides root may be the gateway; empty: nobody.
  struct Hooks {
    std::function<Engine*()> engine;
    std::function<std::string()> user;
  };

  GatewayLink(EventLoop& loop, Hooks hooks) : loop_(loop), hooks_(std::move(hooks)) {}
  ~GatewayLink();

  Result<void> listen(const std::string& path);
  void end();  // the gateway is sent away
  bool connected() const { return admitted_; }
  // When its certificate expires, in seconds since 1970, as it says; 0: it has not said.
  uint64_t certificate_expiry() const { return admitted_ ? expiry_ : 0; }

 private:
  void on_connect();
  void on_message();
  Result<void> take(const LinkMessage& message);
  Result<void> admit(const LinkMessage& hello);
  void drop(const char* why);

  EventLoop& loop_;
  Hooks hooks_;
  UniqueFd listener_;
  UniqueFd gateway_;
  pid_t pid_ = 0;
  uid_t uid_ = 0;
  bool admitted_ = false;
  uint64_t expiry_ = 0;
};

}  // namespace shunt
