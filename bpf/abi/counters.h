/* The one list of counters kept per CPU by the kernel side. X(id, metric name, help).
 * Bytes and messages of open sockets are in their socket storage and are added here when the socket closes. */
#ifndef SHUNT_ABI_COUNTERS_H
#define SHUNT_ABI_COUNTERS_H

#define SH_COUNTERS(X)                                                                                    \
	X(SOCKETS_SEEN, "sockets_seen", "active TCP connects seen by the sock_ops program")               \
	X(ENROLLED, "sockets_enrolled", "sockets put into the map")                                       \
	X(PAIRS, "pairs_made", "pairs made")                                                              \
	X(LEFT, "sockets_left", "active sockets that left the map because no local peer was enrolled")    \
	X(LEAVE_LATER, "sockets_leave_deferred", "attempts to leave the map put off because bytes were queued") \
	X(SAMPLED, "profile_sampled", "connections enrolled against the profile, to notice a change")     \
	X(PROFILE_SKIPPED, "profile_skipped", "connections left on TCP by the learned profile")           \
	X(FAST_MSGS, "redirected_messages", "messages redirected, of closed sockets")                     \
	X(FAST_BYTES, "redirected_bytes", "bytes redirected, of closed sockets")                          \
	X(TCP_MSGS, "tcp_messages", "messages of enrolled sockets that went through TCP, of closed sockets") \
	X(TCP_BYTES, "tcp_bytes", "bytes of enrolled sockets that went through TCP, of closed sockets")   \
	X(SPILLS, "spills", "transitions from the shortcut to TCP, of closed sockets")                    \
	X(LATCHES, "latches", "transitions from TCP back to the shortcut, of closed sockets")             \
	X(CLOSED, "sockets_closed", "enrolled sockets that closed")                                       \
	X(EVENTS_LOST, "events_lost", "event records that did not fit into the ring") \
	X(OVERLAPS, "overlaps_cut", "packets of which a part had arrived before, at enrolled sockets") \
	X(REQUESTS_ALLOWED, "requests_allowed", "requests that a policy allowed in the kernel")           \
	X(REQUESTS_DENIED, "requests_denied", "requests that a policy denied, answered with 403")         \
	X(REQUESTS_PUNTED, "requests_punted", "requests that the kernel does not judge") \
	X(FORBIDDEN, "connections_forbidden", "connections that a policy forbids, or in which requests could not be judged") \
	X(UNJUDGED_PACKETS, "packets_unjudged", "packets dropped before a governed server could read them") \
	X(REQUESTS_TO_PROXY, "requests_to_proxy", "requests that were handed to the fallback proxy")      \
	X(NO_CHANNEL, "requests_without_channel", "requests for the fallback proxy that found none, or no free channel") \
	X(SERVICES_DIALLED, "services_dialled", "connections to services on other hosts that were turned to the gateway") \
	X(SERVICES_REFUSED, "services_refused", "connections to strict services that found no gateway") \
	X(PLAINTEXT_REFUSED, "plaintext_refused", "connections from other hosts to strict services that did not come through the gateway") \
	X(STEERED, "connections_steered", "connections that were steered to the fallback proxy") \
	X(SERVER_ENDS_TOLD, "server_ends_told", "connections whose server closed before it had answered a request of the proxy: 502") \
	X(SERVER_ENDS_RESET, "server_ends_reset", "the same, where order could not be proved: reset") \
	X(RESPONSES_LOST, "responses_not_told", "responses that are in no metric with Istio's names, for want of room")

enum sh_counter {
#define SH_COUNTER_ENUM(id, name, help) SH_C_##id,
	SH_COUNTERS(SH_COUNTER_ENUM)
#undef SH_COUNTER_ENUM
	SH_COUNTER_COUNT
};

#endif
