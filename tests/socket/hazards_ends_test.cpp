// Each hazard of redirecting, provoked with the remedy taken out and with it in place: pairs, leaving the map, options,
// ends. hazards_test.cpp has those of order and memory.
#include <bpf/bpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <sockops/pins.hpp>
#include <thread>

#include "socket/mutant.hpp"
#include "socket/socket_calls.hpp"

namespace shunt::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// ---- pairs ----

Connection connect_bound(const NetNs& space, int listener) {
  Connection connection;
  space.run([&] {
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const Endpoint from = endpoint("127.0.0.1", 6000), to = endpoint("127.0.0.1", 5000);
    require(bind(fd.get(), from.get(), from.length) == 0, "bind");
    require(connect(fd.get(), to.get(), to.length) == 0, "connect");
    set_option(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
    connection.client = std::move(fd);
  });
  connection.server = accept_tcp(listener);
  return connection;
}

// Two connections with one four-tuple: of the first only the client is enrolled, of the second only the server.
std::string same_tuple(Accelerated& shortcut) {
  const NetNs spaces[2];
  UniqueFd listeners[2];
  Connection connections[2];
  {
    const OutOfCgroup outside(shortcut.cgroup());
    spaces[0].run([&] { listeners[0] = listen_tcp({.port = 5000}); });
  }
  connections[0] = connect_bound(spaces[0], listeners[0].get());
  spaces[1].run([&] { listeners[1] = listen_tcp({.port = 5000}); });
  {
    const OutOfCgroup outside(shortcut.cgroup());
    connections[1] = connect_bound(spaces[1], listeners[1].get());
  }
  send_all(connections[1].server.get(), "for the second");
  const std::string stray = receive_exactly(connections[0].client.get(), 14, milliseconds(100));
  if (!stray.empty()) return "in the other namespace: " + stray;
  const std::string got = receive_exactly(connections[1].client.get(), 14);
  return got == "for the second" ? std::string() : "lost, but for: " + got;
}

TEST(HazardOfPairs, BytesArriveInAnotherNamespaceWhereTuplesName) {
  expect_remedy({.mutant = "four-tuple"}, same_tuple);
}

UniqueFd listen_outside(Accelerated& shortcut) {
  const OutOfCgroup outside(shortcut.cgroup());
  return listen_tcp();
}

// The peer is not enrolled: the first response must be readable as on plain TCP.
std::string first_response(Accelerated& shortcut) {
  const UniqueFd listener = listen_outside(shortcut);
  const Connection connection = connect_through(listener.get(), local_endpoint(listener.get()));
  send_all(connection.client.get(), "request");
  receive_exactly(connection.server.get(), 7);
  send_all(connection.server.get(), std::string(100, 'r'));
  wait_readable(connection.client.get(), seconds(5));
  const int counted = readable_bytes(connection.client.get());
  const auto row = shortcut.row(connection.client.get());
  if (counted == 100 && !(row && row->raw.tail.in_map)) return {};
  return fmt::format("FIONREAD says {} of 100 bytes; {}", counted, describe(row));
}

TEST(HazardOfPairs, AnUnpairedSocketStaysAndMiscountsWithoutItsWayOut) {
  expect_remedy({.mutant = "unpaired-stays", .probe = without_verdict(), .rounds = 50}, first_response);
}

// ---- leaving the map ----

// What a thread that is already waiting in recv() on a blocking socket gets.
class Reader {
 public:
  explicit Reader(int fd) {
    set_receive_timeout(fd, seconds(10));
    thread_ = std::thread([this, fd] {
      char buffer[100];
      const ssize_t n = recv(fd, buffer, sizeof(buffer), 0);
      got_ = n < 0 ? strerrorname_np(errno) : std::string(buffer, static_cast<size_t>(n));
      ended_.store(true);
    });
    settle();
  }
  ~Reader() {
    if (thread_.joinable()) thread_.join();
  }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  bool ended() const { return ended_.load(); }
  std::string got() {
    thread_.join();
    return got_;
  }

 private:
  std::thread thread_;
  std::atomic<bool> ended_{false};
  std::string got_;
};

bool attach_again(Accelerated& shortcut) {
  return shortcut.engine().attach() && shortcut.engine().guard(shortcut.cgroup().name());
}

std::string drained_with_unread_bytes(Accelerated& shortcut) {
  const Connection connection = fast_pair(shortcut);
  const std::string unread = pattern(1, 5000);
  send_all(connection.client.get(), unread);
  const auto drained = shortcut.engine().detach(milliseconds(300));
  const std::string got = receive_exactly(connection.server.get(), unread.size(), kSoon);
  if (!drained || !attach_again(shortcut)) return "the drain failed";
  return got == unread ? std::string() : fmt::format("{} of {} bytes survive", got.size(), unread.size());
}

TEST(HazardOfLeaving, TheUnreadQueueIsLostWithoutTheProof) {
  expect_remedy({.mutant = "leave-unread"}, drained_with_unread_bytes);
}

std::string drained_with_a_reader_inside(Accelerated& shortcut) {
  const Connection connection = fast_pair(shortcut);
  Reader reader(connection.server.get());
  const auto drained = shortcut.engine().detach(milliseconds(300));
  send_all(connection.client.get(), "for the reader");
  const std::string got = reader.got();
  if (!drained || !attach_again(shortcut)) return "the drain failed";
  return got == "for the reader" ? std::string() : "the blocked reader got " + got;
}

TEST(HazardOfLeaving, ABlockedReaderGetsAnErrorWithoutTheLookAtItsCall) {
  expect_remedy({.mutant = "leave-busy"}, drained_with_a_reader_inside);
}

// An active end without a peer leaves at its first RTT sample, while another thread is blocked in recv().
std::string unpaired_with_a_reader_inside(Accelerated& shortcut) {
  const UniqueFd listener = listen_outside(shortcut);
  const Connection connection = connect_through(listener.get(), local_endpoint(listener.get()));
  Reader reader(connection.client.get());
  send_all(connection.client.get(), "request");
  receive_exactly(connection.server.get(), 7);
  settle();
  send_all(connection.server.get(), "response");
  const std::string got = reader.got();
  return got == "response" ? std::string() : "the blocked reader got " + got;
}

TEST(HazardOfLeaving, ABlockedReaderOfAnUnpairedSocketGetsAnErrorWithoutTheSameLook) {
  expect_remedy({.mutant = "unpaired-leaves-busy"}, unpaired_with_a_reader_inside);
}

// ---- a redirect that fails ----

// Somebody took the peer out of the map between the look at it and the redirect.
std::string redirect_to_nowhere(Accelerated& shortcut) {
  const Connection connection = fast_pair(shortcut);
  const auto sockets = open_map(shortcut.paths(), {}, "sh_socks");
  const uint64_t cookie = socket_cookie(connection.server.get());
  if (!sockets || bpf_map_delete_elem(sockets->get(), &cookie) != 0) return "cannot take the server out of the map";
  if (send(connection.client.get(), "through TCP", 11, MSG_NOSIGNAL) != 11)
    return std::string("send: ") + strerrorname_np(errno);
  const std::string got = receive_exactly(connection.server.get(), 11);
  return got == "through TCP" ? std::string() : "read: " + got;
}

TEST(HazardOfRedirect, AFailureReachesTheSenderIfItDoesNotPass) {
  expect_remedy({.mutant = "drop"}, redirect_to_nowhere);
}

// What two sends to an end that has closed say, as on plain TCP: the second one learns of the reset.
std::string send_to_closed_end(Accelerated& shortcut) {
  Connection connection = fast_pair(shortcut);
  connection.server.reset();
  settle();
  std::string outcomes;
  for (int i = 0; i < 2; ++i) {
    const ssize_t n = send(connection.client.get(), "x", 1, MSG_NOSIGNAL);
    outcomes += n < 0 ? strerrorname_np(errno) : "sent ";
    settle();
  }
  return outcomes == "sent EPIPE" ? std::string() : "sends to a closed end: " + outcomes;
}

TEST(HazardOfRedirect, APeerThatIsGoneIsFoundOut) {
  expect_remedy({.mutant = "peer-unchecked-drop"}, send_to_closed_end);
}

// ---- another program on the socket ----

// Takes over a descriptor: writes a byte, then splices what comes, as no receiver may.
constexpr const char* kStranger = R"(
import os, sys
fd = int(sys.argv[1])
os.write(fd, b"x")
out, into = os.pipe()
got = 0
while got < 100: got += len(os.read(out, os.splice(fd, into, 100)))
)";

