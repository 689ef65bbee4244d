#include "socket/live.hpp"

#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <thread>
#include <unordered_map>

#include "support/checked_bytes.hpp"
#include "support/sandbox.hpp"
#include "support/sockets.hpp"

namespace shunt::test {

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kEndless = uint64_t{1} << 40;
constexpr uint32_t kIndexBits = 16;  // of the conversation's seed: which connection it is
constexpr size_t kBufferBytes = 65536;
constexpr int kStepsMax = 64;      // of one end before it is another's turn
constexpr int kEvents = kLiveMax;  // all that is there: each connection gets its turn

enum class EndState { active, done, failed, stalled };

class LiveEnd {
 public:
  // `conversation_seed` of the connecting end; the accepting one learns it from the first bytes.
  LiveEnd(UniqueFd fd, std::optional<uint64_t> conversation_seed, uint64_t seed, const TrafficConfig& config,
          Ledger& ledger);

  int fd() const { return fd_.get(); }
  bool asks() const { return asks_; }
  bool edge_triggered() const { return edge_triggered_; }
  uint32_t events() const;
  bool stalls() const;
  bool due(Clock::time_point now) const;
  EndState step();
  uint64_t received() const { return in_.received(); }
  const std::string& error() const { return error_; }

 private:
  bool read_some();   // whether anything moved
  bool write_some();  // likewise
  bool on_read_end(ssize_t n, int error);
  void start(uint64_t conversation_seed);
  uint64_t may_send() const;
  bool turn_is_over() const;
  bool between_turns();  // whether a turn has been let begin
  bool at_turn_begin() const;
  void pause(std::chrono::microseconds time);
  void fail(const std::string& what);
  void touch() { last_move_ = ledger_.rounds.now(); }

