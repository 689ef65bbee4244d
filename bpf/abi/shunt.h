/* The contract between the kernel side (bpf/) and the user side (sockops/). Plain C11 that is also C++20: fixed-size types,
 * no pointers, no padding that is not named. Addresses are 16 bytes in network order, IPv4 as v4-mapped IPv6; ports and all
 * other integers are in host order unless the name ends in _be.
 *
 * Two kinds of layout live here:
 *  - the *crossing* layout (SH_CROSSING_VERSION), shared by all generations of the programs that live side by side during an
 *    upgrade: the sockhash, the pairing records, the first bytes of the socket storage; who the gateway is, for whom its sockets
 *    stand, what was dialled (gateway.h). It changes only with its version, and then pairs are no longer made across the two.
 *  - everything else, which belongs to one generation and may change with SH_LAYOUT_VERSION. So that a new version can list and
 *    stop an old generation, struct sh_sock only ever grows at its end, and sh_config begins with the mode. */
#ifndef SHUNT_ABI_SHUNT_H
#define SHUNT_ABI_SHUNT_H

#include "counters.h"
#include "reasons.h"

#ifdef __bpf__
typedef __u8 sh_u8;
typedef __u16 sh_u16;
typedef __u32 sh_u32;
typedef __s32 sh_s32;
typedef __u64 sh_u64;
#else
#include <stdint.h>
typedef uint8_t sh_u8;
typedef uint16_t sh_u16;
typedef uint32_t sh_u32;
typedef int32_t sh_s32;
typedef uint64_t sh_u64;
#endif

#define SH_CROSSING_VERSION 1
#ifndef SH_LAYOUT_VERSION /* a test builds a second generation with another number */
#define SH_LAYOUT_VERSION 1
#endif

#define SH_ADDR_BYTES 16
#define SH_PROGRAM_NAME_BYTES 32 /* base name of the executable, cut, zero-padded */
#ifndef SH_SOCKETS_MAX           /* a test builds all of these smaller, to fill them */
#define SH_SOCKETS_MAX 262144    /* sockets in the sockhash: two for each pair, so 131,072 pairs */
#define SH_ISNS_MAX 16384        /* connections between the two ends' ESTABLISHED: microseconds each, the oldest go first */
#define SH_ANSWERS_MAX 131072    /* pairs whose active end has not sent yet */
#define SH_PROFILES_MAX 16384
#define SH_SKIPPED_MAX 16384     /* a power of two */
#define SH_LISTENERS_MAX 16384
#define SH_GUARDS_MAX 16384      /* cgroups with enrolled sockets */
#define SH_SELECT_MAX 4096       /* entries of each selection list */
#define SH_EVENT_RING_BYTES (1 << 20)
#endif
#define SH_COUNTERS_MAX 64       /* room for names to come, so that one version can read another's */
#define SH_REASONS_MAX 128

/* ---- crossing layout ---- */

/* Key of a pairing record: the two initial sequence numbers (already incremented by the SYNs), which no NAT on this host changes. */
struct sh_isn_key {
	sh_u32 active_seq;  /* snd_nxt of the active end at ESTABLISHED */
	sh_u32 passive_seq; /* rcv_nxt of the active end at ESTABLISHED */
};

/* One end, as the other needs it. The two addresses are kernel addresses: readable by root only. */
struct sh_end {
	sh_u64 cookie;
	sh_u64 sock;    /* struct tcp_sock */
	sh_u64 storage; /* struct sh_shared at the head of its socket storage; 0: none */
	sh_u64 profile; /* id of the destination's profile; 0: none */
	sh_u32 reason;  /* enum sh_reason: why this end does not pair; 0: it does */
	sh_u32 pad;
};

/* The head of the socket storage, which the other end reads: one read for all that can change from outside. */
struct sh_shared {
	sh_u64 cookie;
	sh_u32 rx_stopped; /* enum sh_reason: why nothing may be redirected to this socket any more; 0: may; SH_R_LATCH: not yet */
	sh_u32 tx_msgs;    /* messages this socket has sent, on either way, wrapping */
};

