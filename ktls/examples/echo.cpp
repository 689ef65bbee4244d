// An echo server and its client over mutual TLS 1.3, encrypted by the kernel after the handshake.
//
//   ktls-echo server PORT CERTIFICATE KEY CA     answers on 127.0.0.1, one connection after the other
//   ktls-echo client PORT CERTIFICATE KEY CA     sends its standard input, prints what comes back
//
// Files are PEM. Each end asks for the other's certificate and checks it against CA.
#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ktls/ktls.hpp>
#include <ktls/probe.hpp>
#include <memory>
#include <thread>

using namespace shunt;

namespace {

using Context = std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)>;
using Session = std::unique_ptr<SSL, decltype(&SSL_free)>;

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "ktls-echo: %s\n", what.c_str());
  std::exit(1);
}

[[noreturn]] void die_of_openssl(const std::string& what) {
  ERR_print_errors_fp(stderr);
  die(what);
}

Context make_context(bool server, char** files) {
  const KtlsProbeReport probe = ktls_probe();
  if (!probe.usable) {
    const ProbeItem& last = probe.items.back();
    die("this kernel cannot: " + last.name + ": " + last.found + " (" + last.remedy + ")");
  }
  Context ctx(SSL_CTX_new(server ? TLS_server_method() : TLS_client_method()), SSL_CTX_free);
  if (!ctx || SSL_CTX_use_certificate_chain_file(ctx.get(), files[0]) != 1 ||
      SSL_CTX_use_PrivateKey_file(ctx.get(), files[1], SSL_FILETYPE_PEM) != 1 ||
      SSL_CTX_load_verify_locations(ctx.get(), files[2], nullptr) != 1)
    die_of_openssl("certificate, key or CA");
  SSL_CTX_set_verify(ctx.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  if (auto prepared = ktls_prepare(ctx.get(), probe.settings); !prepared) die(prepared.error().to_string());
  return ctx;
}

// Handshake in user space, then everything in the kernel.
Result<KtlsSocket, KtlsError> establish(SSL_CTX* ctx, bool server, UniqueFd fd) {
  Session ssl(SSL_new(ctx), SSL_free);
  if (!ssl) die_of_openssl("SSL_new");
  if (auto prepared = ktls_prepare(ssl.get()); !prepared) return unexpected(prepared.error());
  SSL_set_fd(ssl.get(), fd.get());
  if ((server ? SSL_accept(ssl.get()) : SSL_connect(ssl.get())) != 1) {
    ERR_print_errors_fp(stderr);
    return unexpected(KtlsError{KtlsReason::handshake_unfinished});
  }
  const X509* peer = SSL_get0_peer_certificate(ssl.get());
  char name[256] = "";
  X509_NAME_oneline(X509_get_subject_name(peer), name, sizeof(name));
  std::fprintf(stderr, "ktls-echo: peer %s, %s\n", name, SSL_get_cipher_name(ssl.get()));
  return hand_off(ssl.get(), fd);
}

Result<void, KtlsError> send_all(KtlsSocket& socket, std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    auto sent = socket.send(bytes);
    if (!sent) return unexpected(sent.error());
    bytes = bytes.subspan(sent->bytes);
  }
  return {};
}

Result<void, KtlsError> echo(KtlsSocket& socket) {
  uint8_t buffer[16384];
  for (;;) {
    auto got = socket.recv(buffer);
    if (!got) return unexpected(got.error());
    if (got->event == KtlsIo::Event::end) break;
    if (auto sent = send_all(socket, std::span(buffer).first(got->bytes)); !sent) return sent;
  }
  for (;;) {  // on a blocking descriptor it blocks only while the kernel holds encrypted bytes back
    auto done = socket.shutdown();
    if (!done) return unexpected(done.error());
    if (done->event == KtlsIo::Event::data) return {};
    usleep(1000);
  }
}

int run_server(SSL_CTX* ctx, const sockaddr_in& addr) {
  UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&addr), sizeof(addr)) != 0 ||
      listen(listener.get(), 16) != 0)
    die(std::string("listen: ") + std::strerror(errno));
  for (;;) {
    UniqueFd fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd) continue;
    auto socket = establish(ctx, true, std::move(fd));
    auto done = socket ? echo(*socket) : Result<void, KtlsError>(unexpected(socket.error()));
    if (!done) std::fprintf(stderr, "ktls-echo: %s\n", done.error().to_string().c_str());
  }
}

int run_client(SSL_CTX* ctx, const sockaddr_in& addr) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&addr), sizeof(addr)) != 0)
    die(std::string("connect: ") + std::strerror(errno));
  auto socket = establish(ctx, false, std::move(fd));
  if (!socket) die(socket.error().to_string());
  // Sends a piece and reads its echo, so that neither end waits with full buffers for the other.
  uint8_t out[4096], in[4096];
  for (ssize_t n; (n = read(STDIN_FILENO, out, sizeof(out))) > 0;) {
    if (auto sent = send_all(*socket, std::span(out).first(static_cast<size_t>(n))); !sent)
      die(sent.error().to_string());
    for (size_t left = static_cast<size_t>(n); left > 0;) {
      auto got = socket->recv(std::span(in).first(std::min(left, sizeof(in))));
      if (!got) die(got.error().to_string());
      if (got->event == KtlsIo::Event::end) die("the server ended early");
      if (write(STDOUT_FILENO, in, got->bytes) < 0) die("write");
      left -= got->bytes;
    }
  }
  for (auto done = socket->shutdown(); done && done->event == KtlsIo::Event::would_block; done = socket->shutdown())
    usleep(1000);
  auto end = socket->recv(in);
  if (!end) die(end.error().to_string());
  return end->event == KtlsIo::Event::end ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6 || (std::strcmp(argv[1], "server") != 0 && std::strcmp(argv[1], "client") != 0)) {
    std::fprintf(stderr, "usage: ktls-echo server|client PORT CERTIFICATE KEY CA\n");
    return 64;
  }
  signal(SIGPIPE, SIG_IGN);
  const bool server = std::strcmp(argv[1], "server") == 0;
  sockaddr_in addr{};
  addr.sin_family = AF_INET;
  addr.sin_port = htons(static_cast<uint16_t>(std::atoi(argv[2])));
  addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  Context ctx = make_context(server, argv + 3);
  return server ? run_server(ctx.get(), addr) : run_client(ctx.get(), addr);
}