  UniqueFd fd_;
  bool asks_;
  Rng rng_;
  const TrafficConfig& config_;
  Ledger& ledger_;
  uint16_t peer_port_;
  bool edge_triggered_;
  bool slow_;
  bool peeks_;
  bool small_reads_;
  Outgoing out_;
  Incoming in_;
  std::optional<Conversation> talk_;
  uint32_t index_ = 0;
  bool shut_ = false;
  bool eof_ = false;
  bool write_blocked_ = false;
  std::string error_;
  Clock::time_point begin_ = Clock::now();
  Rounds::Time last_move_;
  Clock::time_point next_turn_at_ = begin_;
  Clock::time_point read_again_at_ = begin_;
  bool waits_for_turn_ = false;
  bool waits_to_read_ = false;
};

LiveEnd::LiveEnd(UniqueFd fd, std::optional<uint64_t> conversation_seed, uint64_t seed, const TrafficConfig& config,
                 Ledger& ledger)
    : fd_(std::move(fd)),
      asks_(conversation_seed.has_value()),
      rng_(seed),
      config_(config),
      ledger_(ledger),
      peer_port_(remote_endpoint(fd_.get()).port()),
      edge_triggered_(one_in(rng_, 2)),
      slow_(one_in(rng_, 3)),
      peeks_(one_in(rng_, 8)),
      small_reads_(one_in(rng_, 4)),
      last_move_(ledger.rounds.now()) {
  if (conversation_seed) start(*conversation_seed);
}

void LiveEnd::start(uint64_t conversation_seed) {
  index_ = static_cast<uint32_t>(conversation_seed & ((1u << kIndexBits) - 1));
  const Fault fault = one_in(rng_, 2) ? config_.fault : Fault::none;
  out_ = Outgoing(rng_(), conversation_seed, {{kEndless, 0}}, fault);
  talk_.emplace(conversation_seed);
}

uint32_t LiveEnd::events() const {
  if (edge_triggered_) return EPOLLIN | EPOLLOUT | EPOLLRDHUP | static_cast<uint32_t>(EPOLLET);
  return (eof_ || waits_to_read_ ? 0u : static_cast<uint32_t>(EPOLLIN)) |
         (write_blocked_ ? static_cast<uint32_t>(EPOLLOUT) : 0u);
}

void LiveEnd::fail(const std::string& what) {
  if (!error_.empty()) return;
  const std::string turn = !talk_ ? ""
                                  : fmt::format(", turn: request {} to {}, response {} to {}", talk_->request_begin(),
                                                talk_->request_end(), talk_->response_begin(), talk_->response_end());
  error_ = fmt::format("number {}, {} end, ports {} -> {}: {} (received {}, sent {}{}{}{}{}{})", index_,
                       asks_ ? "connecting" : "accepting", local_endpoint(fd()).port(), peer_port_, what,
                       in_.received(), out_.sent(), turn, edge_triggered_ ? ", edge-triggered" : "",
                       write_blocked_ ? ", blocked" : "", slow_ ? ", slow" : "", shut_ ? ", shut" : "");
}

bool LiveEnd::at_turn_begin() const {
  if (!talk_) return in_.received() == 0;
  const uint64_t request = asks_ ? out_.sent() : in_.received(), response = asks_ ? in_.received() : out_.sent();
  return request == talk_->request_begin() && response == talk_->response_begin();
}

bool LiveEnd::turn_is_over() const {
  const uint64_t request = asks_ ? out_.sent() : in_.received(), response = asks_ ? in_.received() : out_.sent();
  return request == talk_->request_end() && response == talk_->response_end();
}

uint64_t LiveEnd::may_send() const {
  if (!talk_ || shut_ || waits_for_turn_) return 0;
  if (asks_) return talk_->request_end() - out_.sent();
  const bool begun = in_.received() > talk_->request_begin();
  const bool whole = in_.received() == talk_->request_end();
  return whole || (begun && talk_->both_at_once()) ? talk_->response_end() - out_.sent() : 0;
}

// The connecting end begins the next turn, or ends the connection, only when the whole answer is there: whatever was
// lost on the way stalls it.
bool LiveEnd::between_turns() {
  if (!talk_ || shut_) return false;
  if (turn_is_over()) {
    talk_->next_turn();
    const uint64_t rate = config_.live ? config_.live_bytes_per_second / config_.live : 0;
    if (asks_ && rate > 0) {
      const uint64_t moved = in_.received() + out_.sent();
      next_turn_at_ = begin_ + std::chrono::microseconds(moved * 1'000'000 / rate);
    }
    waits_for_turn_ = asks_;
  }
  if (!waits_for_turn_ || !at_turn_begin()) return false;
  if (ledger_.finish.load()) {
    shut_ = true;
    if (shutdown(fd(), SHUT_WR) != 0) fail(fmt::format("shutdown: {}", std::strerror(errno)));
    touch();
    return false;
  }
  if (Clock::now() < next_turn_at_) return false;
  waits_for_turn_ = false;
  touch();  // a planned silence is no stall
  return true;
}

// Silence between two turns is the connecting end's right.
bool LiveEnd::stalls() const {
  return ledger_.rounds.now() - last_move_ > config_.stall_limit && !waits_for_turn_ && (asks_ || !at_turn_begin());
}

bool LiveEnd::due(Clock::time_point now) const {
  return (waits_for_turn_ && !shut_ && (now >= next_turn_at_ || ledger_.finish.load())) ||
         (waits_to_read_ && now >= read_again_at_) || stalls();
}

bool LiveEnd::on_read_end(ssize_t n, int error) {
  if (n < 0 && (error == EAGAIN || error == EINTR)) return false;
  if (n < 0) {
    fail(fmt::format("receive: {}", std::strerror(error)));
    return false;
  }
  eof_ = true;
  touch();
  if (!at_turn_begin()) fail("truncated: EOF in the middle of a turn");
  if (asks_ && !shut_) fail("EOF before this end has finished");
  return true;
}

bool LiveEnd::read_some() {
  thread_local std::array<char, kBufferBytes> buffer, peeked;
  // Not beyond the turn: where both send at once, the next request may follow the end of our response directly.
  const uint64_t turn_end = !talk_ ? sizeof(StreamHeader) : asks_ ? talk_->response_end() : talk_->request_end();
  const uint64_t left = std::max<uint64_t>(1, turn_end - in_.received());
  const size_t bytes = std::min<uint64_t>(left, small_reads_ ? pick(rng_, 1, 4096) : kBufferBytes);
  const ssize_t seen = peeks_ && one_in(rng_, 4) ? recv(fd(), peeked.data(), bytes, MSG_PEEK | MSG_DONTWAIT) : 0;
  const ssize_t n = recv(fd(), buffer.data(), bytes, MSG_DONTWAIT);
  if (n <= 0) return on_read_end(n, errno);
  if (seen > 0 && std::memcmp(peeked.data(), buffer.data(), static_cast<size_t>(std::min(seen, n))) != 0)
    fail("MSG_PEEK showed other bytes");
  if (!in_.feed(buffer.data(), static_cast<size_t>(n))) fail(in_.error());
  if (!talk_ && in_.has_header()) start(in_.header().script_seed);
  if (in_.received() > turn_end) fail("bytes that do not belong to the turn");
  ledger_.live_bytes.fetch_add(static_cast<uint64_t>(n));
  ledger_.live_received[index_].fetch_add(static_cast<uint64_t>(n));
  touch();
  return true;
}

bool LiveEnd::write_some() {
  thread_local std::array<char, kBufferBytes> buffer;
  write_blocked_ = false;
  if (out_.cut_short() && !shut_) {
    shut_ = true;
    shutdown(fd(), SHUT_WR);
    return false;
  }
  const uint64_t allowed = may_send();
  if (allowed == 0) return false;
  const size_t bytes = out_.next(buffer.data(), std::min<uint64_t>(allowed, pick(rng_, 1, kBufferBytes)));
  if (bytes == 0) return false;
  const ssize_t n = send(fd(), buffer.data(), bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (n > 0) {
    out_.advance(static_cast<size_t>(n));
    touch();
    return true;
  }
  write_blocked_ = errno == EAGAIN;
  if (!write_blocked_) fail(fmt::format("send: {}", std::strerror(errno)));
  return false;
}

void LiveEnd::pause(std::chrono::microseconds time) {
  waits_to_read_ = true;
  read_again_at_ = Clock::now() + time;
}

EndState LiveEnd::step() {
  if (stalls()) {
    fail(fmt::format("stalled: FIONREAD {}, POLLIN {}", readable_bytes(fd()),
                     wait_readable(fd(), std::chrono::milliseconds(0))));
    return EndState::stalled;
  }
  waits_to_read_ = waits_to_read_ && Clock::now() < read_again_at_;
  for (int steps = 0;; ++steps) {
    const bool in = !eof_ && !waits_to_read_ && read_some();
    if (error_.empty() && !eof_) between_turns();
    const bool out = error_.empty() && !eof_ && write_some();
    const bool begun = error_.empty() && !eof_ && between_turns();
    if (!error_.empty()) return EndState::failed;
    if (eof_) return EndState::done;
    if (in && slow_ && one_in(rng_, 4)) pause(std::chrono::microseconds(pick(rng_, 0, 3000)));
    if (!in && !out && !begun) break;  // whoever has just been let begin writes: no event and no time would call again
    if (steps < kStepsMax) continue;
    if (!waits_to_read_) pause(std::chrono::microseconds(0));  // no event brings back who was not blocked
    break;
  }
  return EndState::active;
}

// Drives the live ends of one thread.
class LiveLoop {
 public:
  explicit LiveLoop(Ledger& ledger) : ledger_(ledger), member_(ledger.rounds), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    require(epoll_.valid(), "epoll_create1");
  }

  size_t size() const { return ends_.size(); }

  void add(std::unique_ptr<LiveEnd> end) {
    epoll_event event{};
    event.events = end->events();
    event.data.ptr = end.get();
    require(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, end->fd(), &event) == 0, "watch a live connection");
    LiveEnd* raw = end.get();
    ends_.emplace(raw, Entry{std::move(end), event.events});
    step(*raw);
  }

