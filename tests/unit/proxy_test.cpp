// What shunt-proxy makes of messages, configurations and policies, without sockets.
#include <gtest/gtest.h>

#include <fallback-proxy/body.hpp>
#include <fallback-proxy/heads.hpp>
#include <fallback-proxy/verdict.hpp>
#include <filesystem>
#include <fstream>
#include <random>

#include "support/l7_vectors.hpp"
#include "support/message_judge.hpp"

namespace shunt::test {
namespace {

using namespace proxy;

const std::filesystem::path kPolicies = std::filesystem::path(SHUNT_SOURCE_ROOT) / "tests/vectors/policy";

// Empty: refused.
std::string normal(const std::string& path) {
  std::string out;
  return normalise_path(path, out) ? out : "";
}

TEST(Target, NormalFormIsThatOfRfc3986) {
  const std::pair<const char*, const char*> kCases[] = {{"/", "/"},
                                                        {"/a/./b", "/a/b"},
                                                        {"/a/../b", "/b"},
                                                        {"/a/..", "/"},
                                                        {"/a/.", "/a/"},
                                                        {"//a///b", "/a/b"},
                                                        {"/%7e%41%2d", "/~A-"},
                                                        {"/%c3%a9%20", "/%C3%A9%20"},
                                                        {"/%2e%2E/", ""},
                                                        {"/a/%2e%2e/b", "/b"},
                                                        {"/a?x=/../%2f", "/a?x=/../%2f"},
                                                        {"/a/...", "/a/..."},
                                                        {"/a;b/c", "/a;b/c"},
                                                        {"/a b", ""},
                                                        {"/a{", "/a%7B"},
                                                        {"/..", ""},
                                                        {"/a/../..", ""},
                                                        {"/a/..;/b", ""},
                                                        {"/a/.;x", ""},
                                                        {"/a/..%3b/b", ""},
                                                        {"/%2f", ""},
                                                        {"/%5C", ""},
                                                        {"/\\", ""},
                                                        {"/%00", ""},
                                                        {"/%0a", ""},
                                                        {"/%", ""},
                                                        {"/%1", ""},
                                                        {"/%g1", ""},
                                                        {"/#", ""},
                                                        {"/?#", ""},
                                                        {"/\x80", ""},
                                                        {"", ""},
                                                        {"a", ""},
                                                        {"/%25%32%66", "/%252f"}};
  for (const auto& [path, expected] : kCases) EXPECT_EQ(normal(path), expected) << path;
}

TEST(Target, NormalFormIsItsOwnNormalForm) {
  std::mt19937 random(3);
  const std::string alphabet = "/.%aA2eEfF5cC0;?{~";
  size_t accepted = 0;
  for (int i = 0; i < 200'000; i++) {
    std::string path = "/";
    while (path.size() < 1 + random() % 14) path += alphabet[random() % alphabet.size()];
    const std::string once = normal(path);
    if (once.empty()) continue;
    accepted++;
    ASSERT_EQ(normal(once), once) << path;
    const std::string only = once.substr(0, once.find('?'));
    ASSERT_EQ(only.find("//"), std::string::npos) << path;
    ASSERT_EQ(("" + only + "/").find("/../"), std::string::npos) << path;
  }
  EXPECT_GT(accepted, 10'000u);
}

TEST(Message, WhatIsAcceptedIsReadAlikeByLlhttp) {
  const std::vector<L7Vector> vectors = l7_vectors(SHUNT_SOURCE_ROOT);
  L7Mutator mutator(vectors, 11);
  size_t complete = 0;
  for (int round = 0; round < 400; round++) {
    for (const L7Vector& vector : vectors) {
      if (vector.resp || vector.kind != L7_HTTP1_REQUEST) continue;
      const std::string input = round == 0 ? vector.input : mutator.mutate(vector.input);
      const WholeRequest request = read_whole(input, mutator.below(static_cast<unsigned>(input.size()) + 1));
      if (!request.complete) continue;
      complete++;
      ASSERT_EQ(judge_message(request, input), "") << input;
    }
  }
  EXPECT_GT(complete, 1000u);
}

TEST(Message, TheCoreAndTheFullReaderAgree) {
  const std::vector<L7Vector> vectors = l7_vectors(SHUNT_SOURCE_ROOT);
  L7Mutator mutator(vectors, 12);
  size_t simple = 0;
  RequestReader with_core(64 << 10);
  RequestReader in_full(64 << 10);
  for (int round = 0; round < 400; round++) {
    for (const L7Vector& vector : vectors) {
      if (vector.resp || vector.kind != L7_HTTP1_REQUEST) continue;
      const std::string input = round == 0 ? vector.input : mutator.mutate(vector.input);
      with_core.reset();
      in_full.reset();
      const HeadState state = with_core.read(input);
      if (state != HeadState::complete || !with_core.simple()) continue;
      simple++;
      ASSERT_EQ(in_full.read_in_full(input), state) << input << in_full.refusal().why;
      ASSERT_EQ(in_full.target(), with_core.target()) << input;
      ASSERT_EQ(in_full.host(), with_core.host()) << input;
      ASSERT_EQ(in_full.framing(), with_core.framing()) << input;
      ASSERT_EQ(in_full.content_length(), with_core.content_length()) << input;
      ASSERT_EQ(in_full.keep_alive(), with_core.keep_alive()) << input;
      ASSERT_EQ(in_full.fields().size(), with_core.fields().size()) << input;
    }
  }
  EXPECT_GT(simple, 1000u);
}

// In chunks of any sizes, given in parts of any sizes, into a buffer of any room.
TEST(Body, SurvivesAnySplit) {
  std::mt19937 random(5);
  for (int round = 0; round < 300; round++) {
    std::string body;
    std::string wire;
    while (random() % 6 != 0) {
      const std::string part(1 + random() % 500, static_cast<char>('a' + random() % 26));
      char size[16];
      snprintf(size, sizeof(size), random() % 2 ? "%zx" : "%04zX", part.size());
      wire += size + std::string(random() % 3 ? "" : ";x=\"y\"") + "\r\n" + part + "\r\n";
      body += part;
    }
    wire += "0\r\nX: y\r\n\r\n";
    BodyRelay relay, back;
    relay.begin(Framing::chunked, 0, BodyOutput::chunked, true);
    back.begin(Framing::chunked, 0, BodyOutput::raw, false);
    Buffer in(wire.size()), middle(8192), out(wire.size() + 1);
    BodyState state = BodyState::more;
    for (size_t at = 0; at < wire.size() || state == BodyState::more;) {
      const size_t part = std::min<size_t>(1 + random() % 90, wire.size() - at);
      in.append(wire.substr(at, part));
      at += part;
      ASSERT_NE(relay.move(in, middle), BodyState::malformed);
      state = back.move(middle, out);
      ASSERT_NE(state, BodyState::malformed);
      middle.compact();
      if (at == wire.size() && in.empty() && middle.empty()) break;
    }
    ASSERT_EQ(state, BodyState::done);
    ASSERT_EQ(out.bytes(), body);
  }
}

TEST(Body, AResponseUntilCloseEndsOnlyThere) {
  BodyRelay relay;
  Buffer in(100), out(100);
  relay.begin(Framing::until_close, 0, BodyOutput::chunked, true);
  in.append("abc");
  EXPECT_EQ(relay.move(in, out), BodyState::more);
  EXPECT_TRUE(relay.ends_with_input());
  EXPECT_EQ(relay.move(in, out), BodyState::done);
  EXPECT_EQ(out.bytes(), "3\r\nabc\r\n0\r\n\r\n");
  relay.begin(Framing::length, 5, BodyOutput::raw, false);
  EXPECT_FALSE(relay.ends_with_input());
}

std::string problem_of(const std::string& text) {
  const ConfigOutcome outcome = parse_config({"f", text});
  return outcome.ok() ? "" : outcome.problems.front().to_string();
}

TEST(ProxyConfig, SaysWhereAndWhat) {
  const std::string good =
      "policies: []\nlisteners:\n- {name: a, listen: ['127.0.0.1:1'], to: host, upstreams: ['127.0.0.1:2']";
  EXPECT_EQ(problem_of(good + "}"), "");
  EXPECT_EQ(problem_of("channels: {socket: /run/shunt/proxy.sock, count: 4, body: 64KiB}\n"), "");
  const std::pair<std::string, std::string> kCases[] = {
      {"", "f: the configuration is empty"},
      {"policies: []\n", "there is nothing to listen on"},
      {good.substr(13) + "}", "no policies are named"},
      {good + ", upstream: []}", "f:3:76: unknown key 'upstream' (did you mean 'upstreams'?)"},
      {good + ", headers: {set: {Host: x}}}", "'Host' says where a request goes or where it ends"},
      {good + ", headers: {remove: [content-length]}}", "says where a request goes"},
      {good + ", headers: {add: {Transfer_Encoding: x}}}", "says where a request goes"},
      {good + ", headers: {add: {Connection: x}}}", "'Connection' concerns one connection alone"},
      {good + ", headers: {add: {X: \"a\\nb\"}}}", "is not the value of a header"},
      {good + ", routes: [{path: /a/../b}]}", "is not in its normal form (write /b)"},
      {good + ", sources: [{network: 10.0.0.1/8, is: world}]}", "has bits set after its prefix"},
      {"channels: {count: 4}\n", "it is not said where shuntd is (add socket: /run/shunt/proxy.sock)"},
      {"channels: {socket: /s, count: 4000}\n", "4000"},
      {good + "}\nlimits: {head: 10}", "less than 1024 bytes"},
      {good + "}\ntimeouts: {idle: 0}", "nothing can be done in no time"}};
  for (const auto& [text, expected] : kCases)
    EXPECT_NE(problem_of(text).find(expected), std::string::npos) << text << "\n" << problem_of(text);
}

TEST(ProxyConfig, NamesThatPoliciesDoNotKnowHaveTheirPlace) {
  const ConfigOutcome outcome = parse_config(
      {"f",
       "policies: []\nlisteners:\n- {name: a, listen: ['127.0.0.1:1'],\n  to: nobody, upstreams: ['127.0.0.1:2']}"});
  const auto policies = Policies::load(outcome.config);
  ASSERT_FALSE(policies);
  EXPECT_NE(policies.error().message.find("f:4:7: 'nobody' is not known"), std::string::npos)
      << policies.error().message;
}

TEST(Heads, RulesOfARouteComeAfterThoseOfItsListener) {
  const HeaderRules both = merged({{"A"}, {{"S", "1"}, {"T", "1"}}, {{"B", "1"}}}, {{"T"}, {{"B", "2"}}, {{"S", "3"}}});
  ASSERT_EQ(both.set.size(), 2u);
  EXPECT_EQ(both.set[0].name + both.set[1].name, "BS");
  ASSERT_EQ(both.add.size(), 1u);
  EXPECT_EQ(both.remove, (std::vector<std::string>{"T", "A"}));
}

// What `explain` leaves to the proxy, and what the proxy then says.
const std::map<std::string, bool> kDecidedHere = {
    {"tiefighter deathstar:80 PUT /v1/exhaust-port - X-Has-Force: true | X-Has-Force: true", false},
    {"tiefighter deathstar:80 POST /v1/../v1/request-landing", true},
    {"tiefighter deathstar:80 POST /v1/%72equest-landing", true},
    {"world api:80 GET /twice/aa", true},
    {"world api:80 PUT /not/x", true},
    {"web api:80 GET /public/x", true},
    {"web api:80 GET /public/x - X-Tier: other", true},
    {"web api:80 GET /private", true},
    {"web api:80 GET /private - X-Tier: web | X-Tier: web", true},
    {"web api:80 GET /public/../x - X-Tier: web", true},
    {"web api:80 GET /public/../x", true},
    {"web api:80 GET /public/seen - X-Tier: web | X-Token: secret", true},
    {"web api:80 GET /twice/aa - X-Tier: web", true},
    {"web api:80 GET /twice/aa - X-Tier: web | X-Old: keep", true},
};

struct Expectation {
  std::string from, to, method, path, host, headers, verdict;
};

// "FROM TO METHOD PATH [HOST|-] [Name: value | ...] => VERDICT"; connections without a request are left out.
std::vector<std::pair<std::string, Expectation>> expectations(const std::string& name) {
  std::vector<std::pair<std::string, Expectation>> all;
  std::ifstream file(kPolicies / (name + ".expect"));
  for (std::string line; std::getline(file, line);) {
    const size_t arrow = line.find(" => ");
    if (arrow == std::string::npos) continue;
    std::istringstream words(line.substr(0, arrow));
    Expectation one;
    words >> one.from >> one.to >> one.method >> one.path >> one.host;
    std::getline(words >> std::ws, one.headers);
    one.verdict = line.substr(arrow + 4, line.find(' ', arrow + 4) - arrow - 4);
    if (!one.path.empty()) all.emplace_back(line.substr(0, arrow), one);
  }
  return all;
}

std::string request_bytes(const Expectation& one) {
  std::string bytes = one.method + " " + one.path + " HTTP/1.1\r\nHost: " + (one.host == "-" ? "" : one.host) + "\r\n";
  for (size_t at = 0; at < one.headers.size();) {
    const size_t bar = std::min(one.headers.find(" | ", at), one.headers.size());
    bytes += one.headers.substr(at, bar - at) + "\r\n";
    at = bar + 3;
  }
  return bytes + "\r\n";
}

TEST(Verdicts, AreThoseOfThePolicyVectorsAndDecideWhatIsPunted) {
  size_t asked = 0;
  size_t decided_here = 0;
  for (const auto& file : std::filesystem::directory_iterator(kPolicies)) {
    if (file.path().extension() != ".yaml") continue;
    for (const auto& [text, one] : expectations(file.path().stem())) {
      if (text.find(" redis ") != std::string::npos) continue;  // this proxy reads HTTP alone
      const std::string to = one.to.substr(0, one.to.rfind(':'));
      const std::string port = one.to.substr(one.to.rfind(':') + 1);
      // Services are a matter of the client's side, where they become a workload and its port.
      if (port.find_first_not_of("0123456789") != std::string::npos || to.starts_with("10.96.")) continue;
      const ConfigOutcome outcome = parse_config(
          {"f", "policies: ['" + file.path().string() + "']\nlisteners:\n- {name: a, listen: ['127.0.0.1:1'], to: '" +
                    to + "', port: " + port + ", upstreams: ['127.0.0.1:2'],\n   sources: [{network: 127.0.0.1, is: '" +
                    one.from + "'}]}"});
      ASSERT_TRUE(outcome.ok()) << outcome.problems.front().to_string();
      const auto policies = Policies::load(outcome.config);
      if (!policies) continue;  // a service by its name
      const std::string bytes = request_bytes(one);
      RequestReader reader(64 << 10);
      reader.reset();
      ASSERT_EQ(reader.read(bytes), HeadState::complete) << bytes << reader.refusal().why;
      const Verdict verdict = (*policies)->judge((*policies)->relation(0, *parse_address("127.0.0.1")), reader, bytes);
      const auto known = kDecidedHere.find(text);
      ASSERT_TRUE(one.verdict != "punted" || known != kDecidedHere.end()) << text;
      EXPECT_EQ(verdict.allowed, known != kDecidedHere.end() ? known->second : one.verdict == "allowed") << text;
      asked++;
      decided_here += known != kDecidedHere.end();
    }
  }
  EXPECT_GT(asked, 15u);
  EXPECT_EQ(decided_here, kDecidedHere.size());
}

TEST(Verdicts, PatternsBeyondTheAutomatonHaveABound) {
  const Pattern backreference("(a*)*b\\1");
  EXPECT_EQ(backreference.matches("aab"), true);
  EXPECT_EQ(backreference.matches("ba\n"), false);
  EXPECT_EQ(backreference.matches(std::string(5000, 'a')), std::nullopt);
}

}  // namespace
}  // namespace shunt::test
