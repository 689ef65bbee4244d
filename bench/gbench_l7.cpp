// What judging one head costs, in userspace and (with root) in the kernel, under Google Benchmark. In the kernel each
// run also copies the head, as a verdict program must; `copy` is that part alone.
#include <benchmark/benchmark.h>
#include <bpf/abi/l7_harness.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <algorithm>
#include <bench/l7_harness.hpp>
#include <cstring>
#include <l7parsers/http1.hpp>
#include <l7parsers/resp.hpp>
#include <map>
#include <policy/automaton.hpp>
#include <string>

namespace shunt::bench {
namespace {

l7_bpf* harness = nullptr;                                            // null: not root
std::map<size_t, std::shared_ptr<const policy::Automaton>> automata;  // by number of rules

// A usual request with a head of `bytes` bytes; the value of its last field is as long as it takes.
std::string request(size_t bytes) {
  std::string text = "GET /api/v1/users/42 HTTP/1.1\r\nHost: users\r\n";
  if (bytes > 150) text += "User-Agent: curl/8.5.0\r\nAccept: application/json\r\nAccept-Encoding: gzip\r\n";
  if (bytes > 400) {
    text +=
        "Connection: keep-alive\r\nCache-Control: no-cache\r\nX-Forwarded-For: 10.1.2.3\r\nX-Forwarded-Proto: https\r\n"
        "Accept-Language: en-GB,en;q=0.8\r\nReferer: https://example.org/users\r\n"
        "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
  }
  text += "X-Id: ";
  if (text.size() + 5 > bytes) abort();
  text.append(bytes - text.size() - 4, 'a');
  return text + "\r\n\r\n";
}

std::string command() { return "*3\r\n$3\r\nSET\r\n$10\r\nuser:12345\r\n$5\r\nvalue\r\n"; }

std::shared_ptr<const policy::Automaton> automaton_of(const std::vector<policy::HttpRule>& rules) {
  std::vector<const policy::HttpRule*> pointers;
  for (const policy::HttpRule& rule : rules) pointers.push_back(&rule);
  policy::ExpressionCache expressions;
  return policy::build_automaton(pointers, expressions);
}

// Rules that look at two headers besides.
std::shared_ptr<const policy::Automaton> about_headers() {
  return automaton_of({{"POST", "/api/v1/.*", "", {}, {}},
                       {"GET", "/api/v[0-9]+/users/[0-9]+", "users", {{"accept", "text/html"}}, {}},
                       {"GET", "/api/v[0-9]+/users/[0-9]+", "users(:[0-9]+)?", {{"x-id", std::nullopt}}, {}}});
}

// As many rules, of which the last allows the requests and looks at every field; the others share its beginning.
std::shared_ptr<const policy::Automaton> with_rules(size_t rules) {
  std::vector<policy::HttpRule> list;
  for (size_t i = 1; i < rules; i++) {
    const std::string path = "/api/v" + std::to_string(i % 7) + "/objects-" + std::to_string(i);
    list.push_back({i % 3 ? "GET" : "POST", i % 5 ? path : path + "/[a-z]+", i % 2 ? "" : "users", {}, {}});
  }
  list.push_back({"GET", "/api/v[0-9]+/users/[0-9]+", "users(:[0-9]+)?", {{"x-id", std::nullopt}}, {}});
  return automaton_of(list);
}

template <typename Parser>
void in_userspace(benchmark::State& state, const std::string& input) {
  for (auto _ : state) {
    Parser parser;
    benchmark::DoNotOptimize(input.data());
    if (parser.parse(input) != L7_SIMPLE) state.SkipWithError("not simple");
    benchmark::DoNotOptimize(&parser);
  }
}

// The kernel measures itself: the mean over `repeat` runs of the program. `automaton` is null, or what it judges by.
void in_the_kernel(benchmark::State& state, const bpf_program* program, const std::string& input,
                   const policy::Automaton* automaton) {
  auto& request = harness->bss->request;
  request.len = unsigned(input.size());
  request.kind = L7_HTTP1_REQUEST;
  memcpy(request.bytes, input.data(), input.size());
  if (automaton != nullptr && !install(*harness, *automaton)) {
    state.SkipWithError("the rules cannot be installed");
    return;
  }
  char packet[64] = {};
  for (auto _ : state) {
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = packet, .data_size_in = sizeof(packet), .repeat = 10000);
    if (bpf_prog_test_run_opts(bpf_program__fd(program), &options) != 0 || options.retval != 0) {
      state.SkipWithError("the program does not run");
      break;
    }
    state.SetIterationTime(options.duration * 1e-9);
    if (automaton != nullptr && harness->bss->policy_result.verdict != SH_POLICY_ALLOW) {
      state.SkipWithError("not allowed");
      break;
    }
  }
}

void add_all() {
  const std::pair<std::string, std::string> heads[] = {
      {"60", request(60)}, {"160", request(160)}, {"460", request(460)}};
  for (const auto& [name, input] : heads) {
    benchmark::RegisterBenchmark(("http1/userspace/" + name).c_str(), in_userspace<l7::Http1Head>, input);
  }
  benchmark::RegisterBenchmark("resp/userspace", in_userspace<l7::RespCommand>, command());
  if (harness == nullptr) return;
  // Each run is ten thousand: the best of thirty shows what the machine can do, the median what it does.
  const auto add = [](const std::string& name, const bpf_program* program, const std::string& input,
                      const policy::Automaton* automaton = nullptr) {
    benchmark::RegisterBenchmark(name.c_str(), in_the_kernel, program, input, automaton)
        ->UseManualTime()
        ->Iterations(1)
        ->Repetitions(30)
        ->ReportAggregatesOnly()
        ->ComputeStatistics("best",
                            [](const std::vector<double>& all) { return *std::min_element(all.begin(), all.end()); });
  };
  for (const auto& [name, input] : heads) {
    add("copy/kernel/" + name, harness->progs.l7_copy, input);
    add("http1/kernel/" + name, harness->progs.l7_http1, input);
    for (const auto& [rules, automaton] : automata) {
      add("policy/kernel/" + name + "/rules:" + std::to_string(rules), harness->progs.l7_policy, input,
          automaton.get());
    }
  }
  add("resp/kernel", harness->progs.l7_resp, command());
}

}  // namespace
}  // namespace shunt::bench

int main(int argc, char** argv) {
  using namespace shunt::bench;
  libbpf_set_print(nullptr);
  for (const size_t rules : {1, 500, 50'000}) automata.emplace(rules, with_rules(rules));
  automata.emplace(3, about_headers());
  size_t blocks = 0, results = 0;
  for (const auto& [rules, automaton] : automata) {
    blocks = std::max(blocks, automaton->blocks.size());
    results = std::max(results, automaton->results.size());
    fprintf(stderr, "%zu rules: %zu states, %zu bytes, %zu results\n", rules, automaton->states(), automaton->bytes(),
            automaton->results.size());
  }
  harness = open_harness(blocks, results);
  if (harness == nullptr) fprintf(stderr, "no figures of the kernel: the programs do not load (%s)\n", strerror(errno));
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 64;
  add_all();
  benchmark::RunSpecifiedBenchmarks();
  l7_bpf__destroy(harness);
}
