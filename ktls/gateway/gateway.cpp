#include <pwd.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <systemd/sd-daemon.h>

#include <base/metrics.hpp>
#include <base/metrics_server.hpp>
#include <base/privileges.hpp>
#include <base/workers.hpp>
#include <ktls/gateway/gateway.hpp>
#include <ktls/gateway/metrics.hpp>
#include <ktls/gateway/shuntd_link.hpp>
#include <ktls/gateway/status.hpp>
#include <ktls/gateway/worker.hpp>

namespace shunt::gateway {
namespace {

using Workers = std::vector<std::unique_ptr<Worker>>;

constexpr Milliseconds kLookAtFiles{500};
constexpr uint32_t kAllCiphers = kKtlsAes128Gcm | kKtlsAes256Gcm | kKtlsChacha20Poly1305;

Result<Config> read_config(const std::string& file) {
  ConfigOutcome outcome = load_config(file);
  std::string problems;
  for (const Problem& problem : outcome.problems) problems += (problems.empty() ? "" : "\n") + problem.to_string();
  if (!problems.empty()) return unexpected(Error{EINVAL, problems, {}});
  return std::move(outcome.config);
}

KtlsSettings settings_of(const Shared& shared) {
  return shared.to_kernel ? shared.probe.settings : KtlsSettings{kAllCiphers, false, kKtlsKeyRecordsMax};
}

// Which of the two ways it is to be. Tries to load the module, so: before privileges are given up.
Result<void> choose_mode(Shared& shared) {
  if (shared.config.ktls == KtlsUse::off) return {};
  shared.probe = ktls_probe();
  shared.to_kernel = shared.probe.usable;
  if (shared.to_kernel) return {};
  const ProbeItem& last = shared.probe.items.back();
  if (shared.config.ktls == KtlsUse::required)
    return unexpected(Error{ENOTSUP, "this kernel has no kTLS: " + last.found,
                            last.remedy + "; or allow OpenSSL to encrypt: ktls: preferred"});
  log_warning("this kernel has no kTLS: OpenSSL encrypts", {{"found", last.found}, {"remedy", last.remedy}});
  return {};
}

// With the rights that the process was started with. To the kernel a socket is its maker's: those that local clients
// find are to be the gateway's own.
Result<void> open_one(std::vector<Listening>& listening, Listening one, const passwd* user) {
  auto socket = bind_to(one.endpoint, SOCK_NONBLOCK);
  if (!socket) return unexpected(socket.error());
  if (user && geteuid() == 0 && fchown(socket->get(), user->pw_uid, static_cast<gid_t>(-1)) != 0)
    return unexpected(errno, "cannot give a socket to " + std::string(user->pw_name));
  one.socket = std::move(*socket);
  listening.push_back(std::move(one));
  return {};
}

Result<std::vector<Listening>> open_listening(const Config& config) {
  std::vector<Listening> listening;
  const passwd* user = getpwnam(config.user.c_str());
  Result<void> opened;
  for (const Endpoint& endpoint : config.listen)
    if (opened) opened = open_one(listening, {{}, endpoint, nullptr, false}, user);
  for (const Endpoint& endpoint : config.hooks)
    if (opened) opened = open_one(listening, {{}, endpoint, nullptr, true}, user);
  for (const RemoteService& service : config.directory)
    if (opened && service.listen) opened = open_one(listening, {{}, *service.listen, &service, false}, user);
  if (!opened) return unexpected(opened.error());
  return listening;
}

// What is accepted stands for whom its listener does.
Result<void> claim_listeners(const Shared& shared, const std::vector<Listening>& listening) {
  for (const Listening& one : listening)
    if (one.service && !shared.kernel.stands_for(one.socket.get(), one.service->identity.front()))
      return unexpected(errno, "the kernel does not take for whom a listener stands");
  return {};
}

Result<void> start_to_listen(const std::vector<Listening>& listening) {
  for (const Listening& one : listening)
    if (auto started = start_listening(one.socket.get(), one.endpoint); !started) return started;
  return {};
}

Result<Workers> start_workers(Shared& shared, const std::vector<Listening>& listening) {
  const uint64_t threads = thread_count(shared.config.threads);
  const uint64_t handshakes = std::max<uint64_t>(shared.config.limits.handshakes / threads, 1);
  return shunt::start_workers<Worker>(threads, [&] { return std::make_unique<Worker>(shared, listening, handshakes); });
}

// What is wrong is logged, and the old stays in force.
void rotate(Shared& shared) {
  auto fresh = load_security(shared.config, settings_of(shared), shared.security.get().get());
  if (!fresh) return log_failure("cannot rotate the certificates", fresh.error(), "the old ones stay in use");
  shared.security.set(*fresh);
  shared.counters.rotations++;
  log_info("rotated",
           {{"identity", (*fresh)->id.text()}, {"expires", (*fresh)->expires}, {"serial", (*fresh)->serial}});
}

// Without them everything else goes on.
Result<void> serve_metrics(EventLoop& loop, MetricsServer& server, const std::string& address) {
  if (address.empty()) return {};
  auto socket = listen_tcp(address);
  auto listening = socket ? server.listen(std::move(*socket)) : Result<void>(unexpected(socket.error()));
  if (!listening) log_failure("no metrics", listening.error(), "everything else goes on");
  return loop.add_timer(std::chrono::seconds(1), [&server] { server.sweep(); });
}

void rotate(Shared& shared, ShuntdLink* link) {
  rotate(shared);
  if (link) link->tell_expiry(shared.security.get()->expiry_seconds());
}

// The main thread's part: signals, files, status, metrics.
Result<void> supervise(Shared& shared, WatchedFiles& files, StatusSocket& status, ShuntdLink* link) {
  auto loop = EventLoop::create();
  if (!loop) return unexpected(loop.error());
  const sigset_t wanted = service_signals();
  const UniqueFd signal_fd(signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signal_fd) return unexpected(errno, "cannot make a signalfd");
  auto ready = (*loop)->add(signal_fd.get(), EPOLLIN, [&](uint32_t) {
    signalfd_siginfo info{};
    if (::read(signal_fd.get(), &info, sizeof(info)) != sizeof(info)) return;
    if (info.ssi_signo != SIGHUP) return (*loop)->stop();
    shared.access_log.reopen();
    rotate(shared, link);
  });
  if (ready)
    ready = (*loop)->add_timer(kLookAtFiles, [&] {
      if (files.changed()) rotate(shared, link);
    });
  if (ready) ready = status.serve(**loop, shared);
  MetricsServer metrics(**loop, [&]() -> Result<std::string> { return metrics_text(gateway_metrics(shared)); });
  if (ready) ready = serve_metrics(**loop, metrics, shared.config.metrics_listen);
  if (ready && link) ready = link->watch(**loop);
  if (!ready) return ready;
  sd_notify(0, "READY=1");
  return (*loop)->run();
}

void log_ready(const Shared& shared, size_t threads) {
  const auto security = shared.security.get();
  log_info("ready", {{"mode", shared.mode()},
                     {"identity", security->id.text()},
                     {"expires", security->expires},
                     {"serial", security->serial},
                     {"services", std::to_string(shared.config.services.size())},
                     {"directory", std::to_string(shared.config.directory.size())},
                     {"threads", std::to_string(threads)}});
}

}  // namespace

Result<std::string> check_config(const std::string& config_file) {
  const auto config = read_config(config_file);
  if (!config) return unexpected(config.error());
  const auto security = load_security(*config, {kAllCiphers, false, kKtlsKeyRecordsMax}, nullptr);
  if (!security) return unexpected(security.error());
  return "valid: " + (*security)->id.text() + " until " + (*security)->expires + "; " +
         std::to_string(config->services.size()) + " services here, " + std::to_string(config->directory.size()) +
         " on other hosts";
}

Result<void> run_gateway(const std::string& config_file) {
  Shared shared;
  auto config = read_config(config_file);
  if (!config) return unexpected(config.error());
  shared.config = std::move(*config);
  for (const RemoteService& service : shared.config.directory)
    if (service.address) shared.dialled[{service.address->address, service.address->port}] = &service;
  set_up_log(shared.config.log);
  raise_descriptor_limit();
  const auto chosen = choose_mode(shared);
  if (!chosen) return chosen;
  const auto listening = open_listening(shared.config);
  if (!listening) return unexpected(listening.error());
  StatusSocket status;
  auto ready = status.open(shared.config.status);
  // Threads inherit what is given up here, so none runs yet.
  if (ready) ready = drop_privileges(shared.config.user);
  if (!ready) return ready;
  const sigset_t blocked = service_signals();
  pthread_sigmask(SIG_BLOCK, &blocked, nullptr);
  WatchedFiles files(shared.config);
  // With the rights that it will have when they change.
  auto security = load_security(shared.config, settings_of(shared), nullptr);
  if (!security) return unexpected(security.error());
  shared.security.set(*security);
  ready = shared.access_log.open(shared.config.access_log.path, shared.config.access_log.format);
  std::unique_ptr<ShuntdLink> link;
  if (!shared.config.shuntd.empty())
    link = std::make_unique<ShuntdLink>(shared.config.shuntd, shared.kernel,
                                        [&] { return claim_listeners(shared, *listening); });
  if (link) link->tell_expiry((*security)->expiry_seconds());
  if (ready && link) ready = link->open();
  if (ready) ready = start_to_listen(*listening);
  if (!ready) return ready;
  auto workers = start_workers(shared, *listening);
  if (!workers) return unexpected(workers.error());
  log_ready(shared, workers->size());
  const auto ran = supervise(shared, files, status, link.get());
  sd_notify(0, "STOPPING=1");
  log_info("stopping", {{"connections", std::to_string(shared.counters.connections)}});
  // Refuses new connections at once, while the threads still know the descriptors.
  for (const Listening& socket : *listening) ::shutdown(socket.socket.get(), SHUT_RDWR);
  for (const auto& worker : *workers) worker->stop();
  for (const auto& worker : *workers) worker->join();
  log_info("stopped");
  return ran;
}

}  // namespace shunt::gateway
