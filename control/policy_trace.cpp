#include <algorithm>
#include <base/parse.hpp>
#include <control/policy_trace.hpp>
#include <l7parsers/http1.hpp>
#include <l7parsers/resp.hpp>
#include <policy/walk.hpp>

namespace shunt {
namespace {

constexpr const char* kFromRemedy =
    "write PID, a unit, /CGROUP, [NAMESPACE/]NAME of a workload, an address, host or world; or ADDR:PORT ADDR:PORT of "
    "a "
    "connection";

struct End {
  uint32_t identity = SH_IDENTITY_WORLD;
  uint16_t port = 0;                 // of a server
  std::optional<PolicyEnd> there{};  // a process or a socket
};

bool is_number(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// A workload of such a name is written with its namespace.
bool is_unit(const std::string& text) {
  const size_t dot = text.find('/') == std::string::npos ? text.rfind('.') : std::string::npos;
  constexpr const char* kKinds[] = {"service", "slice", "scope", "socket"};
  return dot != std::string::npos && std::any_of(std::begin(kKinds), std::end(kKinds),
                                                 [&](const char* kind) { return text.substr(dot + 1) == kind; });
}

bool is_endpoint(const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || !parse_number(text.substr(colon + 1), 1, 65535)) return false;
  const std::string host = text.substr(0, colon);
  const bool brackets = host.starts_with('[') && host.ends_with(']');
  return parse_address(brackets ? host.substr(1, host.size() - 2) : host).has_value() &&
         (brackets || host.find(':') == std::string::npos);
}

// One question to the policy in force.
class Trace {
 public:
  Trace(const Engine& engine, const PolicyState& state) : engine_(engine), state_(state) {}

  Result<Json> run(const TraceQuery& query) {
    if (tables_->generation() == 0)
      return unexpected(Error{ENOENT, "no policy is in force", "'shunt policy explain' asks documents"});
    const auto ends = find_ends(query);
    if (!ends) return unexpected(ends.error());
    const auto& [client, server] = *ends;
    egress_ = policy::ask(*tables_, SH_POLICY_EGRESS, client.identity, server.identity, server.port);
    ingress_ = policy::ask(*tables_, SH_POLICY_INGRESS, server.identity, client.identity, server.port);
    Json document{{"generation", tables_->generation()},
                  {"from", end_document(client)},
                  {"to", end_document(server)},
                  {"port", server.port}};
    document["egress"] = side_document(egress_, client.identity);
    document["ingress"] = side_document(ingress_, server.identity);
    for (const policy::Asked* asked : {&egress_, &ingress_}) {
      if (differ()) break;
      const auto checked = policy::check_protocol(asked->entry, query.request.has_value(), query.command.has_value());
      if (!checked) return unexpected(checked.error());
    }
    decide(query, document);
    document["by"] = document["verdict"] == policy::verdict_name(SH_POLICY_PUNT) ? "proxy" : "kernel";
    return document;
  }

 private:
  Result<std::pair<End, End>> find_ends(const TraceQuery& query) {
    if (is_endpoint(query.from)) {
      auto pair = engine_.find_pair(query.from, query.to);
      if (!pair) return unexpected(pair.error());
      return std::pair(end_there(std::move(pair->client)), end_there(std::move(pair->server)));
    }
    auto client = find_there(query.from);
    if (!client) return unexpected(client.error());
    auto server = find_server(query.to);
    if (!server) return unexpected(server.error());
    return std::pair(std::move(*client), std::move(*server));
  }

  End end_there(PolicyEnd there) const {
    const uint32_t identity = tables_->identity_of_end(there);
    const uint16_t port = there.port;
    return {identity, port, std::move(there)};
  }

  Result<End> found_there(Result<PolicyEnd> there) const {
    if (!there) return unexpected(there.error());
    return end_there(std::move(*there));
  }

  Result<End> find_there(const std::string& text) const {
    if (is_number(text)) {
      const auto number = parse_number(text, 1, INT32_MAX);
      if (!number) return unexpected(number.error());
      return found_there(engine_.end_of_process(static_cast<uint32_t>(*number)));
    }
    if (text.starts_with('/') || is_unit(text)) return found_there(engine_.end_of_cgroup(text));
    if (text == "host") return End{SH_IDENTITY_HOST};
    if (text == "world") return End{SH_IDENTITY_WORLD};
    if (const auto address = parse_address(text)) return End{tables_->identity_of(*address)};
    const auto& known = state_.in_force();
    if (known == nullptr) return invalid(in_quotes(text) + " is not known: the documents were not read", kFromRemedy);
    const auto identity = policy::find_identity(known->loaded.model, known->tables, text);
    if (!identity) return invalid(identity.error().message, kFromRemedy);
    return End{*identity};
  }

  Result<End> find_server(const std::string& text) const {
    const auto& known = state_.in_force();
    const size_t colon = text.rfind(':');
    if (colon == std::string::npos) return invalid(in_quotes(text) + " has no port", "write TARGET:PORT");
    const std::string target = text.substr(0, colon);
    const bool there = is_number(target) || target.starts_with('/') || is_unit(target);
    if (there || known == nullptr) {
      const auto port = parse_number(text.substr(colon + 1), 1, 65535);
      auto end = find_there(target);
      if (!end) return end;
      if (!port) return invalid(port.error().message, "write TARGET:PORT");
      end->port = static_cast<uint16_t>(*port);
      return end;
    }
    const auto found = policy::find_target(known->loaded.model, known->tables, text);
    if (!found) return unexpected(found.error());
    return End{found->identity, found->port};
  }

