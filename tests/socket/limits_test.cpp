// Bursts of connections, reuse of pids, cgroups and processes by others, and receivers without memory: connections are
// paired or have a reason, bytes are exact, nothing is left in the maps.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "socket/connector.hpp"
#include "support/accelerated.hpp"
#include "support/checked_bytes.hpp"

namespace shunt::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

// ---- many new connections a second ----

constexpr int kThreads = 4;
constexpr auto kBurst = seconds(3);

// Connections of one request each to the listener's own thread, as many as fit into the time. False: one was not exact.
bool connect_for_a_while(int listener, uint64_t seed, std::atomic<uint64_t>& connections) {
  const Endpoint to = local_endpoint(listener);
  const auto begin = Clock::now();
  for (uint64_t i = 0; Clock::now() - begin < kBurst; ++i) {
    const Connection connection = connect_through(listener, to);
    const std::string request = pattern(seed + i, 100 + i % 700), response = pattern(~(seed + i), 100 + i % 900);
    send_all(connection.client.get(), request);
    if (receive_exactly(connection.server.get(), request.size()) != request) return false;
    send_all(connection.server.get(), response);
    if (receive_exactly(connection.client.get(), response.size()) != response) return false;
    connections.fetch_add(1);
  }
  return true;
}

// In a namespace of its own, so that the host keeps its ports.
uint64_t burst(const NetNs& space, const std::vector<UniqueFd>& listeners) {
  std::atomic<uint64_t> connections{0};
  std::vector<std::thread> threads;
  for (size_t i = 0; i < listeners.size(); ++i) {
    threads.emplace_back(
        [&, i] { space.run([&] { EXPECT_TRUE(connect_for_a_while(listeners[i].get(), i << 40, connections)); }); });
  }
  for (std::thread& thread : threads) thread.join();
  fmt::print("{} connections, {} a second\n", connections.load(), connections.load() / kBurst.count());
  return connections.load();
}

std::vector<UniqueFd> listeners_in(const NetNs& space, int count) {
  std::vector<UniqueFd> listeners(count);
  space.run([&] {
    for (UniqueFd& listener : listeners) listener = listen_tcp();
  });
  return listeners;
}

void expect_no_traces(Accelerated& shortcut) {
  EXPECT_TRUE(eventually([&] { return shortcut.entries("sh_socks") == 0; })) << shortcut.entries("sh_socks");
  EXPECT_EQ(shortcut.entries("sh_answers"), 0u);
  EXPECT_EQ(shortcut.rows().size(), 0u) << describe(shortcut.rows());
}

TEST(Burst, EveryConnectionIsPairedAndNothingIsLeft) {
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  const NetNs space;
  const uint64_t made = burst(space, listeners_in(space, kThreads));
  EXPECT_EQ(shortcut.counter(SH_C_SOCKETS_SEEN), made);
  EXPECT_EQ(shortcut.counter(SH_C_PAIRS), made) << shortcut.summary();
  EXPECT_EQ(shortcut.counter(SH_C_ENROLLED), 2 * made) << shortcut.summary();
  EXPECT_EQ(shortcut.counter(SH_C_LEFT), 0u) << shortcut.summary();
  EXPECT_EQ(shortcut.counter(SH_C_CLOSED), 2 * made) << shortcut.summary();
  expect_no_traces(shortcut);
  EXPECT_EQ(shortcut.entries("sh_isns"), 0u);
}

TEST(Burst, ConnectionsWithoutAPeerAreCountedAndNothingIsLeft) {
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  const NetNs space;
  std::vector<UniqueFd> listeners = listeners_in(space, kThreads / 2);
  {
    const OutOfCgroup outside(shortcut.cgroup());
    for (UniqueFd& listener : listeners_in(space, kThreads / 2)) listeners.push_back(std::move(listener));
  }
  const uint64_t made = burst(space, listeners);
  EXPECT_EQ(shortcut.counter(SH_C_SOCKETS_SEEN), made);
  EXPECT_EQ(shortcut.counter(SH_C_PAIRS) + shortcut.reason_count(SH_R_NO_PEER), made) << shortcut.summary();
  EXPECT_EQ(shortcut.counter(SH_C_LEFT), shortcut.reason_count(SH_R_NO_PEER)) << shortcut.summary();
  EXPECT_GT(shortcut.counter(SH_C_LEFT), 0u);
  EXPECT_GT(shortcut.counter(SH_C_PAIRS), 0u);
  expect_no_traces(shortcut);
}

