// What judging one head costs, in userspace and (with root) in the kernel, under Google Benchmark. In the kernel each
// run also copies the head, as a verdict program must; `copy` is that part alone.
#include <benchmark/benchmark.h>
#include <bpf/abi/l7_harness.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>

#include <cstring>
#include <l7parsers/http1.hpp>
#include <l7parsers/resp.hpp>
#include <policy/automaton.hpp>
#include <string>
// Uses the types of both.
#include "l7_harness.skel.h"

namespace shunt::bench {
namespace {

l7_bpf* harness = nullptr;  // null: not root

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

// Rules that look at every field.
void install_policy() {
  const policy::HttpRule rules[] = {
      {"POST", "/api/v1/.*", "", {}, {}},
      {"GET", "/api/v[0-9]+/users/[0-9]+", "users", {{"accept", "text/html"}}, {}},
      {"GET", "/api/v[0-9]+/users/[0-9]+", "users(:[0-9]+)?", {{"x-id", std::nullopt}}, {}}};
  policy::ExpressionCache expressions;
  const auto automaton = policy::build_automaton({&rules[0], &rules[1], &rules[2]}, expressions);
  if (automaton->cells.size() > L7_HARNESS_CELLS || automaton->results.size() > L7_HARNESS_RESULTS) abort();
  harness->bss->policy_set = automaton->set;
  std::copy(automaton->cells.begin(), automaton->cells.end(), harness->bss->policy_cells);
  std::copy(automaton->results.begin(), automaton->results.end(), harness->bss->policy_results);
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

// The kernel measures itself: the mean over `repeat` runs of the program.
void in_the_kernel(benchmark::State& state, const bpf_program* program, const std::string& input) {
  auto& request = harness->bss->request;
  request.len = unsigned(input.size());
  request.kind = L7_HTTP1_REQUEST;
  memcpy(request.bytes, input.data(), input.size());
  char packet[64] = {};
  for (auto _ : state) {
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = packet, .data_size_in = sizeof(packet), .repeat = 10000);
    if (bpf_prog_test_run_opts(bpf_program__fd(program), &options) != 0 || options.retval != 0) {
      state.SkipWithError("the program does not run");
      break;
    }
    state.SetIterationTime(options.duration * 1e-9);
    if (program == harness->progs.l7_policy && harness->bss->policy_result.verdict != SH_POLICY_ALLOW) {
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
  install_policy();
  const auto add = [](const std::string& name, const bpf_program* program, const std::string& input) {
    // Each iteration is ten thousand runs: the number of them is enough by itself.
    benchmark::RegisterBenchmark(name.c_str(), in_the_kernel, program, input)->UseManualTime()->Iterations(30);
  };
  for (const auto& [name, input] : heads) {
    add("copy/kernel/" + name, harness->progs.l7_copy, input);
    add("http1/kernel/" + name, harness->progs.l7_http1, input);
    add("policy/kernel/" + name, harness->progs.l7_policy, input);
  }
  add("resp/kernel", harness->progs.l7_resp, command());
}

}  // namespace
}  // namespace shunt::bench

int main(int argc, char** argv) {
  using namespace shunt::bench;
  libbpf_set_print(nullptr);
  harness = l7_bpf__open_and_load();
  if (harness == nullptr) fprintf(stderr, "no figures of the kernel: the programs do not load (%s)\n", strerror(errno));
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 64;
  add_all();
  benchmark::RunSpecifiedBenchmarks();
  l7_bpf__destroy(harness);
}
