// What a connection costs in kernel memory when it is only held open.
#pragma once

#include <base/result.hpp>
#include <bench/environment.hpp>
#include <bench/schedule.hpp>

namespace shunt::bench {

// Opens `connections` in one process inside the variant's cgroup, sends one request and response over each, and
// measures while they are held. An object with variant, connections, paired, bytes_per_connection, maps_bytes.
Result<Json> measure_memory(EngineHost* host, Variant variant, uint32_t connections);

}  // namespace shunt::bench
