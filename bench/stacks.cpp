#include <fmt/format.h>
#include <glob.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <bench/channel.hpp>
#include <bench/stacks.hpp>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <sstream>
#include <thread>

namespace shunt::bench {
namespace {

constexpr uint32_t kBodyBytes = 1024;
constexpr uint16_t kChainPort = 8080;      // of the application, in both namespaces of a chain
constexpr uint16_t kOutboundPort = 18001;  // of the client's sidecar
constexpr uint16_t kInboundPort = 18006;   // of the server's sidecar
constexpr int kKeysOfRedis = 10000;
constexpr const char* kServerUser = "www-data";
constexpr const char* kDatabaseUser = "postgres";

// wrk calls response() only where a script has one, so this runs outside the timed part.
constexpr const char* kCheckScript = R"(
local threads = {}
function setup(thread) table.insert(threads, thread) end
function init(args)
  local file = io.open(args[1], "r")
  expected = file:read("*a")
  file:close()
  seen, wrong = 0, 0
end
function response(status, headers, body)
  seen = seen + 1
  if status ~= 200 or body ~= expected then wrong = wrong + 1 end
end
function done(summary, latency, requests)
  local all_seen, all_wrong = 0, 0
  for _, thread in ipairs(threads) do
    all_seen, all_wrong = all_seen + thread:get("seen"), all_wrong + thread:get("wrong")
  end
  io.write(string.format("checked %d wrong %d\n", all_seen, all_wrong))
end
)";

std::function<bool()> succeeds(const Command& probe) {
  return [probe] { return run_command(probe, 5).has_value(); };
}

// The number behind `label`, or -1.
double number_after(const std::string& text, const std::string& label) {
  size_t at = text.find(label);
  if (at == std::string::npos) return -1;
  return std::strtod(text.c_str() + at + label.size(), nullptr);
}

// "1.23ms", "870.00us", "1.10s" behind a percentage in wrk's table, in microseconds.
double wrk_latency_us(const std::string& text, const std::string& percent) {
  size_t at = text.find(percent + "%");
  if (at == std::string::npos) return 0;
  char* unit = nullptr;
  double value = std::strtod(text.c_str() + at + percent.size() + 1, &unit);
  if (unit[0] == 'u') return value;
  return unit[0] == 'm' ? value * 1e3 : value * 1e6;
}

std::string wrk_complaint(const std::string& text, bool check) {
  for (const char* complaint : {"Socket errors:", "Non-2xx or 3xx responses:"}) {
    size_t at = text.find(complaint);
    if (at != std::string::npos) return "integrity: " + text.substr(at, text.find('\n', at) - at);
  }
  if (!check) return {};
  double seen = number_after(text, "checked "), wrong = number_after(text, "wrong ");
  if (seen > 0 && wrong == 0) return {};
  return fmt::format("integrity: {} of {} answers are not the file", wrong, seen);
}

struct WrkTarget {
  std::string url;
  std::string folder;  // with check.lua and www/index.html
  int netns_fd = -1;
};

Sample run_wrk(const StackContext& context, const WrkTarget& target, int concurrency, double seconds, bool check) {
  Sample sample;
  int whole_seconds = std::max(1, int(std::lround(seconds)));
  std::vector<std::string> argv = {"wrk", "-t1", fmt::format("-c{}", concurrency), fmt::format("-d{}s", whole_seconds),
                                   "--latency"};
  if (check) argv.insert(argv.end(), {"-s", target.folder + "/check.lua"});
  argv.push_back(target.url);
  if (check) argv.insert(argv.end(), {"--", target.folder + "/www/index.html"});
  double cpu_before = context.cpu_seconds();
  Result<std::string> text = run_command(in_context(context, argv, target.netns_fd), whole_seconds + 20);
  double cpu_ns = (context.cpu_seconds() - cpu_before) * 1e9;
  sample.error = text ? wrk_complaint(*text, check) : text.error().to_string();
  if (!sample.error.empty()) return sample;
  sample.value = number_after(*text, "Requests/sec:");
  sample.cpu_ns_per_message = sample.value > 0 ? cpu_ns / (sample.value * whole_seconds) : 0;
  sample.p50_us = wrk_latency_us(*text, "50");
  sample.p99_us = wrk_latency_us(*text, "99");
  return sample;
}

// The file that is served, and the script that compares it.
Result<void> write_content(const std::string& folder) {
  std::error_code failed;
  std::filesystem::create_directories(folder + "/www", failed);
  std::string body;
  while (body.size() < kBodyBytes) body += fmt::format("line {} of the file that is served\n", body.size());
  body.resize(kBodyBytes);
  if (auto written = write_file(folder + "/www/index.html", body); !written) return written;
  return write_file(folder + "/check.lua", kCheckScript);
}

std::string nginx_config(const std::string& folder, const std::string& name, const std::string& http) {
  return fmt::format(R"(
daemon off;
worker_processes 1;
user {0};
pid {1}/{2}.pid;
error_log {1}/{2}.err;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  default_type text/html;
  client_body_temp_path {1}/{2}.body;
  proxy_temp_path {1}/{2}.proxy;
  fastcgi_temp_path {1}/{2}.fastcgi;
  uwsgi_temp_path {1}/{2}.uwsgi;
  scgi_temp_path {1}/{2}.scgi;
{3}
}}
)",
                     kServerUser, folder, name, http);
}

