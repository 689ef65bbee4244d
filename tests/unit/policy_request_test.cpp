// A request that was read from bytes gets the verdict that the same request gets as text.
#include <gtest/gtest.h>

#include "support/l7_policy.hpp"

namespace shunt::test {
namespace {

policy::HttpRequest as_text(const l7::Http1Head& head) {
  policy::HttpRequest request;
  request.method = head.method();
  request.path = head.target();
  request.host = head.host();
  for (size_t i = 0; i < head.header_count(); i++)
    request.headers.emplace_back(head.header_name(i), head.header_value(i));
  // To the policy a path with parameters is in its normal form; some servers cut them.
  if (head.raw().flags & L7_F_PATH_PARAMETER) request.path = "//";
  return request;
}

class PolicyRequest : public testing::Test {
 protected:
  void expect_same(const std::string& bytes) {
    l7::Http1Head head;
    head.parse(bytes);
    const sh_policy_result result = policy::match(*automaton_, head.raw(), bytes);
    if (head.outcome().verdict != L7_SIMPLE) {
      ASSERT_EQ(result.verdict, SH_POLICY_PUNT) << bytes;
      return;
    }
    const sh_policy_result expected = policy::match(*automaton_, as_text(head));
    ASSERT_EQ(result.verdict, expected.verdict) << bytes;
    ASSERT_EQ(result.rule, expected.rule) << bytes;
    ASSERT_EQ(result.name, expected.name) << bytes;
    verdicts_[result.verdict]++;
  }

  std::shared_ptr<const policy::Automaton> automaton_ = l7_automaton();
  std::vector<L7Vector> vectors_ = l7_vectors(SHUNT_SOURCE_ROOT);
  int verdicts_[4] = {};
};

TEST_F(PolicyRequest, GetsTheVerdictOfItsText) {
  L7Mutator random(vectors_, 5);
  for (int i = 0; i < 100000 && !HasFatalFailure(); i++) expect_same(l7_random_request(random));
  EXPECT_GT(verdicts_[SH_POLICY_DENY], 1000);
  EXPECT_GT(verdicts_[SH_POLICY_ALLOW], 1000);
  EXPECT_GT(verdicts_[SH_POLICY_PUNT], 1000);
}

TEST_F(PolicyRequest, GetsTheVerdictOfItsTextWhateverItIs) {
  L7Mutator mutator(vectors_, 6);
  for (const L7Vector& vector : vectors_) expect_same(vector.input);
  for (int i = 0; i < 100000 && !HasFatalFailure(); i++) expect_same(mutator.mutate(l7_random_request(mutator)));
}

TEST_F(PolicyRequest, IsPuntedWhereAServerMayLookUpAnotherPath) {
  const auto verdict = [&](const std::string& target) {
    const std::string bytes = "GET " + target + " HTTP/1.1\r\nHost: h\r\n\r\n";
    l7::Http1Head head;
    EXPECT_EQ(head.parse(bytes), L7_SIMPLE) << bytes;
    return policy::match(*automaton_, head.raw(), bytes).verdict;
  };
  EXPECT_EQ(verdict("/a/b"), SH_POLICY_ALLOW);
  EXPECT_EQ(verdict("/b"), SH_POLICY_DENY);
  for (const char* target : {"/a/../b", "/a/..;/b", "/b;/a/", "/%61/b", "//a/b", "/b\\..\\a/", "/a/b#", "/a/."}) {
    EXPECT_EQ(verdict(target), SH_POLICY_PUNT) << target;
  }
}

TEST_F(PolicyRequest, IsPuntedWhenItIsAResponse) {
  const std::string bytes = "HTTP/1.1 204 x\r\nX-B: b\r\nCookie: c\r\n\r\n";
  l7::Http1Head head(L7_HTTP1_RESPONSE);
  ASSERT_EQ(head.parse(bytes), L7_SIMPLE);
  EXPECT_EQ(policy::match(*automaton_, head.raw(), bytes).verdict, SH_POLICY_PUNT);
}

}  // namespace
}  // namespace shunt::test
