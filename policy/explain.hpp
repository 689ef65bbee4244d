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
  std::optional<HttpRequest> request;
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

const char* reason_name(sh_policy_reason reason);
const char* reason_text(sh_policy_reason reason);

// An error says which name is not known.
Result<Answer> explain(const Model& model, const Tables& tables, const Question& question);

std::string render_text(const Answer& answer);
std::string render_json(const Answer& answer);

// What documents amount to: "2 policies, 3 workloads, …".
std::string summary(const Loaded& loaded, const Tables& tables);

}  // namespace shunt::policy
