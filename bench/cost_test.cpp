// A cost that is not counted right makes every figure wrong: known work is compared with what the meters say.
#include <gtest/gtest.h>
#include <linux/perf_event.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#include <bench/cost.hpp>
#include <fstream>

namespace shunt::bench {
namespace {

// A child in the cgroup that needs a CPU for some time.
class Busy {
 public:
  Busy(const Cgroup& cgroup, double seconds) {
    pid_ = fork();
    if (pid_ != 0) return;
    std::ofstream(cgroup.procs_file()) << "0";
    for (;;) {
      timespec used;
      clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
      if (double(used.tv_sec) + double(used.tv_nsec) / 1e9 >= seconds) _exit(0);
    }
  }
  // The nanoseconds that it used, as the kernel tells its parent; 0: it failed.
  double wait() {
    int status = 0;
    rusage used{};
    if (wait4(pid_, &status, 0, &used) != pid_ || !WIFEXITED(status) || WEXITSTATUS(status) != 0) return 0;
    const auto ns = [](const timeval& time) { return double(time.tv_sec) * 1e9 + double(time.tv_usec) * 1e3; };
    return ns(used.ru_utime) + ns(used.ru_stime);
  }

 private:
  pid_t pid_;
};

class Cost : public testing::Test {
 protected:
  void SetUp() override {
    if (geteuid() != 0) GTEST_SKIP() << "cgroups are made, which needs root";
    auto made = Cgroup::make("/shunt-bench-test-" + std::to_string(getpid()));
    ASSERT_TRUE(made) << made.error().to_string();
    cgroup_ = std::make_unique<Cgroup>(std::move(*made));
  }
  std::unique_ptr<Cgroup> cgroup_;
};

constexpr double kBusySeconds = 0.2;

TEST_F(Cost, TimeIsThatOfTheProcessesInTheCgroup) {
  auto meter = CostMeter::open(*cgroup_, CostSource::time);
  ASSERT_TRUE(meter);
  const double before = meter->read();
  Busy inside(*cgroup_, kBusySeconds);
  const double used = inside.wait();
  ASSERT_GE(used, kBusySeconds * 1e9);
  EXPECT_NEAR(meter->read() - before, used, used * 0.05);
}

// The mechanism of the CPUs' counters, with an event that every kernel has: nanoseconds on a CPU.
TEST_F(Cost, CountersCountTheCgroupAlone) {
  auto counter = CgroupCounter::open(*cgroup_, PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK);
  ASSERT_TRUE(counter) << counter.error().to_string();
  auto outside = Cgroup::make(cgroup_->path() + "/outside");
  ASSERT_TRUE(outside);
  auto of_others = CgroupCounter::open(*outside, PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK);
  ASSERT_TRUE(of_others) << of_others.error().to_string();
  EXPECT_EQ(counter->read(), 0);
  Busy inside(*cgroup_, kBusySeconds);
  ASSERT_GT(inside.wait(), 0);
  EXPECT_GE(counter->read(), kBusySeconds * 1e9 * 0.95);
  EXPECT_EQ(of_others->read(), 0);
}

TEST_F(Cost, TheSourceIsWhatThisMachineHas) {
  const CostSource source = find_cost_source();
  auto meter = CostMeter::open(*cgroup_, source);
  ASSERT_TRUE(meter) << meter.error().to_string();
  const double before = meter->read();
  Busy inside(*cgroup_, kBusySeconds);
  ASSERT_GT(inside.wait(), 0);
  EXPECT_GT(meter->read(), before) << cost_source_info(source).name;
  if (source == CostSource::emulator) {
    EXPECT_FALSE(emulator_name().empty());
    EXPECT_NEAR(nanoseconds_of_an_instruction(), 1, 0.02);
  }
}

TEST(CostSources, HaveNames) {
  EXPECT_STREQ(cost_source_info(CostSource::counters).unit, "instructions");
  EXPECT_STREQ(cost_source_info(CostSource::emulator).unit, "instructions");
  EXPECT_STREQ(cost_source_info(CostSource::time).unit, "ns");
}

}  // namespace
}  // namespace shunt::bench
