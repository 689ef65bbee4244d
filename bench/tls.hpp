// `shunt bench tls`: what pairs of TLS gateways between two hosts carry, and what that costs.
#pragma once

#include <bench/cost.hpp>
#include <bench/document.hpp>
#include <bench/tls_pairs.hpp>
#include <map>
#include <memory>
#include <random>

namespace shunt::bench {

struct TlsPlan {
  std::vector<Cell> cells;
  std::vector<const TlsVariant*> variants;
  int rounds = 9;
  double seconds = 0.5;    // of one run
  int cpus = 1;            // 1: everything on one CPU; else on all
  double seconds_max = 0;  // no further round is begun after this; 0: none
  uint64_t seed = 1;
};

std::vector<Cell> all_tls_cells(int cpus);
std::string tls_cell_name(const Cell& cell);

class TlsRunner {
 public:
  TlsRunner(const TlsPlan& plan, Progress progress) : plan_(plan), progress_(std::move(progress)), random_(plan.seed) {}

  // Starts all gateways. What cannot be started is a problem of the document.
  Result<void> open();
  std::vector<Series> run();
  // `absent`: variants that were not tried, and why.
  Json document(const std::vector<Series>& all, const Json& absent) const;

 private:
  // A variant with its hosts, gateways and meters. What stands last here goes first.
  struct Place {
    Place(Cgroup for_gateways, Cgroup for_ends) : gateways(std::move(for_gateways)), ends(std::move(for_ends)) {}
    Cgroup gateways, ends;
    std::vector<CostMeter> meters;  // of both, in this order
    StackContext context;
    RunningStack stack;
  };

  Result<void> open_variant(const TlsVariant& variant, const TlsIdentities& identities);
  Result<std::unique_ptr<Place>> make_place(const TlsVariant& variant);
  Result<void> see_who_encrypts(const TlsVariant& variant, Place* place);
  Sample run_one(const Cell& cell, const TlsVariant& variant, double seconds);
  void run_round(const Cell& cell, Series* series, int round);
  bool out_of_time() const;

  const TlsPlan& plan_;
  Progress progress_;
  std::mt19937_64 random_;
  CostSource source_ = find_cost_source();
  std::vector<std::unique_ptr<Cgroup>> top_;  // one, once it was made
  std::vector<TempDir> folder_;               // likewise
  std::map<std::string, std::unique_ptr<Place>> places_;
  std::vector<const TlsVariant*> running_;
  std::vector<std::string> problems_;
  std::vector<int> cpus_ = usable_cpus();
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  int rounds_done_ = 0;
};

}  // namespace shunt::bench