// ---- names that are given again ----

TEST(ReusedPid, DoesNotInheritTheVerdictOfTheProcessThatHadIt) {
  constexpr int kAttempts = 50;
  Accelerated shortcut(settings_with_verification());
  const InCgroup inside(shortcut.cgroup());
  const UniqueFd listener = verified_listener(shortcut);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    pid_t pid = 0;
    {
      const Connector first(listener.get());
      pid = first.pid();
      EXPECT_FALSE(shortcut.is_in_map(first.connect(listener.get()).get()));
      verify_all(shortcut);
      ASSERT_TRUE(shortcut.is_in_map(first.connect(listener.get()).get())) << shortcut.summary();
    }
    const Connector second(listener.get(), pid);
    if (!second.running()) continue;  // somebody was faster
    EXPECT_FALSE(shortcut.is_in_map(second.connect(listener.get()).get()));
    verify_all(shortcut);
    EXPECT_TRUE(shortcut.is_in_map(second.connect(listener.get()).get()));
    return;
  }
  FAIL() << "no pid was given again in " << kAttempts << " attempts";
}

// A cgroup below the test's own.
class Inner {
 public:
  explicit Inner(const Cgroup& outer) : path_(outer.path() + "/inner"), name_(outer.name() + "/inner") { make(); }
  const std::string& name() const { return name_; }
  uint64_t id() const {
    struct stat info {};
    require(stat(path_.c_str(), &info) == 0, "look at " + path_);
    return info.st_ino;
  }
  void make() const { require(mkdir(path_.c_str(), 0755) == 0, "make " + path_); }
  void make_again() const {
    require(eventually([&] { return rmdir(path_.c_str()) == 0; }), "remove " + path_);
    make();
  }
  Connection connect(const Cgroup& outer) const {
    require(write_text(path_ + "/cgroup.procs", "0"), "enter " + path_);
    Connection connection = connect_pair();
    outer.leave();
    return connection;
  }

 private:
  std::string path_;
  std::string name_;
};

TEST(CgroupMadeAgain, IsAnotherOneUntilTheSettingsAreAppliedAgain) {
  Accelerated shortcut;
  const Inner inner(shortcut.cgroup());
  Settings settings = plain_settings();
  settings.selection.cgroups.include = {inner.name()};
  ASSERT_TRUE(shortcut.engine().apply(settings).has_value());
  ASSERT_TRUE(shortcut.engine().guard(inner.name()).has_value());
  EXPECT_TRUE(shortcut.make_fast(inner.connect(shortcut.cgroup())));

  const uint64_t old_id = inner.id();
  inner.make_again();
  EXPECT_NE(inner.id(), old_id);
  const Connection between = inner.connect(shortcut.cgroup());
  EXPECT_TRUE(ping_pong(between, 20));
  EXPECT_FALSE(shortcut.row(between.client.get())) << "not attached to this one";

  ASSERT_TRUE(shortcut.engine().apply(settings).has_value());
  ASSERT_TRUE(shortcut.engine().guard(inner.name()).has_value());
  EXPECT_TRUE(shortcut.make_fast(inner.connect(shortcut.cgroup())));
  const auto status = shortcut.engine().status();
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(status->attach_points, std::vector<std::string>{inner.name()}) << "the removed one is forgotten";
}

TEST(CgroupMadeAgain, IsExcludedWhenTheSettingsAreAppliedAgain) {
  Accelerated shortcut;
  const Inner inner(shortcut.cgroup());
  Settings settings = plain_settings();
  settings.selection.cgroups.exclude = {inner.name()};
  for (uint64_t round = 1; round <= 3; ++round) {
    shortcut.apply(settings);
    ASSERT_TRUE(shortcut.engine().guard(inner.name()).has_value());
    const Connection connection = inner.connect(shortcut.cgroup());
    EXPECT_TRUE(ping_pong(connection, 20));
    EXPECT_FALSE(shortcut.is_in_map(connection.client.get()));
    EXPECT_EQ(shortcut.reason_count(SH_R_CGROUP), round) << shortcut.summary();
    EXPECT_EQ(shortcut.entries("sh_cgroups"), 1u);
    inner.make_again();
  }
}

