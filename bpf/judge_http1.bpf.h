// SPDX-License-Identifier: GPL-2.0-only
/* HTTP/1 requests and responses: one request a run. */
#ifndef SHUNT_JUDGE_HTTP1_BPF_H
#define SHUNT_JUDGE_HTTP1_BPF_H

#include "judging.bpf.h"

/* Global functions, here and where RESP is judged: the verifier goes through each once, and not again for each way that leads to it, which
 * is what most of the time to load the programs went into. */
__noinline int sh_http1_parse(struct sh_scratch *scratch, __u32 kind)
{
	if (!scratch)
		return 0;
	l7_http1_begin(&scratch->http1, kind);
	l7_http1_parse(&scratch->http1, &scratch->in);
	return 0;
}

/* One set's word on the request that was parsed. */
__noinline int sh_http1_pass_set(struct sh_scratch *scratch, __u32 number, __u32 origin)
{
	struct sh_policy_set *set = bpf_map_lookup_elem(&sh_pol_sets, &number);
	struct sh_policy_result result = {};
	struct sh_policy_view view = {};

	if (!scratch)
		return 0;
	view.in = &scratch->in;
	if (set)
		result = sh_policy_http1(&view, set, &scratch->http1);
	else
		result.name = SH_POLICY_R_TABLES;
	sh_count_rule(origin, set ? result.rule : SH_POLICY_NO_RULE);
	sh_take_word(scratch, &result, origin);
	return 0;
}

static __always_inline void sh_http1_judge(struct sh_sock *st, struct sh_scratch *scratch)
{
	sh_http1_parse(scratch, L7_HTTP1_REQUEST);
	sh_unjudged(scratch, SH_L7_WHY_PARSER + scratch->http1.out.reason);
	if (scratch->http1.out.verdict != L7_SIMPLE || scratch->http1.out.unit_bytes == L7_BYTES_UNKNOWN)
		return;
	scratch->unit = scratch->http1.out.unit_bytes;
	scratch->heads_end = scratch->http1.out.head_bytes;
	scratch->requests = 1;
	scratch->to_head = scratch->http1.method == L7_M_HEAD;
	if (!st->l7_sets[0] && !st->l7_sets[1]) { /* an entry without a set that can be compiled */
		scratch->why = SH_POLICY_R_EXPRESSION;
		return;
	}
	scratch->verdict = SH_POLICY_ALLOW;
	for (int i = 0; i < 2; i++)
		if (st->l7_sets[i])
			sh_http1_pass_set(scratch, st->l7_sets[i], st->l7_origins[i]);
}

/* Padded with spaces behind a value, which no reader counts, to whole words. */
#define SH_REPLY_403                                                                                                           \
	"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: 16\r\nserver: shunt                 \r\n\r\n"
#define SH_REPLY_503                                                                                                           \
	"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 16\r\nserver: shunt       \r\n\r\n"
#define SH_REPLY_HEAD_BYTES 104
#define SH_REPLY_BYTES 120 /* with the body */

_Static_assert(sizeof(SH_REPLY_403) - 1 == SH_REPLY_HEAD_BYTES, "403");
_Static_assert(sizeof(SH_REPLY_503) - 1 == SH_REPLY_HEAD_BYTES, "503");

static const char sh_http1_answers[2][SH_REPLY_BYTES] __attribute__((aligned(8))) = {
	SH_REPLY_403 "Access denied \r\n",
	SH_REPLY_503 "No proxy here \r\n",
};

static __always_inline bool sh_http1_answer(struct sk_msg_md *msg, struct sh_sock *st, struct sh_scratch *scratch)
{
	const __u64 *text = (const void *)sh_http1_answers[scratch->verdict == SH_POLICY_DENY ? 0 : 1];

	return sh_become(msg, st, text, scratch->to_head ? SH_REPLY_HEAD_BYTES : SH_REPLY_BYTES, SH_REPLY_BYTES);
}

/* The head of a response: how long it is. False: it is not plain, which ends the counting for good. */
static __always_inline bool sh_http1_count(struct sk_msg_md *msg, struct sh_sock *st, struct sh_scratch *scratch)
{
	__u64 heads = sh_heads_of((void *)st->peer_storage, st->peer_cookie);
	struct l7_outcome *out = &scratch->http1.out;

	sh_http1_parse(scratch, heads >> (st->l7_count & 63) & 1 ? L7_HTTP1_RESPONSE_TO_HEAD : L7_HTTP1_RESPONSE);
	if (out->verdict != L7_SIMPLE || out->unit_bytes == L7_BYTES_UNKNOWN || out->unit_bytes < msg->size)
		return false;
	st->l7_left = out->unit_bytes - msg->size;
	if (!st->l7_left && !(scratch->http1.flags & L7_F_INTERIM))
		st->l7_count++;
	return true;
}

#endif