// With nginx's own defaults; `as_debian`: with the two settings that Debian's nginx.conf adds, which send the head of a
// response with a corked write and the file with sendfile().
std::string nginx_static(const std::string& folder, const std::string& listen, bool as_debian = false) {
  return fmt::format("  server {{ listen {}; root {}/www; {}}}", listen, folder,
                     as_debian ? "sendfile on; tcp_nopush on; " : "");
}

// A sidecar as meshes configure it: HTTP/1.1 upstream with kept connections.
std::string nginx_sidecar(uint16_t listen, const std::string& upstream) {
  return fmt::format(R"(
  upstream application {{ server {1}; keepalive 128; }}
  server {{
    listen {0};
    location / {{
      proxy_pass http://application;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }}
  }})",
                     listen, upstream);
}

Result<void> start_nginx_process(RunningStack* stack, const StackContext& context, const std::string& name,
                                 const std::string& http, int netns_fd = -1) {
  std::string path = context.folder + "/" + name + ".conf";
  if (auto written = write_file(path, nginx_config(context.folder, name, http)); !written) return written;
  return start_server(stack, in_context(context, {"nginx", "-p", context.folder, "-c", path}, netns_fd),
                      context.folder + "/servers.log");
}

Result<void> start_haproxy_process(RunningStack* stack, const StackContext& context, const std::string& name,
                                   uint16_t listen, const std::string& upstream, int netns_fd) {
  std::string path = context.folder + "/" + name + ".cfg";
  std::string config = fmt::format(R"(
global
  nbthread 1
  maxconn 4096
  user {0}
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend sidecar
  bind :{1}
  default_backend application
backend application
  server application {2}
)",
                                   kServerUser, listen, upstream);
  if (auto written = write_file(path, config); !written) return written;
  return start_server(stack, in_context(context, {"haproxy", "-db", "-f", path}, netns_fd),
                      context.folder + "/servers.log");
}

Result<void> ready_for_wrk(RunningStack* stack, const StackContext& context, const WrkTarget& target) {
  // Not in the variant's cgroup: the probe is not part of the stack.
  Command probe;
  probe.argv = {"curl", "-sf", "-o", "/dev/null", "-m", "2", target.url};
  probe.netns_fd = target.netns_fd;
  if (auto ready = wait_ready(stack, succeeds(probe), context.folder + "/servers.log"); !ready) return ready;
  stack->load = [context, target](int concurrency, double seconds, bool check) {
    return run_wrk(context, target, concurrency, seconds, check);
  };
  return {};
}

