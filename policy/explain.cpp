#include <bpf/abi/shunt.h>
#include <l7parsers/core/reasons.h>
#include <policy/core/both.h>
#include <strings.h>

#include <algorithm>
#include <base/parse.hpp>
#include <l7parsers/resp.hpp>
#include <nlohmann/json.hpp>
#include <policy/explain.hpp>

namespace shunt::policy {
namespace {

struct End {
  uint32_t identity = SH_IDENTITY_WORLD;
  const Service* service = nullptr;
};

struct ReasonEntry {
  const char* name;
  const char* text;
};

constexpr ReasonEntry kReasons[] = {
#define SH_POLICY_REASON_ROW(id, name, text) {name, text},
    SH_POLICY_REASONS(SH_POLICY_REASON_ROW)
#undef SH_POLICY_REASON_ROW
};

constexpr ReasonEntry kParserReasons[] = {
#define L7_REASON_ROW(id, name, text) {name, text},
    L7_REASONS(L7_REASON_ROW)
#undef L7_REASON_ROW
};

// What only the connection knows, in the order of enum sh_l7_why.
constexpr ReasonEntry kConnectionReasons[] = {
    {"unjudged", "the client's socket could not be enrolled: its requests would not be seen"},
    {"older-than-policy", "the connection is older than the policy"},
    {"unjudged-bytes", "bytes were sent that no verdict covers"},
    {"urgent", "an urgent byte was sent"},
    {"order", "whether the earlier responses have arrived cannot be proved, so that none can be put in between"},
    {"split", "the request goes on in another send"},
    {"scratch", "no memory to parse in was free"},
    {"proxy", "the proxy ended the connection, or did not take what the client sent"},
    {"writers", "two threads were sending, and what one sent could have come into a request of the other"},
    {"parted", "TCP took the head of a request in two parts, and the second one could have been another"},
    {"protocol", "the policy has changed the protocol of the port"},
};
static_assert(std::size(kConnectionReasons) == SH_L7_WHY_PROTOCOL - SH_L7_WHY_UNJUDGED + 1);

ReasonEntry why_entry(uint32_t why) {
  const auto of = [why](const auto& list, uint32_t first) {
    return why >= first && why - first < std::size(list) ? list[why - first] : ReasonEntry{"?", "?"};
  };
  if (why >= SH_L7_WHY_UNJUDGED) return of(kConnectionReasons, SH_L7_WHY_UNJUDGED);
  return why >= SH_L7_WHY_PARSER ? of(kParserReasons, SH_L7_WHY_PARSER) : of(kReasons, SH_L7_WHY_POLICY);
}

std::pair<std::string, std::string> split_name(const std::string& text) {
  const size_t slash = text.find('/');
  if (slash == std::string::npos) return {"default", text};
  return {text.substr(0, slash), text.substr(slash + 1)};
}

Result<End> find_end(const Model& model, const Tables& tables, const std::string& text, bool with_services) {
  if (text == "host") return End{SH_IDENTITY_HOST};
  if (text == "world") return End{SH_IDENTITY_WORLD};
  const auto [name_space, name] = split_name(text);
  if (const auto address = parse_address(text)) {
    for (const Service& service : model.services) {
      const bool its =
          std::find(service.addresses.begin(), service.addresses.end(), *address) != service.addresses.end();
      if (its && with_services) return find_end(model, tables, service.title(), true);
    }
    return End{tables.identity_of(*address)};
  }
  const Service* service = with_services ? model.service(name_space, name) : nullptr;
  const Workload* named = service == nullptr ? model.workload(name_space, name) : nullptr;
  if (named != nullptr) return End{tables.identity_of(named->labels)->number};
  if (service == nullptr) {
    return invalid(in_quotes(text) + " is not known",
                   with_services ? "write [NAMESPACE/]NAME of a workload or service, an address, host or world"
                                 : "write [NAMESPACE/]NAME of a workload, an address, host or world");
  }
  for (const Workload& workload : model.workloads) {
    if (service->workloads.matches(workload.labels)) return End{tables.identity_of(workload.labels)->number, service};
  }
  return invalid("no workload stands behind the service " + service->title(), "write its Workload");
}

Result<uint16_t> find_port(const End& end, const std::string& text) {
  for (const ServicePort& port : end.service == nullptr ? std::vector<ServicePort>{} : end.service->ports) {
    if (text == port.name || text == std::to_string(port.port)) return port.target_port;
  }
  const auto number = parse_number(text, 1, 65535);
  if (number) return static_cast<uint16_t>(*number);
  return invalid(in_quotes(text) + " is not a port", "write a number, or the name of a port of the service");
}

sh_policy_result match(const Automaton& automaton, const RedisCommand& command) {
  const std::string bytes = bytes_of(command);
  l7::RespCommand parsed;
  parsed.parse(bytes);
  return match(automaton, parsed.raw(), bytes);
}

void judge(const Model& model, const Entry& entry, const Question& question, Side& side) {
  const sh_policy_result result =
      question.request ? match(*entry.automaton, *question.request) : match(*entry.automaton, *question.command);
  side.verdict = static_cast<sh_policy_verdict>(result.verdict);
  side.reason = static_cast<sh_policy_reason>(result.name);
  if (result.rule < entry.origins.size()) {
    side.rules = rules_of(model, entry, result.rule);
    side.detail = entry.automaton->refused[result.rule];
  } else if (result.verdict != SH_POLICY_DENY && result.name != SH_POLICY_R_HEADER_TWICE) {
    side.detail = "the automaton of " + std::to_string(entry.origins.size()) + " rules does not tell which one matches";
  }
}

Result<Side> ask(const Model& model, const Tables& tables, sh_policy_direction direction, uint32_t subject,
                 uint32_t peer, uint16_t port, const Question& question) {
  Side side;
  side.subject = tables.identity(subject)->title;
  const auto [entry, found] = tables.ask(direction, subject, peer, port);
  side.verdict = static_cast<sh_policy_verdict>(entry.verdict);
  side.reason = static_cast<sh_policy_reason>(entry.reason);
  if (found == nullptr) return side;
  const auto checked = check_protocol(entry, question.request.has_value(), question.command.has_value());
  if (!checked) return unexpected(checked.error());
  if (entry.verdict == SH_POLICY_RULES && (question.request || question.command)) {
    judge(model, *found, question, side);
    return side;
  }
  side.rules = rules_of(model, *found);
  return side;
}

}  // namespace

const char* verdict_name(sh_policy_verdict verdict) {
  constexpr const char* kNames[] = {"denied", "allowed", "allowed-by-request", "punted"};
  return kNames[verdict];
}

const char* verdict_text(sh_policy_verdict verdict) {
  constexpr const char* kTexts[] = {"denied", "allowed", "allowed, and each request is judged", "decided by the proxy"};
  return kTexts[verdict];
}

std::string describe(const Model& model, const RuleOrigin& origin) {
  std::string text = origin.policy->title() + " " + origin.rule->path;
  Place place = origin.rule->place;
  const auto add = [&](const char* list, const auto* request, const auto& requests) {
    if (request == nullptr) return;
    text += std::string(".rules.") + list + "[" + std::to_string(request - requests.data()) + "]";
    place = request->place;
  };
  add("http", origin.http, origin.rule->http);
  add("l7", origin.redis, origin.rule->redis);
  for (const PlacedPolicy& placed : model.policies) {
    if (placed.policy.get() == origin.policy) return text + " (" + placed.at(place) + ")";
  }
  return text;
}

Result<uint32_t> find_identity(const Model& model, const Tables& tables, const std::string& text) {
  const auto end = find_end(model, tables, text, false);
  if (!end) return unexpected(end.error());
  return end->identity;
}

const char* reason_name(sh_policy_reason reason) { return kReasons[reason].name; }
const char* reason_text(sh_policy_reason reason) { return kReasons[reason].text; }
const char* why_name(uint32_t why) { return why_entry(why).name; }
const char* why_text(uint32_t why) { return why_entry(why).text; }

std::vector<std::string> rules_of(const Model& model, const Entry& entry, uint32_t rule) {
  if (rule < entry.origins.size()) return {describe(model, entry.origins[rule])};
  std::vector<std::string> rules;
  for (const RuleOrigin& origin : entry.origins) rules.push_back(describe(model, origin));
  return rules;
}

Result<Target> find_target(const Model& model, const Tables& tables, const std::string& text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos) return invalid(in_quotes(text) + " has no port", "write TARGET:PORT");
  std::string target = text.substr(0, colon);
  if (target.starts_with('[') && target.ends_with(']')) target = target.substr(1, target.size() - 2);
  const auto end = find_end(model, tables, target, true);
  if (!end) return unexpected(end.error());
  const auto port = find_port(*end, text.substr(colon + 1));
  if (!port) return unexpected(port.error());
  return Target{end->identity, *port};
}

