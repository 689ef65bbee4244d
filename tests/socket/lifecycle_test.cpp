// The engine comes and goes in the middle of checked traffic: nothing lost, nothing broken, and in the end nothing
// left.
#include <bpf/bpf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/stat.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "support/accelerated.hpp"

namespace shunt::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr uint64_t kConnections = 2000;
constexpr int kStreams = 100;
constexpr auto kPause = milliseconds(10);  // between turns: a hundred busy threads would starve the rest

// The traffic checker as a program inside the cgroup, so that its sockets outlive what happens here.
class Traffic {
 public:
  explicit Traffic(const Cgroup& cgroup, uint64_t connections = kConnections)
      : checker_(Child::exec({SHUNT_TRAFFIC_PROGRAM, "--connections", std::to_string(connections), "--at-once", "100",
                              "--cgroup", cgroup.path(), "--process-share", "1", "-o", "json"},
                             dir_ / "out")) {}

  void expect_exact(uint64_t connections = kConnections) {
    const int code = checker_.wait(seconds(120));
    const std::string output = read_text(dir_ / "out");
    ASSERT_EQ(code, 0) << output;
    EXPECT_EQ(nlohmann::json::parse(output)["connections"], connections);
  }

 private:
  TempDir dir_;
  Child checker_;
};

// Requests and responses on live connections until the end of the test, so that they see every change.
class Streams {
 public:
  explicit Streams(const Cgroup& cgroup) {
    const InCgroup inside(cgroup);
    for (int i = 0; i < kStreams; ++i) connections_.push_back(connect_pair());
    for (size_t i = 0; i < connections_.size(); ++i) {
      threads_.emplace_back([this, i] { exchange(connections_[i], i); });
    }
  }
  ~Streams() { finish(); }
  bool finish() {
    stop_.store(true);
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    return errors_.load() == 0;
  }
  uint64_t bytes() const { return bytes_.load(); }

 private:
  // Requests of any size, each answered: mostly on the shortcut, sometimes not.
  void exchange(const Connection& connection, uint64_t seed) {
    for (uint64_t turn = 0; !stop_.load(); ++turn) {
      const size_t bytes = turn % 7 == 0 ? 60000 : 100 + turn % 1000;
      const std::string request = pattern(seed * 1000003 + turn, bytes);
      send_all(connection.client.get(), request);
      bool exact = receive_exactly(connection.server.get(), bytes, seconds(30)) == request;
      send_all(connection.server.get(), request);
      exact = exact && receive_exactly(connection.client.get(), bytes, seconds(30)) == request;
      if (!exact) {
        errors_.fetch_add(1);
        return;
      }
      bytes_.fetch_add(2 * bytes);
      std::this_thread::sleep_for(kPause);
    }
  }

  std::vector<Connection> connections_;
  std::vector<std::thread> threads_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> bytes_{0};
  std::atomic<int> errors_{0};
};

size_t pins(const Accelerated& shortcut) {
  std::error_code none;
  size_t count = 0;
  for (auto it = std::filesystem::recursive_directory_iterator(shortcut.paths().pin_dir, none);
       !none && it != std::filesystem::recursive_directory_iterator(); ++it) {
    ++count;
  }
  return count;
}

template <typename T>
bool gives(const Result<T>& result, const char* what) {
  if (!result) ADD_FAILURE() << what << ": " << result.error().to_string();
  return result.has_value();
}

