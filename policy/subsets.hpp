// The subset construction: which places within the rules a request may have come to. It can be kept, and is then told
// how the rules have changed: only subsets that are new are looked into.
#pragma once

#include <bpf/abi/policy.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <policy/classes.hpp>
#include <policy/minimize.hpp>
#include <policy/regex.hpp>
#include <string>
#include <unordered_map>
#include <vector>

namespace shunt::policy {

inline constexpr uint32_t kFields = 3;  // method, path, host; then the bits of the header conditions

// A rule as the construction needs it.
struct RuleInput {
  std::shared_ptr<const Expression> fields[kFields];
  bool constrains[kFields] = {};
  uint32_t conditions = 0;  // bits that must be set
  uint32_t rewrites = 0;    // bits that should be: the proxy writes what is missing, whatever other rules say
  bool always_rewrites = false;
  std::string refused;
  size_t loops = 0;  // positions that may repeat before something else: what makes automata large

  // The same expressions, as one cache gives them.
  bool same(const RuleInput& other) const;
};

// What a request gets that ends in a subset.
struct Outcome {
  uint32_t rule = 0;
  sh_u8 verdict = SH_POLICY_DENY;
  sh_u8 reason = 0;  // of a punt
};

class Subsets {
 public:
  // A rule's number is its place in `inputs`. `conditions`: how many bits are read.
  Subsets(const std::vector<RuleInput>& inputs, Classes classes, uint32_t conditions);

  const Classes& classes() const { return classes_; }
  size_t rules() const { return rules_.size(); }  // with those that were retired
  const RuleInput& input(uint32_t rule) const { return rules_[rule].input; }

  // Makes the subsets that do not exist yet, from the one where requests begin with `order`: the numbers of all rules
  // that are not retired, as they are asked. Subsets have the numbers from first_fresh() on; transitions are those that
  // lead out of fresh ones. False: it grew too large, and this object is of no use any more.
  bool run(const std::vector<uint32_t>& order, std::vector<Transition>& transitions);
  uint32_t count() const { return static_cast<uint32_t>(states_.size()); }  // with those that are gone
  uint32_t first_fresh() const { return first_fresh_; }                     // of the last run
  uint32_t start() const { return start_; }
  bool is_there(uint32_t state) const { return states_[state] != nullptr; }
  Outcome outcome(uint32_t state) const;

  // Between two runs. Rules that stay must keep their order.
  uint32_t add(const RuleInput& input);
  // The classes that were split, one after the other, so that each set of a rule's expressions is a union of classes.
  std::vector<uint8_t> split_classes(const RuleInput& input);
  // Subsets with one of these rules are gone; their numbers.
  std::vector<uint32_t> retire(const std::vector<uint32_t>& rules);
  // Subsets that no request comes to any more; what they lead to alone must be among them.
  void forget(const std::vector<uint32_t>& states);
  size_t threads() const { return threads_in_use_; }  // of all subsets

 private:
  enum Maybe : uint8_t { kCertain, kOdd, kRefused, kRewrite, kMaybes };  // kRewrite: it matches, or may, and writes
  using ClassLists = std::vector<std::vector<uint8_t>>;                  // of each position of an expression

  struct Rule {
    RuleInput input;
    uint32_t order = 0;
    std::shared_ptr<const ClassLists> classes[kFields];
    std::array<uint32_t, (kFields + 1) * kMaybes> threads{};  // the first of each block + 1; 0: there is none yet
    std::vector<uint32_t> states;  // with one of its threads, without those of wide_; some may be gone
  };

  // A place within a rule that a request may have come to.
  struct Thread {
    uint32_t rule;
    uint8_t field;  // kFields: the bits, of which `position` have been read
    Maybe maybe;
    uint16_t label;    // if `next` is a thread
    int32_t position;  // kStart, kPassed, or of the field's expression
    uint32_t next;     // the only one that comes after it, by one label alone; or kUnknown, kSeveral
  };
  static constexpr uint32_t kUnknown = UINT32_MAX;
  static constexpr uint32_t kSeveral = UINT32_MAX - 1;
  static constexpr int32_t kStart = -1;   // nothing of the field has been read
  static constexpr int32_t kPassed = -2;  // all of it has, whatever it was

  using Threads = std::vector<uint32_t>;  // sorted
  struct ThreadsHash {
    size_t operator()(const Threads& threads) const;
  };

  uint32_t block_size(const Rule& rule, uint32_t field) const;
  uint32_t thread(uint32_t rule, uint8_t field, Maybe maybe, int32_t position);
  uint32_t enter(uint32_t rule, uint8_t field, Maybe maybe);
  std::shared_ptr<const ClassLists> classes_of(const std::shared_ptr<const Expression>& expression);
  uint32_t state_of(Threads threads);
  void push(uint32_t label, uint32_t thread_number);
  void find_next(uint32_t number);
  void push_text(const Thread& from);
  void push_bits(const Thread& from);
  void expand(uint32_t state, std::vector<Transition>& transitions);
  void prune(Threads& threads) const;
  void drop(uint32_t state);
  std::vector<std::pair<uint32_t, uint32_t>> threads_of(const std::vector<uint32_t>& rules) const;

  Classes classes_;
  uint32_t conditions_;
  std::vector<Rule> rules_;
  std::vector<Thread> threads_;
  std::unordered_map<std::shared_ptr<const Expression>, std::shared_ptr<ClassLists>> class_lists_;
  std::unordered_map<Threads, uint32_t, ThreadsHash> numbers_;
  std::vector<const Threads*> states_;  // null: it is gone
  std::vector<uint32_t> wide_;          // those with many threads
  uint32_t first_fresh_ = 0, start_ = 0;
  size_t positions_ = 0, work_ = 0, threads_in_use_ = 0;
  std::vector<Threads> buckets_;
  std::vector<uint32_t> touched_;
};

}  // namespace shunt::policy
