#include <algorithm>
#include <map>
#include <policy/subsets.hpp>

namespace shunt::policy {
namespace {

constexpr size_t kStatesFloor = 16'384;
constexpr size_t kWorkFloor = size_t{8} << 20;
constexpr size_t kWide = 64;  // threads

}  // namespace

bool RuleInput::same(const RuleInput& other) const {
  return std::equal(std::begin(fields), std::end(fields), std::begin(other.fields)) &&
         std::equal(std::begin(constrains), std::end(constrains), std::begin(other.constrains)) &&
         conditions == other.conditions && rewrites == other.rewrites && always_rewrites == other.always_rewrites &&
         refused == other.refused;
}

size_t Subsets::ThreadsHash::operator()(const Threads& threads) const {
  size_t hash = threads.size();
  for (const uint32_t thread : threads) hash = hash * 0x9e3779b97f4a7c15ULL + (hash >> 29) + thread;
  return hash;
}

Subsets::Subsets(const std::vector<RuleInput>& inputs, Classes classes, uint32_t conditions)
    : classes_(std::move(classes)), conditions_(conditions) {
  for (const RuleInput& input : inputs) add(input);
}

uint32_t Subsets::add(const RuleInput& input) {
  Rule rule;
  rule.input = input;
  for (uint32_t field = 0; field < kFields; field++) {
    rule.classes[field] = classes_of(input.fields[field]);
    positions_ += input.fields[field]->positions.size();
  }
  rules_.push_back(std::move(rule));
  return static_cast<uint32_t>(rules_.size() - 1);
}

std::shared_ptr<const Subsets::ClassLists> Subsets::classes_of(const std::shared_ptr<const Expression>& expression) {
  std::shared_ptr<ClassLists>& known = class_lists_[expression];
  if (known) return known;
  known = std::make_shared<ClassLists>();
  for (const ByteSet& set : expression->positions) known->push_back(classes_.in(set));
  return known;
}

std::vector<uint8_t> Subsets::split_classes(const RuleInput& input) {
  std::vector<uint8_t> done;
  for (const auto& field : input.fields) {
    if (class_lists_.contains(field)) continue;
    for (const ByteSet& set : field->positions) {
      while (const auto from = classes_.split(set)) {
        done.push_back(*from);
        for (Thread& thread : threads_) thread.next = kUnknown;
        const auto fresh = static_cast<uint8_t>(classes_.count() - 1);
        for (auto& [expression, lists] : class_lists_) {
          for (std::vector<uint8_t>& list : *lists) {
            if (std::binary_search(list.begin(), list.end(), *from)) list.push_back(fresh);
          }
        }
      }
    }
  }
  return done;
}

bool Subsets::run(const std::vector<uint32_t>& order, std::vector<Transition>& transitions) {
  const size_t states_max = std::max(kStatesFloor, 4 * positions_);
  const size_t work_max = std::max(kWorkFloor, 400 * positions_);
  for (uint32_t i = 0; i < order.size(); i++) rules_[order[i]].order = i;
  buckets_.resize(classes_.count() + SH_POLICY_SYMBOLS);
  first_fresh_ = count();
  work_ = 0;
  Threads start;
  for (const uint32_t rule : order) start.push_back(enter(rule, 0, kCertain));
  std::sort(start.begin(), start.end());
  start_ = state_of(std::move(start));
  for (uint32_t state = first_fresh_; state < count(); state++) {
    expand(state, transitions);
    if (count() - first_fresh_ > states_max || work_ > work_max) return false;
  }
  return true;
}

uint32_t Subsets::block_size(const Rule& rule, uint32_t field) const {
  const size_t positions = field == kFields ? conditions_ + 1 : rule.input.fields[field]->positions.size();
  return static_cast<uint32_t>(positions) - kPassed;
}

uint32_t Subsets::thread(uint32_t rule, uint8_t field, Maybe maybe, int32_t position) {
  uint32_t& first = rules_[rule].threads[field * kMaybes + maybe];
  if (first == 0) {
    first = static_cast<uint32_t>(threads_.size()) + 1;
    const uint32_t size = block_size(rules_[rule], field);
    for (uint32_t i = 0; i < size; i++)
      threads_.push_back({rule, field, maybe, 0, static_cast<int32_t>(i) + kPassed, kUnknown});
  }
  return first - 1 + static_cast<uint32_t>(position - kPassed);
}

uint32_t Subsets::enter(uint32_t rule, uint8_t field, Maybe maybe) {
  const RuleInput& input = rules_[rule].input;
  if (!input.refused.empty()) maybe = kRefused;
  if (input.always_rewrites) maybe = kRewrite;
  return thread(rule, field, maybe, field == kFields ? 0 : kStart);
}

uint32_t Subsets::state_of(Threads threads) {
  const auto [known, fresh] = numbers_.emplace(std::move(threads), count());
  if (!fresh) return known->second;
  states_.push_back(&known->first);
  threads_in_use_ += known->first.size();
  if (known->first.size() > kWide) {
    wide_.push_back(known->second);
  } else {
    for (const uint32_t thread : known->first) {
      std::vector<uint32_t>& states = rules_[threads_[thread].rule].states;
      if (states.empty() || states.back() != known->second) states.push_back(known->second);
    }
  }
  return known->second;
}

void Subsets::push(uint32_t label, uint32_t thread_number) {
  if (buckets_[label].empty()) touched_.push_back(label);
  buckets_[label].push_back(thread_number);
  work_++;
}

void Subsets::expand(uint32_t state, std::vector<Transition>& transitions) {
  for (const uint32_t number : *states_[state]) {
    if (threads_[number].next == kUnknown) find_next(number);
    const Thread from = threads_[number];
    if (from.next != kSeveral) {
      push(from.label, from.next);
    } else {
      from.field == kFields ? push_bits(from) : push_text(from);
    }
  }
  for (const uint32_t label : touched_) {
    Threads threads = std::move(buckets_[label]);
    buckets_[label].clear();
    if (!std::is_sorted(threads.begin(), threads.end())) std::sort(threads.begin(), threads.end());
    threads.erase(std::unique(threads.begin(), threads.end()), threads.end());
    if (threads_[threads.front()].field >= kFields - 1) prune(threads);
    transitions.push_back({state, label, state_of(std::move(threads))});
  }
  touched_.clear();
}

// Within a word, as most are.
void Subsets::find_next(uint32_t number) {
  const Thread from = threads_[number];
  threads_[number].next = kSeveral;
  if (from.field == kFields || from.position < 0) return;
  const Rule& rule = rules_[from.rule];
  const Expression& expression = *rule.input.fields[from.field];
  const std::vector<uint32_t>& follow = expression.follow[static_cast<size_t>(from.position)];
  const bool may_end = expression.last[static_cast<size_t>(from.position)];
  if (may_end || !rule.input.constrains[from.field] || follow.size() != 1) return;
  const std::vector<uint8_t>& labels = (*rule.classes[from.field])[follow.front()];
  if (labels.size() != 1) return;
  const uint32_t next = thread(from.rule, from.field, from.maybe, static_cast<int32_t>(follow.front()));
  threads_[number].label = labels.front();
  threads_[number].next = next;
}

void Subsets::push_text(const Thread& from) {
  const Rule& rule = rules_[from.rule];
  const Expression& expression = *rule.input.fields[from.field];
  const ClassLists& classes = *rule.classes[from.field];
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
  const bool constrains = rule.input.constrains[from.field];
  if (from.position == kStart || !constrains) {
    const Maybe odd = constrains ? std::max(from.maybe, kOdd) : from.maybe;
    push(symbol(SH_POLICY_ODD), thread(from.rule, from.field, odd, kPassed));
  }
}

void Subsets::push_bits(const Thread& from) {
  const auto read = static_cast<uint32_t>(from.position);
  if (read == conditions_) return;
  const uint32_t next = thread(from.rule, from.field, from.maybe, from.position + 1);
  push(classes_.count() + SH_POLICY_ONE, next);
  const RuleInput& input = rules_[from.rule].input;
  if ((input.conditions >> read & 1) != 0) return;
  const bool rewrites = (input.rewrites >> read & 1) != 0;
  push(classes_.count() + SH_POLICY_ZERO, rewrites ? thread(from.rule, from.field, kRewrite, from.position + 1) : next);
}

// What cannot change the verdict any more, because an earlier rule matches whenever it does, makes no states. In the
// last field that is one at the same place of the same expression. A rule that writes headers is heard beside an
// earlier one that allows.
void Subsets::prune(Threads& threads) const {
  const auto order = [&](uint32_t number) {
    return std::pair(rules_[threads_[number].rule].order, threads_[number].maybe);
  };
  std::sort(threads.begin(), threads.end(), [&](uint32_t a, uint32_t b) { return order(a) < order(b); });
  struct Kept {
    uint32_t open;  // the conditions still to come
    bool certain;
    bool may_rewrite, rewrites;
  };
  std::map<std::pair<const Expression*, int32_t>, std::vector<Kept>> stronger;  // by what is still to be read
  Threads kept;
  for (const uint32_t number : threads) {
    const Thread& thread = threads_[number];
    const RuleInput& input = rules_[thread.rule].input;
    const bool bits = thread.field == kFields;
    const uint32_t past = !bits ? ~0U : thread.position >= 32 ? 0 : ~0U << thread.position;
    const bool rewrites = thread.maybe == kRewrite;
    const Kept one{input.conditions & past, thread.maybe == kCertain, rewrites || (input.rewrites & past) != 0,
                   rewrites};
    const auto covers = [&](const Kept& other) {
      if ((other.open & ~one.open) != 0) return false;
      return other.rewrites || (!one.may_rewrite && (other.certain || !one.certain));
    };
    std::vector<Kept>& alike = stronger[{bits ? nullptr : input.fields[thread.field].get(), thread.position}];
    if (std::any_of(alike.begin(), alike.end(), covers)) continue;
    kept.push_back(number);
    alike.push_back(one);
  }
  std::sort(kept.begin(), kept.end());
  threads = std::move(kept);
}

Outcome Subsets::outcome(uint32_t state) const {
  const auto order = [&](const Thread& t) {
    const int rank = t.maybe == kRewrite ? 0 : t.maybe == kCertain ? 1 : 2;
    return std::tuple(rank, rules_[t.rule].order, t.maybe);
  };
  const Thread* best = nullptr;
  if (states_[state]->empty() || threads_[states_[state]->front()].field != kFields) return {};
  for (const uint32_t number : *states_[state]) {
    const Thread& candidate = threads_[number];
    if (candidate.field != kFields || static_cast<uint32_t>(candidate.position) != conditions_) continue;
    if (best == nullptr || order(candidate) < order(*best)) best = &candidate;
  }
  if (best == nullptr) return {};
  if (best->maybe == kCertain) return {best->rule, SH_POLICY_ALLOW, 0};
  const sh_u8 reason = best->maybe == kRewrite ? SH_POLICY_R_REWRITE
                       : best->maybe == kOdd   ? SH_POLICY_R_ODD
                                               : SH_POLICY_R_EXPRESSION;
  return {best->rule, SH_POLICY_PUNT, reason};
}

void Subsets::drop(uint32_t state) {
  threads_in_use_ -= states_[state]->size();
  numbers_.erase(numbers_.find(*states_[state]));
  states_[state] = nullptr;
}

void Subsets::forget(const std::vector<uint32_t>& states) {
  for (const uint32_t state : states) drop(state);
}

// Each block of theirs, and what is past it.
std::vector<std::pair<uint32_t, uint32_t>> Subsets::threads_of(const std::vector<uint32_t>& rules) const {
  std::vector<std::pair<uint32_t, uint32_t>> ranges;
  for (const uint32_t number : rules) {
    const Rule& rule = rules_[number];
    for (uint32_t block = 0; block < rule.threads.size(); block++) {
      const uint32_t first = rule.threads[block];
      if (first != 0) ranges.emplace_back(first - 1, first - 1 + block_size(rule, block / kMaybes));
    }
  }
  return ranges;
}

std::vector<uint32_t> Subsets::retire(const std::vector<uint32_t>& rules) {
  std::vector<uint32_t> gone;
  const auto leave = [&](uint32_t state) {
    if (states_[state] == nullptr) return;
    drop(state);
    gone.push_back(state);
  };
  const auto ranges = threads_of(rules);
  const auto has_any = [&](const Threads& threads) {
    return std::any_of(ranges.begin(), ranges.end(), [&](const auto& range) {
      const auto found = std::lower_bound(threads.begin(), threads.end(), range.first);
      return found != threads.end() && *found < range.second;
    });
  };
  for (const uint32_t state : wide_) {
    if (states_[state] != nullptr && has_any(*states_[state])) leave(state);
  }
  std::erase_if(wide_, [&](uint32_t state) { return states_[state] == nullptr; });
  for (const uint32_t number : rules) {
    Rule& rule = rules_[number];
    for (const uint32_t state : rule.states) leave(state);
    for (uint32_t field = 0; field < kFields; field++) {
      positions_ -= rule.input.fields[field]->positions.size();
      rule.classes[field].reset();
      const auto lists = class_lists_.find(rule.input.fields[field]);
      if (lists != class_lists_.end() && lists->second.use_count() == 1) class_lists_.erase(lists);
    }
    rule = {};
  }
  return gone;
}

}  // namespace shunt::policy
