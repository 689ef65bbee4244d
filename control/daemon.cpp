#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <algorithm>
#include <base/log.hpp>
#include <base/mounts.hpp>
#include <base/workers.hpp>
#include <control/client.hpp>
#include <control/daemon.hpp>
#include <control/kept_policy.hpp>
#include <control/policy_trace.hpp>
#include <csignal>
#include <fstream>
#include <utility>

namespace shunt {
namespace {

constexpr auto kSnapshotAgeMax = std::chrono::milliseconds(500);
constexpr auto kOtherStarts = std::chrono::seconds(30);
constexpr int kNiceLast = 19;
constexpr mode_t kSocketMode = 0666;  // everybody may read; SO_PEERCRED says who may do more

std::string joined(const std::vector<ConfigProblem>& problems) {
  std::string text;
  for (const ConfigProblem& problem : problems) text += (text.empty() ? "" : "\n") + problem.to_string();
  return text;
}

// What the operator must repair before the kernel can be used.
Error unusable_kernel(const ProbeReport& report) {
  Error error{ENOTSUP, "this kernel cannot run the shortcut", {}};
  for (const ProbeItem& item : report.items) {
    if (item.verdict != ProbeVerdict::fatal) continue;
    error.message += "; " + item.name + ": " + item.found;
    error.remedy += (error.remedy.empty() ? "" : "; ") + item.remedy;
  }
  return error;
}

// The self-test makes its cgroup below the daemon's own, which the unit delegates to it: the folder of the root may be
// written with CAP_DAC_OVERRIDE only. Empty: the self-test finds a place itself.
std::string self_test_cgroup(const std::string& configured_root) {
  const std::string root = configured_root.empty() ? find_mount("cgroup2") : configured_root;
  std::ifstream own("/proc/self/cgroup");
  for (std::string line; std::getline(own, line);) {
    if (line.starts_with("0::/") && access((root + line.substr(3)).c_str(), W_OK) == 0) return root + line.substr(3);
  }
  return configured_root;
}

// Of a thread: it has news for the loop.
void wake(const UniqueFd& event) {
  const uint64_t one = 1;
  if (::write(event.get(), &one, sizeof(one)) < 0) return;  // the counter is full: the loop is woken anyway
}

Result<void> keep(const std::string& file, const PolicyState::Prepared& in_force) {
  return in_force.any() ? keep_policy(file, in_force.bundle.get()) : forget_policy(file);
}

void keep_failed(const Result<void>& kept) {
  if (!kept) log_failure("cannot keep the policy", kept.error(), "the next boot does without it");
}

StartFailure failed(const Error& error) {
  return {error.code == EPERM || error.code == EACCES ? ExitCode::permission : ExitCode::error, error};
}

}  // namespace

Daemon::~Daemon() {
  if (reload_ && reload_->thread.joinable()) reload_->thread.join();
  if (drain_ && drain_->thread.joinable()) drain_->thread.join();
  if (sweep_ && sweep_->thread.joinable()) sweep_->thread.join();
  if (tidying_ && tidying_->thread.joinable()) tidying_->thread.join();
}

std::optional<StartFailure> Daemon::start() {
  if (auto failure = load_first_config()) return failure;
  if (geteuid() != 0)
    return StartFailure{ExitCode::permission,
                        Error{EPERM, "shuntd needs root", "start it with systemctl start shuntd"}};
  auto lock = RunLock::acquire(config_.daemon.socket);
  if (!lock && options_.load_only && lock.error().code == EBUSY) return wait_for_other(lock.error());
  if (!lock) return failed(lock.error());
  lock_ = std::move(*lock);
  auto loop = EventLoop::create();
  if (!loop) return failed(loop.error());
  loop_ = std::move(*loop);
  auto watched = watch_signals();
  if (!watched) return failed(watched.error());
  if (auto failure = open_engine()) return failure;
  if (options_.load_only) {
    if (to_keep_) keep_failed(keep(config_.daemon.kept_policy(), *to_keep_));
    return std::nullopt;
  }
  if (auto failure = open_sockets()) return failure;
  sd_notify(0, "READY=1");
  notify_status();
  return std::nullopt;
}

// The daemon that runs has put all in force when it answers, or it would not have started.
std::optional<StartFailure> Daemon::wait_for_other(const Error& busy) const {
  const auto end = std::chrono::steady_clock::now() + kOtherStarts;
  while (std::chrono::steady_clock::now() < end) {
    auto client = ControlClient::connect(config_.daemon.socket);
    if (client && client->request({.command = Command::status}).exit == ExitCode::ok) {
      log_info("shuntd runs, and answers for the policy");
      return std::nullopt;
    }
    std::this_thread::sleep_for(kSnapshotAgeMax);
  }
  return failed(busy);
}

std::optional<StartFailure> Daemon::load_first_config() {
  ConfigOutcome outcome = load_config(options_.config_file, options_.config_required);
  set_up_log(outcome.config.daemon.log);
  if (!outcome.ok())
    return StartFailure{ExitCode::usage, Error{EINVAL, joined(outcome.problems), "shunt config validate"}};
  config_ = std::move(outcome.config);
  auto gateway = read_gateway(config_.gateway);
  if (!gateway) return StartFailure{ExitCode::usage, gateway.error()};
  gateway_ = std::move(*gateway);
  if (config_.files.empty())
    log_info("no configuration file: the defaults are in force", {{"file", options_.config_file}});
  return std::nullopt;
}

std::optional<StartFailure> Daemon::open_engine() {
  probe_ = probe_kernel(self_test_cgroup(config_.paths.cgroup_root));
  for (const ProbeItem& item : probe_.items) {
    if (item.verdict == ProbeVerdict::ok) continue;
    log_line(item.verdict == ProbeVerdict::missing ? LogLevel::warning : LogLevel::info, "kernel",
             {{"probe", item.name},
              {"verdict", probe_verdict_name(item.verdict)},
              {"found", item.found},
              {"meaning", item.meaning}});
  }
  if (!probe_.usable) return StartFailure{ExitCode::kernel_unusable, unusable_kernel(probe_)};
  const auto before = pinned_status(config_.paths);
  auto engine = Engine::open(config_.paths, probe_, config_.settings);
  if (!engine) return failed(engine.error());
  engine_ = std::move(*engine);
  // Before anything is attached: no connection may pass by a service that is known.
  if (auto set = put_gateway(gateway_); !set) return failed(set.error());
  if (auto failure = load_first_policy()) {
    engine_.reset();
    // What this start pinned is of use to nobody.
    if (before && before->generations.empty())
      (void)drain_pinned(config_.paths, std::chrono::milliseconds(0), false, [](uint32_t) {});
    return failure;
  }
  if (turned_off(config_.daemon.socket)) {
    log_warning("turned off by 'shunt off' before this start: nothing is accelerated", {{"remedy", "shunt on"}});
    return std::nullopt;
  }
  auto accelerated = accelerate();
  if (!accelerated) return failed(accelerated.error());
  return std::nullopt;
}

Result<void> Daemon::put_gateway(const Gateway& gateway) {
  auto set = engine_->set_outbound(gateway.outbound);
  return set ? engine_->set_local_services(gateway.services) : set;
}

void Daemon::keep_strict() {
  if (draining()) return;
  StrictReport report = engine_->keep_strict();
  if (report.error && (!strict_.error || report.error->to_string() != strict_.error->to_string()))
    log_failure("plaintext to strict services is not refused everywhere", *report.error, "it is tried again");
  if (report.nowhere != strict_.nowhere)
    for (const std::string& name : report.nowhere)
      log_warning("a strict service has an address that no one network namespace of this host has",
                  {{"service", name}, {"remedy", "nothing is refused for it until its server is there"}});
  strict_ = std::move(report);
}

// At boot documents that were spoilt since they were put in force are no reason to have no policy, nor no network.
Result<std::shared_ptr<const PolicyState::Prepared>> Daemon::prepare_first_policy() {
  auto prepared = policy_.prepare(config_.policy);
  if (prepared || !options_.load_only || engine_->policy().generation != 0) return prepared;
  auto sources = kept_policy(config_.daemon.kept_policy());
  if (!sources) return prepared;
  auto kept = policy_.prepare(std::move(*sources));
  if (!kept) return prepared;
  log_failure("the documents of the policy have errors", prepared.error(), "those that were in force last are, again");
  return kept;
}

// Before anything is attached: where the programs are new, they know the policy before they judge. Documents with
// errors leave what an earlier daemon put in force; where nothing is in force, a start would pass for protection.
std::optional<StartFailure> Daemon::load_first_policy() {
  auto prepared = prepare_first_policy();
  Result<void> put;
  if (prepared)
    waiting_ = std::move(*prepared);
  else
    put = unexpected(prepared.error());
  if (put && !turned_off(config_.daemon.socket)) put = put_policy(waiting_);
  if (put) return std::nullopt;
  policy_error_ = put.error().to_string();
  log_failure("the policy cannot be put in force", put.error(), "what was in force before stays in force");
  if (engine_->policy().generation != 0) return std::nullopt;
  Error error = put.error();
  if (error.remedy.empty()) error.remedy = "repair the documents in " + config_.policy.directory;
  return StartFailure{ExitCode::usage, error};
}

Result<void> Daemon::put_policy(std::shared_ptr<const PolicyState::Prepared> prepared) {
  auto set = engine_->set_policy(prepared->any() ? &prepared->rows : nullptr, config_.policy.existing);
  if (!set) return set;
  const PolicyReport report = engine_->policy();
  to_keep_ = prepared;
  take_responses();
  retired_.push_back(policy_.in_force());
  retired_.push_back(request_metrics_.policy_changed(report.generation, prepared, config_.settings.tell_responses));
  if (config_.settings.tell_responses) engine_->forget_responses(request_metrics_.oldest());
  policy_.put_in_force(std::move(prepared), report.generation);
  policy_error_.clear();
  if (proxy_link_) proxy_link_->policy_changed();
  if (report.generation != 0)
    log_info("policy in force", {{"generation", std::to_string(report.generation)},
                                 {"workloads", std::to_string(report.workloads.size())},
                                 {"entries", std::to_string(report.entries)},
                                 {"sets", std::to_string(report.sets)}});
  if (sweep_signal_) begin_sweep();
  return {};
}

void Daemon::take_responses() {
  if (!config_.settings.tell_responses) return;
  const auto rows = engine_->responses();
  if (rows)
    request_metrics_.take(*rows);
  else
    log_failure("metrics of requests are late", rows.error(), "the next reading follows");
}

void Daemon::begin_sweep() {
  sweep_again_ = sweep_ != nullptr;
  if (sweep_) return;
  sweep_ = std::make_unique<Sweep>();
  sweep_->thread = std::thread([this, sweep = sweep_.get()] {
    sweep->report.emplace(sweep_connections(*engine_));
    sweep->done = true;
    wake(sweep_signal_);
  });
}

void Daemon::begin_tidying() {
  if (tidying_ || (!to_keep_ && retired_.empty())) return;
  tidying_ = std::make_unique<Tidying>();
  tidying_->thread =
      std::thread([this, tidying = tidying_.get(), file = config_.daemon.kept_policy(),
                   to_keep = std::exchange(to_keep_, nullptr), retired = std::exchange(retired_, {})]() mutable {
        setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNiceLast);  // of this thread alone
        if (to_keep) tidying->kept = keep(file, *to_keep);
        retired.clear();
        tidying->done = true;
        wake(tidying_signal_);
      });
}