std::optional<std::pair<std::string, std::string>> parse_header(const std::string& text) {
  const size_t colon = text.find(':');
  if (colon == 0 || colon == std::string::npos) return std::nullopt;
  const size_t value = text.find_first_not_of(' ', colon + 1);
  return std::pair(text.substr(0, colon), value == std::string::npos ? "" : text.substr(value));
}

std::string head_of(const HttpRequest& request) {
  const auto frames = [](const auto& header) {
    return strcasecmp(header.first.c_str(), "content-length") == 0 ||
           strcasecmp(header.first.c_str(), "transfer-encoding") == 0;
  };
  std::string head = request.method + " " + request.path;
  head += request.host.empty() ? " HTTP/1.0\r\n" : " HTTP/1.1\r\nHost: " + request.host + "\r\n";
  if (request.host.empty() && std::none_of(request.headers.begin(), request.headers.end(), frames))
    head += "Content-Length: 0\r\n";
  for (const auto& [name, value] : request.headers) head += name + ": " + value + "\r\n";
  return head + "\r\n";
}

std::string bytes_of(const RedisCommand& command) {
  std::vector<std::string> arguments{command.name};
  const int number = l7::resp_command(command.name);
  const auto fill = [&](int count) { arguments.insert(arguments.end(), static_cast<size_t>(std::max(0, count)), "0"); };
  const l7_resp_command* known =
      number >= 0 && l7_resp_commands[number].first != 0 ? &l7_resp_commands[number] : nullptr;
  if (known != nullptr) fill(known->first - 1);
  for (const std::string& key : command.keys) {
    arguments.push_back(key);
    if (known != nullptr) fill(known->step - 1);
  }
  if (known != nullptr && known->last < -1) fill(-known->last - 1);
  std::string bytes = "*" + std::to_string(arguments.size()) + "\r\n";
  for (const std::string& text : arguments) bytes += "$" + std::to_string(text.size()) + "\r\n" + text + "\r\n";
  return bytes;
}

