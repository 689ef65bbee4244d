// SPDX-License-Identifier: GPL-2.0-only
/* Policy on connections: who may connect to whom, and the guarantee that a governed server reads nothing that no verdict covers.
 *
 *   connect()            sh_connect_to      what can be known by then fails at once, with EPERM
 *                        sh_start_connect   is it the fallback proxy? Before the SYN leaves it is written down who calls, for steering
 *   active ESTABLISHED   sh_govern_active   leaves who it is under the sequence numbers
 *   passive ESTABLISHED  sh_govern_passive  asks the policy; a forbidden connection is reset by the daemon
 *   each packet          sh_gate            in the folders of governed cgroups: nothing forbidden or unjudged is delivered
 *   after a switch       sh_iter_police     tells of all live connections; the daemon resets what is forbidden now (ends.bpf.h)
 *
 * A connection's ends are known by the sequence numbers, as for pairs, so an identity is right through any NAT.
 * The daemon only ends what is forbidden sooner: without it, such a connection carries nothing until it times out. */
#ifndef SHUNT_GOVERN_BPF_H
#define SHUNT_GOVERN_BPF_H

#include "admission.bpf.h"
#include "enrol.bpf.h"
#include "identity.bpf.h"
#include "steer_maps.bpf.h"

#define SH_TELL_AGAIN_JIFFIES 250
#define SH_IPV6_HEADER_BYTES 40
#define SH_IPV6_NEXT_HEADER_AT 6

/* A record without socket storage. Not inlined: slow path. */
static __noinline int sh_tell_forbidden(struct tcp_sock *tp, struct sh_policed *policed, __u64 cookie)
{
	struct sh_event *ev;

	if (!tp || !policed)
		return 0;
	sh_count(SH_C_FORBIDDEN, 1);
	ev = sh_event_new(SH_EV_FORBIDDEN, SH_R_POLICY, 0);
	if (!ev)
		return 0;
	sh_event_of_sock(ev, tp, cookie);
	ev->l7_reason = policed->reason;
	ev->identity = policed->peer;
	ev->peer_identity = policed->identity;
	bpf_ringbuf_submit(ev, 0);
	return 0;
}

/* Asks the policy in force about a connection whose ends are known. */
static __always_inline void sh_ask_policy(struct sh_policy_head *policy, struct sh_policed *policed)
{
	struct sh_policy_asked asked = {};

	policed->generation = policy->generation;
	sh_policy_ask_both(&asked, policy->generation, policed->peer, policed->identity, policed->port);
	policed->reason = asked.reason;
	if (asked.verdict == SH_POLICY_DENY) {
		policed->state = SH_POLICED_FORBIDDEN;
	} else if (asked.verdict == SH_POLICY_ALLOW) {
		policed->state = SH_POLICED_ALLOWED;
	} else if (policed->client_storage) {
		policed->state = SH_POLICED_JUDGED;
	} else {
		policed->state = SH_POLICED_FORBIDDEN;
		policed->reason = SH_L7_WHY_UNJUDGED;
	}
}

/* Asks it about a connection of this server's end. Who the ends are is found anew each time: an identity is a number of one policy, and
 * another one may give it to somebody else. */
static __always_inline void sh_police(struct sh_policy_head *policy, struct tcp_sock *tp, struct sh_policed *policed)
{
	struct sock *client = (void *)policed->client_sock;

	sh_identify(policy, SK(tp), &policed->own, &policed->identity);
	policed->peer = SH_IDENTITY_ANY;
	if (policed->by_proxy) {
		policed->generation = policy->generation;
		policed->state = SH_POLICED_ALLOWED;
		return;
	}
	if (policed->elsewhere) {
		sh_identify_elsewhere(policy, tp, &policed->peer);
	} else if (client && BPF_CORE_READ(client, __sk_common.skc_cookie.counter) == (__s64)policed->client_cookie) {
		sh_identify(policy, client, &policed->client, &policed->peer);
	}
	sh_ask_policy(policy, policed);
	if (policed->peer == SH_IDENTITY_ANY && policed->state != SH_POLICED_ALLOWED) {
		policed->state = SH_POLICED_FORBIDDEN; /* a local client that left no record: unknown is nobody's permission */
		policed->reason = SH_L7_WHY_UNJUDGED;
	}
}

