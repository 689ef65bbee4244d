#include "ktls/sessions.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "support/sandbox.hpp"
#include "support/sockets.hpp"

namespace shunt::test {

namespace {

constexpr auto kPatience = std::chrono::seconds(30);
constexpr const char* kRoleNames[] = {"client", "server"};

int index_of(Role role) { return static_cast<int>(role); }

template <typename Write>
void write_pem(const std::string& path, Write write, const char* mode = "w") {
  FILE* file = fopen(path.c_str(), mode);
  require(file && write(file) == 1, "write " + path);
  fclose(file);
}

SslContext make_context(const SessionOptions& options, Role role) {
  SslContext ctx(SSL_CTX_new(role == Role::client ? TLS_client_method() : TLS_server_method()));
  require(ctx != nullptr, "SSL_CTX_new");
  Pki::get().use(ctx.get(), role);
  if (options.prepared[index_of(role)]) {
    auto prepared = ktls_prepare(ctx.get(), options.settings);
    require(prepared.has_value(), "ktls_prepare");
  } else {
    SSL_CTX_set_min_proto_version(ctx.get(), TLS1_3_VERSION);
  }
  if (options.ciphersuites) require(SSL_CTX_set_ciphersuites(ctx.get(), options.ciphersuites) == 1, "set ciphersuites");
  if (options.context) options.context(ctx.get(), role);
  return ctx;
}

}  // namespace

const Pki& Pki::get() {
  static const Pki pki;
  return pki;
}

Pki::Pki() : ca_(forge(ca_plan("test CA"))) {
  for (Role role : {Role::client, Role::server}) {
    ForgePlan plan;
    plan.name = kRoleNames[index_of(role)];
    plan.alternative_names = "DNS:localhost,IP:127.0.0.1";
    ends_[index_of(role)] = forge(plan, &ca_);
  }
}

void Pki::use(SSL_CTX* ctx, Role role) const {
  const int at = index_of(role);
  require(SSL_CTX_use_certificate(ctx, ends_[at].certificate.get()) == 1 &&
              SSL_CTX_use_PrivateKey(ctx, ends_[at].key.get()) == 1 &&
              X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), ca_.certificate.get()) == 1,
          "use certificates");
  SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
}

void Pki::write_files(const std::string& folder) const {
  write_pem(folder + "/ca.pem", [&](FILE* file) { return PEM_write_X509(file, ca_.certificate.get()); });
  for (int at : {0, 1}) {
    const std::string base = folder + "/" + kRoleNames[at];
    auto certificate = [&](FILE* file) { return PEM_write_X509(file, ends_[at].certificate.get()); };
    auto key = [&](FILE* file) {
      return PEM_write_PrivateKey(file, ends_[at].key.get(), nullptr, nullptr, 0, nullptr, nullptr);
    };
    write_pem(base + ".pem", certificate);
    write_pem(base + ".key", key);
    write_pem(base + "-both.pem", certificate);
    write_pem(base + "-both.pem", key, "a");
  }
}

// ---- the wire ----

Wire::Wire(UniqueFd client_side, UniqueFd server_side)
    : ends_{std::move(client_side), std::move(server_side)}, thread_([this] { run(); }) {}

Wire::~Wire() { stop(); }

void Wire::stop() {
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
}

std::string Wire::seen(Role sender) const {
  std::lock_guard lock(mutex_);
  return seen_[index_of(sender)];
}

