// Random policies and requests: the compiled tables against an interpreter that walks the model, with RE2 for the
// expressions.
#include <gtest/gtest.h>
#include <policy/core/both.h>
#include <re2/re2.h>

#include <map>
#include <policy/explain.hpp>
#include <tests/support/policy_random.hpp>

namespace shunt::policy {
namespace {

// ---- the interpreter ----

const std::map<std::string, std::string> kRefused = {{"/t/(a|b)\\1", "/t/"}, {"/n/(?!x).*", "/n/"}};

bool full_match(const std::string& expression, const std::string& text) {
  static std::map<std::string, std::unique_ptr<RE2>> known;
  std::unique_ptr<RE2>& re = known[expression];
  if (!re) re = std::make_unique<RE2>(expression);
  return RE2::FullMatch(text, *re);
}

bool not_ascii(const std::string& text) {
  return std::any_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x80; });
}

// Written from the definition of a normal form, not from the matcher: segments, escapes, fragments.
bool is_odd_path(const std::string& path) {
  if (not_ascii(path) || path.empty() || path[0] != '/' || path.find('#') != std::string::npos) return true;
  const std::string plain = path.substr(0, path.find('?'));
  if (plain.find('%') != std::string::npos) return true;
  for (size_t at = 1; at < plain.size();) {
    const size_t end = std::min(plain.find('/', at), plain.size());
    const std::string segment = plain.substr(at, end - at);
    if (segment.empty() || segment == "." || segment == "..") return true;
    at = end + 1;
  }
  return false;
}

struct Judgement {
  sh_u8 verdict = SH_POLICY_DENY;
  const HttpRule* rule = nullptr;
};

enum class Match { no, maybe, yes };

Match match_field(const std::string& expression, const std::string& text, bool odd) {
  if (expression.empty()) return Match::yes;
  if (odd) return Match::maybe;
  const auto refused = kRefused.find(expression);
  if (refused != kRefused.end()) return text.starts_with(refused->second) ? Match::maybe : Match::no;
  return full_match(expression, text) ? Match::yes : Match::no;
}

bool is_met(const HeaderCondition& condition, const HttpRequest& one) {
  return std::any_of(one.headers.begin(), one.headers.end(), [&](const auto& header) {
    return strcasecmp(header.first.c_str(), condition.name.c_str()) == 0 &&
           (!condition.value || *condition.value == header.second);
  });
}

Match match_rule(const HttpRule& rule, const HttpRequest& one) {
  Match all =
      std::min({match_field(rule.method, one.method, false), match_field(rule.path, one.path, is_odd_path(one.path)),
                match_field(rule.host, one.host, not_ascii(one.host))});
  // A rule with an expression that is not compiled never matches surely.
  if (kRefused.count(rule.path) != 0) all = std::min(all, Match::maybe);
  for (const HeaderCondition& condition : rule.headers) {
    if (!is_met(condition, one)) return Match::no;
  }
  return all;
}

// The proxy is to write headers of this request, or might have to.
bool writes(const HttpRule& rule, const HttpRequest& one) {
  if (rule.rewrites.empty() || match_rule(rule, one) == Match::no) return false;
  return kRefused.count(rule.path) != 0 ||
         std::any_of(rule.rewrites.begin(), rule.rewrites.end(),
                     [&](const HeaderRewrite& rewrite) { return !is_met(rewrite.wanted, one); });
}

Judgement judge(const std::vector<const HttpRule*>& rules, const HttpRequest& one) {
  const auto is_there_twice = [&](const HeaderCondition& condition) {
    return std::count_if(one.headers.begin(), one.headers.end(), [&](const auto& header) {
             return strcasecmp(header.first.c_str(), condition.name.c_str()) == 0;
           }) > 1;
  };
  for (const HttpRule* rule : rules) {
    const bool twice = std::any_of(rule->headers.begin(), rule->headers.end(), is_there_twice) ||
                       std::any_of(rule->rewrites.begin(), rule->rewrites.end(),
                                   [&](const HeaderRewrite& rewrite) { return is_there_twice(rewrite.wanted); });
    if (twice) return {SH_POLICY_PUNT, nullptr};
  }
  if (std::any_of(rules.begin(), rules.end(), [&](const HttpRule* rule) { return writes(*rule, one); }))
    return {SH_POLICY_PUNT, nullptr};
  Judgement judgement;
  for (const HttpRule* rule : rules) {
    const Match match = match_rule(*rule, one);
    if (match == Match::yes) return {SH_POLICY_ALLOW, rule};
    if (match == Match::maybe) judgement.verdict = SH_POLICY_PUNT;
  }
  return judgement;
}

struct Party {
  Labels labels;
  std::optional<Address> address;
};

Party party(const Model& model, const std::string& name) {
  if (name == "host" || name == "world") return {{{"reserved:" + name, ""}}, std::nullopt};
  if (const auto address = parse_address(name)) return {{{"reserved:world", ""}}, address};
  const size_t slash = name.find('/');
  return {
      model.workload(slash == std::string::npos ? "default" : name.substr(0, slash), name.substr(slash + 1))->labels,
      std::nullopt};
}

bool in(const Cidr& cidr, const Address& address) {
  if (is_v4(cidr) != is_v4_mapped(address.data())) return false;
  for (unsigned bit = 0; bit < cidr.prefix_bits; bit++) {
    if (((cidr.addr[bit / 8] ^ address[bit / 8]) >> (7 - bit % 8) & 1) != 0) return false;
  }
  return true;
}