/* Another policy, or another workload. By grace a connection that was allowed without a look at its requests, which nobody can judge
 * now, goes on. */
static __always_inline void sh_police_again(struct sh_policy_head *policy, struct tcp_sock *tp, struct sh_policed *policed)
{
	bool was_allowed = policed->state == SH_POLICED_ALLOWED;

	sh_police(policy, tp, policed);
	if (was_allowed && policy->existing == SH_POLICY_EXISTING_GRACE && policed->peer != SH_IDENTITY_ANY &&
	    policed->state == SH_POLICED_FORBIDDEN && policed->reason == SH_L7_WHY_UNJUDGED)
		policed->state = SH_POLICED_ALLOWED;
}

/* Certainly on this host, as far as the first packet told: 0 where connect() or the backlog forgot the device. */
static __always_inline bool sh_is_through_lo(struct tcp_sock *tp)
{
	int iif = SK(tp)->sk_rx_dst_ifindex;

	return !iif || iif == LOOPBACK_IFINDEX;
}

static __always_inline __u32 sh_netns_inode(struct tcp_sock *tp)
{
	return BPF_CORE_READ(SK(tp), __sk_common.skc_net.net, ns.inum);
}

/* By what steering finds the client's record: its own address. */
static __always_inline void sh_caller_key_of(struct sh_caller_key *key, const __u8 *addr, __u16 port, __u32 netns)
{
	__builtin_memcpy(key->addr, addr, SH_ADDR_BYTES);
	key->port = port;
	key->netns = sh_is_loopback(addr) ? netns : 0;
}

/* For steering. Behind a DNAT the server's port is another one than the client's, so the port does not say whether this will be asked
 * for. Not inlined: the stack of sock_ops is full. */
static __noinline int sh_leave_caller(struct tcp_sock *tp, __u64 cookie, __u32 kind)
{
	struct sh_caller caller = {.sock = (__u64)tp, .cookie = cookie, .kind = kind};
	__u8 local[SH_ADDR_BYTES] = {}, remote[SH_ADDR_BYTES] = {};
	struct sh_caller_key key = {};

	sh_addrs(tp, local, remote);
	sh_caller_key_of(&key, local, sh_local_port(tp), sh_netns_inode(tp));
	sh_stands_for(tp, &caller.remote);
	bpf_map_update_elem(&sh_callers, &key, &caller, BPF_ANY);
	return 0;
}

/* Before the SYN leaves. */
static __always_inline void sh_start_connect(struct bpf_sock_ops *ops, struct sh_config *cfg)
{
	struct sh_policy_head *policy = sh_policy();
	__u32 kind = SH_CALLER_PROXY;
	struct sh_policed *policed;
	struct tcp_sock *tp;

	if (policy && policy->generation && sh_is_proxy()) { /* its own connections are not enrolled */
		tp = sh_tcp_sock(ops);
		policed = tp ? bpf_sk_storage_get(&sh_policed, tp, 0, BPF_SK_STORAGE_GET_F_CREATE) : 0;
		if (policed) /* else it is somebody whom no policy allows */
			policed->by_proxy = 1;
		sh_remember(ops, SH_R_STEERED, 0);
	} else {
		kind = on_connect(ops, cfg) ? SH_CALLER_CANNOT : SH_CALLER_JUDGES;
		tp = sh_tcp_sock(ops);
	}
	if (tp && ((policy && policy->requests) || cfg->strict_services))
		sh_leave_caller(tp, bpf_get_socket_cookie(ops), kind);
}