Result<void> check_protocol(const sh_policy_entry& entry, bool asks_http, bool asks_redis) {
  if (entry.verdict != SH_POLICY_RULES) return {};
  if (asks_http && entry.protocol == SH_L7_RESP)
    return invalid("the port speaks Redis, as its rules have it", "ask with --command and --key");
  if (asks_redis && entry.protocol == SH_L7_HTTP1)
    return invalid("the port speaks HTTP, as its rules have it", "ask with METHOD and PATH");
  return {};
}

Result<Answer> explain(const Model& model, const Tables& tables, const Question& question) {
  const auto from = find_end(model, tables, question.from, false);
  if (!from) return unexpected(from.error());
  const auto to = find_target(model, tables, question.to);
  if (!to) return unexpected(to.error());
  Answer answer;
  answer.from = tables.identity(from->identity)->title;
  answer.to = tables.identity(to->identity)->title;
  answer.port = to->port;
  const auto out = tables.ask(SH_POLICY_EGRESS, from->identity, to->identity, to->port).first;
  const auto in = tables.ask(SH_POLICY_INGRESS, to->identity, from->identity, to->port).first;
  const bool differ = sh_policy_protocols_differ(&out, &in) != 0;
  const Question asked = differ ? Question{} : question;
  const auto egress = ask(model, tables, SH_POLICY_EGRESS, from->identity, to->identity, to->port, asked);
  const auto ingress = ask(model, tables, SH_POLICY_INGRESS, to->identity, from->identity, to->port, asked);
  for (const auto* side : {&egress, &ingress}) {
    if (!*side) return unexpected(side->error());
  }
  answer.egress = *egress;
  answer.ingress = *ingress;
  for (Side* side : {&answer.egress, &answer.ingress}) {
    if (!differ) break;
    side->verdict = SH_POLICY_DENY;
    side->reason = SH_POLICY_R_PROTOCOLS;
  }
  const auto plain = [](sh_policy_verdict verdict) {
    return static_cast<sh_u8>(verdict == SH_POLICY_RULES ? SH_POLICY_ALLOW : verdict);
  };
  answer.verdict =
      static_cast<sh_policy_verdict>(sh_policy_both(plain(answer.egress.verdict), plain(answer.ingress.verdict)));
  const bool judged = answer.egress.verdict == SH_POLICY_RULES || answer.ingress.verdict == SH_POLICY_RULES;
  if (judged && answer.verdict == SH_POLICY_ALLOW) answer.verdict = SH_POLICY_RULES;
  return answer;
}

