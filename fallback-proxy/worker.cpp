#include <sys/eventfd.h>
#include <sys/socket.h>

#include <fallback-proxy/worker.hpp>

namespace shunt::proxy {
namespace {

constexpr unsigned kRingEntries = 1024;
constexpr Milliseconds kTick{100};
constexpr Milliseconds kAliveFor{1000};  // the kernel side gives up on the proxy after twice as long
constexpr std::chrono::microseconds kRetryFirst{50};
constexpr std::chrono::microseconds kRetryMost{5000};
constexpr Milliseconds kPause{100};  // after accept() failed for want of descriptors or memory
constexpr std::string_view kOverload =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

}  // namespace

// Takes one connection at a time, so that the threads share them.
struct Worker::Acceptor : Operation {
  Acceptor(Worker& worker, int socket, size_t listener) : worker(worker), socket(socket), listener(listener) {}
  Acceptor(Worker& worker, std::shared_ptr<const SteeredServer> steered)
      : worker(worker), socket(steered->socket()), server(std::move(steered)) {}

  void arm() {
    length = sizeof(address);
    worker.ring_.accept(*this, socket, reinterpret_cast<sockaddr*>(&address), &length);
  }

  void completed(int result) override {
    if (result >= 0) accepted(UniqueFd(result));
    if (worker.stopping_ || retired) return;
    const bool transient = result >= 0 || result == -ECONNABORTED || result == -EINTR || result == -EAGAIN;
    if (transient) return arm();
    paused_at = worker.now_;
    paused = true;
  }

  void accepted(UniqueFd fd) {
    sockaddr_in6 local{};
    socklen_t bytes = sizeof(local);
    Origin origin{listener, from_sockaddr(address), server, {}};
    if (server) {
      if (getsockname(fd.get(), reinterpret_cast<sockaddr*>(&local), &bytes) != 0) return;
      origin.called = from_sockaddr(local);
      if (!server->was_called(origin.called)) return;
    }
    worker.take({std::move(fd), std::move(origin)});
  }

  Worker& worker;
  int socket;
  size_t listener = 0;
  std::shared_ptr<const SteeredServer> server;
  bool retired = false;
  sockaddr_in6 address{};
  socklen_t length = 0;
  bool paused = false;
  Milliseconds paused_at{0};
};

struct Worker::Wake : Operation {
  explicit Wake(Worker& worker) : worker(worker), fd(eventfd(0, EFD_CLOEXEC)) {}
  void arm() { worker.ring_.read(*this, fd.get(), &value, sizeof(value)); }
  void completed(int) override {
    worker.look();
    arm();
  }

