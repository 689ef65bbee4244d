#include <gtest/gtest.h>
#include <l7parsers/core/resp_reply.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <set>

#include "support/l7_vectors.hpp"

namespace shunt::test {
namespace {

const std::vector<L7Vector>& vectors() {
  static const std::vector<L7Vector> all = l7_vectors(SHUNT_SOURCE_ROOT);
  return all;
}

// Memory whose last byte is followed by a page that cannot be read.
class Cliff {
 public:
  Cliff() {
    page_ = size_t(sysconf(_SC_PAGESIZE));
    void* memory = mmap(nullptr, 5 * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(static_cast<char*>(memory) + 4 * page_, page_, PROT_NONE) != 0) abort();
    memory_ = static_cast<char*>(memory);
  }
  ~Cliff() { munmap(memory_, 5 * page_); }
  std::string_view place(std::string_view bytes) {
    if (bytes.size() > 4 * page_) abort();
    char* start = memory_ + 4 * page_ - bytes.size();
    memcpy(start, bytes.data(), bytes.size());
    return {start, bytes.size()};
  }

 private:
  size_t page_;
  char* memory_;
};

void expect_fields(const L7Vector& vector, const std::map<std::string, std::string>& fields) {
  for (const auto& [key, value] : vector.expected) {
    if (key == "header") {
      EXPECT_TRUE(fields.count("header " + value)) << vector.place << " " << vector.title << ": no header " << value;
    } else {
      const auto found = fields.find(key);
      ASSERT_NE(found, fields.end()) << vector.place << " " << vector.title << ": no " << key;
      EXPECT_EQ(found->second, value) << vector.place << " " << vector.title << ": " << key;
    }
  }
}

TEST(L7Vectors, GiveWhatTheySay) {
  Cliff cliff;
  for (const L7Vector& vector : vectors()) expect_fields(vector, l7_fields(vector, cliff.place(vector.input)));
}

// A beginning is INCOMPLETE, or has the final verdict already: with the same fields when it is SIMPLE.
TEST(L7Vectors, BeginningsAreIncompleteOrFinal) {
  Cliff cliff;
  for (const L7Vector& vector : vectors()) {
    auto whole = l7_fields(vector, cliff.place(vector.input));
    whole.erase("extent");
    for (size_t bytes = 0; bytes < vector.input.size(); bytes++) {
      auto part = l7_fields(vector, cliff.place(std::string_view(vector.input).substr(0, bytes)));
      part.erase("extent");
      if (part["verdict"] != "incomplete") {
        ASSERT_EQ(part, whole) << vector.place << " " << vector.title << ": the first " << bytes << " bytes";
      }
    }
  }
}

// Nothing of a request may be decided before its head has arrived.
TEST(L7Vectors, SimpleHeadsAreNotSimpleOneByteEarlier) {
  for (const L7Vector& vector : vectors()) {
    auto whole = l7_fields(vector, vector.input);
    if (whole["verdict"] != "simple") continue;
    const size_t head = std::stoul(whole["head"]);
    EXPECT_EQ(l7_fields(vector, vector.input.substr(0, head))["verdict"], "simple") << vector.place;
    EXPECT_EQ(l7_fields(vector, vector.input.substr(0, head - 1))["verdict"], "incomplete") << vector.place;
  }
}

template <typename Parser>
void expect_resumed(Parser resumed, Parser once, const L7Vector& vector, size_t split) {
  once.parse(vector.input);
  resumed.parse(std::string_view(vector.input).substr(0, split));
  resumed.parse(vector.input);
  ASSERT_EQ(once.outcome().verdict, resumed.outcome().verdict) << vector.place << " split at " << split;
  ASSERT_EQ(once.outcome().reason, resumed.outcome().reason) << vector.place << " split at " << split;
  ASSERT_TRUE(l7_same_result(once.raw(), resumed.raw())) << vector.place << " split at " << split;
}

TEST(L7Vectors, ResumedAtAnySplitComeToTheSame) {
  for (const L7Vector& vector : vectors()) {
    for (size_t split = 0; split <= vector.input.size(); split++) {
      if (vector.resp) {
        expect_resumed(l7::RespCommand(), l7::RespCommand(), vector, split);
      } else {
        expect_resumed(l7::Http1Head(vector.kind), l7::Http1Head(vector.kind), vector, split);
      }
    }
  }
}

TEST(L7Vectors, ThereIsOneForEveryReason) {
  std::set<std::string> seen = {"none", "incomplete"};
  for (const L7Vector& vector : vectors()) {
    for (const auto& [key, value] : vector.expected) {
      if (key == "verdict" && value.rfind("punt ", 0) == 0) seen.insert(value.substr(5));
    }
  }
  for (int reason = 0; reason < L7_REASON_COUNT; reason++) {
    EXPECT_TRUE(seen.count(std::string(l7::reason_name(l7_reason(reason))))) << l7::reason_name(l7_reason(reason));
  }
  EXPECT_EQ(seen.size(), size_t(L7_REASON_COUNT));  // and none that is not in the list
}

TEST(L7Vectors, BeginningsOfVariationsAreIncompleteOrFinal) {
  Cliff cliff;
  L7Mutator mutator(vectors(), 1);
  int simple = 0;
  for (int i = 0; i < 30000; i++) {
    const L7Vector& vector = vectors()[mutator.below(unsigned(vectors().size()))];
    const std::string input = mutator.mutate(vector.input);
    if (input.size() > 4 * L7_WINDOW_BYTES) continue;
    auto whole = l7_fields(vector, cliff.place(input));
    auto part =
        l7_fields(vector, cliff.place(std::string_view(input).substr(0, mutator.below(unsigned(input.size()) + 1))));
    simple += whole["verdict"] == "simple";
    whole.erase("extent");
    part.erase("extent");
    if (part["verdict"] != "incomplete") {
      ASSERT_EQ(part, whole) << input;
    }
  }
  EXPECT_GT(simple, 1000);  // or nothing was tested
}

// RFC 9110, 5.6.2, and RFC 3986, 3.3, said once more in another way.
TEST(Http1Grammar, TakesTokensInNamesAndPcharsInPaths) {
  for (int byte = 0x21; byte < 0x7f; byte++) {
    const bool alnum = isalnum(byte);
    const bool token = alnum || strchr("!#$%&'*+-.^_`|~", byte);
    const bool pchar = alnum || strchr("-._~!$&'()*+,;=:@%", byte);
    const std::string letter(1, char(byte));
    l7::Http1Head name, path;
    name.parse("GET / HTTP/1.1\r\nHost: h\r\nA" + letter + "A: b\r\n\r\n");
    path.parse("GET /a" + letter + "b HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT_EQ(name.outcome().verdict == L7_SIMPLE, (token && byte != '_') || byte == ':') << letter;
    EXPECT_EQ(path.outcome().verdict == L7_SIMPLE, pchar || strchr("/?#\\", byte)) << letter;
  }
}

// Names are read eight bytes at a time: every byte at every place of short and long ones.
TEST(Http1Grammar, TakesTokensAtEveryPlaceOfAName) {
  const std::string_view others = "!#$%&'*+-.^`|~";
  for (size_t length = 1; length <= 26; length++) {
    for (size_t at = 0; at < length; at++) {
      for (unsigned c = 0; c < 256; c++) {
        std::string name(length, 'q');
        name[at] = static_cast<char>(c);
        const std::string text = "GET / HTTP/1.1\r\n" + name + ": v\r\nHost: h\r\n\r\n";
        const bool token = (c < 0x80 && isalnum(int(c))) || (c != 0 && others.find(char(c)) != std::string_view::npos);
        l7::Http1Head head;
        head.parse(text);
        ASSERT_EQ(head.outcome().verdict == L7_SIMPLE, token || (c == ':' && at > 0))
            << length << " " << at << " " << c;
        if (head.outcome().verdict != L7_SIMPLE) continue;
        ASSERT_EQ(head.header_name(0), name.substr(0, c == ':' ? at : length)) << c;
      }
    }
  }
}

// What the parser itself reads is found by its length and its packed text, in any case, and nothing that resembles it
// is.
TEST(Http1Grammar, KnowsItsFieldsAndNoOthers) {
  const std::map<std::string, l7_reason> fields = {{"Transfer-Encoding", L7_R_TRANSFER_ENCODING},
                                                   {"Connection", L7_R_CONNECTION_OPTION},
                                                   {"Content-Length", L7_R_CONTENT_LENGTH},
                                                   {"Expect", L7_R_EXPECT},
                                                   {"Upgrade", L7_R_UPGRADE},
                                                   {"HTTP2-Settings", L7_R_H2C},
                                                   {"TE", L7_R_HOP_BY_HOP},
                                                   {"Trailer", L7_R_HOP_BY_HOP},
                                                   {"Keep-Alive", L7_R_HOP_BY_HOP},
                                                   {"Proxy-Connection", L7_R_HOP_BY_HOP},
                                                   {"Host", L7_R_HOST_REPEATED}};
  const auto reason = [](const std::string& name) {
    l7::Http1Head head;
    head.parse("GET / HTTP/1.1\r\nHost: h\r\n" + name + ": x\r\n\r\n");
    return head.outcome().reason;
  };
  for (const auto& [name, expected] : fields) {
    for (size_t at = 0; at < name.size(); at++) {
      std::string other = name;
      if (isalpha(static_cast<unsigned char>(name[at]))) other[at] ^= 0x20;
      EXPECT_EQ(reason(other), expected) << other;
      other[at] = name[at] == 'q' ? 'z' : 'q';
      EXPECT_EQ(reason(other), L7_R_NONE) << other;
    }
    EXPECT_EQ(reason(name + "s"), L7_R_NONE);
    EXPECT_EQ(reason("x" + name), L7_R_NONE);
    EXPECT_EQ(reason(name.substr(1)), L7_R_NONE);
  }
}

// The count of whole replies and what is still to come of the last one; -1: not counted.
std::pair<int, int> replies(const std::string& bytes, size_t more = 0) {
  Cliff cliff;
  const l7_input input = l7::input_over(cliff.place(bytes));
  l7_replies counted;
  l7_replies_begin(&counted, bytes.size() + more);
  l7_replies_parse(&counted, &input);
  if (counted.out.verdict != L7_SIMPLE) return {-1, static_cast<int>(counted.out.reason)};
  return {static_cast<int>(counted.count), static_cast<int>(counted.out.unit_bytes - bytes.size())};
}

TEST(RespReplies, WholeOnesAreCounted) {
  using Counted = std::pair<int, int>;
  EXPECT_EQ(replies("+OK\r\n"), Counted(1, 0));
  EXPECT_EQ(replies("-ERR unknown '\xff\x01'\r\n:12\r\n_\r\n#t\r\n,1.5\r\n(123\r\n"), Counted(6, 0));
  EXPECT_EQ(replies("$3\r\n\r\n+\r\n$-1\r\n$0\r\n\r\n=7\r\ntxt:abc\r\n!3\r\nERR\r\n"), Counted(5, 0));
  EXPECT_EQ(replies("*2\r\n$1\r\na\r\n*3\r\n:1\r\n*0\r\n*-1\r\n+OK\r\n"), Counted(2, 0));
  EXPECT_EQ(replies("%2\r\n+a\r\n:1\r\n+b\r\n~2\r\n:1\r\n:2\r\n+OK\r\n"), Counted(2, 0));
  EXPECT_EQ(replies("+" + std::string(3000, 'x') + "\r\n+OK\r\n"), Counted(2, 0));
  EXPECT_EQ(replies("*2\r\n:1\r\n$10\r\nabc"), Counted(0, 9)) << "of the last string of an array";
  EXPECT_EQ(replies("$10\r\nabc"), Counted(0, 9)) << "the rest of a string comes later";
  EXPECT_EQ(replies("+OK\r\n$100000\r\n" + std::string(4070, 'x')), Counted(1, 100002 - 4070));
  EXPECT_EQ(replies("+OK\r\n$3\r\nabc", 0), Counted(1, 2));
}

TEST(RespReplies, WhatIsNotPlainIsNotCounted) {
  for (const char* bytes :
       {"", "+OK", "+OK\r", "+OK\n", "+OK\rx", "*2\r\n+a\r\n", "*2\r\n$10\r\nabc", "$", "$1", "$x\r\n", "$1\nx\r\n",
        ">2\r\n+message\r\n+x\r\n", "|1\r\n+a\r\n+b\r\n:1\r\n", "$?\r\n;0\r\n", "*?\r\n.\r\n", "HTTP/1.1 200 OK\r\n",
        "+OK\r\n>1\r\n+x\r\n", "$1234567890\r\n"}) {
    EXPECT_EQ(replies(bytes).first, -1) << bytes;
  }
  EXPECT_EQ(replies("+OK\r\n", 5).first, -1) << "what follows was not seen";
}

TEST(RespCommands, AreSortedAndFoundByName) {
  for (size_t i = 0; i < L7_RESP_COMMAND_COUNT; i++) {
    const l7_resp_command& entry = l7_resp_commands[i];
    EXPECT_EQ(l7_resp_find(entry.high, entry.low), i) << l7::resp_command_name(i);
    if (i) {
      EXPECT_FALSE(l7_resp_not_before(l7_resp_commands[i - 1].high, l7_resp_commands[i - 1].low, l7_u32(i)));
    }
  }
  EXPECT_EQ(l7_resp_find(0, 0), L7_RESP_COMMAND_COUNT);
  EXPECT_LE(L7_RESP_COMMAND_COUNT, 256u);  // what the search reaches
}

}  // namespace
}  // namespace shunt::test
