/* The compiled policy: what shuntd writes and the kernel side reads. Plain C11 that is also C++20; no padding that is not named.
 * All integers are in host order, ports too; addresses are 16 bytes in network order, IPv4 as v4-mapped IPv6.
 *
 * A verdict on a connection asks both directions: egress for the client's identity, ingress for the server's. Each is
 *   subject (identity, direction)  ->  table          nothing there: the direction is not enforced
 *   (table, peer, port)            ->  entry          the first of (peer, port), (peer, any), (any, port), (any, any) that is there;
 *                                                      none: denied
 * where port is first replaced by the first port of its interval: rules cannot tell the ports of an interval apart. An entry denies,
 * allows, or names a set of rules of one protocol that each request must pass.
 *
 * A set is one automaton with two beginnings. From `start_header` it reads one header, NAME in lower case, SEP, VALUE, and ends in a
 * result with the bits of the conditions that the header meets. From `start_request` it reads METHOD SEP PATH SEP HOST SEP and then
 * one of ZERO and ONE for each condition, and ends in a result with the verdict. A field that is not simple text (a path that
 * is not in its normal form, bytes above 127, too many of them) is read as one ODD. Much of this need not be read: decision 31.
 * Of a Redis command it reads, for each of its keys, NAME in lower case, SEP, SH_POLICY_KEY_MARK, KEY, SEP, SEP; without keys NAME, SEP,
 * SEP, SEP. So a rule that asks for no key is one that any text passes there (decision 48).
 *
 * Generations: everything exists twice, in the half of the generation in force and in the other, which holds what was in force before
 * and is made the next; sh_policy_head.generation switches all at once. */
#ifndef SHUNT_ABI_POLICY_H
#define SHUNT_ABI_POLICY_H

#include "shunt.h"

#define SH_POLICY_VERSION 3

#define SH_POLICY_BLOCK_CELLS 4096       /* 8 KiB */
#define SH_POLICY_BLOCKS_MAX 32768       /* of all sets: 256 MiB; the map is as large as the policy needs, with room to change */
#define SH_POLICY_STATES_MAX 65535       /* of one set, with the state 0 that no request leaves */
#define SH_POLICY_COLUMNS_MAX 512        /* 256 classes of bytes and the five symbols, up to a power of two */
#define SH_POLICY_SETS_MAX 65536
#define SH_POLICY_RESULTS_MAX (1 << 22)  /* of all sets */
#define SH_POLICY_ENTRIES_MAX (1 << 20)
#define SH_POLICY_SUBJECTS_MAX 131072    /* identities, two directions, two halves */
#define SH_POLICY_CIDRS_MAX 131072       /* of both halves */
#define SH_POLICY_WORKLOADS_MAX 65536    /* of both halves */
#define SH_POLICY_CONDITIONS_MAX 32      /* different header conditions of one set */
#define SH_POLICY_FIELD_BYTES_MAX 8192   /* a longer method, path or host is read as ODD */
#define SH_POLICY_KEY_MARK '='           /* before a key */

/* Identities, with Cilium's numbers where it has them. */
#define SH_IDENTITY_ANY 0
#define SH_IDENTITY_HOST 1               /* a process of this host that belongs to no workload */
#define SH_IDENTITY_WORLD 2              /* an address elsewhere that no network of a rule contains */
#define SH_IDENTITY_WORKLOADS 256        /* the first of the workloads; equal labels, equal identity */
#define SH_IDENTITY_CIDRS (1 << 24)      /* the first of the networks that rules name */

enum sh_policy_direction { SH_POLICY_INGRESS, SH_POLICY_EGRESS };

/* Zeroed memory denies. */
enum sh_policy_verdict {
	SH_POLICY_DENY,
	SH_POLICY_ALLOW,
	SH_POLICY_RULES, /* of entries alone: each request is judged by the set */
	SH_POLICY_PUNT,  /* the proxy decides */
};

