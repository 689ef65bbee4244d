#include <algorithm>
#include <numeric>
#include <policy/minimize.hpp>

namespace shunt::policy {
namespace {

// Sets of elements that are only ever split.
class Partition {
 public:
  explicit Partition(uint32_t elements)
      : elements_(elements), location_(elements), set_of_(elements, 0), first_{0}, past_{elements}, marked_{0} {
    std::iota(elements_.begin(), elements_.end(), 0);
    std::iota(location_.begin(), location_.end(), 0);
  }

  // Makes one set of each run of equal keys.
  void split_by(const std::vector<uint32_t>& keys) {
    std::stable_sort(elements_.begin(), elements_.end(), [&](uint32_t a, uint32_t b) { return keys[a] < keys[b]; });
    first_.clear();
    past_.clear();
    for (uint32_t i = 0; i < elements_.size(); i++) {
      location_[elements_[i]] = i;
      if (i == 0 || keys[elements_[i]] != keys[elements_[i - 1]]) {
        if (i != 0) past_.push_back(i);
        first_.push_back(i);
      }
      set_of_[elements_[i]] = static_cast<uint32_t>(first_.size() - 1);
    }
    past_.push_back(static_cast<uint32_t>(elements_.size()));
    marked_.assign(first_.size(), 0);
  }

  uint32_t sets() const { return static_cast<uint32_t>(first_.size()); }
  uint32_t first(uint32_t set) const { return first_[set]; }
  uint32_t past(uint32_t set) const { return past_[set]; }
  uint32_t at(uint32_t location) const { return elements_[location]; }
  uint32_t set_of(uint32_t element) const { return set_of_[element]; }

  void mark(uint32_t element) {
    const uint32_t set = set_of_[element];
    const uint32_t from = location_[element];
    const uint32_t to = first_[set] + marked_[set];
    if (from < to) return;  // marked already
    elements_[from] = elements_[to];
    location_[elements_[from]] = from;
    elements_[to] = element;
    location_[element] = to;
    if (marked_[set]++ == 0) touched_.push_back(set);
  }

  // Splits the touched sets into what is marked and what is not; the smaller part is the new set.
  void split() {
    for (; !touched_.empty(); touched_.pop_back()) {
      const uint32_t set = touched_.back();
      const uint32_t middle = first_[set] + marked_[set];
      if (middle != past_[set]) {
        const auto fresh = sets();
        if (marked_[set] <= past_[set] - middle) {
          first_.push_back(first_[set]);
          past_.push_back(middle);
          first_[set] = middle;
        } else {
          first_.push_back(middle);
          past_.push_back(past_[set]);
          past_[set] = middle;
        }
        marked_.push_back(0);
        for (uint32_t i = first_[fresh]; i < past_[fresh]; i++) set_of_[elements_[i]] = fresh;
      }
      marked_[set] = 0;
    }
  }

 private:
  std::vector<uint32_t> elements_, location_, set_of_;
  std::vector<uint32_t> first_, past_, marked_;  // of each set
  std::vector<uint32_t> touched_;
};

// The transitions into each state: incoming[starts[s]] .. incoming[starts[s + 1]].
struct Incoming {
  std::vector<uint32_t> starts, transitions;

  Incoming(uint32_t states, const std::vector<Transition>& all) : starts(states + 1, 0), transitions(all.size()) {
    for (const Transition& transition : all) starts[transition.to + 1]++;
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    std::vector<uint32_t> next(starts.begin(), starts.end() - 1);
    for (uint32_t i = 0; i < all.size(); i++) transitions[next[all[i].to]++] = i;
  }
};

std::vector<bool> useful_states(const PartialAutomaton& automaton) {
  const Incoming incoming(automaton.states, automaton.transitions);
  std::vector<bool> useful(automaton.states, false);
  std::vector<uint32_t> todo;
  for (uint32_t state = 0; state < automaton.states; state++) {
    if (automaton.results[state] == 0) continue;
    useful[state] = true;
    todo.push_back(state);
  }
  while (!todo.empty()) {
    const uint32_t state = todo.back();
    todo.pop_back();
    for (uint32_t i = incoming.starts[state]; i < incoming.starts[state + 1]; i++) {
      const uint32_t from = automaton.transitions[incoming.transitions[i]].from;
      if (useful[from]) continue;
      useful[from] = true;
      todo.push_back(from);
    }
  }
  return useful;
}

Partition refine(const PartialAutomaton& automaton, const std::vector<Transition>& transitions) {
  Partition states(automaton.states);
  states.split_by(automaton.results);
  Partition cords(static_cast<uint32_t>(transitions.size()));
  std::vector<uint32_t> labels(transitions.size());
  std::transform(transitions.begin(), transitions.end(), labels.begin(), [](const Transition& t) { return t.label; });
  if (!transitions.empty()) cords.split_by(labels);
  const Incoming incoming(automaton.states, transitions);
  // The first set of states need not split: the others tell what it would.
  uint32_t state_set = 1;
  for (uint32_t cord = 0; !transitions.empty() && cord < cords.sets(); cord++) {
    for (uint32_t i = cords.first(cord); i < cords.past(cord); i++) states.mark(transitions[cords.at(i)].from);
    states.split();
    for (; state_set < states.sets(); state_set++) {
      for (uint32_t i = states.first(state_set); i < states.past(state_set); i++) {
        const uint32_t state = states.at(i);
        for (uint32_t k = incoming.starts[state]; k < incoming.starts[state + 1]; k++)
          cords.mark(incoming.transitions[k]);
      }
      cords.split();
    }
  }
  return states;
}

}  // namespace

Minimized minimize(const PartialAutomaton& automaton) {
  const std::vector<bool> useful = useful_states(automaton);
  std::vector<Transition> transitions;
  for (const Transition& transition : automaton.transitions) {
    if (useful[transition.from] && useful[transition.to]) transitions.push_back(transition);
  }
  const Partition partition = refine(automaton, transitions);
  Minimized result;
  result.state_of.assign(automaton.states, 0);
  std::vector<uint32_t> number(partition.sets(), 0);
  result.results.push_back(0);
  for (uint32_t state = 0; state < automaton.states; state++) {
    if (!useful[state]) continue;
    uint32_t& mapped = number[partition.set_of(state)];
    if (mapped == 0) {
      mapped = result.states++;
      result.results.push_back(automaton.results[state]);
    }
    result.state_of[state] = mapped;
  }
  std::vector<bool> written(result.states, false);
  std::vector<uint32_t> writer(result.states, 0);
  for (const Transition& transition : transitions) {
    const uint32_t from = result.state_of[transition.from];
    // Equal states have equal transitions: those of one of them are enough.
    if (!written[from]) {
      written[from] = true;
      writer[from] = transition.from;
    }
    if (writer[from] == transition.from) {
      result.transitions.push_back({from, transition.label, result.state_of[transition.to]});
    }
  }
  return result;
}

}  // namespace shunt::policy
