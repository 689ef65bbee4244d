// Makes one automaton of the http or Redis rules of a set, in the layout of bpf/abi/policy.h.
#pragma once

#include <bpf/abi/policy.h>

#include <array>
#include <memory>
#include <policy/model.hpp>
#include <policy/regex.hpp>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace shunt::policy {

// Compiled once, used by many sets.
class ExpressionCache {
 public:
  // Empty text: any text.
  std::shared_ptr<const Expression> get(const std::string& text);
  // What the text, which is not compiled, may match at most.
  std::shared_ptr<const Expression> approximation(const std::string& text);
  size_t size() const { return known_.size(); }
  void forget_unused();  // that nobody else has

 private:
  struct Known {
    std::shared_ptr<const Expression> exact, approximation;
  };
  std::unordered_map<std::string, Known> known_;
};

struct Automaton {
  sh_policy_set set{};                  // first_cell and first_result are 0: placing it is for who installs it
  std::vector<sh_policy_block> blocks;  // of set.cells cells; the last is filled up with zeroes
  std::vector<sh_policy_result> results;
  // Of each rule why it is not in the automaton, so that requests that it may match are punted; empty: it is.
  std::vector<std::string> refused;
  bool names_rules = true;  // does a result say which rule matched?

  sh_u16 cell(size_t index) const { return blocks[index / SH_POLICY_BLOCK_CELLS].cells[index % SH_POLICY_BLOCK_CELLS]; }
  size_t states() const { return set.cells >> set.row_shift; }
  size_t bytes() const { return set.cells * sizeof(sh_u16) + results.size() * sizeof(sh_policy_result) + sizeof(set); }
};

struct AutomatonLimits {
  size_t states_max = SH_POLICY_STATES_MAX;
};

// The rules are asked in their order; the first that matches gives its name. Never fails: what does not fit is refused,
// rule by rule, in the end all.
std::shared_ptr<const Automaton> build_automaton(const std::vector<const HttpRule*>& rules,
                                                 ExpressionCache& expressions, const AutomatonLimits& limits = {});
std::shared_ptr<const Automaton> build_automaton(const std::vector<const RedisRule*>& rules,
                                                 const AutomatonLimits& limits = {});

class EditableAutomaton;
struct RuleInput;

// Builds the automaton of a large set again and again, as its rules change. Few changes at once cost what the changed
// rules take part in, and a copy of the table; else all is built anew. Keeps the table and the subsets it was made of.
class AutomatonBuilder {
 public:
  AutomatonBuilder();
  AutomatonBuilder(AutomatonBuilder&& other) noexcept;
  AutomatonBuilder& operator=(AutomatonBuilder&& other) noexcept;
  ~AutomatonBuilder();

  // As build_automaton(): requests get the same, the states may have other numbers and be a few more. Always with the
  // same cache of expressions. `numbers`: of the rules; equal ones are of equal rules, now and in earlier calls.
  std::shared_ptr<const Automaton> build(const std::vector<const HttpRule*>& rules,
                                         const std::vector<uint32_t>& numbers, ExpressionCache& expressions,
                                         const AutomatonLimits& limits = {});
  bool changed() const { return changed_; }                          // the last one was made of the one before it
  const std::vector<uint32_t>& numbers() const { return numbers_; }  // of the rules it was built of last

 private:
  std::unique_ptr<EditableAutomaton> kept_;
  std::vector<HeaderCondition> conditions_;
  std::vector<uint32_t> numbers_;
  std::vector<RuleInput> inputs_;  // of the rules, unless they are not known
  bool changed_ = false;
};

}  // namespace shunt::policy