  Json end_document(const End& end) const {
    Json document{{"identity", end.identity}, {"name", state_.identity_name(end.identity)}};
    if (!end.there) return document;
    const PolicyEnd& there = *end.there;
    document["cgroup"] = there.path;
    if (there.netns != 0) document["netns"] = there.netns;
    if (there.uid != SH_POLICY_UID_ANY) document["uid"] = there.uid;
    if (there.tgid != 0) document["pid"] = there.tgid;
    if (!there.program.empty()) document["program"] = there.program;
    if (!there.local.empty()) document["local"] = there.local;
    if (there.cookie != 0) document["cookie"] = there.cookie;
    return document;
  }

  Json side_document(const policy::Asked& asked, uint32_t subject) const {
    Json document{{"subject", state_.identity_name(subject)}};
    say(document, asked.entry.verdict, asked.entry.reason);
    document["rules"] = state_.rules_of(asked.entry.origin, SH_POLICY_NO_RULE);
    if (!asked.key) return document;
    document["entry"] = {{"peer", asked.key->peer == SH_IDENTITY_ANY ? "any" : state_.identity_name(asked.key->peer)},
                         {"port", asked.key->port},
                         {"table", asked.key->table}};
    if (asked.entry.verdict == SH_POLICY_RULES) document["entry"]["set"] = asked.entry.set;
    return document;
  }

  // In the words of `explain`.
  static void say(Json& document, uint32_t verdict, uint32_t why) {
    document["verdict"] = policy::verdict_name(static_cast<sh_policy_verdict>(verdict));
    document["reason"] = policy::why_name(why);
    document["text"] = policy::why_text(why);
  }

  // As the kernel side: of two sets the stricter word holds, and only where the connection is judged request by request
  // the request is read at all.
  void decide(const TraceQuery& query, Json& document) const {
    const auto plain = [](const policy::Asked& asked) {
      return asked.entry.verdict == SH_POLICY_RULES ? sh_u8{SH_POLICY_ALLOW} : asked.entry.verdict;
    };
    const sh_u8 connection = differ() ? sh_u8{SH_POLICY_DENY} : sh_policy_both(plain(egress_), plain(ingress_));
    if (differ()) say(document, SH_POLICY_DENY, SH_POLICY_R_PROTOCOLS);
    const bool judged = egress_.entry.verdict == SH_POLICY_RULES || ingress_.entry.verdict == SH_POLICY_RULES;
    document["verdict"] = policy::verdict_name(
        judged && connection == SH_POLICY_ALLOW ? SH_POLICY_RULES : static_cast<sh_policy_verdict>(connection));
    if (query.request) document["request"] = query.request->method + " " + query.request->path;
    if (query.command) document["request"] = words_of(*query.command);
    if (!judged || connection != SH_POLICY_ALLOW) return;
    if (query.request) {
      const std::string bytes = policy::head_of(*query.request);
      l7::Http1Head head;
      head.parse(bytes);
      decide_by(head.outcome(), head.outcome().verdict == L7_SIMPLE, head.raw(), bytes, document);
    } else if (query.command) {
      const std::string bytes = policy::bytes_of(*query.command);
      l7::RespCommand command;
      command.parse(bytes);
      decide_by(command.outcome(), command.outcome().unit_bytes != 0, command.raw(), bytes, document);
    }
  }

  bool differ() const { return sh_policy_protocols_differ(&egress_.entry, &ingress_.entry) != 0; }

  static std::string words_of(const policy::RedisCommand& command) {
    std::string words = command.name;
    for (const std::string& key : command.keys) words += " " + key;
    return words;
  }

  template <typename Parsed>
  void decide_by(const l7_outcome& outcome, bool judged, const Parsed& request, const std::string& bytes,
                 Json& document) const {
    if (!judged) return say(document, SH_POLICY_PUNT, SH_L7_WHY_PARSER + uint32_t{outcome.reason});
    const sh_u8 egress = judge(egress_, request, bytes, document["egress"]);
    const sh_u8 ingress = judge(ingress_, request, bytes, document["ingress"]);
    document["verdict"] = policy::verdict_name(static_cast<sh_policy_verdict>(sh_policy_both(egress, ingress)));
  }

  template <typename Parsed>
  sh_u8 judge(const policy::Asked& asked, const Parsed& request, const std::string& bytes, Json& side) const {
    if (asked.entry.verdict != SH_POLICY_RULES) return SH_POLICY_ALLOW;
    const sh_policy_result result = policy::judge(*tables_, asked.entry.set, request, bytes);
    say(side, result.verdict, result.name);
    side["rules"] = result.rule == SH_POLICY_NO_RULE ? Json::array() : state_.rules_of(asked.entry.origin, result.rule);
    return result.verdict;
  }

  const Engine& engine_;
  const PolicyState& state_;
  std::unique_ptr<PolicyTables> tables_ = engine_.policy_tables();
  policy::Asked egress_, ingress_;
};

}  // namespace

Result<Json> trace_policy(const Engine& engine, const PolicyState& state, const TraceQuery& query) {
  return Trace(engine, state).run(query);
}

}  // namespace shunt
