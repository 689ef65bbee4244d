// The parser cores in the kernel and in userspace come to the same, bit by bit.
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <gtest/gtest.h>
#include <l7parsers/core/resp_reply.h>

#include <cstring>
#include <memory>
#include <policy/explain.hpp>

#include "bench/l7_harness.hpp"
#include "bpf/abi/l7_harness.h"
#include "support/l7_policy.hpp"

namespace shunt::test {
namespace {

// Under emulation a run costs a hundred times as much.
bool in_guest() { return getenv("SHUNT_GUEST") != nullptr; }

class L7InTheKernel : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    skeleton_ = l7_bpf__open_and_load();
    ASSERT_NE(skeleton_, nullptr) << "the harness does not load: " << strerror(errno);
    vectors_ = l7_vectors(SHUNT_SOURCE_ROOT);
  }
  static void TearDownTestSuite() { l7_bpf__destroy(skeleton_); }
  void SetUp() override { ASSERT_NE(skeleton_, nullptr); }

  static void run(const bpf_program* program, std::string_view bytes, unsigned kind) {
    auto& request = skeleton_->bss->request;
    request.len = unsigned(std::min<size_t>(bytes.size(), L7_WINDOW_BYTES));
    request.kind = kind;
    if (request.len) memcpy(request.bytes, bytes.data(), request.len);
    char packet[64] = {};
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = packet, .data_size_in = sizeof(packet));
    ASSERT_EQ(bpf_prog_test_run_opts(bpf_program__fd(program), &options), 0) << strerror(errno);
    ASSERT_EQ(options.retval, 0u);
  }

  static void expect_same_http1(std::string_view bytes, l7_http1_kind kind) {
    run(skeleton_->progs.l7_http1, bytes, kind);
    l7::Http1Head native(kind);
    native.parse(bytes);
    const size_t fixed = offsetof(l7_http1, headers);
    const size_t used = fixed + native.raw().header_count * sizeof(l7_http1_header);
    static_assert(sizeof(skeleton_->bss->http1) == sizeof(l7_http1));
    ASSERT_EQ(memcmp(&skeleton_->bss->http1, &native.raw(), used), 0) << "kind " << kind << ": " << bytes;
  }

  static void expect_same_resp(std::string_view bytes) {
    run(skeleton_->progs.l7_resp, bytes, 0);
    l7::RespCommand native;
    native.parse(bytes);
    static_assert(sizeof(skeleton_->bss->resp) == sizeof(l7_resp));
    ASSERT_EQ(memcmp(&skeleton_->bss->resp, &native.raw(), sizeof(l7_resp)), 0) << bytes;
  }

  static void expect_same_replies(std::string_view bytes, unsigned more) {
    run(skeleton_->progs.l7_resp_replies, bytes, more);
    l7_replies native;
    const l7_input input = l7::input_over(bytes);
    l7_replies_begin(&native, uint64_t{input.len} + more);
    l7_replies_parse(&native, &input);
    static_assert(sizeof(skeleton_->bss->replies) == sizeof(native));
    ASSERT_EQ(memcmp(&skeleton_->bss->replies, &native, sizeof(native)), 0) << bytes;
  }

  static void expect_same(const L7Vector& vector, std::string_view bytes) {
    if (vector.resp) {
      expect_same_resp(bytes);
    } else {
      expect_same_http1(bytes, vector.kind);
    }
  }

  static void expect_same_verdicts(const policy::Automaton& automaton, unsigned seed) {
    ASSERT_TRUE(bench::install(*skeleton_, automaton)) << strerror(errno);
    L7Mutator random(vectors_, seed);
    int verdicts[4] = {};
    for (int i = 0; i < (in_guest() ? 5000 : 100000); i++) {
      std::string bytes = l7_random_request(random);
      if (i % 4 == 0) bytes = random.mutate(bytes);
      run(skeleton_->progs.l7_policy, bytes, L7_HTTP1_REQUEST);
      l7::Http1Head native;
      native.parse(bytes);
      const sh_policy_result expected = policy::match(automaton, native.raw(), bytes);
      ASSERT_EQ(memcmp(&skeleton_->bss->policy_result, &expected, sizeof(expected)), 0)
          << "request " << i << ": " << bytes;
      verdicts[expected.verdict]++;
    }
    for (sh_policy_verdict verdict : {SH_POLICY_DENY, SH_POLICY_ALLOW, SH_POLICY_PUNT})
      EXPECT_GT(verdicts[verdict], 50) << verdict;
  }

  static l7_bpf* skeleton_;
  static std::vector<L7Vector> vectors_;
};

l7_bpf* L7InTheKernel::skeleton_ = nullptr;
std::vector<L7Vector> L7InTheKernel::vectors_;

