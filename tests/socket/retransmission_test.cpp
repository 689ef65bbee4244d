// What TCP sends again may overlap with what has arrived. The verdict gets whole packets and must deliver each byte
// once.
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "support/accelerated.hpp"

namespace shunt::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int kRounds = 10;  // a timer that fires between two steps spoils a round

struct Overlap {
  size_t arrived;  // bytes that arrive; their acknowledgement is lost
  size_t lost;     // bytes behind them that are lost, and sent again together with those
  bool fin;        // a FIN behind them, lost too
};

uint32_t retransmissions(int fd) {
  tcp_info info = {};
  socklen_t bytes = sizeof(info);
  require(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &bytes) == 0, "TCP_INFO");
  return info.tcpi_total_retrans;
}

class Retransmission : public testing::TestWithParam<Overlap> {
 protected:
  Retransmission() {
    pod_.must_run("nft add table ip t");
    pod_.must_run("nft add chain ip t in { type filter hook input priority 0 ; }");
    pod_.must_run("nft add rule ip t in meta mark 1 drop");
    pod_.must_run("sysctl -qw net.ipv4.tcp_early_retrans=0");  // the timer alone sends again, from the first byte on
  }

  Connection connect() {
    Connection connection;
    pod_.run([&] { connection = connect_pair(); });
    set_option(connection.client.get(), IPPROTO_TCP, TCP_NODELAY, 1);  // what is to be lost must be sent first
    return connection;
  }

  static void lose_packets_of(const UniqueFd& end, bool on) { set_option(end.get(), SOL_SOCKET, SO_MARK, on ? 1 : 0); }

  static void lose(const Connection& connection, const std::string& bytes) {
    lose_packets_of(connection.server, true);
    send_all(connection.client.get(), bytes.substr(0, GetParam().arrived));
    lose_packets_of(connection.client, true);
    send_all(connection.client.get(), bytes.substr(GetParam().arrived));
    if (GetParam().fin) shutdown(connection.client.get(), SHUT_WR);
    lose_packets_of(connection.client, false);
    // An acknowledgement may come late: it is lost too, until the timer has sent again.
    eventually([&] { return retransmissions(connection.client.get()) > 0; });
    lose_packets_of(connection.server, false);
  }

  NetNs pod_;
};

TEST_P(Retransmission, DeliversBytesThatHadArrivedOnlyOnce) {
  Settings spilling = plain_settings();
  spilling.spill_bytes = 0;
  Accelerated shortcut(spilling);
  const InCgroup inside(shortcut.cgroup());
  int round = 0;
  for (; round < kRounds && shortcut.counter(SH_C_OVERLAPS) == 0; ++round) {
    shortcut.apply(spilling);
    const Connection connection = connect();
    ASSERT_TRUE(ping_pong(connection, 4));
    const std::string bytes = pattern(static_cast<uint64_t>(round), GetParam().arrived + GetParam().lost);
    lose(connection, bytes);
    const std::string got = receive_exactly(connection.server.get(), bytes.size(), seconds(60));
    const bool same = got == bytes;
    ASSERT_TRUE(same) << got.size() << " of " << bytes.size() << ", round " << round;
    if (GetParam().fin) {
      ASSERT_TRUE(wait_readable(connection.server.get(), seconds(60)));
      char more = 0;
      ASSERT_EQ(recv(connection.server.get(), &more, 1, MSG_DONTWAIT), 0);
      continue;
    }
    ASSERT_FALSE(wait_readable(connection.server.get(), milliseconds(50)));
    shortcut.apply(plain_settings());
    ASSERT_EQ(shortcut.make_fast(connection), host_probe().verdict_works) << describe(shortcut.rows());
  }
  EXPECT_EQ(shortcut.counter(SH_C_OVERLAPS) > 0, host_probe().verdict_works) << "nothing was sent twice";
}

INSTANTIATE_TEST_SUITE_P(Overlaps, Retransmission,
                         testing::Values(Overlap{1000, 1000, false}, Overlap{1, 1, false}, Overlap{20000, 30000, false},
                                         Overlap{1000, 1000, true}));

}  // namespace
}  // namespace shunt::test
