// Where the two ends of a connection can be: namespaces, address translation, deferred accept, outside of the
// selection. Each time the right peer gets the bytes, by the shortcut, and a peer that is not enrolled sees plain TCP.
#include <fmt/format.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <map>
#include <thread>

#include "support/accelerated.hpp"

namespace shunt::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

constexpr size_t kBulkBytes = 300000;

// As the kernel side has it: v4-mapped, network order.
std::string address_of(const sockaddr_in6& name) {
  if (name.sin6_family == AF_INET6) return {reinterpret_cast<const char*>(&name.sin6_addr), SH_ADDR_BYTES};
  const auto& v4 = reinterpret_cast<const sockaddr_in&>(name).sin_addr;
  return std::string(10, '\0') + "\xff\xff" + std::string(reinterpret_cast<const char*>(&v4), sizeof(v4));
}

// Selection, profiles, policies and resets go by these.
void expect_own_addresses(const sh_sock& kept, int socket) {
  sockaddr_in6 local{}, remote{};
  socklen_t bytes = sizeof(local);
  ASSERT_EQ(getsockname(socket, reinterpret_cast<sockaddr*>(&local), &bytes), 0);
  bytes = sizeof(remote);
  ASSERT_EQ(getpeername(socket, reinterpret_cast<sockaddr*>(&remote), &bytes), 0);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(kept.local_addr), SH_ADDR_BYTES), address_of(local));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(kept.remote_addr), SH_ADDR_BYTES), address_of(remote));
}

// Both directions on the shortcut, then enough bytes to spill and come back.
void expect_accelerated(Accelerated& shortcut, const Connection& connection) {
  ASSERT_TRUE(shortcut.make_fast(connection)) << describe(shortcut.row(connection.client.get())) << "\n"
                                              << describe(shortcut.row(connection.server.get()));
  const auto client = shortcut.row(connection.client.get()), server = shortcut.row(connection.server.get());
  EXPECT_EQ(client->raw.sock.peer_cookie, socket_cookie(connection.server.get()));
  EXPECT_EQ(server->raw.sock.peer_cookie, socket_cookie(connection.client.get()));
  expect_own_addresses(client->raw.sock, connection.client.get());
  expect_own_addresses(server->raw.sock, connection.server.get());
  for (const bool upload : {true, false}) {
    const int from = upload ? connection.client.get() : connection.server.get();
    const int to = upload ? connection.server.get() : connection.client.get();
    const std::string bytes = pattern(socket_cookie(from), kBulkBytes);
    std::thread sender([&] { send_all(from, bytes); });
    const std::string got = receive_exactly(to, kBulkBytes);
    const int error = errno;
    sender.join();
    const auto differ = std::mismatch(got.begin(), got.end(), bytes.begin(), bytes.end()).first - got.begin();
    EXPECT_TRUE(got == bytes) << got.size() << " bytes, right up to " << differ << ", errno " << error << "\n"
                              << describe(shortcut.row(from)) << "\n"
                              << describe(shortcut.row(to));
  }
}

UniqueFd listen_in(const NetNs& where, const ListenOptions& options) {
  UniqueFd fd;
  where.run([&] { fd = listen_tcp(options); });
  return fd;
}

UniqueFd connect_in(const NetNs& where, const Endpoint& to) {
  UniqueFd fd;
  where.run([&] { fd = connect_tcp(to); });
  return fd;
}

Connection connect_between(const NetNs& client, const NetNs& server, const Endpoint& to, const ListenOptions& at) {
  const UniqueFd listener = listen_in(server, at);
  Connection connection;
  connection.client = connect_in(client, to);
  connection.server = accept_tcp(listener.get());
  return connection;
}

struct TwoPods {
  NetNs a, b;
  TwoPods() { connect_namespaces(a, "eth0", "10.1.0.1/24", b, "eth0", "10.1.0.2/24"); }
  Connection connect(uint16_t port = 8000) const {
    return connect_between(a, b, endpoint("10.1.0.2", port), {.address = "10.1.0.2", .port = port});
  }
};

class Topology : public testing::Test {
 protected:
  Accelerated shortcut_;
  InCgroup inside_{shortcut_.cgroup()};
};

