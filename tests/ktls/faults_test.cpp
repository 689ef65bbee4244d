// What happens to a session when something fails, on any kernel: until its keys are in the kernel, and without that.
#include <gtest/gtest.h>

#include "ktls/life.hpp"

namespace shunt::test {

namespace {

class EveryStep : public testing::TestWithParam<Role> {
 protected:
  static LifePlan plan(Keys keys, LifePlan::From from = LifePlan::From::preparation) {
    return {.role = GetParam(), .keys = keys, .settings = {kKtlsAes128Gcm, true, kKtlsKeyRecordsMax}, .from = from};
  }
};
INSTANTIATE_TEST_SUITE_P(Roles, EveryStep, testing::Values(Role::client, Role::server),
                         [](const auto& info) { return info.param == Role::client ? "Client" : "Server"; });

// OpenSSL goes on where the kernel has no TLS, up to both close_notify, through tickets and KeyUpdates.
TEST_P(EveryStep, FailsOnceInALifeInUserSpace) {
  std::set<std::string> ways, wanted = ways_of({"read", "write", "shutdown", "malloc", "close"});
  if (kNewsAreSteps) wanted.merge(ways_of({"new"}));
  fail_each_step(plan(Keys::in_openssl), "end", ways);
  EXPECT_EQ(ways, wanted);
  LifePlan truncated = plan(Keys::in_openssl, LifePlan::From::ending);
  truncated.ending = Ending::truncation;
  fail_each_step(truncated, "io-failed", ways);
}

TEST_P(EveryStep, FailsOnceInAHandoff) {
  std::set<std::string> ways;
  fail_each_step(plan(Keys::pretended, LifePlan::From::handoff), "nothing", ways);
  // The rest of a life that goes on in user space, because the handoff was refused, is there too.
  for (const std::string& way : ways_of({"setsockopt", "getsockopt", "malloc", "close"}))
    EXPECT_TRUE(ways.contains(way)) << way;
}

}  // namespace

}  // namespace shunt::test
