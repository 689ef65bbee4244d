#include <policy/core/names.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <policy/automaton.hpp>
#include <policy/automaton_table.hpp>
#include <policy/editable_automaton.hpp>
#include <policy/subsets.hpp>
#include <set>

namespace shunt::policy {
namespace {

// The text as far as it is simple, then anything: what an expression that is not compiled may match at most.
std::shared_ptr<const Expression> approximate(const Expression& refused) {
  auto expression = std::make_shared<Expression>(any_text());
  const auto length = static_cast<uint32_t>(refused.prefix.size());
  if (length == 0) return expression;
  expression->positions.clear();
  expression->follow.clear();
  for (uint32_t i = 0; i < length; i++) {
    expression->positions.emplace_back().set(static_cast<unsigned char>(refused.prefix[i]));
    expression->follow.push_back({i + 1});
  }
  expression->positions.push_back(any_text().positions[0]);
  expression->follow.push_back({length});
  expression->last.assign(length + 1, false);
  expression->last[length - 1] = expression->last[length] = true;
  expression->nullable = false;
  return expression;
}

// The text, and behind it perhaps anything: bytes that mean nothing but themselves.
std::shared_ptr<const Expression> literal(const std::string& text, bool then_any) {
  auto expression = std::make_shared<Expression>();
  const auto length = static_cast<uint32_t>(text.size());
  const uint32_t positions = length + (then_any ? 1 : 0);
  for (uint32_t i = 0; i < positions; i++) {
    ByteSet& set = expression->positions.emplace_back();
    i < length ? set.set(static_cast<unsigned char>(text[i])) : set.set();
    expression->follow.push_back(i + 1 < positions ? std::vector{i + 1} : std::vector<uint32_t>{});
    expression->last.push_back(i + 1 >= length);
  }
  if (then_any) expression->follow[length] = {length};
  if (positions != 0) expression->first = {0};
  expression->nullable = length == 0;
  return expression;
}

// Positions that may repeat before something else: what makes automata large.
size_t count_loops(const Expression& expression) {
  size_t loops = 0;
  for (uint32_t i = 0; i < expression.positions.size(); i++) {
    const std::vector<uint32_t>& follow = expression.follow[i];
    const bool again = std::binary_search(follow.begin(), follow.end(), i);
    if (again && follow.size() > 1 && expression.positions[i].count() > 1) loops++;
  }
  return loops;
}

// The different results of a set; number 0 denies, and is that of a header that does not matter.
class Results {
 public:
  Results() { number({0, SH_POLICY_NO_RULE, SH_POLICY_DENY, 0}); }

  uint32_t number(const sh_policy_result& result) {
    const auto key = std::tuple(result.bits, result.rule, result.verdict, result.name);
    const auto [known, fresh] = numbers_.emplace(key, static_cast<uint32_t>(list_.size()));
    if (fresh) list_.push_back(result);
    return known->second;
  }
  const std::vector<sh_policy_result>& list() const { return list_; }

 private:
  std::map<std::tuple<sh_u32, sh_u16, sh_u8, sh_u8>, uint32_t> numbers_;
  std::vector<sh_policy_result> list_;
};

// The conditions of the headers of all rules, each with its bit, and the names with their numbers from 1.
struct Conditions {
  std::vector<HeaderCondition> list;
  std::map<std::string, sh_u8> names;

  explicit Conditions(const std::vector<const HttpRule*>& rules) {
    std::set<HeaderCondition> all;
    const auto add = [&](const HeaderCondition& condition) {
      if (all.size() < SH_POLICY_CONDITIONS_MAX) all.insert(condition);
    };
    for (const HttpRule* rule : rules) {
      for (const HeaderCondition& condition : rule->headers) add(condition);
      for (const HeaderRewrite& rewrite : rule->rewrites) add(rewrite.wanted);
    }
    list.assign(all.begin(), all.end());
    for (const HeaderCondition& condition : list) names.emplace(condition.name, names.size() + 1);
  }

  std::optional<uint32_t> bit(const HeaderCondition& condition) const {
    const auto found = std::lower_bound(list.begin(), list.end(), condition);
    if (found == list.end() || *found != condition) return std::nullopt;
    return static_cast<uint32_t>(found - list.begin());
  }
};

// Appends the states that read a header, and returns the first.
class HeaderStates {
 public:
  HeaderStates(const Conditions& conditions, const Classes& classes, PartialAutomaton& automaton, Results& results)
      : conditions_(conditions), classes_(classes), automaton_(automaton), results_(results) {}

  uint32_t build() {
    const uint32_t start = state(0);
    for (const auto& [name, number] : conditions_.names) {
      uint32_t at = start;
      for (const char c : name) at = child(at, c);
      const uint32_t value = values(name, number);
      automaton_.transitions.push_back({at, classes_.count() + SH_POLICY_SEP, value});
    }
    return start;
  }

