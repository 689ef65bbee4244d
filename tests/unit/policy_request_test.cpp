// A request that was read from bytes gets the verdict that the same request gets as text.
#include <gtest/gtest.h>
#include <policy/core/names.h>

#include <bit>
#include <cstring>
#include <map>

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

TEST_F(PolicyRequest, GetsTheVerdictOfItsTextFromASetOfManyBlocks) {
  automaton_ = l7_automaton(200);
  ASSERT_GT(automaton_->blocks.size(), 3u);
  L7Mutator random(vectors_, 8);
  for (int i = 0; i < 100000 && !HasFatalFailure(); i++) expect_same(l7_random_request(random));
  EXPECT_GT(verdicts_[SH_POLICY_ALLOW], 1000);
}

// What spares reading: states that no byte leads out of, the states behind known methods, the bits of names.
TEST_F(PolicyRequest, HasShortcutsThatAreTrue) {
  automaton_ = l7_automaton(20);
  const sh_policy_set& set = automaton_->set;
  ASSERT_GE(set.first_open, 2) << "the denial, and what follows /a/";
  ASSERT_LT(set.first_open, automaton_->states());
  const auto next = [&](size_t state, size_t column) { return automaton_->cell((state << set.row_shift) + column); };
  for (size_t state = 0; state < automaton_->states(); state++) {
    bool closed = true;
    for (unsigned c = 0x20; c < 0x7f; c++) closed &= next(state, set.class_of[c]) == state;
    EXPECT_EQ(closed, state < set.first_open) << state;
  }
  const std::map<l7_http1_method, std::string> methods = {
      {L7_M_GET, "GET"},     {L7_M_HEAD, "HEAD"},     {L7_M_POST, "POST"},      {L7_M_PUT, "PUT"},
      {L7_M_PATCH, "PATCH"}, {L7_M_DELETE, "DELETE"}, {L7_M_OPTIONS, "OPTIONS"}};
  ASSERT_EQ(methods.size(), size_t{L7_M_COUNT} - 1);
  for (const auto& [method, name] : methods) {
    size_t state = set.start_request;
    for (const char c : name) state = next(state, set.class_of[static_cast<unsigned char>(c)]);
    EXPECT_EQ(set.after_method[method], next(state, set.classes + size_t{SH_POLICY_SEP})) << name;
  }
  for (const char* name : {"x-a", "x-b", "cookie"}) {
    const auto length = static_cast<sh_u32>(strlen(name));
    EXPECT_TRUE(set.names >> sh_policy_name_bit(sh_u8(name[0]), sh_u8(name[length - 1]), length) & 1) << name;
    EXPECT_EQ(sh_policy_name_bit('x', 'A', 3), sh_policy_name_bit('X', 'a', 3));
  }
  EXPECT_LE(std::popcount(set.names), 3);
}

// A host that no rule looks at is not read.
TEST_F(PolicyRequest, DoesNotReadAFieldThatNoRuleLooksAt) {
  const policy::HttpRule rule = {"GET", "/a", "", {}, {}, {}};
  policy::ExpressionCache expressions;
  automaton_ = policy::build_automaton({&rule}, expressions);
  const sh_policy_set& set = automaton_->set;
  size_t state = set.after_method[L7_M_GET];
  for (const char c : std::string("/a")) {
    EXPECT_GE(state, set.first_open);
    state = automaton_->cell((state << set.row_shift) + set.class_of[static_cast<unsigned char>(c)]);
  }
  state = automaton_->cell((state << set.row_shift) + set.classes + SH_POLICY_SEP);
  EXPECT_NE(state, 0u);
  EXPECT_LT(state, set.first_open);
  expect_same("GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
  expect_same("GET /a// HTTP/1.1\r\nHost: h\r\n\r\n");
  EXPECT_EQ(verdicts_[SH_POLICY_ALLOW], 1);
  EXPECT_EQ(verdicts_[SH_POLICY_PUNT], 1);
}

// A dot does not match a line's end, which no parser lets through; `explain` is asked about any text.
TEST_F(PolicyRequest, ControlCharactersAreReadNevertheless) {
  const policy::HttpRule rule = {"", "", "h.*", {}, {}, {}};
  policy::ExpressionCache expressions;
  automaton_ = policy::build_automaton({&rule}, expressions);
  EXPECT_EQ(policy::match(*automaton_, {"GET", "/", "hxy", {}}).verdict, SH_POLICY_ALLOW);
  EXPECT_EQ(policy::match(*automaton_, {"GET", "/", "hx\ny", {}}).verdict, SH_POLICY_DENY);
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