std::string render_text(const Answer& answer) {
  std::string text = answer.from + " to " + answer.to + ", port " + std::to_string(answer.port) + ": " +
                     verdict_text(answer.verdict) + "\n";
  const std::pair<const char*, const Side*> sides[] = {{"egress of ", &answer.egress},
                                                       {"ingress of ", &answer.ingress}};
  for (const auto& [name, side] : sides) {
    text += "  " + std::string(name) + side->subject + ": " + verdict_text(side->verdict) + ": " +
            reason_text(side->reason) + "\n";
    for (const std::string& rule : side->rules) text += "    " + rule + "\n";
    if (!side->detail.empty()) text += "    " + side->detail + "\n";
  }
  return text;
}

std::string render_json(const Answer& answer) {
  const auto side = [](const Side& one) {
    nlohmann::json document{{"subject", one.subject},
                            {"verdict", verdict_name(one.verdict)},
                            {"reason", reason_name(one.reason)},
                            {"rules", one.rules}};
    if (!one.detail.empty()) document["detail"] = one.detail;
    return document;
  };
  const nlohmann::json document{{"verdict", verdict_name(answer.verdict)},
                                {"from", answer.from},
                                {"to", answer.to},
                                {"port", answer.port},
                                {"egress", side(answer.egress)},
                                {"ingress", side(answer.ingress)}};
  return document.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

std::string summary(const Loaded& loaded, const Tables& tables) {
  size_t http = 0, redis = 0;
  size_t refused = 0;
  std::vector<const Automaton*> seen;
  for (const PlacedPolicy& placed : loaded.model.policies) {
    for (const Rule& rule : placed.policy->rules) {
      http += rule.http.size();
      redis += rule.redis.size();
    }
  }
  for (const auto& subject : tables.subjects) {
    for (const auto& item : subject.second->entries) {
      const Automaton* automaton = item.second.automaton.get();
      if (automaton == nullptr || std::find(seen.begin(), seen.end(), automaton) != seen.end()) continue;
      seen.push_back(automaton);
      for (const std::string& why : automaton->refused) refused += !why.empty();
    }
  }
  std::string text = std::to_string(loaded.model.policies.size()) + " policies, " + std::to_string(http) +
                     " http rules, " + (redis == 0 ? "" : std::to_string(redis) + " Redis rules, ") +
                     std::to_string(loaded.model.workloads.size()) + " workloads; " + std::to_string(tables.entries()) +
                     " entries, " + std::to_string(tables.sets()) + " automata, " + std::to_string(tables.set_bytes()) +
                     " bytes\n";
  if (refused != 0)
    text += std::to_string(refused) + " rules could not be compiled: requests that they may match go to the proxy\n";
  return text;
}

}  // namespace shunt::policy