 private:
  uint32_t state(uint32_t result) {
    automaton_.results.push_back(result);
    return automaton_.states++;
  }

  uint32_t child(uint32_t from, char c) {
    const uint8_t label = classes_.of(static_cast<unsigned char>(c));
    const auto [known, fresh] = children_.emplace(std::pair(from, label), 0);
    if (fresh) {
      known->second = state(0);
      automaton_.transitions.push_back({from, label, known->second});
    }
    return known->second;
  }

  // The states of the values of a header: a trie, and beside it one for every other value.
  uint32_t values(const std::string& name, sh_u8 number) {
    sh_u32 any = 0;
    std::map<std::string, sh_u32> exact;
    for (uint32_t bit = 0; bit < conditions_.list.size(); bit++) {
      const HeaderCondition& condition = conditions_.list[bit];
      if (condition.name != name) continue;
      (condition.value ? exact[*condition.value] : any) |= 1U << bit;
    }
    const uint32_t plain = results_.number({any, SH_POLICY_NO_RULE, SH_POLICY_DENY, number});
    const uint32_t other = state(plain);
    std::map<std::string, uint32_t> nodes;  // by what was read
    nodes.emplace("", state(plain));
    for (const auto& [value, bits] : exact) {
      for (size_t length = 1; length <= value.size(); length++) {
        if (nodes.count(value.substr(0, length)) == 0) nodes[value.substr(0, length)] = state(plain);
      }
      automaton_.results[nodes[value]] = results_.number({any | bits, SH_POLICY_NO_RULE, SH_POLICY_DENY, number});
    }
    std::map<uint32_t, std::map<uint8_t, uint32_t>> ways;
    ways[other];
    for (const auto& [text, node] : nodes) {
      ways[node];
      if (text.empty()) continue;
      const auto byte = static_cast<unsigned char>(text.back());
      ways[nodes[text.substr(0, text.size() - 1)]][classes_.of(byte)] = node;
    }
    for (const auto& [node, known] : ways) {
      for (uint32_t label = 0; label < classes_.count(); label++) {
        const auto way = known.find(static_cast<uint8_t>(label));
        automaton_.transitions.push_back({node, label, way == known.end() ? other : way->second});
      }
    }
    return nodes[""];
  }