/* The daemon is asked to look at it: it may be one of those to which the proxy forwards, or a strict service's in a namespace that is
 * new. */
static __always_inline void sh_govern_listen(struct bpf_sock_ops *ops, struct sh_config *cfg)
{
	struct tcp_sock *tp = sh_tcp_sock(ops);
	struct sh_event *ev;

	if (!tp || !(sh_port_is_judged(sh_local_port(tp)) || (cfg->strict_services && sh_port_is_strict(sh_local_port(tp)))))
		return;
	ev = sh_event_new(SH_EV_LISTENS, SH_R_NONE, 0);
	if (!ev)
		return;
	sh_event_of_sock(ev, tp, bpf_get_socket_cookie(ops));
	bpf_ringbuf_submit(ev, 0);
}

static __always_inline void sh_leave_client(struct bpf_sock_ops *ops, struct sh_policy_head *policy, struct tcp_sock *tp)
{
	struct sh_policed *policed = bpf_sk_storage_get(&sh_policed, tp, 0, BPF_SK_STORAGE_GET_F_CREATE);
	struct sh_isn_key key = {.active_seq = tp->snd_nxt, .passive_seq = tp->rcv_nxt};
	struct sh_policy_client me = {.sock = (__u64)tp, .cookie = bpf_get_socket_cookie(ops)};
	struct sh_sock *st = sh_storage(tp, 0);

	sh_stands_for(tp, &me.remote);
	if (policed) {
		policed->active = 1;
		policed->state = SH_POLICED_FREE;
		policed->own = me.remote;
		me.proxy = policed->by_proxy;
	}
	if (st && (st->flags & SH_SOCK_IN_MAP))
		me.storage = (__u64)st;
	if (policed && !policed->by_proxy && !sh_is_through_lo(tp)) {
		sh_identify(policy, SK(tp), &me.remote, &policed->peer);
		sh_identify_elsewhere(policy, tp, &policed->identity);
		policed->port = sh_remote_port(tp);
		sh_ask_policy(policy, policed);
		if (policed->state != SH_POLICED_FORBIDDEN) {
			policed->state = SH_POLICED_FREE;
		} else if (sh_may_be_local(tp)) {
			policed->state = SH_POLICED_PENDING;
			policed->client_storage = (__u64)key.active_seq << 32 | key.passive_seq;
			me.pending = 1;
		} else {
			sh_tell_forbidden(tp, policed, me.cookie);
		}
	}
	if (sh_may_be_local(tp))
		bpf_map_update_elem(&sh_pol_clients, &key, &me, BPF_ANY);
}

static __always_inline void sh_govern_active(struct bpf_sock_ops *ops)
{
	struct sh_policy_head *policy = sh_policy();
	struct tcp_sock *tp = sh_tcp_sock(ops);

	if (tp)
		sh_dialled_active(tp);
	if (tp && policy && policy->generation)
		sh_leave_client(ops, policy, tp);
}

/* Does the fallback proxy forward to this server's end? */
static __always_inline bool sh_takes_from_proxy(struct tcp_sock *tp)
{
	struct sh_steer_key key = {.port = sh_local_port(tp), .family = SKC(tp)->skc_family};
	__u8 remote[SH_ADDR_BYTES] = {};

	key.netns = sh_netns_inode(tp);
	sh_addrs(tp, key.addr, remote);
	return sh_find_steer(&key) != 0;
}

/* Who is at the other end of a connection that the proxy has taken in a server's place, by the policy in force. A client of this host
 * has left a record under the sequence numbers, so that no address is believed. */
