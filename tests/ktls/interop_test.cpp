// Other people's TLS 1.3, over mutual TLS: openssl s_server and s_client, nginx, haproxy.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <openssl/err.h>
#include <sys/socket.h>

#include <fstream>
#include <ktls/probe.hpp>

#include "ktls/openssl_program.hpp"
#include "ktls/sessions.hpp"
#include "support/sandbox.hpp"
#include "support/sockets.hpp"

namespace shunt::test {

namespace {

const KtlsProbeReport& probed() {
  static const KtlsProbeReport report = ktls_probe();
  return report;
}

// One end of ours, whose peer is another program.
class End {
 public:
  End(Role role, const char* suite) : role_(role) {
    ctx_.reset(SSL_CTX_new(role == Role::client ? TLS_client_method() : TLS_server_method()));
    require(ctx_ && ktls_prepare(ctx_.get(), probed().settings).has_value(), "prepare a context");
    require(SSL_CTX_set_ciphersuites(ctx_.get(), suite) == 1, "set ciphersuites");
    Pki::get().use(ctx_.get(), role);
  }

  KtlsSocket hand_off(UniqueFd fd) {
    set_receive_timeout(fd.get(), std::chrono::seconds(30));
    set_send_timeout(fd.get(), std::chrono::seconds(30));
    SslSession ssl(SSL_new(ctx_.get()));
    require(ktls_prepare(ssl.get()).has_value(), "prepare a session");
    SSL_set_fd(ssl.get(), fd.get());
    if ((role_ == Role::client ? SSL_connect(ssl.get()) : SSL_accept(ssl.get())) != 1) {
      ERR_print_errors_fp(stderr);
      die("handshake");
    }
    auto socket = shunt::hand_off(ssl.get(), fd);
    if (!socket) die(socket.error().to_string());
    return std::move(*socket);
  }

 private:
  Role role_;
  SslContext ctx_;
};

uint16_t free_port() {
  UniqueFd listener = listen_tcp();
  return local_endpoint(listener.get()).port();
}

bool is_listening(uint16_t port) {
  char line[64];
  std::snprintf(line, sizeof(line), ":%04X 00000000:0000 0A", port);
  return read_text("/proc/net/tcp").find(line) != std::string::npos;
}

void await_listener(uint16_t port, const std::string& log) {
  if (!eventually([&] { return is_listening(port); }, std::chrono::seconds(30))) die("no listener: " + read_text(log));
}

// Everything until the peer's close_notify; an error's text at the end if there is one.
std::string receive_to_end(KtlsSocket& socket) {
  std::string got;
  uint8_t buffer[20000];
  for (;;) {
    auto io = socket.recv(buffer);
    if (!io) return got + "[" + io.error().to_string() + "]";
    if (io->event != KtlsIo::Event::data) return got;
    got.append(reinterpret_cast<char*>(buffer), io->bytes);
  }
}

class Interop : public testing::TestWithParam<const char*> {
 protected:
  Interop() { Pki::get().write_files(folder_.path()); }
  std::string file(const std::string& name) const { return folder_ / name; }
  void write_file(const std::string& name, const std::string& text) { ASSERT_TRUE(write_text(file(name), text)); }

