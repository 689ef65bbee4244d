#include "socket/process_scenarios.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <map>

#include "support/checked_bytes.hpp"
#include "support/sockets.hpp"

namespace shunt::test {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kBufferBytes = 16384;
constexpr uint64_t kEndless = uint64_t{1} << 40;
constexpr int kSendBufferBytes = 1 << 20;
constexpr auto kLook = std::chrono::milliseconds(100);

// Measured as on all connections of the checker: rounds.hpp.
class Silence {
 public:
  Silence(const TrafficConfig& config, const Ledger& ledger, int limits = 1)
      : rounds_(ledger.rounds), limit_(config.stall_limit * limits) {}
  bool too_long() const { return rounds_.now() - since_ > limit_; }
  void end() { since_ = rounds_.now(); }

 private:
  const Rounds& rounds_;
  Rounds::Time limit_;
  Rounds::Time since_ = rounds_.now();
};

bool at_end(int fd) {
  char byte;
  const ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return n == 0 || (n < 0 && errno != EAGAIN);
}

// Fewer bytes: the end of the stream, or a stall.
std::string receive_whole(int fd, size_t bytes, const TrafficConfig& config, const Ledger& ledger) {
  std::string got;
  Silence silence(config, ledger);
  while (got.size() < bytes && !silence.too_long()) {
    const std::string part = receive_exactly(fd, bytes - got.size(), kLook);
    if (!part.empty()) silence.end();
    got += part;
    if (part.empty() && at_end(fd)) break;
  }
  return got;
}

// Exit code; -1: a stall.
int wait_for(Child& child, const TrafficConfig& config, const Ledger& ledger, int limits = 1) {
  const Silence silence(config, ledger, limits);
  int code = -1;
  while (code == -1 && !silence.too_long()) code = child.wait(kLook);
  return code;
}

// ---- killed ----

enum class Victim { writes, reads, both };

struct KillScene {
  Victim victim;
  bool victim_connects;
  std::atomic<uint64_t>* victim_sent;  // shared: what its send() has accepted
  uint64_t seed;
};

int play_victim(const KillScene& scene, int listener, const Endpoint& to) {
  UniqueFd fd = scene.victim_connects ? connect_tcp(to) : accept_tcp(listener);
  std::array<char, kBufferBytes> buffer;
  Rng rng(scene.seed);
  Outgoing out(scene.seed, 0, {{kEndless, 0}}, Fault::none);
  for (;;) {
    if (scene.victim != Victim::reads) {
      const size_t bytes = out.next(buffer.data(), pick(rng, 1, kBufferBytes));
      const ssize_t n =
          send(fd.get(), buffer.data(), bytes, MSG_NOSIGNAL | (scene.victim == Victim::both ? MSG_DONTWAIT : 0));
      if (n > 0) {
        out.advance(static_cast<size_t>(n));
        scene.victim_sent->fetch_add(static_cast<uint64_t>(n));
      }
    }
    if (scene.victim != Victim::writes)
      recv(fd.get(), buffer.data(), buffer.size(), scene.victim == Victim::both ? MSG_DONTWAIT : 0);
  }
}

// Reads and writes what it can until the connection ends. Empty: it ended.
std::string play_survivor(const KillScene& scene, int fd, Child& victim, Clock::time_point kill_at,
                          const TrafficConfig& config, const Ledger& ledger, Incoming& in) {
  std::array<char, kBufferBytes> buffer;
  Outgoing out(~scene.seed, 0, {{kEndless, 0}}, Fault::none);
  Silence silence(config, ledger);
  bool killed = false;
  for (;;) {
    if (!killed && Clock::now() >= kill_at) {
      victim.signal(SIGKILL);
      killed = true;
    }
    pollfd waiting{fd, static_cast<short>(POLLIN | (scene.victim == Victim::writes ? 0 : POLLOUT)), 0};
    poll(&waiting, 1, 1);
    const ssize_t n = recv(fd, buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN)) return {};
    if (n > 0 && !in.feed(buffer.data(), static_cast<size_t>(n))) return in.error();
    ssize_t sent = -1;
    if (scene.victim != Victim::writes) {
      sent = send(fd, buffer.data(), out.next(buffer.data(), kBufferBytes), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (sent < 0 && errno != EAGAIN) return {};
      if (sent > 0) out.advance(static_cast<size_t>(sent));
    }
    if (n > 0 || sent > 0 || !killed) silence.end();
    if (silence.too_long()) return "stalled after the other end was killed";
  }
}

std::string run_killed(Rng& rng, const TrafficConfig& config, Ledger& ledger) {
  auto* sent = static_cast<std::atomic<uint64_t>*>(
      mmap(nullptr, sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  const KillScene scene{static_cast<Victim>(pick(rng, 0, 2)), one_in(rng, 2), sent, rng()};
  UniqueFd listener = listen_tcp();
  const Endpoint to = local_endpoint(listener.get());
  Child victim = Child::fork([&] { return play_victim(scene, listener.get(), to); });
  UniqueFd fd = scene.victim_connects ? accept_tcp(listener.get()) : connect_tcp(to);
  listener.reset();  // a victim that dies before its accept() must leave nobody who could
  Incoming in;
  const auto kill_at = Clock::now() + std::chrono::microseconds(pick(rng, 0, 15000));
  std::string error = play_survivor(scene, fd.get(), victim, kill_at, config, ledger, in);
  victim.signal(SIGKILL);
  victim.wait();
  // A writer without unread bytes ends with a FIN: all that it sent must have come.
  if (error.empty() && scene.victim == Victim::writes && in.received() < sent->load()) {
    error = fmt::format("truncated: {} of {} bytes that the killed process had sent", in.received(), sent->load());
  }
  ledger.bytes.fetch_add(in.received());
  munmap(sent, sizeof(uint64_t));
  return error;
}

// ---- shared: several processes write whole frames into one socket ----

struct Frame {
  uint32_t writer;
  uint32_t sequence;
  uint32_t bytes;  // after this header
  uint32_t check;
};
constexpr uint32_t kFrameBytesMax = 500;
constexpr uint32_t kFramesUnread = 8;  // more than the send buffer holds might be cut by another writer, on TCP too

uint64_t frame_seed(const Frame& frame) { return (uint64_t{frame.writer} << 32) + frame.sequence; }

void pass_descriptor(int channel, int fd) {
  char byte = 0;
  iovec io{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof(int));
  require(sendmsg(channel, &message, 0) == 1, "pass a descriptor");
}

UniqueFd take_descriptor(int channel) {
  char byte;
  iovec io{&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
  require(recvmsg(channel, &message, MSG_CMSG_CLOEXEC) == 1, "take a descriptor");
  int fd = -1;
  std::memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
  return UniqueFd(fd);
}

struct SocketPair {
  UniqueFd ours, theirs;
  SocketPair() {
    int fds[2];
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0, "socketpair");
    ours.reset(fds[0]);
    theirs.reset(fds[1]);
  }
};

int write_frames(int fd, int credit, uint32_t writer, uint32_t frames, uint64_t seed) {
  Rng rng(seed);
  char message[sizeof(Frame) + kFrameBytesMax];
  for (uint32_t sequence = 0; sequence < frames; ++sequence) {
    char token;
    if (sequence >= kFramesUnread && read(credit, &token, 1) != 1) return 2;
    Frame frame{writer, sequence, static_cast<uint32_t>(pick(rng, 1, kFrameBytesMax)), 0};
    frame.check = frame.writer ^ frame.sequence ^ frame.bytes ^ 0x5348u;
    std::memcpy(message, &frame, sizeof(frame));
    fill_pattern(frame_seed(frame), 0, message + sizeof(frame), frame.bytes);
    const ssize_t bytes = static_cast<ssize_t>(sizeof(frame) + frame.bytes);
    if (send(fd, message, static_cast<size_t>(bytes), MSG_NOSIGNAL) != bytes) return 3;
  }
  return 0;
}

std::string read_frames(int fd, std::map<uint32_t, int>& credits, uint32_t frames, const TrafficConfig& config,
                        Ledger& ledger) {
  std::map<uint32_t, uint32_t> next;
  for (uint32_t count = 0; count < frames; ++count) {
    const std::string head = receive_whole(fd, sizeof(Frame), config, ledger);
    if (head.size() != sizeof(Frame)) return fmt::format("stalled or cut at frame {} of {}", count, frames);
    Frame frame;
    std::memcpy(&frame, head.data(), sizeof(frame));
    if (frame.check != (frame.writer ^ frame.sequence ^ frame.bytes ^ 0x5348u) || frame.bytes > kFrameBytesMax) {
      return fmt::format("frame {}: not at a frame's head", count);
    }
    if (frame.sequence != next[frame.writer]++)
      return fmt::format("writer {}: frame {} came out of order", frame.writer, frame.sequence);
    const std::string body = receive_whole(fd, frame.bytes, config, ledger);
    if (body.size() != frame.bytes) return "stalled within a frame";
    if (pattern_mismatch(frame_seed(frame), 0, body.data(), body.size()) != body.size())
      return "wrong bytes within a frame";
    ledger.bytes.fetch_add(sizeof(frame) + frame.bytes);
    if (write(credits[frame.writer], "", 1) != 1) return "a writer has gone";
  }
  return {};
}

std::string run_shared(Rng& rng, const TrafficConfig& config, Ledger& ledger) {
  Connection connection = connect_pair();
  const bool client_writes = one_in(rng, 2);
  UniqueFd& written = client_writes ? connection.client : connection.server;
  UniqueFd& read_end = client_writes ? connection.server : connection.client;
  set_option(written.get(), SOL_SOCKET, SO_SNDBUF, kSendBufferBytes);
  const uint32_t writers = static_cast<uint32_t>(pick(rng, 2, 4)), frames = static_cast<uint32_t>(pick(rng, 10, 60));
  const bool passed = one_in(rng, 2);

  std::vector<SocketPair> channels(writers);
  std::vector<Child> children;
  std::map<uint32_t, int> credits;
  for (uint32_t writer = 0; writer < writers; ++writer) {
    SocketPair& channel = channels[writer];
    credits[writer] = channel.ours.get();
    const uint64_t seed = rng();
    children.push_back(Child::fork([&] {
      if (!passed) return write_frames(written.get(), channel.theirs.get(), writer, frames, seed);
      written.reset();
      const UniqueFd fd = take_descriptor(channel.theirs.get());
      return write_frames(fd.get(), channel.theirs.get(), writer, frames, seed);
    }));
    if (passed) pass_descriptor(channel.ours.get(), written.get());
  }
  written.reset();
  std::string error = read_frames(read_end.get(), credits, writers * frames, config, ledger);
  if (!error.empty()) return error;
  for (Child& child : children) {
    if (const int code = wait_for(child, config, ledger); code != 0) return fmt::format("a writer ended with {}", code);
  }
  if (!receive_whole(read_end.get(), 1, config, ledger).empty()) return "bytes after the last frame";
  return at_end(read_end.get()) ? std::string{} : "stalled before the end of the stream";
}

// ---- handed over: another process goes on reading and another one writing, in the middle of a stream ----

int read_stream(int fd, Incoming in, uint64_t until, const TrafficConfig& config, const Ledger& ledger) {
  std::array<char, kBufferBytes> buffer;
  set_receive_timeout(fd, 3 * config.stall_limit);
  for (Silence silence(config, ledger);;) {
    // One more byte, which is not there, finds the end.
    const size_t bytes = std::max<uint64_t>(1, std::min<uint64_t>(buffer.size(), until - in.received()));
    const ssize_t n = recv(fd, buffer.data(), bytes, 0);
    if (silence.too_long()) return 2;  // even if there are bytes now: nothing but the timeout has woken this reader
    if (n < 0 && errno == EAGAIN) continue;
    if (n == 0) return in.received() == until ? 0 : 3;
    if (n < 0) return 3;
    if (in.received() == until) return 5;
    if (!in.feed(buffer.data(), static_cast<size_t>(n))) return 4;
    silence.end();
  }
}

int write_stream(int fd, Outgoing& out, uint64_t until, Rng& rng) {
  std::array<char, kBufferBytes> buffer;
  while (out.sent() < until) {
    const size_t bytes = out.next(buffer.data(), std::min<uint64_t>(until - out.sent(), pick(rng, 1, buffer.size())));
    const ssize_t n = send(fd, buffer.data(), bytes, MSG_NOSIGNAL);
    if (n <= 0) return 6;
    out.advance(static_cast<size_t>(n));
  }
  return 0;
}

std::string run_handed_over(Rng& rng, const TrafficConfig& config, Ledger& ledger) {
  Connection connection = connect_pair();
  const uint64_t total = sizeof(StreamHeader) + pick(rng, 1000, 400000);
  const uint64_t seed = rng();
  const bool reply_first = one_in(rng, 2);  // a turn before, so that the stream begins on the shortcut
  if (reply_first && !ping_pong(connection, 3)) return "the first turns were wrong";
  Child writer = Child::fork([&] {
    connection.server.reset();
    Outgoing out(seed, 0, {{total, 0}}, Fault::none);
    if (const int code = write_stream(connection.client.get(), out, total / 3, rng); code != 0) return code;
    Child rest = Child::fork([&] { return write_stream(connection.client.get(), out, total, rng); });
    connection.client.reset();
    return wait_for(rest, config, ledger);
  });
  connection.client.reset();
  Incoming in;
  const std::string head = receive_whole(connection.server.get(), total / 2, config, ledger);
  if (head.size() != total / 2) return fmt::format("stalled at {} of {}", head.size(), total);
  if (!in.feed(head.data(), head.size())) return in.error();
  Child reader = Child::fork([&] { return read_stream(connection.server.get(), in, total, config, ledger); });
  connection.server.reset();
  const int read_code = wait_for(reader, config, ledger, 2), write_code = wait_for(writer, config, ledger);
  if (read_code != 0 || write_code != 0) {
    return fmt::format("{} ended with {}, {}", read_code == 2 || read_code == -1 ? "stalled: the reader" : "the reader",
                       read_code, write_code);
  }
  ledger.bytes.fetch_add(total);
  return {};
}

}  // namespace

void run_process_scenario(Kind kind, Rng& rng, const TrafficConfig& config, Ledger& ledger) {
  std::string error;
  switch (kind) {
    case Kind::killed:
      error = run_killed(rng, config, ledger);
      break;
    case Kind::shared:
      error = run_shared(rng, config, ledger);
      break;
    default:
      error = run_handed_over(rng, config, ledger);
      break;
  }
  if (error.empty()) {
    ledger.ended[static_cast<uint32_t>(kind)].fetch_add(1);
  } else {
    ledger.fail(kind, error, error.find("stalled") != std::string::npos);
  }
}

}  // namespace shunt::test
