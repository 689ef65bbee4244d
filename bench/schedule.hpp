// Rounds: in each, every variant of a cell runs once, directly after one another and in shuffled order, so that what
// drifts on the machine hits all of them alike. Ratios are taken within a round.
#pragma once

#include <bench/cells.hpp>
#include <bench/shortcut.hpp>
#include <bench/stacks.hpp>
#include <chrono>
#include <functional>
#include <random>

namespace shunt::bench {

struct Series {
  std::string name;
  std::string group;  // "ping-pong", "one-way", …, or the stack
  std::string unit;
  int cpus = 1;
  uint32_t message_bytes = 0;
  std::vector<std::string> variants;                   // in the order of the report
  std::map<std::string, std::vector<Sample>> samples;  // by variant, one for each round
};

struct Plan {
  std::vector<Cell> cells;
  std::vector<StackCell> stacks;
  std::vector<Variant> variants;
  int rounds = 9;
  double seconds = 0.3;      // of one run of a cell
  double stack_seconds = 2;  // of one run of a stack
  int stack_cpus = 1;        // 1: everything on one CPU; else on all
  double seconds_max = 0;    // no further round is begun after this; 0: none
  uint64_t seed = 1;
};

// What is done now, and how much of all is done (0 … 1).
using Progress = std::function<void(const std::string& what, double done)>;

class Runner {
 public:
  // `host`: null without root; then there are only variants that need no engine.
  Runner(const Plan& plan, EngineHost* host, Progress progress);

  Result<std::vector<Series>> run_cells();
  Result<std::vector<Series>> run_stacks();
  // Stacks that could not be run, with the reason.
  const std::vector<std::string>& problems() const { return problems_; }
  int rounds_done() const { return rounds_done_; }

 private:
  Result<void> warm_up(const Cell& cell);
  Result<void> run_round(const Cell& cell, Series* series);
  Result<Sample> run_one(const Cell& cell, Variant variant, double seconds);
  Result<std::vector<Series>> run_stack(const StackKind& kind, const std::vector<StackCell>& cells);
  Result<Sample> run_load(RunningStack* stack, Variant variant, const StackCell& cell, bool check);
  Result<uint16_t> port_of(const Cell& cell, Variant variant);
  std::vector<Variant> shuffled(std::vector<Variant> variants);
  bool out_of_time() const;
  void tell(const std::string& what);

  const Plan& plan_;
  EngineHost* host_;
  Progress progress_;
  std::mt19937_64 random_;
  std::vector<int> cpus_ = usable_cpus();
  std::map<std::string, uint16_t> ports_;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  size_t steps_ = 0;
  size_t steps_done_ = 0;
  int rounds_done_ = 0;
  double time_share_ = 1;  // of seconds_max that may have passed when the stack at hand ends
  std::vector<std::string> problems_;
};

// Engines for all variants of the plan that need one, each in its cgroup, and a cgroup for those that do not.
// `also_memory`: that of the shortcut is needed although no cell is.
Result<void> prepare_engines(const Plan& plan, EngineHost* host, bool also_memory);

}  // namespace shunt::bench
