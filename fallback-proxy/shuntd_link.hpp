// The proxy's end of the link to shuntd: a thread that asks for channels, takes policies, and keeps the heartbeat.
#pragma once

#include <base/proxy_link.hpp>
#include <fallback-proxy/channel.hpp>
#include <fallback-proxy/policy_store.hpp>
#include <fallback-proxy/steered.hpp>
#include <functional>
#include <thread>

namespace shunt::proxy {

class ShuntdLink {
 public:
  struct Hooks {
    std::function<void(std::vector<ChannelSockets>)> channels;  // come in place of all before
    std::function<void(SteeredServers)> servers;                // all there are now
    std::function<bool()> alive;                                // do the workers turn?
  };

  ShuntdLink(ChannelSettings settings, PolicyStore& policies, Hooks hooks)
      : settings_(std::move(settings)), policies_(policies), hooks_(std::move(hooks)) {}
  ~ShuntdLink() { stop(); }

  Result<void> start();
  void stop();  // nothing new is to come; the channels go on until they are closed

 private:
  void run();
  Result<void> connect();
  Result<void> take(LinkMessage message);
  Result<void> take_channels(LinkMessage message);
  Result<void> take_servers(LinkMessage message);
  void servers_changed();
  void lose(const Error& error);
  void beat();

  ChannelSettings settings_;
  PolicyStore& policies_;
  Hooks hooks_;
  UniqueFd socket_;
  UniqueFd wake_;  // eventfd
  std::shared_ptr<PuntPage> page_;
  std::vector<ChannelSockets> arriving_;                        // until the last one is here
  std::map<uint32_t, std::shared_ptr<SteeredServer>> servers_;  // by slot
  std::shared_ptr<const UniqueFd> clients_;                     // map: who calls them
  Milliseconds next_try_{0};
  bool told_ = false;  // that it cannot be reached
  std::thread thread_;
};

}  // namespace shunt::proxy
