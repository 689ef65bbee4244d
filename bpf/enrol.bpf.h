// SPDX-License-Identifier: GPL-2.0-only
/* The life of a socket up to its pair, and its end: everything that sock_ops does.
 *
 *   connect()            on_connect        decide; keep the decision in the socket's storage
 *   listen()             on_listen         remember who listens
 *   active ESTABLISHED   on_active         into the sockhash; leave a record under the two sequence numbers
 *   passive ESTABLISHED  sh_meet           take the record; into the sockhash; answer the active end (on_passive, govern.bpf.h)
 *   first RTT sample     on_rtt            active end: no answer, so no local peer: leave the sockhash
 *   the peer's FIN       on_fin            did it close with unread bytes?
 *   CLOSE                on_close          add up, learn
 */
#ifndef SHUNT_ENROL_BPF_H
#define SHUNT_ENROL_BPF_H

#include "dialled.bpf.h"
#include "guard.bpf.h"
#include "policy_maps.bpf.h"
#include "profile.bpf.h"
#include "punt_maps.bpf.h"
#include "select.bpf.h"
#include "steer_maps.bpf.h"

#define SH_SOCK_OPS_FLAGS (BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTT_CB_FLAG)

static __always_inline struct tcp_sock *sh_tcp_sock(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;

	return sk ? bpf_skc_to_tcp_sock(sk) : 0;
}

/* Callback flags belong to all programs of the socket: add and remove only ours. */
static __always_inline void sh_want_callbacks(struct bpf_sock_ops *ops, __u32 add, __u32 remove)
{
	bpf_sock_ops_cb_flags_set(ops, (ops->bpf_sock_ops_cb_flags | add) & ~remove);
}

/* Only where the current task is the socket's user: connect() and listen(). The name costs more than the rest. */
static __always_inline void sh_who_is_current(struct sh_who *who, struct tcp_sock *tp, bool with_name)
{
	struct task_struct *task = bpf_get_current_task_btf();

	if (with_name)
		sh_program_name(task, who->program);
	who->start_boottime_ns = task->group_leader->start_boottime;
	who->tgid = task->tgid;
	who->uid = SK(tp)->sk_uid.val;
	who->nonblocking = sh_nonblocking(tp);
}

/* Keeps the reason for `shunt why`. Returns the socket's cookie. */
static __always_inline __u64 sh_remember(struct bpf_sock_ops *ops, __u32 reason, __u32 tgid)
{
	__u64 cookie = bpf_get_socket_cookie(ops);
	__u32 slot_key = cookie & (SH_SKIPPED_MAX - 1);
	struct sh_skipped *slot = bpf_map_lookup_elem(&sh_skipped, &slot_key);

	if (slot) {
		slot->cookie = cookie;
		slot->reason = reason;
		slot->tgid = tgid;
	}
	return cookie;
}

static __always_inline void sh_skip(struct sh_config *cfg, struct bpf_sock_ops *ops, struct tcp_sock *tp,
				    const struct sh_who *who, __u32 reason)
{
	__u64 cookie = sh_remember(ops, reason, who->tgid);

	sh_count_reason(reason);
	if (cfg->events)
		sh_tell_skipped(tp, cookie, who->tgid, who->program, reason);
}

/* The profile's word on a new connection: the reason to stay out, or none. */
static __always_inline __u32 sh_profile_verdict(struct sh_config *cfg, struct sh_profile *p, __u32 *flags)
{
	__u32 reason = sh_profile_reason(p->kind);

	p->connections++;
	if (!reason)
		return SH_R_NONE;
	if (p->connections & (p->kind == SH_PROFILE_NO_PEER ? SH_NO_PEER_MASK : cfg->sample_mask)) {
		sh_count(SH_C_PROFILE_SKIPPED, 1);
		return reason;
	}
	sh_count(SH_C_SAMPLED, 1);
	*flags |= SH_SOCK_SAMPLED;
	return SH_R_NONE;
}

