#include <linux/tcp.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <openssl/bio.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <cassert>
#include <cerrno>
#include <utility>

#include "derive.hpp"
#include "ktls.hpp"
#include "session_state.hpp"

namespace shunt {

namespace {

bool is_plain_socket(BIO* bio) { return bio && BIO_method_type(bio) == BIO_TYPE_SOCKET && !BIO_next(bio); }

// Every precondition of the handoff; changes nothing. Sequence numbers start at 0 because no record was sent or read
// under the application keys: that is known from OpenSSL's own callbacks, not assumed. They also see a record of which
// OpenSSL has read no more than the header, when SSL_has_pending() says 0.
std::optional<KtlsReason> validate(SSL* ssl, const SessionState* state, int fd) {
  if (!state) return KtlsReason::not_prepared;
  if (!SSL_is_init_finished(ssl) || !state->finished_sent || !state->finished_read)
    return KtlsReason::handshake_unfinished;
  if (SSL_version(ssl) != TLS1_3_VERSION) return KtlsReason::wrong_version;

  const KtlsCipherShape* cipher = ktls_cipher_of_suite(SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(ssl)));
  if (!cipher || !(state->settings.ciphers & cipher->bit)) return KtlsReason::cipher_unsupported;
  if (state->client.bytes().size() != cipher->secret_bytes || state->server.bytes().size() != cipher->secret_bytes)
    return KtlsReason::no_secrets;

  BIO* const reading = SSL_get_rbio(ssl);
  BIO* const writing = SSL_get_wbio(ssl);
  if (!is_plain_socket(reading) || !is_plain_socket(writing)) return KtlsReason::foreign_bio;
  if (fd < 0 || SSL_get_rfd(ssl) != fd || SSL_get_wfd(ssl) != fd) return KtlsReason::wrong_descriptor;
  if (BIO_get_ktls_send(writing) || BIO_get_ktls_recv(reading)) return KtlsReason::openssl_ktls;

  if (SSL_get_shutdown(ssl) != 0) return KtlsReason::closing;
  if (SSL_get_read_ahead(ssl)) return KtlsReason::read_ahead;
  if (state->records_sent != 0 || state->records_read != 0) return KtlsReason::records_exchanged;
  if (SSL_pending(ssl) > 0 || SSL_has_pending(ssl) || SSL_want(ssl) == SSL_WRITING) return KtlsReason::bytes_pending;
  // The kernel's records have up to 2^14 bytes.
  if (SSL_SESSION_get_max_fragment_length(SSL_get_session(ssl)) != TLSEXT_max_fragment_length_DISABLED)
    return KtlsReason::fragment_length;
  return {};
}

KtlsReason ulp_reason(int code) {
  if (code == ENOENT) return KtlsReason::no_ulp;
  if (code == ENOTCONN) return KtlsReason::not_established;
  return KtlsReason::ulp_refused;
}

// The SSL must not write or close what is not its own any more: its records would be encrypted a second time.
void cut_off(SSL* ssl) {
  SSL_set_quiet_shutdown(ssl, 1);
  BIO_set_close(SSL_get_rbio(ssl), BIO_NOCLOSE);
  BIO_set_close(SSL_get_wbio(ssl), BIO_NOCLOSE);
  SSL_set_bio(ssl, nullptr, nullptr);
}

}  // namespace

Result<KtlsSocket, KtlsError> hand_off(SSL* ssl, UniqueFd& fd) {
  assert(ssl);
  SessionState* const state = session_state(ssl);
  if (auto refusal = validate(ssl, state, fd.get())) return unexpected(KtlsError{*refusal});

  KtlsSocket::Parts parts;
  parts.cipher = ktls_cipher_of_suite(SSL_CIPHER_get_protocol_id(SSL_get_current_cipher(ssl)));
  parts.is_server = SSL_is_server(ssl);
  parts.settings = state->settings;
  KtlsSecret& tx = parts.is_server ? state->server : state->client;
  KtlsSecret& rx = parts.is_server ? state->client : state->server;
  CryptoInfo tx_info, rx_info;
  if (!tx_info.derive(*parts.cipher, tx.bytes()) || !rx_info.derive(*parts.cipher, rx.bytes()))
    return unexpected(KtlsError{KtlsReason::derivation_failed});
  if (setsockopt(fd.get(), IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) != 0) {
    const int code = errno;
    return unexpected(KtlsError{ulp_reason(code), code});
  }

  // The point of no return. The socket has the ULP but no keys: whatever was sent on it now would be plaintext. From
  // here on a failure can only close.
  parts.fd = std::move(fd);
  cut_off(ssl);
  if (parts.settings.rekey) {
    parts.tx = std::move(tx);
    parts.rx = std::move(rx);
  }
  tx.wipe();
  rx.wipe();
  if (int code = tx_info.install(parts.fd.get(), TLS_TX))
    return unexpected(KtlsError{KtlsReason::tx_keys_refused, code});
  if (int code = rx_info.install(parts.fd.get(), TLS_RX))
    return unexpected(KtlsError{KtlsReason::rx_keys_refused, code});
  return KtlsSocket(std::move(parts));
}

}  // namespace shunt
