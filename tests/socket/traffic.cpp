#include "socket/traffic.hpp"

#include <fmt/format.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <list>
#include <memory>
#include <thread>
#include <unordered_map>

#include "socket/ledger.hpp"
#include "socket/live.hpp"
#include "socket/process_scenarios.hpp"
#include "socket/side.hpp"
#include "support/sandbox.hpp"
#include "support/sockets.hpp"

namespace shunt::test {

namespace {

constexpr int kBlockingSidesMax = 24;  // in each process
constexpr uint64_t kErrorsMax = 50;    // enough seen: no new connections
constexpr int kEvents = 1024;          // all that is there: each connection gets its turn
constexpr int kAcceptsMax = 64;        // of one listener in one turn
constexpr auto kProgressEvery = std::chrono::milliseconds(100);
constexpr auto kTrafficMax = std::chrono::hours(1);

std::atomic<int> blocking_sides{0};

bool take_blocking_place() {
  if (blocking_sides.fetch_add(1) < kBlockingSidesMax) return true;
  blocking_sides.fetch_sub(1);
  return false;
}

// Drives the sides of one thread.
class Loop {
 public:
  Loop(const TrafficConfig& config, Ledger& ledger)
      : config_(config), ledger_(ledger), member_(ledger.rounds), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    require(epoll_.valid(), "epoll_create1");
  }
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  size_t size() const { return sides_.size() + blocking_.size(); }

  void watch_listener(int listener) {
    epoll_event event{};
    event.events = EPOLLIN | EPOLLEXCLUSIVE;
    event.data.u64 = static_cast<uint64_t>(listener) << 1 | 1;  // pointers are even
    require(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, listener, &event) == 0, "watch a listener");
  }

  void add(std::unique_ptr<Side> side, Rng& rng) {
    if (side->kind() != Kind::cut && one_in(rng, config_.blocking_share) && take_blocking_place()) {
      run_in_thread(std::move(side));
      return;
    }
    epoll_event event{};
    event.events = side->events();
    event.data.ptr = side.get();
    Side* raw = side.get();
    if (raw->early() && !settle(*raw, raw->step())) return;
    event.events = raw->events();
    require(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, raw->fd(), &event) == 0, "watch a connection");
    sides_.emplace(raw, Entry{std::move(side), event.events});
    if (!raw->edge_triggered()) step(*raw);  // edges come by themselves, a level without interest does not
  }

  template <typename OnListener>
  void turn(const OnListener& on_listener) {
    epoll_event events[kEvents];
    const int count = epoll_wait(epoll_.get(), events, kEvents, 1);
    for (int i = 0; i < count; ++i) {
      if (events[i].data.u64 & 1) {
        on_listener(static_cast<int>(events[i].data.u64 >> 1));
      } else {
        step(*static_cast<Side*>(events[i].data.ptr));
      }
    }
    const auto now = Clock::now();
    due_.clear();
    for (const auto& [side, entry] : sides_) {
      if (side->due(now)) due_.push_back(side);
    }
    for (Side* side : due_) step(*side);
    watch_blocking();
    if (config_.sleep_once.count() > 0 && ledger_.started.load() > config_.connections / 4 &&
        !ledger_.slept.exchange(true))
      std::this_thread::sleep_for(config_.sleep_once);
    ledger_.turn(member_);
  }

 private:
  struct Entry {
    std::unique_ptr<Side> side;
    uint32_t events;
  };

  struct Blocking {
    std::unique_ptr<Side> side;
    SideState state = SideState::active;
    std::atomic<bool> ended{false};
    std::thread thread;
  };

  // Books a side that has ended; true if it goes on.
  bool settle(Side& side, SideState state) {
    if (state == SideState::active) return true;
    ledger_.bytes.fetch_add(side.received());
    ledger_.early_wakeups.fetch_add(side.early_wakeups());
    if (state == SideState::done) {
      if (side.connecting()) ledger_.ended[static_cast<uint32_t>(side.kind())].fetch_add(1);
    } else {
      ledger_.fail(side.kind(), side.error(), state == SideState::stalled);
    }
    return false;
  }

  void step(Side& side) {
    const auto entry = sides_.find(&side);
    if (entry == sides_.end()) return;
    if (!settle(side, side.step())) {
      sides_.erase(entry);
      return;
    }
    if (side.events() == entry->second.events) return;
    epoll_event event{};
    event.events = entry->second.events = side.events();
    event.data.ptr = &side;
    require(epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, side.fd(), &event) == 0, "change the interest");
  }

  void run_in_thread(std::unique_ptr<Side> side) {
    Blocking& blocking = blocking_.emplace_back();
    blocking.side = std::move(side);
    blocking.thread = std::thread([&blocking] {
      blocking.state = blocking.side->run_blocking();
      blocking.ended.store(true);
    });
  }

  void watch_blocking() {
    for (auto blocking = blocking_.begin(); blocking != blocking_.end();) {
      if (!blocking->ended.load()) {
        blocking->side->watch_blocking();
        ++blocking;
        continue;
      }
      blocking->thread.join();
      settle(*blocking->side, blocking->state);
      blocking = blocking_.erase(blocking);
      blocking_sides.fetch_sub(1);
    }
  }

  const TrafficConfig& config_;
  Ledger& ledger_;
  RoundsMember member_;
  UniqueFd epoll_;
  std::unordered_map<Side*, Entry> sides_;
  std::vector<Side*> due_;
  std::list<Blocking> blocking_;
};

