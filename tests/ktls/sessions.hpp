// TLS sessions for tests: certificates made at run time, both ends in this process, and a relay between them that keeps
// every byte of the wire.
#pragma once

#include <array>
#include <atomic>
#include <base/unique_fd.hpp>
#include <functional>
#include <ktls/ktls.hpp>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "ktls/forge.hpp"

namespace shunt::test {

inline constexpr char kMarker[] = "plaintext-marker";

enum class Role { client, server };
inline Role other(Role role) { return role == Role::client ? Role::server : Role::client; }

// A CA and two certificates signed by it, with P-256 keys.
class Pki {
 public:
  static const Pki& get();  // made once

  void use(SSL_CTX* ctx, Role role) const;  // own certificate; the peer's is asked for and checked
  // PEM files for other programs: ca.pem, client.pem, client.key, server.pem, server.key, server-both.pem
  void write_files(const std::string& folder) const;

 private:
  Pki();
  Forged ca_, ends_[2];
};

// Copies between two connections and keeps what it saw.
class Wire {
 public:
  Wire(UniqueFd client_side, UniqueFd server_side);
  ~Wire();

  void stop();                                                                   // afterwards the bytes are complete
  std::string seen(Role sender) const;                                           // so far
  void corrupt_next(Role sender) { corrupt_[static_cast<int>(sender)] = true; }  // one bit at the end of the next piece
  void pause(Role sender, bool on) { paused_[static_cast<int>(sender)] = on; }   // leaves bytes in the sender's socket

 private:
  void run();
  bool copy(int from);

  std::array<UniqueFd, 2> ends_;
  std::array<std::string, 2> seen_;
  std::array<bool, 2> ended_{};
  std::array<std::atomic<bool>, 2> corrupt_{}, paused_{};
  mutable std::mutex mutex_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

// Empty if `bytes` are nothing but whole TLS records without the marker in them, encrypted from the first one of type
// 23 on. `torn` allows the last one to be cut off, as it is when a socket was closed by force.
std::string wire_complaint(const std::string& bytes, bool torn = false);

struct SessionOptions {
  KtlsSettings settings{kKtlsAes128Gcm | kKtlsAes256Gcm | kKtlsChacha20Poly1305, false, kKtlsKeyRecordsMax};
  const char* ciphersuites = nullptr;           // of both ends
  std::array<bool, 2> prepared{true, true};     // by role; an end that is not is an ordinary user of OpenSSL
  std::function<void(SSL_CTX*, Role)> context;  // further settings, after the preparation
  std::function<void(SSL*, Role)> session;      // the same for the SSL
};

// Both ends of one connection through a Wire, after a handshake with certificates on both sides.
struct Sessions {
  explicit Sessions(const SessionOptions& options = {});
  ~Sessions();

  SSL* ssl(Role role) { return ssls[static_cast<int>(role)].get(); }
  UniqueFd& fd(Role role) { return fds[static_cast<int>(role)]; }
  Result<KtlsSocket, KtlsError> hand_off(Role role) { return shunt::hand_off(ssl(role), fd(role)); }

  std::array<SslContext, 2> contexts;
  std::array<SslSession, 2> ssls;
  std::array<UniqueFd, 2> fds;
  std::unique_ptr<Wire> wire;
  bool torn = false;  // the wire may end within a record
};

// Blocking calls that end the test program's patience with an exception text instead of hanging: sockets have timeouts.
std::string ssl_read_exactly(SSL* ssl, size_t bytes);
bool ssl_write_all(SSL* ssl, const std::string& bytes);
std::string receive_exactly(KtlsSocket& socket, size_t bytes, size_t piece = 65536);
bool send_all(KtlsSocket& socket, const std::string& bytes);
bool shut_down(KtlsSocket& socket);

struct Pipe {  // does not block
  Pipe();
  UniqueFd reading, writing;
};

// `bytes` of which every 64 begin with the marker; depends on the seed at every position otherwise.
std::string marked(uint64_t seed, size_t bytes);

}  // namespace shunt::test
