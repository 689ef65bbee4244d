#include <sys/epoll.h>
#include <sys/socket.h>

#include <base/clock.hpp>
#include <base/log.hpp>
#include <base/proxy_link.hpp>
#include <ktls/gateway/shuntd_link.hpp>

namespace shunt::gateway {
namespace {

constexpr timeval kPatience{5, 0};
constexpr Milliseconds kTryAgain{500};

}  // namespace

Result<void> ShuntdLink::open() {
  auto fresh = connect_link(path_, LinkKind::gateway, {kGatewayLinkVersion}, {});
  if (!fresh) return unexpected(fresh.error());
  setsockopt(fresh->get(), SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof(kPatience));
  auto message = receive_link_message(fresh->get());
  if (!message)
    return unexpected(Error{message.error().code, "shuntd does not take this gateway",
                            "its log says why; its configuration names this gateway's: gateway: {config: FILE}"});
  if (message->kind != LinkKind::maps || message->fds.size() != 2) return unexpected(EPROTO, "the link to shuntd");
  kernel_.set(std::move(message->fds[0]), std::move(message->fds[1]));
  socket_ = std::move(*fresh);
  tell_expiry(expiry_);
  return on_maps_();
}

// One that cannot be told has gone, which the loop learns by itself.
void ShuntdLink::tell_expiry(uint64_t seconds) {
  expiry_ = seconds;
  if (!socket_) return;
  (void)send_link_message(socket_.get(), LinkKind::expiry,
                          {static_cast<uint32_t>(seconds >> 32), static_cast<uint32_t>(seconds)}, {});
}

Result<void> ShuntdLink::watch(EventLoop& loop) {
  loop_ = &loop;
  auto watched = loop.add(socket_.get(), EPOLLIN, [this](uint32_t) { lose({ECONNRESET, "shuntd has gone", {}}); });
  return watched ? loop.add_timer(kTryAgain, [this] { try_again(); }) : watched;
}

void ShuntdLink::lose(const Error& error) {
  if (!std::exchange(told_, true)) log_failure("no link to shuntd", error, "what it handed out stays in use");
  if (socket_) loop_->remove(socket_.get());
  socket_.reset();
}

void ShuntdLink::try_again() {
  if (socket_) return;
  auto opened = open();
  if (opened)
    opened = loop_->add(socket_.get(), EPOLLIN, [this](uint32_t) { lose({ECONNRESET, "shuntd has gone", {}}); });
  if (!opened) return lose(opened.error());
  told_ = false;
  log_info("shuntd is back");
}

}  // namespace shunt::gateway
