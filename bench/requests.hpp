// The ends of cells with requests on held connections: a small request, a response of any size, one at a time on each.
#pragma once

#include <bench/ends.hpp>

namespace shunt::bench {

inline constexpr uint32_t kRequestBytes = 64;

Result<void> serve_requests(const RunSpec& spec, const RunSignals& signals, RunMemory* memory);
Result<void> drive_requests(const RunSpec& spec, const RunSignals& signals, RunMemory* memory);

}  // namespace shunt::bench
