// SPDX-License-Identifier: GPL-2.0-only
/* Requests under a policy: each message of a governed connection comes here before it is carried.
 *
 * The client's program judges. What is allowed is one whole request, which may be redirected; or the bytes of one request, which
 * go through TCP from its head on: PASS appends under the socket's lock, so no other writer comes between verdict and append. How
 * many bytes are allowed is kept as a position in TCP's stream (l7_seq, l7_left), for two reasons: a PASS that fails repeats its
 * verdict for the next bytes without a run, and the server's gate drops whatever goes beyond it (govern.bpf.h).
 *
 * What is not judged here, or cannot be denied here, goes to the fallback proxy (channel.bpf.h).
 *
 * The server's program counts the responses that are complete, so that an answer of ours (403, 503) never overtakes one.
 *
 * apply_bytes and the redirect target stay in force within one chunk. So apply_bytes begins at 0 in every run, and is never used
 * with a redirect: what shares its message with another request goes through TCP. */
#ifndef SHUNT_REQUESTS_BPF_H
#define SHUNT_REQUESTS_BPF_H

#include "channel.bpf.h"
#include "identity.bpf.h"

#include <l7parsers/core/http1.h>

#define SH_SCRATCH_PER_CPU 4 /* programs of one CPU that interrupt each other */
#define SH_SCRATCHES 1024