Result<std::unique_ptr<RunningStack>> start_one_nginx(const StackContext& context, bool as_debian) {
  auto stack = std::make_unique<RunningStack>();
  Result<uint16_t> port = free_port();
  if (!port) return unexpected(port.error());
  if (auto written = write_content(context.folder); !written) return unexpected(written.error());
  std::string listen = fmt::format("127.0.0.1:{}", *port);
  auto started = start_nginx_process(stack.get(), context, "server", nginx_static(context.folder, listen, as_debian));
  if (!started) return unexpected(started.error());
  WrkTarget target = {fmt::format("http://{}/index.html", listen), context.folder, -1};
  if (auto ready = ready_for_wrk(stack.get(), context, target); !ready) return unexpected(ready.error());
  return stack;
}

Result<std::unique_ptr<RunningStack>> start_nginx(const StackContext& context) {
  return start_one_nginx(context, false);
}
Result<std::unique_ptr<RunningStack>> start_nginx_debian(const StackContext& context) {
  return start_one_nginx(context, true);
}

// Two namespaces as of two pods. In the client's, what root sends to the application is turned to the sidecar, which
// runs as another user and is left alone; in the server's, what arrives for the application is.
Result<void> make_pods(RunningStack* stack) {
  if (auto made = make_two_hosts(stack); !made) return made;
  const auto redirect = [](const char* chain, const char* who, uint16_t port) {
    return fmt::format("iptables -w -t nat -A {} -p tcp --dport {}{} -j REDIRECT --to-ports {}", chain, kChainPort, who,
                       port);
  };
  auto turned = run_all({redirect("OUTPUT", " -m owner --uid-owner 0", kOutboundPort)}, stack->namespaces[0].get());
  if (!turned) return turned;
  return run_all({redirect("PREROUTING", "", kInboundPort)}, stack->namespaces[1].get());
}

Result<std::unique_ptr<RunningStack>> start_chain(const StackContext& context, bool haproxy) {
  auto stack = std::make_unique<RunningStack>();
  if (auto made = make_pods(stack.get()); !made) return unexpected(made.error());
  if (auto written = write_content(context.folder); !written) return unexpected(written.error());
  int client = stack->namespaces[0].get(), server = stack->namespaces[1].get();
  std::string service = fmt::format("{}:{}", kServerHost, kChainPort), local = fmt::format("127.0.0.1:{}", kChainPort);
  auto started = start_nginx_process(stack.get(), context, "server",
                                     nginx_static(context.folder, std::to_string(kChainPort)), server);
  for (bool outbound : {false, true}) {
    if (!started) return unexpected(started.error());
    std::string name = outbound ? "outbound" : "inbound", upstream = outbound ? service : local;
    uint16_t listen = outbound ? kOutboundPort : kInboundPort;
    int netns = outbound ? client : server;
    started = haproxy ? start_haproxy_process(stack.get(), context, name, listen, upstream, netns)
                      : start_nginx_process(stack.get(), context, name, nginx_sidecar(listen, upstream), netns);
  }
  if (!started) return unexpected(started.error());
  WrkTarget target = {fmt::format("http://{}/index.html", service), context.folder, client};
  if (auto ready = ready_for_wrk(stack.get(), context, target); !ready) return unexpected(ready.error());
  return stack;
}

Result<std::unique_ptr<RunningStack>> start_nginx_chain(const StackContext& context) {
  return start_chain(context, false);
}
Result<std::unique_ptr<RunningStack>> start_haproxy_chain(const StackContext& context) {
  return start_chain(context, true);
}

