#include <sys/epoll.h>

#include <base/log.hpp>
#include <control/gateway_link.hpp>
#include <control/link_socket.hpp>

namespace shunt {

GatewayLink::~GatewayLink() {
  if (gateway_) loop_.remove(gateway_.get());
  if (listener_) loop_.remove(listener_.get());
}

Result<void> GatewayLink::listen(const std::string& path) {
  auto listener = listen_for_link(path);
  if (!listener) return unexpected(listener.error());
  listener_ = std::move(*listener);
  return loop_.add(listener_.get(), EPOLLIN, [this](uint32_t) { on_connect(); });
}

// The last one counts, as with the proxy.
void GatewayLink::on_connect() {
  auto fresh = accept_link(listener_.get(), hooks_.user(), "gateway");
  if (!fresh) return;
  if (gateway_) drop("another gateway has come");
  gateway_ = std::move(fresh->socket);
  pid_ = fresh->credentials.pid;
  uid_ = fresh->credentials.uid;
  auto watched = loop_.add(gateway_.get(), EPOLLIN, [this](uint32_t) { on_message(); });
  if (!watched) drop("no room in the loop");
}

void GatewayLink::on_message() {
  auto message = receive_link_message(gateway_.get());
  if (!message && message.error().code == EAGAIN) return;
  if (!message) return drop(message.error().code == ECONNRESET ? "it has gone" : "it says something unknown");
  auto done = take(*message);
  if (done) return;
  log_failure("the gateway is not admitted", done.error(), "nothing of it stands for anybody");
  drop("it could not be served");
}

Result<void> GatewayLink::take(const LinkMessage& message) {
  if (!admitted_) return admit(message);
  if (message.kind != LinkKind::expiry || message.numbers.size() != 2) return unexpected(EPROTO, "the gateway's link");
  expiry_ = static_cast<uint64_t>(message.numbers[0]) << 32 | message.numbers[1];
  return {};
}

Result<void> GatewayLink::admit(const LinkMessage& hello) {
  if (hello.kind != LinkKind::gateway || hello.numbers.size() != 1 || !hello.fds.empty())
    return unexpected(EPROTO, "the gateway's link");
  if (hello.numbers[0] != kGatewayLinkVersion)
    return unexpected(Error{EPROTO, "the gateway is of another version", "restart it after an upgrade"});
  if (hooks_.user().empty())
    return unexpected(Error{EPERM, "no gateway is configured", "name its configuration: gateway: {config: FILE}"});
  Engine* engine = hooks_.engine();
  if (engine == nullptr) return unexpected(Error{EBUSY, "shunt is draining", "shunt on"});
  const auto process = engine->end_of_process(static_cast<uint32_t>(pid_));
  if (!process) return unexpected(process.error());
  // It was this process that was looked at, if it is still there: its number is not another's.
  char byte = 0;
  if (recv(gateway_.get(), &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT) == 0)
    return unexpected(ECONNRESET, "the gateway's link");
  auto maps = engine->admit_gateway(uid_, process->path, process->netns);
  if (!maps) return unexpected(maps.error());
  admitted_ = true;
  expiry_ = 0;
  log_info("the gateway is here", {{"pid", std::to_string(pid_)}, {"cgroup", process->path}});
  return send_link_message(gateway_.get(), LinkKind::maps, {}, {maps->remotes.get(), maps->dialled.get()});
}

void GatewayLink::end() {
  if (gateway_) drop("shunt is turned off");
}

void GatewayLink::drop(const char* why) {
  log_warning("the gateway is not linked any more", {{"reason", why}});
  loop_.remove(gateway_.get());
  gateway_.reset();
  Engine* engine = hooks_.engine();
  if (!std::exchange(admitted_, false) || engine == nullptr) return;
  auto dismissed = engine->dismiss_gateway();
  if (!dismissed) log_failure("cannot dismiss the gateway", dismissed.error(), "its sockets go on standing for others");
}

}  // namespace shunt
