#include <fmt/format.h>
#include <grp.h>
#include <netinet/in.h>
#include <pwd.h>
#include <sched.h>
#include <sys/socket.h>

#include <bench/tls_pairs.hpp>
#include <filesystem>
#include <fstream>
#include <ktls/identity/development_ca.hpp>
#include <ktls/probe.hpp>
#include <thread>

namespace shunt::bench {
namespace {

constexpr const char* kTrustDomain = "bench.example";
constexpr const char* kInUserspace = "OpenSSL in userspace";
constexpr const char* kTlsUser = "nobody";
constexpr unsigned kCertificateDays = 2;
// The development CA's certificates have this common name, and SPIFFE IDs, of which nginx knows nothing.
constexpr const char* kCommonName = "workload";
constexpr const char* kStreamModule = "/usr/lib/nginx/modules/ngx_stream_module.so";
constexpr const char* kGatewayProgram = "shunt-gateway";
// Of a record with a ServerHello: type, version, length, handshake type, length, version, random, length of session ID.
constexpr size_t kServerHelloSessionBytes = 5 + 4 + 2 + 32;

std::string spiffe_id_of(const char* host) { return fmt::format("spiffe://{}/{}", kTrustDomain, host); }

// As the build tree has it, or as it is installed.
std::string gateway_program() {
  std::error_code code;
  const auto folder = std::filesystem::read_symlink("/proc/self/exe", code).parent_path();
  const std::string built = folder / "../ktls/gateway" / kGatewayProgram;
  return program_exists(built) ? built : kGatewayProgram;
}

Result<std::string> issue(const std::string& ca, const std::string& folder, const char* host) {
  const auto id = parse_workload_id(spiffe_id_of(host));
  if (!id) return unexpected(id.error());
  std::string out = folder + "/" + host;
  const auto issued = issue_certificate(ca, *id, out, kCertificateDays);
  if (!issued) return unexpected(issued.error());
  // haproxy wants both in one file.
  auto written = write_file(out + "/both.pem", read_file(issued->certificate) + read_file(issued->key));
  if (written)
    written = run_all({fmt::format("chmod 600 {}/both.pem", out), fmt::format("chown -R {} {}", kTlsUser, out)}, -1);
  if (!written) return unexpected(written.error());
  return out;
}

// In a thread of its own: this process stays where it is.
void within_netns(int netns_fd, const std::function<void()>& action) {
  std::thread([&] {
    if (setns(netns_fd, CLONE_NEWNET) == 0) action();
  }).join();
}

// ---- shunt-gateway ----

std::string gateway_absent() {
  return program_exists(gateway_program()) ? "" : fmt::format("{} is not installed", kGatewayProgram);
}

std::string kernel_tls_absent() {
  if (std::string why = gateway_absent(); !why.empty()) return why;
  const KtlsProbeReport probe = ktls_probe();
  if (!probe.usable)
    return "this kernel has no kTLS: " + probe.items.back().found + " (" + probe.items.back().remedy + ")";
  return probe.settings.ciphers & kKtlsAes128Gcm ? "" : "this kernel's kTLS does not have AES-128-GCM";
}

std::string gateway_config(const char* ktls, const std::string& identity, const std::string& more) {
  return fmt::format(R"(
user: {0}
threads: 1
ktls: {1}
identity: {{certificate: {2}/certificate.pem, key: {2}/key.pem}}
trust: [{{domain: {3}, bundle: {2}/bundle.pem}}]
status: ''
metrics: {{listen: ''}}
access_log: {{path: ''}}
log: {{target: stderr, level: warning}}
{4})",
                     kTlsUser, ktls, identity, kTrustDomain, more);
}

Result<void> start_gateway(RunningStack* stack, const StackContext& context, const char* host,
                           const std::string& config) {
  const std::string path = fmt::format("{}/{}.yaml", context.folder, host);
  if (auto written = write_file(path, config); !written) return written;
  const int netns = stack->namespaces[host == std::string("client") ? 0 : 1].get();
  return start_server(stack, in_context(context, {gateway_program(), "-c", path}, netns),
                      context.folder + "/servers.log");
}

Result<void> start_gateways(RunningStack* stack, const StackContext& context, const TlsIdentities& identities,
                            const char* ktls) {
  const std::string service =
      fmt::format("listen: ['{}:{}']\nservices: [{{name: bench, server: '127.0.0.1:{}', allow: ['{}']}}]\n",
                  kServerHost, kTlsGatewayPort, kTlsServerPort, spiffe_id_of("client"));
  auto started = start_gateway(stack, context, "server", gateway_config(ktls, identities.server_folder, service));
  if (!started) return started;
  const std::string directory = context.folder + "/directory.yaml";
  auto written = write_file(
      directory, fmt::format("services: [{{name: bench, listen: '127.0.0.1:{}', gateway: '{}:{}', identity: '{}'}}]\n",
                             kTlsClientPort, kServerHost, kTlsGatewayPort, spiffe_id_of("server")));
  if (!written) return written;
  return start_gateway(stack, context, "client",
                       gateway_config(ktls, identities.client_folder, fmt::format("directory: [{}]\n", directory)));
}

Result<void> start_with_kernel(RunningStack* stack, const StackContext& context, const TlsIdentities& identities) {
  return start_gateways(stack, context, identities, "required");
}

Result<void> start_with_openssl(RunningStack* stack, const StackContext& context, const TlsIdentities& identities) {
  return start_gateways(stack, context, identities, "off");
}

// ---- haproxy ----

// Not there, or of no use on this CPU.
std::string program_absent(const char* name) {
  if (!program_exists(name)) return fmt::format("{} is not installed", name);
  Command command;
  command.argv = {name, "-v"};
  const auto ran = run_command(command, 20);
  return ran ? "" : fmt::format("{} does not run here: {}", name, ran.error().to_string());
}

std::string haproxy_absent() { return program_absent("haproxy"); }

std::string haproxy_config(const std::string& identity, const std::string& bind, const std::string& server,
                           bool to_mesh) {
  const std::string tls =
      fmt::format(" ssl crt {0}/both.pem ca-file {0}/bundle.pem verify required ssl-min-ver TLSv1.3 ciphersuites {1}",
                  identity, kTlsCipher);
  return fmt::format(R"(
global
  nbthread 1
  maxconn 1024
  user {0}
defaults
  mode tcp
  retries 0
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen gateway
  bind {1}{2}
  server next {3}{4}
)",
                     kTlsUser, bind, to_mesh ? "" : tls, server, to_mesh ? tls : "");
}

