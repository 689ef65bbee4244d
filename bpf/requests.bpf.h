// SPDX-License-Identifier: GPL-2.0-only
/* Requests under a policy: each message of a governed connection comes here before it is carried.
 *
 * The client's program judges. What is allowed is whole requests, which may be redirected; or the bytes of a request, which
 * go through TCP from its head on. How many bytes are allowed is kept as a position in TCP's stream (l7_seq, l7_left), for two
 * reasons: a PASS that fails repeats its verdict for the next bytes without a run, and the server's gate drops whatever goes beyond
 * it (govern.bpf.h). So only bytes of a body (l7_loose) go by PASS; heads do not (sh_into_tcp() in redirect.bpf.h).
 *
 * What is not judged here, or cannot be denied here, goes to the fallback proxy (channel.bpf.h), if it is HTTP.
 *
 * The server's program counts the responses that are complete, so that an answer of ours (403, 503, -NOPERM) never overtakes one.
 *
 * The policy's entry names the protocol (sh_l7_protocol). What differs between protocols is in judge_NAME.bpf.h, and
 * called from the three functions under "protocols" below. Each protocol but HTTP/1 runs in a program of its own, which
 * SH_MSG_L7 calls when all that is alike has been done: so none makes another one slower, or harder to verify. HTTP/2
 * would be the next.
 *
 * apply_bytes and the redirect target stay in force within one chunk. So apply_bytes begins at 0 in every run, and is never used
 * with a redirect to another socket: what shares its message with another request goes through TCP. */
#ifndef SHUNT_REQUESTS_BPF_H
#define SHUNT_REQUESTS_BPF_H

#include "responses.bpf.h"
#include "judge_http1.bpf.h"
#include "judge_resp.bpf.h"

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
static __always_inline bool sh_await_server(struct tcp_sock *tp, struct sh_sock *st)
{
	struct sh_wait wait = {.cookie = st->shared.cookie};
	__u32 steps = SK(tp)->sk_rx_dst_ifindex == LOOPBACK_IFINDEX ? SH_CERTAIN_WAIT_STEPS : SH_SERVER_WAIT_STEPS;

	if (st->peer_cookie || sh_adopt_answer(st))
		return true;
	if (!st->shared.tx_msgs)
		bpf_loop(steps, sh_answer_step, &wait, 0);
	return wait.ready && sh_adopt_answer(st);
}

/* The client asks what its requests must pass. Without a server's end nothing is known: what is sent then goes through TCP, where the
 * gate ends the connection if requests are judged there (sh_is_judged()); so does the next message, when it asks. Not inlined, as
 * sh_identify(). */
