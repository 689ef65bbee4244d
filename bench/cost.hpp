// What a variant costs the CPUs: instructions, where they can be counted, else time. Of all processes of a cgroup, with
// what the kernel does for them.
#pragma once

#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <bench/sandbox.hpp>
#include <cstdint>
#include <vector>

namespace shunt::bench {

enum class CostSource {
  counters,  // instructions, by the CPUs' counters
  emulator,  // instructions, by an emulator whose clock goes on with them: a nanosecond is one
  time,      // nanoseconds
};

struct CostSourceInfo {
  const char* name;
  const char* unit;
  const char* text;
};
const CostSourceInfo& cost_source_info(CostSource source);

// The best that this machine has. Tries it.
CostSource find_cost_source();

// "TCG" if the CPU is emulated by QEMU in software; empty: it is not, or by something that does not say so.
std::string emulator_name();
// CPU time that a known number of instructions takes, for each of them.
double nanoseconds_of_an_instruction();

// Counts an event of perf_event_open(2) on all CPUs while processes of the cgroup run on them.
class CgroupCounter {
 public:
  static Result<CgroupCounter> open(const Cgroup& cgroup, uint32_t type, uint64_t config);
  // Since open(). What was not counted because other counters needed the CPU's is added in proportion.
  double read() const;

 private:
  std::vector<UniqueFd> fds_;
};

class CostMeter {
 public:
  // Of one cgroup, which outlives it.
  static Result<CostMeter> open(const Cgroup& cgroup, CostSource source);
  // Since some time: two readings tell.
  double read() const;

 private:
  explicit CostMeter(const Cgroup& cgroup) : cgroup_(&cgroup) {}
  const Cgroup* cgroup_;
  std::vector<CgroupCounter> counter_;  // one, or none: then CPU time is read
};

}  // namespace shunt::bench