static __always_inline void sh_name_steered(struct sh_policy_head *policy, struct tcp_sock *tp, struct sh_policed *policed)
{
	volatile struct sh_steered *who = (void *)bpf_sk_storage_get(&sh_steered, tp, 0, BPF_SK_STORAGE_GET_F_CREATE);
	struct sock *client = (void *)policed->client_sock;

	if (!who) /* the proxy refuses what is not there */
		return;
	who->generation = 0;
	policed->peer = SH_IDENTITY_ANY;
	if (policed->elsewhere) {
		who->from = SH_STEERED_ELSEWHERE;
		sh_identify_elsewhere(policy, tp, &policed->peer);
	} else if (client) {
		who->from = SH_STEERED_LOCAL;
		if (BPF_CORE_READ(client, __sk_common.skc_cookie.counter) == (__s64)policed->client_cookie)
			sh_identify(policy, client, &policed->client, &policed->peer);
	}
	who->identity = policed->peer;
	who->generation = policy->generation;
}

/* Is this the end of a client of another host? Its address was not one of ours when its SYN came. */
static __noinline int sh_calls_from_here(struct tcp_sock *tp)
{
	__u8 local[SH_ADDR_BYTES] = {}, remote[SH_ADDR_BYTES] = {};
	struct sh_caller_key key = {};

	sh_addrs(tp, local, remote);
	sh_caller_key_of(&key, remote, sh_remote_port(tp), sh_netns_inode(tp));
	return bpf_map_lookup_elem(&sh_own_addrs, remote) || bpf_map_lookup_elem(&sh_callers, &key);
}

/* Takes the record of a client on this host. */
static __always_inline void sh_take_client(struct sh_policed *policed, struct sh_policy_client *client, const struct sh_isn_key *key)
{
	policed->client = client->remote;
	policed->client_sock = client->sock;
	policed->client_cookie = client->cookie;
	if (client->pending)
		client->taken = 1;
	else
		bpf_map_delete_elem(&sh_pol_clients, key);
}

/* Before the active end learns of the pair. `paired`: the active end's cookie, 0: none is. */
static __always_inline void sh_govern_passive(struct bpf_sock_ops *ops, struct sh_policy_head *policy, struct tcp_sock *tp,
					      __u64 paired)
{
	struct sh_policed *policed = bpf_sk_storage_get(&sh_policed, tp, 0, BPF_SK_STORAGE_GET_F_CREATE);
	struct sh_isn_key key = {.active_seq = tp->rcv_nxt, .passive_seq = tp->snd_nxt};
	struct sh_policy_client *client = bpf_map_lookup_elem(&sh_pol_clients, &key);
	struct sh_sock *st = sh_storage(tp, 0);

	if (!policed) /* the gate takes it for one that is older than the policy */
		return;
	if (sh_is_steered(tp)) {
		policed->active = 1; /* the proxy's own: nobody asks about it any more */
		policed->state = SH_POLICED_FREE;
		policed->elsewhere = !client && !sh_calls_from_here(tp);
		if (client)
			sh_take_client(policed, client, &key);
		sh_name_steered(policy, tp, policed);
		sh_remember(ops, SH_R_STEERED, 0);
		return;
	}
	sh_stands_for(tp, &policed->own);
	policed->port = sh_dialled_port(tp);
	if (!policed->port)
		policed->port = sh_local_port(tp);
	policed->elsewhere = !client && !sh_is_through_lo(tp);
	if (client) {
		policed->by_proxy = client->proxy && sh_takes_from_proxy(tp);
		if (paired && paired == client->cookie && st)
			policed->client_storage = client->storage;
		sh_take_client(policed, client, &key);
	}
	sh_police(policy, tp, policed);
	if (policed->state == SH_POLICED_FORBIDDEN) {
		policed->told_jiffies = bpf_jiffies64();
		sh_tell_forbidden(tp, policed, bpf_get_socket_cookie(ops));
	}
}