  void turn() {
    epoll_event events[kEvents];
    const int count = epoll_wait(epoll_.get(), events, kEvents, 1);
    for (int i = 0; i < count; ++i) step(*static_cast<LiveEnd*>(events[i].data.ptr));
    const auto now = Clock::now();
    due_.clear();
    for (const auto& [end, entry] : ends_) {
      if (end->due(now)) due_.push_back(end);
    }
    for (LiveEnd* end : due_) step(*end);
    ledger_.turn(member_);
  }

 private:
  struct Entry {
    std::unique_ptr<LiveEnd> end;
    uint32_t events;
  };

  void step(LiveEnd& end) {
    const auto entry = ends_.find(&end);
    if (entry == ends_.end()) return;
    const EndState state = end.step();
    if (state != EndState::active) {
      book(end, state);
      ends_.erase(entry);
      return;
    }
    if (end.edge_triggered() || end.events() == entry->second.events) return;
    epoll_event event{};
    event.events = entry->second.events = end.events();
    event.data.ptr = &end;
    require(epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, end.fd(), &event) == 0, "change the interest");
  }

  void book(const LiveEnd& end, EndState state) {
    ledger_.bytes.fetch_add(end.received());
    if (end.asks()) ledger_.live_open.fetch_sub(1);
    if (state != EndState::done) {
      ledger_.fail(Kind::live, end.error(), state == EndState::stalled);
    } else if (end.asks()) {
      ledger_.ended[static_cast<uint32_t>(Kind::live)].fetch_add(1);
    }
  }

  Ledger& ledger_;
  RoundsMember member_;
  UniqueFd epoll_;
  std::unordered_map<LiveEnd*, Entry> ends_;
  std::vector<LiveEnd*> due_;
};