/* ---- one generation's layout ---- */

/* A workload on another host: the first 16 bytes of the SHA-256 of its SPIFFE ID. Zeroes: none. */
struct sh_remote {
	sh_u64 digest[2];
};

enum sh_state {
	SH_STATE_UNPAIRED = 0,
	SH_STATE_SPILLED = 1, /* through TCP; also the first state of a pair, because bytes may be under way */
	SH_STATE_FAST = 2,
	SH_STATE_STOPPED = 3, /* through TCP until the socket closes */
};

/* What requests and responses are read as. */
enum sh_l7_protocol {
	SH_L7_NO_PROTOCOL,
	SH_L7_HTTP1,
	SH_L7_RESP, /* Redis */
	SH_L7_PROTOCOLS
};

enum sh_l7_state {
	SH_L7_NONE,   /* no request is judged */
	SH_L7_JUDGED,
	SH_L7_BROKEN, /* nothing more is sent */
};

/* How it can be proved that all responses are in the client's queue (sh_none_is_queued() in bpf/channel.bpf.h). */
enum sh_l7_proof {
	SH_L7_IN_PIECES = 1 << 0,  /* server: its last message lies in several pieces of memory, or its memory cannot be looked at */
	SH_L7_REFS_KNOWN = 1 << 1, /* client: as long as nothing was on its way to it, its socket had the references that are expected */
};

enum sh_sock_flags {
	SH_SOCK_ACTIVE = 1 << 0,
	SH_SOCK_IN_MAP = 1 << 1,
	SH_SOCK_LEFT = 1 << 2,    /* was in the map and left it */
	SH_SOCK_SAMPLED = 1 << 3, /* enrolled against the profile */
	SH_SOCK_EARLY = 1 << 4,   /* has sent under a policy, which could not be asked: its server was not known */
};

