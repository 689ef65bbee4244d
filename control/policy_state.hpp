// The policy that the daemon has put in force: documents, tables, and what the events of the kernel side mean by them.
#pragma once

#include <base/proxy_link.hpp>
#include <control/config.hpp>
#include <control/documents.hpp>
#include <memory>
#include <policy/explain.hpp>
#include <unordered_map>

namespace shunt {

class PolicyState {
 public:
  // Documents that were read and compiled, and are not in force yet.
  struct Prepared {
    UniqueFd bundle;  // sealed, for the fallback proxy
    policy::Loaded loaded;
    policy::Tables tables;
    PolicyRows rows;  // of the tables

    bool any() const { return !loaded.model.policies.empty(); }
  };

  // What the folder says. A folder that is not there or has no documents means that there is no policy. An error names
  // file and line of each problem. May run in a thread of its own, beside all others of these but itself.
  Result<std::shared_ptr<const Prepared>> prepare(const PolicySettings& settings);
  Result<std::shared_ptr<const Prepared>> prepare(std::vector<TextSource> sources);

  void put_in_force(std::shared_ptr<const Prepared> prepared, uint32_t generation);
  // What is, or would be if shunt were on; null: not known.
  const std::shared_ptr<const Prepared>& in_force() const { return prepared_; }

  int bundle() const { return prepared_ ? prepared_->bundle.get() : -1; }  // of what is in force; -1: there is none

  Json summary(const PolicyReport& report) const;
  Json document(const PolicyReport& report, const PolicySettings& settings) const;
  // Adds how often each http rule decided a request (Engine::policy_hits); of many rules those with most.
  void add_hits(const std::vector<uint64_t>& hits, Json& document) const;
  std::string identity_name(uint32_t number) const;
  // "POLICY PATH (FILE:LINE)" of the rules behind an entry, whose origin is as the kernel side has it: one of its http
  // rules, or all; the first few. Of another policy than the one in force nothing is known.
  Json rules_of(uint32_t origin, uint32_t rule) const;
  // Adds names to a policy's event: who, why, by which rule.
  void describe(const sh_event& event, Json& document) const;

 private:
  policy::Loader loader_;  // prepare()'s alone
  policy::Compiler compiler_;
  std::shared_ptr<const Prepared> prepared_;
  uint32_t generation_ = 0;
  std::unordered_map<uint32_t, const policy::Entry*> origins_;
};

}  // namespace shunt