struct sh_scratch {
	__u32 busy;
	__u32 zero;
	struct l7_input in;
	struct l7_http1 http1;
	/* what came of it */
	__u32 verdict; /* enum sh_policy_verdict */
	__u32 why;     /* enum sh_l7_why */
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

/* ---- what is told ---- */

/* For people, as sh_tell(): a record wakes the daemon by an interrupt, which costs more than the verdict. */
static __noinline int sh_tell_request(struct sh_sock *st, struct sh_scratch *scratch, __u32 kind)
{
	struct sh_config *cfg = sh_config();
	struct sh_event *ev;

	if (!st || !scratch || !cfg || !cfg->events)
		return 0;
	ev = sh_event_new(kind, SH_R_POLICY, st->tgid);
	if (!ev)
		return 0;
	sh_event_fill(ev, st);
	ev->l7_reason = scratch->why;
	ev->l7_origin = scratch->origin;
	ev->l7_rule = scratch->rule;
	ev->identity = st->identity;
	ev->peer_identity = st->peer_identity;
	bpf_ringbuf_submit(ev, 0);
	return 0;
}

/* The connection ends here: nothing more is sent, and the daemon resets it. */
static __noinline int sh_break(struct sh_sock *st, __u32 why)
{
	struct sh_event *ev;

	if (!st)
		return 0;
	st->l7_state = SH_L7_BROKEN;
	sh_count(SH_C_FORBIDDEN, 1);
	ev = sh_event_new(SH_EV_FORBIDDEN, SH_R_POLICY, st->tgid);
	if (!ev)
		return 0;
	sh_event_fill(ev, st);
	ev->l7_reason = why;
	ev->identity = st->identity;
	ev->peer_identity = st->peer_identity;
	bpf_ringbuf_submit(ev, 0);
	return 0;
}

/* ---- asking ---- */

struct sh_wait {
	struct sh_sock *st;
	__u64 cookie;
	__u32 ready;
	__u32 zero;
};

static long sh_answer_step(__u32 index, struct sh_wait *wait)
{
	struct sh_end *answer = bpf_map_lookup_elem(&sh_answers, &wait->cookie);

	wait->ready = answer != 0;
	return wait->ready;
}

/* The server's end may be coming about on another CPU just now: a connection in 20,000 sends before it has. Its first message waits. */
static __always_inline bool sh_await_server(struct sh_sock *st)
{
	struct sh_wait wait = {.cookie = st->shared.cookie};

	if (st->peer_cookie || sh_adopt_answer(st))
		return true;
	if (!st->shared.tx_msgs)
		bpf_loop(SH_SERVER_WAIT_STEPS, sh_answer_step, &wait, 0);
	return wait.ready && sh_adopt_answer(st);
}

/* The client asks what its requests must pass. Without a server's end nothing is known: the gate drops what is sent then, if the
 * server is governed, and the next message asks again. Not inlined, as sh_identify(). */
static __noinline int sh_ask_client(struct sh_policy_head *policy, struct tcp_sock *tp, struct sh_sock *st)
{
	bool older = !st->l7_generation && st->shared.tx_msgs;
	struct sh_sock *server = (void *)st->peer_storage;
	struct sock *peer = (void *)st->peer_sock;
	struct sh_policy_asked asked = {};
	__u16 port = 0;

	if (BPF_CORE_READ(peer, __sk_common.skc_cookie.counter) != (__s64)st->peer_cookie)
		return 0; /* it is gone */
	bpf_probe_read_kernel(&port, sizeof(port), &server->service_port);
	if (!port)
		bpf_probe_read_kernel(&port, sizeof(port), &server->local_port);
	st->l7_generation = policy->generation;
	/* Found anew for each policy, as in sh_police(). */
	sh_identify(policy, SK(tp), &st->remote, &st->identity);
	sh_identify(policy, peer, &server->remote, &st->peer_identity);
	sh_policy_ask_both(&asked, policy->generation, st->identity, st->peer_identity, port);
	for (int i = 0; i < 2; i++) {
		st->l7_sets[i] = asked.sets[i];
		st->l7_origins[i] = asked.origins[i];
	}
	if (asked.verdict == SH_POLICY_ALLOW) {
		st->l7_state = SH_L7_NONE;
	} else if (asked.verdict == SH_POLICY_DENY) {
		sh_break(st, asked.reason);
	} else if (older && policy->existing == SH_POLICY_EXISTING_RESET) {
		sh_break(st, SH_L7_WHY_OLDER);
	} else if (older) {
		st->l7_state = SH_L7_NONE;
	} else if (st->l7_state != SH_L7_JUDGED) {
		st->l7_state = SH_L7_JUDGED;
		st->l7_seq = tp->write_seq;
		st->l7_left = 0;
	}
	return 0;
}

/* The server's end only counts; what its policy says was asked when it came about. */
static __always_inline void sh_ask_server(struct bpf_sock *sk, struct sh_policy_head *policy, struct tcp_sock *tp, struct sh_sock *st)
{
	struct sh_policed *policed = bpf_sk_storage_get(&sh_policed, sk, 0, 0);

	st->l7_generation = policy->generation;
	if (st->l7_state == SH_L7_NONE) {
		st->l7_lost = st->shared.tx_msgs != 0;
		st->l7_seq = tp->write_seq;
	}
	st->l7_state = policed && policed->state == SH_POLICED_JUDGED ? SH_L7_JUDGED : SH_L7_NONE;
}

/* ---- reading a head ---- */

/* Copies the head of the message and parses it. False: no memory could be had. */
static __always_inline bool sh_parse(struct sk_msg_md *msg, struct sh_scratch *scratch, enum l7_http1_kind kind)
{
	__u32 bytes = msg->size;

	if (bytes > L7_WINDOW_BYTES)
		bytes = L7_WINDOW_BYTES;
	/* Also takes a copy of pages that the sender could change afterwards, and makes bytes of sendfile() readable at all. */
	if (bpf_msg_pull_data(msg, 0, bytes, 0))
		return false;
	if (bytes > L7_WINDOW_BYTES || bpf_probe_read_kernel(scratch->in.bytes, bytes, msg->data))
		return false;
	scratch->in.len = bytes;
	l7_http1_begin(&scratch->http1, kind);
	l7_http1_parse(&scratch->http1, &scratch->in);
	return true;
}

/* One set's word on the request that was parsed; it counts if it is stricter than what was said before. */
static __noinline int sh_pass_set(struct sh_scratch *scratch, __u32 number, __u32 origin)
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
	if (scratch->verdict == SH_POLICY_DENY || (scratch->verdict == SH_POLICY_PUNT && result.verdict != SH_POLICY_DENY))
		return 0;
	scratch->verdict = result.verdict;
	scratch->why = result.name;
	scratch->rule = result.rule;
	scratch->origin = origin;
	return 0;
}