std::string a_stranger_on_the_socket(Accelerated& shortcut) {
  const Connection connection = fast_pair(shortcut);
  const int fd = connection.server.get();
  fcntl(fd, F_SETFD, 0);
  TempDir dir;
  Child stranger = Child::exec({"python3", "-c", kStranger, std::to_string(fd)}, dir / "out");
  if (receive_exactly(connection.client.get(), 1) != "x") return "the other program does not answer";
  send_all(connection.client.get(), std::string(100, 's'));
  const int code = stranger.wait(seconds(3));
  if (code == 0) return {};
  return fmt::format("the other program ended with {}: {}", code, read_text(dir / "out"));
}

Settings only_this_program() {
  Settings settings = plain_settings();
  settings.any_program = false;
  settings.receivers = {{.name = "test_hazards"}};
  return settings;
}

TEST(HazardOfExec, AProgramThatIsNoReceiverGetsRedirectedBytesWithoutTheLookAtTheWriter) {
  expect_remedy({.mutant = "any-writer", .settings = only_this_program(), .probe = without_verdict(), .rounds = 1},
                a_stranger_on_the_socket);
}

// ---- options and calls ----

// What the call shows on plain TCP, or the refusal of the option: anything else is a silent difference.
std::string silently_different(Accelerated& shortcut, const std::string& name, const std::string& refusal) {
  const auto calls = socket_calls();
  const auto call = std::find_if(calls.begin(), calls.end(), [&](const SocketCall& c) { return c.name == name; });
  if (call == calls.end()) return "no such call";
  std::string plain;
  {
    const OutOfCgroup outside(shortcut.cgroup());
    Connection connection = connect_pair();
    ping_pong(connection, 20);
    plain = call->observe(connection);
  }
  Connection connection = fast_pair(shortcut);
  const std::string seen = call->observe(connection);
  return seen == plain || seen.starts_with(refusal) ? std::string() : fmt::format("plain {}, here {}", plain, seen);
}

