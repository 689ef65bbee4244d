/* The compiled policy: what shuntd writes and the kernel side reads. Plain C11 that is also C++20; no padding that is not named.
 * All integers are in host order, ports too; addresses are 16 bytes in network order, IPv4 as v4-mapped IPv6.
 *
 * A verdict on a connection asks both directions: egress for the client's identity, ingress for the server's. Each is
 *   subject (identity, direction)  ->  table          nothing there: the direction is not enforced
 *   (table, peer, port)            ->  entry          the first of (peer, port), (peer, any), (any, port), (any, any) that is there;
 *                                                      none: denied
 * where port is first replaced by the first port of its interval: rules cannot tell the ports of an interval apart. An entry denies,
 * allows, or names a set of http rules that each request must pass.
 *
 * A set is one automaton with two beginnings. From `start_header` it reads one header, NAME in lower case, SEP, VALUE, and ends in a
 * result with the bits of the conditions that the header meets. From `start_request` it reads METHOD SEP PATH SEP HOST SEP and then
 * one of ZERO and ONE for each condition, and ends in a result with the verdict. A field that is not simple text (a path that
 * is not in its normal form, bytes above 127, too many of them) is read as one ODD.
 *
 * Generations: subjects, ports and networks exist twice, in the half of the generation in force and in the one being written;
 * sh_policy_head.generation switches all at once. Tables and sets are never changed: a new generation takes the old ones over
 * where they are equal, and the rest is freed when no generation in the two halves names it. */
#ifndef SHUNT_ABI_POLICY_H
#define SHUNT_ABI_POLICY_H

#include "shunt.h"

#define SH_POLICY_VERSION 1

#define SH_POLICY_BLOCK_CELLS 4096       /* 8 KiB */
#define SH_POLICY_BLOCKS_MAX 32768       /* of all sets: 256 MiB; the map is as large as the policy needs, with room to change */
#define SH_POLICY_STATES_MAX 65535       /* of one set, with the state 0 that no request leaves */
#define SH_POLICY_COLUMNS_MAX 261        /* 256 classes of bytes and the five symbols */
#define SH_POLICY_SETS_MAX 65536
#define SH_POLICY_RESULTS_MAX (1 << 22)  /* of all sets */
#define SH_POLICY_ENTRIES_MAX (1 << 20)
#define SH_POLICY_SUBJECTS_MAX 131072    /* identities, two directions, two halves */
#define SH_POLICY_CIDRS_MAX 131072       /* of both halves */
#define SH_POLICY_CONDITIONS_MAX 32      /* different header conditions of one set */
#define SH_POLICY_FIELD_BYTES_MAX 8192   /* a longer method, path or host is read as ODD */

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
	X(NO_REQUEST, "no-matching-rule", "no http rule matches the request")                                              \
	X(ODD, "odd-text", "a field that rules look at is too long, or not plain text in its normal form")                 \
	X(EXPRESSION, "expression", "an expression of the rule could not be compiled")                                     \
	X(HEADER_TWICE, "header-twice", "a header that rules look at is there more than once")                             \
	X(TABLES, "tables", "the tables are incomplete")

enum sh_policy_reason {
#define SH_POLICY_REASON_ENUM(id, name, text) SH_POLICY_R_##id,
	SH_POLICY_REASONS(SH_POLICY_REASON_ENUM)
#undef SH_POLICY_REASON_ENUM
	SH_POLICY_REASONS_NR
};

struct sh_policy_head {
	sh_u32 generation; /* its lowest bit is the half in force */
	sh_u32 version;    /* SH_POLICY_VERSION */
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
	sh_u32 origin; /* for the user side: which rules made this entry */
	sh_u8 verdict; /* enum sh_policy_verdict */
	sh_u8 reason;  /* enum sh_policy_reason */
	sh_u16 zero;
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

struct sh_policy_set {
	sh_u32 first_cell;   /* of state 0, counted over all blocks; a row has `columns` cells */
	sh_u32 first_result; /* of result 0, which denies */
	sh_u32 cells;
	sh_u32 results;
	sh_u16 columns;
	sh_u16 classes; /* the symbols are the columns from here on */
	sh_u16 start_request;
	sh_u16 start_header; /* 0: no header matters */
	sh_u32 conditions;   /* how many bits of headers are read after the host */
	sh_u32 zero;         /* 0, but not to the verifier: what the matcher's loops change begins with it */
	sh_u8 class_of[256];
};

struct sh_policy_result {
	sh_u32 bits;   /* of a header: the conditions it meets */
	sh_u16 rule;   /* of a request: the first rule that matches, SH_POLICY_NO_RULE where the automaton does not tell them apart */
	sh_u8 verdict; /* of a request: deny, allow or punt */
	sh_u8 name;    /* of a header: the number of its name from 1; of a request that is punted: enum sh_policy_reason */
};

#define SH_POLICY_NO_RULE 0xffff

struct sh_policy_block {
	sh_u16 cells[SH_POLICY_BLOCK_CELLS];
};

/* The first port of the interval of each port: 16 blocks for each half. */
#define SH_POLICY_PORT_BLOCKS 32

SH_ASSERT_SIZE(sh_policy_head, 8);
SH_ASSERT_SIZE(sh_policy_subject_key, 8);
SH_ASSERT_SIZE(sh_policy_subject, 8);
SH_ASSERT_SIZE(sh_policy_key, 12);
SH_ASSERT_SIZE(sh_policy_entry, 12);
SH_ASSERT_SIZE(sh_policy_cidr_key, 24);
SH_ASSERT_SIZE(sh_policy_set, 288);
SH_ASSERT_SIZE(sh_policy_result, 8);
SH_ASSERT_SIZE(sh_policy_block, 8192);

#endif