static __always_inline void sh_fill_storage(struct sh_sock *st, struct bpf_sock_ops *ops, struct tcp_sock *tp,
					    const struct sh_who *who)
{
	st->shared.cookie = bpf_get_socket_cookie(ops);
	st->netns = sh_netns(tp);
	st->cgroup = sh_cgroup_id(tp);
	st->tgid = who->tgid;
	st->uid = who->uid;
	__builtin_memcpy(st->program, who->program, SH_PROGRAM_NAME_BYTES);
	sh_stands_for(tp, &st->remote);
	st->service_port = sh_dialled_port(tp);
}

/* The reason why the socket will not be enrolled, or none. */
static __always_inline __u32 on_connect(struct bpf_sock_ops *ops, struct sh_config *cfg)
{
	__u8 local[SH_ADDR_BYTES] = {}, remote[SH_ADDR_BYTES] = {};
	struct tcp_sock *tp = sh_tcp_sock(ops);
	__u32 flags = SH_SOCK_ACTIVE, reason;
	struct sh_profile *profile = 0;
	struct sh_who who = {};
	struct sh_sock *st;
	bool learns;
	__u64 id = 0;

	if (!tp)
		return SH_R_REFUSED;
	sh_count(SH_C_SOCKETS_SEEN, 1);
	sh_addrs(tp, local, remote);
	reason = sh_place_reason(cfg, tp, remote, sh_remote_port(tp), SK(tp)->sk_uid.val);
	sh_who_is_current(&who, tp, !reason || cfg->events);
	/* What was learned is cheaper to ask than the rest, and the destinations left on TCP have the shortest connections. */
	learns = !reason && cfg->profile_on && !sh_port_is_judged(sh_service_port(tp));
	if (learns) {
		id = sh_profile_id(remote, sh_remote_port(tp), who.program);
		profile = bpf_map_lookup_elem(&sh_profiles, &id);
		reason = profile ? sh_profile_verdict(cfg, profile, &flags) : SH_R_NONE;
	}
	if (!reason)
		reason = sh_owner_reason(cfg, tp, &who);
	if (!reason && !sh_is_guarded(tp))
		reason = SH_R_UNGUARDED;
	if (!reason && learns && !profile)
		profile = sh_profile_make(id, remote, sh_remote_port(tp), who.program);
	st = reason ? 0 : sh_storage(tp, BPF_SK_STORAGE_GET_F_CREATE);
	if (!reason && !st)
		reason = SH_R_NO_MEMORY;
	if (!st) {
		sh_skip(cfg, ops, tp, &who, reason);
		return reason;
	}
	sh_fill_storage(st, ops, tp, &who);
	st->profile = profile ? id : 0;
	st->flags = flags;
	return SH_R_NONE;
}

static __always_inline void on_listen(struct bpf_sock_ops *ops, struct sh_config *cfg)
{
	struct tcp_sock *tp = sh_tcp_sock(ops);
	struct sh_listener_key key = {};
	struct sh_listener listener = {};
	__u8 none[SH_ADDR_BYTES] = {};
	struct sh_who who = {};
	__u32 reason;

	if (!tp)
		return;
	sh_who_is_current(&who, tp, true);
	key.netns = sh_netns(tp);
	key.port = sh_local_port(tp);
	key.family = SKC(tp)->skc_family;
	if (key.family == AF_INET6)
		sh_addrs(tp, key.addr, none);
	else if (SKC(tp)->skc_rcv_saddr)
		sh_map_v4(key.addr, SKC(tp)->skc_rcv_saddr);
	__builtin_memcpy(listener.program, who.program, SH_PROGRAM_NAME_BYTES);
	listener.start_boottime_ns = who.start_boottime_ns;
	listener.cgroup = sh_cgroup_id(tp);
	listener.tgid = who.tgid;
	listener.uid = who.uid;
	listener.nonblocking = who.nonblocking;
	bpf_map_update_elem(&sh_listeners, &key, &listener, BPF_ANY);
	reason = sh_selection_reason(cfg, tp, key.addr, key.port, &who);
	if (!reason || reason == SH_R_PROGRAM_UNVERIFIED)
		sh_is_guarded(tp); /* asks early */
}

