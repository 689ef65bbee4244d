// shuntd: owns the engine, serves the control socket and the metrics, and follows the configuration. When it ends, by
// whatever way, the kernel side goes on.
#pragma once

#include <atomic>
#include <base/event_loop.hpp>
#include <base/metrics_server.hpp>
#include <control/config.hpp>
#include <control/control_server.hpp>
#include <control/gateway_link.hpp>
#include <control/gateway_services.hpp>
#include <control/metrics.hpp>
#include <control/policy_state.hpp>
#include <control/policy_sweep.hpp>
#include <control/proxy_link.hpp>
#include <control/request_metrics.hpp>
#include <control/run_lock.hpp>
#include <memory>
#include <optional>
#include <sockops/engine.hpp>
#include <sockops/probe.hpp>
#include <string>
#include <thread>

namespace shunt {

struct DaemonOptions {
  std::string config_file = kDefaultConfigFile;
  bool config_required = false;  // named on the command line: a missing file is an error
  bool load_only = false;        // start() puts all in force, and nothing is served
};

// A start that failed: the exit code tells systemd whether another try makes sense.
struct StartFailure {
  ExitCode exit;
  Error error;
};

class Daemon : private ControlBackend {
 public:
  explicit Daemon(DaemonOptions options) : options_(std::move(options)) {}
  ~Daemon() override;

  std::optional<StartFailure> start();
  Result<void> run();  // until SIGTERM or SIGINT

 private:
  // The engine belongs to the drain's thread while one runs; the pins answer meanwhile.
  struct Drain {
    std::thread thread;
    std::atomic<uint32_t> remaining{0};
    std::optional<Result<DrainReport>> report;  // read after the thread has said that it is done
  };

  // Configuration and documents are read and compiled beside the loop, which puts them in force.
  struct Reload {
    std::thread thread;
    uint64_t number = 0;
    std::atomic<bool> done{false};
    // Read when it is done.
    ConfigOutcome config;
    std::optional<Result<Gateway>> gateway;                                      // of a good configuration
    std::optional<Result<std::shared_ptr<const PolicyState::Prepared>>> policy;  // of a good configuration
  };

  // What follows a switch to another policy, beside the loop: it goes over the live connections.
  struct Sweep {
    std::thread thread;
    std::atomic<bool> done{false};
    std::optional<Result<SweepReport>> report;  // read when it is done
  };

  // And what nobody waits for, so that the next switch does not either: it keeps the documents, and frees the policies
  // before.
  struct Tidying {
    std::thread thread;
    std::atomic<bool> done{false};
    Result<void> kept;  // read when it is done
  };

  Result<Json> status() override;
  Result<SharedRows> rows() override;
  Result<std::vector<WhyRow>> why(const WhyQuery& query) override;
  Result<Json> check() override;
  Result<Json> version() override;
  Result<Json> turn_on() override;
  Result<void> turn_off(std::chrono::milliseconds deadline) override;
  Result<uint64_t> reload() override;
  Result<Json> policy() override;
  Result<Json> trace(const TraceQuery& query) override;
  void describe(const sh_event& event, Json& document) override { policy_.describe(event, document); }
  void monitors_changed(size_t count) override;

  std::optional<StartFailure> load_first_config();
  std::optional<StartFailure> wait_for_other(const Error& busy) const;
  std::optional<StartFailure> open_engine();
  std::optional<StartFailure> load_first_policy();
  Result<std::shared_ptr<const PolicyState::Prepared>> prepare_first_policy();
  std::optional<StartFailure> open_sockets();
  Result<void> watch_signals();
  Result<void> watch_engine();
  Result<void> watch_time();
  Result<void> listen_for_metrics();
  Result<void> listen_for_proxy();
  Result<void> listen_for_gateway();
  Result<void> put_gateway(const Gateway& gateway);
  void keep_strict();

  Result<void> accelerate();  // attaches, and finds the listeners that are older
  Result<void> put_policy(std::shared_ptr<const PolicyState::Prepared> prepared);
  Result<void> restore_policy();
  void take_responses();
  void on_policy_settled();
  void refresh_policy();
  void begin_sweep();  // or another one when this one has ended
  void on_sweep_signal();
  void begin_tidying();  // or again when that has ended
  void on_tidying_signal();
  void end_tidying();  // waits for it
  void begin_reload();
  void on_reload_signal();
  void end_reload();  // waits for it; then begins the one that was asked for meanwhile
  Result<Json> put_reloaded(Reload& reload);
  Json reloaded(Config config);  // what an accepted configuration changes in the daemon itself
  Unexpected reload_failed(const Error& error);
  void on_signal();
  void on_engine_events();
  void on_second();
  void on_drain_signal();
  void report_kernel_losses();
  void notify_status();

  // At most half a second old: many clients cost no more than one.
  Result<const Snapshot*> snapshot();
  Result<Snapshot> take_snapshot();
  bool draining() const { return drain_ != nullptr; }

  DaemonOptions options_;
  Config config_;
  Gateway gateway_;
  StrictReport strict_;
  std::string config_error_;  // of the last reload, if it failed
  PolicyState policy_;
  std::shared_ptr<const PolicyState::Prepared> waiting_;  // to be put in force when shunt is turned on
  std::shared_ptr<const PolicyState::Prepared> to_keep_;  // what the next boot shall find
  std::string policy_error_;                              // why the documents are not in force
  std::string workloads_error_;                           // why workloads cannot be looked for
  std::optional<RunLock> lock_;
  std::unique_ptr<EventLoop> loop_;
  ProbeReport probe_;
  std::unique_ptr<Engine> engine_;
  UniqueFd signals_;
  UniqueFd drain_signal_;  // eventfd: the drain's thread has news
  std::unique_ptr<Drain> drain_;
  UniqueFd reload_signal_;  // eventfd: the reload's thread is done
  std::unique_ptr<Reload> reload_;
  bool reload_again_ = false;
  UniqueFd sweep_signal_;  // eventfd: the sweep's thread is done
  std::unique_ptr<Sweep> sweep_;
  bool sweep_again_ = false;
  UniqueFd tidying_signal_;  // eventfd: its thread is done
  std::unique_ptr<Tidying> tidying_;
  std::vector<std::shared_ptr<const PolicyState::Prepared>> retired_;  // to be freed
  uint64_t reloads_begun_ = 0;
  MetricsSource metrics_;
  RequestMetrics request_metrics_;
  DaemonNumbers numbers_;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point snapshot_time_;
  Snapshot snapshot_;
  uint64_t kernel_losses_ = 0;
  uint32_t seconds_ = 0;
  bool status_line_is_old_ = false;  // what systemd shows; looking costs as much as a list
  std::unique_ptr<ControlServer> control_;
  std::unique_ptr<ProxyLink> proxy_link_;
  std::unique_ptr<GatewayLink> gateway_link_;
  std::unique_ptr<MetricsServer> metrics_server_;
};

}  // namespace shunt
