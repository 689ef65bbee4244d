// Heads of HTTP/1 from any bytes, three times: the parser core in userspace, the same source in the kernel, and another
// parser. What comes out is the same bit by bit, and so is the verdict of a policy on a request. Needs root.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <policy/compiler.hpp>

#include "bench/l7_harness.hpp"
#include "http1_input.hpp"
#include "support/l7_policy.hpp"

namespace {

using namespace shunt;

[[noreturn]] void fail(const char* what, std::string_view bytes) {
  fprintf(stderr, "%s: %.*s\n", what, static_cast<int>(bytes.size()), bytes.data());
  abort();
}

class Kernel {
 public:
  Kernel() : automaton_(test::l7_automaton()) {
    harness_ = l7_bpf__open_and_load();
    if (harness_ != nullptr && bench::install(*harness_, *automaton_)) return;
    fprintf(stderr, "cannot load the parser into the kernel: %s\n", strerror(errno));
    exit(1);
  }
  Kernel(const Kernel&) = delete;
  ~Kernel() { l7_bpf__destroy(harness_); }

  void compare(const test::Http1Input& input) {
    const bool request = input.kind == L7_HTTP1_REQUEST;
    run(request ? harness_->progs.l7_policy : harness_->progs.l7_http1, input);
    const size_t used = offsetof(l7_http1, headers) + input.head.raw().header_count * sizeof(l7_http1_header);
    if (memcmp(&harness_->bss->http1, &input.head.raw(), used) != 0)
      fail("the kernel reads something else", input.bytes);
    if (!request) return;
    const sh_policy_result expected = policy::match(*automaton_, input.head.raw(), input.bytes);
    if (memcmp(&harness_->bss->policy_result, &expected, sizeof(expected)) != 0)
      fail("the kernel's verdict is another one", input.bytes);
  }

 private:
  void run(const bpf_program* program, const test::Http1Input& input) {
    auto& request = harness_->bss->request;
    request.len = static_cast<unsigned>(input.bytes.size());
    request.kind = input.kind;
    std::copy(input.bytes.begin(), input.bytes.end(), request.bytes);
    char packet[64] = {};
    LIBBPF_OPTS(bpf_test_run_opts, options, .data_in = packet, .data_size_in = sizeof(packet));
    if (bpf_prog_test_run_opts(bpf_program__fd(program), &options) != 0 || options.retval != 0)
      fail("the kernel does not run it", input.bytes);
  }

  std::shared_ptr<const policy::Automaton> automaton_;
  l7_bpf* harness_ = nullptr;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Kernel kernel;
  if (size > L7_WINDOW_BYTES) return 0;
  if (const auto input = shunt::test::http1_input(data, size)) kernel.compare(*input);
  return 0;
}