struct Pipe {
  UniqueFd read_end, write_end;
  Pipe() {
    int ends[2];
    require(pipe2(ends, O_CLOEXEC) == 0, "pipe");
    read_end.reset(ends[0]);
    write_end.reset(ends[1]);
  }
};

// ---- exec ----

// The child becomes `cat` with the connection as its standard input and output.
Child connector_that_becomes_cat(int listener, int go) {
  const Endpoint to = local_endpoint(listener);
  return Child::fork([=] {
    const UniqueFd client = connect_tcp(to);
    for (int turn = 0; turn < 20; ++turn) send_all(client.get(), receive_exactly(client.get(), 64));
    char order = 0;
    if (read(go, &order, 1) != 1) return 1;
    dup2(client.get(), STDIN_FILENO);
    dup2(client.get(), STDOUT_FILENO);
    execlp("cat", "cat", nullptr);
    return 127;
  });
}

TEST(Exec, OfAProgramThatIsNoReceiverStopsBothDirections) {
  Settings settings = plain_settings();
  settings.any_program = false;
  settings.receivers = {{.name = own_program()}};
  Accelerated shortcut(settings);
  const InCgroup inside(shortcut.cgroup());
  const UniqueFd listener = listen_tcp();
  const Pipe go;
  Child child = connector_that_becomes_cat(listener.get(), go.read_end.get());
  UniqueFd server = accept_tcp(listener.get());
  const auto echo = [&](uint64_t seed, size_t bytes) {
    const std::string text = pattern(seed, bytes);
    send_all(server.get(), text);
    return receive_exactly(server.get(), bytes) == text;
  };
  for (uint64_t turn = 0; turn < 20; ++turn) ASSERT_TRUE(echo(turn, 64));
  ASSERT_GT(shortcut.row(server.get())->raw.sock.fast_bytes, 0u) << describe(shortcut.row(server.get()));

  require(write(go.write_end.get(), "x", 1) == 1, "order the exec");
  for (uint64_t turn = 0; turn < 20; ++turn) ASSERT_TRUE(echo(turn, 5000));
  const auto row = shortcut.row(server.get());
  ASSERT_TRUE(row);
  EXPECT_EQ(row->raw.sock.state, uint32_t{SH_STATE_STOPPED}) << describe(row);
  EXPECT_EQ(row->raw.sock.reason, uint32_t{SH_R_PEER_STOPPED}) << describe(row);
  EXPECT_EQ(shortcut.reason_count(SH_R_EXEC), 1u) << shortcut.summary();
  const uint64_t fast = row->raw.sock.fast_bytes;
  for (uint64_t turn = 0; turn < 20; ++turn) ASSERT_TRUE(echo(turn, 5000));
  EXPECT_EQ(shortcut.row(server.get())->raw.sock.fast_bytes, fast);
  server.reset();
  EXPECT_EQ(child.wait(), 0);
}

// ---- receivers without memory ----

constexpr int kReceivers = 256;
constexpr size_t kStreamBytes = 100000;
constexpr size_t kBlockBytes = 1000;

// A few turns on each connection, twice: what went through TCP in the first round is acknowledged by the second.
constexpr int kRounds = 2;
constexpr uint64_t kTurns = 10;
constexpr size_t kTurnBytes = 64;
constexpr auto kDelayedAck = milliseconds(200);

void echo_turns(const std::vector<UniqueFd>& connections) {
  for (int round = 0; round < kRounds; ++round) {
    for (const UniqueFd& fd : connections) {
      for (uint64_t turn = 0; turn < kTurns; ++turn) send_all(fd.get(), receive_exactly(fd.get(), kTurnBytes));
    }
  }
}