bool is_peer(const Peers& peers, const Party& one) {
  if (peers.any) return true;
  for (const Selector& selector : peers.selectors) {
    if (selector.matches(one.labels)) return true;
  }
  for (const CidrBlock& block : peers.cidrs) {
    if (!one.address || !in(block.cidr, *one.address)) continue;
    if (std::none_of(block.except.begin(), block.except.end(),
                     [&](const Cidr& part) { return in(part, *one.address); }))
      return true;
  }
  return false;
}

bool is_port(const Rule& rule, uint16_t port, const Party& destination) {
  if (rule.any_port) return true;
  return std::any_of(rule.ports.begin(), rule.ports.end(), [&](const PortSpec& spec) {
    if (spec.name == "web")
      return port == 80 && destination.labels.count("env") != 0 && destination.labels.at("env") == "x";
    return spec.first == 0 || (spec.first <= port && port <= spec.last);
  });
}

Judgement interpret(const Model& model, Direction direction, const Party& from, const Party& to, uint16_t port,
                    const HttpRequest& one) {
  const Party& subject = direction == Direction::ingress ? to : from;
  const Party& peer = direction == Direction::ingress ? from : to;
  bool enforced = false, denied = false, wide = false;
  std::vector<const HttpRule*> http;
  if (subject.labels.count(kNamespaceLabel) == 0) return {SH_POLICY_ALLOW, nullptr};
  for (const PlacedPolicy& placed : model.policies) {
    const bool enforces = direction == Direction::ingress ? placed.policy->ingress : placed.policy->egress;
    if (!enforces || !placed.policy->subject.matches(subject.labels)) continue;
    enforced = true;
    for (const Rule& rule : placed.policy->rules) {
      if (rule.direction != direction || !is_peer(rule.peers, peer) || !is_port(rule, port, to)) continue;
      denied |= rule.deny;
      wide |= !rule.deny && rule.protocol == Protocol::tcp;
      for (const HttpRule& item : rule.http) http.push_back(&item);
    }
  }
  if (!enforced) return {SH_POLICY_ALLOW, nullptr};
  if (denied) return {SH_POLICY_DENY, nullptr};
  if (wide) return {SH_POLICY_ALLOW, nullptr};
  return judge(http, one);
}

// Is this text the name of the rule?
bool named(const Model& model, const HttpRule& wanted, const std::string& text) {
  for (const PlacedPolicy& placed : model.policies) {
    for (const Rule& rule : placed.policy->rules) {
      for (size_t i = 0; i < rule.http.size(); i++) {
        if (&rule.http[i] != &wanted) continue;
        return text == placed.policy->title() + " " + rule.path + ".rules.http[" + std::to_string(i) + "] (" +
                           placed.at(wanted.place) + ")";
      }
    }
  }
  return false;
}

TEST(PolicyDifferential, TablesAndInterpreterAgree) {
  size_t verdicts[4] = {};
  Compiler compiler;  // one for all, so that what it keeps is tested too
  for (uint32_t seed = 0; seed < 10'000; seed++) {
    Random random(seed);
    const std::string text = documents(random);
    Loader loader;
    const Loaded loaded = loader.load({{"random.yaml", text}});
    ASSERT_TRUE(loaded.ok()) << loaded.problems.front().to_string() << "\n" << text;
    const Tables tables = compiler.compile(loaded.model);
    for (int i = 0; i < 12; i++) {
      const std::string from = random.of(kEnds);
      const std::string to = random.of(kEnds);
      const auto port = static_cast<uint16_t>(std::stoi(random.of({"80", "443", "8000", "22"})));
      const HttpRequest one = request(random);
      const std::string target = to.find(':') == std::string::npos ? to : "[" + to + "]";
      const auto answer = explain(loaded.model, tables, {from, target + ":" + std::to_string(port), one});
      ASSERT_TRUE(answer) << answer.error().to_string();
      const Party client = party(loaded.model, from);
      const Party server = party(loaded.model, to);
      const Judgement egress = interpret(loaded.model, Direction::egress, client, server, port, one);
      const Judgement ingress = interpret(loaded.model, Direction::ingress, client, server, port, one);
      const sh_u8 expected = sh_policy_both(egress.verdict, ingress.verdict);
      ASSERT_EQ(answer->verdict, expected) << "seed " << seed << " " << from << " -> " << to << ":" << port << " "
                                           << one.method << " " << one.path << " host " << one.host << "\n"
                                           << render_text(*answer) << text;
      for (const auto& [side, judgement] : {std::pair(answer->ingress, ingress), {answer->egress, egress}}) {
        if (judgement.rule == nullptr || judgement.verdict != SH_POLICY_ALLOW) continue;
        ASSERT_EQ(side.rules.size(), 1u);
        EXPECT_TRUE(named(loaded.model, *judgement.rule, side.rules[0])) << side.rules[0];
      }
      verdicts[expected]++;
    }
  }
  EXPECT_GT(verdicts[SH_POLICY_DENY], 5'000u);
  EXPECT_GT(verdicts[SH_POLICY_ALLOW], 5'000u);
  EXPECT_GT(verdicts[SH_POLICY_PUNT], 500u);
}

}  // namespace
}  // namespace shunt::policy
