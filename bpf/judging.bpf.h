// SPDX-License-Identifier: GPL-2.0-only
/* What the judges of all protocols share: the memory that a message is parsed in, the tables of a set, and how a message becomes an
 * answer to its sender. A judge (judge_http1.bpf.h, judge_resp.bpf.h) is
 *   sh_NAME_judge    how much of the message has one verdict, and which
 *   sh_NAME_answer   what the sender gets in place of a response
 *   sh_NAME_count    how many responses a message of the server completes
 * and requests.bpf.h does the rest, which is alike for all of them. */
#ifndef SHUNT_JUDGING_BPF_H
#define SHUNT_JUDGING_BPF_H

#include "channel.bpf.h"
#include "identity.bpf.h"

#include <l7parsers/core/http1.h>
#include <l7parsers/core/resp.h>
#include <l7parsers/core/resp_reply.h>

#define SH_SCRATCH_PER_CPU 4 /* programs of one CPU that interrupt each other */
#define SH_SCRATCHES 512

struct sh_scratch {
	__u32 busy;
	__u32 begun; /* bytes of `in` that went before the message */
	struct l7_input in;
	char behind[L7_WINDOW_BYTES]; /* what is copied behind those may reach into it */
	union {
		struct l7_http1 http1;
		struct l7_resp resp;
		struct l7_replies replies;
	};
	/* what came of it */
	__u64 unit;     /* bytes from the input's beginning that the verdict is on, perhaps more than it has; 0: unknown */
	__u32 heads_end; /* where the last head of them ends: the verdict is on these very bytes */
	__u32 requests; /* that these are, if they are allowed */
	__u32 to_head;  /* 1: the request was HEAD */
	__u32 loses;    /* 1: responses cannot be counted from here on */
	__u32 verdict;  /* enum sh_policy_verdict */
	__u32 why;      /* enum sh_l7_why */
	__u32 rule;
	__u32 origin;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SH_SCRATCHES);
	__type(key, __u32);
	__type(value, struct sh_scratch);
} sh_scratches SEC(".maps");

static __always_inline struct sh_scratch *sh_claim_scratch(void)
{
	__u32 first = bpf_get_smp_processor_id() * SH_SCRATCH_PER_CPU;

	for (__u32 i = 0; i < SH_SCRATCH_PER_CPU; i++) {
		__u32 key = (first + i) & (SH_SCRATCHES - 1);
		struct sh_scratch *scratch = bpf_map_lookup_elem(&sh_scratches, &key);

		if (scratch && !__sync_val_compare_and_swap(&scratch->busy, 0, 1))
			return scratch;
	}
	return 0;
}

static __always_inline void sh_release_scratch(struct sh_scratch *scratch)
{
	__sync_lock_test_and_set(&scratch->busy, 0);
}

/* ---- the tables that a set is made of ---- */

static __always_inline const struct sh_policy_block *sh_policy_block(const struct sh_policy_view *view, sh_u32 number)
{
	return bpf_map_lookup_elem(&sh_pol_blocks, &number);
}

static __always_inline struct sh_policy_result sh_policy_result_at(const struct sh_policy_view *view, sh_u32 index)
{
	struct sh_policy_result *found = bpf_map_lookup_elem(&sh_pol_results, &index), none = {};

	return found ? *found : none;
}

static __always_inline sh_u8 sh_policy_byte(const struct sh_policy_view *view, sh_u32 offset)
{
	return l7_byte_unbranched(view->in, offset);
}

#include <policy/core/request.h>

/* Copies the beginning of the message behind so many bytes, below L7_WINDOW_BYTES, that are there. False: no memory could be had. */
static __always_inline bool sh_copy_behind(struct sk_msg_md *msg, struct sh_scratch *scratch, __u32 begun)
{
	__u32 bytes = msg->size;

	if (bytes > L7_WINDOW_BYTES)
		bytes = L7_WINDOW_BYTES;
	/* Also takes a copy of pages that the sender could change afterwards, and makes bytes of sendfile() readable at all. */
	if (bpf_msg_pull_data(msg, 0, bytes, 0))
		return false;
	if (bytes > L7_WINDOW_BYTES || bpf_probe_read_kernel(scratch->in.bytes + begun, bytes, msg->data))
		return false;
	bytes += begun;
	scratch->in.len = bytes > L7_WINDOW_BYTES ? L7_WINDOW_BYTES : bytes;
	scratch->begun = begun;
	return true;
}

static __always_inline bool sh_copy_message(struct sk_msg_md *msg, struct sh_scratch *scratch) { return sh_copy_behind(msg, scratch, 0); }

/* Nothing has been read yet: whatever cannot be, is not judged here. */
static __always_inline void sh_unjudged(struct sh_scratch *scratch, __u32 why)
{
	scratch->verdict = SH_POLICY_PUNT;
	scratch->why = why;
	scratch->rule = SH_POLICY_NO_RULE;
	scratch->origin = 0;
	scratch->unit = 0;
	scratch->heads_end = 0;
	scratch->requests = 0;
	scratch->to_head = 0;
	scratch->loses = 0;
}

/* The word of one set; it counts if it is stricter than what was said before. */
static __always_inline void sh_take_word(struct sh_scratch *scratch, const struct sh_policy_result *result, __u32 origin)
{
	if (scratch->verdict == SH_POLICY_DENY || (scratch->verdict == SH_POLICY_PUNT && result->verdict != SH_POLICY_DENY))
		return;
	scratch->verdict = result->verdict;
	scratch->why = result->name;
	scratch->rule = result->rule;
	scratch->origin = origin;
}

/* Turns the message into this text, which is of whole words, and into the client's own queue. */
static __always_inline bool sh_become(struct sk_msg_md *msg, struct sh_sock *st, const __u64 *text, __u32 bytes,
				      __u32 bytes_max)
{
	__u32 size = msg->size;
	__u64 own = st->shared.cookie;
	__u64 *to;

	if (size > bytes && bpf_msg_pop_data(msg, bytes, size - bytes, 0))
		return false;
	if (size < bytes && bpf_msg_push_data(msg, 0, bytes - size, 0))
		return false;
	if (bpf_msg_pull_data(msg, 0, bytes, 0))
		return false;
	to = msg->data;
	for (__u32 i = 0; i < bytes_max / 8 && i < bytes / 8; i++) {
		if ((void *)(to + i + 1) > msg->data_end)
			return false;
		to[i] = text[i];
	}
	return bpf_msg_redirect_hash(msg, &sh_socks, &own, BPF_F_INGRESS) == SK_PASS;
}

#endif
