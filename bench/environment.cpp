#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <bench/cells.hpp>
#include <bench/cost.hpp>
#include <bench/environment.hpp>
#include <bench/pattern.hpp>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

namespace shunt::bench {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string cpuinfo(const std::string& field) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(field, 0) != 0) continue;
    size_t colon = line.find(": ");
    return colon == std::string::npos ? std::string() : line.substr(colon + 2);
  }
  return {};
}

Json mitigations() {
  Json all = Json::object();
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/devices/system/cpu/vulnerabilities", none)) {
    std::string state = first_line(entry.path());
    if (state != "Not affected") all[entry.path().filename()] = state;
  }
  return all;
}

// How much of a stream's time is the hash: bytes per second of hashing alone.
double hash_bytes_per_s() {
  constexpr uint64_t kBytes = 256u << 20;
  Pattern pattern(Pattern::kPeriodBytes);
  auto start = std::chrono::steady_clock::now();
  volatile uint64_t hash = pattern_hash(pattern, kBytes);
  (void)hash;
  return double(kBytes) / std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The least that a message costs on this machine, whatever the transport: best of five, so that neighbours do not
// count.
double syscall_ns() {
  constexpr int kCalls = 100000;
  double best = std::numeric_limits<double>::max();
  for (int attempt = 0; attempt < 5; attempt++) {
    auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kCalls; i++) syscall(SYS_getppid);
    best = std::min(best, std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count());
  }
  return best / kCalls;
}

std::string now_utc() {
  time_t now = time(nullptr);
  tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

}  // namespace

Json describe_environment() {
  utsname system{};
  uname(&system);
  Json all;
  all["time"] = now_utc();
  all["shunt"] = SHUNT_VERSION;
  all["kernel"] = std::string(system.release) + " " + system.version;
  all["architecture"] = system.machine;
  all["cpu"] = cpuinfo("model name");
  all["hypervisor"] = cpuinfo("flags").find(" hypervisor") != std::string::npos;
  all["emulator"] = emulator_name();
  all["cores"] = sysconf(_SC_NPROCESSORS_ONLN);
  all["usable_cpus"] = usable_cpus().size();
  std::string governor = first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
  all["governor"] = governor.empty() ? "unknown" : governor;
  all["command_line_mitigations"] =
      first_line("/proc/cmdline").find("mitigations=off") != std::string::npos ? "off" : "default";
  all["mitigations"] = mitigations();
  all["load_average"] = first_line("/proc/loadavg");
  std::istringstream memory(first_line("/proc/meminfo"));
  std::string label;
  uint64_t kib = 0;
  memory >> label >> kib;
  all["memory_bytes"] = kib * 1024;
  all["congestion_control"] = first_line("/proc/sys/net/ipv4/tcp_congestion_control");
  all["syscall_ns"] = syscall_ns();
  all["hash_bytes_per_s"] = hash_bytes_per_s();
  return all;
}

}  // namespace shunt::bench
