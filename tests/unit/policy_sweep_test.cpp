// Which live connections a policy forbids, from what the kernel side tells of them and its tables.
#include <gtest/gtest.h>

#include <control/policy_sweep.hpp>
#include <cstring>
#include <map>

namespace shunt {
namespace {

constexpr uint32_t kWeb = 256, kClient = 257, kStranger = 258, kNetwork = 1 << 24;
constexpr uint16_t kPort = 80;

// kWeb takes connections of kClient; what kClient and kNetwork say to each other is judged by requests, or as `outward`
// says.
class Tables : public PolicyTables {
 public:
  sh_policy_existing existing_ = SH_POLICY_EXISTING_RESET;
  sh_u8 inward = SH_POLICY_ALLOW, outward = SH_POLICY_ALLOW;

  uint32_t generation() const override { return 7; }
  sh_policy_existing existing() const override { return existing_; }
  sh_u32 identity_of_end(const PolicyEnd&) const override { return SH_IDENTITY_HOST; }
  sh_u8 half() const override { return 1; }
  bool subject(const sh_policy_subject_key& key, sh_policy_subject& value) const override {
    value = {key.identity, 0};
    return (key.identity == kWeb && key.direction == SH_POLICY_INGRESS) ||
           (key.identity == kClient && key.direction == SH_POLICY_EGRESS);
  }
  bool entry(const sh_policy_key& key, sh_policy_entry& value) const override {
    value = {};
    const bool in = key.table == kWeb && key.peer == kClient, out = key.table == kClient && key.peer == kNetwork;
    const bool local = key.table == kClient && key.peer == kWeb;
    value.verdict = in ? inward : out ? outward : sh_u8{SH_POLICY_ALLOW};
    value.reason = SH_POLICY_R_DENY_RULE;
    return in || out || local;
  }
  sh_u16 first_port(sh_u16 port) const override { return port; }
  bool judged(sh_u16) const override { return false; }
  bool set(sh_u32, sh_policy_set&) const override { return false; }
  const struct sh_policy_block* block(sh_u32) const override { return nullptr; }
  sh_policy_result result(sh_u32) const override { return {}; }
  sh_u32 identity_of(const std::array<sh_u8, SH_ADDR_BYTES>&) const override { return kNetwork; }
};

sh_live end_of(sh_live_role role, uint32_t identity, uint32_t peer, uint64_t cookie) {
  sh_live end = {};
  end.generation = 7;
  end.cookie = cookie;
  end.netns = 1;
  end.role = static_cast<sh_u16>(role);
  end.state = role == SH_LIVE_SERVER ? SH_POLICED_ALLOWED : role == SH_LIVE_CLIENT ? SH_POLICED_FREE : 0;
  end.identity = identity;
  end.peer = peer;
  const bool server = role == SH_LIVE_SERVER || role == SH_LIVE_OLDER_SERVER;
  end.local_addr[15] = server ? 1 : 2;
  end.remote_addr[15] = server ? 2 : 1;
  end.local_port = server ? kPort : 4000;
  end.remote_port = server ? 4000 : kPort;
  end.snd_nxt = server ? 10 : 20;
  end.rcv_nxt = server ? 20 : 10;
  return end;
}

// The cookies of those that end, and why.
std::map<uint64_t, uint32_t> ended(const std::vector<sh_live>& live, const Tables& tables) {
  std::map<uint64_t, uint32_t> found;
  for (const sh_event& event : forbidden_connections(live, tables)) found.emplace(event.cookie, event.l7_reason);
  return found;
}

using Ended = std::map<uint64_t, uint32_t>;

TEST(PolicySweep, WhatTheKernelSideForbidsEnds) {
  sh_live server = end_of(SH_LIVE_SERVER, kWeb, kStranger, 1);
  EXPECT_EQ(ended({server}, {}), Ended{});
  server.state = SH_POLICED_FORBIDDEN;
  server.reason = SH_POLICY_R_DEFAULT;
  const auto events = forbidden_connections({server, server}, Tables());
  ASSERT_EQ(events.size(), 1u) << "seen twice, told once";
  EXPECT_EQ(events[0].cookie, 1u);
  EXPECT_EQ(events[0].netns, 1u);
  EXPECT_EQ(events[0].local_port, kPort);
  EXPECT_EQ(events[0].identity, kStranger);
  EXPECT_EQ(events[0].peer_identity, kWeb);
  EXPECT_EQ(events[0].l7_reason, uint32_t{SH_POLICY_R_DEFAULT});
}

TEST(PolicySweep, NumbersOfAnotherPolicyAreNotAsked) {
  sh_live server = end_of(SH_LIVE_OLDER_SERVER, kWeb, kNetwork, 1);
  EXPECT_EQ(ended({server}, {}).size(), 1u);
  server.generation = 6;
  EXPECT_EQ(ended({server}, {}), Ended{});
}

TEST(PolicySweep, AClientIsAskedByTheAddressOnlyIfItsServerIsElsewhere) {
  Tables tables;
  sh_live client = end_of(SH_LIVE_CLIENT, kClient, kNetwork, 1);
  EXPECT_EQ(ended({client}, tables), Ended{});
  tables.outward = SH_POLICY_DENY;
  EXPECT_EQ(ended({client}, tables), (Ended{{1, SH_POLICY_R_DENY_RULE}}));
  // Found by the cookie that the server's end has, through any NAT; by the addresses, and by the sequence numbers.
  sh_live server = end_of(SH_LIVE_SERVER, kWeb, kClient, 2);
  EXPECT_EQ(ended({client, server}, tables), Ended{});
  server.local_port = 8080;
  EXPECT_EQ(ended({client, server}, tables), Ended{}) << "the numbers agree";
  server.snd_nxt = 11;
  EXPECT_EQ(ended({client, server}, tables).count(1), 1u);
  server.client_cookie = 1;
  EXPECT_EQ(ended({client, server}, tables), Ended{});
  client.through_lo = 1;
  EXPECT_EQ(ended({client}, tables), Ended{});
  client.through_lo = 0;
  client.state = SH_POLICED_PENDING;
  EXPECT_EQ(ended({client}, tables), Ended{});
}

TEST(PolicySweep, RequestsToAnotherHostCannotBeJudged) {
  Tables tables;
  tables.outward = SH_POLICY_RULES;
  EXPECT_EQ(ended({end_of(SH_LIVE_CLIENT, kClient, kNetwork, 1)}, tables), (Ended{{1, SH_L7_WHY_UNJUDGED}}));
  EXPECT_EQ(ended({end_of(SH_LIVE_OLDER_CLIENT, kClient, kNetwork, 1)}, tables), (Ended{{1, SH_L7_WHY_OLDER}}));
  tables.existing_ = SH_POLICY_EXISTING_GRACE;
  EXPECT_EQ(ended({end_of(SH_LIVE_CLIENT, kClient, kNetwork, 1)}, tables), Ended{});
}

TEST(PolicySweep, OlderConnectionsToGovernedServersEndOrGoOnByGrace) {
  Tables tables;
  const sh_live server = end_of(SH_LIVE_OLDER_SERVER, kWeb, kNetwork, 2);
  const auto with = [&](uint32_t client) {
    return std::vector{server, end_of(SH_LIVE_OLDER_CLIENT, client, kNetwork, 1)};
  };
  EXPECT_EQ(ended(with(kClient), tables), (Ended{{2, SH_L7_WHY_OLDER}}));
  EXPECT_EQ(ended({end_of(SH_LIVE_OLDER_SERVER, kStranger, kNetwork, 2)}, tables), Ended{}) << "not governed";
  tables.existing_ = SH_POLICY_EXISTING_GRACE;
  EXPECT_EQ(ended(with(kClient), tables), Ended{});
  EXPECT_EQ(ended(with(kStranger), tables), (Ended{{2, SH_POLICY_R_DEFAULT}}));
  EXPECT_EQ(ended({server}, tables), (Ended{{2, SH_POLICY_R_DEFAULT}})) << "from an address that is not allowed";
  tables.inward = SH_POLICY_RULES;
  EXPECT_EQ(ended(with(kClient), tables), Ended{});
  tables.inward = SH_POLICY_DENY;
  EXPECT_EQ(ended(with(kClient), tables), (Ended{{2, SH_POLICY_R_DENY_RULE}}));
}

}  // namespace
}  // namespace shunt
