#include "support/accelerated.hpp"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <fmt/format.h>

#include <filesystem>
#include <sockops/pins.hpp>

namespace shunt::test {

namespace {

constexpr auto kDrainLimit = std::chrono::seconds(10);
constexpr int kTurnsToLatch = 200;

template <typename T>
T must(Result<T> result, const char* what) {
  if (!result) {
    fmt::print(stderr, "{}: {}\n", what, result.error().to_string());
    errno = result.error().code;
    die(what);
  }
  return std::move(*result);
}

void must(const Result<void>& result, const char* what) {
  if (!result) {
    fmt::print(stderr, "{}: {}\n", what, result.error().to_string());
    errno = result.error().code;
    die(what);
  }
}

}  // namespace

Settings plain_settings() {
  Settings settings;
  settings.any_program = true;
  settings.profile = false;
  settings.firewall_interval = std::chrono::milliseconds(0);
  return settings;
}

const ProbeReport& host_probe() {
  static const ProbeReport report = probe_kernel();
  return report;
}

Accelerated::Accelerated(Settings settings, Guard guard, const ProbeReport& probe)
    : settings_(std::move(settings)), guard_(guard), probe_(probe) {
  settings_.selection.cgroups.include = {cgroup_.name()};
  paths_.bpffs = "/sys/fs/bpf";
  paths_.pin_dir = "/sys/fs/bpf/shunt";
  paths_.cgroup_root = Cgroup::mount_point();
  open_engine();
}

Accelerated::~Accelerated() {
  engine_.reset();
  const Result<DrainReport> drained = drain_pinned(paths_, kDrainLimit, false);
  if (!drained) ADD_FAILURE() << "drain_pinned: " << drained.error().to_string();
}

void Accelerated::open_engine() {
  engine_ = must(Engine::open(paths_, probe_, settings_), "open the engine");
  must(engine_->attach(), "attach the engine");
  if (guard_ == Guard::at_once) must(engine_->guard(cgroup_.name()), "watch over the cgroup");
}

void Accelerated::apply(Settings settings) {
  settings.selection.cgroups.include = {cgroup_.name()};
  must(engine_->apply(settings), "apply settings");
  settings_ = std::move(settings);
}

std::vector<Row> Accelerated::rows() {
  return must(engine_ ? engine_->list() : pinned_list(paths_), "list the sockets");
}

std::optional<Row> Accelerated::row(int fd) {
  const uint64_t cookie = socket_cookie(fd);
  for (const Row& candidate : rows()) {
    if (candidate.raw.sock.shared.cookie == cookie) return candidate;
  }
  return std::nullopt;
}

bool Accelerated::is_in_map(int fd) {
  const auto found = row(fd);
  return found && found->raw.tail.in_map;
}

size_t Accelerated::entries(const std::string& map) {
  const UniqueFd fd = must(open_map(paths_, generations(paths_).back(), map), "open a map");
  bpf_map_info info{};
  uint32_t bytes = sizeof(info);
  require(bpf_obj_get_info_by_fd(fd.get(), &info, &bytes) == 0, "look at a map");
  std::vector<char> key(info.key_size), next(info.key_size);
  size_t count = 0;
  for (int more = bpf_map_get_next_key(fd.get(), nullptr, next.data()); more == 0 && count < info.max_entries;
       ++count) {
    key = next;
    more = bpf_map_get_next_key(fd.get(), key.data(), next.data());
  }
  return count;
}

uint64_t Accelerated::counter(sh_counter which) {
  return must(engine_ ? engine_->counters() : pinned_counters(paths_), "read the counters").counters[which];
}

uint64_t Accelerated::reason_count(sh_reason which) {
  return must(engine_ ? engine_->counters() : pinned_counters(paths_), "read the counters").reasons[which];
}

size_t Accelerated::guard_pins() {
  size_t count = 0;
  std::error_code none;
  for (auto it = std::filesystem::recursive_directory_iterator(paths_.pin_dir, none);
       !none && it != std::filesystem::recursive_directory_iterator(); ++it) {
    count += it->path().filename().string().starts_with("guard-");
  }
  return count;
}

std::string Accelerated::summary() {
  static constexpr const char* kNames[] = {
#define SH_COUNTER_NAME(id, name, help) name,
      SH_COUNTERS(SH_COUNTER_NAME)
#undef SH_COUNTER_NAME
  };
  const Counters counters = must(engine_ ? engine_->counters() : pinned_counters(paths_), "read the counters");
  std::string text;
  for (int i = 0; i < SH_COUNTER_COUNT; ++i) {
    if (counters.counters[i] > 0) text += fmt::format("{} {}, ", kNames[i], counters.counters[i]);
  }
  text += "reasons:";
  for (uint32_t i = 0; i < SH_REASON_COUNT; ++i) {
    if (counters.reasons[i] > 0) text += fmt::format(" {} {}", reason_name(i), counters.reasons[i]);
  }
  return text;
}

bool Accelerated::is_fast(const Connection& connection) {
  for (const int fd : {connection.client.get(), connection.server.get()}) {
    const auto found = row(fd);
    if (!found || found->raw.sock.state != SH_STATE_FAST || found->raw.sock.fast_bytes == 0) return false;
  }
  return true;
}

bool Accelerated::make_fast(const Connection& connection) {
  for (int turn = 0; turn < kTurnsToLatch; turn += 10) {
    if (!ping_pong(connection, 10)) return false;
    if (is_fast(connection)) return true;
  }
  return false;
}

uint32_t programs_attached(const Cgroup& cgroup, bpf_attach_type type) {
  const UniqueFd fd(open(cgroup.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  uint32_t ids[64], flags = 0, found = 64;
  return bpf_prog_query(fd.get(), type, 0, &flags, ids, &found) == 0 ? found : 0;
}

uint32_t programs_attached(const Cgroup& cgroup) {
  uint32_t count = 0;
  for (const bpf_attach_type type : {BPF_CGROUP_SOCK_OPS, BPF_CGROUP_SETSOCKOPT, BPF_CGROUP_GETSOCKOPT}) {
    count += programs_attached(cgroup, type);
  }
  return count;
}

std::string own_program() {
  const std::string name = std::filesystem::read_symlink("/proc/self/exe").filename();
  return name.substr(0, SH_PROGRAM_NAME_BYTES - 1);
}

std::string describe(const std::optional<Row>& row) {
  if (!row) return "not enrolled";
  const sh_sock& sock = row->raw.sock;
  const sh_row_tail& tail = row->raw.tail;
  return fmt::format(
      "{} -> {}: state {} reason {} flags {:#x} fast {} messages {} bytes, tcp {} messages {} bytes, spills {}, "
      "latches {}, "
      "TCP state {}, queued {}, psock queue {}, in map {}, psock users {}",
      sock.local_port, sock.remote_port, sock.state, reason_name(sock.reason), sock.flags, sock.fast_msgs,
      sock.fast_bytes, sock.tcp_msgs, sock.tcp_bytes, sock.spills, sock.latches, tail.tcp_state, tail.rcv_queued_bytes,
      tail.psock_queued, tail.in_map, tail.psock_users);
}

std::string describe(const std::vector<Row>& rows) {
  std::string text = fmt::format("{} sockets", rows.size());
  for (const Row& row : rows) text += "\n  " + describe(std::optional(row));
  return text;
}

}  // namespace shunt::test