/* Puts the socket into the sockhash: the reason why not, or none. */
static __always_inline __u32 sh_enter(struct bpf_sock_ops *ops, struct tcp_sock *tp, struct sh_sock *st)
{
	struct sh_arrival arrival = {.end_seq = tp->rcv_nxt};
	__u64 cookie = st->shared.cookie;
	/* Not long: before Linux 6.4 the inlined map operations return int and leave the upper half of the register zero. */
	int err = bpf_map_update_elem(&sh_arrivals, &cookie, &arrival, BPF_ANY);

	if (!err) {
		err = bpf_sock_hash_update(ops, &sh_socks, &cookie, BPF_NOEXIST);
		if (err)
			bpf_map_delete_elem(&sh_arrivals, &cookie);
	}
	if (!err) {
		st->flags |= SH_SOCK_IN_MAP;
		sh_count(SH_C_ENROLLED, 1);
		return SH_R_NONE;
	}
	switch (err) {
	case -EBUSY: return SH_R_FOREIGN_BPF;
	case -E2BIG: return SH_R_MAP_FULL;
	case -ENOMEM: return SH_R_NO_MEMORY;
	}
	return SH_R_REFUSED;
}

static __always_inline void sh_describe(struct sh_sock *st, struct tcp_sock *tp)
{
	sh_addrs(tp, st->local_addr, st->remote_addr);
	st->local_port = sh_local_port(tp);
	st->remote_port = sh_remote_port(tp);
	st->family = SKC(tp)->skc_family;
	st->since_ns = bpf_ktime_get_ns();
	st->tcp_jiffies = bpf_jiffies64();
	st->state = SH_STATE_UNPAIRED;
}

/* Devices that lead to another namespace of this host, by their rtnl kind. */
static const char sh_local_kinds[][8] __attribute__((aligned(8))) = {"veth", "netkit", "bridge", "ipvlan", "macvlan", "dummy"};

/* Can the other end be on this host? The SYN-ACK came in through `lo`, or while connect() still held the socket (then its device
 * was forgotten: tcp_add_backlog() drops the route; over a real network it comes later), or through a virtual device that leads
 * to another namespace. REDIRECT and DNAT to a local address come in through `lo`, wherever the original route pointed, which is
 * why the route alone cannot tell. A wrong yes costs little: the socket leaves the map at its first RTT sample. */
static __always_inline bool sh_may_be_local(struct tcp_sock *tp)
{
	int iif = SK(tp)->sk_rx_dst_ifindex;
	union {
		char name[8];
		__u64 word;
	} kind = {};
	struct net_device *dev;

	if (!iif || iif == LOOPBACK_IFINDEX)
		return true;
	dev = BPF_CORE_READ(SK(tp), sk_dst_cache, dev);
	if (!dev || !BPF_CORE_READ(dev, rtnl_link_ops))
		return false;
	bpf_probe_read_kernel_str(kind.name, sizeof(kind.name), BPF_CORE_READ(dev, rtnl_link_ops, kind));
	for (__u32 i = 0; i < sizeof(sh_local_kinds) / sizeof(sh_local_kinds[0]); i++)
		if (kind.word == *(const __u64 *)sh_local_kinds[i])
			return true;
	return false;
}

