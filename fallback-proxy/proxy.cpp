#include <signal.h>
#include <systemd/sd-daemon.h>

#include <base/metrics.hpp>
#include <base/privileges.hpp>
#include <base/workers.hpp>
#include <fallback-proxy/metrics.hpp>
#include <fallback-proxy/proxy.hpp>

namespace shunt::proxy {
namespace {

using Workers = std::vector<std::unique_ptr<Worker>>;

std::string one_line(std::string text) {
  while (text.ends_with('\n')) text.pop_back();
  std::replace(text.begin(), text.end(), '\n', ';');
  return text;
}

Result<Workers> start_workers(const std::shared_ptr<const Runtime>& runtime,
                              const std::vector<ListeningSocket>& sockets, AccessLog& access_log, Counters& counters,
                              const PolicyStore& channel_policies) {
  return shunt::start_workers<Worker>(thread_count(runtime->config.threads), [&] {
    return std::make_unique<Worker>(runtime, sockets, access_log, counters, channel_policies);
  });
}

// Each worker gets its share.
void share_out(std::vector<ChannelSockets> channels, const Workers& workers) {
  std::vector<std::vector<ChannelSockets>> shares(workers.size());
  for (size_t i = 0; i < channels.size(); i++) shares[i % workers.size()].push_back(std::move(channels[i]));
  for (size_t i = 0; i < workers.size(); i++) workers[i]->use(std::move(shares[i]));
}

std::unique_ptr<ShuntdLink> link_to_shuntd(const Config& config, PolicyStore& policies, const Workers& workers) {
  if (config.channels.socket.empty()) return nullptr;
  const auto alive = [&workers] {
    return std::all_of(workers.begin(), workers.end(), [](const auto& worker) { return worker->alive(); });
  };
  const auto take = [&workers](std::vector<ChannelSockets> channels) { share_out(std::move(channels), workers); };
  const auto steer = [&workers](const SteeredServers& servers) {
    for (const auto& worker : workers) worker->use(servers);
  };
  return std::make_unique<ShuntdLink>(config.channels, policies, ShuntdLink::Hooks{take, steer, alive});
}

// What is bound to the start of the process must be the same.
void reload(const std::string& file, std::shared_ptr<const Runtime>& runtime, const Workers& workers,
            AccessLog& access_log) {
  access_log.reopen();
  auto fresh = load_runtime(file);
  if (fresh && !same_sources((*fresh)->config, runtime->config))
    fresh =
        unexpected(Error{EINVAL, "the listeners, what they listen on, or metrics.listen changed", "restart the proxy"});
  if (!fresh) return log_failure("cannot reload", fresh.error(), "the old configuration stays in force");
  runtime = *fresh;
  set_up_log(runtime->config.log);
  for (const auto& worker : workers) worker->use(runtime);
  log_info("reloaded", {{"policies", one_line(runtime->policies->summary())}});
}

void wait_for_end(const std::string& file, std::shared_ptr<const Runtime>& runtime, const Workers& workers,
                  AccessLog& access_log) {
  const sigset_t wanted = service_signals();
  for (;;) {
    int signal = 0;
    if (sigwait(&wanted, &signal) != 0 || signal != SIGHUP) return;
    sd_notify(0, "RELOADING=1");
    reload(file, runtime, workers, access_log);
    sd_notify(0, "READY=1");
  }
}

}  // namespace

Result<std::shared_ptr<const Runtime>> load_runtime(const std::string& config_file) {
  ConfigOutcome outcome = load_config(config_file);
  std::string problems;
  for (const Problem& problem : outcome.problems) problems += (problems.empty() ? "" : "\n") + problem.to_string();
  if (!problems.empty()) return unexpected(Error{EINVAL, problems, {}});
  auto runtime = std::make_shared<Runtime>();
  runtime->config = std::move(outcome.config);
  auto policies = Policies::load(runtime->config);
  if (!policies) return unexpected(policies.error());
  runtime->policies = std::move(*policies);
  for (const Listener& listener : runtime->config.listeners) {
    std::vector<HeaderRules>& rules = runtime->headers.emplace_back();
    rules.push_back(listener.headers);
    for (const Route& route : listener.routes) rules.push_back(merged(listener.headers, route.headers));
  }
  return std::shared_ptr<const Runtime>(std::move(runtime));
}

Result<void> run_proxy(const std::string& config_file) {
  auto loaded = load_runtime(config_file);
  if (!loaded) return unexpected(loaded.error());
  std::shared_ptr<const Runtime> runtime = *loaded;
  set_up_log(runtime->config.log);
  raise_descriptor_limit();
  auto sockets = open_sources(runtime->config);
  if (!sockets) return unexpected(sockets.error());
  // Threads inherit what is given up here, so none runs yet.
  const auto dropped = drop_privileges(runtime->config.user);
  if (!dropped) return dropped;
  const sigset_t blocked = service_signals();
  pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
  AccessLog access_log;
  const auto opened = access_log.open(runtime->config.access_log);
  if (!opened) return opened;
  Counters counters;
  PolicyStore channel_policies;
  auto workers = start_workers(runtime, *sockets, access_log, counters, channel_policies);
  if (!workers) return unexpected(workers.error());
  const auto link = link_to_shuntd(runtime->config, channel_policies, *workers);
  if (link)
    if (auto linked = link->start(); !linked) return linked;
  MetricsThread metrics([&] { return metrics_text(proxy_metrics(counters, access_log.lost())); });
  if (const std::string& address = runtime->config.metrics_listen; !address.empty())
    if (auto serving = metrics.start(address); !serving)
      log_failure("no metrics", serving.error(), "everything else goes on");
  log_info("ready",
           {{"threads", std::to_string(workers->size())}, {"policies", one_line(runtime->policies->summary())}});
  sd_notify(0, "READY=1");
  wait_for_end(config_file, runtime, *workers, access_log);
  sd_notify(0, "STOPPING=1");
  log_info("stopping", {{"connections", std::to_string(counters.connections)}});
  if (link) link->stop();
  for (const auto& worker : *workers) worker->stop();
  // A number of a closed socket could come to stand for another one.
  const auto accepts = [](const auto& worker) { return worker->accepts(); };
  while (std::any_of(workers->begin(), workers->end(), accepts)) std::this_thread::sleep_for(Milliseconds(10));
  sockets->clear();
  for (const auto& worker : *workers) worker->join();
  log_info("stopped",
           {{"turned_away", std::to_string(counters.overload)}, {"log_lines_lost", std::to_string(access_log.lost())}});
  return {};
}

}  // namespace shunt::proxy
