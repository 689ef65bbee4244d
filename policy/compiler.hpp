// Turns a model into tables: who is who, and for each (subject, direction) what each (peer, port) gets.
#pragma once

#include <bpf/abi/policy.h>
#include <l7parsers/core/http1.h>
#include <l7parsers/core/resp.h>

#include <base/number_ranges.hpp>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <policy/automaton.hpp>
#include <policy/model.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace shunt::policy {

// Everybody with equal labels, or everybody in one network as far as rules can tell.
struct Identity {
  uint32_t number = 0;
  Labels labels;
  std::optional<Cidr> cidr;
  std::string title;  // of its first workload, "host", "world", or the network
};

// A rule and the policy it stands in.
struct RuleOrigin {
  const Policy* policy = nullptr;
  const Rule* rule = nullptr;
  // At most one of them; none: the rule itself.
  const HttpRule* http = nullptr;
  const RedisRule* redis = nullptr;
};

struct Entry {
  sh_policy_entry entry{};
  std::shared_ptr<const Automaton> automaton;  // with SH_POLICY_RULES
  // Denied by a rule, or allowed without looking at requests: those rules. Otherwise the http or Redis rules in the
  // automaton's order.
  std::vector<RuleOrigin> origins;
  // With SH_POLICY_RULES: the keys under which hits are counted, of no rule in this entry and of each of `origins`.
  // Equal from one compilation to the next, whatever the numbers are.
  std::vector<uint64_t> counters;
};

// What one direction of one subject gets. Kept from one compilation to the next as long as nothing it is made of
// changes.
struct SubjectTable {
  uint32_t number = 0;
  std::map<std::pair<uint32_t, uint16_t>, Entry> entries;  // by peer (0: any) and first port (0: any)
  std::vector<std::shared_ptr<const Policy>> policies;     // that select the subject
};

struct Tables {
  uint32_t generation = 0;
  std::vector<Identity> identities;  // by number, ascending
  std::map<std::pair<uint32_t, int>, std::shared_ptr<const SubjectTable>>
      subjects;                      // by identity and enum sh_policy_direction
  std::vector<uint16_t> first_port;  // of the interval of each port
  std::vector<std::pair<Cidr, uint32_t>> cidrs;

  const Identity* identity(uint32_t number) const;
  const Identity* identity_of(const Labels& labels) const;  // of a workload
  uint32_t identity_of(const Address& address) const;       // of an address that is not on this host

  // What the policy of `subject` says about a connection with `peer` to the server's port; the entry's own copy with
  // where it came from, if there is one.
  std::pair<sh_policy_entry, const Entry*> ask(sh_policy_direction direction, uint32_t subject, uint32_t peer,
                                               uint16_t port) const;

  size_t entries() const;
  size_t sets() const;       // different automata
  size_t set_bytes() const;  // of all of them
};

struct HttpRequest {
  std::string method = "GET";
  std::string path = "/";
  std::string host;
  std::vector<std::pair<std::string, std::string>> headers;
};

struct RedisCommand {
  std::string name;
  std::vector<std::string> keys;
};

// One request through one automaton, by the matcher that the kernel side uses.
sh_policy_result match(const Automaton& automaton, const HttpRequest& request);

// Likewise, for a path that the caller has brought into its normal form: what is escaped there is text.
sh_policy_result match_normal(const Automaton& automaton, const HttpRequest& request);

// A head that was read from `bytes`, likewise. Other than a simple request: punted.
sh_policy_result match(const Automaton& automaton, const l7_http1& head, std::string_view bytes);

sh_policy_result match(const Automaton& automaton, const l7_resp& command, std::string_view bytes);

class Compiler {
 public:
  // For a model without problems. What did not change since the last time is taken over.
  Tables compile(const Model& model);

  // Rules and expressions that are kept from one compilation to the next, those that are gone for a while too.
  size_t remembered() const { return rule_numbers_.size() + expressions_.size(); }

