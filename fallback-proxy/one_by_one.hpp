// Judges a request by http rules one after another: what the automaton of a set leaves open, because an expression
// could not be compiled, a header is there twice, or a field is long.
#pragma once

#include <fallback-proxy/config.hpp>
#include <memory>
#include <mutex>
#include <optional>
#include <policy/compiler.hpp>
#include <string>
#include <unordered_map>
#include <vector>

namespace shunt::proxy {

// An expression for the whole of a text. What policy/regex.hpp refuses (backreferences, look-around, sizes) is left to
// PCRE2, whose work on one text is bounded.
class Pattern {
 public:
  explicit Pattern(const std::string& expression);
  ~Pattern();
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;

  // Nothing: it cannot be told, because it would be too much work or the expression is beyond PCRE2 too.
  std::optional<bool> matches(const std::string& text) const;

 private:
  policy::Expression expression_;
  void* code_ = nullptr;  // pcre2_code
};

struct OneByOne {
  int rule = -1;         // the first that matches, by its place in the entry's origins; -1: none
  bool unclear = false;  // of at least one rule before it could not be told whether it matches
  // Of all rules that match: what is to be done to headers that are not as they say, and their names, each once.
  HeaderRules rewrites;
  std::vector<std::string> mismatched;
};

class RuleJudge {
 public:
  // Headers with one name count as one, their values joined by ", " (RFC 9110, 5.2). Where it cannot be told whether a
  // rule matches that writes headers, none does. Safe for threads.
  OneByOne judge(const policy::Entry& entry, const policy::HttpRequest& request);

 private:
  std::optional<bool> matches(const std::string& expression, const std::string& text);
  std::optional<bool> matches(const policy::HttpRule& rule, const policy::HttpRequest& request);
  static void rewrite(const policy::HttpRule& rule, const policy::HttpRequest& request, OneByOne& result);

  std::mutex mutex_;
  std::unordered_map<std::string, std::unique_ptr<const Pattern>> patterns_;
};

// Headers with one name become one.
void join_headers(policy::HttpRequest& request);

}  // namespace shunt::proxy
