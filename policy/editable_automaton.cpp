#include <algorithm>
#include <bit>
#include <policy/editable_automaton.hpp>

namespace shunt::policy {
namespace {

constexpr size_t kRowsReserve = 1024;  // a change that takes more may fail
constexpr size_t kEditsMax = 64;       // rules that come or go at once
constexpr uint32_t kSpareShare = 16;   // of all rows
constexpr uint32_t kNoRule = UINT32_MAX;
// What a rule may give.
constexpr std::pair<sh_u8, sh_u8> kOutcomes[] = {{SH_POLICY_ALLOW, 0},
                                                 {SH_POLICY_PUNT, SH_POLICY_R_ODD},
                                                 {SH_POLICY_PUNT, SH_POLICY_R_EXPRESSION},
                                                 {SH_POLICY_PUNT, SH_POLICY_R_REWRITE}};

}  // namespace

TableLayout layout_for_changes(uint32_t states, const AutomatonLimits& limits) {
  const auto room = static_cast<uint32_t>(limits.states_max - states);
  return {true, std::min(room / 2, states / kSpareShare + 1)};
}

EditableAutomaton::EditableAutomaton(Subsets subsets, const Minimized& minimized, const std::vector<sh_u16>& rows,
                                     const Automaton& table)
    : subsets_(std::move(subsets)), table_(table), uses_(table.states(), 0) {
  for (uint32_t rule = 0; rule < subsets_.rules(); rule++) order_.push_back(rule);
  for (uint32_t state = 0; state < minimized.state_of.size(); state++) {
    const sh_u16 row = rows[minimized.state_of[state]];
    if (state < subsets_.count()) row_of_.push_back(row);
    uses_[row]++;
  }
  uses_[0]++;
  for (uint32_t row = table_.set.first_open; row-- > 0;) {
    if (uses_[row] == 0) free_closed_.push_back(static_cast<sh_u16>(row));
  }
  for (uint32_t number = 0; number < table_.results.size(); number++) {
    const sh_policy_result& result = table_.results[number];
    const uint32_t rule = result.rule == SH_POLICY_NO_RULE ? kNoRule : result.rule;
    result_rules_.push_back(rule);
    if (result.verdict != SH_POLICY_DENY) result_numbers_[result_key(rule, result.verdict, result.name)] = number;
  }
  rows_max_ = uses_.size() + uses_.size() / 4 + kRowsReserve;
  threads_max_ = 2 * subsets_.threads();
}

std::shared_ptr<const Automaton> EditableAutomaton::change(const std::vector<RuleInput>& inputs,
                                                           const AutomatonLimits& limits) {
  Edit edit = compare(inputs);
  const bool worn = subsets_.rules() > 2 * order_.size() + kRowsReserve;
  if (worn || edit.fresh > kEditsMax || edit.gone.size() > kEditsMax) return nullptr;
  for (size_t i = 0; i < inputs.size(); i++) {
    if (edit.order[i] != kFresh) continue;
    for (const uint8_t column : subsets_.split_classes(inputs[i])) add_column(column);
    edit.order[i] = subsets_.add(inputs[i]);
  }
  if (is_crowded(limits)) collect();
  remove(edit.gone);
  order_ = std::move(edit.order);
  std::vector<Transition> transitions;
  if (!subsets_.run(order_, transitions) || !place(transitions, limits)) return nullptr;
  return copy(inputs);
}

EditableAutomaton::Edit EditableAutomaton::compare(const std::vector<RuleInput>& inputs) const {
  Edit edit;
  edit.order.assign(inputs.size(), kFresh);
  const auto same = [&](size_t now, size_t before) { return inputs[now].same(subsets_.input(order_[before])); };
  size_t begin = 0, end = inputs.size(), old_end = order_.size();
  for (; begin < std::min(end, old_end) && same(begin, begin); begin++) edit.order[begin] = order_[begin];
  for (; std::min(end, old_end) > begin && same(end - 1, old_end - 1); end--, old_end--)
    edit.order[end - 1] = order_[old_end - 1];
  // Between the first and the last change: what is found again behind the one before it.
  size_t next = begin;
  std::unordered_map<const void*, std::vector<size_t>> places;  // of old rules, by the expression of their path
  for (size_t before = begin; before < old_end; before++)
    places[subsets_.input(order_[before]).fields[1].get()].push_back(before);
  for (size_t now = begin; now < end; now++) {
    const auto known = places.find(inputs[now].fields[1].get());
    if (known == places.end()) continue;
    const auto found = std::find_if(known->second.begin(), known->second.end(),
                                    [&](size_t before) { return before >= next && same(now, before); });
    if (found == known->second.end()) continue;
    edit.order[now] = order_[*found];
    edit.gone.insert(edit.gone.end(), order_.begin() + static_cast<ptrdiff_t>(next),
                     order_.begin() + static_cast<ptrdiff_t>(*found));
    next = *found + 1;
  }
  edit.gone.insert(edit.gone.end(), order_.begin() + static_cast<ptrdiff_t>(next),
                   order_.begin() + static_cast<ptrdiff_t>(old_end));
  edit.fresh = static_cast<size_t>(std::count(edit.order.begin(), edit.order.end(), kFresh));
  return edit;
}

// A row does not cross a border between blocks.
sh_u16* EditableAutomaton::row(uint32_t number) {
  const size_t first = size_t{number} << table_.set.row_shift;
  return &table_.blocks[first / SH_POLICY_BLOCK_CELLS].cells[first % SH_POLICY_BLOCK_CELLS];
}

// A class was split: its new part has led where the other one leads.
void EditableAutomaton::add_column(uint8_t like) {
  sh_policy_set& set = table_.set;
  const auto rows = static_cast<uint32_t>(table_.states());
  if (size_t{set.classes} + 1 + SH_POLICY_SYMBOLS > size_t{1} << set.row_shift) {
    const auto narrow = std::move(table_.blocks);
    const size_t cells = size_t{1} << set.row_shift++;
    set.cells = rows << set.row_shift;
    table_.blocks.assign((set.cells + SH_POLICY_BLOCK_CELLS - 1) / SH_POLICY_BLOCK_CELLS, {});
    for (size_t number = 0; number < rows; number++) {
      const size_t first = number * cells;
      const auto& block = narrow[first / SH_POLICY_BLOCK_CELLS];
      std::copy_n(block.cells + first % SH_POLICY_BLOCK_CELLS, cells, row(static_cast<uint32_t>(number)));
    }
  }
  for (uint32_t number = 0; number < rows; number++) {
    sh_u16* const cells = row(number);
    std::copy_backward(cells + set.classes, cells + set.classes + SH_POLICY_SYMBOLS,
                       cells + set.classes + SH_POLICY_SYMBOLS + 1);
    cells[set.classes] = cells[like];
  }
  set.classes++;
}

void EditableAutomaton::release(const std::vector<uint32_t>& states) {
  for (const uint32_t state : states) {
    const sh_u16 number = row_of_[state];
    if (--uses_[number] != 0) continue;
    std::fill_n(row(number), size_t{1} << table_.set.row_shift, sh_u16{0});
    (number < table_.set.first_open ? free_closed_ : free_open_).push_back(number);
  }
}

bool EditableAutomaton::is_crowded(const AutomatonLimits& limits) const {
  const size_t rows = std::min(rows_max_, limits.states_max);
  const size_t room = free_open_.size() + rows - std::min(rows, uses_.size());
  return room < kRowsReserve || free_closed_.empty() || subsets_.threads() > threads_max_;
}

// Which rows requests and headers may come to.
std::vector<bool> EditableAutomaton::reachable() {
  const sh_policy_set& set = table_.set;
  std::vector<bool> found(uses_.size(), false);
  std::vector<uint32_t> todo;
  const auto find = [&](uint32_t number) {
    if (!found[number]) todo.push_back(number);
    found[number] = true;
  };
  find(set.start_request);
  find(set.start_header);
  while (!todo.empty()) {
    const sh_u16* const cells = row(todo.back());
    todo.pop_back();
    for (uint32_t column = 0; column < uint32_t{set.classes} + SH_POLICY_END; column++) find(cells[column]);
  }
  return found;
}

// Subsets whose rules are all there yet, and that nothing leads to: another rule is there besides.
void EditableAutomaton::collect() {
  const std::vector<bool> wanted = reachable();
  std::vector<uint32_t> unwanted;
  for (uint32_t state = 0; state < subsets_.count(); state++) {
    if (subsets_.is_there(state) && !wanted[row_of_[state]]) unwanted.push_back(state);
  }
  subsets_.forget(unwanted);
  release(unwanted);
  threads_max_ = 2 * subsets_.threads();
}

void EditableAutomaton::remove(const std::vector<uint32_t>& rules) {
  release(subsets_.retire(rules));
  if (!table_.names_rules) return;
  for (const uint32_t rule : rules) {
    for (const auto& [verdict, reason] : kOutcomes) {
      const auto known = result_numbers_.find(result_key(rule, verdict, reason));
      if (known == result_numbers_.end()) continue;
      table_.results[known->second] = {0, SH_POLICY_NO_RULE, SH_POLICY_DENY, 0};
      result_rules_[known->second] = kNoRule;
      free_results_.push_back(known->second);
      result_numbers_.erase(known);
    }
  }
}

uint32_t EditableAutomaton::result_of(uint32_t state) {
  const Outcome outcome = subsets_.outcome(state);
  if (outcome.verdict == SH_POLICY_DENY) return 0;
  const uint32_t rule = table_.names_rules ? outcome.rule : kNoRule;
  const auto [known, fresh] = result_numbers_.emplace(result_key(rule, outcome.verdict, outcome.reason), 0);
  if (!fresh) return known->second;
  if (free_results_.empty()) {
    free_results_.push_back(static_cast<uint32_t>(table_.results.size()));
    table_.results.emplace_back();
    result_rules_.emplace_back();
  }
  known->second = free_results_.back();
  free_results_.pop_back();
  table_.results[known->second] = {0, SH_POLICY_NO_RULE, outcome.verdict, outcome.reason};
  result_rules_[known->second] = rule;
  return known->second;
}

// Results are odd there, and even of leaves: each is another one.
EditableAutomaton::Part EditableAutomaton::part(const std::vector<Transition>& transitions) {
  Part part;
  const uint32_t first = subsets_.first_fresh();
  part.automaton.states = subsets_.count() - first;
  for (uint32_t state = first; state < subsets_.count(); state++) {
    const uint32_t result = result_of(state);
    part.automaton.results.push_back(result == 0 ? 0 : 2 * result + 1);
  }
  std::unordered_map<sh_u16, uint32_t> leaves;
  for (const Transition& transition : transitions) {
    uint32_t to = transition.to - first;
    if (transition.to < first) {
      const sh_u16 row = row_of_[transition.to];
      if (row == 0) continue;
      const auto [leaf, fresh] = leaves.emplace(row, part.automaton.states);
      if (fresh) {
        part.automaton.states++;
        part.automaton.results.push_back(2 * static_cast<uint32_t>(part.leaves.size()) + 2);
        part.leaves.push_back(row);
      }
      to = leaf->second;
    }
    part.automaton.transitions.push_back({transition.from - first, transition.label, to});
  }
  return part;
}

// Of each state: does no printable byte lead out of it?
std::vector<bool> EditableAutomaton::closed(const Minimized& minimized) const {
  std::vector<bool> is_printable(subsets_.classes().count() + SH_POLICY_SYMBOLS);
  const std::vector<uint8_t> all = printable_classes(subsets_.classes());
  for (const uint8_t label : all) is_printable[label] = true;
  std::vector<size_t> stays(minimized.states, 0);
  for (const Transition& t : minimized.transitions) {
    if (t.from == t.to && is_printable[t.label]) stays[t.from]++;
  }
  std::vector<bool> closed;
  for (const size_t count : stays) closed.push_back(count == all.size());
  return closed;
}

std::optional<sh_u16> EditableAutomaton::take_row(bool closed, const AutomatonLimits& limits) {
  std::vector<sh_u16>& free = closed ? free_closed_ : free_open_;
  if (!free.empty()) {
    const sh_u16 number = free.back();
    free.pop_back();
    return number;
  }
  // Those that are closed have their place before the others, which does not grow.
  if (closed || uses_.size() >= std::min(rows_max_, limits.states_max)) return std::nullopt;
  uses_.push_back(0);
  table_.set.cells += 1U << table_.set.row_shift;
  table_.blocks.resize((table_.set.cells + SH_POLICY_BLOCK_CELLS - 1) / SH_POLICY_BLOCK_CELLS);
  return static_cast<sh_u16>(uses_.size() - 1);
}

bool EditableAutomaton::place(const std::vector<Transition>& transitions, const AutomatonLimits& limits) {
  const uint32_t first = subsets_.first_fresh();
  const uint32_t fresh = subsets_.count() - first;
  const Part part = this->part(transitions);
  const Minimized minimized = minimize(part.automaton);
  const std::vector<bool> closed = this->closed(minimized);
  std::vector<sh_u16> rows(minimized.states, 0);
  for (uint32_t state = 1; state < minimized.states; state++) {
    const uint32_t result = minimized.results[state];
    if (result != 0 && result % 2 == 0) {
      rows[state] = part.leaves[result / 2 - 1];
      continue;
    }
    const auto taken = take_row(closed[state], limits);
    if (!taken) return false;
    rows[state] = *taken;
    row(*taken)[table_.set.classes + SH_POLICY_END] = static_cast<sh_u16>(result / 2);
  }
  for (const Transition& t : minimized.transitions) row(rows[t.from])[t.label] = rows[t.to];
  for (uint32_t state = 0; state < fresh; state++) {
    row_of_.push_back(rows[minimized.state_of[state]]);
    uses_[row_of_.back()]++;
  }
  return table_.results.size() <= UINT16_MAX;
}

std::shared_ptr<const Automaton> EditableAutomaton::copy(const std::vector<RuleInput>& inputs) {
  sh_policy_set& set = table_.set;
  for (unsigned c = 0; c < 256; c++) set.class_of[c] = subsets_.classes().of(c);
  set.start_request = row_of_[subsets_.start()];
  set.results = static_cast<sh_u32>(table_.results.size());
  write_methods(table_);
  std::unordered_map<uint32_t, sh_u16> places;  // of rules
  for (size_t i = 0; table_.names_rules && i < order_.size(); i++) places[order_[i]] = static_cast<sh_u16>(i);
  for (size_t i = 0; i < table_.results.size(); i++) {
    if (result_rules_[i] != kNoRule) table_.results[i].rule = places.at(result_rules_[i]);
  }
  auto result = std::make_shared<Automaton>(table_);
  result->refused.clear();
  for (const RuleInput& input : inputs) result->refused.push_back(input.refused);
  return result;
}

}  // namespace shunt::policy
