#include <algorithm>
#include <cctype>
#include <control/metrics.hpp>

namespace shunt {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

struct CounterEntry {
  const char* name;
  std::string_view help;
};

constexpr CounterEntry kCounters[] = {
#define SHUNT_COUNTER_ROW(id, name, help) {name, help},
    SH_COUNTERS(SHUNT_COUNTER_ROW)
#undef SHUNT_COUNTER_ROW
};

// The kernel counts some things when a socket closes; what is shown has the open ones added.
std::string shown_help(std::string_view help) {
  constexpr std::string_view kOfClosed = ", of closed sockets";
  if (help.ends_with(kOfClosed)) help.remove_suffix(kOfClosed.size());
  std::string text(help);
  if (!text.empty()) text[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(text[0])));
  return text + ".";
}

MetricFamily mode_family(uint32_t mode) {
  MetricFamily made = metric_family(MetricType::Gauge, "mode", "1 for the mode in force.");
  for (uint32_t candidate : {SH_MODE_OFF, SH_MODE_ON, SH_MODE_DRAIN}) {
    add_sample(made, candidate == mode ? 1 : 0, {{"mode", mode_name(candidate)}});
  }
  return made;
}

MetricFamily profiles_family(const std::vector<ProfileRow>& profiles) {
  uint64_t kinds[kProfileKindCount] = {};
  for (const ProfileRow& row : profiles) kinds[row.value.kind < kProfileKindCount ? row.value.kind : 0]++;
  MetricFamily made = metric_family(MetricType::Gauge, "profiles", "Learned destinations, by what was learned.");
  for (uint32_t kind = 0; kind < kProfileKindCount; kind++) {
    add_sample(made, static_cast<double>(kinds[kind]), {{"kind", profile_kind_name(kind)}});
  }
  return made;
}

MetricFamily states_family(const std::vector<Row>& rows) {
  uint64_t states[kStateCount] = {};
  for (const Row& row : rows) states[row.raw.sock.state < kStateCount ? row.raw.sock.state : 0]++;
  MetricFamily made =
      metric_family(MetricType::Gauge, "socket_states", "Enrolled sockets, by the state of their sending direction.");
  for (uint32_t state = 0; state < kStateCount; state++) {
    add_sample(made, static_cast<double>(states[state]), {{"state", state_name(state)}});
  }
  return made;
}

}  // namespace

uint64_t MetricsSource::monotonic(uint32_t sum, uint64_t value, bool generations_changed) {
  if (generations_changed && value < last_[sum]) gone_[sum] += last_[sum] - value;
  last_[sum] = value;
  shown_[sum] = std::max(shown_[sum], value + gone_[sum]);
  return shown_[sum];
}

std::vector<MetricFamily> MetricsSource::collect(const Snapshot& snapshot, const DaemonNumbers& daemon) {
  const Status& status = snapshot.status;
  const bool changed = generations_ != status.generations;
  generations_ = status.generations;
  const Counters sums = with_open_sockets(snapshot.counters, *snapshot.rows);
  std::vector<MetricFamily> families{build_info_metric(), mode_family(status.mode)};
  const auto gauge = [&](const char* name, const char* help, double value) {
    families.push_back(single_metric(MetricType::Gauge, name, help, value));
  };
  const auto counter = [&](const std::string& name, std::string help, uint64_t value) {
    families.push_back(
        single_metric(MetricType::Counter, name + "_total", std::move(help), static_cast<double>(value)));
  };
  gauge("pairs", "Pairs of enrolled sockets that are the two ends of one connection.", status.pairs);
  gauge("sockets", "Enrolled sockets.", status.sockets);
  gauge("generations", "Generations of the programs that still have sockets.",
        static_cast<double>(status.generations.size()));
  gauge("memory_bytes", "Memory of the maps and programs.", static_cast<double>(status.memory_bytes));
  gauge("attached", "1 if the programs are attached.", status.attached ? 1 : 0);
  for (uint32_t id = 0; id < SH_COUNTER_COUNT; id++) {
    counter(kCounters[id].name, shown_help(kCounters[id].help), monotonic(id, sums.counters[id], changed));
  }
  MetricFamily fallbacks =
      metric_family(MetricType::Counter, "fallbacks_total",
                    "Connections not accelerated, and messages of accelerated ones that went through TCP, by reason.");
  for (uint32_t reason = 1; reason < SH_REASON_COUNT; reason++) {
    const uint64_t value = monotonic(kFirstReason + reason, sums.reasons[reason], changed);
    add_sample(fallbacks, static_cast<double>(value), {{"reason", reason_name(reason)}});
  }
  families.push_back(std::move(fallbacks));
  families.push_back(profiles_family(snapshot.profiles));
  families.push_back(states_family(*snapshot.rows));
  gauge("monitor_clients", "Clients that follow the events.", daemon.monitor_clients);
  counter("monitor_events_lost", "Events not sent to a client of the control socket that read too slowly.",
          daemon.monitor_events_lost);
  counter("config_reloads", "Reloads of the configuration.", daemon.reloads);
  counter("config_reload_failures", "Reloads that left the old configuration in force.", daemon.reloads_failed);
  counter("processes_verified", "Processes inspected at the request of the programs.", daemon.processes_verified);
  return families;
}

}  // namespace shunt
