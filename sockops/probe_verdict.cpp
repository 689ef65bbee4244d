// Trials of long streams: order over changes between TCP and the redirect, and the pass-all verdict's order, window and
// end.
#include <bpf/abi/probe.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "probe_trials.hpp"

namespace shunt {

namespace {

// ---- a checked stream that alternates between TCP and the redirect ----

class CheckedStream {
 public:
  CheckedStream(Lab& lab, const Pair& pair, bool verdict) : lab_(lab), pair_(pair), verdict_(verdict) {
    std::minstd_rand random(7);
    pattern_.resize(kPeriod + kMaxMessage);
    for (size_t i = 0; i < kPeriod; i++) pattern_[i] = static_cast<char>(random() >> 11);
    std::copy_n(pattern_.begin(), kMaxMessage, pattern_.begin() + kPeriod);
    buffer_.resize(kMaxMessage);
  }

  // Runs until `total` bytes are sent and read, or something is wrong. The text says what; empty: nothing.
  std::string run(size_t total) {
    std::minstd_rand random(11);
    while (received_ < total && wrong_.empty() && !lab_.troubled()) {
      bool redirect = random() % 2 && latch_holds();
      choose(redirect ? PROBE_REDIRECT : PROBE_PASS);
      size_t burst = burst_bytes(random, redirect);
      for (size_t goal = sent_ + burst; sent_ < goal && sent_ < total;) {
        if (!send_some(1 + random() % kMaxMessage, total)) break;
      }
      // Half of the time the reader takes everything, so that the latch closes.
      size_t take = random() % 2 || sent_ == total ? sent_ - received_ : random() % (sent_ - received_ + 1);
      for (size_t goal = received_ + take; received_ < goal && wrong_.empty();) read_some(1 + random() % kMaxMessage);
    }
    if (wrong_.empty() && !lab_.troubled()) check_drained();
    return wrong_;
  }
  size_t latches() const { return latches_; }

 private:
  static constexpr size_t kPeriod = 65521;
  static constexpr size_t kMaxMessage = 32768;

  // Mostly short; now and then more than TCP's buffers hold. Redirected ones stay below the limit at which the shortcut
  // spills.
  static size_t burst_bytes(std::minstd_rand& random, bool redirect) {
    if (redirect) return random() % 32768;
    return random() % 128 == 0 ? 4 << 20 : random() % (1 << (6 + random() % 11));
  }
  // TCP to redirect: everything sent was acknowledged and read. What the shortcut's program will look at.
  bool latch_holds() {
    if (mode_ == PROBE_REDIRECT) return true;
    if (sent_ != received_) return false;
    for (int tries = 0; tries < kPatienceMs; tries++) {
      if (drained()) return ++latches_, true;
      usleep(1000);
    }
    wrong_ = fmt::format("all {} bytes are read, but {}", received_, state());
    return false;
  }
  bool drained() {
    probe_peek client = lab_.peek(pair_.client.get()), server = lab_.peek(pair_.server.get());
    return client.snd_una == client.write_seq && server.copied_seq == server.rcv_nxt &&
           (!verdict_ || (server.rmem_alloc == 0 && !server.msgs_queued && !server.skbs_queued));
  }
  std::string state() {
    probe_peek client = lab_.peek(pair_.client.get()), server = lab_.peek(pair_.server.get());
    return fmt::format(
        "copied_seq - rcv_nxt = {}, write_seq - snd_una = {}, receive memory {}, queued {}/{}, window {}",
        static_cast<int32_t>(server.copied_seq - server.rcv_nxt), client.write_seq - client.snd_una, server.rmem_alloc,
        server.msgs_queued, server.skbs_queued, server.rcv_wnd);
  }
  void check_drained() {
    for (int tries = 0; tries < kPatienceMs && !drained(); tries++) usleep(1000);
    if (!drained()) wrong_ = "at the end " + state();
  }
  void choose(probe_mode mode) {
    if (mode == mode_) return;
    lab_.set_mode(pair_.client.get(), mode);
    mode_ = mode;
  }
  bool send_some(size_t size, size_t total) {
    size = std::min(size, total - sent_);
    ssize_t sent = send(pair_.client.get(), pattern_.data() + sent_ % kPeriod, size, MSG_NOSIGNAL);
    if (sent > 0) sent_ += sent;
    if (sent < 0 && errno != EAGAIN) wrong_ = fmt::format("send failed at byte {}: error {}", sent_, errno);
    return sent > 0;
  }
  void read_some(size_t size) {
    if (!wait_readable(pair_.server.get(), kPatienceMs)) {
      wrong_ = fmt::format("stalled: {} sent, {} read, {}", sent_, received_, state());
      return;
    }
    ssize_t got = recv(pair_.server.get(), buffer_.data(), size, 0);
    if (got <= 0) {
      wrong_ = got == 0 ? "end of stream too early" : fmt::format("recv failed: error {}", errno);
      return;
    }
    if (memcmp(buffer_.data(), pattern_.data() + received_ % kPeriod, got) != 0)
      wrong_ = fmt::format("bytes out of order near {} ({} sent)", received_, sent_);
    received_ += got;
  }