void Daemon::on_tidying_signal() {
  uint64_t count = 0;
  if (::read(tidying_signal_.get(), &count, sizeof(count)) != sizeof(count) || !tidying_ || !tidying_->done) return;
  end_tidying();
  begin_tidying();
}

void Daemon::end_tidying() {
  tidying_->thread.join();
  keep_failed(std::exchange(tidying_, nullptr)->kept);
}

void Daemon::on_sweep_signal() {
  uint64_t count = 0;
  if (::read(sweep_signal_.get(), &count, sizeof(count)) != sizeof(count) || !sweep_ || !sweep_->done) return;
  sweep_->thread.join();
  const std::unique_ptr<Sweep> sweep = std::move(sweep_);
  const Result<SweepReport>& report = *sweep->report;
  if (!report)
    log_failure("cannot end all live connections that the policy forbids", report.error(),
                "each of them ends when something is sent on it");
  else if (report->ended > 0)
    log_info("ended live connections that the policy forbids",
             {{"ended", std::to_string(report->ended)}, {"looked_at", std::to_string(report->looked_at)}});
  begin_tidying();
  if (std::exchange(sweep_again_, false) && !draining()) begin_sweep();
}

void Daemon::on_policy_settled() {
  uint64_t count = 0;
  if (::read(engine_->policy_settled_fd(), &count, sizeof(count)) == sizeof(count) && !draining()) refresh_policy();
}

