#include <sys/epoll.h>

#include <base/log.hpp>
#include <control/link_socket.hpp>
#include <control/proxy_link.hpp>

namespace shunt {

ProxyLink::~ProxyLink() {
  if (proxy_) loop_.remove(proxy_.get());
  if (listener_) loop_.remove(listener_.get());
}

Result<void> ProxyLink::listen(const std::string& path, const std::string& user) {
  user_ = user;
  auto listener = listen_for_link(path);
  if (!listener) return unexpected(listener.error());
  listener_ = std::move(*listener);
  return loop_.add(listener_.get(), EPOLLIN, [this](uint32_t) { on_connect(); });
}

// The last one counts: who restarts a proxy that is stuck wants the new one.
void ProxyLink::on_connect() {
  auto fresh = accept_link(listener_.get(), user_, "proxy");
  if (!fresh) return;
  if (proxy_) drop("another proxy has come");
  proxy_ = std::move(fresh->socket);
  pid_ = static_cast<uint32_t>(fresh->credentials.pid);
  greeted_ = false;
  auto watched = loop_.add(proxy_.get(), EPOLLIN, [this](uint32_t) { on_message(); });
  if (!watched) drop("no room in the loop");
}

void ProxyLink::on_message() {
  auto message = receive_link_message(proxy_.get());
  if (!message && message.error().code == EAGAIN) return;
  if (!message) return drop(message.error().code == ECONNRESET ? "it has gone" : "it says something unknown");
  auto done = greet(*message);
  if (!done) {
    log_failure("the proxy gets no channels", done.error(), "what needs it is answered with 503");
    drop("it could not be served");
  }
}

Result<void> ProxyLink::greet(const LinkMessage& hello) {
  if (hello.kind != LinkKind::hello || hello.numbers.size() != 2 || hello.fds.size() > 1 || greeted_)
    return unexpected(EPROTO, "the proxy's link");
  if (hello.numbers[0] != kProxyLinkVersion)
    return unexpected(Error{EPROTO, "the proxy is of another version", "restart it after an upgrade"});
  Engine* engine = hooks_.engine();
  if (engine == nullptr) return unexpected(Error{EBUSY, "shunt is draining", "shunt on"});
  // The policy first: no request comes before it.
  if (auto sent = send_policy(); !sent) return sent;
  const bool keeps = !hello.fds.empty() && engine->owns_channels(hello.fds.front().get());
  auto served = keeps ? send_link_message(proxy_.get(), LinkKind::keep, {}, {}) : hand_out(hello.numbers[1]);
  if (!served) return served;
  greeted_ = true;
  servers_.clear();
  auto clients = engine->admit_proxy(pid_, keeps);
  if (!clients) log_failure("no client comes to the proxy itself", clients.error(), "everything else goes on");
  if (clients)
    if (auto sent = send_link_message(proxy_.get(), LinkKind::maps, {}, {clients->get()}); !sent) return sent;
  look_for_servers(true);
  log_info("the proxy is here", {{"channels", keeps ? "kept" : std::to_string(hello.numbers[1])}});
  return {};
}

void ProxyLink::look_for_servers(bool scan) {
  Engine* engine = hooks_.engine();
  if (!proxy_ || !greeted_ || engine == nullptr) return;
  const SteeredServers found = engine->steered_servers(scan);
  const std::string error = found.error ? found.error->to_string() : "";
  if (found.error && error != steering_error_)
    log_failure("cannot steer all clients to the proxy that it has to judge", *found.error, "the others are refused");
  steering_error_ = error;
  if (!found.scanned) return;
  auto sent = send_servers(found.servers);
  if (!sent) drop("it takes no servers");
}

// Only what it does not know yet.
Result<void> ProxyLink::send_servers(const std::vector<SteeredServer>& servers) {
  const uint32_t generation = hooks_.policy().generation;
  std::vector<uint32_t> gone;
  std::vector<LinkServer> news;
  auto before = std::exchange(servers_, {});
  for (const SteeredServer& server : servers) {
    const auto known = before.find(server.slot);
    const std::pair who(generation, server.identity);
    servers_[server.slot] = who;
    const bool same = known != before.end() && known->second == who && !server.socket;
    if (known != before.end()) before.erase(known);
    if (same) continue;
    news.push_back({server.slot, generation, server.identity, server.port, server.address, server.socket.get()});
  }
  for (const auto& [slot, who] : before) gone.push_back(slot);
  for (size_t first = 0; first < gone.size(); first += kLinkServersMax) {
    const std::vector part(gone.begin() + static_cast<ptrdiff_t>(first),
                           gone.begin() + static_cast<ptrdiff_t>(std::min(first + kLinkServersMax, gone.size())));
    if (auto sent = send_link_message(proxy_.get(), LinkKind::unsteer, part, {}); !sent) return sent;
  }
  return send_link_servers(proxy_.get(), news);
}

Result<void> ProxyLink::hand_out(uint32_t count) {
  auto made = hooks_.engine()->make_channels(count);
  if (!made) return unexpected(made.error());
  auto sent = send_link_message(proxy_.get(), LinkKind::page, {}, {made->page.get()});
  for (size_t first = 0; sent && first < made->channels.size(); first += kLinkChannelsMax) {
    std::vector<uint32_t> numbers;
    std::vector<int> fds;
    for (size_t i = first; i < std::min(first + kLinkChannelsMax, made->channels.size()); i++) {
      numbers.push_back(made->channels[i].index);
      fds.push_back(made->channels[i].socket.get());
      fds.push_back(made->channels[i].other.get());
    }
    sent = send_link_message(proxy_.get(), LinkKind::channels, numbers, fds);
  }
  return sent;
}

Result<void> ProxyLink::send_policy() {
  const Policy policy = hooks_.policy();
  std::vector<int> bundle;
  if (policy.bundle >= 0) bundle.push_back(policy.bundle);
  return send_link_message(proxy_.get(), LinkKind::policy, {policy.generation}, bundle);
}

void ProxyLink::policy_changed() {
  if (!proxy_ || !greeted_) return;
  auto sent = send_policy();
  if (!sent) return drop("it takes no policy");
  look_for_servers(true);
}

void ProxyLink::end() {
  if (proxy_) drop("shunt is turned off");
}

void ProxyLink::drop(const char* why) {
  log_warning("the proxy is not used any more", {{"reason", why}});
  loop_.remove(proxy_.get());
  proxy_.reset();
  Engine* engine = hooks_.engine();
  if (engine == nullptr || !greeted_) return;
  engine->end_steering();
  auto ended = engine->end_channels();
  if (!ended) log_failure("cannot end the proxy's requests", ended.error(), "their connections time out");
}

}  // namespace shunt
