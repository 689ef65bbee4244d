// The synthetic cells: what two processes of this host can do with one stream, and one run of it.
#pragma once

#include <netinet/in.h>

#include <base/result.hpp>
#include <bench/stats.hpp>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace shunt::bench {

enum class Variant {
  plain,     // TCP on loopback, nothing attached: what all others are compared with
  shortcut,  // Shunt, destinations learned
  first,     // Shunt that learns nothing: what the first connections to a destination see
  bare,      // a redirect and nothing else: the limit of what redirects can do here
  pass,      // in the socket map, but every message goes through TCP
  excluded,  // Shunt attached, its selection leaves everything out
  half,      // the client in the cgroup with Shunt, the server outside: a peer that cannot be enrolled
  unix,      // Unix stream sockets
  shm,       // a ring in shared memory: the limit
};

struct VariantInfo {
  Variant variant;
  const char* name;
  const char* text;
  bool needs_engine;
};
extern const std::vector<VariantInfo> kVariants;
const VariantInfo& variant_info(Variant variant);

enum class CellKind { one_way, ping_pong, connect, slow_reader, set_option, set_option_echo, request };
const char* kind_name(CellKind kind);

struct Cell {
  CellKind kind = CellKind::one_way;
  uint32_t message_bytes = 0;
  int cpus = 1;         // 1: both ends on the same CPU; 2: each on its own
  int connections = 1;  // request: held open at once, each with one request under way

  std::string name() const;  // "one-way/64KiB/1cpu"
  const char* unit() const;  // of Sample::value, which is better when higher
};

// All cells in the order of the report. `cpus` that this host does not have are left out.
std::vector<Cell> all_cells(int cpus_available);
bool cell_has_variant(const Cell& cell, Variant variant);

struct Sample {
  double value = 0;  // bytes, round trips, connections or calls per second; 0: the run failed
  double cpu_ns_per_byte = 0;
  double cpu_ns_per_message = 0;
  double p50_us = 0;  // of a round trip
  double p99_us = 0;
  double p999_us = 0;
  double queued_bytes_max = 0;  // slow reader: sent and not yet read
  double payload_bytes = 0;     // both ways; 0: not known
  double redirected_share =
      -1;                    // of the payload, or where that is not known of the enrolled sockets' bytes; -1: no engine
  double cost_per_byte = 0;  // of all processes of the variant, where there is a meter (cost.hpp)
  double cost_per_message = 0;
  double gateway_cost_per_byte = 0;  // of those between the ends alone
  double gateway_cost_per_message = 0;
  std::string error;  // why the run failed; an integrity failure begins with "integrity:"
};

struct CostReading {
  double all = 0;
  double gateways = 0;
};

struct RunSpec {
  Cell cell;
  Variant variant = Variant::plain;
  double seconds = 0.3;
  uint16_t port = 0;             // TCP variants
  std::string cgroup_of_client;  // the files that take the ends into their cgroups; empty: they stay
  std::string cgroup_of_server;
  int cpu_of_client = 0;
  int cpu_of_server = 0;
  // Where others stand between the ends: namespaces (-1: that of the harness), and whom the client dials.
  int netns_of_client = -1;
  int netns_of_server = -1;
  uint32_t listening_ip = INADDR_LOOPBACK;
  uint32_t dialled_ip = INADDR_LOOPBACK;
  uint16_t dialled_port = 0;          // 0: `port`
  bool greets = false;                // the server sends a byte first: what is measured begins with whole connections
  std::function<CostReading()> cost;  // read by the ends when the measured part begins and ends; empty: nobody asks
};

// Forks the two ends, waits for them, and adds up what they measured.
Sample run_cell(const RunSpec& spec);

// The CPUs this process may use.
std::vector<int> usable_cpus();

}  // namespace shunt::bench