/* Why: X(id, name, text), append only. */
#define SH_POLICY_REASONS(X)                                                                                               \
	X(DEFAULT, "default-deny", "no rule allows it")                                                                    \
	X(DENY_RULE, "deny-rule", "a deny rule")                                                                           \
	X(RULE, "rule", "a rule allows it")                                                                                \
	X(NOT_ENFORCED, "not-enforced", "no policy selects the workload in this direction")                                \
	X(NO_REQUEST, "no-matching-rule", "no rule for requests matches it")                                               \
	X(ODD, "odd-text", "a field that rules look at is too long, or not plain text in its normal form")                 \
	X(EXPRESSION, "expression", "an expression of the rule could not be compiled")                                     \
	X(HEADER_TWICE, "header-twice", "a header that rules look at is there more than once")                             \
	X(TABLES, "tables", "the tables are incomplete")                                                                   \
	X(PROTOCOLS, "protocols", "rules of different protocols meet in one connection")                                   \
	X(REWRITE, "header-rewrite", "a header that the rule has written is not as it says")

enum sh_policy_reason {
#define SH_POLICY_REASON_ENUM(id, name, text) SH_POLICY_R_##id,
	SH_POLICY_REASONS(SH_POLICY_REASON_ENUM)
#undef SH_POLICY_REASON_ENUM
	SH_POLICY_REASONS_NR
};

struct sh_policy_head {
	sh_u32 generation;   /* its lowest bit is the half in force; 0: there is no policy */
	sh_u32 version;      /* SH_POLICY_VERSION */
	sh_u32 requests;     /* 1: some entry names a set, so that requests are judged */
	sh_u32 existing;     /* enum sh_policy_existing */
	sh_u32 by[2];        /* of each half: which conditions its workloads have, enum sh_policy_by */
};

/* What becomes of connections that are older than the policy. */
enum sh_policy_existing { SH_POLICY_EXISTING_RESET, SH_POLICY_EXISTING_GRACE };

/* Besides the cgroup; a bit of sh_policy_head.by for each combination (1 << combination) that occurs. */
enum sh_policy_by { SH_POLICY_BY_CGROUP = 0, SH_POLICY_BY_NETNS = 1, SH_POLICY_BY_UID = 2, SH_POLICY_BY_BOTH = 3 };

/* Who is a workload: the nearest cgroup decides, 0 (any) last; of the entries of one cgroup the one with most conditions. */
struct sh_policy_workload_key {
	sh_u64 cgroup; /* id; 0: any */
	sh_u32 netns;  /* inode of the namespace; 0: any */
	sh_u32 uid;    /* SH_POLICY_UID_ANY: any */
	sh_u32 half;
	sh_u32 zero;
};

#define SH_POLICY_UID_ANY 0xffffffffU
#define SH_POLICY_CGROUP_PATH_BYTES 128 /* below the mount, with the terminating zero; a longer one cannot be a workload */

/* A cgroup that is a workload whenever it exists: its identity is in force before a process can enter it. */
struct sh_policy_path_key {
	char path[SH_POLICY_CGROUP_PATH_BYTES]; /* "/system.slice/api.service", zero-padded */
	sh_u32 half;
	sh_u32 zero;
};

struct sh_policy_path {
	sh_u32 identity;
	sh_u32 netns; /* as in the key of the workload */
	sh_u32 uid;
	sh_u32 zero;
};

/* A workload on another host, whom a socket of the gateway stands for. One that no document names is SH_IDENTITY_WORLD. */
struct sh_policy_remote_key {
	struct sh_remote remote;
	sh_u32 half;
	sh_u32 zero;
};

struct sh_policy_subject_key {
	sh_u32 identity;
	sh_u8 direction;
	sh_u8 half;
	sh_u16 zero;
};

struct sh_policy_subject {
	sh_u32 table;
	sh_u32 zero;
};

struct sh_policy_key {
	sh_u32 table;
	sh_u32 peer; /* identity of the other end, or SH_IDENTITY_ANY */
	sh_u16 port; /* first of its interval; 0: any */
	sh_u16 zero;
};