// ---- accepting processes ----

ListenOptions listen_options(Flavour flavour) {
  ListenOptions options;
  if (flavour == Flavour::v6) options.address = "::1";
  if (flavour == Flavour::v4_mapped || flavour == Flavour::dual_v6) {
    options.address = "::";
    options.dual_stack = true;
  }
  options.reuse_port = flavour == Flavour::reuse_port;
  if (flavour == Flavour::defer_accept) options.defer_accept_seconds = 5;
  return options;
}

struct Listener {
  UniqueFd fd;
  Kind kind;
};

std::vector<Listener> open_listeners(Ledger& ledger, uint32_t server) {
  std::vector<Listener> listeners;
  for (uint32_t kind = 0; kind < kSocketKinds; ++kind) {
    for (uint32_t flavour = 0; flavour < kFlavours; ++flavour) {
      ListenOptions options = listen_options(static_cast<Flavour>(flavour));
      if (options.reuse_port) options.port = ledger.ports[0][kind][flavour];  // 0 for the first server
      UniqueFd fd = listen_tcp(options);
      set_nonblocking(fd.get(), true);
      ledger.ports[server][kind][flavour] = local_endpoint(fd.get()).port();
      listeners.push_back({std::move(fd), static_cast<Kind>(kind)});
    }
  }
  return listeners;
}

