// The same as faults_test.cpp with keys in the kernel: from the handoff to the end of the connection.
#include <gtest/gtest.h>

#include <ktls/probe.hpp>

#include "ktls/life.hpp"

namespace shunt::test {

namespace {

class EveryKernelStep : public testing::TestWithParam<Role> {
 protected:
  static LifePlan plan(Ending ending, LifePlan::From from) {
    static const KtlsProbeReport probed = ktls_probe();
    return {.role = GetParam(), .keys = Keys::in_kernel, .ending = ending, .settings = probed.settings, .from = from};
  }
};
INSTANTIATE_TEST_SUITE_P(Roles, EveryKernelStep, testing::Values(Role::client, Role::server),
                         [](const auto& info) { return info.param == Role::client ? "Client" : "Server"; });

TEST_P(EveryKernelStep, FailsOnceFromTheHandoffToTheEnd) {
  std::set<std::string> ways;
  fail_each_step(plan(Ending::close_notify, LifePlan::From::handoff), "end", ways);
  for (const std::string& way :
       ways_of({"setsockopt", "getsockopt", "send", "sendmsg", "recvmsg", "splice", "shutdown", "close", "malloc"}))
    EXPECT_TRUE(ways.contains(way)) << way;
}

TEST_P(EveryKernelStep, FailsOnceBeforeABadEnd) {
  std::set<std::string> ways;
  const auto from = LifePlan::From::ending;
  fail_each_step(plan(Ending::truncation, from), "truncated", ways);
  fail_each_step(plan(Ending::changed_bit, from), "bad-record", ways);
  fail_each_step(plan(Ending::alert, from), "peer-alert", ways);
  // A kernel that takes new keys goes on after a KeyUpdate, which is in the life above.
  if (!plan(Ending::key_update, from).settings.rekey)
    fail_each_step(plan(Ending::key_update, from), "rekey-unsupported", ways);
  for (const std::string& way : ways_of({"getsockopt", "sendmsg", "recvmsg", "splice", "shutdown", "close"}))
    EXPECT_TRUE(ways.contains(way)) << way;
}

}  // namespace

}  // namespace shunt::test