void Daemon::refresh_policy() {
  auto refreshed = engine_->refresh_policy();
  const std::string error = refreshed ? "" : refreshed.error().to_string();
  if (!refreshed && error != workloads_error_)
    log_failure("cannot look for workloads", refreshed.error(), "those that are known stay as they are");
  workloads_error_ = error;
  if (refreshed && *refreshed) begin_sweep();
}

Result<Json> Daemon::policy() {
  if (draining()) return unexpected(Error{EBUSY, "shunt is draining", "no policy is in force any more"});
  const PolicyReport report = engine_->policy();
  Json document = policy_.document(report, config_.policy);
  if (report.generation != 0) policy_.add_hits(engine_->policy_hits(), document);
  document["error"] = policy_error_.empty() ? workloads_error_ : policy_error_;
  return document;
}

Result<Json> Daemon::trace(const TraceQuery& query) {
  if (draining()) return unexpected(Error{EBUSY, "shunt is draining", "no policy is in force any more"});
  return trace_policy(*engine_, policy_, query);
}

Result<void> Daemon::accelerate() {
  auto attached = engine_->attach();
  if (!attached) return attached;
  auto scanned = engine_->scan_sockets();
  if (!scanned)
    log_failure("cannot find the listeners that are older than shunt", scanned.error(),
                "connections to them stay on TCP");
  const auto status = engine_->status();
  if (!status) return unexpected(status.error());
  std::string points;
  for (const std::string& point : status->attach_points) points += (points.empty() ? "" : ",") + point;
  log_info("attached", {{"cgroups", points},
                        {"generation", std::to_string(status->generation)},
                        {"pairs", std::to_string(status->pairs)}});
  return {};
}

