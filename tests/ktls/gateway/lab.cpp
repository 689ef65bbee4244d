#include "ktls/gateway/lab.hpp"

#include <gtest/gtest.h>
#include <pwd.h>
#include <sys/stat.h>

#include <cstdio>
#include <ktls/identity/pem.hpp>
#include <sstream>

#include "ktls/sessions.hpp"

namespace shunt::test {

namespace {

constexpr auto kPatience = std::chrono::seconds(30);
constexpr char kUser[] = "nobody";

// As a renewal does it: the old file is there until the new one is.
void replace_file(const std::string& path, std::string_view text, mode_t mode) {
  const passwd* user = getpwnam(kUser);
  require(user != nullptr, "find the user nobody");
  require(write_text(path + ".new", std::string(text)) && chmod((path + ".new").c_str(), mode) == 0 &&
              chown((path + ".new").c_str(), user->pw_uid, user->pw_gid) == 0 &&
              std::rename((path + ".new").c_str(), path.c_str()) == 0,
          "write " + path);
}

}  // namespace

std::string ktls_use() {
  const char* use = std::getenv("SHUNT_TEST_KTLS");
  return use ? use : "off";
}

void HostFiles::write(const Forged& leaf, const std::string& bundle) const {
  auto key = pem_of_key(leaf.key.get());
  require(key.has_value(), "write a key");
  replace_file(folder + "/bundle.pem", bundle, 0644);
  replace_file(folder + "/certificate.pem", pem_of(leaf), 0644);
  replace_file(folder + "/key.pem", bytes_of(key->get()), 0600);
}

// ---- one gateway ----

int ending_of(int fd) {
  set_receive_timeout(fd, kPatience);
  char bytes[4096];
  ssize_t got;
  while ((got = recv(fd, bytes, sizeof(bytes), 0)) > 0) {
  }
  return got == 0 ? 0 : errno;
}

Gateway::Gateway(const NetNs& ns, const std::string& folder, const std::string& config) : folder_(folder) {
  require(write_text(folder + "/gateway.yaml", config), "write a configuration");
  unlink((folder + "/log").c_str());  // an earlier one's
  process_ = Child::exec({SHUNT_GATEWAY, "-c", folder + "/gateway.yaml"}, folder + "/log", ns.fd());
}

bool Gateway::ready() { return says({"msg=ready"}); }

bool Gateway::says(const std::vector<std::string>& parts) const {
  return eventually(
      [&] {
        std::istringstream lines(log());
        for (std::string line; std::getline(lines, line);) {
          const auto stands = [&](const std::string& part) { return line.find(part) != std::string::npos; };
          if (std::all_of(parts.begin(), parts.end(), stands)) return true;
        }
        return false;
      },
      kPatience);
}

std::string Gateway::status() const {
  return run_command({SHUNT_GATEWAY, "-c", folder_ + "/gateway.yaml", "--status"}).output;
}

uint64_t Gateway::resident_bytes() const {
  std::istringstream text(read_text("/proc/" + std::to_string(process_.pid()) + "/statm"));
  uint64_t pages = 0;
  text >> pages >> pages;
  return pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

// ---- new certificates ----

Rotation::Rotation(const Mesh& mesh) : mesh_(mesh), thread_([this] { run(); }) {}

Rotation::~Rotation() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stop_.notify_one();
  thread_.join();
}

void Rotation::run() {
  std::unique_lock lock(mutex_);
  do {
    lock.unlock();
    for (const auto& [files, id] : {std::pair{&mesh_.files_a, "a"}, std::pair{&mesh_.files_b, "b"}})
      files->write(mesh_.leaf(id, mesh_.ca), pem_of(mesh_.ca));
    count_++;
    lock.lock();
  } while (!stop_.wait_for(lock, std::chrono::seconds(1), [this] { return stopping_; }));
}

// ---- both ----

Mesh::Mesh(const std::string& more) : files_a{folder / "a"}, files_b{folder / "b"}, more_(more) {
  connect_namespaces(ns_a, "wire", std::string(kAddressA) + "/24", ns_b, "wire", std::string(kAddressB) + "/24");
  recorder_ = std::make_unique<Recorder>(ns_a, "wire", kMarker);
  for (const HostFiles* files : {&files_a, &files_b})
    require(mkdir(files->folder.c_str(), 0755) == 0, "make " + files->folder);
  files_a.write(leaf("a", ca), pem_of(ca));
  files_b.write(leaf("b", ca), pem_of(ca));
}

Mesh::~Mesh() {
  a.reset();
  b.reset();
  recorder_->stop();
  EXPECT_FALSE(recorder_->frames().saw()) << "the marker is on the wire";
  size_t records = 0;
  recorder_->frames().for_each_stream([&](const Flow& flow, const std::string& stream) {
    if (plaintext_sent && flow.to_port == kMeshPort) return;
    EXPECT_EQ(wire_complaint(stream, true), "") << flow.from_port << " to " << flow.to_port;
    records += stream.size();
  });
  EXPECT_GT(records, 0u) << "nothing was recorded";
}

Forged Mesh::leaf(const std::string& id, const Forged& issuer) const {
  return forge({.name = id, .alternative_names = "URI:spiffe://mesh.example/" + id}, &issuer);
}

std::string Mesh::config_head(const HostFiles& files) const {
  const auto has = [&](const char* name) { return access((files.folder + name).c_str(), F_OK) == 0; };
  return "user: " + std::string(kUser) + "\nktls: " + ktls_use() + "\nstatus: " + files.folder + "/status.sock\n" +
         "identity: {certificate: " + files.folder + "/certificate.pem, key: " + files.folder + "/key.pem}\n" +
         "trust: [{domain: mesh.example, bundle: " + files.folder + "/bundle.pem" +
         (has("/crl.pem") ? ", crl: " + files.folder + "/crl.pem" : "") + "}]\n" +
         (has("/deny") ? "revocation: {deny: " + files.folder + "/deny}\n" : "") + more_;
}

void Mesh::start_a() {
  const std::string gateway = std::string(kAddressB) + ":" + std::to_string(kMeshPort);
  const auto entry = [&](const char* name, uint16_t port, const std::string& address, const char* identity) {
    return std::string("- {name: ") + name + ", listen: 127.0.0.1:" + std::to_string(port) + ", gateway: " + address +
           ", identity: spiffe://mesh.example/" + identity + "}\n";
  };
  require(
      write_text(files_a.folder + "/directory.yaml",
                 "services:\n" + entry("echo", kEchoPort, gateway, "b") + entry("web", kWebPort, gateway, "b") +
                     entry("nobody", kNobodyPort, gateway, "b") + entry("unknown", 7004, gateway, "b") +
                     entry("echo", 7005, gateway, "another") + entry("echo", 7006, std::string(kAddressB) + ":1", "b")),
      "write a directory");
  a = std::make_unique<Gateway>(ns_a, files_a.folder,
                                config_head(files_a) + "directory: [" + files_a.folder + "/directory.yaml]\n");
  require(a->ready(), "start gateway a: " + a->log());
}

void Mesh::start_b() {
  const auto entry = [](const char* name, uint16_t port, const char* more) {
    return std::string("- {name: ") + name + ", server: 127.0.0.1:" + std::to_string(port) + more + "}\n";
  };
  b = std::make_unique<Gateway>(ns_b, files_b.folder,
                                config_head(files_b) + "listen: [" + kAddressB + ":" + std::to_string(kMeshPort) +
                                    "]\nservices:\n" + entry("echo", kEchoPort, "") + entry("web", kWebPort, "") +
                                    entry("nobody", kNobodyPort, "") +
                                    entry("private", kEchoPort, ", allow: [spiffe://mesh.example/a]"));
  require(b->ready(), "start gateway b: " + b->log());
}

UniqueFd Mesh::listen_b(uint16_t port) const {
  UniqueFd fd;
  ns_b.run([&] { fd = listen_tcp({.port = port}); });
  return fd;
}

UniqueFd Mesh::connect_a(uint16_t port) const {
  UniqueFd fd;
  ns_a.run([&] { fd = connect_tcp(endpoint("127.0.0.1", port)); });
  return fd;
}

int Mesh::ending_at_a(uint16_t port) const {
  int ending = 0;
  ns_a.run([&] {
    const Endpoint to = endpoint("127.0.0.1", port);
    const UniqueFd fd(socket(to.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    ending = ::connect(fd.get(), to.get(), to.length) == 0 ? ending_of(fd.get()) : errno;
  });
  return ending;
}

void Mesh::await_listener(const NetNs& ns, uint16_t port) const {
  char line[64];
  std::snprintf(line, sizeof(line), ":%04X 00000000:0000 0A", port);
  const auto listening = [&] {
    std::string sockets;
    ns.run([&] { sockets = read_text("/proc/thread-self/net/tcp"); });
    return sockets.find(line) != std::string::npos;
  };
  require(eventually(listening, kPatience), "wait for a listener");
}

UniqueFd Mesh::connect_mesh() const {
  UniqueFd fd;
  ns_a.run([&] { fd = connect_tcp(endpoint(kAddressB, kMeshPort)); });
  return fd;
}

Connection Mesh::connect_through_mesh(int listener) const {
  Connection connection;
  connection.client = connect_a(kEchoPort);
  if (!wait_readable(listener, kPatience)) die("nothing came through: " + a->log() + b->log());
  connection.server = accept_tcp(listener);
  return connection;
}

}  // namespace shunt::test
