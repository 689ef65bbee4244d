// SPDX-License-Identifier: GPL-2.0-only
/* Live connections under a policy that came into force after them. The iterator tells who is at which end; what it can decide by
 * itself, where both ends left their records, it decides as the gate would at the next packet. The user side pairs the others by their
 * addresses, asks the same tables, and resets what is forbidden. */
#ifndef SHUNT_ENDS_BPF_H
#define SHUNT_ENDS_BPF_H

#include "govern.bpf.h"

/* Where somebody may still read. */
#define SH_LIVE_STATES (1U << BPF_TCP_ESTABLISHED | 1U << BPF_TCP_FIN_WAIT1 | 1U << BPF_TCP_FIN_WAIT2 | 1U << BPF_TCP_CLOSE_WAIT)

/* An accepted socket is a copy of its listener, whose backlog stays in it; one that called connect() has none. Also where the listener
 * is gone. A listener without a backlog makes its sockets look like clients: then the gate ends them, at their next packet. */
static __always_inline bool sh_was_accepted(struct tcp_sock *tp)
{
	return SK(tp)->sk_max_ack_backlog != 0;
}

/* False: the client has gone. What it sent is read in peace. */
static __always_inline bool sh_police_live(struct sh_policy_head *policy, struct tcp_sock *tp, struct sh_policed *policed,
					   struct sh_live *live)
{
	struct sock *client = (void *)policed->client_sock;

	if (client && BPF_CORE_READ(client, __sk_common.skc_cookie.counter) != (__s64)policed->client_cookie)
		return false;
	if (policed->state != SH_POLICED_FORBIDDEN || policed->generation != policy->generation)
		sh_police_again(policy, tp, policed);
	live->role = SH_LIVE_SERVER;
	live->client_cookie = policed->client_cookie;
	live->peer = policed->peer;
	return true;
}

/* The proxy judges what comes on it, and has to be told who the client is in this policy. */
static __always_inline void sh_live_steered(struct sh_policy_head *policy, struct tcp_sock *tp, struct sh_policed *policed,
					    struct sh_live *live)
{
	sh_name_steered(policy, tp, policed);
	live->role = SH_LIVE_SERVER;
	live->client_cookie = policed->client_cookie;
	live->peer = policed->peer;
}

/* Both ends of every live connection of one network namespace: for each a struct sh_live. The socket is locked by the iterator. */
SEC("iter/tcp")
int sh_iter_police(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	struct sh_policy_head *policy = sh_policy();
	struct sh_policed *policed;
	struct sh_live live = {};
	struct sh_remote own;
	struct tcp_sock *tp;

	tp = skc ? bpf_skc_to_tcp_sock(skc) : 0;
	if (!tp || !policy || !policy->generation || !(1U << (SKC(tp)->skc_state & 31) & SH_LIVE_STATES))
		return 0;
	sh_addrs(tp, live.local_addr, live.remote_addr);
	live.role = sh_was_accepted(tp) ? SH_LIVE_OLDER_SERVER : SH_LIVE_OLDER_CLIENT;
	sh_identify_elsewhere(policy, tp, &live.peer);
	policed = bpf_sk_storage_get(&sh_policed, tp, 0, 0);
	if (policed) {
		if (sh_is_steered(tp))
			sh_live_steered(policy, tp, policed, &live);
		else if (policed->active)
			live.role = SH_LIVE_CLIENT;
		else if ((policed->client_sock || policed->elsewhere) && !sh_police_live(policy, tp, policed, &live))
			return 0;
		live.state = policed->state;
		live.reason = policed->reason;
	}
	live.generation = policy->generation;
	live.cookie = bpf_get_socket_cookie(tp);
	live.netns = sh_netns(tp);
	sh_stands_for(tp, &own);
	sh_identify(policy, SK(tp), policed ? &policed->own : &own, &live.identity);
	live.family = SKC(tp)->skc_family;
	live.snd_nxt = tp->snd_nxt;
	live.rcv_nxt = tp->rcv_nxt;
	live.local_port = sh_local_port(tp);
	live.remote_port = sh_remote_port(tp);
	live.through_lo = SK(tp)->sk_rx_dst_ifindex == LOOPBACK_IFINDEX;
	bpf_seq_write(ctx->meta->seq, &live, sizeof(live));
	return 0;
}

/* The user side has reset a connection: counted and told like one that the kernel side forbids. */
SEC("syscall")
int sh_tell_ended(struct sh_event *ended)
{
	struct sh_event *ev;
	__u64 now;

	sh_count(SH_C_FORBIDDEN, 1);
	sh_count_reason(SH_R_POLICY_CHANGED);
	ev = sh_event_new(SH_EV_FORBIDDEN, SH_R_POLICY_CHANGED, 0); /* looked at at once: 6.1 forgets that it is not NULL */
	if (!ev)
		return 0;
	now = ev->time_ns;
	*ev = *ended;
	ev->time_ns = now;
	bpf_ringbuf_submit(ev, 0);
	return 0;
}

#endif
