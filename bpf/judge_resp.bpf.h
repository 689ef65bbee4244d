// SPDX-License-Identifier: GPL-2.0-only
/* Redis commands and responses (RESP2 and RESP3). Clients write many commands at once, and servers answer these at
 * once: what of a message is allowed goes in one piece.
 *
 * A command that ends in another message than it begins in (clients write pipelines of any length, and the kernel cuts them at
 * 64 KiB) is let go as far as it is there, which makes a server do nothing, and kept: it is judged with what follows.
 *
 * The fallback proxy does not speak Redis: what is not judged here is refused. */
#ifndef SHUNT_JUDGE_RESP_BPF_H
#define SHUNT_JUDGE_RESP_BPF_H

#include "judging.bpf.h"

#define SH_RESP_COMMANDS_MAX (L7_WINDOW_BYTES / 8) /* of one message: more than there is room for */
#define SH_BEGUN_MAX 1024 /* connections whose last message ended in the middle of a command */

/* Of whole words. A client takes it for what a server with rules of its own (ACL) says. */
#define SH_RESP_DENIAL "-NOPERM shunt: not allowed by policies\r\n"
#define SH_RESP_DENIAL_BYTES 40
_Static_assert(sizeof(SH_RESP_DENIAL) - 1 == SH_RESP_DENIAL_BYTES, "denial");
static const char sh_resp_denial[SH_RESP_DENIAL_BYTES] __attribute__((aligned(8))) = SH_RESP_DENIAL;

struct sh_resp_message {
	struct sh_scratch *scratch;
	__u64 size;
	__u32 sets[2];
	__u32 origins[2];
};

/* One set's word on the command that was parsed. A refusal of a later command is not counted: that command will be the
 * first one. */
__noinline int sh_resp_pass_set(struct sh_scratch *scratch, __u32 number, __u32 origin)
{
	struct sh_policy_set *set = bpf_map_lookup_elem(&sh_pol_sets, &number);
	struct sh_policy_result result = {};
	struct sh_policy_view view = {};

	if (!scratch)
		return 0;
	view.in = &scratch->in;
	if (set)
		result = sh_policy_resp(&view, set, &scratch->resp);
	else
		result.name = SH_POLICY_R_TABLES;
	if (!scratch->requests || result.verdict == SH_POLICY_ALLOW)
		sh_count_rule(origin, set ? result.rule : SH_POLICY_NO_RULE);
	sh_take_word(scratch, &result, origin);
	return 0;
}

/* One command. Ends the loop at the first that is not allowed, and at the message's end. */
static long sh_resp_step(__u32 index, struct sh_resp_message *message)
{
	struct sh_scratch *scratch = message->scratch;
	struct l7_outcome *out = &scratch->resp.out;

	l7_resp_begin_at(&scratch->resp, (__u32)scratch->unit);
	l7_resp_parse(&scratch->resp, &scratch->in);
	scratch->verdict = SH_POLICY_PUNT;
	scratch->why = SH_L7_WHY_PARSER + out->reason;
	if (!out->unit_bytes)
		return 1;
	if (message->sets[0] || message->sets[1])
		scratch->verdict = SH_POLICY_ALLOW;
	else /* an entry without a set that can be compiled */
		scratch->why = SH_POLICY_R_EXPRESSION;
	for (int i = 0; i < 2; i++)
		if (message->sets[i])
			sh_resp_pass_set(scratch, message->sets[i], message->origins[i]);
	if (scratch->verdict != SH_POLICY_ALLOW)
		return 1;
	scratch->loses |= out->reason == L7_R_RESP_STATEFUL || out->reason == L7_R_RESP_COMMAND;
	scratch->requests++;
	scratch->heads_end = out->head_bytes;
	scratch->unit = out->unit_bytes;
	return scratch->unit >= message->size || scratch->unit >= L7_WINDOW_BYTES;
}

struct sh_begun {
	char bytes[L7_WINDOW_BYTES];
};

/* The beginning of a command, by the cookie of the client's socket. One that has been pushed out ends its connection. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SH_BEGUN_MAX);
	__type(key, __u64);
	__type(value, struct sh_begun);
} sh_begun SEC(".maps");

/* The message behind what the command that it goes on with began with. */
static __always_inline bool sh_resp_copy(struct sk_msg_md *msg, struct sh_sock *st, struct sh_scratch *scratch)
{
	__u32 begun = l7_bounded(st->l7_begun, L7_WINDOW_BYTES - 1);
	__u64 cookie = st->shared.cookie;
	struct sh_begun *kept;

	if (!begun)
		return sh_copy_message(msg, scratch);
	kept = bpf_map_lookup_elem(&sh_begun, &cookie);
	if (!kept || bpf_probe_read_kernel(scratch->in.bytes, begun, kept->bytes))
		return false;
	return sh_copy_behind(msg, scratch, begun);
}

/* All that there is, is the beginning of one command. */
static __always_inline bool sh_resp_begins(struct sk_msg_md *msg, const struct sh_scratch *scratch)
{
	return !scratch->requests && scratch->resp.out.verdict == L7_INCOMPLETE && scratch->in.len == scratch->begun + msg->size;
}

static __always_inline bool sh_resp_keep(struct sk_msg_md *msg, struct sh_sock *st, struct sh_scratch *scratch)
{
	__u64 cookie = st->shared.cookie;

	if (bpf_map_update_elem(&sh_begun, &cookie, scratch->in.bytes, BPF_ANY))
		return false;
	st->l7_begun = scratch->in.len;
	st->l7_left = msg->size;
	st->l7_loose = 0;
	st->l7_via_tcp = 1;
	return true;
}

/* All commands from the beginning on that are allowed; or the first, if it is not. */
static __always_inline void sh_resp_judge(struct sk_msg_md *msg, struct sh_sock *st, struct sh_scratch *scratch)
{
	struct sh_resp_message message = {.scratch = scratch, .size = scratch->begun + msg->size};

	for (int i = 0; i < 2; i++) {
		message.sets[i] = st->l7_sets[i];
		message.origins[i] = st->l7_origins[i];
	}
	sh_unjudged(scratch, SH_L7_WHY_PARSER);
	bpf_loop(SH_RESP_COMMANDS_MAX, sh_resp_step, &message, 0);
	if (scratch->requests)
		scratch->verdict = SH_POLICY_ALLOW;
	else
		scratch->unit = scratch->resp.out.unit_bytes;
}

static __always_inline bool sh_resp_answer(struct sk_msg_md *msg, struct sh_sock *st)
{
	return sh_become(msg, st, (const void *)sh_resp_denial, SH_RESP_DENIAL_BYTES, SH_RESP_DENIAL_BYTES);
}

/* The responses of a message that begins with one. False: one is not plain, which ends the counting for good. */
static __always_inline bool sh_resp_count(struct sk_msg_md *msg, struct sh_sock *st, struct sh_scratch *scratch)
{
	l7_replies_begin(&scratch->replies, msg->size);
	l7_replies_parse(&scratch->replies, &scratch->in);
	if (scratch->replies.out.verdict != L7_SIMPLE)
		return false;
	st->l7_left = scratch->replies.out.unit_bytes - msg->size;
	st->l7_count += scratch->replies.count;
	return true;
}

#endif
