// Http rules and requests that meet them, or nearly.
#pragma once

#include <memory>
#include <policy/compiler.hpp>
#include <string>
#include <vector>

#include "support/l7_vectors.hpp"

namespace shunt::test {

// Rules of every kind: about each field, about headers, and one that cannot be compiled; and so many others, of which
// some requests meet the first.
inline std::shared_ptr<const policy::Automaton> l7_automaton(unsigned others = 0) {
  std::vector<policy::HttpRule> rules = {
      {"GET", "/a/.*", "", {}, {}},
      {"POST|PUT", "", "h(:[0-9]+)?", {}, {}},
      {"", "/v[0-9]+/x([?].*)?", "", {{"x-a", "1"}}, {}},
      {"", "", "", {{"cookie", "c"}, {"x-b", std::nullopt}}, {}},
      {"HEAD", "/t/(a|b)\\1", "", {}, {}},
  };
  for (unsigned i = 0; i < others; i++) rules.push_back({"GET", "/m/" + std::to_string(i) + "/x.*", "", {}, {}});
  std::vector<const policy::HttpRule*> list;
  for (const policy::HttpRule& rule : rules) list.push_back(&rule);
  policy::ExpressionCache expressions;
  return policy::build_automaton(list, expressions);
}

// A request, simple but for some.
inline std::string l7_random_request(L7Mutator& random) {
  const auto of = [&](std::initializer_list<const char*> list) {
    return std::string(list.begin()[random.below(unsigned(list.size()))]);
  };
  std::string text = of({"GET", "GET", "POST", "PUT", "DELETE", "HEAD"}) + " ";
  const bool other = random.below(4) == 0;
  if (other) text += "/m/" + std::to_string(random.below(300)) + of({"/x", "/xyz?q", "/y", ""});
  if (!other)
    text += of({"/a/b",  "/a/",     "/a",   "/v1/x",  "/v12/x?q=/../%2e", "/v1/x;p", "/a/;",
                "/a//b", "/a/../b", "/a/.", "/a/%62", "/a/b#c",           "/a/b\\c", "/t/aa",
                "/t/ab", "/",       "/v/x", "/a/...", "/v1/x?",           "*"});
  text += of({" HTTP/1.1\r\n", " HTTP/1.1\r\n", " HTTP/1.0\r\n"});
  text += of({"Host: h\r\n", "Host:h:80\r\n", "host: H\r\n", "Host: h.x\r\n", ""});
  for (unsigned headers = random.below(5); headers; headers--) {
    text += of({"X-A: 1\r\n", "x-a:1\r\n", "X-A: 12\r\n", "X-A: \r\n", "X-B: anything at all\r\n", "X-B:\r\n",
                "Cookie: c\r\n", "Cookie: cc\r\n", "X: y\r\n", "Cookie-x: c\r\n"});
  }
  return text + "\r\n";
}

}  // namespace shunt::test