 private:
  struct ResolvedRule;
  using Selected = std::map<std::pair<uint32_t, int>, std::vector<std::shared_ptr<const Policy>>>;
  static std::string universe_of(const Model& model, const Tables& tables);
  static std::vector<uint32_t> subjects_of(const Policy& policy, const Tables& tables);
  Selected select(const Model& model, const Tables& tables);
  void find_identities(const Model& model, Tables& tables);
  void find_ports(const Model& model, Tables& tables) const;
  std::shared_ptr<const SubjectTable> table(const Tables& tables, const Identity& subject, Direction direction,
                                            std::vector<std::shared_ptr<const Policy>> policies);
  std::vector<uint16_t> named_ports(const std::string& name, const Labels& destination) const;
  std::vector<ResolvedRule> resolve(const Tables& tables, const SubjectTable& made, Direction direction) const;
  std::vector<std::pair<uint16_t, uint16_t>> ports_of(const Rule& rule, const Labels* destination) const;
  void add_peer(const Tables& tables, const std::vector<ResolvedRule>& rules, const Identity* peer,
                const Identity& subject, Direction direction, SubjectTable& made);
  Entry decide(const std::vector<const ResolvedRule*>& rules, const std::string& where);
  void judge_requests(const std::vector<const ResolvedRule*>& rules, const std::string& where, Entry& entry);
  void give_back(const SubjectTable& table);
  template <typename Request>
  const std::vector<uint32_t>& numbers_of_rules(const RuleOrigin& origin, const std::vector<Request>& requests);
  void forget();
  template <typename Request>
  std::vector<const Request*> collect(const std::vector<const ResolvedRule*>& rules,
                                      const std::vector<Request> Rule::*list, const Request* RuleOrigin::*place,
                                      Entry& entry, std::vector<uint32_t>& numbers);
  using Build = std::function<std::shared_ptr<const Automaton>(const std::vector<uint32_t>& numbers)>;
  std::pair<std::shared_ptr<const Automaton>, uint32_t> automaton(std::vector<uint32_t> numbers,  // of the rules
                                                                  const Build& build);
  std::shared_ptr<const Automaton> build_http(const std::vector<const HttpRule*>& rules,
                                              const std::vector<uint32_t>& numbers);

  uint32_t generation_ = 0;
  NumberRanges table_numbers_{1};
  NumberRanges set_numbers_{1};
  NumberRanges origins_{1};  // an entry's, and one for each rule that is counted
  uint32_t next_workload_ = SH_IDENTITY_WORKLOADS;
  uint32_t next_cidr_ = SH_IDENTITY_CIDRS;
  ExpressionCache expressions_;
  std::map<Labels, uint32_t> workload_numbers_;
  std::map<std::string, uint32_t> cidr_numbers_;
  static constexpr size_t kRememberedMin = 1000;
  std::unordered_map<std::string, uint32_t> rule_numbers_;
  uint32_t next_rule_ = 0;
  size_t remembered_max_ = kRememberedMin;
  struct Kept {
    std::weak_ptr<const Automaton> automaton;
    uint32_t number = 0;
  };
  std::map<std::vector<uint32_t>, Kept> sets_;
  // Of each large set what its next change is built from.
  struct Builder {
    AutomatonBuilder builder;
    std::weak_ptr<const Automaton> newest;  // that it has built
  };
  std::vector<Builder> builders_;
  const Model* model_ = nullptr;  // while it is being compiled
  std::string universe_;
  std::map<std::pair<uint32_t, int>, std::shared_ptr<const SubjectTable>> kept_;
  struct KnownPolicy {
    std::shared_ptr<const Policy> policy;                            // so that its address is not another one's
    std::vector<uint32_t> subjects;                                  // whom it selects
    std::unordered_map<const Rule*, std::vector<uint32_t>> numbers;  // of its rules for requests
  };
  std::unordered_map<const Policy*, KnownPolicy> policies_;
};

}  // namespace shunt::policy
