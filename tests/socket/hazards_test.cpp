// Each hazard of redirecting, provoked with the remedy taken out and with it in place: order, backpressure, memory.
// hazards_ends_test.cpp has those of pairs, of leaving the map, of options and of the end. Firewalls and connection
// tracking are in topology_test.cpp.
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "socket/mutant.hpp"

namespace shunt::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

tcp_info info_of(int fd) {
  tcp_info info{};
  socklen_t length = sizeof(info);
  require(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0, "TCP_INFO");
  return info;
}

bool acknowledged(int fd) {
  return eventually([&] { return info_of(fd).tcpi_unacked == 0; });
}

// Many small messages in one direction are left to TCP anyway, which would hide what is provoked here.
Settings stream_settings() {
  Settings settings = plain_settings();
  settings.one_way_messages = 100000;
  return settings;
}

// Empty if `got` is `sent`.
std::string difference(const std::string& got, const std::string& sent) {
  if (got == sent) return {};
  if (sent.size() <= 16) return fmt::format("sent {}, read {}", sent, got);
  const auto at = std::mismatch(got.begin(), got.end(), sent.begin(), sent.end()).first - got.begin();
  return fmt::format("sent {} bytes, read {}, the first wrong one at {}", sent.size(), got.size(), at);
}

// What a non-blocking sender gets rid of, in messages of `bytes` each, up to `limit` messages.
std::string send_until_full(int fd, size_t bytes, size_t limit) {
  std::string sent;
  for (size_t i = 0; i < limit; ++i) {
    const std::string message = pattern(i, bytes);
    const ssize_t n = send(fd, message.data(), bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno == EAGAIN) break;
    require(n > 0, "send");
    sent.append(message, 0, static_cast<size_t>(n));
  }
  return sent;
}

// ---- order ----

// The first bytes are in the TCP queue of the passive end before it knows its peer.
std::string early_sends(Accelerated&) {
  const std::string text = "ABCDEFGH";
  const UniqueFd listener = listen_tcp({.defer_accept_seconds = 5});
  Connection connection;
  connection.client = connect_tcp(local_endpoint(listener.get()));
  for (const char letter : text) send_all(connection.client.get(), std::string(1, letter));
  connection.server = accept_tcp(listener.get());
  return difference(receive_exactly(connection.server.get(), text.size()), text);
}

TEST(HazardOfOrder, EarlySendsOvertakeWithoutTheLatch) {
  expect_remedy({.mutant = "no-latch", .probe = without_verdict(), .rounds = 100}, early_sends);
}

// Without the verdict, with which TCP's bytes wait with the redirected ones and only those that TCP has not sent can be
// overtaken. The direction has spilled; the reader takes a part, so that there is room for redirected bytes again.
std::string slow_reader(Accelerated& shortcut) {
  const Connection connection = fast_pair(shortcut);
  std::string sent = send_until_full(connection.client.get(), 8192, 4096);
  std::string got = receive_exactly(connection.server.get(), 128 * 1024);
  sent += send_until_full(connection.client.get(), 1000, 8);
  got += receive_exactly(connection.server.get(), sent.size() - got.size());
  return difference(got, sent);
}

TEST(HazardOfOrder, ASpilledStreamIsOvertakenWithoutTheLatch) {
  expect_remedy({.mutant = "no-latch", .settings = stream_settings(), .probe = without_verdict()}, slow_reader);
}

// TCP holds a part of the bytes back (TCP_CORK), the next message must not overtake it.
std::string held_back(Accelerated& shortcut) {
  const Connection connection = fast_pair(shortcut);
  set_option(connection.client.get(), IPPROTO_TCP, TCP_CORK, 1);
  {
    const ThroughTcp all(shortcut);
    send_all(connection.client.get(), "A");
  }
  send_all(connection.client.get(), "B");
  set_option(connection.client.get(), IPPROTO_TCP, TCP_CORK, 0);
  return difference(receive_exactly(connection.server.get(), 2), "AB");
}

TEST(HazardOfOrder, UnsentBytesAreOvertakenWithALatchThatLooksAtTheReaderOnly) {
  expect_remedy({.mutant = "latch-unsent"}, held_back);
  expect_remedy({.mutant = "no-latch"}, held_back);
}

std::string delivered_but_unread(Accelerated& shortcut) {
  const Connection connection = fast_pair(shortcut);
  {
    const ThroughTcp all(shortcut);
    send_all(connection.client.get(), "A");
  }
  if (!acknowledged(connection.client.get())) return "not acknowledged";
  send_all(connection.client.get(), "B");
  return difference(receive_exactly(connection.server.get(), 2), "AB");
}

TEST(HazardOfOrder, UnreadBytesAreOvertakenWithALatchThatLooksAtTheSenderOnly) {
  expect_remedy({.mutant = "latch-unread", .probe = without_verdict()}, delivered_but_unread);
}

// A reader that waits for all of its bytes has got the first part through TCP; the rest must find it there.
std::string waiting_for_all(Accelerated& shortcut) {
  const Connection connection = fast_pair(shortcut);
  set_receive_timeout(connection.server.get(), seconds(2));
  char buffer[10];
  ssize_t got = 0;
  std::thread reader([&] { got = recv(connection.server.get(), buffer, sizeof(buffer), MSG_WAITALL); });
  settle();
  {
    const ThroughTcp all(shortcut);
    send_all(connection.client.get(), "first");
  }
  settle();
  send_all(connection.client.get(), "later");
  reader.join();
  if (got == sizeof(buffer)) return {};
  return fmt::format("{} of {} bytes, the others are in the queue: {}", got, sizeof(buffer),
                     receive_exactly(connection.server.get(), 5, kSoon));
}

