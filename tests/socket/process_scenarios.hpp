// Connections whose ends are killed, shared by several writing processes, or handed over to another process.
#pragma once

#include "socket/ledger.hpp"
#include "socket/stream.hpp"
#include "socket/traffic.hpp"

namespace shunt::test {

// Runs one connection of `kind` (killed, shared, handed_over) and writes the outcome into the ledger.
// The caller must not have other threads.
void run_process_scenario(Kind kind, Rng& rng, const TrafficConfig& config, Ledger& ledger);

}  // namespace shunt::test