// redis-benchmark knows only a number of requests: each run takes what the last one's rate makes of the time.
Sample run_redis_benchmark(const StackContext& context, uint16_t port, int concurrency, double seconds, double* rate) {
  Sample sample;
  uint64_t requests = std::max<uint64_t>(5000, uint64_t(*rate * seconds));
  double cpu_before = context.cpu_seconds();
  Result<std::string> text =
      run_command(in_context(context, {"redis-benchmark", "-p", std::to_string(port), "-c", std::to_string(concurrency),
                                       "-n", std::to_string(requests), "-r", std::to_string(kKeysOfRedis), "-d", "64",
                                       "-t", "get", "--csv"}),
                  seconds * 20 + 20);
  double cpu_ns = (context.cpu_seconds() - cpu_before) * 1e9;
  if (!text) {
    sample.error = text.error().to_string();
    return sample;
  }
  // "GET","rps","avg_ms","min_ms","p50_ms","p95_ms","p99_ms","max_ms"
  std::vector<double> fields;
  size_t at = text->find("\"GET\"");
  for (; at != std::string::npos && fields.size() < 7; at = text->find(",\"", at + 1)) {
    if ((*text)[at] == ',') fields.push_back(std::strtod(text->c_str() + at + 2, nullptr));
  }
  if (fields.size() < 6) {
    sample.error = "redis-benchmark said: " + *text;
    return sample;
  }
  *rate = sample.value = fields[0];
  sample.p50_us = fields[3] * 1000;
  sample.p99_us = fields[5] * 1000;
  sample.cpu_ns_per_message = cpu_ns / double(requests);
  return sample;
}

Result<std::unique_ptr<RunningStack>> start_redis(const StackContext& context) {
  auto stack = std::make_unique<RunningStack>();
  Result<uint16_t> port = free_port();
  if (!port) return unexpected(port.error());
  std::string log = context.folder + "/servers.log", port_text = std::to_string(*port);
  auto started = start_server(stack.get(),
                              in_context(context, {"redis-server", "--port", port_text, "--bind", "127.0.0.1", "--save",
                                                   "", "--appendonly", "no", "--dir", context.folder}),
                              log);
  if (!started) return unexpected(started.error());
  Command probe;
  probe.argv = {"redis-cli", "-p", port_text, "ping"};
  if (auto ready = wait_ready(stack.get(), succeeds(probe), log); !ready) return unexpected(ready.error());
  Command fill;
  fill.argv = {"redis-benchmark",
               "-p",
               port_text,
               "-n",
               std::to_string(2 * kKeysOfRedis),
               "-r",
               std::to_string(kKeysOfRedis),
               "-d",
               "64",
               "-t",
               "set",
               "-q"};
  if (auto filled = run_command(fill, 60); !filled) return unexpected(filled.error());
  auto rate = std::make_shared<double>(20000);
  stack->load = [context, port, rate](int concurrency, double seconds, bool) {
    return run_redis_benchmark(context, *port, concurrency, seconds, rate.get());
  };
  return stack;
}

// The newest installed: Debian keeps the server's programs out of PATH, and its wrapper would be one more process.
std::string postgres_folder() {
  glob_t found{};
  std::string folder;
  if (glob("/usr/lib/postgresql/*/bin/initdb", 0, nullptr, &found) == 0 && found.gl_pathc > 0) {
    folder = std::filesystem::path(found.gl_pathv[found.gl_pathc - 1]).parent_path().string();
  }
  globfree(&found);
  return folder;
}

Sample run_pgbench(const StackContext& context, const std::string& bin, uint16_t port, int concurrency,
                   double seconds) {
  Sample sample;
  int whole_seconds = std::max(1, int(std::lround(seconds)));
  Command command = in_context(
      context, {bin + "/pgbench", "-h", "127.0.0.1", "-p", std::to_string(port), "-U", kDatabaseUser, "-S", "-n", "-j",
                "1", "-c", std::to_string(concurrency), "-T", std::to_string(whole_seconds), "postgres"});
  command.user = kDatabaseUser;
  double cpu_before = context.cpu_seconds();
  Result<std::string> text = run_command(command, whole_seconds + 30);
  double cpu_ns = (context.cpu_seconds() - cpu_before) * 1e9;
  double failed = text ? number_after(*text, "number of failed transactions:") : 0;
  sample.error = !text ? text.error().to_string() : failed > 0 ? "integrity: failed transactions" : "";
  if (!sample.error.empty()) return sample;
  sample.value = number_after(*text, "tps = ");
  sample.cpu_ns_per_message = sample.value > 0 ? cpu_ns / (sample.value * whole_seconds) : 0;
  return sample;
}