static __always_inline void sh_verdict(struct sh_sock *st, struct sh_scratch *scratch)
{
	scratch->verdict = SH_POLICY_PUNT;
	scratch->rule = SH_POLICY_NO_RULE;
	scratch->origin = 0;
	scratch->why = SH_L7_WHY_PARSER + scratch->http1.out.reason;
	if (scratch->http1.out.verdict != L7_SIMPLE || scratch->http1.out.unit_bytes == L7_BYTES_UNKNOWN)
		return;
	if (!st->l7_sets[0] && !st->l7_sets[1]) { /* an entry without a set that can be compiled */
		scratch->why = SH_POLICY_R_EXPRESSION;
		return;
	}
	scratch->verdict = SH_POLICY_ALLOW;
	for (int i = 0; i < 2; i++)
		if (st->l7_sets[i])
			sh_pass_set(scratch, st->l7_sets[i], st->l7_origins[i]);
}

/* ---- answers of our own ---- */

/* Padded with spaces behind a value, which no reader counts, to whole words. */
#define SH_REPLY_403 "HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: 16\r\nserver: shunt                 \r\n\r\n"
#define SH_REPLY_503 "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 16\r\nserver: shunt       \r\n\r\n"
#define SH_REPLY_HEAD_BYTES 104
#define SH_REPLY_BYTES 120 /* with the body */

_Static_assert(sizeof(SH_REPLY_403) - 1 == SH_REPLY_HEAD_BYTES, "403");
_Static_assert(sizeof(SH_REPLY_503) - 1 == SH_REPLY_HEAD_BYTES, "503");

static const char sh_replies[2][SH_REPLY_BYTES] __attribute__((aligned(8))) = {
	SH_REPLY_403 "Access denied \r\n",
	SH_REPLY_503 "No proxy here \r\n",
};

/* Turns the message, which is one whole request, into the response to it, and into the client's own queue. */
static __always_inline bool sh_reply(struct sk_msg_md *msg, struct sh_sock *st, __u32 which, bool head_only)
{
	__u32 bytes = head_only ? SH_REPLY_HEAD_BYTES : SH_REPLY_BYTES, size = msg->size;
	const __u64 *text = (const void *)sh_replies[which & 1];
	__u64 own = st->shared.cookie;
	__u64 *to;

	if (size > bytes && bpf_msg_pop_data(msg, bytes, size - bytes, 0))
		return false;
	if (size < bytes && bpf_msg_push_data(msg, 0, bytes - size, 0))
		return false;
	if (bpf_msg_pull_data(msg, 0, bytes, 0))
		return false;
	to = msg->data;
	for (__u32 i = 0; i < SH_REPLY_HEAD_BYTES / 8; i++) {
		if ((void *)(to + i + 1) > msg->data_end)
			return false;
		to[i] = text[i];
	}
	for (__u32 i = SH_REPLY_HEAD_BYTES / 8; i < SH_REPLY_BYTES / 8 && !head_only; i++) {
		if ((void *)(to + i + 1) > msg->data_end)
			return false;
		to[i] = text[i];
	}
	return bpf_msg_redirect_hash(msg, &sh_socks, &own, BPF_F_INGRESS) == SK_PASS;
}

/* ---- one message ---- */

enum sh_do {
	SH_DO_DROP,
	SH_DO_CARRY,    /* the message goes on its way */
	SH_DO_REDIRECT, /* it has become an answer to its sender, or goes to the proxy */
};

static __always_inline bool sh_is_answered(struct tcp_sock *tp, struct sh_sock *st)
{
	struct sh_ends ends = {
		.client = tp,
		.server = (void *)st->peer_sock,
		.server_storage = (void *)st->peer_storage,
		.server_cookie = st->peer_cookie,
		.requests = sh_requests_sent(st),
	};

	return sh_all_answered(&ends);
}

/* Denied: answered in place of the server, where that is possible; the proxy waits until it is. Punted: the proxy's. Without a proxy
 * both are answered here, or the connection ends. */