std::optional<StartFailure> Daemon::open_sockets() {
  ControlBackend& backend = *this;
  control_ = std::make_unique<ControlServer>(*loop_, backend);
  auto socket = listen_unix(config_.daemon.socket, kSocketMode);
  if (!socket) return failed(socket.error());
  auto listening = control_->listen(std::move(*socket));
  if (!listening) return failed(listening.error());
  metrics_server_ = std::make_unique<MetricsServer>(*loop_, [this]() -> Result<std::string> {
    const auto current = snapshot();
    if (!current) return unexpected(current.error());
    numbers_.monitor_clients = static_cast<uint32_t>(control_->monitors());
    numbers_.monitor_events_lost = control_->events_lost();
    auto families = metrics_.collect(**current, numbers_);
    if (config_.settings.tell_responses && !draining()) {
      take_responses();
      for (auto& family : request_metrics_.families()) families.push_back(std::move(family));
    }
    return metrics_text(families);
  });
  auto metrics = listen_for_metrics();
  if (!metrics) log_failure("no metrics", metrics.error(), "everything else goes on");
  for (auto watched : {watch_engine(), watch_time(), listen_for_proxy(), listen_for_gateway()}) {
    if (!watched) return failed(watched.error());
  }
  begin_sweep();
  return std::nullopt;
}

Result<void> Daemon::listen_for_proxy() {
  proxy_link_ = std::make_unique<ProxyLink>(
      *loop_, ProxyLink::Hooks{[this] { return draining() ? nullptr : engine_.get(); },
                               [this] {
                                 return ProxyLink::Policy{engine_->policy().generation, policy_.bundle()};
                               }});
  return proxy_link_->listen(proxy_socket_path(config_.daemon.socket), config_.daemon.proxy_user);
}

