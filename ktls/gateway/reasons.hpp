// Why the gateway refused or gave up a connection: one list, which makes the names in the access log and in the status.
// Beside these there are the reasons of ktls/reasons.hpp and ktls/identity/reasons.hpp.
#pragma once

namespace shunt::gateway {

// X(enumerator, name, meaning)
#define GATEWAY_REASONS(X)                                                                           \
  X(too_many_connections, "too-many-connections", "limits.connections are open")                     \
  X(crowded_out, "crowded-out", "limits.handshakes were unfinished, and this was the oldest")        \
  X(handshake_timeout, "handshake-timeout", "the handshake took longer than timeouts.handshake")     \
  X(not_tls, "not-tls", "what came is not TLS")                                                      \
  X(wrong_version, "wrong-version", "the peer does not speak TLS 1.3")                               \
  X(wrong_protocol, "wrong-protocol", "the peer does not speak shunt/1 (ALPN)")                      \
  X(no_service, "no-service", "the peer named no service (SNI)")                                     \
  X(unknown_service, "unknown-service", "there is no such service here")                             \
  X(service_off, "service-off", "the service is not for the mesh (mode: off)")                       \
  X(refused_by_peer, "refused-by-peer", "the peer ended the handshake with an alert")                \
  X(peer_left, "peer-left", "the peer went away within the handshake")                               \
  X(handshake_failed, "handshake-failed", "the handshake failed otherwise")                          \
  X(no_ktls, "no-ktls", "the session cannot be given to the kernel, and ktls is required")           \
  X(revoked, "revoked", "bundles, lists of revoked certificates or the deny list have changed")      \
  X(too_old, "max-connection-age", "the connection was open for max_connection_age")                 \
  X(server_unreachable, "server-unreachable", "the local server takes no connection")                \
  X(gateway_unreachable, "gateway-unreachable", "the gateway of the other host takes no connection") \
  X(unclaimed, "unclaimed", "the kernel does not take for whom the connection stands")               \
  X(not_dialled, "not-dialled", "it came to a listener of hooks, and dialled no service")            \
  X(stopped, "stopped", "the gateway ended, and timeouts.stop was over")

enum class Reason {
#define GATEWAY_REASON_ENUMERATOR(enumerator, name, meaning) enumerator,
  GATEWAY_REASONS(GATEWAY_REASON_ENUMERATOR)
#undef GATEWAY_REASON_ENUMERATOR
};

inline const char* reason_name(Reason reason) {
  switch (reason) {
#define GATEWAY_REASON_NAME(enumerator, name, meaning) \
  case Reason::enumerator:                             \
    return name;
    GATEWAY_REASONS(GATEWAY_REASON_NAME)
#undef GATEWAY_REASON_NAME
  }
  return "?";
}

}  // namespace shunt::gateway
