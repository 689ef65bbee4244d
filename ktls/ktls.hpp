// Hands an established TLS 1.3 session of OpenSSL (3.0 or later) to the kernel (kTLS), and does record I/O on it.
//
//   KtlsProbeReport probe = ktls_probe();                  // ktls/probe.hpp: what can this kernel do?
//   SSL_CTX* ctx = SSL_CTX_new(TLS_server_method());       // certificates, verification, ALPN: as always
//   ktls_prepare(ctx, probe.settings);
//   SSL* ssl = SSL_new(ctx);
//   ktls_prepare(ssl);
//   SSL_set_fd(ssl, fd.get());
//   ... SSL_accept(ssl) until it returns 1; look at the peer's certificate ...
//   auto socket = hand_off(ssl, fd);                       // no SSL_read() or SSL_write() before
//   SSL_free(ssl);
//   socket->recv(...), socket->send(...), socket->shutdown();
//
// Nothing here logs, starts a thread or touches global state other than two ex_data indexes of OpenSSL. An object is
// used by one thread at a time. Nothing allocates after the keys are derived.
#pragma once

#include <openssl/types.h>

#include <array>
#include <base/result.hpp>
#include <base/unique_fd.hpp>
#include <cstddef>
#include <cstdint>
#include <ktls/reasons.hpp>
#include <optional>
#include <span>
#include <string>

namespace shunt {

// What failed. Holds no memory, so that it can be made when there is none.
struct KtlsError {
  KtlsReason reason{};
  int code = 0;   // positive errno of the system call, or 0
  int alert = 0;  // for peer_alert: AlertDescription of RFC 8446 section 6

  const char* name() const;  // stable, kebab-case: "no-ulp"
  std::string to_string()
      const;  // "no-ulp: the kernel has no TLS upper layer protocol: No such file... (modprobe tls)"
};

const char* ktls_reason_name(KtlsReason reason);

enum KtlsCipher : uint32_t {  // bits
  kKtlsAes128Gcm = 1,         // TLS_AES_128_GCM_SHA256
  kKtlsAes256Gcm = 2,         // TLS_AES_256_GCM_SHA384
  kKtlsChacha20Poly1305 = 4,  // TLS_CHACHA20_POLY1305_SHA256
};

// RFC 8446 section 5.5: at most 2^24.5 records under one AES-GCM key.
inline constexpr uint64_t kKtlsKeyRecordsMax = uint64_t{1} << 24;

// What ktls_probe() found, or less.
struct KtlsSettings {
  uint32_t ciphers = 0;  // KtlsCipher bits
  bool rekey = false;    // the kernel takes new keys; otherwise no secret is kept, and a KeyUpdate ends the connection
  uint64_t key_records_max =
      kKtlsKeyRecordsMax;  // after so many records new keys for sending, or the end without `rekey`
};

// Makes a context fit for handing its connections off: TLS 1.3 alone, only the ciphers of `settings`, no tickets, no
// resumption, no early data, no read-ahead, no kTLS by OpenSSL itself; takes its keylog callback. Call it before
// SSL_new(), on every context that SNI may switch to as well.
Result<void, KtlsError> ktls_prepare(SSL_CTX* ctx, const KtlsSettings& settings);

// Watches one connection; takes its message callback. Call it after SSL_new() on a prepared context, before the
// handshake. The secrets it keeps are wiped by hand_off() or SSL_free().
Result<void, KtlsError> ktls_prepare(SSL* ssl);

struct KtlsCounts {
  uint64_t tickets_dropped = 0;
  uint64_t key_updates_received = 0;
  uint64_t key_updates_sent = 0;
};

struct KtlsIo {
  enum class Event {
    data,         // `bytes` were transferred (for shutdown: it is done)
    would_block,  // nothing was; try again when poll() says so
    end,          // receiving only: the peer's close_notify, after which nothing counts
  };
  Event event = Event::data;
  size_t bytes = 0;
};

using KtlsIoResult = Result<KtlsIo, KtlsError>;

// A traffic secret (RFC 8446 section 7.1), wiped when it goes.
class KtlsSecret {
 public:
  KtlsSecret() = default;
  ~KtlsSecret() { wipe(); }
  KtlsSecret(KtlsSecret&& other) noexcept { *this = static_cast<KtlsSecret&&>(other); }
  KtlsSecret& operator=(KtlsSecret&& other) noexcept;
  KtlsSecret(const KtlsSecret&) = delete;
  KtlsSecret& operator=(const KtlsSecret&) = delete;

  // False, and unchanged, if it does not fit.
  bool assign(std::span<const uint8_t> bytes);
  std::span<const uint8_t> bytes() const { return {bytes_.data(), size_}; }
  void wipe();

 private:
  std::array<uint8_t, 48> bytes_{};  // SHA-384's, the longest
  size_t size_ = 0;
};

struct KtlsCipherShape;

// A connection whose records the kernel encrypts and decrypts; the owner of its descriptor. Blocks or not as the
// descriptor does. Destroying it closes the descriptor, without close_notify unless shutdown() was done before.
//
// A failed receive is final for receiving, a failed send for sending: the same error comes again. After a breach of
// protocol (bad_record, unexpected_message, too_many_messages, rekey_*) the peer has been sent a fatal alert if that
// was possible, both directions are shut down, and only closing is left; the descriptor stays open, so that its number
// means nothing else.
class KtlsSocket {
 public:
  KtlsSocket(KtlsSocket&&) noexcept = default;
  KtlsSocket& operator=(KtlsSocket&&) noexcept = default;