Result<void> Daemon::listen_for_gateway() {
  gateway_link_ = std::make_unique<GatewayLink>(
      *loop_,
      GatewayLink::Hooks{[this] { return draining() ? nullptr : engine_.get(); }, [this] { return gateway_.user; }});
  return gateway_link_->listen(gateway_socket_path(config_.daemon.socket));
}

Result<void> Daemon::listen_for_metrics() {
  metrics_server_->close_listener();
  if (config_.daemon.metrics_listen.empty()) return {};
  auto socket = listen_tcp(config_.daemon.metrics_listen);
  if (!socket) return unexpected(socket.error());
  return metrics_server_->listen(std::move(*socket));
}

Result<void> Daemon::watch_signals() {
  const sigset_t signals = service_signals();
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  signals_.reset(signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC));
  if (!signals_) return unexpected(errno, "signalfd");
  return loop_->add(signals_.get(), EPOLLIN, [this](uint32_t) { on_signal(); });
}

Result<void> Daemon::watch_engine() {
  drain_signal_.reset(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!drain_signal_) return unexpected(errno, "eventfd");
  reload_signal_.reset(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!reload_signal_) return unexpected(errno, "eventfd");
  sweep_signal_.reset(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!sweep_signal_) return unexpected(errno, "eventfd");
  tidying_signal_.reset(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!tidying_signal_) return unexpected(errno, "eventfd");
  auto watched = loop_->add(drain_signal_.get(), EPOLLIN, [this](uint32_t) { on_drain_signal(); });
  if (watched) watched = loop_->add(sweep_signal_.get(), EPOLLIN, [this](uint32_t) { on_sweep_signal(); });
  if (watched) watched = loop_->add(tidying_signal_.get(), EPOLLIN, [this](uint32_t) { on_tidying_signal(); });
  if (watched) watched = loop_->add(reload_signal_.get(), EPOLLIN, [this](uint32_t) { on_reload_signal(); });
  if (watched) watched = loop_->add(engine_->policy_settled_fd(), EPOLLIN, [this](uint32_t) { on_policy_settled(); });
  if (!watched) return watched;
  return loop_->add(engine_->events_fd(), EPOLLIN, [this](uint32_t) { on_engine_events(); });
}

Result<void> Daemon::watch_time() {
  uint64_t watchdog_us = 0;
  if (sd_watchdog_enabled(0, &watchdog_us) > 0) {
    auto watched =
        loop_->add_timer(std::chrono::milliseconds(watchdog_us / 2000 + 1), [] { sd_notify(0, "WATCHDOG=1"); });
    if (!watched) return watched;
  }
  return loop_->add_timer(std::chrono::seconds(1), [this] { on_second(); });
}

Result<void> Daemon::run() {
  auto ran = loop_->run();
  sd_notify(0, "STOPPING=1");
  if (tidying_) end_tidying();
  if (to_keep_) keep_failed(keep(config_.daemon.kept_policy(), *to_keep_));
  if (drain_ && drain_->thread.joinable()) {
    log_info("waiting for the drain to end");
    drain_->thread.join();
  }
  const bool off = turned_off(config_.daemon.socket);
  log_info("ended", {{"kernel_side", off ? "off" : "goes on"}, {"remedy", off ? "" : "'shunt cleanup' ends that too"}});
  return ran;
}

void Daemon::on_signal() {
  signalfd_siginfo info{};
  while (::read(signals_.get(), &info, sizeof(info)) == sizeof(info)) {
    if (info.ssi_signo != SIGHUP) {
      loop_->stop();
    } else {
      (void)reload().has_value();  // it logs how it ends
    }
  }
}

void Daemon::on_engine_events() {
  if (draining()) return;
  std::vector<uint32_t> to_verify;
  const auto count = engine_->read_events([&](const sh_event& event) {
    if (event.kind == SH_EV_VERIFY) to_verify.push_back(event.tgid);
    control_->publish(event);
  });
  if (!count) log_failure("cannot read events", count.error(), "the next attempt follows");
  proxy_link_->look_for_servers(false);
  keep_strict();
  std::sort(to_verify.begin(), to_verify.end());
  to_verify.erase(std::unique(to_verify.begin(), to_verify.end()), to_verify.end());
  for (const uint32_t tgid : to_verify) {
    numbers_.processes_verified++;
    auto verified = engine_->verify_process(tgid);
    if (!verified)
      log_failure("cannot inspect process " + std::to_string(tgid), verified.error(), "its connections stay on TCP");
  }
}

