// Minimizes a deterministic automaton: partial, with a result in each state.
#pragma once

#include <cstdint>
#include <vector>

namespace shunt::policy {

struct Transition {
  uint32_t from;
  uint32_t label;
  uint32_t to;
};

struct PartialAutomaton {
  uint32_t states = 0;
  std::vector<Transition> transitions;  // at most one for each (from, label); where there is none, nothing is accepted
  std::vector<uint32_t> results;        // of each state; 0: nothing is accepted here
};

struct Minimized {
  uint32_t states = 1;             // state 0 is the one without a way out
  std::vector<uint32_t> state_of;  // of each state given, the new one
  std::vector<Transition> transitions;
  std::vector<uint32_t> results;
};

// In O(m log m) for m transitions: A. Valmari, "Fast brief practical DFA minimization", Information Processing Letters
// 112 (2012). Every state must be reachable.
Minimized minimize(const PartialAutomaton& automaton);

}  // namespace shunt::policy
