// What the engine behind control/ answers in the unit tests, and what it was told.
#pragma once

#include <atomic>
#include <mutex>
#include <optional>
#include <sockops/engine.hpp>
#include <vector>

namespace shunt {

struct FakeKernel {
  // Of `status`, which a drain's thread changes, of what a sweep's thread reads and writes, and of `applied`.
  std::mutex lock;
  std::vector<sh_live> live;
  std::vector<sh_event> ended;
  Status status;
  Counters counters;
  std::vector<Row> rows;
  std::vector<ProfileRow> profiles;
  std::vector<WhyRow> why;
  DrainReport drained;
  ProbeReport probe;
  std::vector<sh_event> events;
  std::optional<Error> open_error;
  std::optional<Error> apply_error;
  std::vector<Settings> applied;
  std::vector<uint32_t> verified;
  std::atomic<bool> events_wanted = false;
  std::optional<Error> policy_error;
  uint32_t channels_made = 0, channels_ended = 0;
  std::vector<std::string> gateways;  // that were admitted, "UID CGROUP", and "none" for each that went
  Outbound outbound;
  std::vector<HostService> services;
  bool owns_channels = false;
  struct Steered {
    uint32_t slot = 0, identity = 0;
    bool fresh = false;
  };
  std::vector<Steered> steered;
  uint32_t steering_ended = 0;
  PolicyReport policy;  // generation 0: none
  std::atomic<size_t> policies_put = 0;
  std::vector<uint64_t> hits;
  PolicyRows policy_rows;
  std::function<std::unique_ptr<PolicyTables>()> tables;
  PolicyEnd end;                // of every process and cgroup
  std::optional<Error> no_end;  // or why there is none
};

FakeKernel& fake_kernel();
void fake_engine_has_events();  // wakes the reader of FakeKernel::events

}  // namespace shunt
