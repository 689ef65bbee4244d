#include <fmt/format.h>

#include <bench/servers.hpp>
#include <chrono>
#include <sstream>
#include <thread>

namespace shunt::bench {
namespace {

constexpr double kReadySeconds = 20;

}  // namespace

Command in_context(const StackContext& context, std::vector<std::string> argv, int netns_fd) {
  Command command;
  command.argv = std::move(argv);
  command.cgroup_procs = context.cgroup_procs;
  command.cpu = context.cpu;
  command.netns_fd = netns_fd;
  return command;
}

Result<void> start_server(RunningStack* stack, Command command, const std::string& log) {
  command.output = log;
  Result<Process> server = Process::start(command);
  if (!server) return unexpected(server.error());
  stack->servers.push_back(std::move(*server));
  return {};
}

Result<void> wait_ready(RunningStack* stack, const std::function<bool()>& ready, const std::string& log) {
  auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(kReadySeconds);
  while (std::chrono::steady_clock::now() < deadline && !interrupted()) {
    for (Process& server : stack->servers) {
      if (!server.running()) return unexpected(Error{EIO, "a server ended: " + read_file(log), {}});
    }
    if (ready()) return {};
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return unexpected(Error{ETIMEDOUT, "the servers did not become ready: " + read_file(log), {}});
}

Result<void> run_all(const std::vector<std::string>& lines, int netns_fd) {
  for (const std::string& line : lines) {
    Command command;
    command.netns_fd = netns_fd;
    std::istringstream words(line);
    for (std::string word; words >> word;) command.argv.push_back(word);
    if (auto ran = run_command(command, 20); !ran) return unexpected(ran.error());
  }
  return {};
}

Result<void> make_two_hosts(RunningStack* stack) {
  for (int i = 0; i < 2; i++) {
    Result<UniqueFd> netns = make_netns();
    if (!netns) return unexpected(netns.error());
    stack->namespaces.push_back(std::move(*netns));
  }
  int client = stack->namespaces[0].get(), server = stack->namespaces[1].get();
  std::string server_path = fmt::format("/proc/{}/fd/{}", getpid(), server);
  auto made = run_all({"ip link add eth0 type veth peer name eth0 netns " + server_path,
                       fmt::format("ip addr add {}/24 dev eth0", kClientHost), "ip link set eth0 up"},
                      client);
  if (!made) return made;
  return run_all({fmt::format("ip addr add {}/24 dev eth0", kServerHost), "ip link set eth0 up"}, server);
}

}  // namespace shunt::bench