static __always_inline void on_passive(struct bpf_sock_ops *ops, struct sh_config *cfg)
{
	struct sh_policy_head *policy = sh_policy();
	struct tcp_sock *tp = sh_tcp_sock(ops);
	struct sh_end peer = {}, me = {};
	bool met;

	if (!tp)
		return;
	sh_dialled_passive(tp);
	met = sh_meet(ops, cfg, tp, &peer, &me);
	if (policy && policy->generation)
		sh_govern_passive(ops, policy, tp, met && !me.reason ? peer.cookie : 0);
	if (met)
		bpf_map_update_elem(&sh_answers, &peer.cookie, &me, BPF_ANY);
}

/* ---- the gate ---- */

/* Does somebody listen where this socket's own end is? Asked of the kernel: our record of listeners may not know it. */
static __always_inline bool sh_is_server_end(struct __sk_buff *skb, struct tcp_sock *tp)
{
	__u8 local[SH_ADDR_BYTES] = {}, remote[SH_ADDR_BYTES] = {};
	const __u32 *words = (const void *)local;
	struct bpf_sock_tuple tuple = {};
	struct bpf_sock *sk;
	bool listens;

	sh_addrs(tp, local, remote);
	if (!words[0] && !words[1] && words[2] == bpf_htonl(0xffff)) {
		tuple.ipv4.daddr = words[3];
		tuple.ipv4.dport = bpf_htons(sh_local_port(tp));
		sk = bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	} else {
		__builtin_memcpy(tuple.ipv6.daddr, local, SH_ADDR_BYTES);
		tuple.ipv6.dport = bpf_htons(sh_local_port(tp));
		sk = bpf_sk_lookup_tcp(skb, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return false;
	listens = sk->state == BPF_TCP_LISTEN;
	bpf_sk_release(sk);
	return listens;
}

/* A connection that is older than the policy, or came about where no program saw it: it has no record, so its client is unknown. */
static __always_inline void sh_police_older(struct __sk_buff *skb, struct sh_policy_head *policy, struct tcp_sock *tp,
					    struct sh_policed *policed)
{
	sh_stands_for(tp, &policed->own); /* the sweep asks who is at this end, also where the gate does not */
	if (policy->existing == SH_POLICY_EXISTING_GRACE || sh_is_steered(tp) || !sh_is_server_end(skb, tp)) {
		policed->generation = policy->generation;
		policed->state = SH_POLICED_FREE;
		return;
	}
	policed->port = sh_local_port(tp);
	sh_police(policy, tp, policed);
	if (policed->state == SH_POLICED_FORBIDDEN)
		policed->reason = SH_L7_WHY_OLDER;
}

/* Has the client's program judged all that comes with this packet? */
static __always_inline bool sh_is_judged(struct sh_policed *policed, __u32 end_seq)
{
	struct sh_sock *client = (void *)policed->client_storage;
	__u32 seq = 0, flags = 0, asked[2] = {}; /* l7_state, l7_generation */
	__u64 cookie = 0, left = 0;

	bpf_probe_read_kernel(&cookie, sizeof(cookie), &client->shared.cookie);
	bpf_probe_read_kernel(&flags, sizeof(flags), &client->flags);
	bpf_probe_read_kernel(asked, sizeof(asked), &client->l7_state);
	bpf_probe_read_kernel(&left, sizeof(left), &client->l7_left);
	bpf_probe_read_kernel(&seq, sizeof(seq), &client->l7_seq);
	if (cookie != policed->client_cookie)
		return false;
	/* Sent under a policy that did not look at requests, by a client that asks before it sends more; or none was asked, as the server
	 * was not known. */
	if (asked[0] == SH_L7_NONE)
		return asked[1] && flags & SH_SOCK_IN_MAP;
	if (!seq) /* likewise, and another message broke it */
		return false;
	if (left > 1U << 30)
		left = 1U << 30;
	return (__s32)(end_seq - (seq + (__u32)left)) <= 0;
}

/* Is the peer on this host? Then it has asked the policy about this connection. */
static __always_inline void sh_police_pending(struct sh_policed *policed)
{
	struct sh_isn_key key = {.active_seq = policed->client_storage >> 32, .passive_seq = (__u32)policed->client_storage};
	struct sh_policy_client *record = bpf_map_lookup_elem(&sh_pol_clients, &key);

	if (!record || !record->taken) {
		__u32 now = bpf_jiffies64();

		if (!policed->told_jiffies)
			policed->told_jiffies = now;
		else if (now - policed->told_jiffies > SH_TELL_AGAIN_JIFFIES)
			policed->state = SH_POLICED_FORBIDDEN; /* it is elsewhere, and the policy forbids the address */
		return;
	}
	policed->state = SH_POLICED_FREE;
	bpf_map_delete_elem(&sh_pol_clients, &key);
}

/* Data for a listener comes before ESTABLISHED: TCP Fast Open, or TCP_DEFER_ACCEPT. Nobody has been judged then. */
static __always_inline int sh_listener_is_open(struct sh_policy_head *policy, struct tcp_sock *tp)
{
	struct sh_policy_subject_key key = {.direction = SH_POLICY_INGRESS, .half = policy->generation & 1};
	struct sh_remote own;

	sh_stands_for(tp, &own);
	sh_identify(policy, SK(tp), &own, &key.identity);
	return !bpf_map_lookup_elem(&sh_pol_subjects, &key);
}

/* What TCP's header says that decides. */
struct sh_segment {
	__u32 end_seq;
	__u32 payload;
	bool urgent;
	bool fin;
	bool rst;
};

static __always_inline bool sh_read_segment(struct __sk_buff *skb, struct sh_segment *to)
{
	__u8 first = 0, next = IPPROTO_TCP;
	struct tcphdr tcp;
	__u32 at;

	if (bpf_skb_load_bytes(skb, 0, &first, 1))
		return false;
	at = first >> 4 == 4 ? (first & 15) * 4 : SH_IPV6_HEADER_BYTES;
	if (first >> 4 != 4 && bpf_skb_load_bytes(skb, SH_IPV6_NEXT_HEADER_AT, &next, 1))
		return false;
	if (next != IPPROTO_TCP) { /* behind an extension header, which TCP on one host does not have: as bytes out of band */
		to->urgent = true;
		return true;
	}
	if (bpf_skb_load_bytes(skb, at, &tcp, sizeof(tcp)))
		return false;
	at += tcp.doff * 4;
	to->payload = skb->len > at ? skb->len - at : 0;
	to->end_seq = bpf_ntohl(tcp.seq) + to->payload;
	to->urgent = tcp.urg;
	to->fin = tcp.fin;
	to->rst = tcp.rst;
	return true;
}

static __always_inline bool sh_tells_again(struct sh_policed *policed)
{
	__u32 now = bpf_jiffies64();

	if (policed->told_jiffies && now - policed->told_jiffies < SH_TELL_AGAIN_JIFFIES)
		return false;
	policed->told_jiffies = now;
	return true;
}

/* While the proxy has a request, neither end may learn that the other has ended: the server would not wait for the request, the client
 * not for its response. TCP sends a FIN again. A RST of the server is not sent again: the proxy has the connection reset in its place. */
static __always_inline int sh_gate_end(struct bpf_sock *sk, bool rst)
{
	struct sh_policed *policed = bpf_sk_storage_get(&sh_policed, sk, 0, 0);

	if (!policed || policed->state != SH_POLICED_JUDGED)
		return 1;
	if (rst)
		return !sh_is_owed_end(policed->client_cookie);
	return !sh_holds_end((void *)policed->client_storage, policed->client_cookie);
}

/* 1: deliver; 0: drop. */
static __always_inline int sh_gate(struct __sk_buff *skb, bool ingress)
{
	struct sh_policy_head *policy = sh_policy();
	struct bpf_sock *sk = skb->sk;
	struct sh_segment segment = {};
	struct sh_policed *policed;
	struct tcp_sock *tp;

	sk = sk ? bpf_sk_fullsock(sk) : 0;
	if (!sk || sk->protocol != IPPROTO_TCP || !policy || !policy->generation)
		return 1;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp || !sh_read_segment(skb, &segment))
		return 1;
	if (!segment.payload && !segment.urgent)
		return segment.fin || (segment.rst && !ingress) ? sh_gate_end(sk, segment.rst) : 1;
	if (sk->state == BPF_TCP_LISTEN)
		return sh_is_steered(sk) || sh_listener_is_open(policy, tp);
	policed = bpf_sk_storage_get(&sh_policed, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!policed)
		return 0;
	if (policed->state == SH_POLICED_UNKNOWN)
		sh_police_older(skb, policy, tp, policed);
	else if (policed->state == SH_POLICED_PENDING)
		sh_police_pending(policed);
	else if (policed->generation != policy->generation && policed->state != SH_POLICED_FREE && !policed->active)
		sh_police_again(policy, tp, policed);
	if (policed->state == SH_POLICED_JUDGED && ingress) {
		if (!segment.urgent && sh_is_judged(policed, segment.end_seq))
			return 1;
		policed->reason = segment.urgent ? SH_L7_WHY_URGENT : SH_L7_WHY_BYTES;
		policed->state = SH_POLICED_FORBIDDEN;
	}
	if (policed->state != SH_POLICED_FORBIDDEN)
		return policed->state != SH_POLICED_PENDING;
	sh_count(SH_C_UNJUDGED_PACKETS, 1);
	if (sh_tells_again(policed))
		sh_tell_forbidden(tp, policed, bpf_get_socket_cookie(skb));
	return 0;
}

/* ---- connect() ---- */

/* The socket that listens at an address that certainly is of this namespace: bound to it, or the address is the loopback's. Its
 * identity, or 0. `tuple`: only the destination is filled. */
static __always_inline __u32 sh_identity_of_listener(struct bpf_sock_addr *ctx, struct sh_policy_head *policy,
						     struct bpf_sock_tuple *tuple, __u32 bytes, bool loopback)
{
	struct bpf_sock *sk = bpf_sk_lookup_tcp(ctx, tuple, bytes, BPF_F_CURRENT_NETNS, 0);
	struct sh_remote own;
	struct tcp_sock *tp;
	__u32 identity = 0;

	if (!sk)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp && sk->state == BPF_TCP_LISTEN && (loopback || (sk->family == AF_INET && sk->src_ip4))) {
		sh_stands_for(tp, &own);
		sh_identify(policy, SK(tp), &own, &identity);
	}
	bpf_sk_release(sk);
	return identity;
}

/* 1: connect() goes on; 0: EPERM. What cannot be known here (NAT, other namespaces) is asked at ESTABLISHED. */
static __always_inline int sh_connect_to(struct bpf_sock_addr *ctx, struct bpf_sock_tuple *tuple, __u32 bytes, bool loopback)
{
	struct sh_policy_head *policy = sh_policy();
	struct sh_policy_asked asked = {};
	struct sh_remote own;
	struct tcp_sock *tp;
	__u32 client = 0, server;

	if (!policy || !policy->generation || ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP || !ctx->sk)
		return 1;
	tp = bpf_skc_to_tcp_sock(ctx->sk);
	if (!tp || sh_is_proxy() || sh_dialled_port(tp)) /* turned to the gateway: sh_dial() has asked */
		return 1;
	server = sh_identity_of_listener(ctx, policy, tuple, bytes, loopback);
	if (!server)
		return 1;
	sh_stands_for(tp, &own);
	sh_identify(policy, SK(tp), &own, &client);
	sh_policy_ask_both(&asked, policy->generation, client, server, bpf_ntohs((__u16)ctx->user_port));
	if (asked.verdict != SH_POLICY_DENY)
		return 1;
	sh_count(SH_C_FORBIDDEN, 1);
	return 0;
}

#endif