bool Wire::copy(int from) {
  char bytes[32768];
  const ssize_t n = recv(ends_[from].get(), bytes, sizeof(bytes), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (n <= 0) {
    ended_[from] = true;
    ::shutdown(ends_[1 - from].get(), SHUT_WR);
    return true;
  }
  {
    std::lock_guard lock(mutex_);
    seen_[from].append(bytes, static_cast<size_t>(n));
  }
  if (corrupt_[from].exchange(false)) bytes[n - 1] ^= 1;  // seldom a header's, after which another length is waited for
  for (ssize_t sent = 0; sent < n;) {
    const ssize_t part = ::send(ends_[1 - from].get(), bytes + sent, static_cast<size_t>(n - sent), MSG_NOSIGNAL);
    if (part < 0) break;  // nobody listens any more; what comes is still looked at
    sent += part;
  }
  return true;
}

// Until both directions have ended; after stop(), until nothing is left to be read.
void Wire::run() {
  while (!(ended_[0] && ended_[1])) {
    const bool last = stopping_;
    pollfd waiting[2];
    for (int i : {0, 1}) waiting[i] = {ended_[i] || (paused_[i] && !last) ? -1 : ends_[i].get(), POLLIN, 0};
    poll(waiting, 2, 20);
    bool moved = false;
    for (int i : {0, 1}) {
      if (waiting[i].fd >= 0 && waiting[i].revents) moved = copy(i) || moved;
    }
    if (last && !moved) return;
  }
}

std::string wire_complaint(const std::string& bytes, bool torn) {
  if (bytes.find(kMarker) != std::string::npos) return "the marker is on the wire";
  bool encrypted = false;
  for (size_t at = 0; at < bytes.size();) {
    const std::string where = " at " + std::to_string(at) + " of " + std::to_string(bytes.size());
    if (bytes.size() - at < 5) return torn ? "" : "a header is cut off" + where;
    const auto* head = reinterpret_cast<const uint8_t*>(bytes.data() + at);
    const size_t length = size_t{head[3]} << 8 | head[4];
    if (head[0] < 20 || head[0] > 23 || head[1] != 3 || length == 0 || length > (1 << 14) + 256)
      return "no record" + where;
    if (head[0] == 23) encrypted = true;
    if (encrypted && head[0] != 23 && head[0] != 20) return "a plaintext record after an encrypted one" + where;
    if (bytes.size() - at < 5 + length) return torn ? "" : "a record is cut off" + where;
    at += 5 + length;
  }
  return {};
}

// ---- sessions ----

Sessions::Sessions(const SessionOptions& options) {
  UniqueFd listener = listen_tcp();
  Connection near_client = connect_through(listener.get(), local_endpoint(listener.get()));
  Connection near_server = connect_through(listener.get(), local_endpoint(listener.get()));
  fds[0] = std::move(near_client.client);
  fds[1] = std::move(near_server.client);
  wire = std::make_unique<Wire>(std::move(near_client.server), std::move(near_server.server));
  for (Role role : {Role::client, Role::server}) {
    const int at = index_of(role);
    set_receive_timeout(fds[at].get(), kPatience);
    set_send_timeout(fds[at].get(), kPatience);
    contexts[at] = make_context(options, role);
    ssls[at].reset(SSL_new(contexts[at].get()));
    if (options.prepared[at]) require(ktls_prepare(ssls[at].get()).has_value(), "ktls_prepare");
    if (options.session) options.session(ssls[at].get(), role);
    if (!SSL_get_rbio(ssls[at].get())) SSL_set_fd(ssls[at].get(), fds[at].get());
  }
  int accepted = 0;
  std::thread server([&] { accepted = SSL_accept(ssls[1].get()); });
  const int connected = SSL_connect(ssls[0].get());
  server.join();
  if (connected != 1 || accepted != 1) {
    ERR_print_errors_fp(stderr);
    die("handshake");
  }
  require(SSL_get_verify_result(ssls[1].get()) == X509_V_OK && SSL_get0_peer_certificate(ssls[1].get()),
          "the client's certificate");
}

// What went over the wire is looked at in every test.
Sessions::~Sessions() {
  ssls = {};
  fds = {};
  wire->stop();
  for (Role role : {Role::client, Role::server})
    EXPECT_EQ(wire_complaint(wire->seen(role), torn), "") << kRoleNames[index_of(role)];
}

std::string ssl_read_exactly(SSL* ssl, size_t bytes) {
  std::string got(bytes, '\0');
  size_t at = 0;
  while (at < bytes) {
    size_t n = 0;
    if (SSL_read_ex(ssl, got.data() + at, bytes - at, &n) != 1) break;
    at += n;
  }
  got.resize(at);
  return got;
}

bool ssl_write_all(SSL* ssl, const std::string& bytes) {
  size_t n = 0;
  return SSL_write_ex(ssl, bytes.data(), bytes.size(), &n) == 1 && n == bytes.size();
}

std::string receive_exactly(KtlsSocket& socket, size_t bytes, size_t piece) {
  std::string got;
  std::string buffer(piece, '\0');
  while (got.size() < bytes) {
    auto* to = reinterpret_cast<uint8_t*>(buffer.data());
    auto io = socket.recv({to, std::min(piece, bytes - got.size())});
    if (!io) return got + "[" + io.error().to_string() + "]";
    if (io->event != KtlsIo::Event::data) break;
    got.append(buffer, 0, io->bytes);
  }
  return got;
}

bool send_all(KtlsSocket& socket, const std::string& bytes) {
  for (size_t at = 0; at < bytes.size();) {
    auto io = socket.send({reinterpret_cast<const uint8_t*>(bytes.data()) + at, bytes.size() - at});
    if (!io || io->event != KtlsIo::Event::data) return false;
    at += io->bytes;
  }
  return true;
}

bool shut_down(KtlsSocket& socket) {
  return eventually([&] {
    auto done = socket.shutdown();
    return done && done->event == KtlsIo::Event::data;
  });
}

Pipe::Pipe() {
  int ends[2];
  require(pipe2(ends, O_CLOEXEC | O_NONBLOCK) == 0, "pipe");
  reading.reset(ends[0]);
  writing.reset(ends[1]);
}

std::string marked(uint64_t seed, size_t bytes) {
  std::string text = pattern(seed, bytes);
  for (size_t at = 0; at + sizeof(kMarker) <= bytes; at += 64) text.replace(at, sizeof(kMarker) - 1, kMarker);
  return text;
}

}  // namespace shunt::test