/* What is kept for one enrolled socket, in its socket storage. Written by the socket's own programs only. */
struct sh_sock {
	struct sh_shared shared;
	sh_u64 peer_cookie;
	sh_u64 peer_sock;
	sh_u64 peer_storage;
	sh_u32 state;       /* enum sh_state */
	sh_u32 flags;       /* enum sh_sock_flags */
	sh_u32 reason;      /* enum sh_reason: of the last change */
	sh_u32 queued_msgs; /* messages redirected since the peer's queue was last seen empty */
	sh_u32 peer_msgs;   /* the peer's tx_msgs when this end last sent: a difference is a turn */
	sh_u32 turns;
	sh_u32 run_msgs;    /* messages since the last turn */
	sh_u32 spills;
	sh_u32 latches;
	sh_u32 tcp_jiffies; /* low half of jiffies when a message last went through TCP */
	sh_u64 fast_msgs;
	sh_u64 fast_bytes;
	sh_u64 tcp_msgs;
	sh_u64 tcp_bytes;
	sh_u64 mm;          /* address of the writer's mm, to notice another program */
	sh_u64 netns;       /* cookie */
	sh_u64 cgroup;      /* id */
	sh_u64 since_ns;    /* CLOCK_MONOTONIC */
	sh_u32 tgid;        /* of connect() or listen(), in the initial pid namespace */
	sh_u32 uid;
	sh_u64 profile;     /* id of the destination's profile; 0: none */
	sh_u64 queued_bytes; /* bytes redirected since the peer's queue was last seen empty */
	sh_u32 family;      /* AF_INET or AF_INET6 */
	sh_u32 run_bytes;   /* bytes since the last turn, saturating */
	sh_u8 local_addr[SH_ADDR_BYTES];
	sh_u8 remote_addr[SH_ADDR_BYTES];
	sh_u16 local_port;
	sh_u16 remote_port;
	sh_u32 program_flags; /* enum sh_program_flags */
	char program[SH_PROGRAM_NAME_BYTES];
	sh_u32 corked_msgs;   /* sent while TCP_CORK was set */
	sh_u32 granted_msgs;  /* may be redirected before the reader's queue is looked at again ... */
	sh_u32 granted_bytes; /* ... with so many bytes ... */
	sh_u32 granted_jiffies; /* ... in this one, low half */
	/* Requests under a policy (bpf/requests.bpf.h). */
	sh_u32 l7_state;      /* enum sh_l7_state */
	sh_u32 l7_generation; /* of the policy that was asked last */
	sh_u32 identity;      /* of this end */
	sh_u32 peer_identity;
	sh_u32 l7_sets[2];    /* by enum sh_policy_direction; 0: all requests are allowed */
	sh_u32 l7_origins[2]; /* sh_policy_entry.origin of the sets */
	sh_u64 l7_left;       /* client: bytes from l7_seq on that may go through TCP; server: bytes left of a response */
	sh_u64 l7_writer;     /* client: the thread whose redirect may not have arrived yet; 0: none, all ones: several */
	sh_u64 l7_loose;      /* client: so many of l7_left, its last ones, are of a body: which ones come does not matter */
	sh_u64 l7_heads;      /* client: bit n & 63 is 1 if request n was HEAD */
	sh_u32 l7_seq;        /* write_seq after the last message, if TCP took all of it */
	sh_u32 l7_count;      /* client: requests sent; server: responses complete, wrapping */
	sh_u32 l7_lost;       /* 1: responses cannot be counted; client: because of what it has asked for */
	sh_u32 l7_via_tcp;    /* this message may not be redirected */
	sh_u32 l7_channel;    /* client: number of the punt channel + 1, bound or released since; 0: none ... */
	sh_u32 l7_epoch;      /* ... and of its binding */
	sh_u32 l7_apart;      /* client: 1: l7_heads and l7_count are kept in sh_aparts */
	sh_u32 l7_protocol;   /* client: enum sh_l7_protocol */
	sh_u16 service_port;  /* that its client dialled, where the gateway's end of the connection has another one; 0: it has not */
	sh_u16 l7_zero;
	sh_u32 l7_begun;      /* client: bytes of a command that TCP has got and nobody could judge yet; they are in sh_begun. 0: none */
	struct sh_remote remote; /* for whom this end stands (bpf/remote.bpf.h) */
	sh_u64 l7_asked_ns;   /* client: when its last request was sent, CLOCK_MONOTONIC (bpf/responses.bpf.h); 0: not known */
	sh_u32 l7_seen;       /* server: responses seen for the metrics, wrapping */
	sh_u32 l7_proof;      /* enum sh_l7_proof */
#if SH_LAYOUT_VERSION != 1
	sh_u64 unused; /* a test builds the next layout, to upgrade to it */
#endif
};

/* What the verdict knows of the stream that arrives at an enrolled socket. */
struct sh_arrival {
	sh_u32 end_seq; /* TCP's sequence number behind the last byte that was delivered */
	sh_u32 broken;  /* 1: bytes that had arrived before could not be cut off; nothing more is delivered */
};

/* Of sh_msg_progs. */
enum sh_msg_slot {
	SH_MSG_JUDGE, /* every message */
	SH_MSG_L7,    /* messages of connections whose requests a policy judges */
	SH_MSG_CARRY, /* what it allowed */
	SH_MSG_CHANNEL, /* what the fallback proxy sends */
	SH_MSG_RESP,  /* from SH_MSG_L7: what is read as Redis. A further protocol has a slot and a program of its own */
	SH_MSG_SLOTS
};

/* A program by the base name of its executable. */
struct sh_program_key {
	char name[SH_PROGRAM_NAME_BYTES];
};

enum sh_program_flags {
	SH_PROGRAM_RECEIVER = 1 << 0, /* reads its sockets in ways that the redirect supports */
	SH_PROGRAM_FIONREAD = 1 << 1, /* relies on FIONREAD */
	SH_PROGRAM_VERIFY = 1 << 2,   /* only after the daemon has inspected the process (sh_process) */
	SH_PROGRAM_EXCLUDED = 1 << 3,
	SH_PROGRAM_INCLUDED = 1 << 4, /* named by the selection's include list */
	SH_PROGRAM_BLOCKS = 1 << 5,   /* only sockets that are non-blocking at connect() or listen() */
};