Result<void> start_haproxy_pair(RunningStack* stack, const StackContext& context, const TlsIdentities& identities) {
  const std::string mesh = fmt::format("{}:{}", kServerHost, kTlsGatewayPort);
  for (bool to_mesh : {false, true}) {
    const std::string path = fmt::format("{}/{}.cfg", context.folder, to_mesh ? "client" : "server");
    const std::string config =
        to_mesh ? haproxy_config(identities.client_folder, fmt::format("127.0.0.1:{}", kTlsClientPort), mesh, true)
                : haproxy_config(identities.server_folder, mesh, fmt::format("127.0.0.1:{}", kTlsServerPort), false);
    if (auto written = write_file(path, config); !written) return written;
    const Command command =
        in_context(context, {"haproxy", "-db", "-f", path}, stack->namespaces[to_mesh ? 0 : 1].get());
    if (auto started = start_server(stack, command, context.folder + "/servers.log"); !started) return started;
  }
  return {};
}

// ---- nginx ----

bool has_stream_module() { return access(kStreamModule, R_OK) == 0; }

std::string nginx_absent() {
  if (std::string why = program_absent("nginx"); !why.empty() || has_stream_module()) return why;
  Command command;
  command.argv = {"nginx", "-V"};
  const auto options = run_command(command, 20);
  const bool built_in = options && (*options + " ").find("--with-stream ") != std::string::npos;
  return built_in ? "" : "nginx' stream module is not installed (libnginx-mod-stream)";
}

std::string group_of_user(const char* name) {
  const passwd* user = getpwnam(name);
  const group* found = user ? getgrgid(user->pw_gid) : nullptr;
  return found ? found->gr_name : name;
}

std::string nginx_stream_config(const std::string& folder, const char* host, const std::string& server) {
  return fmt::format(R"(
{0}
daemon off;
worker_processes 1;
user {1} {2};
pid {3}/{4}.pid;
error_log {3}/servers.log;
events {{ worker_connections 1024; }}
stream {{
  server {{
{5}
  }}
}}
)",
                     has_stream_module() ? fmt::format("load_module {};", kStreamModule) : "", kTlsUser,
                     group_of_user(kTlsUser), folder, host, server);
}

// TLS directives begin with `prefix`; `trusted` is the one that names the CAs.
std::string nginx_tls(const char* prefix, const std::string& identity, const char* trusted) {
  return fmt::format(
      "    {0}protocols TLSv1.3; {0}conf_command Ciphersuites {1};\n    {0}certificate {2}/certificate.pem; "
      "{0}certificate_key "
      "{2}/key.pem; {0}{3} {2}/bundle.pem;\n",
      prefix, kTlsCipher, identity, trusted);
}

