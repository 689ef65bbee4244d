// Asks a policy that lies somewhere in the layout of bpf/abi/policy.h, by the code that the kernel side uses. For one
// source file of a test program.
#pragma once

#include <gtest/gtest.h>

#include <policy/explain.hpp>
#include <string_view>
#include <tests/support/policy_random.hpp>

namespace shunt::test {

// Where it lies.
class PolicySource {
 public:
  virtual ~PolicySource() = default;
  virtual sh_u8 half() const = 0;
  virtual bool subject(const sh_policy_subject_key& key, sh_policy_subject& value) const = 0;
  virtual bool entry(const sh_policy_key& key, sh_policy_entry& value) const = 0;
  virtual sh_u16 first_port(sh_u16 port) const = 0;
  virtual bool judged(sh_u16 port) const = 0;
  virtual sh_policy_set set(sh_u32 number) const = 0;
  virtual const struct sh_policy_block* block(sh_u32 number) const = 0;  // null: there is none
  virtual sh_policy_result result(sh_u32 index) const = 0;
  virtual sh_u32 identity_of(const Address& address) const = 0;  // SH_IDENTITY_WORLD: in no network
};

}  // namespace shunt::test

struct sh_policy_view {
  const shunt::test::PolicySource* source = nullptr;
  std::string_view request = {};
};

static const struct sh_policy_block* sh_policy_block(const struct sh_policy_view* view, sh_u32 number) {
  return view->source->block(number);
}
static struct sh_policy_result sh_policy_result_at(const struct sh_policy_view* view, sh_u32 index) {
  return view->source->result(index);
}
static sh_u8 sh_policy_byte(const struct sh_policy_view* view, sh_u32 offset) {
  return offset < view->request.size() ? static_cast<sh_u8>(view->request[offset]) : 0;
}
static int sh_policy_find_subject(const struct sh_policy_view* view, const struct sh_policy_subject_key* key,
                                  struct sh_policy_subject* subject) {
  return view->source->subject(*key, *subject);
}
static int sh_policy_find_entry(const struct sh_policy_view* view, const struct sh_policy_key* key,
                                struct sh_policy_entry* entry) {
  return view->source->entry(*key, *entry);
}
static sh_u16 sh_policy_first_port(const struct sh_policy_view* view, sh_u8, sh_u16 port) {
  return view->source->first_port(port);
}

#include <policy/core/automaton.h>
#include <policy/core/lookup.h>

namespace shunt::test {

struct Walked {
  sh_u8 verdict = SH_POLICY_DENY;
  sh_u8 reason = SH_POLICY_R_DEFAULT;
  sh_u32 origin = 0;
};

inline sh_policy_result walk_set(const PolicySource& source, sh_u32 number, const policy::HttpRequest& request) {
  const sh_policy_set set = source.set(number);
  std::string bytes;
  sh_policy_view view{&source, bytes};
  const auto put = [&](const std::string& text) {
    bytes += text;
    view.request = bytes;
    return static_cast<sh_u32>(bytes.size() - text.size());
  };
  const auto length = [](const std::string& text) { return static_cast<sh_u32>(text.size()); };
  sh_policy_run run;
  sh_policy_begin(&run, &view, &set);
  sh_policy_method(&run, put(request.method), length(request.method));
  sh_policy_path(&run, put(request.path), length(request.path));
  sh_policy_host(&run, put(request.host), length(request.host));
  for (const auto& [name, value] : request.headers) {
    const sh_u32 name_at = put(name);
    sh_policy_header(&run, name_at, length(name), put(value), length(value));
  }
  return sh_policy_end(&run);
}

// One direction; `request`: null for the connection alone.
inline Walked walk(const PolicySource& source, sh_policy_direction direction, sh_u32 subject, sh_u32 peer, sh_u16 port,
                   const policy::HttpRequest* request) {
  const sh_policy_view view{&source};
  const sh_policy_entry entry = sh_policy_ask(&view, source.half(), static_cast<sh_u8>(direction), subject, peer, port);
  EXPECT_TRUE(entry.verdict != SH_POLICY_RULES || source.judged(port)) << "port " << port;
  if (entry.verdict != SH_POLICY_RULES || request == nullptr) return {entry.verdict, entry.reason, entry.origin};
  const sh_policy_result result = walk_set(source, entry.set, *request);
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