static __always_inline enum sh_do sh_refuse(struct sk_msg_md *msg, struct tcp_sock *tp, struct sh_sock *st, struct sh_scratch *scratch)
{
	bool denied = scratch->verdict == SH_POLICY_DENY;
	bool whole = scratch->http1.out.verdict == L7_SIMPLE && scratch->http1.out.unit_bytes == msg->size;
	bool answered = denied && whole && sh_is_answered(tp, st);

	sh_count(denied ? SH_C_REQUESTS_DENIED : SH_C_REQUESTS_PUNTED, 1);
	sh_tell_request(st, scratch, denied ? SH_EV_REQUEST_DENIED : SH_EV_REQUEST_PUNTED);
	if (!answered && !sh_all_arrived(tp, st)) {
		sh_break(st, SH_L7_WHY_WRITERS);
		return SH_DO_DROP;
	}
	if (!answered) {
		enum sh_punted punted = sh_punt(msg, tp, st, scratch->why);

		if (punted == SH_PUNTED)
			return SH_DO_REDIRECT;
		answered = punted == SH_NOT_PUNTED && !denied && whole && sh_is_answered(tp, st);
	}
	if (answered && sh_reply(msg, st, denied ? 0 : 1, scratch->http1.method == L7_M_HEAD))
		return SH_DO_REDIRECT;
	sh_break(st, whole ? SH_L7_WHY_ORDER : SH_L7_WHY_SPLIT);
	return SH_DO_DROP;
}

/* Another request follows in this message. TCP holds back what it gets of a page of which more may come (MSG_MORE), for 200 ms if the
 * rest goes another way: so the page ends with the request. False: the message is spoilt. */
static __always_inline bool sh_split_behind(struct sk_msg_md *msg, __u32 unit)
{
	if (bpf_msg_push_data(msg, unit, 1, 0))
		return true; /* no room: late, but right */
	return !bpf_msg_pop_data(msg, unit, 1, 0);
}

/* A request that is allowed: what of it may pass, and how. False: nothing can. */
static __always_inline bool sh_allow(struct sk_msg_md *msg, struct sh_sock *st, struct sh_scratch *scratch)
{
	__u64 unit = scratch->http1.out.unit_bytes;

	sh_note_request(st, scratch->http1.method == L7_M_HEAD);
	st->l7_left = unit;
	st->l7_via_tcp = unit != msg->size;
	if (unit < msg->size) {
		if (!sh_split_behind(msg, (__u32)unit))
			return false;
		bpf_msg_apply_bytes(msg, (__u32)unit);
	}
	sh_count(SH_C_REQUESTS_ALLOWED, 1);
	return true;
}

/* What TCP took since the last run. False: more than was allowed. */
static __always_inline bool sh_settle(struct tcp_sock *tp, struct sh_sock *st)
{
	__u32 passed = tp->write_seq - st->l7_seq;

	if (passed > st->l7_left)
		return false;
	st->l7_left -= passed;
	st->l7_seq = tp->write_seq;
	return true;
}

static __always_inline enum sh_do sh_client_message(struct sk_msg_md *msg, struct tcp_sock *tp, struct sh_sock *st)
{
	enum sh_do what = SH_DO_CARRY;
	struct sh_scratch *scratch;

	st->l7_via_tcp = 1;
	if (st->l7_left) { /* the rest of a request */
		if (msg->size > st->l7_left)
			bpf_msg_apply_bytes(msg, (__u32)st->l7_left);
		return SH_DO_CARRY;
	}
	scratch = sh_claim_scratch();
	if (!scratch || !sh_parse(msg, scratch, L7_HTTP1_REQUEST)) {
		if (scratch)
			sh_release_scratch(scratch);
		sh_break(st, SH_L7_WHY_SCRATCH);
		return SH_DO_DROP;
	}
	sh_verdict(st, scratch);
	if (scratch->verdict != SH_POLICY_ALLOW)
		what = sh_refuse(msg, tp, st, scratch);
	else if (!sh_allow(msg, st, scratch))
		what = SH_DO_DROP;
	sh_release_scratch(scratch);
	if (what == SH_DO_DROP && st->l7_state != SH_L7_BROKEN)
		sh_break(st, SH_L7_WHY_SCRATCH);
	return what;
}