  const Conditions& conditions_;
  const Classes& classes_;
  PartialAutomaton& automaton_;
  Results& results_;
  std::map<std::pair<uint32_t, uint8_t>, uint32_t> children_;
};

// What spares the matcher to read the names of most headers.
void write_names(const Conditions& conditions, sh_policy_set& set) {
  for (const auto& [name, number] : conditions.names) {
    if (name.empty()) continue;
    const auto byte = [](char c) { return static_cast<sh_u8>(c); };
    set.names |= sh_u64{1} << sh_policy_name_bit(byte(name.front()), byte(name.back()), sh_u32(name.size()));
  }
}

Classes classes_of(const std::vector<RuleInput>& inputs, const Conditions& conditions) {
  Classes classes;
  for (const RuleInput& input : inputs) {
    for (const auto& field : input.fields) {
      for (const ByteSet& set : field->positions) classes.add(set);
    }
  }
  for (const HeaderCondition& condition : conditions.list) {
    for (const char c : condition.name + condition.value.value_or(""))
      classes.add(ByteSet().set(static_cast<unsigned char>(c)));
  }
  classes.finish();
  return classes;
}

std::vector<uint32_t> result_numbers(const Subsets& subsets, bool names_rules, Results& results) {
  std::vector<uint32_t> numbers;
  for (uint32_t state = 0; state < subsets.count(); state++) {
    const Outcome outcome = subsets.outcome(state);
    const auto rule = static_cast<sh_u16>(names_rules ? outcome.rule : SH_POLICY_NO_RULE);
    const bool denied = outcome.verdict == SH_POLICY_DENY;
    numbers.push_back(denied ? 0 : results.number({0, rule, outcome.verdict, outcome.reason}));
  }
  return numbers;
}

using Keep = std::unique_ptr<EditableAutomaton>;

// One attempt with the rules as they are; false: it is too large. With `keep` it can be changed.
bool attempt(const std::vector<RuleInput>& inputs, const Conditions& conditions, const AutomatonLimits& limits,
             Automaton& result, Keep* keep = nullptr) {
  PartialAutomaton requests;
  Subsets subsets(inputs, classes_of(inputs, conditions), static_cast<uint32_t>(conditions.list.size()));
  std::vector<uint32_t> order(inputs.size());
  std::iota(order.begin(), order.end(), 0);
  if (!subsets.run(order, requests.transitions)) return false;
  requests.states = subsets.count();
  for (const bool names_rules : {true, false}) {
    if (names_rules && inputs.size() >= SH_POLICY_NO_RULE) continue;
    Results results;
    PartialAutomaton automaton = requests;
    automaton.results = result_numbers(subsets, names_rules, results);
    uint32_t start_header = UINT32_MAX;
    if (!conditions.list.empty())
      start_header = HeaderStates(conditions, subsets.classes(), automaton, results).build();
    const Minimized minimized = minimize(automaton);
    if (minimized.states > limits.states_max || results.list().size() > UINT16_MAX) continue;
    const TableLayout layout = keep != nullptr ? layout_for_changes(minimized.states, limits) : TableLayout{};
    std::vector<sh_u16> rows = write_cells(minimized, subsets.classes(), 0, start_header, layout, result);
    result.results = results.list();
    result.set.results = static_cast<sh_u32>(result.results.size());
    result.set.conditions = static_cast<sh_u16>(conditions.list.size());
    write_methods(result);
    write_names(conditions, result.set);
    result.names_rules = names_rules;
    if (keep != nullptr) *keep = std::make_unique<EditableAutomaton>(std::move(subsets), minimized, rows, result);
    return true;
  }
  return false;
}

void refuse(RuleInput& input, uint32_t field, std::shared_ptr<const Expression> approximation, const std::string& why) {
  if (input.refused.empty()) input.refused = why;
  input.fields[field] = std::move(approximation);
}

std::vector<RuleInput> make_inputs(std::span<const HttpRule* const> rules, const Conditions& conditions,
                                   ExpressionCache& expressions) {
  std::vector<RuleInput> inputs(rules.size());
  for (size_t i = 0; i < rules.size(); i++) {
    const std::string* texts[kFields] = {&rules[i]->method, &rules[i]->path, &rules[i]->host};
    for (uint32_t field = 0; field < kFields; field++) {
      inputs[i].fields[field] = expressions.get(*texts[field]);
      inputs[i].constrains[field] = !texts[field]->empty();
      inputs[i].loops += inputs[i].fields[field]->loops;
      const std::string& why = inputs[i].fields[field]->refused;
      if (!why.empty()) refuse(inputs[i], field, expressions.approximation(*texts[field]), why);
    }
    for (const HeaderCondition& condition : rules[i]->headers) {
      const auto bit = conditions.bit(condition);
      if (bit) inputs[i].conditions |= 1U << *bit;
      if (!bit && inputs[i].refused.empty())
        inputs[i].refused = "more than 32 different header conditions for one port";
    }
    for (const HeaderRewrite& rewrite : rules[i]->rewrites) {
      if (const auto bit = conditions.bit(rewrite.wanted)) {
        inputs[i].rewrites |= 1U << *bit;
      } else {
        inputs[i].always_rewrites = true;
      }
    }
    // Where it is not known whether it matches, nobody else may let the request pass as it is.
    inputs[i].always_rewrites |= !rules[i]->rewrites.empty() && !inputs[i].refused.empty();
  }
  return inputs;
}

std::vector<RuleInput> make_inputs(const std::vector<const RedisRule*>& rules) {
  const auto any = literal("", true);
  std::vector<RuleInput> inputs(rules.size());
  for (size_t i = 0; i < rules.size(); i++) {
    const RedisRule& rule = *rules[i];
    inputs[i].constrains[0] = !rule.command.empty();
    inputs[i].constrains[1] = rule.key.has_value();
    inputs[i].fields[0] = rule.command.empty() ? any : literal(rule.command, false);
    inputs[i].fields[1] = rule.key ? literal(SH_POLICY_KEY_MARK + *rule.key, rule.key_is_prefix) : any;
    inputs[i].fields[2] = any;
  }
  return inputs;
}

// Nothing fits: every request is punted.
void punt_all(std::vector<RuleInput>& inputs, Automaton& result) {
  for (RuleInput& input : inputs) {
    if (input.refused.empty()) input.refused = "too many rules for one automaton";
  }
  RuleInput any;
  for (auto& field : any.fields) field = std::make_shared<Expression>(any_text());
  any.refused = "too many rules for one automaton";
  attempt({any}, Conditions({}), {}, result);
  for (sh_policy_result& item : result.results) item.rule = SH_POLICY_NO_RULE;
  result.names_rules = false;
}

std::shared_ptr<const Automaton> build(std::vector<RuleInput> inputs, const Conditions& conditions,
                                       const AutomatonLimits& limits, Keep* keep = nullptr) {
  auto result = std::make_shared<Automaton>();
  std::vector<uint32_t> order(inputs.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return inputs[a].loops > inputs[b].loops; });
  bool fits = attempt(inputs, conditions, limits, *result, keep);
  // The rules that make automata large go first: one, two, four, and so on, until the rest fits.
  for (size_t count = 1, done = 0; !fits && done < order.size(); count *= 2) {
    for (; done < std::min(count, order.size()); done++) {
      RuleInput& input = inputs[order[done]];
      if (input.refused.empty())
        refuse(input, 1, approximate(*input.fields[1]), "an automaton that would be too large");
      input.always_rewrites |= input.rewrites != 0;
    }
    fits = attempt(inputs, conditions, limits, *result);
  }
  if (!fits) punt_all(inputs, *result);
  for (const RuleInput& input : inputs) result->refused.push_back(input.refused);
  return result;
}

}  // namespace

