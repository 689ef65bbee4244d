#include <poll.h>
#include <sys/eventfd.h>

#include <base/log.hpp>
#include <fallback-proxy/shuntd_link.hpp>

namespace shunt::proxy {
namespace {

constexpr Milliseconds kBeat{100};
constexpr Milliseconds kTryAgain{500};

}  // namespace

Result<void> ShuntdLink::start() {
  wake_.reset(eventfd(0, EFD_CLOEXEC));
  if (!wake_) return unexpected(errno, "cannot make an eventfd");
  thread_ = std::thread([this] { run(); });
  return {};
}

void ShuntdLink::stop() {
  if (!thread_.joinable()) return;
  eventfd_write(wake_.get(), 1);
  thread_.join();
  if (page_) page_->beat(false);
}

void ShuntdLink::run() {
  for (;;) {
    if (!socket_ && steady_now() >= next_try_) {
      if (auto connected = connect(); !connected) lose(connected.error());
    }
    pollfd watched[] = {{wake_.get(), POLLIN, 0}, {socket_.get(), POLLIN, 0}};
    poll(watched, socket_ ? 2 : 1, static_cast<int>(kBeat.count()));
    if (watched[0].revents != 0) return;
    if (socket_ && watched[1].revents != 0) {
      auto message = receive_link_message(socket_.get());
      auto taken = message ? take(std::move(*message)) : Result<void>(unexpected(message.error()));
      if (!taken) lose(taken.error());
    }
    beat();
  }
}

// A worker that is stuck takes the heart with it: its channels would be, too.
void ShuntdLink::beat() {
  if (page_ && hooks_.alive()) page_->beat(true);
}

Result<void> ShuntdLink::connect() {
  std::vector<int> page;
  if (page_) page.push_back(page_->fd());
  auto fresh = connect_link(settings_.socket, LinkKind::hello,
                            {kProxyLinkVersion, static_cast<uint32_t>(settings_.count)}, page);
  if (!fresh) return unexpected(fresh.error());
  socket_ = std::move(*fresh);
  return {};
}

// What shuntd handed out goes on without it.
void ShuntdLink::lose(const Error& error) {
  if (!std::exchange(told_, true)) log_failure("no link to shuntd", error, "requests that have come are dealt with");
  socket_.reset();
  arriving_.clear();
  next_try_ = steady_now() + kTryAgain;
}

Result<void> ShuntdLink::take(LinkMessage message) {
  switch (message.kind) {
    case LinkKind::hello:
    case LinkKind::gateway:
    case LinkKind::expiry:
      break;
    case LinkKind::maps:
      if (message.fds.size() != 1) break;
      clients_ = std::make_shared<UniqueFd>(std::move(message.fds.front()));
      return {};
    case LinkKind::keep:
      log_info("shuntd is back: the channels go on");
      told_ = false;
      return {};
    case LinkKind::page: {
      if (message.fds.size() != 1) break;
      auto page = PuntPage::map(std::move(message.fds.front()));
      if (!page) return unexpected(page.error());
      page_ = std::move(*page);
      servers_.clear();
      servers_changed();
      return {};
    }
    case LinkKind::channels:
      return take_channels(std::move(message));
    case LinkKind::policy:
      if (message.numbers.size() != 1 || message.fds.size() > 1) break;
      policies_.put(message.numbers[0], message.fds.empty() ? UniqueFd() : std::move(message.fds.front()));
      return {};
    case LinkKind::steer:
      return take_servers(std::move(message));
    case LinkKind::unsteer:
      for (const uint32_t slot : message.numbers) servers_.erase(slot);
      servers_changed();
      return {};
  }
  return unexpected(EPROTO, "the link to shuntd");
}

void ShuntdLink::servers_changed() {
  SteeredServers all;
  for (const auto& [slot, server] : servers_) all.push_back(server);
  hooks_.servers(std::move(all));
}

Result<void> ShuntdLink::take_servers(LinkMessage message) {
  const auto servers = read_link_servers(message);
  if (!servers) return unexpected(servers.error());
  auto socket = message.fds.begin();
  for (const LinkServer& server : *servers) {
    if (server.socket >= 0) {
      const Endpoint listens{server.address, server.port};
      if (!clients_) return unexpected(EPROTO, "the link to shuntd");
      servers_[server.slot] = std::make_shared<SteeredServer>(std::move(*socket++), listens, clients_);
      log_info("clients of a server may come here", {{"server", listens.to_string()}});
    }
    const auto known = servers_.find(server.slot);
    if (known == servers_.end()) return unexpected(EPROTO, "the link to shuntd");
    known->second->is({server.generation, server.identity});
  }
  servers_changed();
  return {};
}

Result<void> ShuntdLink::take_channels(LinkMessage message) {
  if (!page_ || message.fds.size() != 2 * message.numbers.size()) return unexpected(EPROTO, "the link to shuntd");
  for (size_t i = 0; i < message.numbers.size(); i++) {
    if (message.numbers[i] >= SH_CHANNELS_MAX) return unexpected(EPROTO, "the link to shuntd");
    arriving_.push_back({message.numbers[i], std::move(message.fds[2 * i]), std::move(message.fds[2 * i + 1]), page_});
  }
  if (arriving_.size() < settings_.count) return {};
  const size_t count = arriving_.size();
  told_ = false;
  hooks_.channels(std::exchange(arriving_, {}));
  beat();
  log_info("channels are here", {{"count", std::to_string(count)}});
  return {};
}

}  // namespace shunt::proxy
