// Does a policy that lies somewhere say what its tables say? For one source file of a test program.
#pragma once

#include <gtest/gtest.h>

#include <policy/explain.hpp>
#include <policy/walk.hpp>
#include <tests/support/policy_random.hpp>

namespace shunt::test {

struct Walked {
  sh_u8 verdict = SH_POLICY_DENY;
  sh_u8 reason = SH_POLICY_R_DEFAULT;
  sh_u32 origin = 0;
};

// One direction; `request`: null for the connection alone.
inline Walked walk(const PolicySource& source, sh_policy_direction direction, sh_u32 subject, sh_u32 peer, sh_u16 port,
                   const policy::HttpRequest* request) {
  const sh_policy_entry entry = policy::ask(source, direction, subject, peer, port).entry;
  EXPECT_TRUE(entry.verdict != SH_POLICY_RULES || source.judged(port)) << "port " << port;
  if (entry.verdict != SH_POLICY_RULES || request == nullptr) return {entry.verdict, entry.reason, entry.origin};
  const sh_policy_result result = policy::judge(source, entry.set, *request);
  return {result.verdict, result.name, entry.origin};
}

inline sh_u32 identity_in(const PolicySource& source, const policy::Model& model, const policy::Tables& tables,
                          const std::string& name) {
  if (name == "host") return SH_IDENTITY_HOST;
  if (name == "world") return SH_IDENTITY_WORLD;
  if (const auto address = parse_address(name)) return source.identity_of(*address);
  const size_t slash = name.find('/');
  const auto* workload = model.workload(slash == std::string::npos ? "default" : name.substr(0, slash),
                                        name.substr(slash + 1));  // npos + 1 is 0
  return tables.identity_of(workload->labels)->number;
}

// `questions` random ones, each answered by the source and by explain(). False if one differs; how often each verdict
// came is added to `verdicts`.
inline bool agrees(const PolicySource& source, const policy::Model& model, const policy::Tables& tables,
                   policy::Random& random, int questions, size_t (&verdicts)[4]) {
  for (int i = 0; i < questions; i++) {
    const std::string from = random.of(policy::kEnds), to = random.of(policy::kEnds);
    const auto port = static_cast<sh_u16>(std::stoi(random.of({"80", "443", "8000", "22", "70", "8100", "65535"})));
    const policy::HttpRequest request = policy::request(random);
    const bool with_request = !random.one_in(4);
    const std::string target = to.find(':') == std::string::npos ? to : "[" + to + "]";
    policy::Question question{from, target + ":" + std::to_string(port), {}};
    if (with_request) question.request = request;
    const auto answer = policy::explain(model, tables, question);
    if (!answer) return ADD_FAILURE() << answer.error().to_string(), false;
    const sh_u32 client = identity_in(source, model, tables, from), server = identity_in(source, model, tables, to);
    const policy::HttpRequest* asked = with_request ? &request : nullptr;
    const Walked egress = walk(source, SH_POLICY_EGRESS, client, server, port, asked);
    const Walked ingress = walk(source, SH_POLICY_INGRESS, server, client, port, asked);
    for (const auto& [walked, side] : {std::pair(egress, answer->egress), {ingress, answer->ingress}}) {
      if (walked.verdict == side.verdict && walked.reason == side.reason) continue;
      ADD_FAILURE() << from << " -> " << to << ":" << port << " " << request.method << " " << request.path
                    << ": verdict " << int{walked.verdict} << " reason " << int{walked.reason} << "\n"
                    << policy::render_text(*answer);
      return false;
    }
    verdicts[answer->verdict]++;
  }
  return true;
}

}  // namespace shunt::test