std::shared_ptr<const Expression> ExpressionCache::get(const std::string& text) {
  std::shared_ptr<const Expression>& known = known_[text].exact;
  if (known) return known;
  Expression expression = text.empty() ? any_text() : compile_regex(text);
  expression.loops = count_loops(expression);
  return known = std::make_shared<const Expression>(std::move(expression));
}

std::shared_ptr<const Expression> ExpressionCache::approximation(const std::string& text) {
  std::shared_ptr<const Expression>& known = known_[text].approximation;
  return known ? known : known = approximate(*get(text));
}

void ExpressionCache::forget_unused() {
  std::erase_if(known_, [](const auto& item) {
    return item.second.exact.use_count() <= 1 && item.second.approximation.use_count() <= 1;
  });
}

std::shared_ptr<const Automaton> build_automaton(const std::vector<const HttpRule*>& rules,
                                                 ExpressionCache& expressions, const AutomatonLimits& limits) {
  const Conditions conditions(rules);
  return build(make_inputs(rules, conditions, expressions), conditions, limits);
}

std::shared_ptr<const Automaton> build_automaton(const std::vector<const RedisRule*>& rules,
                                                 const AutomatonLimits& limits) {
  return build(make_inputs(rules), Conditions({}), limits);
}

AutomatonBuilder::AutomatonBuilder() = default;
AutomatonBuilder::AutomatonBuilder(AutomatonBuilder&&) noexcept = default;
AutomatonBuilder& AutomatonBuilder::operator=(AutomatonBuilder&&) noexcept = default;
AutomatonBuilder::~AutomatonBuilder() = default;

namespace {

// Those of rules that have the same numbers at the beginning and the end as before are taken over.
std::vector<RuleInput> update_inputs(std::vector<RuleInput> before, const std::vector<uint32_t>& numbers_before,
                                     std::span<const HttpRule* const> rules, const std::vector<uint32_t>& numbers,
                                     const Conditions& conditions, ExpressionCache& expressions) {
  const size_t shorter = std::min(numbers.size(), numbers_before.size());
  const auto first =
      std::mismatch(numbers.begin(), numbers.begin() + static_cast<ptrdiff_t>(shorter), numbers_before.begin());
  const auto begin = static_cast<size_t>(first.first - numbers.begin());
  const auto last = std::mismatch(numbers.rbegin(), numbers.rbegin() + static_cast<ptrdiff_t>(shorter - begin),
                                  numbers_before.rbegin());
  const auto behind = static_cast<size_t>(last.first - numbers.rbegin());
  const size_t fresh = numbers.size() - begin - behind;
  std::vector<RuleInput> inputs = make_inputs(rules.subspan(begin, fresh), conditions, expressions);
  if (fresh == before.size() - begin - behind) {
    std::move(inputs.begin(), inputs.end(), before.begin() + static_cast<ptrdiff_t>(begin));
    return before;
  }
  std::vector<RuleInput> all(numbers.size());
  std::move(before.begin(), before.begin() + static_cast<ptrdiff_t>(begin), all.begin());
  std::move(inputs.begin(), inputs.end(), all.begin() + static_cast<ptrdiff_t>(begin));
  std::move_backward(before.end() - static_cast<ptrdiff_t>(behind), before.end(), all.end());
  return all;
}

}  // namespace

std::shared_ptr<const Automaton> AutomatonBuilder::build(const std::vector<const HttpRule*>& rules,
                                                         const std::vector<uint32_t>& numbers,
                                                         ExpressionCache& expressions, const AutomatonLimits& limits) {
  const Conditions conditions(rules);
  const bool alike = kept_ && conditions_ == conditions.list;  // a condition is known by its bit
  inputs_ = alike ? update_inputs(std::move(inputs_), numbers_, rules, numbers, conditions, expressions)
                  : make_inputs(rules, conditions, expressions);
  numbers_ = numbers;
  changed_ = false;
  if (alike) {
    if (auto automaton = kept_->change(inputs_, limits)) {
      changed_ = true;
      return automaton;
    }
  }
  kept_.reset();
  conditions_ = conditions.list;
  return policy::build(inputs_, conditions, limits, &kept_);
}

}  // namespace shunt::policy
