// The vectors of tests/vectors/http1 and resp: readable inputs with what must come out. The format stands at the top of
// tests/vectors/http1/simple_requests.txt.
#pragma once

#include <l7parsers/http1.hpp>
#include <l7parsers/resp.hpp>
#include <map>
#include <string>
#include <vector>

namespace shunt::test {

struct L7Vector {
  std::string place;  // file:line
  std::string title;
  bool resp = false;
  l7_http1_kind kind = L7_HTTP1_REQUEST;
  std::string input;
  std::vector<std::pair<std::string, std::string>> expected;
};

// All vectors of tests/vectors. What cannot be read ends the program.
std::vector<L7Vector> l7_vectors(const std::string& source_root);

// Every field that a vector may expect, as text. "header" is not among them.
std::map<std::string, std::string> l7_fields(const L7Vector& vector, std::string_view bytes);

// The same outcome and the same fields, whatever the scan has left behind in its own members.
bool l7_same_result(const l7_http1& one, const l7_http1& other);
bool l7_same_result(const l7_resp& one, const l7_resp& other);

// Variations of a vector's input: bytes changed, removed, repeated, or taken from other inputs. The same for the same
// seed.
class L7Mutator {
 public:
  L7Mutator(const std::vector<L7Vector>& vectors, unsigned seed) : vectors_(vectors), state_(seed) {}
  std::string mutate(const std::string& input);
  unsigned below(unsigned bound);

 private:
  const std::vector<L7Vector>& vectors_;
  unsigned long long state_;
};

}  // namespace shunt::test
