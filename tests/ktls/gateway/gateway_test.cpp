// Two gateways between programs that know nothing of them, and strangers at their ports. On kernels without kTLS
// OpenSSL encrypts; the guests run the same with keys in the kernel.
#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <poll.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <ktls/openssl.hpp>
#include <ktls/probe.hpp>
#include <thread>

#include "ktls/gateway/lab.hpp"
#include "ktls/openssl_program.hpp"
#include "ktls/sessions.hpp"

namespace shunt::test {

namespace {

constexpr auto kPatience = std::chrono::seconds(60);
constexpr size_t kMegabyte = 1'000'000;
constexpr size_t kRotations = 4;  // while something is done again and again

// SHUNT_TEST_CONNECTIONS, SHUNT_TEST_MEGABYTES, SHUNT_TEST_HANDSHAKES: how many, if another number than the usual one
// is wanted.
size_t wanted(const char* name, size_t usual) {
  const char* more = std::getenv(name);
  return more ? static_cast<size_t>(std::atoll(more)) : usual;
}

size_t body_bytes() { return wanted("SHUNT_TEST_MEGABYTES", 10) * kMegabyte; }

void make_room_for_descriptors(size_t count) {
  rlimit limit{};
  require(getrlimit(RLIMIT_NOFILE, &limit) == 0, "ask for the limit of descriptors");
  limit.rlim_cur = std::max<rlim_t>(limit.rlim_cur, count + 1024);
  limit.rlim_max = std::max(limit.rlim_max, limit.rlim_cur);
  require(setrlimit(RLIMIT_NOFILE, &limit) == 0, "raise the limit of descriptors");
}

// Bytes that need no room: a megabyte is made, sent or received, and hashed at a time.
class Hash {
 public:
  Hash() { require(context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1, "hash"); }
  void add(const std::string& bytes) { EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()); }
  std::string end() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned bytes = 0;
    EVP_DigestFinal_ex(context_.get(), digest, &bytes);
    return {reinterpret_cast<char*>(digest), bytes};
  }

 private:
  std::unique_ptr<EVP_MD_CTX, FreedBy<EVP_MD_CTX_free>> context_{EVP_MD_CTX_new()};
};

std::string send_body(int fd, uint64_t seed, size_t bytes) {
  Hash hash;
  for (size_t at = 0; at < bytes; at += kMegabyte) {
    const std::string part = marked(seed + at, kMegabyte);
    hash.add(part);
    send_all(fd, part);
  }
  return hash.end();
}

// The hash of what came: all of it, or up to the end.
std::string receive_body(int fd, size_t bytes) {
  Hash hash;
  for (size_t at = 0; at < bytes;) {
    const std::string part = receive_exactly(fd, std::min(kMegabyte, bytes - at), kPatience);
    if (part.empty()) break;
    hash.add(part);
    at += part.size();
  }
  return hash.end();
}

void close_with_reset(UniqueFd& fd) {
  const linger now{1, 0};
  setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  fd.reset();
}

UniqueFd connect_from(uint16_t port, const Endpoint& to) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  set_option(fd.get(), SOL_SOCKET, SO_REUSEADDR, 1);
  const Endpoint from = endpoint(kAddressA, port);
  require(bind(fd.get(), from.get(), from.length) == 0 && connect(fd.get(), to.get(), to.length) == 0,
          "connect from a port");
  return fd;
}

// What all tests below rest on. Ports are used again: two connections have one.
TEST(WireRecorder, SeesWhatCrossesTheWire) {
  const NetNs a, b;
  connect_namespaces(a, "wire", std::string(kAddressA) + "/24", b, "wire", std::string(kAddressB) + "/24");
  Recorder recorder(a, "wire", kMarker);
  UniqueFd listener, client;
  b.run([&] { listener = listen_tcp({.address = kAddressB, .port = kMeshPort}); });
  const std::string texts[] = {marked(9, 1 << 20), marked(8, 1 << 19)};
  for (const std::string& text : texts) {
    a.run([&] { client = connect_from(kEchoPort, endpoint(kAddressB, kMeshPort)); });
    const UniqueFd server = accept_tcp(listener.get());
    std::thread sender([&] { send_all(client.get(), text); });
    EXPECT_TRUE(receive_exactly(server.get(), text.size(), kPatience) == text);
    sender.join();
    close_with_reset(client);
  }
  recorder.stop();
  EXPECT_TRUE(recorder.frames().saw());
  std::vector<std::string> sent;
  recorder.frames().for_each_stream([&](const Flow& flow, const std::string& stream) {
    if (flow.to_port == kMeshPort) sent.push_back(stream);
  });
  ASSERT_EQ(sent.size(), std::size(texts));
  for (size_t i = 0; i < sent.size(); i++) EXPECT_TRUE(sent[i] == texts[i]) << i << ": " << sent[i].size();
  EXPECT_NE(wire_complaint(sent[0], true), "");
}

class GatewayTest : public testing::Test {
 protected:
  void start(const std::string& more = {}) {
    mesh_ = std::make_unique<Mesh>(more);
    echo_ = mesh_->listen_b(kEchoPort);
    mesh_->start_b();
    mesh_->start_a();
  }
  Connection connect() { return mesh_->connect_through_mesh(echo_.get()); }