  // For poll() and socket options. Reading or writing it directly spoils the accounting: do not.
  int fd() const { return fd_.get(); }

  // Sends up to all of `bytes`; may be part of them.
  KtlsIoResult send(std::span<const uint8_t> bytes);

  // Receives into `into` (at least one byte). Control records are dealt with on the way: tickets are dropped,
  // KeyUpdates followed, alerts become `end` or an error. The end of TCP without close_notify is `truncated`. What
  // `into` holds beyond `bytes` is undefined.
  KtlsIoResult recv(std::span<uint8_t> into);

  // The same from and to a pipe, by splice(2), for up to `bytes_max` bytes, without copying through user space. `pipe`
  // must be a pipe; both ends are treated as non-blocking. Nothing else may be done with the socket by splice().
  // SIGPIPE has to be ignored: splice() raises it.
  KtlsIoResult send_from_pipe(int pipe, size_t bytes_max);
  KtlsIoResult recv_to_pipe(int pipe, size_t bytes_max);

  // Ends sending: a close_notify record, then FIN (a half-close; receiving goes on). Call it again after `would_block`,
  // with a level-triggered poll for POLLOUT: the kernel may still hold encrypted bytes for which TCP had no room, and
  // FIN comes only after they are in TCP. To lose nothing, receive until the end before destroying the socket: TCP
  // resets the connection if unread bytes are left.
  KtlsIoResult shutdown();

  // New keys for sending (RFC 8446 section 4.6.3), and, if asked for, the peer's as well. rekey_unsupported: the kernel
  // cannot; nothing has happened. `would_block`: the request is kept and is the first thing that later sends do.
  KtlsIoResult update_keys(bool ask_peer);

  const KtlsCounts& counts() const { return counts_; }
  // Records sent under the key in use; a system call.
  uint64_t key_records() const;

 private:
  friend Result<KtlsSocket, KtlsError> hand_off(SSL* ssl, UniqueFd& fd);

  struct Parts {
    UniqueFd fd;
    const KtlsCipherShape* cipher = nullptr;
    bool is_server = false;
    KtlsSettings settings;
    KtlsSecret tx;  // empty without rekey
    KtlsSecret rx;
  };
  struct Received {
    size_t bytes = 0;
    int type = 0;  // ContentType of RFC 8446 section 5.1; 0: the end of TCP
  };

  explicit KtlsSocket(Parts parts);

  KtlsError break_off(KtlsError error, int alert);
  std::optional<KtlsError> send_trouble() const;
  KtlsIoResult after_send(ssize_t sent);
  KtlsIoResult before_send(int flags);
  int send_control(int type, std::span<const uint8_t> body, int flags);
  KtlsIoResult flush_key_update(int flags);
  bool all_in_tcp();

  Result<Received, KtlsError> receive_once(std::span<uint8_t> into, int flags);
  std::optional<KtlsIoResult> digest(const Result<Received, KtlsError>& received, std::span<const uint8_t> bytes);
  std::optional<KtlsIoResult> receive_ended() const;
  std::optional<KtlsIoResult> on_data(size_t bytes);
  std::optional<KtlsError> on_control(int type, std::span<const uint8_t> bytes);
  std::optional<KtlsError> on_alert(std::span<const uint8_t> bytes);
  std::optional<KtlsError> on_handshake(std::span<const uint8_t> bytes);
  std::optional<KtlsError> on_handshake_head();
  std::optional<KtlsError> on_key_update(uint8_t request);

  UniqueFd fd_;
  const KtlsCipherShape* cipher_ = nullptr;
  bool is_server_ = false;
  KtlsSettings settings_;
  KtlsSecret tx_;
  KtlsSecret rx_;
  KtlsCounts counts_;

  std::optional<KtlsError> receive_error_;
  std::optional<KtlsError> send_error_;
  bool received_end_ = false;
  bool sent_close_notify_ = false;
  bool sent_end_ = false;
  bool owes_key_update_ = false;
  bool asks_key_update_ = false;

  // What arrives of control records may be in pieces: the caller's buffer can be small.
  std::array<uint8_t, 4> head_{};  // of a handshake message: type and length
  size_t head_bytes_ = 0;
  size_t body_left_ = 0;
  std::array<uint8_t, 2> alert_{};
  size_t alert_bytes_ = 0;
  uint64_t messages_run_ = 0;  // since the last data
  uint64_t message_bytes_run_ = 0;

  uint64_t key_records_bound_ = 0;  // not fewer than key_records()
  uint64_t old_key_records_ = 0;    // under the sending keys before
  uint64_t sent_bytes_ = 0;         // payload of all records, without overhead
  uint64_t wire_start_ = 0;         // position in TCP's stream at the handoff
};

// Moves the session's keys into the kernel. The SSL must have finished its handshake and have sent and read nothing
// since; `fd` is its descriptor, set by SSL_set_fd().
//
// An error up to `ulp_refused` in the list of reasons is a refusal: nothing has happened, `fd` keeps its descriptor,
// and the SSL can go on in user space. Otherwise the point of no return is passed: the SSL is cut off from the socket
// (it can only be asked and freed), `fd` is empty, and the socket belongs to the result, or is closed if there is an
// error: a socket whose keys are not in place would send plaintext.
Result<KtlsSocket, KtlsError> hand_off(SSL* ssl, UniqueFd& fd);

}  // namespace shunt
