// What is watched of a connection between ktls_prepare() and hand_off(); lives in the SSL's ex_data.
#pragma once

#include <openssl/ssl.h>

#include <cstdint>
#include <ktls/ktls.hpp>

namespace shunt {

struct SessionState {
  KtlsSettings settings;
  KtlsSecret client;  // CLIENT_TRAFFIC_SECRET_0
  KtlsSecret server;
  // Counted by their headers, so that a record counts from the moment on in which OpenSSL has begun it.
  bool finished_sent = false;
  bool finished_read = false;
  uint64_t records_sent = 0;  // after our Finished: under the application keys
  uint64_t records_read = 0;  // after the peer's
};

SessionState* session_state(const SSL* ssl);  // null: not prepared

}  // namespace shunt