  void expect_working() {
    const Connection connection = connect();
    EXPECT_TRUE(ping_pong(connection, 3)) << mesh_->a->log() << mesh_->b->log();
  }

  std::unique_ptr<Mesh> mesh_;
  UniqueFd echo_;
};

std::string metrics(const NetNs& ns) {
  const std::string url = "http://127.0.0.1:9617/metrics";
  const CommandResult result = run_command({"curl", "-sS", "--fail", url}, ns.fd(), kPatience);
  return result.exit_code == 0 ? result.output : "curl: " + result.output;
}

// The value of one without labels.
std::string metric(const NetNs& ns, const std::string& name) {
  const std::string text = metrics(ns);
  const size_t at = text.find("\n" + name + " ");
  if (at == std::string::npos) return "none: " + text;
  const size_t value = at + name.size() + 2;
  return text.substr(value, text.find('\n', value) - value);
}

// The same with certificates as they are, and with new ones every second.
class Traffic : public GatewayTest, public testing::WithParamInterface<bool> {
 protected:
  void start(const std::string& more = {}) {
    GatewayTest::start(more);
    if (GetParam()) rotation_ = std::make_unique<Rotation>(*mesh_);
  }
  // Whether it is to be done once more: while certificates rotate, until that has happened often enough.
  bool again() { return rounds_++ == 0 || (rotation_ && rotation_->count() < kRotations); }

  void TearDown() override {
    if (!rotation_) return;
    const size_t rotations = rotation_->count();
    rotation_.reset();
    for (Gateway* gateway : {mesh_->a.get(), mesh_->b.get()})
      EXPECT_TRUE(gateway->says({"msg=rotated"})) << "none of " << rotations << " rotations: " << gateway->log();
  }

  std::unique_ptr<Rotation> rotation_;
  size_t rounds_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Certificates, Traffic, testing::Bool(),
                         [](const auto& mode) { return mode.param ? "Rotate" : "Stay"; });

TEST_P(Traffic, BodiesArriveInBothDirectionsAtOnce) {
  start();
  const size_t bytes = body_bytes();
  while (again()) {
    const Connection connection = connect();
    std::string up, down, got_up, got_down;
    std::thread threads[] = {std::thread([&] { up = send_body(connection.client.get(), 1, bytes); }),
                             std::thread([&] { down = send_body(connection.server.get(), 2, bytes); }),
                             std::thread([&] { got_up = receive_body(connection.server.get(), bytes); })};
    got_down = receive_body(connection.client.get(), bytes);
    for (std::thread& thread : threads) thread.join();
    EXPECT_TRUE(got_up == up && got_down == down && up != down);
  }
}

