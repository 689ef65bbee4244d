#include <algorithm>
#include <control/policy_sweep.hpp>
#include <cstring>
#include <map>
#include <optional>
#include <policy/walk.hpp>
#include <set>
#include <tuple>

namespace shunt {
namespace {

using Address = std::array<sh_u8, SH_ADDR_BYTES>;
using Endpoints = std::tuple<Address, uint16_t, Address, uint16_t>;

Address address(const sh_u8* bytes) {
  Address copy;
  std::copy_n(bytes, SH_ADDR_BYTES, copy.begin());
  return copy;
}

Endpoints endpoints(const sh_live& end) {
  return {address(end.local_addr), end.local_port, address(end.remote_addr), end.remote_port};
}

Endpoints reversed(const Endpoints& ends) {
  const auto& [local, local_port, remote, remote_port] = ends;
  return {remote, remote_port, local, local_port};
}

bool is_server(const sh_live& end) { return end.role == SH_LIVE_SERVER || end.role == SH_LIVE_OLDER_SERVER; }

struct Answer {
  sh_u8 verdict = SH_POLICY_ALLOW;  // deny, allow, or RULES: it depends on the request
  sh_u8 reason = 0;                 // of a denial
};

struct Denial {
  uint32_t why = 0;  // enum sh_l7_why
  uint32_t client = 0, server = 0;
};

class Sweeper {
 public:
  Sweeper(const std::vector<sh_live>& live, const PolicyTables& tables) : live_(live), tables_(tables) {
    for (const sh_live& end : live_) {
      if (end.generation != tables_.generation()) continue;  // an identity is a number of one policy
      by_endpoints_.emplace(endpoints(end), &end);
      by_numbers_.emplace(std::pair(end.snd_nxt, end.rcv_nxt), &end);
      if (end.client_cookie != 0) claimed_.insert(end.client_cookie);
    }
  }

  std::vector<sh_event> run() {
    std::vector<sh_event> forbidden;
    std::set<uint64_t> seen;  // the kernel's table changes under the iterator
    for (const sh_live& end : live_) {
      if (end.generation != tables_.generation()) continue;
      const auto denial = judge(end);
      if (denial && seen.insert(end.cookie).second) forbidden.push_back(event_of(end, *denial));
    }
    return forbidden;
  }

 private:
  static sh_event event_of(const sh_live& end, const Denial& denial) {
    sh_event event = {};
    event.cookie = end.cookie;
    event.netns = end.netns;
    event.family = end.family;
    memcpy(event.local_addr, end.local_addr, SH_ADDR_BYTES);
    memcpy(event.remote_addr, end.remote_addr, SH_ADDR_BYTES);
    event.local_port = end.local_port;
    event.remote_port = end.remote_port;
    event.l7_reason = denial.why;
    event.identity = denial.client;
    event.peer_identity = denial.server;
    return event;
  }

  std::optional<Denial> judge(const sh_live& end) {
    const bool server = is_server(end);
    if (end.state == SH_POLICED_FORBIDDEN)
      return Denial{end.reason, server ? end.peer : end.identity, server ? end.identity : end.peer};
    if (end.role == SH_LIVE_SERVER) return std::nullopt;  // the kernel side has asked
    return server ? judge_server(end) : judge_client(end);
  }

  // A server on this host judges for both.
  std::optional<Denial> judge_client(const sh_live& end) {
    if (end.through_lo || end.state == SH_POLICED_PENDING || claimed_.contains(end.cookie)) return std::nullopt;
    const sh_live* other = other_end(end);
    if (other != nullptr && is_server(*other)) return std::nullopt;
    const bool older = end.role == SH_LIVE_OLDER_CLIENT;
    return deny(ask(end.identity, end.peer, end.remote_port), older ? SH_L7_WHY_OLDER : SH_L7_WHY_UNJUDGED,
                end.identity, end.peer);
  }

  // Nobody kept who its client is. What the gate does not let pass by is not left to idle either.
  std::optional<Denial> judge_server(const sh_live& end) {
    const sh_live* other = other_end(end);
    const uint32_t elsewhere = end.through_lo ? uint32_t{SH_IDENTITY_ANY} : end.peer;
    const uint32_t client = other != nullptr ? other->identity : elsewhere;
    if (is_reset() && ask(SH_IDENTITY_ANY, end.identity, end.local_port).verdict != SH_POLICY_ALLOW)
      return Denial{SH_L7_WHY_OLDER, client, end.identity};
    return deny(ask(client, end.identity, end.local_port), SH_L7_WHY_OLDER, client, end.identity);
  }

  // `unjudged`: the reason where requests decide, which nobody can judge on this connection.
  std::optional<Denial> deny(Answer answer, uint32_t unjudged, uint32_t client, uint32_t server) const {
    if (answer.verdict == SH_POLICY_DENY) return Denial{answer.reason, client, server};
    if (answer.verdict == SH_POLICY_ALLOW || !is_reset()) return std::nullopt;
    return Denial{unjudged, client, server};
  }

  bool is_reset() const { return tables_.existing() == SH_POLICY_EXISTING_RESET; }

  // By the addresses, in the same namespace first; between namespaces, and through NAT, only if it is certain. An idle
  // connection's numbers agree.
  const sh_live* other_end(const sh_live& end) const {
    const sh_live* found = nullptr;
    const auto [first, last] = by_endpoints_.equal_range(reversed(endpoints(end)));
    for (auto at = first; at != last; ++at) {
      if (at->second->netns == end.netns) return at->second;
      found = at->second;
    }
    if (found != nullptr && std::next(first) == last) return found;
    const auto [from, to] = by_numbers_.equal_range({end.rcv_nxt, end.snd_nxt});
    return from != to && std::next(from) == to ? from->second : nullptr;
  }

  Answer ask(uint32_t client, uint32_t server, uint16_t port) {
    const auto [known, fresh] = answers_.try_emplace({client, server, port});
    if (!fresh) return known->second;
    for (const auto& entry : {policy::ask(tables_, SH_POLICY_EGRESS, client, server, port).entry,
                              policy::ask(tables_, SH_POLICY_INGRESS, server, client, port).entry}) {
      if (entry.verdict == SH_POLICY_ALLOW || known->second.verdict == SH_POLICY_DENY) continue;
      known->second = {entry.verdict == SH_POLICY_DENY ? entry.verdict : sh_u8{SH_POLICY_RULES}, entry.reason};
    }
    return known->second;
  }

  const std::vector<sh_live>& live_;
  const PolicyTables& tables_;
  std::multimap<Endpoints, const sh_live*> by_endpoints_;
  std::multimap<std::pair<uint32_t, uint32_t>, const sh_live*> by_numbers_;  // next to send, next to receive
  std::set<uint64_t> claimed_;                                               // clients that a server's end knows
  std::map<std::tuple<uint32_t, uint32_t, uint16_t>, Answer> answers_;
};

}  // namespace

std::vector<sh_event> forbidden_connections(const std::vector<sh_live>& live, const PolicyTables& tables) {
  return Sweeper(live, tables).run();
}

Result<SweepReport> sweep_connections(const Engine& engine) {
  const auto live = engine.live_connections();
  if (!live) return unexpected(live.error());
  if (live->empty()) return SweepReport{};
  const auto tables = engine.policy_tables();
  auto forbidden = forbidden_connections(*live, *tables);
  if (engine.policy_tables()->generation() != tables->generation() || forbidden.empty())
    return SweepReport{live->size(), 0};
  const auto ended = engine.end_connections(std::move(forbidden));
  if (!ended) return unexpected(ended.error());
  return SweepReport{live->size(), *ended};
}

}  // namespace shunt
