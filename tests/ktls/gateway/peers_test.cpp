// nginx and haproxy as TLS 1.3 peers of a gateway: each in the place of the other one, with its certificate. nginx 1.22
// cannot offer ALPN to a server: as a client it is seen to be refused.
#include <gtest/gtest.h>
#include <pwd.h>

#include "ktls/gateway/lab.hpp"
#include "ktls/sessions.hpp"

namespace shunt::test {

namespace {

constexpr auto kPatience = std::chrono::seconds(60);
constexpr uint16_t kOtherPort = 7101;      // where the other program listens for local clients of host a
constexpr uint16_t kStrangersPort = 7102;  // the same, without a certificate for the mesh
constexpr size_t kBody = 2'000'000;
constexpr char kStreamModule[] = "/usr/lib/nginx/modules/ngx_stream_module.so";

std::string address(const char* host, uint16_t port) { return std::string(host) + ":" + std::to_string(port); }

class Peers : public testing::Test {
 protected:
  // haproxy compares the name that it asks for.
  Peers() {
    mesh_.files_b.write(forge({.name = "b", .alternative_names = "URI:spiffe://mesh.example/b,DNS:echo"}, &mesh_.ca),
                        pem_of(mesh_.ca));
    for (const HostFiles* files : {&mesh_.files_a, &mesh_.files_b}) {
      const auto text = [&](const char* name) { return read_text(files->folder + "/" + name); };
      require(write_text(files->folder + "/both.pem", text("certificate.pem") + text("key.pem")), "write both");
    }
  }

  void start_haproxy(const NetNs& ns, const std::string& sections) {
    require(write_text(mesh_.folder / "haproxy.cfg",
                       "global\n  maxconn 50\ndefaults\n  mode tcp\n  timeout connect 60s\n  timeout client 60s\n"
                       "  timeout server 60s\n" +
                           sections),
            "configure haproxy");
    other_ = Child::exec({"haproxy", "-db", "-f", mesh_.folder / "haproxy.cfg"}, mesh_.folder / "other", ns.fd());
  }

  void start_nginx(const NetNs& ns, const std::string& servers) {
    require(write_text(mesh_.folder / "nginx.conf",
                       std::string("load_module ") + kStreamModule + ";\ndaemon off; master_process off; pid " +
                           (mesh_.folder / "pid") + "; error_log stderr;\nevents {}\nstream {\n" + servers + "}\n"),
            "configure nginx");
    other_ = Child::exec({"nginx", "-p", mesh_.folder.path(), "-c", mesh_.folder / "nginx.conf"},
                         mesh_.folder / "other", ns.fd());
  }

  std::string log() const { return read_text(mesh_.folder / "other"); }

  Connection connect(uint16_t port) {
    Connection connection;
    connection.client = mesh_.connect_a(port);
    if (!wait_readable(echo_.get(), kPatience)) die("nothing came through: " + log());
    connection.server = accept_tcp(echo_.get());
    return connection;
  }

  // Both ways, by a client at that port of host a, up to the end, which the server makes.
  void expect_working(uint16_t port) {
    Connection connection = connect(port);
    EXPECT_TRUE(ping_pong(connection, 3)) << log();
    const std::string up = marked(1, kBody), down = marked(2, kBody);
    std::thread sender([&] { send_all(connection.client.get(), up); });
    EXPECT_TRUE(receive_exactly(connection.server.get(), kBody, kPatience) == up) << log();
    sender.join();
    send_all(connection.server.get(), down);
    connection.server.reset();
    EXPECT_TRUE(receive_to_eof(connection.client.get(), kPatience) == down) << log();
  }

  // The client ends its direction first.
  void end_one_direction(const Connection& connection) {
    send_all(connection.client.get(), "question");
    shutdown(connection.client.get(), SHUT_WR);
    EXPECT_EQ(receive_to_eof(connection.server.get(), kPatience), "question");
    send_all(connection.server.get(), "answer");
    EXPECT_EQ(receive_exactly(connection.client.get(), 6, kPatience), "answer");
  }

  // That gateway b has refused what came from host a by that port, and the server has seen nothing.
  void expect_refused(uint16_t port, const char* reason) {
    const UniqueFd client = mesh_.connect_a(port);
    send_all(client.get(), "let me in");
    ending_of(client.get());
    EXPECT_TRUE(mesh_.b->says({"msg=refused", "from=mesh", reason})) << mesh_.b->log() << log();
    EXPECT_FALSE(wait_readable(echo_.get(), std::chrono::milliseconds(0)));
  }