TEST_F(Topology, Loopback4) { expect_accelerated(shortcut_, connect_pair()); }
TEST_F(Topology, Loopback6) { expect_accelerated(shortcut_, connect_pair({.address = "::1"})); }
TEST_F(Topology, DualStackListener6) {
  const UniqueFd listener = listen_tcp({.address = "::", .dual_stack = true});
  expect_accelerated(shortcut_,
                     connect_through(listener.get(), endpoint("::1", local_endpoint(listener.get()).port())));
}
TEST_F(Topology, DualStackListenerV4Mapped) {
  const UniqueFd listener = listen_tcp({.address = "::", .dual_stack = true});
  expect_accelerated(shortcut_,
                     connect_through(listener.get(), endpoint("127.0.0.1", local_endpoint(listener.get()).port())));
}

TEST_F(Topology, LinkLocal6WithScope) {
  TwoPods pods;
  const auto link_local = [](const NetNs& pod) {
    std::string address;
    eventually([&] {
      const std::string text = pod.must_run("ip -6 -o addr show dev eth0 scope link -tentative");
      const size_t from = text.find("fe80"), to = text.find('/', from);
      if (from != std::string::npos) address = text.substr(from, to - from);
      return !address.empty();
    });
    return address;
  };
  link_local(pods.a);
  Endpoint to = endpoint(link_local(pods.b), 8000);
  UniqueFd listener = listen_in(pods.b, {.address = "::", .port = 8000});
  UniqueFd client;
  pods.a.run([&] {
    UniqueFd probe(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
    for (uint32_t scope = 2; scope < 64 && !client.valid(); ++scope) {
      reinterpret_cast<sockaddr_in6*>(&to.addr)->sin6_scope_id = scope;
      if (connect(probe.get(), to.get(), to.length) == 0) client = std::move(probe);
    }
  });
  ASSERT_TRUE(client.valid());
  Connection connection{std::move(client), accept_tcp(listener.get())};
  expect_accelerated(shortcut_, connection);
}

TEST_F(Topology, ReusePortGroup) {
  const UniqueFd first = listen_tcp({.reuse_port = true});
  const Endpoint at = local_endpoint(first.get());
  const UniqueFd second = listen_tcp({.port = at.port(), .reuse_port = true});
  for (int i = 0; i < 8; ++i) {
    Connection connection;
    connection.client = connect_tcp(at);
    const bool to_first = wait_readable(first.get(), milliseconds(200));
    connection.server = accept_tcp(to_first ? first.get() : second.get());
    expect_accelerated(shortcut_, connection);
  }
}

// The four-tuples are equal, byte for byte: only the namespace tells them apart.
TEST_F(Topology, SameTupleInTwoNamespaces) {
  const NetNs spaces[2];
  Connection connections[2];
  for (int i = 0; i < 2; ++i) {
    const UniqueFd listener = listen_in(spaces[i], {.port = 5000});
    spaces[i].run([&] {
      UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      const Endpoint from = endpoint("127.0.0.1", 6000), to = endpoint("127.0.0.1", 5000);
      require(bind(fd.get(), from.get(), from.length) == 0, "bind");
      require(connect(fd.get(), to.get(), to.length) == 0, "connect");
      set_option(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
      connections[i].client = std::move(fd);
    });
    connections[i].server = accept_tcp(listener.get());
  }
  for (int round = 0; round < 3; ++round) {
    for (const Connection& connection : connections) expect_accelerated(shortcut_, connection);
  }
  for (const Connection& connection : connections) EXPECT_EQ(readable_bytes(connection.server.get()), 0);
}

TEST_F(Topology, VethPods) { expect_accelerated(shortcut_, TwoPods().connect()); }

TEST_F(Topology, IptablesRedirect) {
  const NetNs pod;
  pod.must_run("iptables -t nat -A OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 8080");
  expect_accelerated(shortcut_, connect_between(pod, pod, endpoint("127.0.0.1", 80), {.port = 8080}));
}

TEST_F(Topology, NftRedirect) {
  const NetNs pod;
  pod.must_run("nft add table ip t");
  pod.must_run("nft add chain ip t out { type nat hook output priority -100 ; }");
  pod.must_run("nft add rule ip t out tcp dport 80 redirect to :8080");
  expect_accelerated(shortcut_, connect_between(pod, pod, endpoint("127.0.0.1", 80), {.port = 8080}));
}

TEST_F(Topology, IptablesDnat) {
  const TwoPods pods;
  pods.a.must_run("ip route add 10.9.9.9 via 10.1.0.2");
  pods.a.must_run("iptables -t nat -A OUTPUT -d 10.9.9.9 -p tcp --dport 80 -j DNAT --to-destination 10.1.0.2:8000");
  expect_accelerated(shortcut_,
                     connect_between(pods.a, pods.b, endpoint("10.9.9.9", 80), {.address = "10.1.0.2", .port = 8000}));
}

TEST_F(Topology, NftDnatAtTheServersSide) {
  const TwoPods pods;
  pods.a.must_run("ip route add 10.9.9.9 via 10.1.0.2");
  pods.b.must_run("nft add table ip t");
  pods.b.must_run("nft add chain ip t in { type nat hook prerouting priority -100 ; }");
  pods.b.must_run("nft add rule ip t in ip daddr 10.9.9.9 tcp dport 80 dnat to 10.1.0.2:8000");
  expect_accelerated(shortcut_,
                     connect_between(pods.a, pods.b, endpoint("10.9.9.9", 80), {.address = "10.1.0.2", .port = 8000}));
}

TEST_F(Topology, SnatToAnotherAddress) {
  const TwoPods pods;
  pods.a.must_run("ip addr add 10.1.0.77/24 dev eth0");
  pods.a.must_run("iptables -t nat -A POSTROUTING -p tcp -j SNAT --to-source 10.1.0.77:40000-40100");
  Connection connection = pods.connect();
  EXPECT_GE(remote_endpoint(connection.server.get()).port(), 40000);
  EXPECT_LE(remote_endpoint(connection.server.get()).port(), 40100);
  expect_accelerated(shortcut_, connection);
}

TEST_F(Topology, MasqueradeBehindARouter) {
  const NetNs a, router, b;
  connect_namespaces(a, "eth0", "10.1.0.1/24", router, "in", "10.1.0.254/24");
  connect_namespaces(router, "out", "10.2.0.254/24", b, "eth0", "10.2.0.1/24");
  a.must_run("ip route add default via 10.1.0.254");
  router.must_run("sysctl -qw net.ipv4.ip_forward=1");
  router.must_run("iptables -t nat -A POSTROUTING -o out -j MASQUERADE");
  expect_accelerated(shortcut_,
                     connect_between(a, b, endpoint("10.2.0.1", 8000), {.address = "10.2.0.1", .port = 8000}));
}

// The client's first bytes are in the TCP queue before the passive end exists.
TEST_F(Topology, DeferAcceptKeepsTheOrder) {
  constexpr int kConnections = 200;
  const std::string text = "ABCDEFGH";
  const UniqueFd listener = listen_tcp({.defer_accept_seconds = 5});
  for (int i = 0; i < kConnections; ++i) {
    Connection connection;
    connection.client = connect_tcp(local_endpoint(listener.get()));
    for (const char letter : text) send_all(connection.client.get(), std::string(1, letter));
    connection.server = accept_tcp(listener.get());
    ASSERT_EQ(receive_exactly(connection.server.get(), text.size()), text);
    if (i % 20 == 0) expect_accelerated(shortcut_, connection);
  }
}

// ---- peers that are not enrolled ----

TEST_F(Topology, AnActiveSocketLeavesBeforeItsFirstResponse) {
  constexpr int kConnections = 300;
  UniqueFd listener;
  {
    const OutOfCgroup outside(shortcut_.cgroup());
    listener = listen_tcp();
  }
  int in_map = 0, wrong_count = 0;
  for (int i = 0; i < kConnections; ++i) {
    const Connection connection = connect_through(listener.get(), local_endpoint(listener.get()));
    send_all(connection.client.get(), "request");
    EXPECT_EQ(receive_exactly(connection.server.get(), 7), "request");
    send_all(connection.server.get(), std::string(100, 'r'));
    ASSERT_TRUE(wait_readable(connection.client.get(), seconds(5)));
    if (readable_bytes(connection.client.get()) != 100) ++wrong_count;
    const auto row = shortcut_.row(connection.client.get());
    if (row && row->raw.tail.in_map && ++in_map == 1) fmt::print("{}\n", describe(row));
  }
  EXPECT_EQ(wrong_count, 0) << "of " << kConnections;
  EXPECT_EQ(in_map, 0) << "of " << kConnections;
  EXPECT_EQ(shortcut_.counter(SH_C_PAIRS), 0u);
}

// The server speaks first: nothing of the client has been acknowledged yet, so there is no sign that it may leave. Its
// bytes are counted right all the same, and it leaves with its first request.
TEST_F(Topology, AServersGreetingIsCountedAndTheFirstRequestLeaves) {
  UniqueFd listener;
  {
    const OutOfCgroup outside(shortcut_.cgroup());
    listener = listen_tcp();
  }
  for (int i = 0; i < 100; ++i) {
    const Connection connection = connect_through(listener.get(), local_endpoint(listener.get()));
    send_all(connection.server.get(), std::string(100, 'g'));
    ASSERT_TRUE(wait_readable(connection.client.get(), seconds(5)));
    ASSERT_EQ(readable_bytes(connection.client.get()), 100);
    ASSERT_EQ(receive_exactly(connection.client.get(), 100).size(), 100u);
    ASSERT_TRUE(ping_pong(connection, 1));
    const auto row = shortcut_.row(connection.client.get());
    ASSERT_FALSE(row && row->raw.tail.in_map) << describe(row);
  }
}

TEST_F(Topology, APassiveSocketOfAClientOutsideIsPlain) {
  const UniqueFd listener = listen_tcp();
  const OutOfCgroup outside(shortcut_.cgroup());
  const Connection connection = connect_through(listener.get(), local_endpoint(listener.get()));
  ASSERT_TRUE(ping_pong(connection, 20));
  const auto row = shortcut_.row(connection.server.get());
  EXPECT_FALSE(row && row->raw.tail.in_map) << describe(row);
  send_all(connection.client.get(), std::string(77, 'f'));
  wait_readable(connection.server.get(), seconds(1));
  EXPECT_EQ(readable_bytes(connection.server.get()), 77);
}

TEST(Selection, ExcludedPortStaysPlain) {
  Settings settings = plain_settings();
  settings.selection.ports.exclude = {{7700, 7710}};
  Accelerated shortcut(settings);
  const InCgroup inside(shortcut.cgroup());
  const NetNs pod;
  const Connection excluded = connect_between(pod, pod, endpoint("127.0.0.1", 7705), {.port = 7705});
  ASSERT_TRUE(ping_pong(excluded, 20));
  for (const int fd : {excluded.client.get(), excluded.server.get()}) {
    const auto row = shortcut.row(fd);
    EXPECT_FALSE(row && row->raw.tail.in_map) << describe(row);
  }
  EXPECT_GT(shortcut.reason_count(SH_R_PORT), 0u);
  expect_accelerated(shortcut, connect_between(pod, pod, endpoint("127.0.0.1", 7711), {.port = 7711}));
}

TEST(Selection, ExcludedCidrStaysPlain) {
  Settings settings = plain_settings();
  Cidr cidr{.addr = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 0, 0}, .prefix_bits = 96 + 24};
  settings.selection.cidrs.exclude = {cidr};
  Accelerated shortcut(settings);
  const InCgroup inside(shortcut.cgroup());
  const TwoPods pods;
  const Connection excluded = pods.connect();
  ASSERT_TRUE(ping_pong(excluded, 20));
  EXPECT_FALSE(shortcut.is_fast(excluded));
  EXPECT_GT(shortcut.reason_count(SH_R_CIDR), 0u);
  expect_accelerated(shortcut, connect_pair());
}

// Of the two networks only the fourth byte differs.
TEST(Selection, ExcludedCidrOfIpv6StaysPlain) {
  Settings settings = plain_settings();
  settings.selection.cidrs.exclude = {Cidr{.addr = {0x20, 0x01, 0x0d, 0xb8}, .prefix_bits = 32}};
  Accelerated shortcut(settings);
  const InCgroup inside(shortcut.cgroup());
  const NetNs pod;
  for (const char* address : {"2001:db8::1", "2001:db7::1"})
    pod.must_run(std::string("ip addr add ") + address + "/128 dev lo nodad");
  const Connection excluded =
      connect_between(pod, pod, endpoint("2001:db8::1", 8000), {.address = "2001:db8::1", .port = 8000});
  ASSERT_TRUE(ping_pong(excluded, 20));
  EXPECT_FALSE(shortcut.is_fast(excluded));
  EXPECT_GT(shortcut.reason_count(SH_R_CIDR), 0u);
  expect_accelerated(
      shortcut, connect_between(pod, pod, endpoint("2001:db7::1", 8000), {.address = "2001:db7::1", .port = 8000}));
}

// ---- firewalls and connection tracking ----

// What did not arrive of a ping and its pong: empty if both did.
std::string missing_of_turn(const Connection& connection, milliseconds limit) {
  send_all(connection.client.get(), "ping");
  if (receive_exactly(connection.server.get(), 4, limit) != "ping") return "ping";
  send_all(connection.server.get(), "pong");
  return receive_exactly(connection.client.get(), 4, limit) == "pong" ? "" : "pong";
}

bool one_turn(const Connection& connection, milliseconds limit) { return missing_of_turn(connection, limit).empty(); }

TEST(Firewall, ADropOnALiveConnectionTakesEffect) {
  Settings settings = plain_settings();
  settings.firewall_interval = milliseconds(500);
  Accelerated shortcut(settings);
  const InCgroup inside(shortcut.cgroup());
  const TwoPods pods;
  const Connection connection = pods.connect();
  expect_accelerated(shortcut, connection);
  const auto busy_until = Clock::now() + seconds(2);
  while (Clock::now() < busy_until) ASSERT_TRUE(one_turn(connection, seconds(5)));

  pods.b.must_run("nft add table ip t");
  pods.b.must_run("nft add chain ip t in { type filter hook input priority 0 ; }");
  pods.b.must_run("nft add rule ip t in tcp dport 8000 drop");
  const auto added = Clock::now();
  std::string missing;
  while (missing.empty() && Clock::now() - added < seconds(10)) missing = missing_of_turn(connection, seconds(1));
  EXPECT_NE(missing, "") << describe(shortcut.row(connection.client.get()));
  const auto stopped_after = Clock::now() - added - seconds(1);
  EXPECT_LT(stopped_after, seconds(3));

  pods.b.must_run("nft delete table ip t");
  // Retransmitted. Whichever direction goes through TCP first stops first: the client's loses its message, the server's
  // the acknowledgement of its last one, without which Nagle's algorithm holds the next.
  if (missing == "ping") {
    EXPECT_EQ(receive_exactly(connection.server.get(), 4, seconds(30)), "ping");
    send_all(connection.server.get(), "pong");
  }
  EXPECT_EQ(receive_exactly(connection.client.get(), 4, seconds(30)), "pong");
  expect_accelerated(shortcut, connection);
}

TEST(Firewall, WithoutTheIntervalADropHasNoEffect) {
  Accelerated shortcut;  // plain_settings(): no periodic message through TCP
  const InCgroup inside(shortcut.cgroup());
  const TwoPods pods;
  const Connection connection = pods.connect();
  expect_accelerated(shortcut, connection);
  ASSERT_TRUE(shortcut.make_fast(connection));
  pods.b.must_run("nft add table ip t");
  pods.b.must_run("nft add chain ip t in { type filter hook input priority 0 ; }");
  pods.b.must_run("nft add rule ip t in tcp dport 8000 drop");
  const auto busy_until = Clock::now() + seconds(3);
  while (Clock::now() < busy_until) ASSERT_TRUE(one_turn(connection, seconds(5)));
}

bool tracked(const NetNs& pod) {
  return pod.must_run("conntrack -L -p tcp --dport 8000").find("ESTABLISHED") != std::string::npos;
}

// Returns whether the entry of a busy connection outlived the time after which an idle one goes.
bool entry_lives(milliseconds interval) {
  Settings settings = plain_settings();
  settings.firewall_interval = interval;
  Accelerated shortcut(settings);
  const InCgroup inside(shortcut.cgroup());
  const TwoPods pods;
  pods.b.must_run("iptables -A INPUT -m conntrack --ctstate INVALID -j DROP");
  pods.b.must_run("sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_established=3");
  const Connection connection = pods.connect();
  expect_accelerated(shortcut, connection);
  EXPECT_TRUE(tracked(pods.b));
  const auto busy_until = Clock::now() + seconds(6);
  while (Clock::now() < busy_until) {
    EXPECT_TRUE(one_turn(connection, seconds(5)));
    std::this_thread::sleep_for(milliseconds(5));
  }
  return tracked(pods.b);
}

TEST(Firewall, ConntrackEntryOfABusyConnectionLives) { EXPECT_TRUE(entry_lives(milliseconds(1000))); }
TEST(Firewall, WithoutTheIntervalTheEntryExpires) { EXPECT_FALSE(entry_lives(milliseconds(0))); }

}  // namespace
}  // namespace shunt::test