void Daemon::on_second() {
  constexpr uint32_t kStatusEverySeconds = 10;
  control_->sweep();
  metrics_server_->sweep();
  if (control_->monitors() > 0) report_kernel_losses();
  if (!draining()) refresh_policy();
  if (!draining()) proxy_link_->look_for_servers(false);
  keep_strict();
  if (++seconds_ % kStatusEverySeconds == 0 || status_line_is_old_) notify_status();
}

void Daemon::report_kernel_losses() {
  const auto counters = draining() ? pinned_counters(config_.paths) : engine_->counters();
  if (!counters) return;
  const uint64_t lost = counters->counters[SH_C_EVENTS_LOST];
  if (lost > kernel_losses_) control_->publish_kernel_losses(lost - kernel_losses_);
  kernel_losses_ = lost;
}

void Daemon::notify_status() {
  status_line_is_old_ = false;
  const auto status = draining() ? pinned_status(config_.paths) : engine_->status();
  if (!status) return;
  const std::string line = std::string("STATUS=") + mode_name(status->mode) + ", " + std::to_string(status->pairs) +
                           " pairs" +
                           (config_error_.empty() ? "" : "; the last reload failed: the old configuration is in force");
  sd_notify(0, line.c_str());
}

Result<Snapshot> Daemon::take_snapshot() {
  Snapshot taken;
  auto status = draining() ? pinned_status(config_.paths) : engine_->status();
  if (!status) return unexpected(status.error());
  // Counters first: what closes in between is then missing once, and not counted twice.
  auto counters = draining() ? pinned_counters(config_.paths) : engine_->counters();
  if (!counters) return unexpected(counters.error());
  auto rows = draining() ? pinned_list(config_.paths) : engine_->list();
  if (!rows) return unexpected(rows.error());
  auto profiles = draining() ? Result<std::vector<ProfileRow>>(std::vector<ProfileRow>()) : engine_->profiles();
  if (!profiles) return unexpected(profiles.error());
  taken.status = std::move(*status);
  taken.counters = *counters;
  taken.rows = std::make_shared<const std::vector<Row>>(std::move(*rows));
  taken.profiles = std::move(*profiles);
  return taken;
}

Result<const Snapshot*> Daemon::snapshot() {
  const auto now = std::chrono::steady_clock::now();
  if (snapshot_time_ != std::chrono::steady_clock::time_point() && now - snapshot_time_ < kSnapshotAgeMax)
    return &snapshot_;
  auto taken = take_snapshot();
  if (!taken) return unexpected(taken.error());
  snapshot_ = std::move(*taken);
  snapshot_time_ = std::chrono::steady_clock::now();
  return &snapshot_;
}

Result<Json> Daemon::status() {
  const auto current = snapshot();
  if (!current) return unexpected(current.error());
  const auto uptime =
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::steady_clock::now() - started_).count();
  Json document{{"source", "daemon"},
                {"daemon",
                 {{"pid", getpid()},
                  {"version", SHUNT_VERSION},
                  {"uptime_seconds", uptime},
                  {"config_files", config_.files},
                  {"config_error", config_error_},
                  {"policy_error", policy_error_.empty() ? workloads_error_ : policy_error_},
                  {"turned_off", turned_off(config_.daemon.socket)},
                  {"metrics", config_.daemon.metrics_listen}}}};
  document.update(status_document(**current));
  if (!draining()) document["policy"] = policy_.summary(engine_->policy());
  document["gateway"] = {{"linked", gateway_link_->connected()},
                         {"certificate_expires", expiry_text(gateway_link_->certificate_expiry())},
                         {"services", gateway_.outbound.services.size()},
                         {"strict_services", strict_.strict},
                         {"strict_services_nowhere", strict_.nowhere}};
  return document;
}

