// The two ends of a run: what the client and the server process of each kind of cell do. They share one mapping with
// the harness, where each leaves what it measured.
#pragma once

#include <bench/cells.hpp>
#include <bench/channel.hpp>

namespace shunt::bench {

// What one end leaves behind.
struct EndReport {
  uint64_t start_ns;  // CLOCK_MONOTONIC, of the measured part
  uint64_t end_ns;
  uint64_t cpu_ns;  // user and system time of the process in the measured part
  uint64_t bytes;   // payload sent (client) or received (server)
  uint64_t messages;
  uint64_t hash;  // of all payload, in order
  bool done;
  char error[160];
};

struct RunMemory {
  EndReport client;
  EndReport server;
  // Written by the server of a slow-reader run, read by its client.
  std::atomic<uint64_t> bytes_read;
  uint64_t queued_bytes_max;
  CostReading cost_start;
  CostReading cost_end;
  LatencyHistogram latencies;
  ShmRing to_server;
  ShmRing to_client;
};

// Pipes that order the two ends where the stream itself must not: the server listens, the server has read everything.
struct RunSignals {
  int listening_read, listening_write;
  int finished_read, finished_write;
};

Result<void> serve(const RunSpec& spec, const RunSignals& signals, RunMemory* memory);
Result<void> drive(const RunSpec& spec, const RunSignals& signals, RunMemory* memory);

}  // namespace shunt::bench