/* The head of a response: how long it is. Anything that is not plain ends the counting for good. */
static __always_inline void sh_response_head(struct sk_msg_md *msg, struct sh_sock *st)
{
	struct sh_sock *client = (void *)st->peer_storage;
	struct sh_scratch *scratch = sh_claim_scratch();
	struct l7_outcome *out;
	__u64 heads;

	st->l7_lost = 1;
	if (!scratch)
		return;
	heads = sh_heads_of(client, st->peer_cookie);
	if (sh_parse(msg, scratch, heads >> (st->l7_count & 63) & 1 ? L7_HTTP1_RESPONSE_TO_HEAD : L7_HTTP1_RESPONSE)) {
		out = &scratch->http1.out;
		if (out->verdict == L7_SIMPLE && out->unit_bytes != L7_BYTES_UNKNOWN && out->unit_bytes >= msg->size) {
			st->l7_lost = 0;
			st->l7_left = out->unit_bytes - msg->size;
			if (!st->l7_left && !(scratch->http1.flags & L7_F_INTERIM))
				st->l7_count++;
		}
	}
	sh_release_scratch(scratch);
}

static __always_inline void sh_server_message(struct sk_msg_md *msg, struct tcp_sock *tp, struct sh_sock *st)
{
	st->l7_via_tcp = 0;
	if (tp->write_seq != st->l7_seq) /* a send() that TCP took in part */
		st->l7_lost = 1;
	if (st->l7_lost)
		return;
	if (!st->l7_left) {
		sh_response_head(msg, st);
	} else if (msg->size > st->l7_left) {
		st->l7_lost = 1;
	} else {
		st->l7_left -= msg->size;
		if (!st->l7_left)
			st->l7_count++;
	}
}

static __always_inline enum sh_do sh_request(struct sk_msg_md *msg)
{
	struct sh_policy_head *policy = sh_policy();
	struct bpf_sock *sk = msg->sk;
	struct tcp_sock *tp;
	struct sh_sock *st;

	if (!sk || !policy)
		return SH_DO_DROP;
	tp = bpf_skc_to_tcp_sock(sk);
	st = bpf_sk_storage_get(&sh_sockets, sk, 0, 0);
	if (!tp || !st || st->l7_state == SH_L7_BROKEN)
		return SH_DO_DROP;
	bpf_msg_apply_bytes(msg, 0);
	st->l7_via_tcp = 0;
	if (st->l7_channel) {
		enum sh_follow follows = sh_follow(msg, st);

		if (follows == SH_FOLLOW_PROXY)
			return SH_DO_REDIRECT;
		if (follows == SH_FOLLOW_BROKEN) {
			sh_break(st, SH_L7_WHY_PROXY);
			return SH_DO_DROP;
		}
	}
	if (!policy->generation) {
		st->l7_generation = 0;
		st->l7_state = SH_L7_NONE;
		return SH_DO_CARRY;
	}
	if (!(st->flags & SH_SOCK_ACTIVE)) {
		if (st->l7_generation != policy->generation)
			sh_ask_server(sk, policy, tp, st);
		if (st->l7_state == SH_L7_JUDGED)
			sh_server_message(msg, tp, st);
		return SH_DO_CARRY;
	}
	if (st->l7_state == SH_L7_JUDGED && !sh_settle(tp, st))
		sh_break(st, SH_L7_WHY_BYTES);
	else if (st->l7_generation != policy->generation && (st->l7_state != SH_L7_JUDGED || !st->l7_left)) {
		if (!sh_await_server(st))
			return SH_DO_CARRY;
		sh_ask_client(policy, tp, st);
	}
	if (st->l7_state == SH_L7_BROKEN)
		return SH_DO_DROP;
	return st->l7_state == SH_L7_JUDGED ? sh_client_message(msg, tp, st) : SH_DO_CARRY;
}

#endif