Result<SharedRows> Daemon::rows() {
  const auto current = snapshot();
  if (!current) return unexpected(current.error());
  return (*current)->rows;
}

Result<std::vector<WhyRow>> Daemon::why(const WhyQuery& query) { return pinned_why(config_.paths, query); }

Result<Json> Daemon::check() { return probe_document(probe_); }

Result<Json> Daemon::version() {
  return Json{{"version", SHUNT_VERSION}, {"layout", SH_LAYOUT_VERSION}, {"crossing", SH_CROSSING_VERSION}};
}

// The policy ended with 'shunt off'.
Result<void> Daemon::restore_policy() {
  if (engine_->policy().generation != 0) return {};
  if (!waiting_ && reload_) end_reload();
  if (!waiting_) {
    auto prepared = policy_.prepare(config_.policy);
    if (!prepared) return unexpected(prepared.error());
    waiting_ = std::move(*prepared);
  }
  return waiting_->any() ? put_policy(waiting_) : Result<void>{};
}

Result<Json> Daemon::turn_on() {
  if (draining()) return unexpected(Error{EBUSY, "shunt is draining", "try again when 'shunt off' has ended"});
  auto policed = restore_policy();
  if (!policed) return unexpected(policed.error());
  auto accelerated = accelerate();
  if (!accelerated) return unexpected(accelerated.error());
  auto marked = mark_turned_off(config_.daemon.socket, false);
  if (!marked)
    log_failure("cannot remember that shunt is on", marked.error(), "it is on until the daemon's next start");
  snapshot_time_ = {};
  notify_status();
  return status();
}

Result<void> Daemon::turn_off(std::chrono::milliseconds deadline) {
  if (draining()) return {};  // this client too gets the end of the drain that runs
  auto marked = mark_turned_off(config_.daemon.socket, true);
  if (!marked) log_failure("cannot remember that shunt is off", marked.error(), "the daemon's next start turns it on");
  if (deadline.count() == 0) deadline = config_.daemon.drain_deadline;
  log_info("turning off: draining", {{"deadline_ms", std::to_string(deadline.count())}});
  proxy_link_->end();
  gateway_link_->end();
  drain_ = std::make_unique<Drain>();
  drain_->thread = std::thread([this, deadline, drain = drain_.get()] {
    auto report = engine_->detach(deadline, [&](uint32_t remaining) {
      drain->remaining = remaining;
      wake(drain_signal_);
    });
    drain->report.emplace(std::move(report));
    drain->remaining = UINT32_MAX;  // done, and the report is written
    wake(drain_signal_);
  });
  return {};
}

void Daemon::on_drain_signal() {
  uint64_t count = 0;
  if (::read(drain_signal_.get(), &count, sizeof(count)) != sizeof(count) || !drain_) return;
  const uint32_t remaining = drain_->remaining;
  if (remaining != UINT32_MAX) {
    control_->off_progress(remaining);
    return;
  }
  drain_->thread.join();
  const Result<DrainReport> report = std::move(*drain_->report);
  drain_.reset();
  snapshot_time_ = {};
  if (report) {
    log_info("turned off", {{"sockets_left", std::to_string(report->left)},
                            {"sockets_kept", std::to_string(report->kept.size())},
                            {"sockets_closed", std::to_string(report->closed)}});
    control_->off_finished(drain_document(*report));
  } else {
    log_failure("cannot turn off", report.error(), "the programs stay as they are");
    control_->off_finished(unexpected(report.error()));
  }
  notify_status();
  engine_->want_events(control_->monitors() > 0);
  on_engine_events();
}

Unexpected Daemon::reload_failed(const Error& error) {
  sd_notify(0, "READY=1");
  numbers_.reloads++;
  numbers_.reloads_failed++;
  config_error_ = error.to_string();
  log_failure("reload failed", error, "the old configuration stays in force");
  status_line_is_old_ = true;
  return unexpected(error);
}

Result<uint64_t> Daemon::reload() {
  if (draining()) return unexpected(Error{EBUSY, "shunt is draining", "try again when 'shunt off' has ended"});
  reload_again_ = reload_ != nullptr;  // what it has read already may be older than this request
  if (reload_) return reload_->number + 1;
  begin_reload();
  return reload_->number;
}

