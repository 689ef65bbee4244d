// What the policies say about a request: by the tables that the kernel side and `shunt policy explain` ask, and to the
// end where these leave it to the proxy.
#pragma once

#include <base/proxy_link.hpp>
#include <fallback-proxy/config.hpp>
#include <fallback-proxy/message.hpp>
#include <fallback-proxy/one_by_one.hpp>
#include <memory>
#include <mutex>
#include <optional>
#include <policy/explain.hpp>
#include <policy/istio_metrics.hpp>
#include <string>
#include <unordered_map>

namespace shunt::proxy {

struct Verdict {
  bool allowed = false;
  sh_policy_reason reason = SH_POLICY_R_DEFAULT;
  sh_policy_direction direction = SH_POLICY_INGRESS;  // of the side that decided
  const policy::Entry* entry = nullptr;               // that decided; there may be none
  int rule = -1;                                      // of the entry's origins; -1: all of them, or none
  bool by_proxy = false;                              // the automaton did not tell
  HeaderRules rewrites;                               // what rules want of the headers before the request goes on
  std::string mismatched;                             // the headers that were not as rules say, for the log
};

// The two ends of a connection, looked up once.
struct Relation {
  struct Side {
    sh_policy_entry entry{};
    const policy::Entry* rules = nullptr;
  };
  uint32_t client = SH_IDENTITY_WORLD;
  uint32_t server = SH_IDENTITY_HOST;
  uint16_t port = 0;  // where the server listens
  Side egress, ingress;
};

// One generation of the policies, for all threads.
class Policies {
 public:
  // An error says which documents or which names of the configuration are wrong, one a line.
  static Result<std::shared_ptr<const Policies>> load(const Config& config);

  // What shuntd has put in force, for channels alone. Loader and compiler are those of the one before.
  static Result<std::shared_ptr<const Policies>> load(const PolicyBundle& bundle, policy::Loader& loader,
                                                      policy::Compiler& compiler);

  Relation relation(size_t listener, const Address& client) const;
  // Of a punted request: by the numbers that the kernel side gives the two ends. Nothing: it speaks of another policy.
  std::optional<Relation> relation(uint32_t client, uint32_t server, uint16_t port) const;

  // Of a steered connection: the server by the kernel side's number, the client by its address.
  std::optional<Relation> relation_to(uint32_t server, uint16_t port, const Address& client) const;

  // `bytes`: those that the reader has read.
  Verdict judge(const Relation& relation, const RequestReader& request, std::string_view bytes) const;

  // A request was answered so, or with the end of the connection (0). The metrics are always the same, and outlive
  // this.
  void tell(policy::IstioMetrics& metrics, const Relation& relation, int status,
            std::chrono::steady_clock::duration took) const;

  const std::string& title(uint32_t identity) const;
  std::string rule_text(const Verdict& verdict) const;  // empty: no rule decided
  const std::string& summary() const { return summary_; }

 private:
  struct Ends {
    uint32_t server = 0;
    uint16_t port = 0;
    std::vector<std::pair<Cidr, uint32_t>> sources;  // the longest prefix first
  };

  Result<void> compile(policy::Loaded loaded, policy::Compiler& compiler);
  Result<void> find_ends(const Config& config);
  void ask(Relation& relation, uint16_t port) const;
  Verdict judge_side(sh_policy_direction direction, const Relation::Side& side, const RequestReader& request,
                     std::string_view bytes) const;
  void judge_rules(const policy::Entry& entry, const RequestReader& request, std::string_view bytes,
                   Verdict& verdict) const;

  policy::Loaded loaded_;
  policy::Tables tables_;
  std::vector<Ends> ends_;                             // by listener
  std::unordered_map<uint32_t, uint32_t> identities_;  // by the kernel side's number
  std::string summary_;
  std::unique_ptr<RuleJudge> rules_ = std::make_unique<RuleJudge>();
  mutable std::once_flag told_;
  mutable std::unique_ptr<policy::IstioReporter> reporter_;  // once something is told
};

}  // namespace shunt::proxy