TEST(HazardOfOrder, AReaderInsideTcpIsNotWokenWithoutTheLookAtTheWayBack) {
  expect_remedy({.mutant = "latch-inside", .probe = without_verdict()}, waiting_for_all);
}

// ---- backpressure and memory ----

constexpr size_t kNeverStopped = 64 << 20;  // bytes: some ten times of what TCP takes

std::string a_reader_that_never_reads(Accelerated& shortcut) {
  const Connection connection = fast_pair(shortcut);
  const size_t sent = send_until_full(connection.client.get(), 65536, kNeverStopped / 65536).size();
  if (sent < kNeverStopped) return {};
  return fmt::format("{} MiB queued, the sender was not stopped: {}", sent >> 20,
                     describe(shortcut.row(connection.client.get())));
}

TEST(HazardOfMemory, ASenderIsNeverStoppedWithoutTheSpill) {
  expect_remedy({.mutant = "no-spill", .settings = stream_settings()}, a_reader_that_never_reads);
}

constexpr uint64_t kPairBytesMax = 8 << 20;

// A message of a byte costs the kernel several hundred. Many pairs, so that it stands out from what others use
// meanwhile.
std::string one_byte_messages(Accelerated& shortcut) {
  constexpr int kPairs = 8;
  std::vector<Connection> connections(kPairs);
  for (Connection& connection : connections) connection = fast_pair(shortcut);
  std::this_thread::sleep_for(kSoon);  // what an earlier round used is given back
  const uint64_t before = kernel_bytes_used();
  for (const Connection& connection : connections) send_until_full(connection.client.get(), 1, 70000);
  const uint64_t after = kernel_bytes_used();
  const uint64_t used = after > before ? (after - before) / kPairs : 0;
  if (used <= kPairBytesMax) return {};
  return fmt::format("{} MiB of the kernel's memory for one pair", used >> 20);
}

TEST(HazardOfMemory, SmallMessagesTakeTheKernelsMemoryWithoutTheirLimit) {
  expect_remedy({.mutant = "no-message-limit", .settings = stream_settings(), .rounds = 1}, one_byte_messages);
}

// A cgroup of the memory controller, wherever that is: v2 limits all memory, v1 the buffers of TCP sockets.
class LimitedMemory {
 public:
  explicit LimitedMemory(uint64_t bytes) {
    const std::string v2 = Cgroup::mount_point();
    const bool unified = read_text(v2 + "/cgroup.controllers").find("memory") != std::string::npos;
    if (unified) require(write_text(v2 + "/cgroup.subtree_control", "+memory"), "enable the memory controller");
    root_ = unified ? v2 : "/sys/fs/cgroup/memory";
    path_ = fmt::format("{}/shunt-test-{}-memory", root_, getpid());
    home_ = root_ + home(unified ? "0::" : ":memory:");
    require(mkdir(path_.c_str(), 0755) == 0, "make " + path_);
    const char* file = unified ? "/memory.max" : "/memory.kmem.tcp.limit_in_bytes";
    require(write_text(path_ + file, std::to_string(bytes)), "limit " + path_);
  }
  ~LimitedMemory() {
    eventually([&] { return rmdir(path_.c_str()) == 0; });
  }
  LimitedMemory(const LimitedMemory&) = delete;
  LimitedMemory& operator=(const LimitedMemory&) = delete;

  // A socket is charged to the cgroup in which it is accepted.
  UniqueFd accept(int listener) const {
    require(write_text(path_ + "/cgroup.procs", "0"), "enter " + path_);
    UniqueFd fd = accept_tcp(listener);
    require(write_text(home_ + "/cgroup.procs", "0"), "leave " + path_);
    return fd;
  }

 private:
  static std::string home(const std::string& hierarchy) {
    const std::string text = read_text("/proc/self/cgroup");
    const size_t from = text.find(hierarchy) + hierarchy.size();
    return text.substr(from, text.find('\n', from) - from);
  }
  std::string root_, path_, home_;
};

// Readers that may have less than what is on its way to them. TCP holds its senders back; it never gives them ENOMEM.
std::string readers_without_memory(Accelerated& shortcut) {
  constexpr int kPairs = 60;
  const LimitedMemory limited(3 << 20);
  const UniqueFd listener = listen_tcp();
  std::vector<Connection> connections(kPairs);
  for (Connection& connection : connections) {
    connection.client = connect_tcp(local_endpoint(listener.get()));
    connection.server = limited.accept(listener.get());
    if (!shortcut.make_fast(connection)) return "not on the shortcut";
  }
  const std::string message(2000, 'm');
  for (const Connection& connection : connections) {
    for (int i = 0; i < 30; ++i) {
      const ssize_t n = send(connection.client.get(), message.data(), message.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n < 0 && errno == EAGAIN) break;
      if (n < 0) return std::string("send: ") + strerrorname_np(errno);
    }
  }
  return {};
}

TEST(HazardOfMemory, ASenderGetsENOMEMForItsReaderWithoutTheLookAtItsMemory) {
  expect_remedy({.mutant = "no-memory-check", .settings = stream_settings(), .rounds_to_see = 3},
                readers_without_memory);
}

}  // namespace
}  // namespace shunt::test
