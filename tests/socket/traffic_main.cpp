// shunt-traffic: the traffic checker as a program. Exit code 1 if any connection went wrong.
#include <fmt/format.h>
#include <signal.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "socket/traffic.hpp"
#include "support/sandbox.hpp"

namespace {

using shunt::test::Fault;
using shunt::test::TrafficConfig;
using shunt::test::TrafficProgress;
using shunt::test::TrafficReport;

void print_json(const TrafficReport& report, int indent) {
  const nlohmann::json json = {{"connections", report.connections},
                               {"bytes", report.bytes},
                               {"errors", report.errors},
                               {"stalled", report.stalled},
                               {"kinds", report.kinds},
                               {"messages", report.messages},
                               {"seconds", report.seconds},
                               {"early_wakeups", report.early_wakeups},
                               {"longest_round_seconds", report.longest_round_seconds}};
  fmt::print("{}\n", json.dump(indent));
}

// One line, so that whoever follows the output can read it while it grows.
void print_progress(const TrafficProgress& progress) {
  const nlohmann::json json = {{"progress",
                                {{"connections", progress.connections},
                                 {"live_bytes", progress.live_bytes},
                                 {"live_open", progress.live_open},
                                 {"live_port", progress.live_port},
                                 {"errors", progress.errors},
                                 {"live_received", progress.live_received}}}};
  fmt::print("{}\n", json.dump());
  std::fflush(stdout);
}

void print_text(const TrafficReport& report) {
  fmt::print("{} connections, {} MB checked, {} errors ({} stalled), {:.1f} s\n", report.connections,
             report.bytes / 1000000, report.errors, report.stalled, report.seconds);
  fmt::print("longest time in which a thread of the checker did not look: {:.1f} s (counts for no stall)\n",
             report.longest_round_seconds);
  for (const auto& [kind, count] : report.kinds) fmt::print("  {:13} {}\n", kind, count);
  for (const auto& message : report.messages) fmt::print("{}\n", message);
}

void raise_descriptor_limit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Checks TCP connections on this host byte by byte, in all the ways in which programs use them"};
  TrafficConfig config;
  std::string output = "text", cgroup;
  int64_t stall_seconds = 20, sleep_seconds = 0;
  bool progress = false;
  app.add_option("--connections", config.connections, "how many in all")->capture_default_str();
  app.add_option("--at-once", config.at_once, "how many at the same time")->capture_default_str();
  app.add_option("--threads", config.threads)->capture_default_str();
  app.add_option("--processes", config.processes)->capture_default_str();
  app.add_option("--per-second", config.connections_per_second, "at most so many new ones a second; 0: no limit");
  app.add_option("--live", config.live, "further connections that live from the beginning to the end");
  app.add_option("--live-rate", config.live_bytes_per_second, "bytes a second of all live ones; 0: no limit");
  app.add_flag("--until-told", config.until_told, "go on until SIGTERM, whatever --connections says");
  app.add_flag("--progress", progress, "with -o json: a line ten times a second, the report in the last one");
  app.add_option("--seed", config.seed)->capture_default_str();
  app.add_option("--stream-bytes-max", config.stream_bytes_max)->capture_default_str();
  app.add_option("--process-share", config.process_share_percent,
                 "percent of connections with kills, forks, passed descriptors")
      ->capture_default_str();
  app.add_option("--stall-seconds", stall_seconds, "without progress for so long: stalled")->capture_default_str();
  app.add_option("--cgroup", cgroup, "folder of a cgroup to enter first");
  app.add_option("-o", output, "text or json")->check(CLI::IsMember({"text", "json"}))->capture_default_str();
  const std::map<std::string, Fault> faults = {
      {"none", Fault::none},   {"drop", Fault::drop},         {"swap", Fault::swap},     {"flip", Fault::flip},
      {"stall", Fault::stall}, {"truncate", Fault::truncate}, {"vanish", Fault::vanish}, {"deaf", Fault::deaf}};
  app.add_option("--self-break", config.fault, "make ends do wrong, to see that it is noticed")
      ->transform(CLI::CheckedTransformer(faults));
  app.add_option("--self-sleep", sleep_seconds, "one thread sleeps so long once, to see that this is no stall");
  CLI11_PARSE(app, argc, argv);

  config.stall_limit = std::chrono::seconds(stall_seconds);
  config.sleep_once = std::chrono::seconds(sleep_seconds);
  if (progress) config.on_progress = print_progress;
  signal(SIGPIPE, SIG_IGN);
  raise_descriptor_limit();
  if (!cgroup.empty()) shunt::test::require(shunt::test::write_text(cgroup + "/cgroup.procs", "0"), "enter " + cgroup);
  const TrafficReport report = shunt::test::run_traffic(config);
  output == "json" ? print_json(report, progress ? -1 : 2) : print_text(report);
  return report.errors == 0 ? 0 : 1;
}