  Lab& lab_;
  const Pair& pair_;
  bool verdict_;
  std::vector<char> pattern_, buffer_;
  size_t sent_ = 0, received_ = 0, latches_ = 0;
  probe_mode mode_ = PROBE_PASS;
  std::string wrong_;
};

constexpr size_t kStreamBytes = 8 << 20;

Finding try_order(Lab& lab) {
  Pair pair = lab.connect();
  lab.introduce(pair);
  CheckedStream stream(lab, pair, false);
  std::string wrong = stream.run(kStreamBytes);
  if (lab.troubled()) return {};
  if (!wrong.empty()) return fatal(wrong, "report this with the kernel's version");
  return works(fmt::format("8 MiB exact over {} latches", stream.latches()));
}

Finding try_verdict_order(Lab& lab) {
  Pair pair = lab.connect({.client = PROBE_MAP_VERDICT, .server = PROBE_MAP_VERDICT});
  lab.introduce(pair);
  CheckedStream stream(lab, pair, true);
  std::string wrong = stream.run(kStreamBytes);
  if (lab.troubled()) return {};
  if (!wrong.empty()) return quirk(wrong, "the verdict is not used");
  return works(fmt::format("8 MiB exact over {} latches", stream.latches()));
}

// Everything through TCP with the verdict attached, with a small and a large buffer, as fast as it goes.
Finding try_verdict_window(Lab& lab) {
  for (int rcvbuf : {0, 4096, 65536}) {
    Pair pair = lab.connect({.client = PROBE_MAP_VERDICT, .server = PROBE_MAP_VERDICT, .server_rcvbuf = rcvbuf});
    std::string buffer(65536, 'w');
    size_t sent = 0, received = 0, total = rcvbuf ? 1 << 20 : 8 << 20;
    while (received < total) {
      ssize_t put = sent < total
                        ? send(pair.client.get(), buffer.data(), std::min(buffer.size(), total - sent), MSG_NOSIGNAL)
                        : 0;
      if (put > 0) sent += put;
      if (!wait_readable(pair.server.get(), put > 0 ? 0 : kPatienceMs)) {
        if (put > 0) continue;
        return quirk(fmt::format("stalled with a buffer of {}: {} sent, {} read", rcvbuf, sent, received),
                     "the verdict is not used");
      }
      ssize_t got = recv(pair.server.get(), buffer.data(), buffer.size(), 0);
      if (got > 0) received += got;
    }
    if (lab.troubled()) return {};
  }
  return works("8 MiB through TCP without a stall, 1 MiB with small buffers");
}

struct FinRun {
  size_t redirected;  // bytes that are redirected first
  size_t total;       // bytes through TCP, then the FIN
  size_t write_size;
  int rcvbuf;
  size_t read_size;
  int pause_us;
};

struct FinResult {
  size_t received = 0;
  size_t packets_waiting = 0;  // in the psock, for room, when everything incl. the FIN was sent
  bool stalled = false;
};

// Sends everything and the FIN while the reader sleeps; then reads to the end of the stream.
FinResult run_fin(Lab& lab, const FinRun& run) {
  Pair pair = lab.connect({.client = PROBE_MAP_VERDICT,
                           .server = PROBE_MAP_VERDICT,
                           .server_rcvbuf = run.rcvbuf,
                           .client_sndbuf = 4 << 20});
  int no_delay = 1;
  setsockopt(pair.client.get(), IPPROTO_TCP, TCP_NODELAY, &no_delay, sizeof(no_delay));
  lab.introduce(pair);
  lab.set_mode(pair.client.get(), PROBE_REDIRECT);
  for (size_t sent = 0; sent < run.redirected; sent += 8192) lab.send_message(pair, 8192);
  lab.set_mode(pair.client.get(), PROBE_PASS);
  std::string bytes(run.total, 'f'), buffer(run.read_size, 0);
  FinResult result;
  for (size_t sent = 0;;) {
    bool unsent = sent < run.total;
    while (sent < run.total) {
      ssize_t put =
          send(pair.client.get(), bytes.data() + sent, std::min(run.write_size, run.total - sent), MSG_NOSIGNAL);
      if (put <= 0) break;
      sent += put;
    }
    if (unsent && sent == run.total) {
      shutdown(pair.client.get(), SHUT_WR);
      usleep(1000);
      result.packets_waiting = lab.peek(pair.server.get()).skbs_queued;
    }
    if (!wait_readable(pair.server.get(), kPatienceMs)) return result.stalled = true, result;
    ssize_t got = recv(pair.server.get(), buffer.data(), buffer.size(), 0);
    if (got == 0 || lab.troubled()) return result;
    if (got > 0) result.received += got;
    if (run.pause_us) usleep(run.pause_us);
  }
}

// A reader that lags: large writes, small writes (whose packets are charged many times their size), and redirected
// bytes that fill the receive memory before TCP's come.
std::vector<FinRun> fin_runs() {
  std::vector<FinRun> runs;
  for (int rcvbuf : {4096, 0}) {
    for (size_t read_size : {1000, 65536}) {
      runs.push_back({0, 300'000, 65536, rcvbuf, read_size, 0});
      runs.push_back({0, 2'000, 1, rcvbuf, read_size, 0});
      runs.push_back({262'144, 20'000, 1000, rcvbuf, read_size, 0});
      runs.push_back({262'144, 300'000, 65536, rcvbuf, read_size, 0});
    }
  }
  runs.push_back({0, 2'000, 1, 4096, 100, 200});
  runs.push_back({262'144, 20'000, 1000, 0, 16384, 200});
  return runs;
}

Finding try_verdict_fin(Lab& lab) {
  size_t truncated = 0, stalls = 0, lost_max = 0, waiting = 0;
  std::vector<FinRun> runs = fin_runs();
  for (const FinRun& run : runs) {
    FinResult result = run_fin(lab, run);
    if (lab.troubled()) return {};
    size_t expected = run.redirected + run.total;
    if (result.stalled) stalls++;
    if (!result.stalled && result.received < expected) truncated++;
    if (result.packets_waiting > 0) waiting++;
    lost_max = std::max(lost_max, expected - result.received);
  }
  std::string seen =
      fmt::format("{} slow readers, {} of them with packets waiting for room at the FIN", runs.size(), waiting);
  if (truncated == 0 && stalls == 0) return works(seen + ": every byte before the end");
  return quirk(fmt::format("{}: {} met the end of the stream too early, {} stalled, up to {} bytes missing", seen,
                           truncated, stalls, lost_max),
               "the verdict is not used");
}

// Data and a reset arrive at a slow reader: plain TCP gives it the data, then ECONNRESET.
Finding try_verdict_reset(Lab& lab) {
  Pair pair = lab.connect({.client = PROBE_MAP_VERDICT, .server = PROBE_MAP_VERDICT});
  lab.introduce(pair);
  constexpr size_t kBytes = 30'000;
  lab.send_message(pair, kBytes);
  linger reset = {1, 0};
  setsockopt(pair.client.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
  pair.client.reset();
  usleep(1000);
  char buffer[4096];
  size_t received = 0;
  ssize_t got = 0;
  while (wait_readable(pair.server.get(), kPatienceMs) &&
         (got = recv(pair.server.get(), buffer, sizeof(buffer), 0)) > 0)
    received += got;
  int error = got < 0 ? errno : 0;
  if (lab.troubled()) return {};
  if (received == kBytes && error == ECONNRESET) return works("a reset arrives after the bytes before it");
  return quirk(fmt::format("{} of {} bytes before a reset arrived, then {}", received, kBytes,
                           error ? strerror(error) : "the end"),
               "the verdict is not used");
}

}  // namespace

std::vector<Trial> verdict_trials() {
  return {
      {"order", {"probe_read"}, true, try_order},
      {"verdict-order", {"probe_verdict"}, false, try_verdict_order},
      {"verdict-window", {"probe_verdict"}, false, try_verdict_window},
      {"verdict-fin", {"probe_verdict"}, false, try_verdict_fin},
      {"verdict-reset", {"probe_verdict"}, false, try_verdict_reset},
  };
}

}  // namespace shunt