TEST_P(Traffic, EachDirectionEndsOnItsOwn) {
  start();
  while (again()) {
    for (const bool client_first : {true, false}) {
      Connection connection = connect();
      UniqueFd& first = client_first ? connection.client : connection.server;
      UniqueFd& second = client_first ? connection.server : connection.client;
      const std::string text = marked(3, 300'000);
      std::thread sender([&] {
        send_all(first.get(), text);
        shutdown(first.get(), SHUT_WR);
      });
      EXPECT_TRUE(receive_to_eof(second.get(), kPatience) == text);
      sender.join();
      // The other direction goes on.
      send_all(second.get(), text);
      second.reset();
      EXPECT_TRUE(receive_to_eof(first.get(), kPatience) == text);
    }
  }
  EXPECT_TRUE(mesh_->b->says(
      {"msg=closed", "peer=spiffe://mesh.example/a", "service=echo", "received_bytes=300000", "sent_bytes=300000"}))
      << mesh_->b->log();
  EXPECT_EQ(mesh_->b->log().find("reason="), std::string::npos) << mesh_->b->log();
}

TEST_P(Traffic, ManyConnectionsAtOnceStayApart) {
  const size_t count = wanted("SHUNT_TEST_CONNECTIONS", 200);
  make_room_for_descriptors(2 * count);
  start();
  std::vector<Connection> connections;
  for (size_t i = 0; i < count; i++) connections.push_back(connect());
  while (again()) {
    for (size_t i = 0; i < count; i++) send_all(connections[i].client.get(), marked(i, 2000));
    for (size_t i = 0; i < count; i++)
      ASSERT_TRUE(receive_exactly(connections[i].server.get(), 2000, kPatience) == marked(i, 2000)) << i;
    for (const Connection& connection : connections) ASSERT_TRUE(ping_pong(connection, 1));
  }
}

#ifdef __has_feature
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED
#endif
#endif
#ifdef SANITIZED
constexpr uint64_t kKeptFreed = uint64_t{256} << 20;  // it keeps what was freed, and notes on what is there
#else
constexpr uint64_t kKeptFreed = 0;
#endif

TEST_P(Traffic, ASlowReaderHoldsTheSender) {
  start();
  const Connection connection = connect();
  ASSERT_TRUE(ping_pong(connection, 1));
  const uint64_t before = mesh_->a->resident_bytes() + mesh_->b->resident_bytes();
  set_nonblocking(connection.client.get(), true);
  const std::string text = marked(4, 4 << 20);
  std::string sent;
  // Until nothing is taken for a second: TCP's buffers are full along the way.
  for (pollfd waiting{connection.client.get(), POLLOUT, 0}; poll(&waiting, 1, 1000) > 0;) {
    const size_t at = sent.size() % text.size();
    const ssize_t n = send(connection.client.get(), text.data() + at, text.size() - at, MSG_NOSIGNAL);
    if (n > 0) sent.append(text, at, static_cast<size_t>(n));
    ASSERT_LT(sent.size(), size_t{256} << 20) << "nothing holds the sender";
  }
  const uint64_t grown = mesh_->a->resident_bytes() + mesh_->b->resident_bytes() - before;
  EXPECT_LT(grown, (uint64_t{4} << 20) + kKeptFreed);
  EXPECT_TRUE(receive_exactly(connection.server.get(), sent.size(), kPatience) == sent);
  EXPECT_TRUE(ping_pong({UniqueFd(dup(connection.server.get())), UniqueFd(dup(connection.client.get()))}, 1));
}

TEST_P(Traffic, ResetsPassThrough) {
  start();
  for (const bool client_first : {true, false}) {
    Connection connection = connect();
    ASSERT_TRUE(ping_pong(connection, 1));
    close_with_reset(client_first ? connection.client : connection.server);
    EXPECT_EQ(ending_of((client_first ? connection.server : connection.client).get()), ECONNRESET);
  }
  // Also while nobody reads, and the way is full.
  Connection connection = connect();
  set_nonblocking(connection.client.get(), true);
  const std::string text = marked(5, 1 << 20);
  for (pollfd waiting{connection.client.get(), POLLOUT, 0}; poll(&waiting, 1, 500) > 0;)
    (void)!send(connection.client.get(), text.data(), text.size(), MSG_NOSIGNAL);
  close_with_reset(connection.client);
  EXPECT_TRUE(mesh_->a->says({"msg=failed", "reason=io-failed", "detail=\"the client: Connection reset by peer\""}))
      << mesh_->a->log();
  EXPECT_EQ(ending_of(connection.server.get()), ECONNRESET);
  expect_working();
}

// A client that dies while it sends and takes nothing, so that its socket is reset where something had come for it.
TEST_P(Traffic, AKilledProgramEndsItsConnection) {
  start();
  while (again()) {
    for (const bool unread : {false, true}) {
      Child client = Child::fork([&] {
        const UniqueFd fd = mesh_->connect_a(kEchoPort);
        for (const std::string text = marked(10, 100'000);;) send_all(fd.get(), text);
        return 0;
      });
      const UniqueFd server = accept_tcp(echo_.get(), kPatience);
      if (unread) send_all(server.get(), marked(11, 1000));
      EXPECT_TRUE(receive_exactly(server.get(), 100'000, kPatience) == marked(10, 100'000));
      client.signal(SIGKILL);
      EXPECT_EQ(client.wait(kPatience), 128 + SIGKILL);
      EXPECT_EQ(ending_of(server.get()), unread ? ECONNRESET : 0);
    }
  }
  expect_working();
}

// The end of TCP alone is not an end.
TEST_P(Traffic, AKilledGatewayLooksLikeAReset) {
  start();
  Connection connection = connect();
  ASSERT_TRUE(ping_pong(connection, 1));
  mesh_->b->process().signal(SIGKILL);
  EXPECT_EQ(ending_of(connection.client.get()), ECONNRESET);
  EXPECT_TRUE(mesh_->a->says({"msg=failed", "reason=truncated", "detail=\"the mesh\""})) << mesh_->a->log();
  rotation_.reset();  // a gateway that starts must find a key and a certificate that fit together
  mesh_->start_b();
  connection = {};
  echo_.reset();
  echo_ = mesh_->listen_b(kEchoPort);
  expect_working();
}

TEST_F(GatewayTest, StrangersServicesAndServersThatAreNotThereAreNamed) {
  start();
  const std::pair<uint16_t, const char*> cases[] = {
      {kNobodyPort, ""}, {7004, ""}, {7005, "reason=wrong-identity"}, {7006, "reason=gateway-unreachable"}};
  for (const auto& [port, reason] : cases) {
    EXPECT_EQ(mesh_->ending_at_a(port), ECONNRESET) << port;
    EXPECT_TRUE(!*reason || mesh_->a->says({"msg=refused", reason})) << mesh_->a->log();
  }
  EXPECT_TRUE(mesh_->b->says({"msg=refused", "service=nobody", "reason=server-unreachable"})) << mesh_->b->log();
  EXPECT_TRUE(mesh_->b->says({"msg=refused", "reason=unknown-service", "detail='unknown'"})) << mesh_->b->log();
  expect_working();
}

// ---- certificates ----

TEST_F(GatewayTest, CertificatesRotateUnderLiveConnections) {
  start();
  const Connection live = connect();
  for (int i = 1; i <= 3; i++) {
    for (const auto& [files, id, gateway] :
         {std::tuple{&mesh_->files_a, "a", mesh_->a.get()}, std::tuple{&mesh_->files_b, "b", mesh_->b.get()}}) {
      const Forged leaf = mesh_->leaf(id, mesh_->ca);
      files->write(leaf, pem_of(mesh_->ca));
      ASSERT_TRUE(gateway->says({"msg=rotated", "serial=" + serial_of(leaf)})) << gateway->log();
    }
    EXPECT_TRUE(ping_pong(live, 1));
    expect_working();
  }
  // Host b goes over to a CA that host a does not know: what is new is refused, what lives goes on.
  const Forged other = forge(ca_plan("another CA"));
  const Forged unknown = mesh_->leaf("b", other);
  mesh_->files_b.write(unknown, pem_of(mesh_->ca));
  ASSERT_TRUE(mesh_->b->says({"msg=rotated", "serial=" + serial_of(unknown)})) << mesh_->b->log();
  EXPECT_EQ(mesh_->ending_at_a(kEchoPort), ECONNRESET);
  EXPECT_TRUE(mesh_->a->says({"msg=refused", "reason=wrong-ca"})) << mesh_->a->log();
  EXPECT_TRUE(ping_pong(live, 1));
}

TEST_F(GatewayTest, ABundleWithoutTheirCaEndsLiveConnections) {
  start();
  const Connection live = connect();
  ASSERT_TRUE(ping_pong(live, 1));
  const std::string bundle = mesh_->files_b.folder + "/bundle.pem";
  ASSERT_TRUE(write_text(bundle, pem_of(forge(ca_plan("another CA")))));
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(ending_of(live.client.get()), ECONNRESET);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(10));
  EXPECT_TRUE(mesh_->b->says({"msg=failed", "reason=revoked", "wrong-ca"})) << mesh_->b->log();
  EXPECT_EQ(mesh_->ending_at_a(kEchoPort), ECONNRESET);
  const size_t before = mesh_->b->log().rfind("msg=rotated");
  ASSERT_TRUE(write_text(bundle, pem_of(mesh_->ca)));
  ASSERT_TRUE(eventually([&] { return mesh_->b->log().rfind("msg=rotated") != before; }, kPatience));
  expect_working();
}

// What costs a look at signatures is done when it may say something else, and once for all connections of a peer.
TEST_F(GatewayTest, PeersAreJudgedAgainWhenBundlesChange) {
  start();
  std::vector<Connection> live;
  for (int i = 0; i < 3; i++) live.push_back(connect());
  for (const Connection& connection : live) ASSERT_TRUE(ping_pong(connection, 1));
  const auto judged_again = [&] { return metric(mesh_->ns_b, "shunt_gateway_peers_judged_again_total"); };
  const Forged leaf = mesh_->leaf("b", mesh_->ca);
  mesh_->files_b.write(leaf, pem_of(mesh_->ca));
  ASSERT_TRUE(mesh_->b->says({"msg=rotated", "serial=" + serial_of(leaf)})) << mesh_->b->log();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // some ticks
  EXPECT_EQ(judged_again(), "0");
  ASSERT_TRUE(
      write_text(mesh_->files_b.folder + "/bundle.pem", pem_of(mesh_->ca) + pem_of(forge(ca_plan("another CA")))));
  EXPECT_TRUE(eventually([&] { return judged_again() != "0"; }, kPatience)) << mesh_->b->log();
  EXPECT_EQ(judged_again(), "1");
  for (const Connection& connection : live) EXPECT_TRUE(ping_pong(connection, 1)) << mesh_->b->log();
}

TEST_F(GatewayTest, ListsEndLiveConnections) {
  mesh_ = std::make_unique<Mesh>();
  echo_ = mesh_->listen_b(kEchoPort);
  const std::string crl = mesh_->files_b.folder + "/crl.pem", deny = mesh_->files_b.folder + "/deny";
  const Forged first = mesh_->leaf("a", mesh_->ca), second = mesh_->leaf("a", mesh_->ca);
  mesh_->files_a.write(first, pem_of(mesh_->ca));
  ASSERT_TRUE(write_text(crl, revocation_list(mesh_->ca, {})) && write_text(deny, "# nobody\n\n"));
  mesh_->start_b();
  mesh_->start_a();
  const auto ends_within_ten_seconds = [&](const std::string& file, const std::string& text, const char* reason) {
    const Connection live = connect();
    ASSERT_TRUE(ping_pong(live, 1));
    const auto began = std::chrono::steady_clock::now();
    ASSERT_TRUE(write_text(file, text));
    EXPECT_EQ(ending_of(live.client.get()), ECONNRESET);
    EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(10));
    EXPECT_TRUE(mesh_->b->says({"msg=failed", "reason=revoked", reason})) << mesh_->b->log();
    EXPECT_EQ(mesh_->ending_at_a(kEchoPort), ECONNRESET);
    EXPECT_TRUE(mesh_->b->says({"msg=refused", std::string("reason=") + reason})) << mesh_->b->log();
  };
  const auto rotates = [&](Gateway& gateway, const std::function<void()>& change) {
    const size_t before = gateway.log().rfind("msg=rotated");
    change();
    ASSERT_TRUE(eventually([&] { return gateway.log().rfind("msg=rotated") != before; }, kPatience)) << gateway.log();
  };
  ends_within_ten_seconds(crl, revocation_list(mesh_->ca, {&first}), "certificate-revoked");
  mesh_->files_a.write(second, pem_of(mesh_->ca));
  ASSERT_TRUE(mesh_->a->says({"msg=rotated", "serial=" + serial_of(second)})) << mesh_->a->log();
  expect_working();
  // A line that cannot be read leaves the list that was there in force.
  const Connection live = connect();
  ASSERT_TRUE(write_text(deny, "spiffe://mesh.example/a\nnobody\n"));
  EXPECT_TRUE(mesh_->b->says({"cannot rotate", "deny:2"})) << mesh_->b->log();
  EXPECT_TRUE(ping_pong(live, 1));
  rotates(*mesh_->b, [&] { ASSERT_TRUE(write_text(deny, "spiffe://mesh.example/another\n")); });
  EXPECT_TRUE(ping_pong(live, 1));
  ends_within_ten_seconds(deny, "spiffe://mesh.example/a\n", "denied-identity");
}

TEST_F(GatewayTest, ConnectionsHaveAnAge) {
  mesh_ = std::make_unique<Mesh>("max_connection_age: 3s\n");
  echo_ = mesh_->listen_b(kEchoPort);
  mesh_->start_b();
  mesh_->start_a();
  const auto began = std::chrono::steady_clock::now();
  const Connection live = connect();
  EXPECT_TRUE(ping_pong(live, 1));
  EXPECT_EQ(ending_of(live.client.get()), ECONNRESET);
  const auto took = std::chrono::steady_clock::now() - began;
  EXPECT_GE(took, std::chrono::milliseconds(2900));
  EXPECT_LT(took, std::chrono::seconds(10));
  const auto said = [](const Gateway& gateway) {
    return gateway.log().find("reason=max-connection-age") != std::string::npos;
  };
  EXPECT_TRUE(eventually([&] { return said(*mesh_->a) || said(*mesh_->b); }, kPatience));
  expect_working();
}

TEST_F(GatewayTest, WhatDoesNotFitTogetherIsNotTaken) {
  start();
  ASSERT_TRUE(write_text(mesh_->files_b.folder + "/certificate.pem", pem_of(mesh_->leaf("b", mesh_->ca))));
  EXPECT_TRUE(mesh_->b->says({"cannot rotate", "not the key of the certificate"})) << mesh_->b->log();
  expect_working();
}

// ---- strangers at the port of the mesh ----

struct Stranger {
  const Forged* own = nullptr;  // null: no certificate
  const char* service = "echo";
  bool protocol = true;  // offers shunt/1
  int version = TLS1_3_VERSION;
};

// Connects, and waits until the other end has had enough; empty if it never has.
void try_handshake(const Mesh& mesh, const Stranger& stranger) {
  const UniqueFd fd = mesh.connect_mesh();
  set_receive_timeout(fd.get(), kPatience);
  const SslContext ctx(SSL_CTX_new(TLS_client_method()));
  SSL_CTX_set_max_proto_version(ctx.get(), stranger.version);
  if (stranger.own) {
    SSL_CTX_use_certificate(ctx.get(), stranger.own->certificate.get());
    SSL_CTX_use_PrivateKey(ctx.get(), stranger.own->key.get());
  }
  const SslSession ssl(SSL_new(ctx.get()));
  if (stranger.service) SSL_set_tlsext_host_name(ssl.get(), stranger.service);
  constexpr unsigned char kProtocol[] = "\x07shunt/1";
  if (stranger.protocol) SSL_set_alpn_protos(ssl.get(), kProtocol, sizeof(kProtocol) - 1);
  SSL_set_fd(ssl.get(), fd.get());
  char byte;
  if (SSL_connect(ssl.get()) == 1) {
    EXPECT_LE(SSL_read(ssl.get(), &byte, 1), 0) << "it was let in";
  }
  ERR_clear_error();
}

TEST_F(GatewayTest, StrangersAreRefusedWithTheirReason) {
  start();
  const Forged other_ca = forge(ca_plan("another CA"));
  const Forged good = mesh_->leaf("a", mesh_->ca), foreign = mesh_->leaf("a", other_ca),
               wrong = mesh_->leaf("c", mesh_->ca), expired = forge({.starts_days = -2, .ends_days = -1}, &mesh_->ca),
               early = forge({.starts_days = 1, .ends_days = 2}, &mesh_->ca),
               nameless = forge({.alternative_names = "DNS:a"}, &mesh_->ca);
  const std::pair<Stranger, const char*> cases[] = {
      {{nullptr}, "reason=no-certificate"},
      {{&foreign}, "reason=wrong-ca"},
      {{&expired}, "reason=expired"},
      {{&early}, "reason=not-yet-valid"},
      {{&nameless}, "reason=no-identity"},
      {{&wrong, "private"}, "reason=wrong-identity"},
      {{&good, "nowhere"}, "reason=unknown-service"},
      {{&good, nullptr}, "reason=no-service"},
      {{&good, "echo", false}, "reason=wrong-protocol"},
      {{&good, "echo", true, TLS1_2_VERSION}, "reason=wrong-version"},
  };
  for (const auto& [stranger, reason] : cases) {
    try_handshake(*mesh_, stranger);
    EXPECT_TRUE(mesh_->b->says({"msg=refused", "from=mesh", reason})) << reason << "\n" << mesh_->b->log();
  }
  // One whom the service's list names comes in.
  EXPECT_EQ(mesh_->b->log().find("service=private peer="), std::string::npos);
  expect_working();
}

TEST_F(GatewayTest, PlaintextIsRefused) {
  start();
  mesh_->plaintext_sent = true;
  for (const std::string text :
       {"GET / HTTP/1.1\r\nHost: echo\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n", "*1\r\n$4\r\nPING\r\n"}) {
    const UniqueFd fd = mesh_->connect_mesh();
    send_all(fd.get(), text);
    EXPECT_EQ(ending_of(fd.get()), 0);
  }
  EXPECT_TRUE(eventually([&] { return mesh_->b->status().find("\"not-tls\": 3") != std::string::npos; }))
      << mesh_->b->status() << mesh_->b->log();
  expect_working();
}

TEST_F(GatewayTest, UnfinishedHandshakesEndAndCrowdNobodyOut) {
  const size_t count = wanted("SHUNT_TEST_HANDSHAKES", 200);
  make_room_for_descriptors(count);
  start("threads: 1\ntimeouts: {handshake: 2s}\nlimits: {handshakes: 16}\n");
  std::vector<UniqueFd> idle;
  for (size_t i = 0; i < count; i++) idle.push_back(mesh_->connect_mesh());
  expect_working();
  EXPECT_TRUE(mesh_->b->says({"msg=refused", "reason=crowded-out"})) << mesh_->b->log();
  const auto began = std::chrono::steady_clock::now();
  for (const UniqueFd& fd : idle) EXPECT_EQ(ending_of(fd.get()), 0);
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(10));
  EXPECT_TRUE(mesh_->b->says({"msg=refused", "reason=handshake-timeout"})) << mesh_->b->log();
  EXPECT_LT(mesh_->b->resident_bytes(), uint64_t{64} << 20);
}

