// The daemon's end of the link to the fallback proxy: hands out channels and policies, one proxy at a time.
#pragma once

#include <base/event_loop.hpp>
#include <base/proxy_link.hpp>
#include <functional>
#include <map>
#include <memory>
#include <sockops/engine.hpp>

namespace shunt {

class ProxyLink {
 public:
  struct Policy {
    uint32_t generation = 0;  // 0: there is none
    int bundle = -1;          // sealed, stays the caller's; -1: its documents are not known
  };
  // `engine`: null while it is not to be had (it drains). `policy`: what is in force.
  struct Hooks {
    std::function<Engine*()> engine;
    std::function<Policy()> policy;
  };

  ProxyLink(EventLoop& loop, Hooks hooks) : loop_(loop), hooks_(std::move(hooks)) {}
  ~ProxyLink();

  // `user`: who besides root may be the proxy.
  Result<void> listen(const std::string& path, const std::string& user);
  void policy_changed();
  // Servers may have come or gone; to be called once a second too. `scan`: some have.
  void look_for_servers(bool scan);
  void end();  // the proxy is sent away: nothing is to be punted any more
  bool connected() const { return bool(proxy_); }

 private:
  void on_connect();
  void on_message();
  Result<void> greet(const LinkMessage& hello);
  Result<void> hand_out(uint32_t count);
  Result<void> send_policy();
  Result<void> send_servers(const std::vector<SteeredServer>& servers);
  void drop(const char* why);

  EventLoop& loop_;
  Hooks hooks_;
  UniqueFd listener_;
  UniqueFd proxy_;
  uint32_t pid_ = 0;  // of the proxy, as SO_PEERCRED tells it
  bool greeted_ = false;
  std::map<uint32_t, std::pair<uint32_t, uint32_t>> servers_;  // that it knows: generation and identity, by slot
  std::string steering_error_;
  std::string user_;
};

}  // namespace shunt