Result<std::unique_ptr<RunningStack>> start_postgres(const StackContext& context) {
  auto stack = std::make_unique<RunningStack>();
  std::string bin = postgres_folder(), log = context.folder + "/servers.log", data = context.folder + "/data";
  if (bin.empty()) return unexpected(Error{ENOENT, "PostgreSQL is not installed", "install postgresql"});
  Result<uint16_t> port = free_port();
  if (!port) return unexpected(port.error());
  if (auto owned = run_all({fmt::format("install -d -o {} -m 700 {}", kDatabaseUser, data)}, -1); !owned) {
    return unexpected(owned.error());
  }
  Command make;
  make.user = kDatabaseUser;
  make.argv = {bin + "/initdb", "-D",        data, "-U",   kDatabaseUser, "-A",
               "trust",         "--no-sync", "-E", "UTF8", "--locale=C"};
  if (auto made = run_command(make, 120); !made) return unexpected(made.error());
  std::string port_text = std::to_string(*port);
  Command serve =
      in_context(context, {bin + "/postgres", "-D", data, "-p", port_text, "-c", "listen_addresses=127.0.0.1", "-c",
                           "unix_socket_directories=", "-c", "fsync=off"});
  serve.user = kDatabaseUser;
  if (auto started = start_server(stack.get(), serve, log); !started) return unexpected(started.error());
  Command probe;
  probe.argv = {bin + "/pg_isready", "-h", "127.0.0.1", "-p", port_text};
  if (auto ready = wait_ready(stack.get(), succeeds(probe), log); !ready) return unexpected(ready.error());
  Command fill;
  fill.user = kDatabaseUser;
  fill.argv = {bin + "/pgbench", "-h", "127.0.0.1", "-p", port_text, "-U",
               kDatabaseUser,    "-i", "-q",        "-s", "1",       "postgres"};
  if (auto filled = run_command(fill, 120); !filled) return unexpected(filled.error());
  stack->load = [context, bin, port](int concurrency, double seconds, bool) {
    return run_pgbench(context, bin, *port, concurrency, seconds);
  };
  return stack;
}

}  // namespace

const std::vector<StackKind> kStacks = {
    {"nginx", "wrk -> nginx", {"wrk", "nginx", "curl"}, {1, 16, 128}, start_nginx, true},
    {"nginx-sendfile",
     "wrk -> nginx with Debian's sendfile and tcp_nopush",
     {"wrk", "nginx", "curl"},
     {1, 16, 128},
     start_nginx_debian,
     true},
    {"nginx-chain",
     "wrk -> nginx -> nginx -> nginx, sidecars in two namespaces",
     {"wrk", "nginx", "curl", "ip", "iptables"},
     {16},
     start_nginx_chain},
    {"haproxy-chain",
     "wrk -> haproxy -> haproxy -> nginx, sidecars in two namespaces",
     {"wrk", "nginx", "haproxy", "curl", "ip", "iptables"},
     {16},
     start_haproxy_chain},
    {"redis", "redis-benchmark -t get", {"redis-server", "redis-benchmark", "redis-cli"}, {16}, start_redis, true},
    {"pgbench", "pgbench -S", {}, {8}, start_postgres},
};

const StackKind& stack_kind(const std::string& name) {
  return *std::find_if(kStacks.begin(), kStacks.end(), [&](const StackKind& kind) { return name == kind.name; });
}

std::vector<StackCell> all_stack_cells() {
  std::vector<StackCell> cells;
  for (const StackKind& kind : kStacks) {
    for (int concurrency : kind.concurrencies) {
      cells.push_back({fmt::format("{}/c{}", kind.name, concurrency), kind.name, concurrency});
    }
  }
  return cells;
}

}  // namespace shunt::bench