TEST_F(L7InTheKernel, JudgesVectorsAndTheirBeginningsAsUserspaceDoes) {
  for (const L7Vector& vector : vectors_) {
    for (size_t bytes = 0; bytes <= vector.input.size(); bytes++) {
      expect_same(vector, std::string_view(vector.input).substr(0, bytes));
      if (HasFatalFailure()) FAIL() << vector.place << " " << vector.title << ": the first " << bytes << " bytes";
    }
  }
}

TEST_F(L7InTheKernel, JudgesVariationsAsUserspaceDoes) {
  const int rounds = in_guest() ? 5000 : 200000;
  L7Mutator mutator(vectors_, 2);
  for (int i = 0; i < rounds; i++) {
    const L7Vector& vector = vectors_[mutator.below(unsigned(vectors_.size()))];
    expect_same(vector, mutator.mutate(vector.input));
    if (HasFatalFailure()) FAIL() << "variation " << i << " of " << vector.place;
  }
}

TEST_F(L7InTheKernel, JudgesByPolicyAsUserspaceDoes) { expect_same_verdicts(*l7_automaton(), 7); }

TEST_F(L7InTheKernel, JudgesByASetOfManyBlocksAsUserspaceDoes) {
  const auto automaton = l7_automaton(200);
  ASSERT_GT(automaton->blocks.size(), 3u);
  expect_same_verdicts(*automaton, 8);
}

TEST_F(L7InTheKernel, JudgesRedisCommandsByPolicyAsUserspaceDoes) {
  const policy::RedisRule rules[] = {{"get", "user:", true, {}}, {"mget", "user:", true, {}}, {"", "a", false, {}},
                                     {"ping", {}, false, {}},    {"eval", {}, false, {}},     {"mget", "b", true, {}}};
  const auto automaton = policy::build_automaton({&rules[0], &rules[1], &rules[2], &rules[3], &rules[4], &rules[5]});
  ASSERT_TRUE(bench::install(*skeleton_, *automaton)) << strerror(errno);
  L7Mutator random(vectors_, 9);
  const char* const names[] = {"GET", "mget", "PING", "Eval", "SET", "MSET", "NOSUCH", "BLPOP"};
  const char* const keys[] = {"user:1", "user:", "a", "b", "bb", "user", "\xff", "", "aa"};
  int verdicts[4] = {};
  for (int i = 0; i < (in_guest() ? 5000 : 100000); i++) {
    policy::RedisCommand command{names[random.below(std::size(names))], {}};
    for (unsigned n = random.below(4); n != 0; n--) command.keys.emplace_back(keys[random.below(std::size(keys))]);
    std::string bytes = policy::bytes_of(command);
    if (i % 4 == 0) bytes = random.mutate(bytes);
    run(skeleton_->progs.l7_resp_policy, bytes, 0);
    l7::RespCommand native;
    native.parse(bytes);
    const sh_policy_result expected = policy::match(*automaton, native.raw(), bytes);
    ASSERT_EQ(memcmp(&skeleton_->bss->policy_result, &expected, sizeof(expected)), 0) << bytes;
    verdicts[expected.verdict]++;
  }
  for (sh_policy_verdict verdict : {SH_POLICY_DENY, SH_POLICY_ALLOW, SH_POLICY_PUNT})
    EXPECT_GT(verdicts[verdict], 50) << verdict;
}

TEST_F(L7InTheKernel, CountsRepliesAsUserspaceDoes) {
  L7Mutator random(vectors_, 10);
  const char* const values[] = {"+OK\r\n",   "$3\r\nabc\r\n", "*2\r\n:1\r\n$-1\r\n", "%1\r\n+a\r\n,1.5\r\n",
                                "_\r\n",     "*0\r\n",        "-ERR x\xff\r\n",      ">1\r\n+x\r\n",
                                "$9\r\n1234"};
  for (int i = 0; i < (in_guest() ? 5000 : 50000); i++) {
    std::string bytes;
    for (unsigned n = 1 + random.below(5); n != 0; n--) bytes += values[random.below(std::size(values))];
    if (i % 4 == 0) bytes = random.mutate(bytes);
    expect_same_replies(bytes, random.below(3) == 0 ? random.below(20) : 0);
    if (HasFatalFailure()) FAIL() << "input " << i;
  }
}

TEST_F(L7InTheKernel, JudgesRandomBytesAsUserspaceDoes) {
  L7Mutator random(vectors_, 3);
  for (int i = 0; i < 5000; i++) {
    std::string bytes(random.below(200), 0);
    for (char& byte : bytes) byte = char(random.below(4) ? 0x20 + random.below(95) : random.below(256));
    expect_same_http1(bytes, L7_HTTP1_REQUEST);
    expect_same_http1(bytes, L7_HTTP1_RESPONSE);
    expect_same_resp(bytes);
    if (HasFatalFailure()) FAIL() << "input " << i;
  }
}

}  // namespace
}  // namespace shunt::test