/* A process that the daemon has inspected: survives reuse of the pid by its start time. */
struct sh_process_key {
	sh_u64 start_boottime_ns;
	sh_u32 tgid;
	sh_u32 pad;
};

struct sh_process {
	sh_u32 reason; /* enum sh_reason; 0: verified */
	sh_u32 pad;
};

/* A cgroup whose sockets may be enrolled once the setsockopt program is attached to it. */
struct sh_guard {
	sh_u64 asked_ns; /* when the user side was last asked to attach it, CLOCK_MONOTONIC */
	sh_u32 guarded;  /* 1: it is attached, to this cgroup or to one above */
	sh_u32 pad;
};

/* Why a connection was not enrolled: the most recent ones, in the slot of the cookie's low bits. An array, because an insert into
 * an LRU map at every connect would cost a percent of a short connection. */
struct sh_skipped {
	sh_u64 cookie;
	sh_u32 reason; /* enum sh_reason */
	sh_u32 tgid;
};

/* Who listens: learned at listen(), or by the daemon at its start for older listeners. */
struct sh_listener_key {
	sh_u64 netns;
	sh_u8 addr[SH_ADDR_BYTES]; /* all zero: any address */
	sh_u16 port;
	sh_u16 family;
	sh_u32 pad;
};

struct sh_listener {
	char program[SH_PROGRAM_NAME_BYTES];
	sh_u64 start_boottime_ns;
	sh_u64 cgroup;
	sh_u32 tgid;
	sh_u32 uid;
	sh_u32 nonblocking; /* O_NONBLOCK at listen() */
	sh_u32 pad;
};

/* What was learned about a destination. The key is a 64-bit hash of (address, port, client program), so that the passive
 * end, which knows none of them, can add what it sees. */
enum sh_profile_kind {
	SH_PROFILE_UNKNOWN = 0,
	SH_PROFILE_GOOD = 1,
	SH_PROFILE_ONE_SHOT = 2,
	SH_PROFILE_ONE_WAY = 3,
	SH_PROFILE_BULK = 4,
	SH_PROFILE_CORKED = 6,  /* one end corks most of its messages */
	SH_PROFILE_NO_PEER = 5, /* the other end was remote or not enrolled */
};

/* Averages are exponential with weight 1/8, in 1/256. Index 0: client to server, 1: server to client. */
struct sh_profile {
	sh_u32 kind;        /* enum sh_profile_kind: what the next connection is judged by */
	sh_u32 connections; /* seen, for sampling */
	sh_u32 samples;     /* learned from */
	sh_u32 turns_avg;   /* changes of direction per connection */
	sh_u32 msgs_per_turn[2];
	sh_u64 bytes_per_turn[2];
	sh_u8 addr[SH_ADDR_BYTES];
	sh_u16 port;
	sh_u16 pad;
	sh_u32 corked; /* connections for which corking is still remembered */
	char program[SH_PROGRAM_NAME_BYTES];
};

struct sh_cidr_key {
	sh_u32 prefix_bits; /* 0 … 128, of the v4-mapped form */
	sh_u8 addr[SH_ADDR_BYTES];
};

enum sh_select { SH_SELECT_OUT = 1, SH_SELECT_IN = 2 };

enum sh_mode {
	SH_MODE_OFF = 0,   /* enrol nothing, redirect nothing */
	SH_MODE_ON = 1,
	SH_MODE_DRAIN = 2, /* as OFF; the user side is taking sockets out of the map */
};

