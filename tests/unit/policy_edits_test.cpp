// Sets whose rules change, one or a few at a time: what is made of the automaton before says the same as one that is
// built of the rules alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <policy/automaton.hpp>
#include <set>
#include <tests/support/policy_random.hpp>
#include <utility>

namespace shunt::policy {
namespace {

using Rules = std::vector<HttpRule>;

const std::vector<HeaderCondition> kHeaders = {{"x-a", std::nullopt}, {"x-a", "1"}, {"x-b", "yes"}};

HttpRule random_rule(Random& random) {
  HttpRule rule;
  rule.method = random.of({"GET", "GET", "POST", "GET|PUT", "P.*", ""});
  rule.path = random.of({"/api/", "/api/", "/a/", "/x"}) + random.of({"items", "other", "it", "[a-m]+", "q-", ".*"}) +
              std::to_string(random.below(30)) + random.of({"", "/[a-z0-9]+", "/.*", "/(a|b)+", "[^/]*"});
  if (random.one_in(6)) rule.path = random.of(kPaths);
  if (random.one_in(8)) rule.path.clear();
  if (random.one_in(4)) rule.host = random.of({"h", "[a-h]+[.]x", ".*", "q\\1"});
  if (random.one_in(4)) rule.headers = {kHeaders[random.below(static_cast<uint32_t>(kHeaders.size()))]};
  if (random.one_in(8)) rule.rewrites = {{kHeaders[random.below(static_cast<uint32_t>(kHeaders.size()))], {}, {}}};
  return rule;
}

// The first has all conditions of headers there are, and stays.
Rules random_rules(Random& random, size_t count) {
  Rules rules = {{"GET", "/headers", "", kHeaders, {}, {}}};
  while (rules.size() < count) rules.push_back(random_rule(random));
  return rules;
}

void edit(Random& random, Rules& rules) {
  for (uint32_t i = random.one_in(4) ? 3 : 1; i > 0; i--) {
    const size_t at = 1 + random.below(static_cast<uint32_t>(rules.size() - 1));
    const auto place = rules.begin() + static_cast<ptrdiff_t>(at);
    switch (random.below(8)) {
      case 0:
        rules.insert(place, random_rule(random));
        break;
      case 1:
        if (rules.size() > 8) rules.erase(place);
        break;
      case 2:
        std::swap(*place, rules.back());
        break;
      case 3:
        place->headers = {kHeaders[random.below(static_cast<uint32_t>(kHeaders.size()))]};
        break;
      case 4:
        (random.one_in(2) ? place->host : place->method) = random.of({"", "GET", ".*"});
        break;
      default:
        *place = random_rule(random);
    }
  }
}

std::shared_ptr<const Automaton> of(AutomatonBuilder& builder, const Rules& rules, ExpressionCache& expressions,
                                    const AutomatonLimits& limits = {}) {
  static Rules known;  // by number
  std::vector<const HttpRule*> pointers;
  std::vector<uint32_t> numbers;
  for (const HttpRule& rule : rules) {
    pointers.push_back(&rule);
    const auto same = std::find_if(known.begin(), known.end(), [&](const HttpRule& other) { return rule.same(other); });
    numbers.push_back(static_cast<uint32_t>(same - known.begin()));
    if (same == known.end()) known.push_back(rule);
  }
  return builder.build(pointers, numbers, expressions, limits);
}

std::shared_ptr<const Automaton> from_scratch(const Rules& rules, const AutomatonLimits& limits = {}) {
  std::vector<const HttpRule*> pointers;
  for (const HttpRule& rule : rules) pointers.push_back(&rule);
  ExpressionCache expressions;
  return build_automaton(pointers, expressions, limits);
}

using Pairs = std::set<std::pair<sh_u16, sh_u16>>;

bool same_result(const Automaton& a, sh_u16 state_a, const Automaton& b, sh_u16 state_b) {
  const auto result = [](const Automaton& automaton, sh_u16 state) {
    const size_t row = size_t{state} << automaton.set.row_shift;
    return automaton.results.at(automaton.cell(row + automaton.set.classes + SH_POLICY_END));
  };
  const sh_policy_result x = result(a, state_a), y = result(b, state_b);
  const bool same_rule = x.rule == y.rule || !a.names_rules || !b.names_rules;
  return x.bits == y.bits && same_rule && x.verdict == y.verdict && x.name == y.name;
}

// Whatever is read from there on, both say the same. All pairs of states that the same text leads to.
bool same_from(const Automaton& a, sh_u16 state_a, const Automaton& b, sh_u16 state_b, Pairs& seen) {
  std::vector<std::pair<sh_u16, sh_u16>> todo = {{state_a, state_b}};
  while (!todo.empty()) {
    const auto [x, y] = todo.back();
    todo.pop_back();
    if (!seen.insert({x, y}).second) continue;
    if (!same_result(a, x, b, y)) return false;
    const size_t row_x = size_t{x} << a.set.row_shift, row_y = size_t{y} << b.set.row_shift;
    for (size_t c = 0; c < 256; c++)
      todo.emplace_back(a.cell(row_x + a.set.class_of[c]), b.cell(row_y + b.set.class_of[c]));
    for (size_t s = 0; s < SH_POLICY_END; s++)
      todo.emplace_back(a.cell(row_x + a.set.classes + s), b.cell(row_y + b.set.classes + s));
  }
  return true;
}

// A matcher skips the rest of a field there. A row that nothing uses is all zero.
bool closed_states_are_closed(const Automaton& a) {
  for (size_t state = 1; state < a.set.first_open; state++) {
    const size_t row = state << a.set.row_shift;
    const bool unused =
        std::all_of(a.set.class_of, a.set.class_of + 256, [&](sh_u8 c) { return a.cell(row + c) == 0; });
    for (size_t c = 0x20; c < 0x7f && !unused; c++) {
      if (a.cell(row + a.set.class_of[c]) != state) return false;
    }
  }
  return true;
}

void expect_same(const Automaton& a, const Automaton& b) {
  Pairs seen;
  EXPECT_TRUE(same_from(a, a.set.start_request, b, b.set.start_request, seen));
  EXPECT_TRUE(same_from(a, a.set.start_header, b, b.set.start_header, seen));
  for (size_t i = 0; i < SH_POLICY_METHODS; i++)
    EXPECT_TRUE(same_from(a, a.set.after_method[i], b, b.set.after_method[i], seen)) << i;
  EXPECT_TRUE(closed_states_are_closed(a));
  EXPECT_EQ(a.set.names, b.set.names);
  EXPECT_EQ(a.set.conditions, b.set.conditions);
  EXPECT_EQ(a.refused, b.refused);
  EXPECT_EQ(a.set.cells, a.states() << a.set.row_shift);
  EXPECT_EQ(a.set.results, a.results.size());
}

TEST(PolicyEdits, AChangedAutomatonSaysWhatOneFromScratchSays) {
  size_t changed = 0, all = 0;
  for (uint32_t seed = 1; seed <= 6; seed++) {
    Random random(seed);
    Rules rules = random_rules(random, 10 + random.below(30));
    AutomatonBuilder builder;
    ExpressionCache expressions;
    for (int step = 0; step < 40; step++) {
      SCOPED_TRACE("seed " + std::to_string(seed) + ", step " + std::to_string(step));
      const auto automaton = of(builder, rules, expressions);
      changed += builder.changed() ? 1 : 0;
      all++;
      expect_same(*automaton, *from_scratch(rules));
      if (testing::Test::HasFailure()) return;
      edit(random, rules);
    }
  }
  EXPECT_GT(changed, all * 3 / 4);
}

// A set that is too large to name its rules.
TEST(PolicyEdits, RulesThatAreNotToldApartChangeToo) {
  Random random(7);
  Rules rules = random_rules(random, 40);
  AutomatonBuilder builder;
  ExpressionCache expressions;
  const AutomatonLimits limits{from_scratch(rules)->states() * 3 / 4};
  size_t changed = 0;
  for (int step = 0; step < 40; step++) {
    SCOPED_TRACE(step);
    const auto automaton = of(builder, rules, expressions, limits);
    EXPECT_LE(automaton->states(), limits.states_max);
    changed += builder.changed() && !automaton->names_rules ? 1 : 0;
    expect_same(*automaton, *from_scratch(rules, limits));
    rules[1 + random.below(39)] = random_rule(random);
  }
  EXPECT_GT(changed, 0U);
}

// What is not needed any more makes room: states, results, subsets.
TEST(PolicyEdits, ThousandsOfChangesTakeNoMoreRoom) {
  Rules rules;
  for (int i = 0; i < 300; i++) rules.push_back({"GET", "/api/items" + std::to_string(i) + "/[a-z0-9]+", "", {}, {}});
  AutomatonBuilder builder;
  ExpressionCache expressions;
  const size_t states = of(builder, rules, expressions)->states();
  size_t anew = 0;
  std::shared_ptr<const Automaton> automaton;
  for (int i = 0; i < 2000; i++) {
    rules[static_cast<size_t>(i * 7) % rules.size()].path = "/api/other" + std::to_string(i) + "/[a-z0-9]+";
    automaton = of(builder, rules, expressions);
    anew += builder.changed() ? 0 : 1;
  }
  EXPECT_EQ(anew, 1U);
  EXPECT_LT(automaton->states(), states * 5 / 4);
  EXPECT_LT(automaton->results.size(), 3 * rules.size());
  expect_same(*automaton, *from_scratch(rules));
}

}  // namespace
}  // namespace shunt::policy
