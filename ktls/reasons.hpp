// Why something of this library was refused or failed: one list, which makes the enumeration, the stable names and the
// texts.
#pragma once

namespace shunt {

// X(enumerator, name, meaning, remedy)
#define KTLS_REASONS(X)                                                                                             \
  /* ktls_prepare() */                                                                                              \
  X(no_ciphers, "no-ciphers", "no cipher is left to offer", "offer what ktls_probe() found")                        \
  X(keylog_taken, "keylog-taken", "the SSL_CTX has a keylog callback of another owner", "give it an SSL_CTX alone") \
  X(library_failed, "library-failed", "OpenSSL refused a setting or is short of memory", "")                        \
  /* hand_off(), before the point of no return: the SSL goes on as it was */                                        \
  X(not_prepared, "not-prepared", "the SSL was not prepared before its handshake", "call ktls_prepare() first")     \
  X(handshake_unfinished, "handshake-unfinished", "the handshake is not finished", "finish it first")               \
  X(wrong_version, "wrong-version", "not TLS 1.3", "let the peer speak TLS 1.3")                                    \
  X(cipher_unsupported, "cipher-unsupported", "a cipher that the kernel was not seen to take", "")                  \
  X(no_secrets, "no-secrets", "the traffic secrets were not seen", "prepare every SSL_CTX, those of SNI too")       \
  X(openssl_ktls, "openssl-ktls", "OpenSSL has given keys to the kernel itself", "do not set SSL_OP_ENABLE_KTLS")   \
  X(closing, "closing", "the session is being closed", "")                                                          \
  X(read_ahead, "read-ahead", "read_ahead is on", "leave it off")                                                   \
  X(records_exchanged, "records-exchanged", "records were sent or read under the application keys",                 \
    "hand off before SSL_read() and SSL_write(), without tickets")                                                  \
  X(bytes_pending, "bytes-pending", "OpenSSL holds bytes that it read or has to write", "")                         \
  X(fragment_length, "fragment-length", "a smaller record size was negotiated", "do not enable it")                 \
  X(foreign_bio, "foreign-bio", "the SSL does not use a plain socket BIO", "use SSL_set_fd()")                      \
  X(wrong_descriptor, "wrong-descriptor", "the descriptor is not that of the SSL", "")                              \
  X(derivation_failed, "derivation-failed", "OpenSSL could not derive the keys", "")                                \
  X(no_ulp, "no-ulp", "the kernel has no TLS upper layer protocol", "modprobe tls (CONFIG_TLS)")                    \
  X(not_established, "not-established", "the TCP connection is not established any more", "")                       \
  X(ulp_refused, "ulp-refused", "the kernel refused the TLS upper layer protocol for this socket", "")              \
  /* hand_off(), after it: the socket is closed */                                                                  \
  X(tx_keys_refused, "tx-keys-refused", "the kernel refused the keys for sending", "")                              \
  X(rx_keys_refused, "rx-keys-refused", "the kernel refused the keys for receiving", "")                            \
  /* KtlsSocket */                                                                                                  \
  X(io_failed, "io-failed", "the system call failed", "")                                                           \
  X(truncated, "truncated", "the connection ended without close_notify", "")                                        \
  X(peer_alert, "peer-alert", "the peer sent a fatal alert", "")                                                    \
  X(bad_record, "bad-record", "a record could not be decrypted or is malformed", "")                                \
  X(unexpected_message, "unexpected-message", "the peer sent what TLS 1.3 does not allow here", "")                 \
  X(too_many_messages, "too-many-messages", "the peer sent many control records and no data", "")                   \
  X(rekey_unsupported, "rekey-unsupported", "a KeyUpdate, which this kernel cannot follow", "use Linux 6.14")       \
  X(rekey_failed, "rekey-failed", "new keys could not be derived or installed", "")                                 \
  X(key_used_up, "key-used-up", "one key has sealed as many records as are safe", "use Linux 6.14")                 \
  X(sending_ended, "sending-ended", "this end has sent its close_notify", "")

enum class KtlsReason {
#define KTLS_REASON_ENUMERATOR(enumerator, name, meaning, remedy) enumerator,
  KTLS_REASONS(KTLS_REASON_ENUMERATOR)
#undef KTLS_REASON_ENUMERATOR
};

#define KTLS_REASON_COUNT_ONE(enumerator, name, meaning, remedy) +1
inline constexpr int kKtlsReasonCount = 0 KTLS_REASONS(KTLS_REASON_COUNT_ONE);
#undef KTLS_REASON_COUNT_ONE

}  // namespace shunt
