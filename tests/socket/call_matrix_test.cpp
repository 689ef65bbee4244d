// Every socket call on plain TCP, on the shortcut, and on an enrolled connection whose bytes go through TCP: the same
// answers, or on the closed list.
#include <fmt/format.h>

#include <map>

#include "socket/socket_calls.hpp"
#include "support/accelerated.hpp"

namespace shunt::test {
namespace {

constexpr int kTurnsBefore = 20;
constexpr auto kCallLimit = std::chrono::milliseconds(2000);

// What an application can see. Receivers are programs that do none of the first group; the second group is in the
// README.
const std::map<std::string, const char*> kDifferences = {
    {"MSG_WAITALL", "returns short"},
    {"MSG_TRUNC with NULL", "EFAULT"},
    {"splice socket to pipe", "EAGAIN although readable"},
    {"recv, blocked, RST", "EAGAIN first, then ECONNRESET"},
    {"recv, blocked, own shutdown", "EAGAIN: any wake-up ends a blocking receive"},
    {"MSG_ZEROCOPY", "SO_ZEROCOPY is refused, as by a kernel without it"},
    {"SO_PEEK_OFF", "refused, as by a kernel without it"},
    {"SO_TIMESTAMP", "refused, as by a kernel without it"},
    {"TCP_INQ", "refused, as by a kernel without it"},
    {"TCP_INFO byte counters", "do not count redirected bytes"},
    {"MSG_OOB", "the urgent byte arrives in band"},
    {"MSG_MORE", "not held back"},
    {"TCP_CORK", "not held back"},
    {"close with unread bytes", "FIN instead of RST"},
};

// A call that would block for good ends, and differs.
std::string observe(const SocketCall& call, Connection& connection) {
  set_receive_timeout(connection.client.get(), kCallLimit);
  set_receive_timeout(connection.server.get(), kCallLimit);
  return call.observe(connection);
}

std::map<std::string, std::string> observe_plain() {
  std::map<std::string, std::string> seen;
  for (const SocketCall& call : socket_calls()) {
    Connection connection = connect_pair();
    EXPECT_TRUE(ping_pong(connection, kTurnsBefore));
    seen[call.name] = observe(call, connection);
  }
  return seen;
}

const std::map<std::string, std::string>& plain() {
  static const std::map<std::string, std::string> seen = observe_plain();
  return seen;
}

void expect_same(const SocketCall& call, const std::string& seen, const std::string& kept) {
  const std::string& expected = plain().at(call.name);
  const auto listed = kDifferences.find(call.name);
  if (seen == expected) {
    if (listed != kDifferences.end()) fmt::print("{}: listed as different, but the same here: {}\n", call.name, seen);
    return;
  }
  if (listed != kDifferences.end()) {
    fmt::print("{}: plain {}, here {} ({})\n", call.name, expected, seen, listed->second);
    return;
  }
  ADD_FAILURE() << call.name << ": plain " << expected << ", here " << seen << "; " << kept;
}

TEST(CallMatrix, SameOnTheShortcut) {
  plain();
  Accelerated shortcut;
  const InCgroup inside(shortcut.cgroup());
  for (const SocketCall& call : socket_calls()) {
    Connection connection = connect_pair();
    ASSERT_TRUE(shortcut.make_fast(connection)) << describe(shortcut.row(connection.client.get()));
    const std::string seen = observe(call, connection);
    expect_same(call, seen, connection.client.valid() ? describe(shortcut.row(connection.client.get())) : "");
  }
}

TEST(CallMatrix, SameWhileSpilled) {
  plain();
  Settings settings = plain_settings();
  settings.spill_messages = 0;
  Accelerated shortcut(settings);
  const InCgroup inside(shortcut.cgroup());
  for (const SocketCall& call : socket_calls()) {
    Connection connection = connect_pair();
    EXPECT_TRUE(ping_pong(connection, kTurnsBefore));
    const auto before = shortcut.row(connection.client.get());
    ASSERT_TRUE(before && before->raw.tail.in_map && before->raw.sock.fast_msgs == 0) << describe(before);
    expect_same(call, observe(call, connection), describe(before));
  }
}

// One end of the connection was made before, or outside: as if the shortcut were not there, without exception.
TEST(CallMatrix, SameWithAnEndThatIsNotEnrolled) {
  plain();
  Accelerated shortcut;
  for (const SocketCall& call : socket_calls()) {
    const UniqueFd listener = listen_tcp();  // outside
    Connection connection;
    {
      const InCgroup inside(shortcut.cgroup());
      connection.client = connect_tcp(local_endpoint(listener.get()));
    }
    connection.server = accept_tcp(listener.get());
    EXPECT_TRUE(ping_pong(connection, kTurnsBefore));
    const auto kept = shortcut.row(connection.client.get());
    EXPECT_FALSE(kept && kept->raw.tail.in_map) << describe(kept);
    EXPECT_EQ(observe(call, connection), plain().at(call.name)) << call.name;
  }
}

}  // namespace
}  // namespace shunt::test