void Daemon::begin_reload() {
  sd_notify(0, "RELOADING=1");
  reload_ = std::make_unique<Reload>();
  reload_->number = ++reloads_begun_;
  reload_->thread = std::thread([this, reload = reload_.get()] {
    reload->config = load_config(options_.config_file, options_.config_required);
    if (reload->config.ok()) reload->gateway.emplace(read_gateway(reload->config.config.gateway));
    if (reload->config.ok()) reload->policy.emplace(policy_.prepare(reload->config.config.policy));
    reload->done = true;
    wake(reload_signal_);
  });
}

void Daemon::on_reload_signal() {
  uint64_t count = 0;
  if (::read(reload_signal_.get(), &count, sizeof(count)) != sizeof(count)) return;
  if (reload_ && reload_->done) end_reload();
}

void Daemon::end_reload() {
  reload_->thread.join();
  const std::unique_ptr<Reload> reload = std::move(reload_);
  control_->reload_finished(reload->number, put_reloaded(*reload));
  if (std::exchange(reload_again_, false)) begin_reload();
}

// Configuration and documents are checked before either is touched.
Result<Json> Daemon::put_reloaded(Reload& reload) {
  if (draining()) return reload_failed(Error{EBUSY, "shunt is draining", "try again when 'shunt off' has ended"});
  ConfigOutcome& outcome = reload.config;
  if (!outcome.ok()) return reload_failed(Error{EINVAL, joined(outcome.problems), {}});
  auto& prepared = *reload.policy;
  if (!prepared) return reload_failed(prepared.error());
  if (!*reload.gateway) return reload_failed(reload.gateway->error());
  auto applied = engine_->apply(outcome.config.settings);
  if (applied) applied = put_gateway(**reload.gateway);
  if (!applied) return reload_failed(applied.error());
  gateway_ = std::move(**reload.gateway);
  const PolicySettings policy_before = std::exchange(config_.policy, outcome.config.policy);
  if (!turned_off(config_.daemon.socket)) {
    auto put = put_policy(*prepared);
    if (!put) {
      config_.policy = policy_before;
      policy_error_ = put.error().to_string();
      return reload_failed(put.error());
    }
  }
  waiting_.swap(*prepared);
  sd_notify(0, "READY=1");
  numbers_.reloads++;
  config_error_.clear();
  return reloaded(std::move(outcome.config));
}

Json Daemon::reloaded(Config config) {
  const Config old = std::exchange(config_, std::move(config));
  set_up_log(config_.daemon.log);
  Json notes = Json::array();
  const bool moved = old.daemon.socket != config_.daemon.socket || old.paths.bpffs != config_.paths.bpffs ||
                     old.paths.pin_dir != config_.paths.pin_dir || old.paths.cgroup_root != config_.paths.cgroup_root;
  if (moved) {
    notes.push_back("control.socket and paths take effect when shuntd is restarted");
    config_.daemon.socket = old.daemon.socket;
    config_.paths = old.paths;
  }
  const Settings& now = config_.settings;
  if (old.settings.policy_blocks != now.policy_blocks || old.settings.policy_results != now.policy_results)
    notes.push_back("policy.blocks and policy.results take effect when shuntd is restarted");
  if (old.daemon.metrics_listen != config_.daemon.metrics_listen) {
    auto listening = listen_for_metrics();
    if (!listening) log_failure("no metrics", listening.error(), "everything else goes on");
    if (!listening) notes.push_back("no metrics: " + listening.error().to_string());
  }
  log_info("reloaded", {{"files", std::to_string(config_.files.size())}});
  status_line_is_old_ = true;
  return Json{{"files", config_.files}, {"notes", notes}};
}

void Daemon::monitors_changed(size_t count) {
  if (draining()) return;  // done when the drain has ended
  if (count == 1) {
    // What was lost before anybody looked is not news.
    const auto counters = engine_->counters();
    if (counters) kernel_losses_ = counters->counters[SH_C_EVENTS_LOST];
  }
  engine_->want_events(count > 0);
}

}  // namespace shunt
