#include <cpuid.h>
#include <fcntl.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>

#include <bench/cost.hpp>
#include <cmath>
#include <cstring>

namespace shunt::bench {
namespace {

constexpr CostSourceInfo kSources[] = {
    {"counters", "instructions", "instructions, by the CPUs' counters, of user and kernel"},
    {"emulator", "instructions",
     "instructions, counted by the emulator, whose clock goes on by a nanosecond with each"},
    {"time", "ns", "CPU time in nanoseconds: there is no counter of instructions"},
};

constexpr uint64_t kLoopTurns = 10'000'000;
constexpr int kLoopInstructions = 2;  // of a turn
constexpr double kOneAllowance = 0.02;
constexpr unsigned kHypervisorLeaf = 0x40000000;
constexpr unsigned kHypervisorBit = 1u << 31;

UniqueFd open_event(uint32_t type, uint64_t config, pid_t who, int cpu, unsigned long flags) {
  perf_event_attr attributes{};
  attributes.size = sizeof(attributes);
  attributes.type = type;
  attributes.config = config;
  attributes.read_format = PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING;
  return UniqueFd(int(syscall(SYS_perf_event_open, &attributes, who, cpu, -1, flags | PERF_FLAG_FD_CLOEXEC)));
}

double read_event(int fd) {
  struct {
    uint64_t value, enabled_ns, running_ns;
  } count{};
  if (read(fd, &count, sizeof(count)) != sizeof(count) || count.running_ns == 0) return 0;
  return double(count.value) * (double(count.enabled_ns) / double(count.running_ns));
}

double process_time_ns() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return double(time.tv_sec) * 1e9 + double(time.tv_nsec);
}

void run_known_instructions() {
  uint64_t turns = kLoopTurns;
  asm volatile(
      "1: dec %0\n"
      "jnz 1b"
      : "+r"(turns)
      :
      : "cc");
}

// A counter may be there in name only: virtual machines have such.
bool counts_instructions() {
  UniqueFd counter = open_event(PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS, 0, -1, 0);
  if (!counter) return false;
  run_known_instructions();
  return read_event(counter.get()) >= double(kLoopTurns * kLoopInstructions);
}

}  // namespace

const CostSourceInfo& cost_source_info(CostSource source) { return kSources[size_t(source)]; }

std::string emulator_name() {
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & kHypervisorBit)) return {};
  __cpuid(kHypervisorLeaf, eax, ebx, ecx, edx);
  char name[13] = {};
  std::memcpy(name, &ebx, 4);
  std::memcpy(name + 4, &ecx, 4);
  std::memcpy(name + 8, &edx, 4);
  return std::strcmp(name, "TCGTCGTCGTCG") == 0 ? "TCG" : "";
}

double nanoseconds_of_an_instruction() {
  const double before = process_time_ns();
  run_known_instructions();
  return (process_time_ns() - before) / double(kLoopTurns * kLoopInstructions);
}

CostSource find_cost_source() {
  if (counts_instructions()) return CostSource::counters;
  // A real CPU may run one instruction in a nanosecond, too: of all others it says nothing.
  if (!emulator_name().empty() && std::abs(nanoseconds_of_an_instruction() - 1) <= kOneAllowance)
    return CostSource::emulator;
  return CostSource::time;
}

Result<CgroupCounter> CgroupCounter::open(const Cgroup& cgroup, uint32_t type, uint64_t config) {
  CgroupCounter counter;
  UniqueFd folder(::open(cgroup.folder().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return unexpected(errno, cgroup.folder());
  const long cpus = sysconf(_SC_NPROCESSORS_CONF);
  for (int cpu = 0; cpu < cpus; cpu++) {
    UniqueFd event = open_event(type, config, folder.get(), cpu, PERF_FLAG_PID_CGROUP);
    if (!event && errno == ENODEV) continue;  // the CPU is offline
    if (!event) return unexpected(errno, "count events of " + cgroup.folder());
    counter.fds_.push_back(std::move(event));
  }
  return counter;
}

double CgroupCounter::read() const {
  double sum = 0;
  for (const UniqueFd& fd : fds_) sum += read_event(fd.get());
  return sum;
}

Result<CostMeter> CostMeter::open(const Cgroup& cgroup, CostSource source) {
  CostMeter meter(cgroup);
  if (source != CostSource::counters) return meter;
  auto counter = CgroupCounter::open(cgroup, PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS);
  if (!counter) return unexpected(counter.error());
  meter.counter_.push_back(std::move(*counter));
  return meter;
}

double CostMeter::read() const {
  if (!counter_.empty()) return counter_.front().read();
  sched_yield();  // so that what the reader itself has used is accounted
  return cgroup_->cpu_seconds() * 1e9;
}

}  // namespace shunt::bench
