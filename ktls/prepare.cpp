#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <atomic>
#include <cassert>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <string_view>

#include "derive.hpp"
#include "ktls.hpp"
#include "session_state.hpp"

namespace shunt {

namespace {

// ---- ex_data: OpenSSL frees ours with its own objects ----

template <typename T>
void free_object(void*, void* object, CRYPTO_EX_DATA*, int, long, void*) {
  delete static_cast<T*>(object);
}

// A copy is a session of its own: it is not prepared.
int forget_object(CRYPTO_EX_DATA*, const CRYPTO_EX_DATA*, void** object, int, long, void*) {
  *object = nullptr;
  return 1;
}

// The one in `kept`. Negative: there is no memory for one now; the next call tries again. Where two threads make one at
// once, one of the two is not used.
template <typename Make>
int kept_index(std::atomic<int>& kept, Make make) {
  int index = kept;
  if (index >= 0) return index;
  const int made = make();
  if (made < 0 || kept.compare_exchange_strong(index, made)) return made;
  return index;
}

int ssl_index() {
  static std::atomic<int> kept{-1};
  return kept_index(kept,
                    [] { return SSL_get_ex_new_index(0, nullptr, nullptr, forget_object, free_object<SessionState>); });
}

int context_index() {
  static std::atomic<int> kept{-1};
  return kept_index(
      kept, [] { return SSL_CTX_get_ex_new_index(0, nullptr, nullptr, forget_object, free_object<KtlsSettings>); });
}

BasicUnexpected<KtlsError> failed(KtlsReason reason) { return unexpected(KtlsError{reason}); }

// ---- the secrets: "LABEL CLIENT-RANDOM SECRET", the last two in hexadecimal ----

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

void take_secret(std::string_view hex, KtlsSecret& secret) {
  uint8_t bytes[48];
  size_t count = 0;
  bool ok = hex.size() % 2 == 0 && hex.size() / 2 <= sizeof(bytes);
  for (size_t at = 0; ok && at < hex.size(); at += 2) {
    const int high = hex_digit(hex[at]), low = hex_digit(hex[at + 1]);
    ok = high >= 0 && low >= 0;
    bytes[count++] = static_cast<uint8_t>(high << 4 | low);
  }
  if (ok) secret.assign({bytes, count});
  OPENSSL_cleanse(bytes, sizeof(bytes));
}

void on_keylog(const SSL* ssl, const char* text) {
  SessionState* state = session_state(ssl);
  if (!state) return;
  const std::string_view line(text);
  const std::string_view label = line.substr(0, line.find(' '));
  const std::string_view hex = line.substr(line.rfind(' ') + 1);
  if (label == "CLIENT_TRAFFIC_SECRET_0") take_secret(hex, state->client);
  if (label == "SERVER_TRAFFIC_SECRET_0") take_secret(hex, state->server);
}

void on_message(int sent, int, int content_type, const void* bytes, size_t size, SSL*, void* argument) {
  SessionState& state = *static_cast<SessionState*>(argument);
  const bool finished = sent ? state.finished_sent : state.finished_read;
  if (content_type == SSL3_RT_HEADER) {
    if (finished) (sent ? state.records_sent : state.records_read)++;
  } else if (content_type == SSL3_RT_HANDSHAKE && size > 0 &&
             static_cast<const uint8_t*>(bytes)[0] == SSL3_MT_FINISHED) {
    (sent ? state.finished_sent : state.finished_read) = true;
  }
}

bool offer_ciphers(SSL_CTX* ctx, uint32_t bits) {
  char names[128] = "";
  for (const KtlsCipherShape& cipher : ktls_ciphers()) {
    if (!(bits & cipher.bit)) continue;
    if (names[0]) std::strcat(names, ":");
    std::strcat(names, cipher.name);
  }
  return SSL_CTX_set_ciphersuites(ctx, names) == 1;
}

}  // namespace

SessionState* session_state(const SSL* ssl) {
  return ssl_index() < 0 ? nullptr : static_cast<SessionState*>(SSL_get_ex_data(ssl, ssl_index()));
}

Result<void, KtlsError> ktls_prepare(SSL_CTX* ctx, const KtlsSettings& settings) {
  assert(ctx);
  uint32_t known = 0;
  for (const KtlsCipherShape& cipher : ktls_ciphers()) known |= cipher.bit;
  if (!(settings.ciphers & known)) return failed(KtlsReason::no_ciphers);
  const auto keylog = SSL_CTX_get_keylog_callback(ctx);
  if (keylog && keylog != on_keylog) return failed(KtlsReason::keylog_taken);
  if (context_index() < 0 || ssl_index() < 0) return failed(KtlsReason::library_failed);
  auto* kept = static_cast<KtlsSettings*>(SSL_CTX_get_ex_data(ctx, context_index()));
  if (kept) {
    *kept = settings;
  } else {
    kept = new (std::nothrow) KtlsSettings(settings);
    if (!kept) return failed(KtlsReason::library_failed);
    if (SSL_CTX_set_ex_data(ctx, context_index(), kept) != 1) {
      delete kept;
      return failed(KtlsReason::library_failed);
    }
  }
  if (SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) != 1 || !offer_ciphers(ctx, settings.ciphers) ||
      SSL_CTX_set_num_tickets(ctx, 0) != 1 || SSL_CTX_set_max_early_data(ctx, 0) != 1 ||
      SSL_CTX_set_recv_max_early_data(ctx, 0) != 1 ||
      SSL_CTX_set_tlsext_max_fragment_length(ctx, TLSEXT_max_fragment_length_DISABLED) != 1) {
    return failed(KtlsReason::library_failed);
  }
  SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
  SSL_CTX_clear_options(ctx, SSL_OP_ENABLE_KTLS);
  SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_read_ahead(ctx, 0);
  SSL_CTX_set_post_handshake_auth(ctx, 0);
  SSL_CTX_set_keylog_callback(ctx, on_keylog);
  return {};
}

