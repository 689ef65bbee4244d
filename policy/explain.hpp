// Would this be allowed, by which rule, in the kernel or by the proxy? Asks the compiled tables, as the kernel does.
#pragma once

#include <base/result.hpp>
#include <optional>
#include <policy/compiler.hpp>
#include <policy/documents.hpp>
#include <string>
#include <vector>

namespace shunt::policy {

struct Question {
  std::string from;  // a workload, NAMESPACE/NAME or NAME; an address; host; world
  std::string to;    // TARGET:PORT, a service, a workload or an address with a port
  // At most one of them.
  std::optional<HttpRequest> request;
  std::optional<RedisCommand> command;
};

// One direction.
struct Side {
  sh_policy_verdict verdict = SH_POLICY_DENY;  // never SH_POLICY_RULES where there is a request
  sh_policy_reason reason = SH_POLICY_R_DEFAULT;
  std::string subject;
  std::vector<std::string> rules;  // "POLICY PATH (FILE:LINE)" of what decided
  std::string detail;              // why an expression could not be compiled
};

struct Answer {
  sh_policy_verdict verdict = SH_POLICY_DENY;  // SH_POLICY_RULES: of a connection whose requests are judged one by one
  std::string from, to;                        // the identities
  uint16_t port = 0;                           // where the workloads listen, host order
  Side egress, ingress;
};

const char* verdict_name(sh_policy_verdict verdict);
const char* verdict_text(sh_policy_verdict verdict);
const char* reason_name(sh_policy_reason reason);
const char* reason_text(sh_policy_reason reason);

// The same for what an event of the kernel side says (enum sh_l7_why and the two lists in it); "?" beyond them.
const char* why_name(uint32_t why);
const char* why_text(uint32_t why);

// "POLICY PATH (FILE:LINE)" of the rules behind an entry: the rule for requests with this number in its automaton, or
// all.
std::vector<std::string> rules_of(const Model& model, const Entry& entry, uint32_t rule = SH_POLICY_NO_RULE);
// "POLICY PATH (FILE:LINE)"
std::string describe(const Model& model, const RuleOrigin& origin);

// Of a workload ([NAMESPACE/]NAME), an address that is not on this host, host or world.
Result<uint32_t> find_identity(const Model& model, const Tables& tables, const std::string& text);

// Of "TARGET:PORT", as in a question.
struct Target {
  uint32_t identity = SH_IDENTITY_WORLD;
  uint16_t port = 0;  // where the workloads listen
};
Result<Target> find_target(const Model& model, const Tables& tables, const std::string& text);

// "Name: value"; absent: it has no name.
std::optional<std::pair<std::string, std::string>> parse_header(const std::string& text);
// The request as a client sends it, without a body; HTTP/1.0 where it has no host.
std::string head_of(const HttpRequest& request);
// Likewise; other arguments than keys, as many as it takes for these to be at their places, are "0".
std::string bytes_of(const RedisCommand& command);
// A question about a request where another protocol is spoken cannot be answered.
Result<void> check_protocol(const sh_policy_entry& entry, bool asks_http, bool asks_redis);

// An error says which name is not known.
Result<Answer> explain(const Model& model, const Tables& tables, const Question& question);

std::string render_text(const Answer& answer);
std::string render_json(const Answer& answer);

// What documents amount to: "2 policies, 3 workloads, …".
std::string summary(const Loaded& loaded, const Tables& tables);

}  // namespace shunt::policy