void take_turns(const std::vector<UniqueFd>& connections) {
  for (int round = 0; round < kRounds; ++round) {
    for (const UniqueFd& fd : connections) {
      for (uint64_t turn = 0; turn < kTurns; ++turn) {
        const std::string text = pattern(turn, kTurnBytes);
        send_all(fd.get(), text);
        EXPECT_EQ(receive_exactly(fd.get(), kTurnBytes), text);
      }
    }
    std::this_thread::sleep_for(kDelayedAck);
  }
}

// A process that accepts connections, reads a little from each, and nothing more until it is told to.
int receive_late(int listener, int ready, int go) {
  std::vector<UniqueFd> connections;
  for (int i = 0; i < kReceivers; ++i) connections.push_back(accept_tcp(listener));
  echo_turns(connections);
  std::vector<size_t> got(kReceivers, 0);
  char order = 0, buffer[8192];
  // From here on it needs no page more: the kernel would end a process that does.
  require(mlockall(MCL_CURRENT) == 0, "lock the receiver's memory");
  require(write(ready, "r", 1) == 1, "say that it is ready");
  if (read(go, &order, 1) != 1) return 1;
  const auto begin = Clock::now();
  for (size_t all = 0; all < kReceivers * kStreamBytes;) {
    if (Clock::now() - begin > seconds(60)) return 3;
    for (int i = 0; i < kReceivers; ++i) {
      const ssize_t n = recv(connections[i].get(), buffer, sizeof(buffer), MSG_DONTWAIT);
      if (n <= 0) continue;
      if (pattern_mismatch(i, got[i], buffer, n) != static_cast<size_t>(n)) return 2;
      got[i] += n;
      all += n;
    }
  }
  return 0;
}

// Sends all streams at once, without waiting for any. `stuck` is called when nobody takes a byte any more.
// The errno of the first send that failed as none may, or 0.
int send_streams(const std::vector<UniqueFd>& connections, const std::function<void()>& stuck) {
  std::vector<size_t> sent(connections.size(), 0);
  std::vector<std::string> streams;
  for (size_t i = 0; i < connections.size(); ++i) streams.push_back(pattern(i, kStreamBytes));
  bool told = false;
  auto moved = Clock::now();
  for (size_t all = 0; all < connections.size() * kStreamBytes;) {
    for (size_t i = 0; i < connections.size(); ++i) {
      const size_t bytes = std::min(kBlockBytes, kStreamBytes - sent[i]);
      if (bytes == 0) continue;
      const ssize_t n = send(connections[i].get(), streams[i].data() + sent[i], bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n < 0 && errno != EAGAIN) return errno;
      if (n <= 0) continue;
      sent[i] += n;
      all += n;
      moved = Clock::now();
    }
    if (!told && Clock::now() - moved > milliseconds(300)) {
      told = true;
      stuck();
    }
    if (Clock::now() - moved > seconds(60)) return ETIMEDOUT;
  }
  if (!told) stuck();
  return 0;
}

// `limit` is called in the receiving process before it accepts anything, `tighten` when all connections are fast.
// On plain TCP too, for comparison.
enum class Path { plain, shortcut };

void expect_streams_to_a_receiver_without_memory(Path path, const std::function<void()>& limit,
                                                 const std::function<void()>& tighten) {
  Settings settings = plain_settings();
  settings.one_way_messages = UINT32_MAX / 512;
  Accelerated shortcut(settings);
  if (path == Path::shortcut) shortcut.cgroup().enter();
  const UniqueFd listener = listen_tcp();
  const Pipe ready, go;
  Child receiver = Child::fork([&] {
    limit();
    return receive_late(listener.get(), ready.write_end.get(), go.read_end.get());
  });
  std::vector<UniqueFd> connections;
  for (int i = 0; i < kReceivers; ++i) connections.push_back(connect_tcp(local_endpoint(listener.get())));
  take_turns(connections);
  int fast = 0;
  for (const Row& row : shortcut.rows()) fast += row.raw.sock.state == SH_STATE_FAST;
  EXPECT_EQ(fast, path == Path::plain ? 0 : 2 * kReceivers) << describe(shortcut.rows());
  char answer = 0;
  ASSERT_EQ(read(ready.read_end.get(), &answer, 1), 1);
  tighten();
  const int error = send_streams(connections, [&] { require(write(go.write_end.get(), "r", 1) == 1, "let it read"); });
  EXPECT_EQ(error, 0) << strerror(error) << "; " << shortcut.summary();
  if (error == 0) {
    EXPECT_EQ(receiver.wait(seconds(90)), 0) << shortcut.summary();
  }
  if (path == Path::plain) return;
  EXPECT_GT(shortcut.reason_count(SH_R_MEMORY), 0u) << shortcut.summary();
  uint64_t redirected = 0;
  for (const Row& row : shortcut.rows()) redirected += row.raw.sock.fast_bytes;
  fmt::print("{} of {} bytes redirected; {}\n", redirected, kReceivers * kStreamBytes, shortcut.summary());
}

