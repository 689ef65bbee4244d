#include "socket/side.hpp"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <thread>

#include "support/sockets.hpp"

namespace shunt::test {

namespace {

constexpr size_t kBufferBytes = 65536;
constexpr uint64_t kSmallReadsUntilBytes = 65536;
constexpr uint64_t kTinyStreamBytesMax = 8192;
constexpr auto kTimerSlack = std::chrono::milliseconds(100);
constexpr int kBlockingLimits = 10;    // a blocking call ends by itself after so many stall limits
constexpr uint64_t kFaultySides = 10;  // one in so many
constexpr uint64_t kDeafFromBytes = 100;
static_assert(Rounds::kPerStall >= 1000, "a slow reader must be slow in far fewer rounds");

uint64_t stream_bytes(Rng& rng, uint64_t most) {
  const uint64_t die = pick(rng, 1, 100);
  const uint64_t limit = die <= 60 ? 400 : die <= 90 ? 16384 : die <= 98 ? 262144 : most;
  return sizeof(StreamHeader) + pick(rng, 1, std::min(limit, most));
}

std::array<char, kBufferBytes>& read_buffer() {
  thread_local std::array<char, kBufferBytes> buffer;
  return buffer;
}

std::array<char, kBufferBytes>& write_buffer() {
  thread_local std::array<char, kBufferBytes> buffer;
  return buffer;
}

// Most readers of a one-way stream are slow, and a few of the others.
template <typename Rng>
bool reads_slowly(Kind kind, bool connecting, Rng& rng) {
  const bool reads_stream = (kind == Kind::upload && !connecting) || (kind == Kind::download && connecting);
  return reads_stream ? !one_in(rng, 4) : one_in(rng, 16);
}

// R: runnable, S: asleep, and so on; proc_pid_stat(5).
char thread_state(pid_t thread) {
  const std::string stat = read_text(fmt::format("/proc/self/task/{}/stat", thread));
  const size_t name_end = stat.rfind(") ");
  return name_end == std::string::npos ? '?' : stat[name_end + 2];
}

}  // namespace

Side::Side(UniqueFd fd, Kind kind, bool connecting, uint64_t seed, const TrafficConfig& config, const Rounds& rounds)
    : fd_(std::move(fd)),
      kind_(kind),
      connecting_(connecting),
      rng_(seed),
      write_rng_(~seed),
      config_(config),
      rounds_(rounds),
      finish_(static_cast<Finish>(pick(rng_, 0, 2))),
      edge_triggered_(one_in(rng_, 2)),
      early_(connecting && one_in(rng_, 2)),
      one_read_per_event_(!edge_triggered_ && one_in(rng_, 2)),
      peeks_(one_in(rng_, 8)),
      slow_(reads_slowly(kind, connecting, rng_)),
      tiny_chunks_(one_in(rng_, 8)),
      read_bytes_(one_in(rng_, 4) ? pick(rng_, 64, 2000) : kBufferBytes),
      last_move_(rounds.now()) {
  if (config.fault != Fault::none && one_in(rng_, kFaultySides)) fault_ = config.fault;
  if (kind == Kind::upload && connecting) finish_ = Finish::half_close_early;
  if (kind == Kind::cut && !one_in(rng_, 3)) {
    cut_at_ = pick(rng_, 0, one_in(rng_, 2) ? 2000 : 200000);
    cut_by_reset_ = one_in(rng_, 2);
  }
  sockaddr_storage peer{};
  socklen_t length = sizeof(peer);
  if (getpeername(fd_.get(), reinterpret_cast<sockaddr*>(&peer), &length) == 0) {
    peer_port_ = ntohs(reinterpret_cast<const sockaddr_in*>(&peer)->sin_port);  // at the same place for IPv6
  }
}

bool Side::deaf() const { return fault_ == Fault::deaf && in_.received() >= kDeafFromBytes; }

uint32_t Side::events() const {
  if (deaf()) return 0;
  if (edge_triggered_) return EPOLLIN | EPOLLOUT | EPOLLRDHUP | static_cast<uint32_t>(EPOLLET);
  return (eof_ || paused_ ? 0u : static_cast<uint32_t>(EPOLLIN)) |
         (write_blocked_ ? static_cast<uint32_t>(EPOLLOUT) : 0u);
}

bool Side::silent() const { return kind_ == Kind::download && connecting_; }
bool Side::hears() const { return !(kind_ == Kind::download && !connecting_); }

void Side::start_stream() {
  if (out_ || silent()) return;
  const bool in_turns = kind_ == Kind::client_first || kind_ == Kind::server_first;
  const bool speaks_first = (kind_ == Kind::server_first) != connecting_;
  std::vector<Segment> segments;
  uint64_t script_seed = rng_();
  if (in_turns && speaks_first) {
    segments = make_script(script_seed, config_.turn_bytes_max).first;
  } else if (in_turns) {
    if (!in_.has_header()) return;
    segments = make_script(in_.header().script_seed, config_.turn_bytes_max).second;
  } else {
    if (kind_ == Kind::upload && !connecting_ && !eof_) return;
    segments = {{stream_bytes(rng_, config_.stream_bytes_max), 0}};
  }
  if (segments.back().end > kTinyStreamBytesMax) tiny_chunks_ = false;
  out_.emplace(rng_(), script_seed, std::move(segments), fault_);
}

size_t Side::chunk_bytes() {
  if (tiny_chunks_) return pick(write_rng_, 1, 16);
  static constexpr size_t kLimits[] = {1460, 16384, kBufferBytes};
  return pick(write_rng_, 1, kLimits[pick(write_rng_, 0, 2)]);
}

void Side::fail(const std::string& what) {
  if (!error_.empty()) return;
  error_ = fmt::format("{} end ports {} -> {}: {} (received {} of {}, sent {} of {}{}{}{}{})",
                       connecting_ ? "connecting" : "accepting", local_endpoint(fd()).port(), peer_port_, what,
                       in_.received(), in_.has_header() ? in_.header().total_bytes : 0, out_ ? out_->sent() : 0,
                       out_ ? out_->total() : 0, edge_triggered_ ? ", edge-triggered" : "", slow_ ? ", slow" : "",
                       shut_ ? ", shut" : "", eof_ ? ", eof" : "");
}

SideState Side::stalled_state(const char* where) {
  const int bytes = readable_bytes(fd());
  fail(fmt::format("stalled {}, {}: FIONREAD {}, POLLIN {}", where, bytes > 0 ? "not woken" : "nothing came", bytes,
                   wait_readable(fd(), std::chrono::milliseconds(0))));
  return SideState::stalled;
}

Side::Io Side::on_read_end(ssize_t n, int error) {
  if (n == 0) {
    eof_ = true;
    touch();
    if (hears() && !in_.complete()) {
      if (may_be_cut()) {
        broken_ = true;
      } else {
        fail("truncated: EOF");
      }
    }
    return Io::ended;
  }
  if (error == EAGAIN || error == EINTR) return Io::blocked;
  if (may_be_cut()) {
    broken_ = true;
    return Io::ended;
  }
  fail(fmt::format("receive: {}", std::strerror(error)));
  return Io::failed;
}

// Small reads only at the beginning: megabytes by the handful take too long.
size_t Side::read_most() const { return in_.received() < kSmallReadsUntilBytes ? read_bytes_ : kBufferBytes; }

Side::Io Side::read_some(int flags) {
  auto& buffer = read_buffer();
  const size_t most = read_most();
  const size_t bytes = one_in(rng_, 4) ? pick(rng_, 1, most) : most;
  std::string peeked;
  if (peeks_ && flags != 0 && one_in(rng_, 4)) {
    const ssize_t n = recv(fd(), buffer.data(), bytes, MSG_PEEK | MSG_DONTWAIT);
    if (n > 0) peeked.assign(buffer.data(), static_cast<size_t>(n));
  }
  const ssize_t n = recv(fd(), buffer.data(), bytes, flags);
  if (n <= 0) return on_read_end(n, errno);
  const size_t common = std::min(peeked.size(), static_cast<size_t>(n));
  if (std::memcmp(peeked.data(), buffer.data(), common) != 0) return fail("MSG_PEEK showed other bytes"), Io::failed;
  if (!hears()) return fail("bytes from an end that sends none"), Io::failed;
  if (!in_.feed(buffer.data(), static_cast<size_t>(n))) return fail(in_.error()), Io::failed;
  touch();
  return Io::moved;
}

Side::Io Side::write_some(int flags) {
  write_blocked_ = false;
  const uint64_t allowed = out_ && !shut_ ? out_->allowed(in_.received()) : 0;
  if (allowed == 0) return Io::blocked;
  auto& buffer = write_buffer();
  const size_t bytes = out_->next(buffer.data(), std::min<uint64_t>(allowed, chunk_bytes()));
  if (bytes == 0) return Io::blocked;
  const ssize_t n = send(fd(), buffer.data(), bytes, flags | MSG_NOSIGNAL);
  if (n > 0) {
    out_->advance(static_cast<size_t>(n));
    touch();
    return Io::moved;
  }
  if (errno == EAGAIN) {
    write_blocked_ = true;
    return Io::blocked;
  }
  if (may_be_cut()) {
    broken_ = true;
    return Io::ended;
  }
  fail(fmt::format("send: {}", std::strerror(errno)));
  return Io::failed;
}

bool Side::cut_now() {
  if (!cut_at_ || in_.received() + (out_ ? out_->sent() : 0) < *cut_at_) return false;
  if (cut_by_reset_) {
    const linger abort_on_close{1, 0};
    setsockopt(fd(), SOL_SOCKET, SO_LINGER, &abort_on_close, sizeof(abort_on_close));
  }
  cut_done_ = true;
  fd_.reset();
  return true;
}

bool Side::finish_sending() {
  const bool all_sent = silent() || (out_ && !out_->vanished() && (out_->done() || out_->cut_short()));
  const bool heard = !hears() || in_.complete();
  if (shut_ || !all_sent || !(heard || finish_ == Finish::half_close_early)) return false;
  shut_ = true;
  if (finish_ == Finish::close_at_once) return true;
  if (shutdown(fd(), SHUT_WR) == 0) return true;
  if (may_be_cut()) {
    broken_ = true;
  } else {
    fail(fmt::format("shutdown: {}", std::strerror(errno)));
  }
  return true;
}

bool Side::complete() const {
  const bool heard = !hears() || in_.complete();
  return shut_ && heard && (eof_ || finish_ == Finish::close_at_once);
}

bool Side::due(Clock::time_point now) const { return (paused_ && now >= resume_at_) || silent_too_long(); }

SideState Side::step() {
  // Also when there is something to read now: nobody has said so.
  if (!paused_ && silent_too_long()) return stalled_state("in epoll");
  paused_ = false;
  if (deaf()) return SideState::active;
  const bool one_read = one_read_per_event_ && slow_turns_left_ > 0;
  bool may_read = true;
  for (;;) {
    if (cut_now()) return SideState::done;
    const Io in = eof_ || !may_read ? Io::blocked : read_some(MSG_DONTWAIT);
    if (one_read && may_read) {
      may_read = false;
      slow_turns_left_ -= in == Io::moved;
    }
    start_stream();
    const Io out = broken_ || in == Io::failed ? Io::blocked : write_some(MSG_DONTWAIT);
    if (!error_.empty()) return SideState::failed;
    if (broken_) return SideState::done;
    const bool shut_now = finish_sending();
    if (!error_.empty()) return SideState::failed;
    if (broken_ || complete()) return SideState::done;
    if (in == Io::moved && slow_ && slow_turns_left_ > 0 && one_in(rng_, 4)) {
      --slow_turns_left_;
      paused_ = true;
      resume_at_ = Clock::now() + std::chrono::microseconds(pick(rng_, 0, 3000));
      break;
    }
    if (in != Io::moved && in != Io::ended && out != Io::moved && !shut_now) break;
  }
  return SideState::active;
}

void Side::write_loop() {
  writer_.store(gettid());
  std::array<char, kBufferBytes> buffer;
  std::unique_lock lock(mutex_);
  while (error_.empty() && !broken_ && !shut_) {
    start_stream();
    if (finish_sending()) continue;
    const uint64_t allowed = out_ ? out_->allowed(in_.received()) : 0;
    const size_t bytes = allowed > 0 ? out_->next(buffer.data(), std::min<uint64_t>(allowed, chunk_bytes())) : 0;
    if (bytes == 0) {
      changed_.wait(lock);
      continue;
    }
    lock.unlock();
    const ssize_t n = send(fd(), buffer.data(), bytes, MSG_NOSIGNAL);
    const int error = errno;
    lock.lock();
    if (n > 0) {
      out_->advance(static_cast<size_t>(n));
      touch();
    } else if (error == EAGAIN) {
      stalled_state("in a blocking send");
    } else if (may_be_cut()) {
      broken_ = true;
    } else {
      fail(fmt::format("send: {}", std::strerror(error)));
    }
  }
  changed_.notify_all();
}

// A thread that was woken and has no CPU is no stall. One that is runnable each time, and moves nothing, is.
bool Side::waits_for_cpu() {
  for (const pid_t thread : {reader_.load(), writer_.load()}) {
    if (waits_for_cpu_left_ == 0 || thread == 0 || thread_state(thread) != 'R') continue;
    --waits_for_cpu_left_;
    return true;
  }
  return false;
}

void Side::watch_blocking() {
  if (!silent_too_long()) return;
  const std::lock_guard lock(mutex_);
  if (!error_.empty()) return;
  if (waits_for_cpu()) return touch();
  stalled_state("in blocking calls");
  shutdown(fd(), SHUT_RDWR);
  changed_.notify_all();
}

SideState Side::run_blocking() {
  reader_.store(gettid());
  const auto timeout = kBlockingLimits * config_.stall_limit;  // the watching thread judges before
  set_receive_timeout(fd(), timeout);
  set_send_timeout(fd(), timeout);
  // A close by the writer would not wake the reader, on plain TCP neither.
  if (finish_ == Finish::close_at_once) finish_ = Finish::half_close_late;
  std::thread writer([this] { write_loop(); });
  std::array<char, kBufferBytes> buffer;
  std::unique_lock lock(mutex_);
  while (error_.empty() && !broken_ && !eof_) {
    if (deaf()) {
      changed_.wait(lock);
      continue;
    }
    const size_t bytes = pick(rng_, 1, read_most());
    lock.unlock();
    const auto begin = Clock::now();
    const ssize_t n = recv(fd(), buffer.data(), bytes, 0);
    const int error = errno;
    lock.lock();
    if (n < 0 && error == EAGAIN && Clock::now() - begin < timeout - kTimerSlack) {
      ++early_wakeups_;
      continue;
    }
    if (n > 0) {
      if (!hears() || !in_.feed(buffer.data(), static_cast<size_t>(n))) fail("receive: " + in_.error());
      touch();
    } else if (n < 0 && error == EAGAIN) {
      stalled_state("in a blocking receive");
    } else {
      on_read_end(n, error);
    }
    changed_.notify_all();
  }
  lock.unlock();
  changed_.notify_all();
  writer.join();
  if (error_.empty()) return SideState::done;
  return error_.find("stalled") != std::string::npos ? SideState::stalled : SideState::failed;
}

}  // namespace shunt::test
