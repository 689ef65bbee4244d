// An automaton that is kept together with the subsets it was made of, so that it can be made to follow its rules.
#pragma once

#include <policy/automaton.hpp>
#include <policy/automaton_table.hpp>
#include <policy/subsets.hpp>
#include <unordered_map>
#include <vector>

namespace shunt::policy {

TableLayout layout_for_changes(uint32_t states, const AutomatonLimits& limits);

class EditableAutomaton {
 public:
  // What a construction has made, with layout_for_changes(): `rows` are those of the minimized states. Of its states
  // the first are the subsets.
  EditableAutomaton(Subsets subsets, const Minimized& minimized, const std::vector<sh_u16>& rows,
                    const Automaton& table);

  // The automaton of these rules, whose conditions of headers are those of the first. Null: they are too different, or
  // it would be too large; then this object is of no use any more.
  std::shared_ptr<const Automaton> change(const std::vector<RuleInput>& inputs, const AutomatonLimits& limits);

 private:
  struct Edit {
    std::vector<uint32_t> order;  // the numbers of the rules; kFresh: of one that is new
    std::vector<uint32_t> gone;
    size_t fresh = 0;
  };
  static constexpr uint32_t kFresh = UINT32_MAX;

  // What is new, with a state for each row that it leads to.
  struct Part {
    PartialAutomaton automaton;
    std::vector<sh_u16> leaves;  // their rows
  };

  Edit compare(const std::vector<RuleInput>& inputs) const;
  void add_column(uint8_t like);
  void remove(const std::vector<uint32_t>& rules);
  void release(const std::vector<uint32_t>& states);
  bool is_crowded(const AutomatonLimits& limits) const;
  std::vector<bool> reachable();
  void collect();
  Part part(const std::vector<Transition>& transitions);
  std::vector<bool> closed(const Minimized& minimized) const;
  bool place(const std::vector<Transition>& transitions, const AutomatonLimits& limits);
  std::optional<sh_u16> take_row(bool closed, const AutomatonLimits& limits);
  uint32_t result_of(uint32_t state);
  sh_u16* row(uint32_t number);
  std::shared_ptr<const Automaton> copy(const std::vector<RuleInput>& inputs);

  static uint64_t result_key(uint32_t rule, sh_u8 verdict, sh_u8 reason) {
    return uint64_t{rule} << 16 | uint64_t{verdict} << 8 | reason;
  }

  Subsets subsets_;
  Automaton table_;
  std::vector<uint32_t> order_;                  // the numbers of the rules
  std::vector<sh_u16> row_of_;                   // of each subset
  std::vector<uint32_t> uses_;                   // of each row: subsets that have it; 1 for what is no subset's
  std::vector<sh_u16> free_closed_, free_open_;  // rows
  std::unordered_map<uint64_t, uint32_t> result_numbers_;  // by result_key()
  std::vector<uint32_t> result_rules_;                     // of each result the rule's number
  std::vector<uint32_t> free_results_;
  size_t rows_max_;     // from here on it is better built anew
  size_t threads_max_;  // of subsets, before those are looked for that no request comes to
};

}  // namespace shunt::policy