TEST_F(GatewayTest, ConnectionsHaveALimit) {
  start("threads: 1\nlimits: {connections: 2}\n");
  const Connection first = connect(), second = connect();
  ASSERT_TRUE(ping_pong(first, 1) && ping_pong(second, 1));
  EXPECT_EQ(mesh_->ending_at_a(kEchoPort), ECONNRESET);
  EXPECT_TRUE(mesh_->a->says({"msg=refused", "reason=too-many-connections"})) << mesh_->a->log();
  EXPECT_TRUE(ping_pong(first, 1));
}

// ---- other programs ----

TEST_F(GatewayTest, OpensslIsAPeerOnEitherSide) {
  start("timeouts: {stop: 1s}\n");
  const std::string own = mesh_->files_a.folder, peer = mesh_->files_b.folder;
  const std::string log = mesh_->folder / "s_client";
  ASSERT_TRUE(write_text(mesh_->folder / "question", "question\n"));
  Child client = Child::exec(
      {"sh", "-c",
       "exec " + openssl_program().path + " s_client -connect " + std::string(kAddressB) + ":" +
           std::to_string(kMeshPort) + " -alpn shunt/1 -servername echo -cert " + own + "/certificate.pem -key " + own +
           "/key.pem -CAfile " + own + "/bundle.pem -verify_return_error -quiet <" + (mesh_->folder / "question")},
      log, mesh_->ns_a.fd());
  const UniqueFd server = accept_tcp(echo_.get(), kPatience);
  EXPECT_EQ(receive_exactly(server.get(), 9), "question\n");
  send_all(server.get(), "the answer\n");
  EXPECT_TRUE(eventually([&] { return read_text(log).find("the answer\n") != std::string::npos; })) << read_text(log);

  // s_server -rev in the place of gateway b; it sends tickets.
  mesh_->b->process().signal(SIGTERM);
  client = {};
  EXPECT_EQ(mesh_->b->process().wait(kPatience), 0) << mesh_->b->log();
  Child other = Child::exec(
      {openssl_program().path, "s_server", "-accept", std::string(kAddressB) + ":" + std::to_string(kMeshPort), "-alpn",
       "shunt/1", "-cert", peer + "/certificate.pem", "-key", peer + "/key.pem", "-CAfile", peer + "/bundle.pem",
       "-Verify", "1", "-verify_return_error", "-rev"},
      mesh_->folder / "s_server", mesh_->ns_b.fd());
  mesh_->await_listener(mesh_->ns_b, kMeshPort);
  const UniqueFd fd = mesh_->connect_a(kEchoPort);
  send_all(fd.get(), "desserts\n");
  EXPECT_EQ(receive_exactly(fd.get(), 9, kPatience), "stressed\n")
      << mesh_->a->log() << read_text(mesh_->folder / "s_server");
}

