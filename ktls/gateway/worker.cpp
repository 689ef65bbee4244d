#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <ktls/gateway/worker.hpp>

namespace shunt::gateway {
namespace {

constexpr Milliseconds kTick{100};
constexpr Milliseconds kRecheckShare{20};      // of a tick
constexpr Milliseconds kRecheckHurries{5000};  // whoever is not trusted any more is to be gone after ten seconds
constexpr size_t kScratchBytes = 64 << 10;     // also the most that one direction of a connection holds back
constexpr int kAcceptsMax = 16;                // then others have their turn

}  // namespace

Worker::~Worker() { join(); }

Result<void> Worker::open() {
  auto loop = EventLoop::create();
  if (!loop) return unexpected(loop.error());
  loop_ = std::move(*loop);
  scratch_.resize(kScratchBytes);
  security_ = shared_.security.get();
  now_ = steady_now();
  wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake_) return unexpected(errno, "cannot make an eventfd");
  auto added = loop_->add(wake_.get(), EPOLLIN, [this](uint32_t) { begin_stop(); });
  if (added) added = loop_->add_timer(kTick, [this] { tick(); });
  if (!added) return added;
  if (!listen(true)) return unexpected(errno, "cannot watch the listening sockets");
  return {};
}

Result<void> Worker::start() {
  auto opened = open();
  if (opened) thread_ = std::thread([this] { run(); });
  return opened;
}

void Worker::stop() { eventfd_write(wake_.get(), 1); }

void Worker::join() {
  if (thread_.joinable()) thread_.join();
}

void Worker::run() {
  while (!stopping_ || !links_.empty()) {
    // Fails only if epoll itself is broken: then nothing here can go on.
    if (!loop_->run_once(-1)) abort();
    now_ = steady_now();
    done_.clear();
  }
}

bool Worker::listen(bool on) {
  accepting_ = on;
  for (const Listening& listening : listening_) {
    const int fd = listening.socket.get();
    if (!on) {
      loop_->remove(fd);
    } else if (!loop_->add(fd, EPOLLIN | EPOLLEXCLUSIVE, [this, &listening](uint32_t) { accept(listening); })) {
      return false;
    }
  }
  return true;
}

void Worker::accept(const Listening& listening) {
  for (int i = 0; i < kAcceptsMax; i++) {
    sockaddr_in6 address{};
    socklen_t length = sizeof(address);
    UniqueFd socket(
        accept4(listening.socket.get(), reinterpret_cast<sockaddr*>(&address), &length, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (socket) {
      const RemoteService* service = listening.hooks ? dialled_service(socket.get()) : listening.service;
      if (listening.hooks && !service)
        turn_away(std::move(socket), from_sockaddr(address));
      else
        take(std::move(socket), from_sockaddr(address), service);
      continue;
    }
    // For want of descriptors or memory; the next tick tries again.
    const bool short_of_something = errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
    if (short_of_something) listen(false);
    return;
  }
}

const RemoteService* Worker::dialled_service(int socket) const {
  const auto dialled = shared_.kernel.dialled(socket);
  if (!dialled) return nullptr;
  const auto found = shared_.dialled.find({dialled->address, dialled->port});
  return found == shared_.dialled.end() ? nullptr : found->second;
}

void Worker::turn_away(UniqueFd socket, const Endpoint& client) {
  const linger now{1, 0};
  setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  const char* reason = reason_name(Reason::not_dialled);
  shared_.counters.count_reason(reason);
  if (!shared_.access_log.enabled()) return;
  shared_.access_log.write(format_log_line(shared_.access_log.format(), LogLevel::warning, utc_now(), "refused",
                                           {{"from", "local"}, {"client", client.to_string()}, {"reason", reason}}) +
                           "\n");
}

void Worker::take(UniqueFd socket, const Endpoint& client, const RemoteService* service) {
  now_ = steady_now();
  (service ? shared_.counters.to_mesh : shared_.counters.from_mesh)++;
  auto owned = std::make_unique<Link>(*this, std::move(socket), client, service);
  Link& link = *owned;
  links_.emplace(&link, std::move(owned));
  if (shared_.counters.connections++ >= shared_.config.limits.connections)
    return link.give_up(refusal(Reason::too_many_connections));
  if (!service) {
    handshakes_.push_back(&link);
    shared_.counters.handshakes++;
  }
  link.start();
  if (handshakes_.size() > handshakes_max_) handshakes_.front()->give_up(refusal(Reason::crowded_out));
}

void Worker::handshake_over(Link& link) {
  shared_.counters.handshakes--;
  handshakes_.remove(&link);
}

void Worker::link_done(Link& link) {
  shared_.counters.connections--;
  const auto found = links_.find(&link);
  done_.push_back(std::move(found->second));
  links_.erase(found);
}

void Worker::tick() {
  now_ = steady_now();
  std::vector<Link*> links;
  links.reserve(links_.size());
  for (const auto& [link, owned] : links_) links.push_back(link);
  look_at_security(links);
  for (Link* link : links) {
    if (stopping_ && now_ >= stop_at_) {
      link->give_up(refusal(Reason::stopped));
    } else {
      link->tick();
    }
  }
  if (!accepting_ && !stopping_) listen(true);
}

// A little of it each time, for the sake of the others: to look at signatures takes a tenth of a millisecond each.
void Worker::look_at_security(const std::vector<Link*>& links) {
  auto current = shared_.security.get();
  if (current->trust != security_->trust) {
    if (!recheck_) recheck_began_ = now_;
    recheck_.emplace(current->trust);
  }
  security_ = std::move(current);
  if (!recheck_) return;
  const bool hurries = now_ - recheck_began_ >= kRecheckHurries;
  const auto until = std::chrono::steady_clock::now() + kRecheckShare;
  const size_t before = recheck_->judged();
  bool all = true;
  for (Link* link : links) {
    if (!link->recheck(*recheck_) || hurries || std::chrono::steady_clock::now() < until) continue;
    all = false;
    break;
  }
  shared_.counters.judged_again += recheck_->judged() - before;
  if (all) recheck_.reset();
}

void Worker::begin_stop() {
  eventfd_t count = 0;
  eventfd_read(wake_.get(), &count);
  if (stopping_) return;
  if (accepting_) listen(false);
  stopping_ = true;
  stop_at_ = now_ + shared_.config.timeouts.stop;
}

}  // namespace shunt::gateway