void accept_live(int listener, uint64_t seed, const TrafficConfig& config, Ledger& ledger) {
  Rng rng(seed);
  LiveLoop loop(ledger);
  while (!ledger.stop.load() || loop.size() > 0) {
    for (;;) {
      UniqueFd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!fd.valid()) break;
      set_option(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
      loop.add(std::make_unique<LiveEnd>(std::move(fd), std::nullopt, rng(), config, ledger));
    }
    loop.turn();
  }
}

void connect_live(uint32_t thread, uint32_t threads, const TrafficConfig& config, Ledger& ledger) {
  Rng rng(config.seed * 104729 + thread);
  LiveLoop loop(ledger);
  for (uint32_t index = thread; index < config.live; index += threads) {
    UniqueFd fd = connect_tcp(endpoint("127.0.0.1", ledger.live_port));
    set_nonblocking(fd.get(), true);
    set_option(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
    const uint64_t conversation = rng() << kIndexBits | index;
    ledger.live_open.fetch_add(1);
    loop.add(std::make_unique<LiveEnd>(std::move(fd), conversation, rng(), config, ledger));
  }
  while (loop.size() > 0) loop.turn();
}

template <typename Work>
void in_threads(uint32_t threads, const Work& work) {
  std::vector<std::thread> workers;
  for (uint32_t i = 0; i < threads; ++i) workers.emplace_back([&work, i] { work(i); });
  for (std::thread& worker : workers) worker.join();
}

}  // namespace

Conversation::Conversation(uint64_t seed) : seed_(seed) {
  request_end_ = response_end_ = sizeof(StreamHeader);
  next_turn();
  request_begin_ = response_begin_ = 0;
}

// Mostly small requests and responses; now and then a stream up, down, or both ways at once.
void Conversation::next_turn() {
  const uint64_t die = mix(seed_ ^ mix(++turn_));
  const uint64_t kind = die % 100;
  const uint64_t small = 50 + (die >> 8) % 1500, other_small = 50 + (die >> 20) % 1500;
  const uint64_t stream = 16384 + (die >> 32) % 245760;
  request_begin_ = request_end_;
  response_begin_ = response_end_;
  both_at_once_ = kind >= 96;
  request_end_ += kind >= 96 || kind < 4 ? stream : small;
  response_end_ += kind >= 92 ? stream - stream / 3 : other_small;
}

int run_live_server(uint32_t threads, const TrafficConfig& config, Ledger& ledger) {
  const UniqueFd listener = listen_tcp();
  set_nonblocking(listener.get(), true);
  ledger.live_port = local_endpoint(listener.get()).port();
  ledger.live_ready.store(true);
  in_threads(threads, [&](uint32_t i) { accept_live(listener.get(), config.seed * 15485863 + i, config, ledger); });
  return 0;
}

int run_live_client(uint32_t threads, const TrafficConfig& config, Ledger& ledger) {
  while (!ledger.live_ready.load()) std::this_thread::yield();
  in_threads(threads, [&](uint32_t i) { connect_live(i, threads, config, ledger); });
  return 0;
}

}  // namespace shunt::test