  TempDir folder_;
};
INSTANTIATE_TEST_SUITE_P(Ciphers, Interop,
                         testing::Values("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384",
                                         "TLS_CHACHA20_POLY1305_SHA256"),
                         [](const auto& info) { return std::string(info.param); });

// s_server -rev answers each line reversed, and has sent two tickets before.
TEST_P(Interop, OpensslServer) {
  const uint16_t port = free_port();
  Child server = Child::exec({openssl_program().path, "s_server", "-accept", "127.0.0.1:" + std::to_string(port),
                              "-cert", file("server.pem"), "-key", file("server.key"), "-CAfile", file("ca.pem"),
                              "-Verify", "1", "-verify_return_error", "-tls1_3", "-rev", "-naccept", "1"},
                             file("log"));
  await_listener(port, file("log"));
  KtlsSocket socket = End(Role::client, GetParam()).hand_off(connect_tcp(endpoint("127.0.0.1", port)));
  ASSERT_TRUE(send_all(socket, "desserts\nlive\n"));
  EXPECT_EQ(receive_exactly(socket, 14), "stressed\nevil\n") << read_text(file("log"));
  EXPECT_EQ(socket.counts().tickets_dropped, 2u);
  ASSERT_TRUE(shut_down(socket));
}

TEST_P(Interop, OpensslClient) {
  UniqueFd listener = listen_tcp();
  const std::string port = std::to_string(local_endpoint(listener.get()).port());
  write_file("input", "question\n");
  Child client =
      Child::exec({"sh", "-c",
                   "{ cat " + file("input") + "; sleep 3; } | " + openssl_program().path +
                       " s_client -connect 127.0.0.1:" + port + " -cert " + file("client.pem") + " -key " +
                       file("client.key") + " -CAfile " + file("ca.pem") + " -verify_return_error -tls1_3 -quiet"},
                  file("log"));
  UniqueFd accepted = accept_tcp(listener.get(), std::chrono::seconds(30));
  EXPECT_EQ(offers_ml_kem(peek_record(accepted.get())), openssl_program().has_ml_kem);
  KtlsSocket socket = End(Role::server, GetParam()).hand_off(std::move(accepted));
  EXPECT_EQ(receive_exactly(socket, 9), "question\n");
  ASSERT_TRUE(send_all(socket, "the answer\n"));
  ASSERT_TRUE(shut_down(socket));
  client.wait();
  EXPECT_NE(read_text(file("log")).find("the answer\n"), std::string::npos) << read_text(file("log"));
}

// A body of 2 MB from a file, after tickets; Connection: close brings close_notify.
TEST_P(Interop, NginxServesAFile) {
  const uint16_t port = free_port();
  const std::string body = marked(1, 2'000'000);
  write_file("body", body);
  write_file("nginx.conf", "daemon off; master_process off; pid " + file("pid") +
                               "; error_log stderr;\nevents {}\nhttp { access_log off;\n" + "  client_body_temp_path " +
                               file("t1") + "; proxy_temp_path " + file("t2") + "; fastcgi_temp_path " + file("t3") +
                               "; uwsgi_temp_path " + file("t4") + "; scgi_temp_path " + file("t5") + ";\n" +
                               "  server { listen 127.0.0.1:" + std::to_string(port) + " ssl; root " + folder_.path() +
                               "; ssl_protocols TLSv1.3; ssl_certificate " + file("server.pem") +
                               "; ssl_certificate_key " + file("server.key") + "; ssl_client_certificate " +
                               file("ca.pem") + "; ssl_verify_client on; } }\n");
  Child nginx = Child::exec({"nginx", "-p", folder_.path(), "-c", file("nginx.conf")}, file("log"));
  await_listener(port, file("log"));
  KtlsSocket socket = End(Role::client, GetParam()).hand_off(connect_tcp(endpoint("127.0.0.1", port)));
  ASSERT_TRUE(send_all(socket,
                       "GET /body HTTP/1.1\r\nHost: localhost\r\n\r\nGET /body HTTP/1.1\r\nHost: "
                       "localhost\r\nConnection: close\r\n\r\n"));
  const std::string got = receive_to_end(socket);
  ASSERT_EQ(got.rfind("HTTP/1.1 200 OK", 0), 0u) << got.substr(0, 300) << read_text(file("log"));
  EXPECT_GT(got.size(), 2 * body.size());
  EXPECT_NE(got.find(body), std::string::npos);
  ASSERT_EQ(got.substr(got.size() - body.size()), body);
  EXPECT_GT(socket.counts().tickets_dropped, 0u);
}

// haproxy as the client of a server of ours, and as a server in front of it.
TEST_P(Interop, HaproxyOnBothSides) {
  UniqueFd backend = listen_tcp();
  const uint16_t port = free_port();
  write_file(
      "haproxy.cfg",
      "global\n  maxconn 50\ndefaults\n  mode tcp\n  timeout connect 30s\n  timeout client 30s\n  timeout server 30s\n"
      "frontend in\n  bind 127.0.0.1:" +
          std::to_string(port) + " ssl crt " + file("server-both.pem") + " ca-file " + file("ca.pem") +
          " verify required ssl-min-ver TLSv1.3\n  default_backend out\n" +
          "backend out\n  server one 127.0.0.1:" + std::to_string(local_endpoint(backend.get()).port()) + " ssl crt " +
          file("client-both.pem") + " ca-file " + file("ca.pem") + " verify required\n");
  Child haproxy = Child::exec({"haproxy", "-db", "-f", file("haproxy.cfg")}, file("log"));
  await_listener(port, file("log"));
  KtlsSocket client = End(Role::client, GetParam()).hand_off(connect_tcp(endpoint("127.0.0.1", port)));
  ASSERT_TRUE(send_all(client, "first"));
  KtlsSocket server = End(Role::server, GetParam()).hand_off(accept_tcp(backend.get(), std::chrono::seconds(30)));
  EXPECT_EQ(receive_exactly(server, 5), "first");
  const std::string text = marked(2, 2'000'000);
  std::string got;
  std::thread reader([&] { got = receive_exactly(client, text.size()); });
  EXPECT_TRUE(send_all(server, text));
  reader.join();
  EXPECT_TRUE(got == text) << got.size() << read_text(file("log"));
  ASSERT_TRUE(shut_down(server));
  EXPECT_EQ(receive_to_end(client), "");
}

}  // namespace

}  // namespace shunt::test
