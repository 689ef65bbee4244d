// A reader that never reads: the sender is stopped about where plain TCP stops it, and the kernel's memory stays
// bounded.
#include <fmt/format.h>
#include <poll.h>

#include <thread>

#include "support/accelerated.hpp"

namespace shunt::test {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr auto kQuiet = milliseconds(1500);  // no room for so long: stopped
constexpr auto kLimit = std::chrono::seconds(60);
constexpr uint64_t kPairBytesMax = 8 << 20;

// Sends without blocking until nothing has been taken for a while; returns what was taken.
uint64_t bytes_until_stopped(int fd, size_t block_bytes) {
  set_nonblocking(fd, true);
  const std::string block(block_bytes, 'b');
  uint64_t sent = 0;
  auto last = Clock::now();
  const auto begin = last;
  while (Clock::now() - last < kQuiet && Clock::now() - begin < kLimit) {
    const ssize_t n = send(fd, block.data(), block.size(), MSG_NOSIGNAL);
    if (n > 0) {
      sent += static_cast<uint64_t>(n);
      last = Clock::now();
      continue;
    }
    pollfd waiting{fd, POLLOUT, 0};
    poll(&waiting, 1, 50);
  }
  return sent;
}

class Backpressure : public testing::TestWithParam<size_t> {};

TEST_P(Backpressure, StopsASenderWithinTwiceTheBytesOfPlainTcp) {
  uint64_t plain = 0;
  {
    const Connection connection = connect_pair();
    ASSERT_TRUE(ping_pong(connection, 20));
    plain = bytes_until_stopped(connection.client.get(), GetParam());
  }
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  const Connection connection = connect_pair();
  ASSERT_TRUE(shortcut.make_fast(connection));
  const uint64_t accelerated = bytes_until_stopped(connection.client.get(), GetParam());
  fmt::print("writes of {} bytes: plain TCP stops after {} bytes, the shortcut after {}; {}\n", GetParam(), plain,
             accelerated, describe(shortcut.row(connection.client.get())));
  EXPECT_GT(accelerated, 0u);
  EXPECT_LE(accelerated, 2 * plain);

  set_nonblocking(connection.client.get(), false);
  const std::string got = receive_exactly(connection.server.get(), accelerated);
  EXPECT_TRUE(got == std::string(accelerated, 'b')) << got.size() << " of " << accelerated;
  EXPECT_TRUE(shortcut.make_fast(connection)) << "the way back to the shortcut";
}

INSTANTIATE_TEST_SUITE_P(Blocks, Backpressure, testing::Values(64, 1024, 16384, 262144));

TEST(Memory, OneByteWritesStayBelowEightMebibytesPerPair) {
  constexpr int kPairs = 12;
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  std::vector<Connection> connections(kPairs);
  for (Connection& connection : connections) {
    connection = connect_pair();
    ASSERT_TRUE(shortcut.make_fast(connection));
    set_nonblocking(connection.client.get(), true);
  }
  const uint64_t before = kernel_bytes_used();
  uint64_t sent = 0;
  for (const Connection& connection : connections) {
    for (int i = 0; i < 200000; ++i) {
      if (send(connection.client.get(), "1", 1, MSG_NOSIGNAL) != 1) break;
      ++sent;
    }
  }
  const uint64_t after = kernel_bytes_used();
  const uint64_t used = after > before ? after - before : 0;
  fmt::print("{} bytes written in {} pairs: {} KiB of memory for each\n", sent, kPairs, used / kPairs / 1024);
  EXPECT_LT(used / kPairs, kPairBytesMax);
}

// A slow reader makes the direction spill and come back, many times, in order.
TEST(SlowReader, GetsEveryByteThroughManySpills) {
  constexpr size_t kBytes = 24 << 20;
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  const Connection connection = connect_pair();
  ASSERT_TRUE(shortcut.make_fast(connection));
  const std::string bytes = pattern(9, kBytes);
  std::thread writer([&] {
    for (size_t from = 0; from < kBytes; from += 40000) send_all(connection.client.get(), bytes.substr(from, 40000));
  });
  std::string got;
  while (got.size() < kBytes) {
    const std::string part = receive_exactly(connection.server.get(), std::min<size_t>(700000, kBytes - got.size()));
    if (part.empty()) break;
    got += part;
    std::this_thread::sleep_for(milliseconds(4));
  }
  const bool same = got == bytes;
  EXPECT_TRUE(same) << got.size() << " of " << kBytes << "; " << describe(shortcut.row(connection.client.get()));
  writer.join();
  EXPECT_GT(shortcut.row(connection.client.get())->raw.sock.spills, 0u);
}

}  // namespace
}  // namespace shunt::test
