// Policy documents from any bytes: no crash, no hang; what is accepted compiles and answers.
#include <cstdlib>
#include <policy/explain.hpp>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shunt::policy;
  Loader loader;
  const Loaded loaded = loader.load({{"fuzzed.yaml", std::string(reinterpret_cast<const char*>(data), size)}});
  for (const shunt::Problem& problem : loaded.problems) {
    if (problem.message.empty() || problem.to_string().find('\n') != std::string::npos) abort();
  }
  if (!loaded.ok()) return 0;
  Compiler compiler;
  const Tables tables = compiler.compile(loaded.model);
  for (const Workload& workload : loaded.model.workloads) {
    const auto answer = explain(loaded.model, tables, {"world", workload.title() + ":80", HttpRequest{}});
    if (!answer || answer->verdict == SH_POLICY_RULES) abort();
  }
  return 0;
}