struct sh_policy_entry {
	sh_u32 set;    /* with SH_POLICY_RULES */
	sh_u32 origin; /* for the user side: which rules made this entry; the first of its counters, see sh_policy_hit */
	sh_u8 verdict; /* enum sh_policy_verdict */
	sh_u8 reason;  /* enum sh_policy_reason */
	sh_u16 protocol; /* enum sh_l7_protocol, with SH_POLICY_RULES */
};

/* Longest prefix match; a prefix of the address alone counts these bits and the 32 before it. */
struct sh_policy_cidr_key {
	sh_u32 prefix_bits;
	sh_u8 half;
	sh_u8 zero[3];
	sh_u8 addr[SH_ADDR_BYTES];
};

/* The columns after the classes of bytes. */
enum sh_policy_symbol {
	SH_POLICY_SEP,
	SH_POLICY_ODD,
	SH_POLICY_ZERO,
	SH_POLICY_ONE,
	SH_POLICY_END, /* not a next state, but the number of a result */
	SH_POLICY_SYMBOLS
};

/* Known methods, by the number that a parser gives them; number 0 is none. */
#define SH_POLICY_METHODS 8

struct sh_policy_set {
	sh_u32 first_cell;   /* of state 0, counted over all blocks; a row has 1 << row_shift cells */
	sh_u32 first_result; /* of result 0, which denies */
	sh_u32 cells;
	sh_u32 results;
	sh_u16 row_shift;
	sh_u16 classes; /* the symbols are the columns from here on */
	sh_u16 start_request;
	sh_u16 start_header; /* 0: no header matters */
	sh_u16 first_open;   /* no printable byte leads out of the states before it: the rest of a field need not be read */
	sh_u16 conditions;   /* how many bits of headers are read after the host */
	sh_u32 zero;         /* 0, but not to the verifier: what the matcher's loops change begins with it */
	sh_u64 names;        /* bit sh_policy_name_bit() of each header that matters; others may share it */
	sh_u16 after_method[SH_POLICY_METHODS]; /* METHOD SEP from start_request */
	sh_u8 class_of[256];
};

struct sh_policy_result {
	sh_u32 bits;   /* of a header: the conditions it meets */
	sh_u16 rule;   /* of a request: the first rule that matches, SH_POLICY_NO_RULE where the automaton does not tell them apart */
	sh_u8 verdict; /* of a request: deny, allow or punt */
	sh_u8 name;    /* of a header: the number of its name from 1; of a request that is punted: enum sh_policy_reason */
};

#define SH_POLICY_NO_RULE 0xffff

/* How often requests were decided by one rule of one entry that names a set. A half's counters are those of which the lowest bit is
 * the half: sh_policy_entry.origin counts what no single rule decided, and every second one from there on the entry's rules. */
struct sh_policy_hit {
	sh_u64 hits;
	sh_u64 rule; /* of the user side: what is counted, for whom, from policy to policy; 0: nothing */
};

struct sh_policy_block {
	sh_u16 cells[SH_POLICY_BLOCK_CELLS];
};

/* The first port of the interval of each port: 16 blocks for each half. */
#define SH_POLICY_PORT_BLOCKS 32

/* A local client between the two ends' ESTABLISHED, under the sequence numbers of sh_isn_key. */
struct sh_policy_client {
	sh_u64 sock;    /* struct tcp_sock, a kernel address: good as long as it has the cookie */
	sh_u64 storage; /* its struct sh_sock, a kernel address; 0: it is not enrolled */
	sh_u64 cookie;
	struct sh_remote remote; /* for whom it stands */
	sh_u16 pending; /* 1: the client waits for `taken`, to know that its peer is on this host */
	sh_u16 taken;   /* 1: the passive end has asked the policy */
	sh_u32 proxy;   /* 1: it is the fallback proxy */
};

