// What the core calls simple, another strict parser reads in the same way.
#include "support/l7_judge.hpp"

#include <gtest/gtest.h>

#include "support/l7_vectors.hpp"

namespace shunt::test {
namespace {

const std::vector<L7Vector>& vectors() {
  static const std::vector<L7Vector> all = [] {
    std::vector<L7Vector> http1 = l7_vectors(SHUNT_SOURCE_ROOT);
    std::erase_if(http1, [](const L7Vector& vector) { return vector.resp; });
    return http1;
  }();
  return all;
}

TEST(L7Judge, ReadsSimpleVectorsAlike) {
  int simple = 0;
  for (const L7Vector& vector : vectors()) {
    l7::Http1Head head(vector.kind);
    if (head.parse(vector.input) != L7_SIMPLE) continue;
    simple++;
    EXPECT_EQ(l7_judge(head, vector.input), "") << vector.place << " " << vector.title;
  }
  EXPECT_GT(simple, 50);
}

TEST(L7Judge, ReadsEveryByteInEveryPlaceAlike) {
  for (const L7Vector& vector : vectors()) {
    if (vector.input.size() > 300) continue;
    for (size_t at = 0; at < vector.input.size(); at++) {
      std::string input = vector.input;
      for (int byte = 0; byte < 256; byte++) {
        input[at] = char(byte);
        l7::Http1Head head(vector.kind);
        if (head.parse(input) != L7_SIMPLE) continue;
        ASSERT_EQ(l7_judge(head, input), "") << vector.place << " " << vector.title << ":\n" << input;
      }
    }
  }
}

TEST(L7Judge, ReadsSimpleVariationsAlike) {
  L7Mutator mutator(vectors(), 4);
  int simple[3] = {};
  for (int i = 0; i < 500000; i++) {
    const L7Vector& vector = vectors()[mutator.below(unsigned(vectors().size()))];
    const std::string input = mutator.mutate(vector.input);
    l7::Http1Head head(vector.kind);
    if (head.parse(input) != L7_SIMPLE) continue;
    simple[vector.kind]++;
    ASSERT_EQ(l7_judge(head, input), "") << "variation " << i << " of " << vector.place << " " << vector.title << ":\n"
                                         << input;
  }
  EXPECT_GT(simple[L7_HTTP1_REQUEST], 5000);
  EXPECT_GT(simple[L7_HTTP1_RESPONSE], 2000);
  EXPECT_GT(simple[L7_HTTP1_RESPONSE_TO_HEAD], 200);
}

// One difference of each kind, made by judging over other bytes than those that were read.
TEST(L7Judge, SeesADifference) {
  const std::string read = "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nA: b\r\n\r\nhello";
  const std::pair<const char*, std::string> others[] = {
      {"", read},
      {"method", "PUTS /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nA: b\r\n\r\nhello"},
      {"target", "POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nA: b\r\n\r\nhello"},
      {"version", "POST /a HTTP/1.0\r\nHost: h\r\nContent-Length: 5\r\nA: b\r\n\r\nhello"},
      {"name", "POST /a HTTP/1.1\r\nHosT: h\r\nContent-Length: 5\r\nA: b\r\n\r\nhello"},
      {"value", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nA: c\r\n\r\nhello"},
      {"fields", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nA: b\r\nB: c\r\n\r\nhello"},
      {"body", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\nA: b\r\n\r\nhello"},
      {"keep-alive", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"},
      {"refuses", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5,\r\nA: b\r\n\r\nhello"},
  };
  for (const auto& [what, bytes] : others) {
    l7::Http1Head head;
    ASSERT_EQ(head.parse(read), L7_SIMPLE);
    const std::string found = l7_judge(head, bytes);
    EXPECT_EQ(found.empty(), !*what) << found;
    EXPECT_NE(found.find(what), std::string::npos) << what << " is not in: " << found;
  }
}

}  // namespace
}  // namespace shunt::test