TEST_P(Traffic, CurlGetsFilesOfNginx) {
  start();
  const TempDir site;
  const std::string body = marked(6, 10 * kMegabyte);
  ASSERT_TRUE(write_text(site / "body", body));
  ASSERT_TRUE(write_text(site / "nginx.conf",
                         "daemon off; master_process off; pid " + (site / "pid") +
                             "; error_log stderr;\nevents {}\nhttp { access_log off;\n" + "client_body_temp_path " +
                             (site / "t1") + "; proxy_temp_path " + (site / "t2") + "; fastcgi_temp_path " +
                             (site / "t3") + "; uwsgi_temp_path " + (site / "t4") + "; scgi_temp_path " +
                             (site / "t5") + ";\nserver { listen 127.0.0.1:" + std::to_string(kWebPort) + "; root " +
                             site.path() + "; } }\n"));
  Child nginx = Child::exec({"nginx", "-p", site.path(), "-c", site / "nginx.conf"}, site / "log", mesh_->ns_b.fd());
  const std::string url = "http://127.0.0.1:" + std::to_string(kWebPort) + "/body";
  mesh_->await_listener(mesh_->ns_b, kWebPort);
  while (again()) {
    // Twice over one connection.
    const CommandResult result = run_command(
        {"curl", "-sS", "--fail", "-o", site / "one", "-o", site / "two", url, url}, mesh_->ns_a.fd(), kPatience);
    EXPECT_EQ(result.exit_code, 0) << result.output << read_text(site / "log") << mesh_->a->log() << mesh_->b->log();
    EXPECT_TRUE(read_text(site / "one") == body);
    EXPECT_TRUE(read_text(site / "two") == body);
  }
}