Result<void, KtlsError> ktls_prepare(SSL* ssl) {
  assert(ssl);
  if (context_index() < 0 || ssl_index() < 0) return failed(KtlsReason::library_failed);
  const auto* settings = static_cast<const KtlsSettings*>(SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), context_index()));
  if (!settings || !SSL_in_before(ssl)) return failed(KtlsReason::not_prepared);
  if (session_state(ssl)) return {};
  auto* state = new (std::nothrow) SessionState;
  if (!state) return failed(KtlsReason::library_failed);
  state->settings = *settings;
  if (SSL_set_ex_data(ssl, ssl_index(), state) != 1) {
    delete state;
    return failed(KtlsReason::library_failed);
  }
  SSL_set_msg_callback(ssl, on_message);
  SSL_set_msg_callback_arg(ssl, state);
  return {};
}

const char* ktls_reason_name(KtlsReason reason) {
  switch (reason) {
#define KTLS_REASON_NAME(enumerator, name, meaning, remedy) \
  case KtlsReason::enumerator:                              \
    return name;
    KTLS_REASONS(KTLS_REASON_NAME)
#undef KTLS_REASON_NAME
  }
  return "?";
}

const char* KtlsError::name() const { return ktls_reason_name(reason); }

std::string KtlsError::to_string() const {
  struct Text {
    const char* meaning;
    const char* remedy;
  };
  static constexpr Text kTexts[] = {
#define KTLS_REASON_TEXT(enumerator, name, meaning, remedy) {meaning, remedy},
      KTLS_REASONS(KTLS_REASON_TEXT)
#undef KTLS_REASON_TEXT
  };
  const Text& text_of = kTexts[static_cast<int>(reason)];
  std::string text = std::string(name()) + ": " + text_of.meaning;
  if (code) text += std::string(": ") + std::strerror(code);
  if (alert) text += ": alert " + std::to_string(alert) + ", " + SSL_alert_desc_string_long(alert);
  if (*text_of.remedy) text += std::string(" (") + text_of.remedy + ")";
  return text;
}

}  // namespace shunt