static __always_inline void on_active(struct bpf_sock_ops *ops, struct sh_config *cfg)
{
	struct tcp_sock *tp = sh_tcp_sock(ops);
	struct sh_sock *st = tp ? sh_storage(tp, 0) : 0;
	struct sh_isn_key key = {};
	struct sh_end me = {};
	__u32 reason;

	if (!st)
		return;
	sh_describe(st, tp);
	reason = cfg->mode != SH_MODE_ON ? SH_R_OFF : sh_socket_obstacle(tp);
	if (!reason && !sh_may_be_local(tp)) {
		reason = SH_R_REMOTE;
		sh_profile_no_peer(st->profile, reason);
	}
	if (!reason)
		reason = sh_enter(ops, tp, st);
	st->reason = reason;
	if (reason) {
		sh_count_reason(reason);
		sh_tell(cfg, st, SH_EV_CONNECT_SKIPPED, reason);
		return;
	}
	/* Should the answer be lost, this end leaves although the other one believes in the pair: no redirect may be under way then. */
	st->shared.rx_stopped = SH_R_LATCH;
	me.cookie = st->shared.cookie;
	me.sock = (__u64)tp;
	me.storage = (__u64)st;
	me.profile = st->profile;
	key.active_seq = tp->snd_nxt;
	key.passive_seq = tp->rcv_nxt;
	bpf_map_update_elem(&sh_isns, &key, &me, BPF_ANY);
	sh_want_callbacks(ops, SH_SOCK_OPS_FLAGS, 0);
	sh_tell(cfg, st, SH_EV_ENROLLED, 0);
}

/* Whoever called listen(), on this address or on any. `key` is changed. */
static __always_inline bool sh_who_listens_at(struct sh_listener_key *key, struct sh_who *who)
{
	struct sh_listener *listener = bpf_map_lookup_elem(&sh_listeners, key);

	if (!listener) {
		__builtin_memset(key->addr, 0, SH_ADDR_BYTES);
		listener = bpf_map_lookup_elem(&sh_listeners, key);
	}
	if (!listener)
		return false;
	__builtin_memcpy(who->program, listener->program, SH_PROGRAM_NAME_BYTES);
	who->start_boottime_ns = listener->start_boottime_ns;
	who->tgid = listener->tgid;
	who->uid = listener->uid;
	who->nonblocking = listener->nonblocking;
	return true;
}

/* Who is behind a socket that was accepted. */
static __always_inline bool sh_who_listens(struct tcp_sock *tp, struct sh_who *who)
{
	struct sh_listener_key key = {.netns = sh_netns(tp), .port = sh_local_port(tp), .family = SKC(tp)->skc_family};
	__u8 none[SH_ADDR_BYTES] = {};

	sh_addrs(tp, key.addr, none);
	return sh_who_listens_at(&key, who);
}

static __always_inline void sh_marry(struct sh_config *cfg, struct sh_sock *st, const struct sh_end *peer)
{
	sh_join(st, peer);
	sh_tell(cfg, st, SH_EV_PAIRED, 0);
}

/* Makes the passive end of a pair: the reason why not, or none. */
static __always_inline __u32 sh_pair_passive(struct bpf_sock_ops *ops, struct sh_config *cfg, struct tcp_sock *tp,
					     const struct sh_end *peer, struct sh_end *me)
{
	__u8 local[SH_ADDR_BYTES] = {}, remote[SH_ADDR_BYTES] = {};
	struct sh_who who = {.uid = SK(tp)->sk_uid.val};
	bool known = sh_who_listens(tp, &who);
	struct sh_sock *st;
	__u32 reason;

	if (sh_is_steered(tp))
		return SH_R_STEERED;
	if (!known && !cfg->any_program)
		return SH_R_LISTENER_UNKNOWN;
	sh_addrs(tp, local, remote);
	reason = sh_selection_reason(cfg, tp, local, sh_local_port(tp), &who);
	if (reason)
		return reason;
	if (!sh_is_guarded(tp))
		return SH_R_UNGUARDED;
	st = sh_storage(tp, BPF_SK_STORAGE_GET_F_CREATE);
	if (!st)
		return SH_R_NO_MEMORY;
	sh_fill_storage(st, ops, tp, &who);
	sh_describe(st, tp);
	st->profile = peer->profile;
	reason = sh_enter(ops, tp, st);
	st->reason = reason;
	if (reason)
		return reason;
	sh_want_callbacks(ops, BPF_SOCK_OPS_STATE_CB_FLAG, 0);
	me->cookie = st->shared.cookie;
	me->sock = (__u64)tp;
	me->storage = (__u64)st;
	sh_marry(cfg, st, peer);
	sh_count(SH_C_PAIRS, 1);
	return SH_R_NONE;
}