// A memory cgroup of either version, below the root of its mount; sockets of processes that enter it are charged to it.
class MemoryCgroup {
 public:
  MemoryCgroup() {
    const bool unified = read_text(Cgroup::mount_point() + "/cgroup.controllers").find("memory") != std::string::npos;
    if (unified) {
      require(write_text(Cgroup::mount_point() + "/cgroup.subtree_control", "+memory"), "use the memory controller");
      limit_file_ = "/memory.max";
      usage_file_ = "/memory.current";
    } else {
      limit_file_ = "/memory.kmem.tcp.limit_in_bytes";
      usage_file_ = "/memory.kmem.tcp.usage_in_bytes";
    }
    path_ = fmt::format("{}/shunt-test-memory-{}", unified ? Cgroup::mount_point() : legacy_mount(), getpid());
    require(mkdir(path_.c_str(), 0755) == 0, "make " + path_);
  }
  ~MemoryCgroup() {
    if (!eventually([&] { return rmdir(path_.c_str()) == 0; })) ADD_FAILURE() << "cannot remove " << path_;
  }
  MemoryCgroup(const MemoryCgroup&) = delete;
  MemoryCgroup& operator=(const MemoryCgroup&) = delete;

  void enter() const { require(write_text(path_ + "/cgroup.procs", "0"), "enter " + path_); }
  void allow_more(uint64_t bytes) const {
    const uint64_t used = std::stoull("0" + read_text(path_ + usage_file_));
    require(write_text(path_ + limit_file_, std::to_string(used + bytes)), "limit " + path_);
  }

 private:
  static std::string legacy_mount() {
    std::ifstream mounts("/proc/self/mounts");
    std::string device, where, type, options, rest;
    while (mounts >> device >> where >> type >> options && std::getline(mounts, rest)) {
      if (type == "cgroup" && options.find("memory") != std::string::npos) return where;
    }
    errno = ENOENT;
    die("find a memory cgroup of either version");
  }

  std::string path_;
  std::string limit_file_;
  std::string usage_file_;
};

class Memory : public testing::TestWithParam<Path> {};

TEST_P(Memory, OfTheReceiversCgroupIsShort) {
  const MemoryCgroup group;
  group.allow_more(512 << 20);  // accounting of sockets starts with a limit
  expect_streams_to_a_receiver_without_memory(
      GetParam(), [&] { group.enter(); }, [&] { group.allow_more(3 << 20); });
}

// Concerns all TCP sockets of the machine: for guests (tests/vm/tests.list), never for a host.
TEST_P(Memory, DISABLED_OfAllTcpSocketsIsShort) {
  const std::string file = "/proc/sys/net/ipv4/tcp_mem", before = read_text(file);
  expect_streams_to_a_receiver_without_memory(
      GetParam(), [] {}, [&] { require(write_text(file, "1024 2048 4096"), "limit TCP"); });
  require(write_text(file, before), "restore the limit");
}

INSTANTIATE_TEST_SUITE_P(On, Memory, testing::Values(Path::plain, Path::shortcut),
                         [](const auto& info) { return info.param == Path::plain ? "PlainTcp" : "TheShortcut"; });

}  // namespace
}  // namespace shunt::test
