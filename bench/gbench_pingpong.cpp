// One round trip over each kind of channel, under Google Benchmark: for profilers and for comparing single changes.
// Both ends are on one CPU. With root also the shortcut; without, its benchmark says why it is skipped.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <base/mounts.hpp>
#include <bench/channel.hpp>
#include <bench/shortcut.hpp>
#include <new>
#include <vector>

namespace shunt::bench {
namespace {

EngineHost* engine_host = nullptr;  // null: engine_error says why
std::string engine_error;
constexpr const char* kEngine = "shortcut";

struct Rings {
  ShmRing to_server;
  ShmRing to_client;
};

void echo(Channel* channel, size_t bytes) {
  std::vector<unsigned char> message(bytes);
  while (channel->receive_all(message.data(), bytes)) {
    if (!channel->send_all(message.data(), bytes)) return;
  }
}

void pin_here() {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(0, &set);
  sched_setaffinity(0, sizeof(set), &set);
}

// A forked process that runs `body`, killed with its owner.
class EchoProcess {
 public:
  template <typename Body>
  explicit EchoProcess(Body body) : pid_(fork()) {
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    body();
    _exit(0);
  }
  ~EchoProcess() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

 private:
  pid_t pid_;
};

void round_trips(benchmark::State& state, Channel* channel) {
  size_t bytes = size_t(state.range(0));
  std::vector<unsigned char> message(bytes, 'p');
  for (auto _ : state) {
    if (!channel->send_all(message.data(), bytes) || !channel->receive_all(message.data(), bytes)) {
      state.SkipWithError("the stream broke");
      return;
    }
  }
  state.SetBytesProcessed(int64_t(state.iterations()) * int64_t(bytes) * 2);
}

void over_sockets(benchmark::State& state, const SocketAddress& address) {
  Result<UniqueFd> listener = listen_at(address);
  if (!listener) return state.SkipWithError(listener.error().to_string().c_str());
  size_t bytes = size_t(state.range(0));
  EchoProcess server([&] {
    Result<UniqueFd> fd = accept_one(listener->get());
    if (!fd) return;
    if (address.port) (void)set_no_delay(fd->get());
    SocketChannel channel(std::move(*fd));
    echo(&channel, bytes);
  });
  Result<UniqueFd> fd = connect_to(address);
  if (!fd) return state.SkipWithError(fd.error().to_string().c_str());
  if (address.port) (void)set_no_delay(fd->get());
  SocketChannel channel(std::move(*fd));
  round_trips(state, &channel);
}

void ping_pong_plain(benchmark::State& state) {
  Result<uint16_t> port = free_port();
  if (!port) return state.SkipWithError(port.error().to_string().c_str());
  over_sockets(state, {.port = *port});
}

void ping_pong_unix(benchmark::State& state) { over_sockets(state, {.unix_id = uint64_t(getpid())}); }

void ping_pong_shm(benchmark::State& state) {
  void* at = mmap(nullptr, sizeof(Rings), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return state.SkipWithError("no shared memory");
  auto* rings = new (at) Rings();
  size_t bytes = size_t(state.range(0));
  {
    EchoProcess server([&] {
      ShmChannel channel(&rings->to_client, &rings->to_server, false);
      echo(&channel, bytes);
    });
    ShmChannel channel(&rings->to_server, &rings->to_client, false);
    round_trips(state, &channel);
  }
  munmap(at, sizeof(Rings));
}

bool move_to(const std::string& procs_file) {
  UniqueFd fd(open(procs_file.c_str(), O_WRONLY | O_CLOEXEC));
  return fd && write(fd.get(), "0", 1) == 1;
}

void ping_pong_shortcut(benchmark::State& state) {
  if (!engine_host) return state.SkipWithError(engine_error.c_str());
  if (auto attached = engine_host->attach(kEngine); !attached)
    return state.SkipWithError(attached.error().to_string().c_str());
  bool moved = move_to(engine_host->cgroup(kEngine).procs_file());
  if (moved) {
    ping_pong_plain(state);
  } else {
    state.SkipWithError("cannot enter the cgroup");
  }
  if (!move_to(engine_host->cgroup("plain").procs_file())) state.SkipWithError("cannot leave the cgroup");
  state.counters["redirected"] = engine_host->take_redirected(kEngine).share();
  if (auto detached = engine_host->detach(kEngine); !detached)
    state.SkipWithError(detached.error().to_string().c_str());
}

#define PING_PONG(name) BENCHMARK(name)->Arg(64)->Arg(1024)->Arg(16384)->UseRealTime()
PING_PONG(ping_pong_plain);
PING_PONG(ping_pong_shortcut);
PING_PONG(ping_pong_unix);
PING_PONG(ping_pong_shm);

Result<std::unique_ptr<EngineHost>> open_engine() {
  auto host = EngineHost::open();
  if (!host) return host;
  if (auto added = (*host)->add_cgroup("plain"); !added) return unexpected(added.error());
  if (auto added = (*host)->add_engine(kEngine, synthetic_settings()); !added) return unexpected(added.error());
  return host;
}

// The cgroup this process came from, so that those of the harness are empty when they are removed.
std::string own_cgroup_procs() {
  std::string text = read_file("/proc/self/cgroup");
  size_t at = text.find("0::");
  if (at == std::string::npos) return {};
  std::string path = text.substr(at + 3, text.find('\n', at) - at - 3);
  return find_mount("cgroup2") + path + "/cgroup.procs";
}

}  // namespace
}  // namespace shunt::bench

int main(int argc, char** argv) {
  using namespace shunt::bench;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  std::string home = own_cgroup_procs();
  auto host = open_engine();
  if (host) {
    engine_host = host->get();
  } else {
    engine_error = host.error().to_string();
  }
  pin_here();
  benchmark::RunSpecifiedBenchmarks();
  return host && !move_to(home) ? 1 : 0;
}