/* The passive end does not pair: takes the active one out at once, while its connect() is under way or it has done nothing yet. If
 * it is already inside a call it leaves by itself (on_rtt). */
static __always_inline void sh_evict(const struct sh_end *active)
{
	struct sock *sk = (void *)active->sock;
	__u64 cookie = active->cookie;
	struct sk_psock *psock;

	if (BPF_CORE_READ(sk, __sk_common.skc_cookie.counter) != (__s64)cookie)
		return;
	psock = sh_psock(sk);
	if (psock && sh_psock_empty(psock) && BPF_CORE_READ(psock, refcnt.refs.counter) == 1)
		sh_leave_map(cookie);
}

/* Takes the active end's record, if there is one, and makes the passive end or says in `me` why not. The answer is for the caller
 * to give: bpf_map_update_elem(&sh_answers, &peer->cookie, me). */
static __always_inline bool sh_meet(struct bpf_sock_ops *ops, struct sh_config *cfg, struct tcp_sock *tp, struct sh_end *peer,
				    struct sh_end *me)
{
	struct sh_isn_key key = {};
	struct sh_end *record;

	key.active_seq = tp->rcv_nxt;
	key.passive_seq = tp->snd_nxt;
	record = bpf_map_lookup_elem(&sh_isns, &key);
	if (!record) {
		sh_remember(ops, SH_R_NO_PEER, 0);
		return false;
	}
	*peer = *record;
	bpf_map_delete_elem(&sh_isns, &key);
	me->reason = sh_pair_passive(ops, cfg, tp, peer, me);
	if (me->reason) {
		sh_remember(ops, me->reason, 0);
		sh_count_reason(me->reason);
		sh_evict(peer);
	}
	return true;
}

/* May the socket be taken out of the sockhash now? Its queue would be destroyed, and with the verdict attached a reader blocked
 * in recv() would get EAGAIN on a blocking socket: both must be absent. A writer is harmless, because its call holds the psock: one
 * that is blocked for memory, or one that is just releasing the socket's lock and so processes this very packet. */
static __always_inline bool sh_may_leave(struct tcp_sock *tp)
{
	struct sk_psock *psock = sh_psock(SK(tp));
	__u32 inside;

	if (!psock || !sh_psock_empty(psock))
		return false;
	inside = BPF_CORE_READ(psock, refcnt.refs.counter) - 1;
	if (inside != 1)
		return inside == 0;
	return SK(tp)->sk_write_pending == 1 || (SK(tp)->sk_lock.owned && !sh_somebody_waits(SK(tp)));
}

/* Runs before the packet that brought the sample is queued, so an active end whose peer is not here leaves before it can read
 * a response. Paired ends have been answered by then: the passive end's ESTABLISHED precedes its first acknowledgement. */
static __always_inline void on_rtt(struct bpf_sock_ops *ops, struct sh_config *cfg)
{
	struct tcp_sock *tp = sh_tcp_sock(ops);
	struct sh_sock *st = tp ? sh_storage(tp, 0) : 0;
	struct sh_end *answer;
	__u64 cookie;

	if (!st || !(st->flags & SH_SOCK_ACTIVE))
		return;
	if (st->peer_cookie) {
		sh_want_callbacks(ops, 0, BPF_SOCK_OPS_RTT_CB_FLAG);
		return;
	}
	cookie = st->shared.cookie;
	answer = bpf_map_lookup_elem(&sh_answers, &cookie);
	if (answer && !answer->reason) {
		sh_marry(cfg, st, answer);
		bpf_map_delete_elem(&sh_answers, &cookie);
		sh_want_callbacks(ops, 0, BPF_SOCK_OPS_RTT_CB_FLAG);
		return;
	}
	st->reason = answer ? answer->reason : SH_R_NO_PEER;
	st->state = SH_STATE_STOPPED;
	st->shared.rx_stopped = st->reason;
	if (sh_psock(SK(tp)) && !sh_may_leave(tp)) {
		sh_count(SH_C_LEAVE_LATER, 1);
		return;
	}
	sh_leave_map(cookie);
	bpf_map_delete_elem(&sh_answers, &cookie);
	st->flags = (st->flags & ~SH_SOCK_IN_MAP) | SH_SOCK_LEFT;
	sh_profile_no_peer(st->profile, st->reason);
	sh_count(SH_C_LEFT, 1);
	sh_count_reason(st->reason);
	sh_tell(cfg, st, SH_EV_LEFT, st->reason);
	sh_want_callbacks(ops, 0, BPF_SOCK_OPS_RTT_CB_FLAG);
}

