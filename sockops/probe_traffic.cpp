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

Finding try_redirect(Lab& lab) {
  Pair pair = redirecting_pair(lab);
  probe_peek before = lab.peek(pair.client.get());
  if (send(pair.client.get(), "\x5a\xa5", 2, 0) != 2) lab.trouble(errno_error(errno, "send"));
  unsigned char got[4] = {};
  wait_readable(pair.server.get(), kPatienceMs);
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
    lab.send_message(pair, 1);
    if (wait_readable(pair.server.get(), kPatienceMs)) received += recv(pair.server.get(), buffer, sizeof(buffer), 0);
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
  lab.send_message(pair, 1000);
  lab.send_message(pair, 500);
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
  for (int i = 0; i < 4; i++) lab.send_message(pair, 8192);
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
  lab.send_message(pair, 100);
  char buffer[200];
  ssize_t seen = recv(pair.server.get(), buffer, sizeof(buffer), MSG_PEEK);
  ssize_t got = recv(pair.server.get(), buffer, sizeof(buffer), 0);
  if (lab.troubled()) return {};
  if (seen == 100 && got == 100) return works("MSG_PEEK works on redirected bytes");
  return quirk(fmt::format("MSG_PEEK saw {} of 100 bytes", seen), "programs that peek are not receivers");
}

Finding try_waitall(Lab& lab) {
  Pair pair = redirecting_pair(lab);
  lab.send_message(pair, 100);
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
  lab.send_message(pair, 100);
  bool early = wait_readable(pair.server.get(), 5);
  if (lab.troubled()) return {};
  if (!early) return works("SO_RCVLOWAT is kept for redirected bytes");
  return quirk("SO_RCVLOWAT is ignored for redirected bytes", "a socket that sets it goes on through TCP");
}

Finding try_splice(Lab& lab) {
  Pair pair = redirecting_pair(lab);
  lab.send_message(pair, 100);
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
  lab.send_message(pair, 100);
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
  lab.send_message(pair, 1000);
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

Finding try_verdict_attach(Lab& lab) {
  if (auto attached = lab.attach_verdict(); !attached)
    return missing(attached.error().to_string(), "no verdict is used");
  return works("sk_skb/stream_verdict without a parser attaches to a sockhash");
}

Finding try_fionread_verdict(Lab& lab) {
  return fionread_of_tcp(lab, PROBE_MAP_VERDICT, "the verdict is no remedy for FIONREAD");
}

Finding try_rtt_delete(Lab& lab) {
  Pair pair = lab.connect({.client = PROBE_MAP_PLAIN, .server = PROBE_MAP_NONE, .rtt_delete = true});
  uint64_t cookie = cookie_of(pair.client.get());
  bool enrolled = lab.in_map(PROBE_MAP_PLAIN, cookie);
  lab.send_message(pair, 100);
  std::string answer(1000, 'a');
  wait_readable(pair.server.get(), kPatienceMs);
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

}  // namespace

std::vector<Trial> stream_trials() {
  return {
      {"sk-msg-redirect", {"probe_msg_mode"}, true, try_redirect},
      {"msg-prog-array", {"probe_msg_pass"}, true, try_tail_call_swap},
      {"fionread-redirected", {"probe_msg_mode"}, false, try_fionread_redirected},
      {"fionread-tcp", {"probe_msg_mode"}, false, try_fionread_tcp},
      {"rtt-cb-delete", {"probe_sockops"}, false, try_rtt_delete},
      {"rmem-charged", {"probe_read"}, false, try_rmem},
      {"peek", {"probe_msg_mode"}, false, try_peek},
      {"waitall", {"probe_msg_mode"}, false, try_waitall},
      {"rcvlowat", {"probe_msg_mode"}, false, try_rcvlowat},
      {"splice", {"probe_msg_mode"}, false, try_splice},
      {"recv-trunc", {"probe_msg_mode"}, false, try_truncating_receive},
      {"verdict-attach", {"probe_verdict"}, false, try_verdict_attach},
      {"fionread-verdict", {"probe_verdict"}, false, try_fionread_verdict},
  };
}

}  // namespace shunt