Result<void> start_nginx_pair(RunningStack* stack, const StackContext& context, const TlsIdentities& identities) {
  const std::string mesh = fmt::format("{}:{}", kServerHost, kTlsGatewayPort);
  const std::string server = fmt::format("    listen {} ssl; proxy_pass 127.0.0.1:{};\n", mesh, kTlsServerPort) +
                             nginx_tls("ssl_", identities.server_folder, "client_certificate") +
                             "    ssl_verify_client on;";
  const std::string client = fmt::format("    listen 127.0.0.1:{}; proxy_pass {};\n", kTlsClientPort, mesh) +
                             nginx_tls("proxy_ssl_", identities.client_folder, "trusted_certificate") +
                             fmt::format("    proxy_ssl on; proxy_ssl_verify on; proxy_ssl_name {};", kCommonName);
  const std::string log = context.folder + "/servers.log";
  for (bool to_mesh : {false, true}) {
    const char* host = to_mesh ? "client" : "server";
    const std::string path = fmt::format("{}/{}.conf", context.folder, host);
    if (auto written = write_file(path, nginx_stream_config(context.folder, host, to_mesh ? client : server)); !written)
      return written;
    const Command command = in_context(context, {"nginx", "-e", log, "-p", context.folder, "-c", path},
                                       stack->namespaces[to_mesh ? 0 : 1].get());
    if (auto started = start_server(stack, command, log); !started) return started;
  }
  return {};
}

// ---- nothing in between ----

std::string never_absent() { return {}; }
Result<void> start_nothing(RunningStack*, const StackContext&, const TlsIdentities&) { return {}; }

}  // namespace

const std::vector<TlsVariant> kTlsVariants = {
    {"gateway-openssl", "shunt-gateway on both hosts, ktls: off", kInUserspace, false, gateway_absent,
     start_with_openssl},
    {"gateway-ktls", "shunt-gateway on both hosts, ktls: required", "the kernel", true, kernel_tls_absent,
     start_with_kernel},
    {"haproxy", "haproxy on both hosts, mode tcp", kInUserspace, false, haproxy_absent, start_haproxy_pair},
    {"nginx", "nginx on both hosts, stream module", kInUserspace, false, nginx_absent, start_nginx_pair},
    {"plain", "no gateways: plain TCP between the hosts", nullptr, false, never_absent, start_nothing},
};

Result<TlsIdentities> make_tls_identities(const std::string& folder) {
  const std::string ca = folder + "/ca";
  if (auto made = make_development_ca(ca, kTrustDomain, kCertificateDays); !made) return unexpected(made.error());
  auto client = issue(ca, folder, "client"), server = issue(ca, folder, "server");
  if (!client) return unexpected(client.error());
  if (!server) return unexpected(server.error());
  return TlsIdentities{*client, *server};
}

Result<ServerHelloListener> ServerHelloListener::open(int netns_fd) {
  UniqueFd fd;
  int code = 0;
  within_netns(netns_fd, [&] {
    fd.reset(socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP));
    code = errno;
  });
  if (!fd) return unexpected(code, "listen to the packets of a network namespace");
  return ServerHelloListener(std::move(fd));
}

uint64_t kernel_tls_connections(int netns_fd) {
  uint64_t connections = 0;
  within_netns(netns_fd, [&] {
    std::ifstream counters("/proc/thread-self/net/tls_stat");
    std::string name;
    for (uint64_t value; counters >> name >> value;) {
      if (name == "TlsTxSw" || name == "TlsTxDevice") connections += value;
    }
  });
  return connections;
}

uint16_t ServerHelloListener::suite() {
  std::vector<unsigned char> packet(2048);
  for (ssize_t got; (got = recv(fd_.get(), packet.data(), packet.size(), 0)) > 0;) {
    std::vector<unsigned char> whole(packet.begin(), packet.begin() + got);
    if (suite_ == 0) suite_ = suite_of_server_hello(whole);
  }
  return suite_;
}

uint16_t suite_of_server_hello(const std::vector<unsigned char>& packet) {
  const size_t ip_bytes = packet.empty() ? 0 : size_t(packet[0] & 0x0f) * 4;
  if (packet.size() < ip_bytes + 20) return 0;
  const size_t record = ip_bytes + size_t(packet[ip_bytes + 12] >> 4) * 4;
  const size_t session = record + kServerHelloSessionBytes;
  if (packet.size() <= session || packet[record] != 0x16 || packet[record + 1] != 3 || packet[record + 5] != 2)
    return 0;
  const size_t suite = session + 1 + packet[session];
  if (packet.size() < suite + 2) return 0;
  return uint16_t(packet[suite] << 8 | packet[suite + 1]);
}

}  // namespace shunt::bench