/* Written by the user side, read by the programs at each run (a memory-mapped array). */
struct sh_config {
	sh_u32 mode;              /* enum sh_mode */
	sh_u32 events;            /* 1: somebody reads the ring */
	sh_u32 verdict;           /* 1: the pass-all verdict is attached: TCP bytes also go through the socket's psock queue */
	sh_u32 firewall_jiffies;  /* 0: never */
	sh_u32 spill_bytes;       /* the peer's receive memory above which messages go through TCP */
	sh_u32 spill_msgs;        /* messages since the peer's queue was last empty */
	sh_u32 fionread_ok;       /* 1: FIONREAD counts redirected bytes */
	sh_u32 profile_on;
	sh_u32 rmem_charged;      /* 1: redirected bytes are charged to the reader's receive memory */
	sh_u32 refuse_options;    /* 1: SO_ZEROCOPY and TCP_ULP are refused on enrolled sockets */
	sh_u32 sample_mask;       /* one in (mask + 1) connections is enrolled against the profile; mask + 1 is a power of two */
	sh_u32 one_shot_turns;    /* fewer turns per connection: one-shot */
	sh_u32 one_way_msgs;      /* more messages per turn: one-way */
	sh_u32 bulk_bytes;        /* more bytes per turn: bulk */
	/* which selection maps have entries: an empty one is not looked up */
	sh_u32 ports_out;
	sh_u32 ports_in;
	sh_u32 cidrs_out;
	sh_u32 cidrs_in;
	sh_u32 cgroups_out;
	sh_u32 cgroups_in;
	sh_u32 users_out;
	sh_u32 users_in;
	sh_u32 programs_in;
	sh_u32 memory_check;      /* 1: look at the memory cgroup before a redirect */
	sh_u32 any_program;       /* 1: every program is a receiver (tests and the harness) */
	sh_u32 strict_services;   /* 1: connect() leaves a record, by which they tell local clients */
	sh_u32 tell_responses;    /* 1: responses are told, for metrics (bpf/responses.bpf.h) */
};

enum sh_event_kind {
	SH_EV_CONNECT_SKIPPED = 1, /* reason */
	SH_EV_ENROLLED = 2,
	SH_EV_PAIRED = 3,
	SH_EV_LEFT = 4, /* reason */
	SH_EV_SPILL = 5, /* reason */
	SH_EV_LATCH = 6,
	SH_EV_STOPPED = 7, /* reason */
	SH_EV_CLOSED = 8,
	SH_EV_VERIFY = 9,     /* the daemon is asked to inspect tgid */
	SH_EV_ABANDONED = 10, /* the peer has closed for good, unacknowledged bytes are left: the daemon is asked to reset the socket */
	SH_EV_GUARD = 11,     /* the daemon is asked to attach the setsockopt program to the cgroup */
	SH_EV_FORBIDDEN = 12, /* a policy forbids the connection: the daemon is asked to reset the socket; l7_reason says why */
	SH_EV_REQUEST_DENIED = 13, /* l7_reason, l7_rule; answered with 403 */
	SH_EV_REQUEST_PUNTED = 14, /* l7_reason; handed to the proxy, or answered with 503 where there is none */
	SH_EV_STEERED = 15, /* a connection goes to the fallback proxy */
	SH_EV_LISTENS = 16, /* on a port where requests are judged: the daemon is asked to look whether it is to be steered */
};

struct sh_event {
	sh_u64 time_ns; /* CLOCK_MONOTONIC */
	sh_u64 cookie;
	sh_u64 peer_cookie;
	sh_u64 netns;
	sh_u64 bytes; /* CLOSED: redirected by this socket */
	sh_u64 cgroup; /* GUARD: its id */
	sh_u32 kind;
	sh_u32 reason;
	sh_u32 tgid;
	sh_u32 family;
	sh_u8 local_addr[SH_ADDR_BYTES];
	sh_u8 remote_addr[SH_ADDR_BYTES];
	sh_u16 local_port;
	sh_u16 remote_port;
	sh_u32 l7_reason;     /* see enum sh_l7_why */
	sh_u32 l7_origin;     /* of the entry that named the set (sh_policy_entry.origin) */
	sh_u32 l7_rule;       /* of the set, SH_POLICY_NO_RULE: unknown */
	sh_u32 identity;      /* of the client */
	sh_u32 peer_identity; /* of the server */
	char program[SH_PROGRAM_NAME_BYTES];
};

