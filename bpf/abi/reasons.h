/* The one list of reasons why a connection is not accelerated, or why a message of an accelerated one went through TCP.
 * It makes the enum, the names in the CLI and in the metrics, the table in the manual (tools/dev reasons), and the counters.
 *
 * X(id, name, text): id as C identifier, name as it is shown (stable: users grep for it), text for people.
 * Append only: the numbers are stored in pinned maps that outlive a version. */
#ifndef SHUNT_ABI_REASONS_H
#define SHUNT_ABI_REASONS_H

#define SH_REASONS(X)                                                                                                      \
	X(NONE, "none", "accelerated, or not judged yet")                                                                  \
	/* the connection is not enrolled */                                                                               \
	X(OFF, "off", "shunt is off or draining")                                                                          \
	X(OLDER, "older", "the connection is older than shunt")                                                            \
	X(PORT, "port", "the port is excluded by the selection")                                                           \
	X(CIDR, "cidr", "the address is excluded by the selection")                                                        \
	X(CGROUP, "cgroup", "the cgroup is excluded by the selection")                                                     \
	X(USER, "user", "the user is excluded by the selection")                                                           \
	X(PROGRAM, "program", "the program is excluded by the selection")                                                  \
	X(PROGRAM_UNKNOWN, "program-unknown", "the program is not on the list of tested receivers")                        \
	X(PROGRAM_UNVERIFIED, "program-unverified", "the program has not been inspected yet")                              \
	X(PROGRAM_GO, "program-go", "a Go binary: its runtime splices between sockets")                                    \
	X(PROGRAM_SPLICES, "program-splices", "the program is configured to splice between sockets")                       \
	X(PROGRAM_FIONREAD, "program-fionread", "the program relies on FIONREAD, which this kernel misreports")            \
	X(LISTENER_UNKNOWN, "listener-unknown", "the program behind the listener is not known")                            \
	X(ONE_SHOT, "one-shot", "connections to this destination are too short to gain")                                   \
	X(ONE_WAY, "one-way", "traffic to this destination is one-way")                                                    \
	X(BULK, "bulk", "traffic to this destination is bulk")                                                             \
	X(REMOTE, "remote", "the other end is not on this host")                                                           \
	X(NO_PEER, "no-peer", "the other end is not enrolled")                                                             \
	X(MPTCP, "mptcp", "a Multipath TCP subflow")                                                                       \
	X(FASTOPEN, "fastopen", "TCP Fast Open")                                                                           \
	X(SMC, "smc", "an SMC socket")                                                                                     \
	X(ULP, "ulp", "the socket has an upper layer protocol (kTLS)")                                                     \
	X(ZEROCOPY, "zerocopy", "the socket asked for SO_ZEROCOPY")                                                        \
	X(RCVLOWAT, "rcvlowat", "the socket set SO_RCVLOWAT")                                                              \
	X(TIMESTAMP, "timestamp", "the socket asked for packet timestamps")                                                \
	X(SOCKET_OPTION, "socket-option", "the socket set an option that a redirected socket cannot keep")                 \
	X(FOREIGN_BPF, "foreign-bpf", "another BPF program owns the socket (EBUSY)")                                       \
	X(REFUSED, "refused", "the kernel refused to put the socket into the map")                                         \
	X(MAP_FULL, "map-full", "a map is full")                                                                           \
	X(NO_MEMORY, "no-memory", "no memory for the socket's state")                                                      \
	X(EXEC, "exec", "the program that owned the socket was replaced")                                                  \
	/* the connection is enrolled, a message went through TCP */                                                       \
	X(LATCH, "latch", "earlier bytes are still in the TCP stack")                                                      \
	X(BACKLOG, "backlog", "the reader lags behind")                                                                    \
	X(MEMORY, "memory", "the receiver's memory is short")                                                              \
	X(FIREWALL, "firewall", "the periodic message through TCP for firewalls and connection tracking")                  \
	X(PEER_GONE, "peer-gone", "the other end has closed")                                                              \
	X(PEER_STOPPED, "peer-stopped", "the other end can no longer receive redirected bytes")                            \
	X(REDIRECT_FAILED, "redirect-failed", "the kernel refused the redirect")                                           \
	X(STREAM, "stream", "the connection became a one-way stream")                                                      \
	X(GENERATION, "generation", "the socket belongs to a generation of shunt that is being replaced")                  \
	X(BLOCKING, "blocking", "the program may block in recv() here, which the kernel would end with EAGAIN") \
	X(CLOSING, "closing", "the socket is being shut down, or has an error")                                            \
	X(CORKED, "corked", "the server corks its responses (TCP_CORK, nginx tcp_nopush): TCP joins their parts, a redirect cannot") \
	X(UNGUARDED, "unguarded", "the cgroup was not yet watched for socket options, which shuntd arranges at its first connection") \
	X(FORGOTTEN, "forgotten", "the reason was not kept: more recent connections took its place") \
	X(REQUEST, "request", "a request that a policy judged and that does not fill its message goes through TCP") \
	X(POLICY, "policy", "a policy forbids the connection") \
	X(POLICY_CHANGED, "policy-changed", "a policy that came into force forbids the live connection: it was reset") \
	X(STEERED, "steered", "the requests of this client are judged by shunt-proxy, or it is the proxy's connection for it") \
	X(STRICT, "strict", "plaintext from another host for a service in mode strict: only shunt-gateway brings connections to it")

enum sh_reason {
#define SH_REASON_ENUM(id, name, text) SH_R_##id,
	SH_REASONS(SH_REASON_ENUM)
#undef SH_REASON_ENUM
	SH_REASON_COUNT
};

#endif