/* The peer's FIN. A TCP that is closed with unread bytes sends RST, but unread bytes in a psock queue are not seen by close(): a
 * sender that is blocked on the closed window would learn of it only at the next window probe. The daemon resets it. */
static __always_inline void on_fin(struct bpf_sock_ops *ops)
{
	struct tcp_sock *tp = sh_tcp_sock(ops);
	struct sh_sock *st = tp ? sh_storage(tp, 0) : 0;
	struct sock *peer;

	if (!st || !st->peer_cookie || tp->snd_una == tp->write_seq)
		return;
	peer = (void *)st->peer_sock;
	if (BPF_CORE_READ(peer, __sk_common.skc_cookie.counter) == (__s64)st->peer_cookie &&
	    BPF_CORE_READ(peer, sk_shutdown) == SHUTDOWN_MASK)
		sh_emit_sock(st, SH_EV_ABANDONED, SH_R_PEER_GONE);
}

/* Has the peer's FIN closed a socket whose verdict is still attached (not one that is being closed here, too)? Then the verdict is run
 * once more, for the packet with the FIN. */
static __always_inline bool sh_ended_by_fin(struct tcp_sock *tp, __u32 state_before)
{
	struct sk_psock *psock = sh_psock(SK(tp));

	return state_before == BPF_TCP_FIN_WAIT2 && sh_has_flag(tp, bpf_core_enum_value(enum sock_flags, SOCK_DONE)) && psock &&
	       BPF_CORE_READ(psock, saved_data_ready);
}

static __always_inline void on_close(struct bpf_sock_ops *ops, struct sh_config *cfg)
{
	struct tcp_sock *tp = sh_tcp_sock(ops);
	struct sh_sock *st = tp ? sh_storage(tp, 0) : 0;
	struct sh_counts *counts;
	struct sh_end *answer;
	__u64 cookie;

	if (!st || !(st->flags & (SH_SOCK_IN_MAP | SH_SOCK_LEFT)))
		return;
	cookie = st->shared.cookie;
	answer = bpf_map_lookup_elem(&sh_answers, &cookie);
	if (st->peer_cookie)
		sh_profile_learn(cfg, st);
	else if (!answer || answer->reason)
		sh_profile_no_peer(st->profile, answer ? answer->reason : SH_R_NO_PEER);
	counts = sh_counted();
	if (counts) {
		counts->counters[SH_C_FAST_MSGS] += st->fast_msgs;
		counts->counters[SH_C_FAST_BYTES] += st->fast_bytes;
		counts->counters[SH_C_TCP_MSGS] += st->tcp_msgs;
		counts->counters[SH_C_TCP_BYTES] += st->tcp_bytes;
		counts->counters[SH_C_SPILLS] += st->spills;
		counts->counters[SH_C_LATCHES] += st->latches;
		counts->counters[SH_C_CLOSED]++;
	}
	sh_tell(cfg, st, SH_EV_CLOSED, 0);
	st->shared.cookie = 0; /* the peer sees that this end is gone */
	st->flags &= ~(SH_SOCK_IN_MAP | SH_SOCK_LEFT);
	if (!sh_ended_by_fin(tp, ops->args[0]))
		bpf_map_delete_elem(&sh_arrivals, &cookie);
	sh_leave_channel(st, cookie);
	if (!st->peer_cookie)
		bpf_map_delete_elem(&sh_answers, &cookie);
}

#endif
