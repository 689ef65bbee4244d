#include <base/address.hpp>
#include <chrono>
#include <control/documents.hpp>
#include <cstring>
#include <ctime>
#include <iterator>

namespace shunt {
namespace {

constexpr const char* kStateNames[] = {"unpaired", "spilled", "fast", "stopped"};
constexpr const char* kModeNames[] = {"off", "on", "draining"};
constexpr const char* kEventNames[] = {"?",         "skipped", "enrolled", "paired",  "left",      "spill",
                                       "latch",     "stopped", "closed",   "verify",  "abandoned", "guard",
                                       "forbidden", "denied",  "punted",   "steered", "listens"};
constexpr const char* kProfileKindNames[] = {"unknown", "good", "one-shot", "one-way", "bulk", "no-peer", "corked"};
static_assert(std::size(kStateNames) == kStateCount);
static_assert(std::size(kEventNames) == kEventKindCount);
static_assert(std::size(kProfileKindNames) == kProfileKindCount);

// The states of TCP as include/net/tcp_states.h counts them.
constexpr const char* kTcpStateNames[] = {"?",          "established", "syn-sent",    "syn-recv",   "fin-wait-1",
                                          "fin-wait-2", "time-wait",   "closed",      "close-wait", "last-ack",
                                          "listen",     "closing",     "new-syn-recv"};

template <size_t N>
const char* name_of(const char* const (&names)[N], uint32_t index) {
  return index < N ? names[index] : "?";
}

uint64_t clock_ns(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

double age_seconds(uint64_t since_ns) {
  const uint64_t now = clock_ns(CLOCK_MONOTONIC);
  return since_ns < now ? static_cast<double>((now - since_ns) / 1'000'000) / 1000 : 0;
}

std::string utc_text(uint64_t seconds_since_1970) {
  const auto seconds = static_cast<time_t>(seconds_since_1970);
  tm parts{};
  if (!gmtime_r(&seconds, &parts)) return "";
  char text[32];
  return std::string(text, strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts));
}

std::string utc_time(uint64_t monotonic_ns) {
  const uint64_t wall_ns = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC) + monotonic_ns;
  char fraction[16];
  snprintf(fraction, sizeof(fraction), ".%06uZ", static_cast<unsigned>(wall_ns / 1000 % 1'000'000));
  return utc_text(wall_ns / 1'000'000'000u) + fraction;
}

}  // namespace

std::string expiry_text(uint64_t seconds_since_1970) {
  return seconds_since_1970 == 0 ? "" : utc_text(seconds_since_1970) + "Z";
}

std::string dump(const Json& document, int indent) {
  return document.dump(indent, ' ', false, Json::error_handler_t::replace);
}

const char* state_name(uint32_t state) { return name_of(kStateNames, state); }
const char* mode_name(uint32_t mode) { return name_of(kModeNames, mode); }
const char* event_name(uint32_t kind) { return name_of(kEventNames, kind); }
const char* profile_kind_name(uint32_t kind) { return name_of(kProfileKindNames, kind); }

std::string program_name(const char (&name)[SH_PROGRAM_NAME_BYTES]) {
  return std::string(name, strnlen(name, sizeof(name)));
}

Counters with_open_sockets(const Counters& counters, const std::vector<Row>& rows) {
  Counters sum = counters;
  for (const Row& row : rows) {
    const sh_sock& sock = row.raw.sock;
    sum.counters[SH_C_FAST_MSGS] += sock.fast_msgs;
    sum.counters[SH_C_FAST_BYTES] += sock.fast_bytes;
    sum.counters[SH_C_TCP_MSGS] += sock.tcp_msgs;
    sum.counters[SH_C_TCP_BYTES] += sock.tcp_bytes;
    sum.counters[SH_C_SPILLS] += sock.spills;
    sum.counters[SH_C_LATCHES] += sock.latches;
  }
  return sum;
}

Json row_document(const Row& row) {
  const sh_sock& sock = row.raw.sock;
  return Json{{"local", format_endpoint(sock.local_addr, sock.local_port)},
              {"remote", format_endpoint(sock.remote_addr, sock.remote_port)},
              {"role", (sock.flags & SH_SOCK_ACTIVE) != 0 ? "active" : "passive"},
              {"state", state_name(sock.state)},
              {"reason", reason_name(sock.reason)},
              {"tcp_state", name_of(kTcpStateNames, row.raw.tail.tcp_state)},
              {"program", program_name(sock.program)},
              {"pid", sock.tgid},
              {"uid", sock.uid},
              {"unit", row.unit},
              {"redirected_bytes", sock.fast_bytes},
              {"redirected_messages", sock.fast_msgs},
              {"tcp_bytes", sock.tcp_bytes},
              {"tcp_messages", sock.tcp_msgs},
              {"spills", sock.spills},
              {"latches", sock.latches},
              {"turns", sock.turns},
              {"receive_queue_bytes", row.raw.tail.rcv_queued_bytes},
              {"cookie", sock.shared.cookie},
              {"peer_cookie", sock.peer_cookie},
              {"netns", sock.netns},
              {"generation", row.generation},
              {"in_map", row.raw.tail.in_map != 0},
              {"age_seconds", age_seconds(sock.since_ns)}};
}

Json event_document(const sh_event& event) {
  Json document{{"time", utc_time(event.time_ns)},
                {"event", event_name(event.kind)},
                {"reason", reason_name(event.reason)},
                {"local", format_endpoint(event.local_addr, event.local_port)},
                {"remote", format_endpoint(event.remote_addr, event.remote_port)},
                {"program", program_name(event.program)},
                {"pid", event.tgid},
                {"cookie", event.cookie},
                {"peer_cookie", event.peer_cookie},
                {"netns", event.netns}};
  if (event.kind == SH_EV_CLOSED) document["redirected_bytes"] = event.bytes;
  return document;
}

Json why_document(const WhyRow& row) {
  return Json{{"local", row.local},
              {"remote", row.remote},
              {"program", row.program},
              {"pid", row.tgid},
              {"enrolled", row.enrolled},
              {"state", row.enrolled ? state_name(row.state) : "tcp"},
              {"reason", reason_name(row.reason)},
              {"text", reason_text(row.reason)},
              {"detail", row.detail}};
}

Json probe_document(const ProbeReport& report) {
  Json items = Json::array();
  for (const ProbeItem& item : report.items) {
    items.push_back({{"name", item.name},
                     {"verdict", probe_verdict_name(item.verdict)},
                     {"found", item.found},
                     {"meaning", item.meaning},
                     {"remedy", item.remedy},
                     {"seconds", item.seconds}});
  }
  return Json{{"usable", report.usable}, {"items", items}};
}

Json drain_document(const DrainReport& report) {
  Json kept = Json::array();
  for (const Row& row : report.kept) kept.push_back(row_document(row));
  return Json{{"sockets_left", report.left},
              {"sockets_kept", report.kept.size()},
              {"sockets_closed", report.closed},
              {"kept", kept}};
}

Json status_document(const Snapshot& snapshot) {
  const Status& status = snapshot.status;
  const Counters sums = with_open_sockets(snapshot.counters, *snapshot.rows);
  Json document{
      {"mode", mode_name(status.mode)},  {"attached", status.attached},         {"attach_points", status.attach_points},
      {"generation", status.generation}, {"generations", status.generations},   {"sockets", status.sockets},
      {"pairs", status.pairs},           {"memory_bytes", status.memory_bytes}, {"verdict", status.verdict}};
  Json counters = Json::object();
#define SHUNT_COUNTER_FIELD(id, name, help) counters[name] = sums.counters[SH_C_##id];
  SH_COUNTERS(SHUNT_COUNTER_FIELD)
#undef SHUNT_COUNTER_FIELD
  document["counters"] = counters;
  Json reasons = Json::array();
  for (uint32_t reason = 1; reason < SH_REASON_COUNT; reason++) {
    if (sums.reasons[reason] == 0) continue;
    reasons.push_back(
        {{"reason", reason_name(reason)}, {"count", sums.reasons[reason]}, {"text", reason_text(reason)}});
  }
  document["reasons"] = reasons;
  document["policy"] = {{"generation", status.policy_generation}};
  uint64_t kinds[kProfileKindCount] = {};
  for (const ProfileRow& row : snapshot.profiles) kinds[row.value.kind < kProfileKindCount ? row.value.kind : 0]++;
  Json profiles = Json::object();
  for (uint32_t kind = 0; kind < kProfileKindCount; kind++) profiles[profile_kind_name(kind)] = kinds[kind];
  document["profiles"] = profiles;
  return document;
}

}  // namespace shunt
