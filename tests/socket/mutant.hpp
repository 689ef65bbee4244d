// The kernel side with one remedy taken out (tests/mutants), put in force in a live engine; and the pattern of every
// test that uses it: without the remedy the hazard is seen, with it not.
#pragma once

#include <chrono>
#include <functional>
#include <string>

#include "support/accelerated.hpp"

namespace shunt::test {

// Replaces the programs that are in force by those of a mutant: for live sockets (sk_msg), new ones (sock_ops), calls
// (setsockopt) and the drain (the pinned iterator). What is enrolled from now on shares all maps with the engine.
// Engine::attach() and apply() bring the engine's own programs back.
void put_in_force(Accelerated& shortcut, const std::string& mutant);

// Changes the kernel side's settings in place: Engine::apply() would attach the engine's own programs again.
void change_config(Accelerated& shortcut, const std::function<void(sh_config&)>& change);

struct Remedy {
  std::string mutant;  // what takes it out; empty: `without` does
  Settings settings = plain_settings();
  ProbeReport probe = host_probe();
  std::function<void(Remedy&)> without = {};  // changes the settings or the report for the half without the remedy
  int rounds = 3;                             // at least so many with the remedy
  int rounds_to_see = 20;                     // at most so many until the hazard is seen without
};

// The host's report, as on a kernel whose verdict does not work.
ProbeReport without_verdict();

// One provocation, inside the cgroup: what was seen that must not be, or nothing.
using Provocation = std::function<std::string(Accelerated&)>;

// Runs the provocation without the remedy until the hazard is seen, then as often or more with the remedy, where it
// must not be seen once.
void expect_remedy(const Remedy& remedy, const Provocation& provoke);

constexpr auto kSettle = std::chrono::milliseconds(20);  // for what must not happen
constexpr auto kSoon = std::chrono::milliseconds(500);   // what does not come in this time does not come by itself

void settle();

// Both directions on the shortcut; a failure if that does not happen.
Connection fast_pair(Accelerated& shortcut);

// While it lives, every message of less than 32 KiB goes through TCP, as if it belonged to a one-way stream. (The spill
// limits would not do: what was granted under the old ones stays granted.)
class ThroughTcp {
 public:
  explicit ThroughTcp(Accelerated& shortcut);
  ~ThroughTcp();
  ThroughTcp(const ThroughTcp&) = delete;
  ThroughTcp& operator=(const ThroughTcp&) = delete;

 private:
  Accelerated& shortcut_;
  uint32_t one_way_messages_ = 0;  // to go back to
};

}  // namespace shunt::test