TEST(Lifecycle, PinsAreForRootOnly) {
  Accelerated shortcut;
  struct stat info {};
  ASSERT_EQ(stat(shortcut.paths().pin_dir.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  EXPECT_EQ(info.st_uid, 0u);
}

TEST(Lifecycle, NewConnectionsAreAcceleratedWithoutTheEngine) {
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  shortcut.destroy_engine();
  for (int i = 0; i < 10; ++i) {
    const Connection connection = connect_pair();
    EXPECT_TRUE(shortcut.make_fast(connection)) << describe(shortcut.row(connection.client.get()));
  }
}

TEST(Lifecycle, TheEngineDiesAndReturnsUnderTraffic) {
  Accelerated shortcut;
  Traffic traffic(shortcut.cgroup());
  Streams streams(shortcut.cgroup());
  for (int i = 0; i < 5; ++i) {
    shortcut.destroy_engine();
    std::this_thread::sleep_for(milliseconds(100));
    shortcut.open_engine();
    std::this_thread::sleep_for(milliseconds(100));
  }
  EXPECT_TRUE(streams.finish());
  traffic.expect_exact();
  EXPECT_GT(shortcut.counter(SH_C_PAIRS), kConnections / 2);
}

TEST(Lifecycle, DetachUnderTrafficAndAttachAgain) {
  Accelerated shortcut;
  Traffic traffic(shortcut.cgroup());
  Streams streams(shortcut.cgroup());
  for (int i = 0; i < 3; ++i) {
    std::this_thread::sleep_for(milliseconds(200));
    const auto drained = shortcut.engine().detach(seconds(5));
    if (gives(drained, "detach")) {
      EXPECT_TRUE(drained->clean()) << describe(drained->kept);
    }
    EXPECT_EQ(programs_attached(shortcut.cgroup()), 0u);
    EXPECT_TRUE(gives(shortcut.engine().attach(), "attach"));
  }
  EXPECT_TRUE(streams.finish());
  traffic.expect_exact();
}

// A new version with another layout takes over beside the old one: old sockets go on with the old programs, pairs are
// made by the new ones, and the drain at the end of the test reaches both.
TEST(Lifecycle, UpgradeToAnotherLayoutUnderTraffic) {
  Accelerated shortcut;
  Traffic traffic(shortcut.cgroup());
  Streams streams(shortcut.cgroup());
  const InCgroup inside(shortcut.cgroup());
  const Connection older = connect_pair();
  ASSERT_TRUE(shortcut.make_fast(older));
  shortcut.destroy_engine();
  const Paths& paths = shortcut.paths();
  Child upgrade =
      Child::exec({SHUNT_NEXT_ENGINE, paths.bpffs, paths.pin_dir, paths.cgroup_root, shortcut.cgroup().name()});
  ASSERT_EQ(upgrade.wait(seconds(60)), 0);
  const Connection newer = connect_pair();
  EXPECT_TRUE(shortcut.make_fast(newer)) << describe(shortcut.row(newer.client.get()));
  EXPECT_TRUE(shortcut.make_fast(older));
  const auto old_row = shortcut.row(older.client.get()), new_row = shortcut.row(newer.client.get());
  ASSERT_TRUE(old_row && new_row);
  EXPECT_EQ(old_row->generation, 1u);
  EXPECT_EQ(new_row->generation, 2u);
  EXPECT_TRUE(streams.finish());
  traffic.expect_exact();
}

// What `shunt cleanup` does when the daemon is dead.
TEST(Lifecycle, DrainWithTheEngineDeadLeavesNothing) {
  Accelerated shortcut;
  Traffic traffic(shortcut.cgroup());
  Streams streams(shortcut.cgroup());
  std::this_thread::sleep_for(milliseconds(300));
  EXPECT_GT(programs_attached(shortcut.cgroup()), 0u);
  shortcut.destroy_engine();
  const auto drained = drain_pinned(shortcut.paths(), seconds(20), false);
  if (gives(drained, "drain_pinned")) {
    EXPECT_TRUE(drained->clean()) << describe(drained->kept);
  }
  EXPECT_EQ(programs_attached(shortcut.cgroup()), 0u);
  EXPECT_EQ(pins(shortcut), 0u);
  const uint64_t moved = streams.bytes();
  EXPECT_TRUE(eventually([&] { return streams.bytes() > moved + (10 << 20); }));  // they go on
  EXPECT_TRUE(streams.finish());
  traffic.expect_exact();
}

// A daemon that was killed while it made the next generation has left a folder without most of its pins.
TEST(Lifecycle, AnUnfinishedGenerationIsNoObstacle) {
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  const Connection connection = connect_pair();
  ASSERT_TRUE(shortcut.make_fast(connection));
  shortcut.destroy_engine();
  ASSERT_EQ(mkdir((shortcut.paths().pin_dir + "/gen-9-l9").c_str(), 0700), 0);
  const auto status = pinned_status(shortcut.paths());
  if (gives(status, "pinned_status")) {
    EXPECT_EQ(status->pairs, 1u);
    EXPECT_EQ(status->generation, 1u);
  }
  EXPECT_EQ(shortcut.counter(SH_C_PAIRS), 1u);
  const auto why = pinned_why(shortcut.paths(), WhyQuery{.tgid = static_cast<uint32_t>(getpid())});
  if (gives(why, "pinned_why")) {
    EXPECT_EQ(why->size(), 2u);
  }
  const auto drained = drain_pinned(shortcut.paths(), seconds(10), false);
  if (gives(drained, "drain_pinned")) {
    EXPECT_EQ(drained->left, 2u);
  }
  EXPECT_EQ(pins(shortcut), 0u);
  EXPECT_TRUE(ping_pong(connection, 10));
}

// A queue that nobody reads is not destroyed: the socket stays, is named, and its bytes arrive when they are asked for.
TEST(Lifecycle, AnUnreadQueueSurvivesTheDrain) {
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  const Connection connection = connect_pair();
  ASSERT_TRUE(shortcut.make_fast(connection));
  const std::string unread = pattern(1, 5000);
  send_all(connection.client.get(), unread);
  auto drained = shortcut.engine().detach(milliseconds(500));
  ASSERT_TRUE(gives(drained, "detach"));
  ASSERT_EQ(drained->kept.size(), 1u);
  EXPECT_EQ(drained->kept[0].raw.sock.shared.cookie, socket_cookie(connection.server.get()));
  send_all(connection.client.get(), unread);
  EXPECT_TRUE(receive_exactly(connection.server.get(), 10000) == unread + unread);
  EXPECT_TRUE(ping_pong(connection, 10));
  drained = drain_pinned(shortcut.paths(), seconds(5), true);
  ASSERT_TRUE(gives(drained, "drain_pinned"));
  EXPECT_TRUE(drained->clean()) << describe(drained->kept);
  EXPECT_TRUE(ping_pong(connection, 10));
}

// What is left of Shunt when nothing pins it and no process of its runs: the sockets that hold its programs.
TEST(Lifecycle, UnreadBytesOutliveAllElse) {
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  const Connection open = connect_pair(), closed = connect_pair();
  ASSERT_TRUE(shortcut.make_fast(open));
  ASSERT_TRUE(shortcut.make_fast(closed));
  const std::string unread = pattern(1, 5000);
  send_all(open.client.get(), unread);
  ASSERT_EQ(shutdown(closed.server.get(), SHUT_WR), 0);
  ASSERT_EQ(receive_to_eof(closed.client.get()), "");
  send_all(closed.client.get(), unread);
  ASSERT_EQ(shutdown(closed.client.get(), SHUT_WR), 0);  // the server's socket is in TCP_CLOSE now
  shortcut.destroy_engine();
  const auto drained = drain_pinned(shortcut.paths(), milliseconds(500), false);
  ASSERT_TRUE(gives(drained, "drain_pinned"));
  ASSERT_EQ(drained->kept.size(), 1u);
  EXPECT_EQ(drained->kept[0].raw.sock.shared.cookie, socket_cookie(open.server.get()));
  EXPECT_EQ(drained->closed, 2u);  // the client's, too
  EXPECT_EQ(pins(shortcut), 0u);
  std::this_thread::sleep_for(seconds(2));  // the kernel frees a map after a grace period
  send_all(open.client.get(), unread);
  EXPECT_TRUE(receive_exactly(open.server.get(), 10000) == unread + unread);
  EXPECT_TRUE(receive_to_eof(closed.server.get()) == unread);
  EXPECT_TRUE(ping_pong(open, 10));
}

// Connections that are older than the attachment, or were drained, are plain TCP: FIONREAD counts.
TEST(Lifecycle, ADrainedConnectionIsPlainTcp) {
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  const Connection connection = connect_pair();
  ASSERT_TRUE(shortcut.make_fast(connection));
  const auto drained = shortcut.engine().detach(seconds(5));
  ASSERT_TRUE(gives(drained, "detach"));
  EXPECT_TRUE(drained->clean()) << describe(drained->kept);
  ASSERT_TRUE(ping_pong(connection, 20));
  send_all(connection.client.get(), std::string(321, 'p'));
  wait_readable(connection.server.get(), seconds(1));
  EXPECT_EQ(readable_bytes(connection.server.get()), 321);
}

TEST(Lifecycle, SettingsChangeUnderTraffic) {
  Accelerated shortcut;
  Traffic traffic(shortcut.cgroup());
  for (int i = 0; i < 8; ++i) {
    Settings settings = plain_settings();
    settings.spill_bytes = i % 2 ? 4096 : 512 * 1024;
    settings.spill_messages = i % 2 ? 4 : 512;
    settings.firewall_interval = milliseconds(i % 3 * 10);
    settings.profile = i % 2;
    shortcut.apply(settings);
    std::this_thread::sleep_for(milliseconds(100));
  }
  traffic.expect_exact();
}

TEST(Lifecycle, NothingIsLeftAfterAnEngine) {
  const auto groups = [] {
    size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(Cgroup::mount_point())) count += entry.is_directory();
    return count;
  };
  const size_t before = groups();
  Paths paths;
  {
    Accelerated shortcut;
    paths = shortcut.paths();
    const InCgroup inside(shortcut.cgroup());
    const Connection connection = connect_pair();
    EXPECT_TRUE(shortcut.make_fast(connection));
  }
  EXPECT_EQ(groups(), before);
  EXPECT_FALSE(std::filesystem::exists(paths.pin_dir));
}

}  // namespace
}  // namespace shunt::test