  Mesh mesh_;
  UniqueFd echo_ = mesh_.listen_b(kEchoPort);
  Child other_;
};

TEST_F(Peers, NginxIsTheServer) {
  const std::string& own = mesh_.files_b.folder;
  start_nginx(mesh_.ns_b, "server { listen " + address(kAddressB, kMeshPort) +
                              " ssl; ssl_protocols TLSv1.3; ssl_alpn shunt/1; ssl_certificate " + own +
                              "/certificate.pem; ssl_certificate_key " + own + "/key.pem; ssl_client_certificate " +
                              own + "/bundle.pem; ssl_verify_client on; proxy_pass " + address("127.0.0.1", kEchoPort) +
                              "; }\n");
  mesh_.await_listener(mesh_.ns_b, kMeshPort);
  mesh_.start_a();
  expect_working(kEchoPort);
  EXPECT_TRUE(mesh_.a->says({"msg=closed", "service=echo", "peer=spiffe://mesh.example/b", "sent_bytes=2000192"}))
      << mesh_.a->log();
  // It ends both directions with the first one, without a close_notify: that is no end.
  const Connection connection = connect(kEchoPort);
  ASSERT_TRUE(ping_pong(connection, 1));
  shutdown(connection.client.get(), SHUT_WR);
  EXPECT_EQ(ending_of(connection.client.get()), ECONNRESET);
  EXPECT_TRUE(mesh_.a->says({"msg=failed", "reason=truncated", "detail=\"the mesh\""})) << mesh_.a->log();
}

TEST_F(Peers, NginxIsNoClientWithoutAlpn) {
  mesh_.start_b();
  const std::string& own = mesh_.files_a.folder;
  start_nginx(mesh_.ns_a, "server { listen " + address("127.0.0.1", kOtherPort) + "; proxy_pass " +
                              address(kAddressB, kMeshPort) +
                              "; proxy_ssl on; proxy_ssl_protocols TLSv1.3; proxy_ssl_server_name on; "
                              "proxy_ssl_name echo; proxy_ssl_certificate " +
                              own + "/certificate.pem; proxy_ssl_certificate_key " + own + "/key.pem; }\n");
  mesh_.await_listener(mesh_.ns_a, kOtherPort);
  expect_refused(kOtherPort, "reason=wrong-protocol");
}

TEST_F(Peers, HaproxyIsTheServer) {
  const std::string& own = mesh_.files_b.folder;
  start_haproxy(mesh_.ns_b, "listen mesh\n  bind " + address(kAddressB, kMeshPort) + " ssl crt " + own +
                                "/both.pem ca-file " + own +
                                "/bundle.pem verify required alpn shunt/1 ssl-min-ver TLSv1.3\n  server echo " +
                                address("127.0.0.1", kEchoPort) + "\n");
  mesh_.await_listener(mesh_.ns_b, kMeshPort);
  mesh_.start_a();
  expect_working(kEchoPort);
  Connection connection = connect(kEchoPort);
  end_one_direction(connection);
  connection.server.reset();
  EXPECT_EQ(ending_of(connection.client.get()), 0) << log();
  EXPECT_TRUE(mesh_.a->says({"msg=closed", "service=echo", "peer=spiffe://mesh.example/b", "sent_bytes=2000192"}))
      << mesh_.a->log();
}

TEST_F(Peers, HaproxyIsTheClient) {
  mesh_.start_b();
  const std::string& own = mesh_.files_a.folder;
  const std::string server = "\n  server b " + address(kAddressB, kMeshPort) + " ssl ca-file " + own +
                             "/bundle.pem verify required sni str(echo) alpn shunt/1 ssl-min-ver TLSv1.3";
  start_haproxy(mesh_.ns_a, "listen known\n  bind " + address("127.0.0.1", kOtherPort) + server + " crt " + own +
                                "/both.pem\nlisten stranger\n  bind " + address("127.0.0.1", kStrangersPort) + server +
                                "\n");
  mesh_.await_listener(mesh_.ns_a, kOtherPort);
  mesh_.await_listener(mesh_.ns_a, kStrangersPort);
  expect_working(kOtherPort);
  Connection connection = connect(kOtherPort);
  end_one_direction(connection);
  connection.server.reset();
  EXPECT_EQ(ending_of(connection.client.get()), 0) << log();
  EXPECT_TRUE(mesh_.b->says({"msg=closed", "service=echo", "peer=spiffe://mesh.example/a", "received_bytes=2000192"}))
      << mesh_.b->log();
  expect_refused(kStrangersPort, "reason=no-certificate");
}

}  // namespace

}  // namespace shunt::test