static __noinline int sh_ask_client(struct sh_policy_head *policy, struct tcp_sock *tp, struct sh_sock *st)
{
	bool early = st->flags & SH_SOCK_EARLY;
	bool older = !early && !st->l7_generation && st->shared.tx_msgs;
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
	st->flags &= ~SH_SOCK_EARLY;
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
	} else if (early) {
		sh_break(st, SH_L7_WHY_BYTES);
	} else if (st->l7_protocol && st->l7_protocol != sh_protocol_of(&asked)) {
		sh_break(st, SH_L7_WHY_PROTOCOL);
	} else if (older && policy->existing == SH_POLICY_EXISTING_RESET) {
		sh_break(st, SH_L7_WHY_OLDER);
	} else if (older) {
		st->l7_state = SH_L7_NONE;
	} else if (st->l7_state != SH_L7_JUDGED) {
		st->l7_protocol = sh_protocol_of(&asked);
		st->l7_seq = tp->write_seq; /* before the state: the gate may look */
		st->l7_left = 0;
		st->l7_begun = 0;
		st->l7_state = SH_L7_JUDGED;
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

/* ---- protocols ---- */

/* `protocol` is a constant of each program. */
static __always_inline void sh_judge_requests(struct sk_msg_md *msg, struct sh_sock *st, struct sh_scratch *scratch,
					      enum sh_l7_protocol protocol)
{
	if (protocol == SH_L7_RESP)
		sh_resp_judge(msg, st, scratch);
	else
		sh_http1_judge(st, scratch);
}

static __always_inline bool sh_answer(struct sk_msg_md *msg, struct sh_sock *st, struct sh_scratch *scratch,
				      enum sh_l7_protocol protocol)
{
	return protocol == SH_L7_RESP ? sh_resp_answer(msg, st) : sh_http1_answer(msg, st, scratch);
}

static __always_inline bool sh_count_responses(struct sk_msg_md *msg, struct sh_sock *st, struct sh_scratch *scratch,
					       enum sh_l7_protocol protocol)
{
	return protocol == SH_L7_RESP ? sh_resp_count(msg, st, scratch) : sh_http1_count(msg, st, scratch);
}

static __always_inline bool sh_copy(struct sk_msg_md *msg, struct sh_sock *st, struct sh_scratch *scratch, enum sh_l7_protocol protocol)
{
	return protocol == SH_L7_RESP ? sh_resp_copy(msg, st, scratch) : sh_copy_message(msg, scratch);
}

/* The message is the beginning of a request, and more of it may come in another one. */
static __always_inline bool sh_begins(struct sk_msg_md *msg, const struct sh_scratch *scratch, enum sh_l7_protocol protocol)
{
	return protocol == SH_L7_RESP && sh_resp_begins(msg, scratch);
}

static __always_inline bool sh_proxy_speaks(enum sh_l7_protocol protocol) { return protocol == SH_L7_HTTP1; }

/* ---- one message ---- */

enum sh_do {
	SH_DO_DROP,
	SH_DO_CARRY,    /* the message goes on its way */
	SH_DO_REDIRECT, /* it has become an answer to its sender, or goes to the proxy */
	SH_DO_RESP,     /* it is for the program of that protocol */
};

static __always_inline bool sh_is_answered(struct tcp_sock *tp, struct sh_sock *st)
{
	struct sh_ends ends = {
		.client = tp,
		.server = (void *)st->peer_sock,
		.server_storage = (void *)st->peer_storage,
		.server_cookie = st->peer_cookie,
		.requests = sh_requests_sent(st),
		.counts_refs = (st->l7_proof & SH_L7_REFS_KNOWN) != 0,
	};

	return !st->l7_lost && sh_all_answered(&ends);
}

/* Denied: answered in place of the server, where that is possible; the proxy waits until it is. Punted: the proxy's. Without a proxy
 * both are answered here, or the connection ends. */
static __always_inline enum sh_do sh_refuse(struct sk_msg_md *msg, struct tcp_sock *tp, struct sh_sock *st, struct sh_scratch *scratch,
					    enum sh_l7_protocol protocol)
{
	bool denied = scratch->verdict == SH_POLICY_DENY;
	bool whole = !scratch->begun && scratch->unit == msg->size;
	bool answered = denied && whole && sh_is_answered(tp, st);

	sh_count(denied ? SH_C_REQUESTS_DENIED : SH_C_REQUESTS_PUNTED, 1);
	sh_tell_request(st, scratch, denied ? SH_EV_REQUEST_DENIED : SH_EV_REQUEST_PUNTED);
	if (!answered && !sh_proxy_speaks(protocol)) {
		answered = !denied && whole && sh_is_answered(tp, st);
	} else if (!answered && !sh_all_arrived(tp, st)) {
		sh_break(st, SH_L7_WHY_WRITERS);
		return SH_DO_DROP;
	} else if (!answered) {
		enum sh_punted punted = sh_punt(msg, tp, st, scratch->why);

		if (punted == SH_PUNTED)
			return SH_DO_REDIRECT;
		answered = punted == SH_NOT_PUNTED && !denied && whole && sh_is_answered(tp, st);
	}
	if (answered && sh_answer(msg, st, scratch, protocol))
		return SH_DO_REDIRECT;
	if (!scratch->unit && !sh_proxy_speaks(protocol))
		sh_break(st, scratch->why);
	else
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

/* Requests that are allowed: what of the message may pass, and how. False: nothing can. */
static __always_inline bool sh_allow(struct sk_msg_md *msg, struct sh_sock *st, struct sh_scratch *scratch)
{
	__u64 unit = scratch->unit - scratch->begun;

	if (scratch->requests == 1)
		sh_note_request(st, scratch->to_head);
	else
		st->l7_count += scratch->requests;
	st->l7_lost |= scratch->loses;
	st->l7_left = unit;
	st->l7_loose = scratch->unit - scratch->heads_end;
	st->l7_via_tcp = unit != msg->size || scratch->begun;
	st->l7_begun = 0;
	if (unit < msg->size) {
		if (!sh_split_behind(msg, (__u32)unit))
			return false;
		bpf_msg_apply_bytes(msg, (__u32)unit);
	}
	sh_count(SH_C_REQUESTS_ALLOWED, scratch->requests);
	return true;
}

/* What TCP took since the last run. False: more than was allowed, or a head only in part. */
static __always_inline bool sh_settle(struct tcp_sock *tp, struct sh_sock *st)
{
	__u32 passed = tp->write_seq - st->l7_seq;

	if (passed > st->l7_left) {
		sh_break(st, SH_L7_WHY_BYTES);
		return false;
	}
	st->l7_left -= passed;
	st->l7_seq = tp->write_seq;
	if (st->l7_left > st->l7_loose) {
		sh_break(st, SH_L7_WHY_PARTED);
		return false;
	}
	return true;
}

static __always_inline enum sh_do sh_client_message(struct sk_msg_md *msg, struct tcp_sock *tp, struct sh_sock *st,
						    enum sh_l7_protocol protocol)
{
	enum sh_do what = SH_DO_CARRY;
	struct sh_scratch *scratch;

	st->l7_via_tcp = 1;
	if (st->l7_left) { /* the rest of a request */
		if (msg->size > st->l7_left)
			bpf_msg_apply_bytes(msg, (__u32)st->l7_left);
		return SH_DO_CARRY;
	}
	if (protocol == SH_L7_HTTP1)
		sh_see_request(st);
	if (!(st->l7_proof & SH_L7_REFS_KNOWN))
		sh_know_refs(tp, st);
	scratch = sh_claim_scratch();
	if (!scratch || !sh_copy(msg, st, scratch, protocol)) {
		if (scratch)
			sh_release_scratch(scratch);
		sh_break(st, SH_L7_WHY_SCRATCH);
		return SH_DO_DROP;
	}
	sh_judge_requests(msg, st, scratch, protocol);
	if (sh_begins(msg, scratch, protocol))
		what = sh_resp_keep(msg, st, scratch) ? SH_DO_CARRY : SH_DO_DROP;
	else if (scratch->verdict == SH_POLICY_ALLOW)
		what = sh_allow(msg, st, scratch) ? SH_DO_CARRY : SH_DO_DROP;
	else
		what = sh_refuse(msg, tp, st, scratch, protocol);
	if (protocol == SH_L7_HTTP1 && what != SH_DO_CARRY)
		sh_see_refusal(st, what == SH_DO_DROP, scratch->verdict == SH_POLICY_DENY);
	sh_release_scratch(scratch);
	if (what == SH_DO_DROP && st->l7_state != SH_L7_BROKEN)
		sh_break(st, SH_L7_WHY_SCRATCH);
	return what;
}

/* A message that begins with a response. */
static __always_inline void sh_response_head(struct sk_msg_md *msg, struct sh_sock *st, enum sh_l7_protocol protocol)
{
	struct sh_scratch *scratch = sh_claim_scratch();

	/* Others ask meanwhile, and take 1 for the last word. */
	if (!scratch || !sh_copy_message(msg, scratch) || !sh_count_responses(msg, st, scratch, protocol))
		st->l7_lost = 1;
	if (scratch)
		sh_release_scratch(scratch);
}

static __always_inline void sh_server_message(struct sk_msg_md *msg, struct tcp_sock *tp, struct sh_sock *st,
					      enum sh_l7_protocol protocol)
{
	st->l7_via_tcp = 0;
	st->l7_proof = msg->data_end - msg->data == msg->size ? 0 : SH_L7_IN_PIECES; /* before it is counted */
	sh_settle_server(tp, st, protocol);
	if (st->l7_lost)
		return;
	if (!st->l7_left) {
		sh_response_head(msg, st, protocol);
	} else if (msg->size > st->l7_left) {
		st->l7_lost = 1;
	} else {
		st->l7_left -= msg->size;
		if (!st->l7_left)
			st->l7_count++;
	}
}

/* The client asked for it by the time the server answers. */
static __always_inline __u32 sh_server_protocol(struct sh_sock *st)
{
	struct sh_sock *client = (void *)st->peer_storage;
	__u32 protocol = 0;

	if (!st->l7_protocol && !bpf_probe_read_kernel(&protocol, sizeof(protocol), &client->l7_protocol))
		st->l7_protocol = protocol;
	return st->l7_protocol;
}

static __always_inline enum sh_do sh_from_server(struct sk_msg_md *msg, struct bpf_sock *sk, struct sh_policy_head *policy,
						 struct tcp_sock *tp, struct sh_sock *st)
{
	if (st->l7_generation != policy->generation)
		sh_ask_server(sk, policy, tp, st);
	if (st->l7_state != SH_L7_JUDGED)
		return SH_DO_CARRY;
	if (sh_server_protocol(st) == SH_L7_RESP)
		return SH_DO_RESP;
	sh_see_response(msg, st);
	sh_server_message(msg, tp, st, SH_L7_HTTP1);
	return SH_DO_CARRY;
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

		if (follows == SH_FOLLOW_PROXY) {
			sh_see_request(st);
			return SH_DO_REDIRECT;
		}
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
	if (!(st->flags & SH_SOCK_ACTIVE))
		return sh_from_server(msg, sk, policy, tp, st);
	if (st->l7_state == SH_L7_JUDGED && !sh_settle(tp, st))
		return SH_DO_DROP;
	if (st->l7_generation != policy->generation && (st->l7_state != SH_L7_JUDGED || !st->l7_left)) {
		if (!sh_await_server(tp, st)) {
			st->flags |= SH_SOCK_EARLY;
			st->l7_via_tcp = 1; /* it may become known before the message is carried */
			return SH_DO_CARRY;
		}
		sh_ask_client(policy, tp, st);
	}
	if (st->l7_state == SH_L7_BROKEN)
		return SH_DO_DROP;
	if (st->l7_state != SH_L7_JUDGED)
		return SH_DO_CARRY;
	return st->l7_protocol == SH_L7_RESP ? SH_DO_RESP : sh_client_message(msg, tp, st, SH_L7_HTTP1);
}

/* The rest of it, for a protocol that has a program of its own. */
static __always_inline enum sh_do sh_request_of(struct sk_msg_md *msg, enum sh_l7_protocol protocol)
{
	struct bpf_sock *sk = msg->sk;
	struct sh_sock *st = sk ? bpf_sk_storage_get(&sh_sockets, sk, 0, 0) : 0;
	struct tcp_sock *tp = sk ? bpf_skc_to_tcp_sock(sk) : 0;

	if (!st || !tp)
		return SH_DO_DROP;
	if (st->flags & SH_SOCK_ACTIVE)
		return sh_client_message(msg, tp, st, protocol);
	sh_server_message(msg, tp, st, protocol);
	return SH_DO_CARRY;
}

#endif
