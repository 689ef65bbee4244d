// Trials of what happens to bytes: redirected ones, and TCP's on a socket that is in the map.
#include <bpf/bpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>

#include "probe_trials.hpp"

namespace shunt {

namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// ---- redirected bytes ----

Pair redirecting_pair(Lab& lab, probe_map map = PROBE_MAP_PLAIN) {
  Pair pair = lab.connect({.client = map, .server = map});
  lab.introduce(pair);
  lab.set_mode(pair.client.get(), PROBE_REDIRECT);
  return pair;
}

// Sends `size` bytes from the client in one message.
void send_message(Lab& lab, const Pair& pair, size_t size) {
  std::string bytes(size, 'r');
  ssize_t sent = send(pair.client.get(), bytes.data(), size, MSG_NOSIGNAL);
  if (sent != static_cast<ssize_t>(size)) lab.trouble(errno_error(sent < 0 ? errno : EAGAIN, "send"));
}

Finding try_redirect(Lab& lab) {
  Pair pair = redirecting_pair(lab);
  probe_peek before = lab.peek(pair.client.get());
  if (send(pair.client.get(), "\x5a\xa5", 2, 0) != 2) lab.trouble(errno_error(errno, "send"));
  unsigned char got[4] = {};
  wait_readable(pair.server.get(), 200);
  ssize_t size = recv(pair.server.get(), got, sizeof(got), 0);
  probe_peek after = lab.peek(pair.client.get());
  probe_sock client = lab.storage(pair.client.get());
  if (lab.troubled()) return {};
  if (size != 2 || got[0] != 0x5a || got[1] != 0xa5 || client.failed != 0)
    return fatal(fmt::format("a redirected message did not arrive ({} bytes)", size),
                 "use a kernel with CONFIG_BPF_STREAM_PARSER");
  if (client.redirected != 1 || after.write_seq != before.write_seq)
    return fatal("the message went through TCP in spite of the redirect", "report this with the kernel's version");
  return works("bytes arrive, and TCP does not see them");
}

Finding try_tail_call_swap(Lab& lab) {
  constexpr int kMessages = 400;
  Pair pair = redirecting_pair(lab);
  int received = 0;
  char buffer[16];
  for (int i = 0; i < kMessages; i++) {
    lab.set_message_program(i % 2 ? "probe_msg_pass" : "probe_msg_mode");
    send_message(lab, pair, 1);
    if (wait_readable(pair.server.get(), 200)) received += recv(pair.server.get(), buffer, sizeof(buffer), 0);
  }
  lab.set_message_program("probe_msg_mode");
  probe_sock client = lab.storage(pair.client.get());
  if (lab.troubled()) return {};
  if (received != kMessages || client.redirected != kMessages / 2 || client.passed != kMessages / 2)
    return fatal(fmt::format("of {} bytes {} arrived, {} redirected, {} passed", kMessages, received, client.redirected,
                             client.passed),
                 "use a kernel in which sk_msg programs can make tail calls");
  return works("the program of live sockets is replaced at once");
}

Finding try_fionread_redirected(Lab& lab) {
  Pair pair = redirecting_pair(lab);
  send_message(lab, pair, 1000);
  send_message(lab, pair, 500);
  int bytes = settled_fionread(pair.server.get(), 1500);
  char part[400];
  ssize_t got = recv(pair.server.get(), part, sizeof(part), 0);
  int rest = fionread(pair.server.get());
  if (lab.troubled()) return {};
  if (bytes == 1500 && got == 400 && rest == 1100) return works("FIONREAD counts redirected bytes");
  return quirk(fmt::format("FIONREAD says {} of 1500 and {} of 1100 redirected bytes", bytes, rest),
               "programs that rely on FIONREAD are not receivers");
}

Finding try_rmem(Lab& lab) {
  Pair pair = redirecting_pair(lab);
  probe_peek before = lab.peek(pair.server.get());
  for (int i = 0; i < 4; i++) send_message(lab, pair, 8192);
  probe_peek queued = lab.peek(pair.server.get());
  std::string buffer(65536, 0);
  ssize_t got = recv(pair.server.get(), buffer.data(), buffer.size(), 0);
  probe_peek after = lab.peek(pair.server.get());
  if (lab.troubled()) return {};
  if (got == 32768 && queued.rmem_alloc - before.rmem_alloc >= 32768 && after.rmem_alloc == before.rmem_alloc)
    return works("redirected bytes are charged to the reader's receive memory");
  return quirk(fmt::format("receive memory is {}, {} with 32768 bytes queued, {} after reading", before.rmem_alloc,
                           queued.rmem_alloc, after.rmem_alloc),
               "the backlog is bounded by bytes and messages since the queue was last empty");
}

Finding try_peek(Lab& lab) {
  Pair pair = redirecting_pair(lab);
  send_message(lab, pair, 100);
  char buffer[200];
  ssize_t seen = recv(pair.server.get(), buffer, sizeof(buffer), MSG_PEEK);
  ssize_t got = recv(pair.server.get(), buffer, sizeof(buffer), 0);
  if (lab.troubled()) return {};
  if (seen == 100 && got == 100) return works("MSG_PEEK works on redirected bytes");
  return quirk(fmt::format("MSG_PEEK saw {} of 100 bytes", seen), "programs that peek are not receivers");
}

Finding try_waitall(Lab& lab) {
  Pair pair = redirecting_pair(lab);
  send_message(lab, pair, 100);
  fcntl(pair.server.get(), F_SETFL, 0);
  timeval limit = {0, 30'000};
  setsockopt(pair.server.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  char buffer[200];
  auto start = Clock::now();
  ssize_t got = recv(pair.server.get(), buffer, sizeof(buffer), MSG_WAITALL);
  if (lab.troubled()) return {};
  if (got == 100 && ms_since(start) >= 25) return works("MSG_WAITALL waits for redirected bytes");
  return quirk("MSG_WAITALL returns short on redirected bytes", "programs that use it are not receivers");
}

Finding try_rcvlowat(Lab& lab) {
  Pair pair = redirecting_pair(lab);
  int low_water = 1000;
  setsockopt(pair.server.get(), SOL_SOCKET, SO_RCVLOWAT, &low_water, sizeof(low_water));
  send_message(lab, pair, 100);
  bool early = wait_readable(pair.server.get(), 5);
  if (lab.troubled()) return {};
  if (!early) return works("SO_RCVLOWAT is kept for redirected bytes");
  return quirk("SO_RCVLOWAT is ignored for redirected bytes", "a socket that sets it goes on through TCP");
}

Finding try_splice(Lab& lab) {
  Pair pair = redirecting_pair(lab);
  send_message(lab, pair, 100);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return missing("no pipe", "not tried");
  UniqueFd reading(ends[0]), writing(ends[1]);
  ssize_t moved = splice(pair.server.get(), nullptr, writing.get(), nullptr, 4096, SPLICE_F_NONBLOCK);
  int error = moved < 0 ? errno : 0;
  if (lab.troubled()) return {};
  if (moved == 100) return works("splice reads redirected bytes");
  return quirk(
      fmt::format("splice does not see redirected bytes ({})", error == EAGAIN ? "EAGAIN while readable" : "short"),
      "programs that splice are not receivers");
}

Finding try_truncating_receive(Lab& lab) {
  Pair pair = redirecting_pair(lab);
  send_message(lab, pair, 100);
  ssize_t got = recv(pair.server.get(), nullptr, 100, MSG_TRUNC);
  int error = got < 0 ? errno : 0;
  if (lab.troubled()) return {};
  if (got == 100) return works("recv(NULL, MSG_TRUNC) discards redirected bytes");
  return quirk(fmt::format("recv(NULL, MSG_TRUNC) does not discard redirected bytes (error {})", error),
               "programs that discard this way are not receivers");
}

// ---- TCP's bytes on a socket in the map ----

Finding fionread_of_tcp(Lab& lab, probe_map map, const char* meaning) {
  Pair pair = lab.connect({.client = map, .server = map});
  lab.introduce(pair);
  send_message(lab, pair, 1000);
  int bytes = settled_fionread(pair.server.get(), 1000);
  char part[400];
  ssize_t got = recv(pair.server.get(), part, sizeof(part), 0);
  int rest = settled_fionread(pair.server.get(), 600);
  if (lab.troubled()) return {};
  if (bytes == 1000 && got == 400 && rest == 600) return works("FIONREAD counts TCP's bytes");
  return quirk(fmt::format("FIONREAD says {} of 1000 and {} of 600 bytes", bytes, rest), meaning);
}

Finding try_fionread_tcp(Lab& lab) {
  return fionread_of_tcp(lab, PROBE_MAP_PLAIN, "programs that rely on FIONREAD need the verdict, or are not receivers");
}

Finding try_fionread_verdict(Lab& lab) {
  if (auto attached = lab.attach_verdict(); !attached)
    return missing(attached.error().to_string(), "no verdict is attached");
  return fionread_of_tcp(lab, PROBE_MAP_VERDICT, "the verdict is no remedy for FIONREAD");
}

Finding try_rtt_delete(Lab& lab) {
  Pair pair = lab.connect({.client = PROBE_MAP_PLAIN, .server = PROBE_MAP_NONE, .rtt_delete = true});
  uint64_t cookie = cookie_of(pair.client.get());
  bool enrolled = lab.in_map(PROBE_MAP_PLAIN, cookie);
  send_message(lab, pair, 100);
  std::string answer(1000, 'a');
  wait_readable(pair.server.get(), 200);
  if (send(pair.server.get(), answer.data(), answer.size(), 0) != 1000) lab.trouble(errno_error(errno, "send"));
  int bytes = settled_fionread(pair.client.get(), 1000);
  probe_sock client = lab.storage(pair.client.get());
  if (lab.troubled()) return {};
  constexpr const char* kMeaning = "only connections whose two ends are known to be local are enrolled";
  if (!enrolled || client.rtt_calls == 0) return quirk("BPF_SOCK_OPS_RTT_CB was not called", kMeaning);
  if (client.delete_error || lab.in_map(PROBE_MAP_PLAIN, cookie))
    return quirk(fmt::format("an active socket cannot leave the map at RTT_CB: error {}", -client.delete_error),
                 kMeaning);
  if (bytes != 1000)
    return quirk(fmt::format("FIONREAD says {} of 1000 after the socket left the map", bytes), kMeaning);
  return works("an active socket leaves the map before its first response");
}

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
      size_t burst = redirect ? random() % 65536 : random() % (1 << (10 + random() % 12));
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

  // TCP to redirect: everything sent was acknowledged and read. What the shortcut's program will look at.
  bool latch_holds() {
    if (mode_ == PROBE_REDIRECT) return true;
    if (sent_ != received_) return false;
    for (int tries = 0; tries < 50; tries++) {
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
    for (int tries = 0; tries < 50 && !drained(); tries++) usleep(1000);
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
    if (!wait_readable(pair_.server.get(), 400)) {
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
      if (!wait_readable(pair.server.get(), put > 0 ? 0 : 400)) {
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
  for (size_t sent = 0; sent < run.redirected; sent += 8192) send_message(lab, pair, 8192);
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
    if (!wait_readable(pair.server.get(), 400)) return result.stalled = true, result;
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

}  // namespace

std::vector<Trial> stream_trials() {
  return {
      {"sk-msg-redirect", {"probe_msg_mode"}, true, try_redirect},
      {"msg-prog-array", {"probe_msg_pass"}, true, try_tail_call_swap},
      {"order", {"probe_read"}, true, try_order},
      {"fionread-redirected", {"probe_msg_mode"}, false, try_fionread_redirected},
      {"fionread-tcp", {"probe_msg_mode"}, false, try_fionread_tcp},
      {"rtt-cb-delete", {"probe_sockops"}, false, try_rtt_delete},
      {"rmem-charged", {"probe_read"}, false, try_rmem},
      {"peek", {"probe_msg_mode"}, false, try_peek},
      {"waitall", {"probe_msg_mode"}, false, try_waitall},
      {"rcvlowat", {"probe_msg_mode"}, false, try_rcvlowat},
      {"splice", {"probe_msg_mode"}, false, try_splice},
      {"recv-trunc", {"probe_msg_mode"}, false, try_truncating_receive},
  };
}

std::vector<Trial> verdict_trials() {
  return {
      {"fionread-verdict", {"probe_verdict"}, false, try_fionread_verdict},
      {"verdict-order", {"probe_verdict"}, false, try_verdict_order},
      {"verdict-window", {"probe_verdict"}, false, try_verdict_window},
      {"verdict-fin", {"probe_verdict"}, false, try_verdict_fin},
  };
}

}  // namespace shunt
