// What an operator can decide about the shortcut: filled from the configuration file, turned into maps by the engine.
#pragma once

#include <algorithm>
#include <base/address.hpp>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace shunt {

struct PortRange {
  uint16_t first = 0;  // host order, inclusive
  uint16_t last = 0;

  bool operator==(const PortRange&) const = default;
};

// A program that may receive redirected bytes, by the base name of its executable.
struct ProgramEntry {
  std::string name;            // at most 31 bytes; longer base names are cut likewise
  bool uses_fionread = false;  // relies on FIONREAD: left out where the kernel misreports it
  bool verify = false;         // the daemon inspects the process first (Go, splicing options)
  bool may_block =
      false;  // may call recv() on a blocking socket: only sockets that are non-blocking at connect() or listen()

  bool operator==(const ProgramEntry&) const = default;
};

// One selector. An empty include list includes everything; exclude wins over include.
template <typename T>
struct InOut {
  std::vector<T> include;
  std::vector<T> exclude;

  bool operator==(const InOut&) const = default;
};

struct Selection {
  InOut<std::string> cgroups;   // paths below the cgroup v2 mount, "/" for its root; subtrees
  InOut<PortRange> ports;       // the destination port as connect() sees it, and the listener's
  InOut<Cidr> cidrs;            // the destination as connect() sees it
  InOut<std::string> programs;  // base names of executables
  InOut<uint32_t> users;        // uids

  // Are Shunt's programs attached to it, or above?
  bool reaches(const std::string& cgroup) const {
    const auto is_above = [&](const std::string& above) {
      return above == "/" || (cgroup + "/").starts_with(above + "/");
    };
    return cgroups.include.empty() || std::any_of(cgroups.include.begin(), cgroups.include.end(), is_above);
  }

  bool operator==(const Selection&) const = default;
};

struct Settings {
  Selection selection;
  std::vector<ProgramEntry> receivers;  // the shipped list plus the operator's additions
  bool any_program = false;             // every program is a receiver: for tests and the harness, not in the file

  uint32_t spill_bytes = 256 * 1024;  // receive memory of the reader above which messages go through TCP
  uint32_t spill_messages = 512;      // the same in messages since the reader's queue was last empty
  std::chrono::milliseconds firewall_interval{5000};  // one message per direction through TCP; 0: never

  bool profile = true;           // learn destinations
  uint32_t profile_sample = 64;  // one in so many connections is enrolled against the profile; a power of two
  uint32_t one_shot_turns = 8;
  uint32_t one_way_messages = 16;
  uint32_t bulk_bytes = 256 * 1024;

  // Room for policies in the kernel, of which one has half: take effect when the maps are made.
  uint32_t policy_blocks = 1024;    // of 8 KiB
  uint32_t policy_results = 65536;  // of 8 bytes

  bool tell_responses = false;  // count how requests are answered, for metrics with Istio's names

  bool operator==(const Settings&) const = default;
};

// The list that is shipped: each entry is tested, or documented to read with recv/read/readv only.
std::vector<ProgramEntry> shipped_receivers();

// The selection that is shipped: respects the control and tunnel ports, and the programs, of the common meshes.
Selection default_selection();

}  // namespace shunt
