// Expressions against RE2, whose syntax they have: what it accepts, and what it matches.
#include <gtest/gtest.h>
#include <re2/re2.h>

#include <policy/regex.hpp>
#include <random>

namespace shunt::policy {
namespace {

bool re2_accepts(const std::string& text, RE2** compiled = nullptr) {
  RE2::Options options;
  options.set_log_errors(false);
  auto re = std::make_unique<RE2>(text, options);
  const bool ok = re->ok();
  if (compiled != nullptr) *compiled = re.release();
  return ok;
}

TEST(PolicyRegex, MatchesTheWholeText) {
  EXPECT_TRUE(compile_regex("/v1").matches("/v1"));
  EXPECT_FALSE(compile_regex("/v1").matches("/v1/x"));
  EXPECT_FALSE(compile_regex("v1").matches("/v1"));
  EXPECT_TRUE(compile_regex("^/v1$").matches("/v1"));
  EXPECT_FALSE(compile_regex("a|/v1").matches("/v1x"));
  EXPECT_FALSE(compile_regex("a^b").matches("ab"));
  EXPECT_TRUE(compile_regex("(^a|b)*").matches("abb"));
  EXPECT_FALSE(compile_regex("(^a|b)*").matches("aba"));
}

TEST(PolicyRegex, KnowsWhatItCannotCompile) {
  for (const char* text : {"(a)\\1", "a(?=b)", "(?!x).*", "(?<=a)b", "\\bfoo", "\\pL", "((a{500}){500})"}) {
    EXPECT_TRUE(check_regex(text)) << text;
    EXPECT_FALSE(compile_regex(text).refused.empty()) << text;
  }
  EXPECT_EQ(compile_regex("/v1/(a|b)\\1").prefix, "/v1/");
  EXPECT_EQ(compile_regex("^/x(?!y)").prefix, "/x");
}

TEST(PolicyRegex, RefusesBrokenSyntaxWithItsPlace) {
  for (const char* text : {"(", ")", "[", "[z-a]", "*", "a**", "a{2}{3}", "a{3,2}", "a{1001}", "\\", "(?P<>a)", "(?z)",
                           "\\y", "[[:foo:]]"}) {
    const auto result = check_regex(text);
    ASSERT_FALSE(result) << text;
    EXPECT_NE(result.error().message.find("at byte"), std::string::npos) << text;
  }
}

TEST(PolicyRegex, EndsOnRepetitionsOfNothing) {
  EXPECT_TRUE(check_regex("(((){1000}){1000}){1000}"));
  EXPECT_FALSE(compile_regex("(((){1000}){1000}){1000}").refused.empty());
}

// Random expressions out of pieces: RE2 and this agree on the syntax and on every text, but for what is known to be
// refused.
TEST(PolicyRegex, AgreesWithRe2) {
  std::mt19937 random(7);
  const std::vector<std::string> pieces = {
      "a",   "b",     "/",        ".",      "[ab]", "[^a]", "(",      ")",           "|",    "*",
      "+",   "?",     "{2}",      "{1,3}",  "{0,}", "{",    "}",      "^",           "$",    "\\d",
      "\\w", "\\.",   "(?:",      "(?i)",   "(?i:", "(?s:", "[a-c/]", "[[:alpha:]]", "0",    "-",
      "]",   "\\x61", "\\Qa*\\E", "[^\\d]", "[]a]", "\\z",  "\\A",    "A",           "\\/",  "(?P<n>",
      "\\n", "\\s",   "[-a]",     "\\101",  "{,2}", "\\_",  "(?m)",   "(?U)",        "(?-i)"};
  const std::vector<std::string> letters = {"a", "b", "/", "0", ".", "A", "c", "-", "{", "2", "}", "\n"};
  size_t accepted = 0, matched = 0;
  for (int round = 0; round < 40'000; round++) {
    std::string text;
    const size_t count = 1 + random() % 8;
    for (size_t i = 0; i < count; i++) text += pieces[random() % pieces.size()];
    RE2* raw = nullptr;
    const bool right = re2_accepts(text, &raw);
    const std::unique_ptr<RE2> re(raw);
    ASSERT_EQ(bool(check_regex(text)), right) << text << ": " << re->error();
    if (!right) continue;
    accepted++;
    const Expression expression = compile_regex(text);
    ASSERT_EQ(expression.refused, "") << text;
    for (int i = 0; i < 12; i++) {
      std::string input;
      const size_t length = random() % 5;
      for (size_t k = 0; k < length; k++)
        input += letters[random() % (letters.size() - (text.find("(?m") != std::string::npos))];
      const bool expected = RE2::FullMatch(input, *re);
      ASSERT_EQ(expression.matches(input), expected) << text << " on " << input;
      matched += expected;
      ASSERT_TRUE(!expected || input.starts_with(expression.prefix)) << text << " on " << input;
    }
  }
  EXPECT_GT(accepted, 5'000u);
  EXPECT_GT(matched, 3'000u);
}

}  // namespace
}  // namespace shunt::policy