/* Why a request was not allowed: what two lists say, and what only the connection knows. */
enum sh_l7_why {
	SH_L7_WHY_POLICY = 0,      /* + enum sh_policy_reason */
	SH_L7_WHY_PARSER = 1000,   /* + enum l7_reason */
	SH_L7_WHY_UNJUDGED = 2000, /* the client's socket could not be enrolled: requests would not be seen */
	SH_L7_WHY_OLDER,           /* the connection is older than the policy */
	SH_L7_WHY_BYTES,           /* bytes were sent that no verdict covers */
	SH_L7_WHY_URGENT,          /* an urgent byte */
	SH_L7_WHY_ORDER,           /* it cannot be proved that the earlier responses have arrived: no answer in between */
	SH_L7_WHY_SPLIT,           /* the request that is denied goes on in another send */
	SH_L7_WHY_SCRATCH,         /* no memory of this CPU to parse in was free */
	SH_L7_WHY_PROXY,           /* the proxy ended the connection, or did not take what the client sent */
	SH_L7_WHY_WRITERS,         /* two threads were sending, and what one sent could have come into a request of the other */
	SH_L7_WHY_PARTED,          /* TCP took the head of a request in two parts, and the second one could have been another */
	SH_L7_WHY_PROTOCOL,        /* the policy has changed the protocol of the port */
};

/* Written after each struct sh_sock by the iterator over enrolled sockets (`shunt list`). */
struct sh_row_tail {
	sh_u32 tcp_state;
	sh_u32 rcv_queued_bytes; /* receive memory charged */
	sh_u32 psock_queued;     /* 1: the psock queue is not empty */
	sh_u32 in_map;           /* 1: the socket has a psock */
	sh_u32 psock_users;      /* psock's reference count: 1 means that nobody is inside a send or receive call */
	sh_u32 pad;
};

struct sh_row {
	struct sh_sock sock;
	struct sh_row_tail tail;
};

/* One record of the iterator over the TCP sockets that processes hold open. */
struct sh_owner {
	sh_u64 cookie; /* 0: none was ever made */
	sh_u64 netns;
	sh_u64 cgroup;
	sh_u64 start_boottime_ns; /* of the process */
	sh_u32 tgid;
	sh_u32 uid;
	sh_u32 tcp_state;
	sh_u32 family;
	sh_u8 local_addr[SH_ADDR_BYTES];
	sh_u8 remote_addr[SH_ADDR_BYTES];
	sh_u16 local_port;
	sh_u16 remote_port;
	sh_u32 nonblocking; /* O_NONBLOCK of this descriptor */
	sh_u32 netns_inode; /* as stat() of /proc/PID/ns/net says */
	sh_u32 fd;          /* in the process */
	sh_u32 pad;
	char program[SH_PROGRAM_NAME_BYTES];
	sh_u64 sock; /* a kernel address */
};

/* Per CPU: all counters in one value. */
struct sh_counts {
	sh_u64 counters[SH_COUNTERS_MAX];
	sh_u64 reasons[SH_REASONS_MAX];
};

/* Layouts, asserted against literals in both worlds. */
#ifdef __cplusplus
#define SH_ASSERT_SIZE(type, bytes) static_assert(sizeof(struct type) == (bytes), #type)
#else
#define SH_ASSERT_SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), #type)
#endif
SH_ASSERT_SIZE(sh_isn_key, 8);
SH_ASSERT_SIZE(sh_end, 40);
SH_ASSERT_SIZE(sh_row_tail, 24);
SH_ASSERT_SIZE(sh_shared, 16);
SH_ASSERT_SIZE(sh_remote, 16);
SH_ASSERT_SIZE(sh_arrival, 8);
SH_ASSERT_SIZE(sh_process_key, 16);
SH_ASSERT_SIZE(sh_listener_key, 32);
SH_ASSERT_SIZE(sh_listener, 64);
SH_ASSERT_SIZE(sh_profile, 96);
SH_ASSERT_SIZE(sh_event, 152);
SH_ASSERT_SIZE(sh_guard, 16);

#endif