TEST_P(Traffic, RedisIsAskedThroughIt) {
  start();
  const std::string port = std::to_string(kWebPort);
  Child redis = Child::exec({"redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"},
                            mesh_->folder / "redis", mesh_->ns_b.fd());
  mesh_->await_listener(mesh_->ns_b, kWebPort);
  const auto ask = [&](std::vector<std::string> command) {
    command.insert(command.begin(), {"redis-cli", "-p", port});
    return run_command(command, mesh_->ns_a.fd(), kPatience).output;
  };
  std::string value;  // an argument: without a zero
  while (value.size() < 80'000) value += kMarker;
  while (again()) {
    value += kMarker;
    EXPECT_EQ(ask({"SET", "cargo", value}), "OK\n") << read_text(mesh_->folder / "redis") << mesh_->a->log();
    EXPECT_EQ(ask({"GET", "cargo"}), value + "\n");
    EXPECT_EQ(ask({"STRLEN", "cargo"}), std::to_string(value.size()) + "\n");
  }
}

TEST_P(Traffic, H2loadLoadsNghttpd) {
  start();
  const TempDir site;
  ASSERT_TRUE(write_text(site / "body", marked(8, 20'000)));
  const std::string port = std::to_string(kWebPort);
  Child server =
      Child::exec({"nghttpd", "--no-tls", "-a", "127.0.0.1", "-d", site.path(), port}, site / "log", mesh_->ns_b.fd());
  mesh_->await_listener(mesh_->ns_b, kWebPort);
  while (again()) {
    const CommandResult result =
        run_command({"h2load", "-n", "2000", "-c", "20", "-m", "10", "-t", "2", "http://127.0.0.1:" + port + "/body"},
                    mesh_->ns_a.fd(), kPatience);
    EXPECT_NE(result.output.find("2000 succeeded, 0 failed, 0 errored, 0 timeout"), std::string::npos)
        << result.output << read_text(site / "log") << mesh_->b->log();
  }
}

// ---- the process ----

TEST_F(GatewayTest, SaysWhoEncrypts) {
  start();
  expect_working();
  const std::string mode = ktls_use() == "off" ? "userspace" : "ktls";
  EXPECT_TRUE(mesh_->b->says({"msg=ready", "mode=" + mode}));
  EXPECT_TRUE(mesh_->b->says({"msg=closed", "mode=" + mode})) << mesh_->b->log();
  const std::string status = mesh_->b->status();
  for (const std::string& part :
       {"\"mode\": \"" + mode + "\"", std::string("\"identity\": \"spiffe://mesh.example/b\""),
        std::string("\"from_mesh\": 1"), std::string("\"expires\": \"20"), std::string("\"serial\": \"")})
    EXPECT_NE(status.find(part), std::string::npos) << part << "\n" << status;
}

TEST_F(GatewayTest, HasMetrics) {
  start();
  for (int i = 0; i < 3; i++) expect_working();
  EXPECT_NE(mesh_->ending_at_a(7005), 0);  // another gateway than the directory says
  const std::string mode = ktls_use() == "off" ? "userspace" : "ktls";
  const auto all_there = [&](const NetNs& ns, const std::vector<std::string>& lines) {
    const std::string text = metrics(ns);
    return std::all_of(lines.begin(), lines.end(),
                       [&](const std::string& line) { return text.find("\n" + line + "\n") != std::string::npos; });
  };
  EXPECT_TRUE(eventually([&] {
    return all_there(mesh_->ns_b, {"shunt_gateway_mode{mode=\"" + mode + "\"} 1", "shunt_gateway_connections 0",
                                   "shunt_gateway_connections_total{from=\"mesh\"} 4",
                                   "shunt_gateway_connections_total{from=\"host\"} 0",
                                   "shunt_gateway_connections_failed_total{reason=\"refused-by-peer\"} 1"});
  })) << metrics(mesh_->ns_b);
  EXPECT_TRUE(eventually([&] {
    return all_there(mesh_->ns_a, {"shunt_gateway_connections_total{from=\"host\"} 4",
                                   "shunt_gateway_connections_failed_total{reason=\"wrong-identity\"} 1"});
  })) << metrics(mesh_->ns_a);
  const std::string text = metrics(mesh_->ns_b);
  const std::string expiry = "\nshunt_gateway_certificate_expiry_seconds ";
  ASSERT_NE(text.find(expiry), std::string::npos) << text;
  EXPECT_GT(std::strtod(text.c_str() + text.find(expiry) + expiry.size(), nullptr), static_cast<double>(time(nullptr)));
}

TEST_F(GatewayTest, WithoutKtlsItRunsOnlyIfThatIsAllowed) {
  mesh_ = std::make_unique<Mesh>();
  const bool usable = ktls_probe().usable;
  ASSERT_TRUE(usable || ktls_use() != "required") << "this kernel should have kTLS";
  const std::string use = ktls_use();
  setenv("SHUNT_TEST_KTLS", "preferred", 1);
  echo_ = mesh_->listen_b(kEchoPort);
  mesh_->start_b();
  mesh_->start_a();
  expect_working();
  EXPECT_TRUE(mesh_->a->says({"msg=ready", usable ? "mode=ktls" : "mode=userspace"}));
  mesh_->b.reset();
  const std::string config = read_text(mesh_->files_b.folder + "/gateway.yaml");
  std::string required = config;
  required.replace(required.find("preferred"), 9, "required");
  Gateway strict(mesh_->ns_b, mesh_->files_b.folder, required);
  if (usable) {
    EXPECT_TRUE(strict.ready()) << strict.log();
  } else {
    EXPECT_EQ(strict.process().wait(kPatience), 1);
    EXPECT_TRUE(strict.says({"this kernel has no kTLS", "ktls: preferred"})) << strict.log();
  }
  setenv("SHUNT_TEST_KTLS", use.c_str(), 1);
}

TEST_F(GatewayTest, ASignalLetsLiveConnectionsFinish) {
  start();
  Connection connection = connect();
  ASSERT_TRUE(ping_pong(connection, 1));
  mesh_->b->process().signal(SIGTERM);
  ASSERT_TRUE(mesh_->b->says({"msg=stopping", "connections=1"}));
  EXPECT_TRUE(ping_pong(connection, 3));
  EXPECT_EQ(mesh_->ending_at_a(kEchoPort), ECONNRESET);
  connection = {};
  EXPECT_EQ(mesh_->b->process().wait(kPatience), 0) << mesh_->b->log();
}

TEST_F(GatewayTest, WrongConfigurationsAreNamed) {
  mesh_ = std::make_unique<Mesh>();
  echo_ = mesh_->listen_b(kEchoPort);
  mesh_->start_b();
  mesh_->start_a();
  expect_working();
  const std::string file = mesh_->files_b.folder + "/gateway.yaml";
  std::string good = read_text(file);
  const auto check = [&](const std::string& more, const char* complaint) {
    write_text(mesh_->folder / "bad.yaml", good + more);
    const CommandResult result = run_command({SHUNT_GATEWAY, "--check", "-c", mesh_->folder / "bad.yaml"});
    EXPECT_EQ(result.exit_code, *complaint ? 2 : 0) << more << result.output;
    EXPECT_NE(result.output.find(*complaint ? complaint : "valid: spiffe://mesh.example/b"), std::string::npos)
        << result.output;
  };
  check("", "");
  check("hooks: {listen: ['127.0.0.1:15441']}\n", "shuntd turns connections");
  const std::string shuntd = "shuntd: {socket: /run/shunt/gateway.sock}\n";
  check(shuntd + "hooks: {listen: ['127.0.0.1:15441', '[::1]:15441']}\n", "");
  check(shuntd + "hooks: {listen: ['0.0.0.0:15441']}\n", "all addresses");
  check(shuntd + "hooks: {listen: ['127.0.0.1:1', '127.0.0.1:2']}\n", "another listener of this family");
  check("shuntd: {}\n", "needs socket");
  const std::string directory = mesh_->folder / "directory.yaml";
  const auto check_service = [&](const std::string& places, const char* complaint) {
    write_text(directory,
               "services: [{name: far, gateway: '192.0.2.1:1', identity: spiffe://mesh.example/far" + places + "}]\n");
    check(shuntd + "hooks: {listen: ['127.0.0.1:15441']}\ndirectory: [" + directory + "]\n", complaint);
  };
  check_service(", address: '10.96.0.7:80', strict: no", "");
  check_service("", "cannot find the service");
  check_service(", address: '[fd00::1]:80'", "nobody takes what is dialled at [fd00::1]:80");
  check("revocation: {}\n", "needs deny");
  check("max_connection_age: 0s\n", "no time");
  check("max_connection_age: 1h\n", "");
  check("kltls: off\n", "kltls");
  check("threads: 0\n", "not a whole number");
  check("limits: {handshakes: 0}\n", "not a whole number");
  check("timeouts: {handshake: 0s}\n", "no time");
  check("access_log: {path: here}\n", "absolute");
  good.insert(good.find("- {name:") + 3, "mode: strict, ");
  check("", "shuntd refuses plaintext to a strict service");
  check(shuntd, "");
  good.replace(good.find("strict"), 6, "harsh");
  check(shuntd, "harsh");
}

}  // namespace

}  // namespace shunt::test
