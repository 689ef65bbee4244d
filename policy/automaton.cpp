#include <l7parsers/core/http1.h>
#include <policy/core/names.h>

#include <algorithm>
#include <bit>
#include <map>
#include <numeric>
#include <optional>
#include <policy/automaton.hpp>
#include <policy/minimize.hpp>
#include <set>
#include <unordered_set>

namespace shunt::policy {
namespace {

constexpr uint32_t kFields = 3;  // method, path, host; then the bits of the header conditions
constexpr size_t kStatesFloor = 16'384;
constexpr size_t kWorkFloor = size_t{8} << 20;

// The text as far as it is simple, then anything: what an expression that is not compiled may match at most.
std::shared_ptr<const Expression> approximation(const Expression& refused) {
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

// A rule as the construction needs it.
struct Input {
  std::shared_ptr<const Expression> fields[kFields];
  bool constrains[kFields] = {};
  uint32_t conditions = 0;  // bits that must be set
  std::string refused;
  size_t loops = 0;  // positions that may repeat before something else: what makes automata large
};

size_t count_loops(const Expression& expression) {
  size_t loops = 0;
  for (uint32_t i = 0; i < expression.positions.size(); i++) {
    const std::vector<uint32_t>& follow = expression.follow[i];
    const bool again = std::binary_search(follow.begin(), follow.end(), i);
    if (again && follow.size() > 1 && expression.positions[i].count() > 1) loops++;
  }
  return loops;
}

// The classes of bytes that no expression and no header tells apart.
class Classes {
 public:
  void add(const ByteSet& set) {
    if (set.count() == 1) {
      single_ |= set;
    } else if (set.any()) {
      sets_.insert(set);
    }
  }

  void finish() {
    of_.fill(0);
    uint32_t count = 1;
    const auto refine = [&](const auto& inside) {
      std::map<std::pair<uint32_t, bool>, uint32_t> fresh;
      for (unsigned c = 0; c < 256; c++) {
        const auto key = std::pair(uint32_t{of_[c]}, inside(c));
        of_[c] = static_cast<uint8_t>(fresh.emplace(key, fresh.size()).first->second);
      }
      count = static_cast<uint32_t>(fresh.size());
    };
    for (const ByteSet& set : sets_) refine([&](unsigned c) { return bool{set[c]}; });
    for (unsigned single = 0; single < 256; single++) {
      if (single_[single]) refine([&](unsigned c) { return c == single; });
    }
    byte_in_.assign(count, 0);
    for (unsigned c = 0; c < 256; c++) byte_in_[of_[c]] = static_cast<uint8_t>(c);
  }

  uint32_t count() const { return static_cast<uint32_t>(byte_in_.size()); }
  uint8_t of(unsigned byte) const { return of_[byte]; }
  // Those that have at least one byte of the set, whether or not an expression has it.
  std::vector<uint8_t> in_any(const ByteSet& set) const {
    std::set<uint8_t> found;
    for (unsigned c = 0; c < 256; c++) {
      if (set[c]) found.insert(of_[c]);
    }
    return {found.begin(), found.end()};
  }
  // Those of a set that was added.
  std::vector<uint8_t> in(const ByteSet& set) const {
    std::vector<uint8_t> found;
    for (uint32_t i = 0; i < count(); i++) {
      if (set[byte_in_[i]]) found.push_back(static_cast<uint8_t>(i));
    }
    return found;
  }

 private:
  ByteSet single_;
  std::unordered_set<ByteSet> sets_;
  std::array<uint8_t, 256> of_{};
  std::vector<uint8_t> byte_in_;
};

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
    for (const HttpRule* rule : rules) {
      for (const HeaderCondition& condition : rule->headers) {
        if (all.size() < SH_POLICY_CONDITIONS_MAX) all.insert(condition);
      }
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

enum Maybe : uint8_t { kCertain, kOdd, kRefused };

// A place within a rule that a request may have come to.
struct Thread {
  uint32_t rule;
  uint8_t field;  // kFields: the bits, of which `position` have been read
  Maybe maybe;
  int32_t position;  // kStart, kPassed, or of the field's expression
};
constexpr int32_t kStart = -1;   // nothing of the field has been read
constexpr int32_t kPassed = -2;  // all of it has, whatever it was

struct ThreadsHash {
  size_t operator()(const std::vector<uint32_t>& threads) const {
    size_t hash = threads.size();
    for (const uint32_t thread : threads) hash = hash * 0x9e3779b97f4a7c15ULL + (hash >> 29) + thread;
    return hash;
  }
};

// The subset construction.
class Subsets {
 public:
  Subsets(const std::vector<Input>& inputs, const Classes& classes, uint32_t conditions)
      : inputs_(inputs), classes_(classes), conditions_(conditions), buckets_(classes.count() + SH_POLICY_SYMBOLS) {
    size_t positions = 0;
    for (const Input& input : inputs) {
      for (const auto& field : input.fields) positions += field->positions.size();
    }
    states_max_ = std::max(kStatesFloor, 4 * positions);
    work_max_ = std::max(kWorkFloor, 400 * positions);
  }

  // False: it grew too large.
  bool run(PartialAutomaton& automaton) {
    std::vector<uint32_t> start;
    for (uint32_t rule = 0; rule < inputs_.size(); rule++) start.push_back(enter(rule, 0, kCertain));
    std::sort(start.begin(), start.end());
    state_of(std::move(start));
    for (uint32_t state = 0; state < states_.size(); state++) {
      expand(state, automaton.transitions);
      if (states_.size() > states_max_ || work_ > work_max_) return false;
    }
    automaton.states = static_cast<uint32_t>(states_.size());
    return true;
  }

  // The numbers of the results of each state.
  std::vector<uint32_t> results(Results& results, bool names_rules) const {
    std::vector<uint32_t> numbers;
    for (const std::vector<uint32_t>* threads : states_) numbers.push_back(result(*threads, results, names_rules));
    return numbers;
  }

 private:
  uint32_t thread(uint32_t rule, uint8_t field, Maybe maybe, int32_t position) {
    const uint64_t key = (uint64_t{rule} * (kFields + 1) + field) * 3 + maybe;
    const auto [block, fresh] = blocks_.emplace(key, static_cast<uint32_t>(threads_.size()));
    if (fresh) {
      const auto last =
          static_cast<int32_t>(field == kFields ? conditions_ + 1 : inputs_[rule].fields[field]->positions.size());
      for (int32_t i = kPassed; i < last; i++) threads_.push_back({rule, field, maybe, i});
    }
    return block->second + static_cast<uint32_t>(position - kPassed);
  }

  uint32_t enter(uint32_t rule, uint8_t field, Maybe maybe) {
    if (!inputs_[rule].refused.empty()) maybe = kRefused;
    return thread(rule, field, maybe, field == kFields ? 0 : kStart);
  }

  const std::vector<std::vector<uint8_t>>& classes_of(const Expression& expression) {
    auto& known = expression_classes_[&expression];
    if (known.empty()) {
      for (const ByteSet& set : expression.positions) known.push_back(classes_.in(set));
    }
    return known;
  }

  uint32_t state_of(std::vector<uint32_t> threads) {
    const auto [known, fresh] = numbers_.emplace(std::move(threads), static_cast<uint32_t>(states_.size()));
    if (fresh) states_.push_back(&known->first);
    return known->second;
  }

  void push(uint32_t label, uint32_t thread_number) {
    if (buckets_[label].empty()) touched_.push_back(label);
    buckets_[label].push_back(thread_number);
    work_++;
  }

  void expand(uint32_t state, std::vector<Transition>& transitions) {
    for (const uint32_t number : *states_[state]) {
      const Thread from = threads_[number];
      from.field == kFields ? push_bits(from) : push_text(from);
    }
    for (const uint32_t label : touched_) {
      std::vector<uint32_t> threads = std::move(buckets_[label]);
      buckets_[label].clear();
      std::sort(threads.begin(), threads.end());
      threads.erase(std::unique(threads.begin(), threads.end()), threads.end());
      if (threads_[threads.front()].field == kFields) prune(threads);
      transitions.push_back({state, label, state_of(std::move(threads))});
    }
    touched_.clear();
  }

  void push_text(const Thread& from) {
    const Expression& expression = *inputs_[from.rule].fields[from.field];
    const auto& classes = classes_of(expression);
    const auto symbol = [&](uint32_t value) { return classes_.count() + value; };
    const auto position = static_cast<size_t>(from.position);
    if (from.position != kPassed) {
      for (const uint32_t next : from.position == kStart ? expression.first : expression.follow[position]) {
        const uint32_t number = thread(from.rule, from.field, from.maybe, static_cast<int32_t>(next));
        for (const uint8_t label : classes[next]) push(label, number);
      }
    }
    const bool may_end = from.position == kPassed  ? true
                         : from.position == kStart ? expression.nullable
                                                   : static_cast<bool>(expression.last[position]);
    if (may_end) push(symbol(SH_POLICY_SEP), enter(from.rule, static_cast<uint8_t>(from.field + 1), from.maybe));
    // ODD is the only thing that is read of its field. Where a rule does not care, it may nevertheless come behind
    // other text: so the beginning of a field that no rule looks at is a state that no byte leads out of.
    const bool constrains = inputs_[from.rule].constrains[from.field];
    if (from.position == kStart || !constrains) {
      const Maybe odd = constrains ? std::max(from.maybe, kOdd) : from.maybe;
      push(symbol(SH_POLICY_ODD), thread(from.rule, from.field, odd, kPassed));
    }
  }

  void push_bits(const Thread& from) {
    const auto read = static_cast<uint32_t>(from.position);
    if (read == conditions_) return;
    const uint32_t next = thread(from.rule, from.field, from.maybe, from.position + 1);
    push(classes_.count() + SH_POLICY_ONE, next);
    if ((inputs_[from.rule].conditions >> read & 1) == 0) push(classes_.count() + SH_POLICY_ZERO, next);
  }

  // What cannot change the verdict any more, because an earlier rule matches whenever it does, makes no states.
  void prune(std::vector<uint32_t>& threads) const {
    std::sort(threads.begin(), threads.end(), [&](uint32_t a, uint32_t b) {
      return std::pair(threads_[a].rule, threads_[a].maybe) < std::pair(threads_[b].rule, threads_[b].maybe);
    });
    const uint32_t past = threads_[threads.front()].position >= 32 ? 0 : ~0U << threads_[threads.front()].position;
    std::vector<uint32_t> kept;
    std::vector<uint32_t> certain, any;  // the conditions still to come of the rules that are kept
    for (const uint32_t number : threads) {
      const uint32_t open = inputs_[threads_[number].rule].conditions & past;
      const auto covers = [&](uint32_t other) { return (other & ~open) == 0; };
      const std::vector<uint32_t>& stronger = threads_[number].maybe == kCertain ? certain : any;
      if (std::any_of(stronger.begin(), stronger.end(), covers)) continue;
      kept.push_back(number);
      any.push_back(open);
      if (threads_[number].maybe == kCertain) certain.push_back(open);
    }
    std::sort(kept.begin(), kept.end());
    threads = std::move(kept);
  }

  uint32_t result(const std::vector<uint32_t>& threads, Results& results, bool names_rules) const {
    const Thread* best = nullptr;
    for (const uint32_t number : threads) {
      const Thread& candidate = threads_[number];
      if (candidate.field != kFields || static_cast<uint32_t>(candidate.position) != conditions_) continue;
      const auto order = [](const Thread& t) { return std::tuple(t.maybe != kCertain, t.rule, t.maybe); };
      if (best == nullptr || order(candidate) < order(*best)) best = &candidate;
    }
    if (best == nullptr) return 0;
    const auto rule = static_cast<sh_u16>(names_rules ? best->rule : SH_POLICY_NO_RULE);
    if (best->maybe == kCertain) return results.number({0, rule, SH_POLICY_ALLOW, 0});
    const sh_u8 reason = best->maybe == kOdd ? SH_POLICY_R_ODD : SH_POLICY_R_EXPRESSION;
    return results.number({0, rule, SH_POLICY_PUNT, reason});
  }

  const std::vector<Input>& inputs_;
  const Classes& classes_;
  uint32_t conditions_;
  size_t states_max_, work_max_, work_ = 0;
  std::vector<Thread> threads_;
  std::unordered_map<uint64_t, uint32_t> blocks_;
  std::unordered_map<const Expression*, std::vector<std::vector<uint8_t>>> expression_classes_;
  std::unordered_map<std::vector<uint32_t>, uint32_t, ThreadsHash> numbers_;
  std::vector<const std::vector<uint32_t>*> states_;
  std::vector<std::vector<uint32_t>> buckets_;
  std::vector<uint32_t> touched_;
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

// The rows of a minimized automaton, before its classes are merged.
struct Rows {
  uint32_t wide;  // cells of a row
  std::vector<sh_u16> cells;

  Rows(const Minimized& minimized, const Classes& classes)
      : wide(classes.count() + SH_POLICY_SYMBOLS), cells(size_t{minimized.states} * wide, 0) {
    for (const Transition& t : minimized.transitions)
      cells[size_t{t.from} * wide + t.label] = static_cast<sh_u16>(t.to);
  }
  const sh_u16* row(uint32_t state) const { return &cells[size_t{state} * wide]; }
};

// One column for all classes that lead to the same everywhere: a class for each column, and the column of each class.
struct Columns {
  std::vector<uint32_t> classes;
  std::vector<uint32_t> of;

  Columns(const Minimized& minimized, const Classes& all, const Rows& rows) : of(all.count()) {
    std::vector<uint64_t> hashes(all.count(), 0);
    for (const Transition& t : minimized.transitions) {
      if (t.label < all.count()) {
        hashes[t.label] += (uint64_t{t.from} * 0x9e3779b97f4a7c15ULL ^ t.to) * 0xff51afd7ed558ccdULL;
      }
    }
    std::unordered_map<uint64_t, std::vector<uint32_t>> by_hash;
    for (uint32_t label = 0; label < all.count(); label++) {
      const auto same = [&](uint32_t column) {
        for (uint32_t s = 0; s < minimized.states; s++) {
          if (rows.row(s)[classes[column]] != rows.row(s)[label]) return false;
        }
        return true;
      };
      std::vector<uint32_t>& alike = by_hash[hashes[label]];
      const auto found = std::find_if(alike.begin(), alike.end(), same);
      of[label] = found != alike.end() ? *found : static_cast<uint32_t>(classes.size());
      if (found != alike.end()) continue;
      alike.push_back(of[label]);
      classes.push_back(label);
    }
  }
};

// New numbers for the states: those that no printable byte leads out of come first, state 0 at their head. To be there
// with all bytes would be too much to ask: a dot does not match a line's end.
struct Order {
  std::vector<sh_u16> number;
  uint32_t first_open = 0;

  Order(const Minimized& minimized, const Classes& classes, const Rows& rows) : number(minimized.states) {
    ByteSet printable;
    for (unsigned c = 0x20; c < 0x7f; c++) printable.set(c);
    const std::vector<uint8_t> labels = classes.in_any(printable);
    std::vector<bool> closed(minimized.states);
    for (uint32_t s = 0; s < minimized.states; s++) {
      closed[s] = std::all_of(labels.begin(), labels.end(), [&](uint8_t label) { return rows.row(s)[label] == s; });
      if (closed[s]) number[s] = static_cast<sh_u16>(first_open++);
    }
    uint32_t next = first_open;
    for (uint32_t s = 0; s < minimized.states; s++) {
      if (!closed[s]) number[s] = static_cast<sh_u16>(next++);
    }
  }
};

void write_cells(const Minimized& minimized, const Classes& classes, uint32_t start, uint32_t start_header,
                 Automaton& automaton) {
  const Rows rows(minimized, classes);
  const Columns columns(minimized, classes, rows);
  const Order order(minimized, classes, rows);
  sh_policy_set& set = automaton.set;
  set.classes = static_cast<sh_u16>(columns.classes.size());
  set.row_shift = static_cast<sh_u16>(std::bit_width(columns.classes.size() + SH_POLICY_SYMBOLS - 1));
  for (unsigned c = 0; c < 256; c++) set.class_of[c] = static_cast<sh_u8>(columns.of[classes.of(c)]);
  set.cells = minimized.states << set.row_shift;
  automaton.blocks.assign((set.cells + SH_POLICY_BLOCK_CELLS - 1) / SH_POLICY_BLOCK_CELLS, {});
  for (uint32_t s = 0; s < minimized.states; s++) {
    const sh_u16* from = rows.row(s);
    // A row does not cross a border between blocks: its length is a power of two.
    const size_t first = size_t{order.number[s]} << set.row_shift;
    sh_u16* row = &automaton.blocks[first / SH_POLICY_BLOCK_CELLS].cells[first % SH_POLICY_BLOCK_CELLS];
    for (uint32_t column = 0; column < set.classes; column++) row[column] = order.number[from[columns.classes[column]]];
    for (uint32_t symbol = 0; symbol < SH_POLICY_END; symbol++) {
      row[set.classes + symbol] = order.number[from[classes.count() + symbol]];
    }
    row[set.classes + SH_POLICY_END] = static_cast<sh_u16>(minimized.results[s]);
  }
  set.first_open = static_cast<sh_u16>(order.first_open);
  set.start_request = order.number[minimized.state_of[start]];
  set.start_header = start_header == UINT32_MAX ? sh_u16{0} : order.number[minimized.state_of[start_header]];
}

// What spares the matcher to read methods, and the names of most headers.
void write_shortcuts(const Conditions& conditions, Automaton& automaton) {
  sh_policy_set& set = automaton.set;
  const auto next = [&](sh_u16 state, uint32_t column) {
    return automaton.cell((size_t{state} << set.row_shift) + column);
  };
  const std::string_view methods[] = {"",
#define SH_METHOD_NAME(id, packed, body) #id,
                                      L7_HTTP1_METHODS(SH_METHOD_NAME)
#undef SH_METHOD_NAME
  };
  static_assert(std::size(methods) == L7_M_COUNT && L7_M_COUNT <= SH_POLICY_METHODS);
  for (size_t i = 1; i < std::size(methods); i++) {
    sh_u16 state = set.start_request;
    for (const char c : methods[i]) state = next(state, set.class_of[static_cast<unsigned char>(c)]);
    set.after_method[i] = next(state, set.classes + SH_POLICY_SEP);
  }
  for (const auto& [name, number] : conditions.names) {
    if (name.empty()) continue;
    const auto byte = [](char c) { return static_cast<sh_u8>(c); };
    set.names |= sh_u64{1} << sh_policy_name_bit(byte(name.front()), byte(name.back()), sh_u32(name.size()));
  }
}

// One attempt with the rules as they are; false: it is too large.
bool attempt(const std::vector<Input>& inputs, const Conditions& conditions, const AutomatonLimits& limits,
             Automaton& result) {
  Classes classes;
  for (const Input& input : inputs) {
    for (const auto& field : input.fields) {
      for (const ByteSet& set : field->positions) classes.add(set);
    }
  }
  for (const HeaderCondition& condition : conditions.list) {
    for (const char c : condition.name + condition.value.value_or(""))
      classes.add(ByteSet().set(static_cast<unsigned char>(c)));
  }
  classes.finish();
  PartialAutomaton requests;
  Subsets subsets(inputs, classes, static_cast<uint32_t>(conditions.list.size()));
  if (!subsets.run(requests)) return false;
  for (const bool names_rules : {true, false}) {
    if (names_rules && inputs.size() >= SH_POLICY_NO_RULE) continue;
    Results results;
    PartialAutomaton automaton = requests;
    automaton.results = subsets.results(results, names_rules);
    uint32_t start_header = UINT32_MAX;
    if (!conditions.list.empty()) start_header = HeaderStates(conditions, classes, automaton, results).build();
    const Minimized minimized = minimize(automaton);
    if (minimized.states > limits.states_max || results.list().size() > UINT16_MAX) continue;
    write_cells(minimized, classes, 0, start_header, result);
    result.results = results.list();
    result.set.results = static_cast<sh_u32>(result.results.size());
    result.set.conditions = static_cast<sh_u16>(conditions.list.size());
    write_shortcuts(conditions, result);
    result.names_rules = names_rules;
    return true;
  }
  return false;
}

void refuse(Input& input, uint32_t field, const std::string& why) {
  if (input.refused.empty()) input.refused = why;
  input.fields[field] = approximation(*input.fields[field]);
}

std::vector<Input> make_inputs(const std::vector<const HttpRule*>& rules, const Conditions& conditions,
                               ExpressionCache& expressions) {
  std::vector<Input> inputs(rules.size());
  for (size_t i = 0; i < rules.size(); i++) {
    const std::string* texts[kFields] = {&rules[i]->method, &rules[i]->path, &rules[i]->host};
    for (uint32_t field = 0; field < kFields; field++) {
      inputs[i].fields[field] = expressions.get(*texts[field]);
      inputs[i].constrains[field] = !texts[field]->empty();
      inputs[i].loops += count_loops(*inputs[i].fields[field]);
      const std::string why = inputs[i].fields[field]->refused;
      if (!why.empty()) refuse(inputs[i], field, why);
    }
    for (const HeaderCondition& condition : rules[i]->headers) {
      const auto bit = conditions.bit(condition);
      if (bit) inputs[i].conditions |= 1U << *bit;
      if (!bit && inputs[i].refused.empty())
        inputs[i].refused = "more than 32 different header conditions for one port";
    }
  }
  return inputs;
}

std::vector<Input> make_inputs(const std::vector<const RedisRule*>& rules) {
  const auto any = literal("", true);
  std::vector<Input> inputs(rules.size());
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
void punt_all(std::vector<Input>& inputs, Automaton& result) {
  for (Input& input : inputs) {
    if (input.refused.empty()) input.refused = "too many rules for one automaton";
  }
  Input any;
  for (auto& field : any.fields) field = std::make_shared<Expression>(any_text());
  any.refused = "too many rules for one automaton";
  attempt({any}, Conditions({}), {}, result);
  for (sh_policy_result& item : result.results) item.rule = SH_POLICY_NO_RULE;
  result.names_rules = false;
}

std::shared_ptr<const Automaton> build(std::vector<Input> inputs, const Conditions& conditions,
                                       const AutomatonLimits& limits) {
  auto result = std::make_shared<Automaton>();
  std::vector<uint32_t> order(inputs.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return inputs[a].loops > inputs[b].loops; });
  bool fits = attempt(inputs, conditions, limits, *result);
  // The rules that make automata large go first: one, two, four, and so on, until the rest fits.
  for (size_t count = 1, done = 0; !fits && done < order.size(); count *= 2) {
    for (; done < std::min(count, order.size()); done++) {
      Input& input = inputs[order[done]];
      if (input.refused.empty()) refuse(input, 1, "an automaton that would be too large");
    }
    fits = attempt(inputs, conditions, limits, *result);
  }
  if (!fits) punt_all(inputs, *result);
  for (const Input& input : inputs) result->refused.push_back(input.refused);
  return result;
}

}  // namespace

std::shared_ptr<const Expression> ExpressionCache::get(const std::string& text) {
  std::shared_ptr<const Expression>& known = known_[text];
  if (!known) known = std::make_shared<const Expression>(text.empty() ? any_text() : compile_regex(text));
  return known;
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

}  // namespace shunt::policy