  Worker& worker;
  UniqueFd fd;
  uint64_t value = 0;
};

Worker::Worker(std::shared_ptr<const Runtime> runtime, const std::vector<ListeningSocket>& sockets,
               AccessLog& access_log, Counters& counters, const PolicyStore& channel_policies)
    : runtime_(std::move(runtime)),
      access_log_(access_log),
      counters_(counters),
      channel_policies_(channel_policies),
      next_upstream_(runtime_->config.listeners.size()),
      wake_(std::make_unique<Wake>(*this)) {
  for (const ListeningSocket& socket : sockets)
    acceptors_.push_back(std::make_unique<Acceptor>(*this, socket.socket.get(), socket.listener));
}

Worker::~Worker() { join(); }

Result<void> Worker::start() {
  std::promise<Result<void>> started;
  auto outcome = started.get_future();
  thread_ = std::thread([this, promise = std::move(started)]() mutable { run(std::move(promise)); });
  return outcome.get();
}

void Worker::join() {
  if (thread_.joinable()) thread_.join();
}

void Worker::use(std::shared_ptr<const Runtime> runtime) {
  {
    const std::lock_guard lock(mutex_);
    next_runtime_ = std::move(runtime);
  }
  eventfd_write(wake_->fd.get(), 1);
}

void Worker::use(std::vector<ChannelSockets> channels) {
  {
    const std::lock_guard lock(mutex_);
    next_channels_ = std::move(channels);
  }
  eventfd_write(wake_->fd.get(), 1);
}

void Worker::use(SteeredServers servers) {
  {
    const std::lock_guard lock(mutex_);
    next_servers_ = std::move(servers);
  }
  eventfd_write(wake_->fd.get(), 1);
}

bool Worker::alive() const { return steady_now().count() - turned_ms_.load() < kAliveFor.count(); }

void Worker::stop() {
  {
    const std::lock_guard lock(mutex_);
    stop_asked_ = true;
  }
  eventfd_write(wake_->fd.get(), 1);
}

void Worker::look() {
  bool stop_now = false;
  std::optional<std::vector<ChannelSockets>> channels;
  std::optional<SteeredServers> servers;
  {
    const std::lock_guard lock(mutex_);
    if (next_runtime_) runtime_ = std::move(next_runtime_);
    next_runtime_.reset();
    channels.swap(next_channels_);
    servers.swap(next_servers_);
    stop_now = stop_asked_ && !stopping_;
  }
  if (channels) {
    for (const auto& channel : channels_) channel->retire();
    for (ChannelSockets& sockets : *channels) {
      channels_.push_back(std::make_unique<Channel>(*this, std::move(sockets)));
      channels_.back()->start();
      counters_.channels++;
    }
  }
  if (servers && !stopping_) take_servers(*servers);
  if (!stop_now) return;
  stopping_ = true;
  stop_at_ = now_ + runtime_->config.timeouts.stop;
  for (const auto& acceptor : acceptors_) ring_.cancel(*acceptor);
  for (size_t i = sessions_.size(); i-- > 0;) sessions_[i]->stop();
}

void Worker::take_servers(const SteeredServers& servers) {
  const auto accepts = [this](const std::shared_ptr<const SteeredServer>& server) {
    return std::any_of(acceptors_.begin(), acceptors_.end(),
                       [&](const auto& acceptor) { return acceptor->server == server; });
  };
  for (const auto& acceptor : acceptors_) {
    if (!acceptor->server || std::find(servers.begin(), servers.end(), acceptor->server) != servers.end()) continue;
    acceptor->retired = true;
    if (acceptor->pending()) ring_.cancel(*acceptor);
  }
  for (const auto& server : servers) {
    if (accepts(server)) continue;
    acceptors_.push_back(std::make_unique<Acceptor>(*this, server));
    acceptors_.back()->arm();
  }
}

bool Worker::accepting() const {
  return std::any_of(acceptors_.begin(), acceptors_.end(), [](const auto& acceptor) { return acceptor->pending(); });
}

void Worker::end_channels() {
  for (const auto& channel : channels_) channel->stop();
}

// What had to wait is tried again: soon at first, then less often.
void Worker::retry_channels() {
  const auto now = std::chrono::steady_clock::now();
  if (waiting_.empty() || now < retry_at_) return;
  for (Channel* channel : std::exchange(waiting_, {})) channel->retry();
  retry_after_ =
      waiting_.empty() ? std::chrono::microseconds(0) : std::clamp(2 * retry_after_, kRetryFirst, kRetryMost);
  retry_at_ = now + retry_after_;
}

bool Worker::idle() const {
  return channels_.empty() && sessions_.empty() && free_streams_.size() == streams_.size() && !accepting();
}

void Worker::run(std::promise<Result<void>> started) {
  auto opened = ring_.open(kRingEntries);
  const bool good = opened && wake_->fd;
  started.set_value(good ? Result<void>() : opened ? unexpected(errno, "cannot make an eventfd") : std::move(opened));
  if (!good) return;
  now_ = steady_now();
  turned_ms_ = now_.count();
  wake_->arm();
  for (const auto& acceptor : acceptors_) acceptor->arm();
  while (!stopping_ || !idle()) {
    // Fails only if the ring itself is broken: then nothing here can go on.
    if (!ring_.run(waiting_.empty() ? std::chrono::microseconds(kTick) : std::max(retry_after_, kRetryFirst))) abort();
    done_.clear();
    now_ = steady_now();
    turned_ms_ = now_.count();
    retry_channels();
    if (now_ - ticked_ >= kTick) tick();
    done_.clear();
    accepts_ = !stopping_ || accepting();
  }
}

void Worker::tick() {
  ticked_ = now_;
  // From the end: a session that is done gives its place to the last one.
  for (size_t i = sessions_.size(); i-- > 0;) {
    if (stopping_ && now_ > stop_at_) {
      sessions_[i]->end();
    } else {
      sessions_[i]->tick();
    }
  }
  const auto is_idle = [](const auto& channel) { return channel->idle(); };
  if (stopping_ && (now_ > stop_at_ || std::all_of(channels_.begin(), channels_.end(), is_idle))) end_channels();
  for (const auto& channel : channels_) channel->tick();
  std::erase_if(waiting_, [](const Channel* channel) { return channel->gone(); });
  counters_.channels -= std::erase_if(channels_, [](const auto& channel) { return channel->gone(); });
  std::erase_if(acceptors_, [](const auto& acceptor) { return acceptor->retired && !acceptor->pending(); });
  for (const auto& acceptor : acceptors_) {
    if (!acceptor->paused || acceptor->retired || stopping_ || now_ - acceptor->paused_at < kPause) continue;
    acceptor->paused = false;
    acceptor->arm();
  }
}

void Worker::take(Arrival arrival) {
  if (counters_.connections.fetch_add(1) >= runtime_->config.limits.connections) {
    counters_.connections--;
    counters_.overload++;
    ::send(arrival.socket.get(), kOverload.data(), kOverload.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    shutdown(arrival.socket.get(), SHUT_WR);
    return;
  }
  Stream& stream = new_stream();
  auto session = std::make_unique<Session>(*this, stream, std::move(arrival.origin));
  stream.open(std::move(arrival.socket), *session);
  session->place = sessions_.size();
  sessions_.push_back(std::move(session));
  sessions_.back()->start();
}

Stream& Worker::new_stream() {
  if (free_streams_.empty()) {
    streams_.push_back(std::make_unique<Stream>(*this));
    free_streams_.reserve(streams_.size());
    return *streams_.back();
  }
  Stream& stream = *free_streams_.back();
  free_streams_.pop_back();
  return stream;
}

void Worker::stream_free(Stream& stream) { free_streams_.push_back(&stream); }

void Worker::session_done(Session& session) {
  counters_.connections--;
  const size_t place = session.place;
  done_.push_back(std::move(sessions_[place]));
  if (place + 1 != sessions_.size()) {
    sessions_[place] = std::move(sessions_.back());
    sessions_[place]->place = place;
  }
  sessions_.pop_back();
}

}  // namespace shunt::proxy