struct Call {
  const char* name;
  const char* refusal;  // what the observation begins with if the option is refused
};

class HazardOfOptions : public testing::TestWithParam<Call> {};

TEST_P(HazardOfOptions, IsSilentWithoutTheHook) {
  expect_remedy({.mutant = "any-option", .rounds = 1, .rounds_to_see = 3}, [](Accelerated& shortcut) {
    return silently_different(shortcut, GetParam().name, GetParam().refusal);
  });
}

INSTANTIATE_TEST_SUITE_P(Calls, HazardOfOptions,
                         testing::Values(Call{"MSG_ZEROCOPY", "set false"}, Call{"SO_RCVLOWAT", "none"},
                                         Call{"SO_PEEK_OFF", "EOPNOTSUPP"}, Call{"SO_TIMESTAMP", "ENOPROTOOPT"},
                                         Call{"TCP_INQ", "ENOPROTOOPT"}));

// A socket in a map that takes an upper layer protocol is unsafe on several kernels and can hang the task for good:
// nothing here sets one. An empty name does not get that far: the kernel's own answer is EINVAL, the hook's ENOENT
// comes first.
std::string upper_layer_protocol(Accelerated& shortcut) {
  const Connection connection = fast_pair(shortcut);
  if (setsockopt(connection.client.get(), IPPROTO_TCP, TCP_ULP, "", 0) == 0) return "accepted";
  return errno == ENOENT ? std::string() : std::string("the kernel itself answers: ") + strerrorname_np(errno);
}

TEST(HazardOfOptions, AnUpperLayerProtocolReachesTheKernelWithoutTheHook) {
  expect_remedy({.mutant = "any-option"}, upper_layer_protocol);
}

TEST(HazardOfOptions, SendsAfterTheEndAreNotRefusedWithoutTheLookAtIt) {
  expect_remedy({.mutant = "send-after-end"},
                [](Accelerated& shortcut) { return silently_different(shortcut, "shutdown(SHUT_WR)", "none"); });
}

// ---- without the verdict ----

// TCP's bytes are not counted by FIONREAD on some kernels: nginx, Java and .NET would wait for ever.
std::string spilled_bytes_counted(Accelerated& shortcut) {
  const Connection connection = fast_pair(shortcut);
  {
    const ThroughTcp all(shortcut);
    send_all(connection.client.get(), std::string(100, 's'));
  }
  wait_readable(connection.server.get(), seconds(5));
  const int counted = readable_bytes(connection.server.get());
  return counted == 100 ? std::string() : fmt::format("FIONREAD says {} of 100 bytes", counted);
}

TEST(HazardOfReaders, SpilledBytesAreNotCountedWithoutTheVerdict) {
  expect_remedy({.mutant = "", .without = [](Remedy& remedy) { remedy.probe.verdict_works = false; }},
                spilled_bytes_counted);
}

// ---- the end ----

// Sends until it is stopped, then until the socket fails: what errno it gets.
class Sender {
 public:
  explicit Sender(int fd) {
    thread_ = std::thread([this, fd] {
      const std::string block(65536, 'b');
      for (;;) {
        const ssize_t n = send(fd, block.data(), block.size(), MSG_NOSIGNAL);
        if (n < 0) break;
        bytes_.fetch_add(static_cast<uint64_t>(n));
      }
      error_.store(errno);
    });
  }
  ~Sender() { thread_.join(); }
  Sender(const Sender&) = delete;
  Sender& operator=(const Sender&) = delete;
  int error() const { return error_.load(); }
  void wait_until_stopped() const {
    for (uint64_t before = UINT64_MAX; bytes_.load() != before;) {
      before = bytes_.load();
      std::this_thread::sleep_for(milliseconds(300));
    }
  }

 private:
  std::thread thread_;
  std::atomic<uint64_t> bytes_{0};
  std::atomic<int> error_{0};
};

// The reader closes with unread bytes; TCP's window is closed, so the FIN is all that the sender's end is told.
std::string closed_with_unread_bytes(Accelerated& shortcut) {
  Connection connection = fast_pair(shortcut);
  std::string wrong;
  {
    const Sender sender(connection.client.get());
    sender.wait_until_stopped();
    std::this_thread::sleep_for(seconds(1));  // the next window probe is as far away
    connection.server.reset();
    const auto reset = [&] {
      const auto read = shortcut.engine().read_events({});
      return read && sender.error() != 0;
    };
    if (!eventually(reset, kSoon)) wrong = "the sender hangs";
    shutdown(connection.client.get(), SHUT_RDWR);  // let a hanging sender go
  }
  return wrong;
}

TEST(HazardOfTheEnd, ABlockedSenderHangsWithoutTheReset) {
  expect_remedy({.mutant = "no-reset", .rounds = 1}, closed_with_unread_bytes);
}

}  // namespace
}  // namespace shunt::test