void serve(const std::vector<Listener>& listeners, const TrafficConfig& config, Ledger& ledger, uint64_t seed) {
  Rng rng(seed);
  Loop loop(config, ledger);
  std::unordered_map<int, Kind> kinds;
  for (const Listener& listener : listeners) {
    loop.watch_listener(listener.fd.get());
    kinds[listener.fd.get()] = listener.kind;
  }
  const auto accept_one = [&](int listener) {
    UniqueFd fd(accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd.valid()) return false;
    if (!one_in(rng, 10)) set_option(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
    loop.add(std::make_unique<Side>(std::move(fd), kinds[listener], false, rng(), config, ledger.rounds), rng);
    return true;
  };
  const auto accept_some = [&](int listener) {
    for (int accepted = 0; accepted < kAcceptsMax && accept_one(listener);) ++accepted;
  };
  while (!ledger.stop.load() || loop.size() > 0) loop.turn(accept_some);
}

int run_server(uint32_t server, uint32_t threads, const TrafficConfig& config, Ledger& ledger) {
  while (ledger.servers_ready.load() != server) std::this_thread::yield();  // one after the other: they share ports
  const std::vector<Listener> listeners = open_listeners(ledger, server);
  ledger.servers_ready.fetch_add(1);
  std::vector<std::thread> workers;
  for (uint32_t i = 0; i < threads; ++i) {
    workers.emplace_back([&, i] { serve(listeners, config, ledger, config.seed * 7919 + server * 100 + i); });
  }
  for (std::thread& worker : workers) worker.join();
  return 0;
}

// ---- connecting processes ----

Flavour pick_flavour(Rng& rng, Kind kind) {
  for (;;) {
    const auto flavour = static_cast<Flavour>(pick(rng, 0, kFlavours - 1));
    const bool needs_bytes_first = kind == Kind::server_first || kind == Kind::download;
    if (flavour != Flavour::defer_accept || !needs_bytes_first) return flavour;
  }
}

std::unique_ptr<Side> start_connection(const TrafficConfig& config, Ledger& ledger, uint32_t servers, Rng& rng) {
  const Kind kind = static_cast<Kind>(pick(rng, 0, kSocketKinds - 1));
  const Flavour flavour = pick_flavour(rng, kind);
  const uint16_t port =
      ledger.ports[pick(rng, 0, servers - 1)][static_cast<uint32_t>(kind)][static_cast<uint32_t>(flavour)];
  const bool v6 = flavour == Flavour::v6 || flavour == Flavour::dual_v6;
  const Endpoint to = endpoint(v6 ? "::1" : "127.0.0.1", port);
  UniqueFd fd(socket(to.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  require(fd.valid(), "socket");
  if (!one_in(rng, 10)) set_option(fd.get(), IPPROTO_TCP, TCP_NODELAY, 1);
  if (connect(fd.get(), to.get(), to.length) != 0) {
    // The other end may have reset the connection before connect() returned.
    const bool cut = kind == Kind::cut && (errno == ECONNRESET || errno == EPIPE);
    if (cut) {
      ledger.ended[static_cast<uint32_t>(kind)].fetch_add(1);
    } else {
      ledger.fail(kind, fmt::format("connect: {}", std::strerror(errno)), false);
    }
    return nullptr;
  }
  return std::make_unique<Side>(std::move(fd), kind, true, rng(), config, ledger.rounds);
}

void connect_many(const TrafficConfig& config, Ledger& ledger, uint64_t connections, uint32_t servers, uint32_t at_once,
                  uint64_t seed) {
  Rng rng(seed);
  Loop loop(config, ledger);
  const auto begin = Clock::now();
  const auto allowed = [&] {
    if (config.connections_per_second == 0) return connections;
    const std::chrono::duration<double> past = Clock::now() - begin;
    return std::min(connections, static_cast<uint64_t>(past.count() * config.connections_per_second));
  };
  const auto ended = [&] {
    return ledger.finish.load() || ledger.started.load() >= connections || ledger.errors.load() >= kErrorsMax;
  };
  const auto more = [&] { return !ended() && ledger.started.load() < allowed(); };
  while (!ended() || loop.size() > 0) {
    for (uint32_t burst = 0; burst < 16 && loop.size() < at_once && more(); ++burst) {
      if (ledger.started.fetch_add(1) >= connections) break;
      if (auto side = start_connection(config, ledger, servers, rng)) loop.add(std::move(side), rng);
    }
    loop.turn([](int) {});
  }
}

int run_client(uint64_t connections, uint32_t servers, uint32_t threads, uint32_t at_once, uint64_t seed,
               const TrafficConfig& config, Ledger& ledger) {
  while (ledger.servers_ready.load() < servers) std::this_thread::yield();
  std::vector<std::thread> workers;
  for (uint32_t i = 0; i < threads; ++i) {
    workers.emplace_back([&, i] { connect_many(config, ledger, connections, servers, at_once, seed + i); });
  }
  for (std::thread& worker : workers) worker.join();
  return 0;
}

int run_scenarios(uint64_t count, uint64_t seed, const TrafficConfig& config, Ledger& ledger) {
  Rng rng(seed);
  for (uint64_t i = 0; i < count && ledger.errors.load() < kErrorsMax; ++i) {
    const uint32_t first = static_cast<uint32_t>(Kind::killed);
    run_process_scenario(static_cast<Kind>(pick(rng, first, first + 2)), rng, config, ledger);
  }
  return 0;
}

TrafficProgress make_progress(const TrafficConfig& config, const Ledger& ledger) {
  TrafficProgress progress;
  progress.connections = ledger.started.load();
  progress.live_bytes = ledger.live_bytes.load();
  progress.live_open = ledger.live_open.load();
  progress.live_port = ledger.live_port;
  progress.errors = ledger.errors.load();
  for (uint32_t i = 0; i < config.live; ++i) progress.live_received.push_back(ledger.live_received[i].load());
  return progress;
}

// Tells how far the traffic is, until it goes away. Its thread begins when all processes are there.
class ProgressTeller {
 public:
  ProgressTeller(const TrafficConfig& config, const Ledger& ledger) {
    if (!config.on_progress) return;
    thread_ = std::thread([this, &config, &ledger] {
      while (!ended_.load()) {
        config.on_progress(make_progress(config, ledger));
        std::this_thread::sleep_for(kProgressEvery);
      }
    });
  }
  ~ProgressTeller() {
    ended_.store(true);
    if (thread_.joinable()) thread_.join();
  }
  ProgressTeller(const ProgressTeller&) = delete;
  ProgressTeller& operator=(const ProgressTeller&) = delete;

 private:
  std::atomic<bool> ended_{false};
  std::thread thread_;
};

// SIGTERM to this process, or to one of its own, means finish.
std::atomic<bool>* finish_flag = nullptr;
void on_terminate(int) { finish_flag->store(true); }

TrafficReport make_report(const Ledger& ledger) {
  TrafficReport report;
  for (uint32_t kind = 0; kind < kKinds; ++kind) {
    report.kinds[kKindNames[kind]] = ledger.ended[kind].load();
    report.connections += ledger.ended[kind].load();
  }
  report.bytes = ledger.bytes.load();
  report.errors = ledger.errors.load();
  report.stalled = ledger.stalled.load();
  report.early_wakeups = ledger.early_wakeups.load();
  report.longest_round_seconds = std::chrono::duration<double>(ledger.rounds.longest()).count();
  for (uint32_t i = 0; i < std::min(ledger.messages_used.load(), Ledger::kMessages); ++i)
    report.messages.emplace_back(ledger.messages[i]);
  return report;
}

// Every wait inside has its own limit; this one is for a process that died, or hangs in a call.
bool ends_well(Child& child, const TrafficConfig& config, const Ledger& ledger) {
  const auto deadline = Clock::now() + kTrafficMax;
  auto stuck_deadline = deadline;
  while (Clock::now() < std::min(deadline, stuck_deadline)) {
    if (ledger.rounds.stuck() && stuck_deadline == deadline)
      stuck_deadline = Clock::now() + Rounds::kStuckLimits * config.stall_limit;
    if (const int code = child.wait(kProgressEvery); code != -1) return code == 0;
  }
  return false;
}

}  // namespace

TrafficReport run_traffic(const TrafficConfig& config) {
  require(config.live <= kLiveMax, fmt::format("at most {} live connections", kLiveMax));
  const auto begin = Clock::now();
  SharedLedger ledger;
  const uint32_t servers = std::clamp(config.processes / 2, 1u, kServersMax);
  const uint32_t clients = std::max(1u, config.processes - servers);
  const uint32_t threads = std::max(1u, config.threads / (servers + clients));
  const uint64_t scenarios = config.until_told ? 0 : config.connections * config.process_share_percent / 100;
  const uint64_t connections = config.until_told ? UINT64_MAX : config.connections - scenarios;
  const uint32_t at_once = std::max(1u, config.at_once / (clients * threads));
  ledger->rounds.begin(config.stall_limit);
  finish_flag = &ledger->finish;
  if (config.until_told) signal(SIGTERM, on_terminate);

  std::vector<Child> accepting, connecting;
  if (config.live > 0) {
    accepting.push_back(Child::fork([&] { return run_live_server(threads, config, *ledger); }));
    connecting.push_back(Child::fork([&] { return run_live_client(threads, config, *ledger); }));
  }
  for (uint32_t i = 0; i < servers; ++i)
    accepting.push_back(Child::fork([&] { return run_server(i, threads, config, *ledger); }));
  for (uint32_t i = 0; i < clients; ++i) {
    const uint64_t seed = config.seed * 1000003 + i * 1000;
    connecting.push_back(
        Child::fork([&] { return run_client(connections, servers, threads, at_once, seed, config, *ledger); }));
  }
  for (uint32_t i = 0; i < clients && scenarios > 0; ++i) {
    connecting.push_back(Child::fork([&] {
      return run_scenarios(scenarios / clients + (i < scenarios % clients), config.seed * 31337 + i, config, *ledger);
    }));
  }
  bool all_ended_well = true;
  {
    const ProgressTeller teller(config, *ledger);
    for (Child& child : connecting) all_ended_well &= ends_well(child, config, *ledger);
    ledger->stop.store(true);
    for (Child& child : accepting) all_ended_well &= ends_well(child, config, *ledger);
  }

  TrafficReport report = make_report(*ledger);
  if (!all_ended_well) {
    ++report.errors;
    report.messages.emplace_back("a process of the checker died or hung");
  }
  report.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return report;
}

}  // namespace shunt::test