/* What the policy said about a socket's connection. */
enum sh_policed_state {
	SH_POLICED_UNKNOWN,   /* older than the policy, or than Shunt */
	SH_POLICED_FREE,      /* the client's end, or older and let go on */
	SH_POLICED_ALLOWED,
	SH_POLICED_JUDGED,    /* each request is judged while the client sends it */
	SH_POLICED_FORBIDDEN, /* nothing is delivered, the daemon resets it */
	SH_POLICED_PENDING,   /* a client behind a virtual device, whose policy forbids the address unless it is on this host */
};

/* Kept in the storage of each socket with a connection while there is a policy. */
struct sh_policed {
	sh_u64 client_storage; /* the client's struct sh_sock, a kernel address; PENDING: the key of its record */
	sh_u64 client_sock;    /* of a client on this host, as in sh_policy_client */
	sh_u64 client_cookie;
	struct sh_remote own;    /* for whom this end stands */
	struct sh_remote client; /* for whom a client on this host stands */
	sh_u32 state;      /* enum sh_policed_state */
	sh_u32 generation; /* that it was asked of */
	sh_u32 identity;   /* of the server */
	sh_u32 peer;       /* identity of the client */
	sh_u32 reason;     /* enum sh_policy_reason, or SH_POLICY_REASONS_NR + enum sh_reason: why FORBIDDEN */
	sh_u32 told_jiffies; /* when the daemon was last told */
	sh_u16 port;       /* of the server, host order */
	sh_u16 elsewhere;  /* 1: the client is on another host, as far as its packets tell */
	sh_u16 active;     /* 1: the client's end */
	sh_u16 by_proxy;   /* 1: the client is the fallback proxy, which has judged what it sends */
};

/* Where a connection's end stands: what the iterator over live connections tells of each. */
enum sh_live_role {
	SH_LIVE_CLIENT,       /* made under a policy */
	SH_LIVE_SERVER,       /* likewise: `state` is what the policy in force says */
	SH_LIVE_OLDER_CLIENT, /* nobody kept who the other end is */
	SH_LIVE_OLDER_SERVER,
};

struct sh_live {
	sh_u64 cookie;
	sh_u64 netns;
	sh_u64 client_cookie; /* of a server's end: its client on this host, 0: not known */
	sh_u32 generation;    /* of the policy that was asked */
	sh_u16 role;          /* enum sh_live_role */
	sh_u16 state;         /* enum sh_policed_state */
	sh_u32 reason;        /* of FORBIDDEN: enum sh_l7_why */
	sh_u32 identity;      /* of this end's process */
	sh_u32 peer;          /* SERVER: identity of the client; else that of the other end's address */
	sh_u32 family;
	sh_u32 snd_nxt;
	sh_u32 rcv_nxt;
	sh_u8 local_addr[SH_ADDR_BYTES];
	sh_u8 remote_addr[SH_ADDR_BYTES];
	sh_u16 local_port;
	sh_u16 remote_port;
	sh_u16 through_lo; /* 1: its packets certainly come through the loopback device */
	sh_u16 zero;
};

SH_ASSERT_SIZE(sh_live, 96);
SH_ASSERT_SIZE(sh_policy_head, 24);
SH_ASSERT_SIZE(sh_policy_workload_key, 24);
SH_ASSERT_SIZE(sh_policy_path_key, 136);
SH_ASSERT_SIZE(sh_policy_path, 16);
SH_ASSERT_SIZE(sh_policy_remote_key, 24);
SH_ASSERT_SIZE(sh_policy_client, 48);
SH_ASSERT_SIZE(sh_policed, 88);
SH_ASSERT_SIZE(sh_policy_subject_key, 8);
SH_ASSERT_SIZE(sh_policy_subject, 8);
SH_ASSERT_SIZE(sh_policy_key, 12);
SH_ASSERT_SIZE(sh_policy_entry, 12);
SH_ASSERT_SIZE(sh_policy_cidr_key, 24);
SH_ASSERT_SIZE(sh_policy_set, 312);
SH_ASSERT_SIZE(sh_policy_result, 8);
SH_ASSERT_SIZE(sh_policy_hit, 16);
SH_ASSERT_SIZE(sh_policy_block, 8192);

#endif
