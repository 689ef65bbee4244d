// SPDX-License-Identifier: GPL-2.0-only
/* The shortcut itself: one run for each message that an enrolled socket sends.
 *
 * A direction is FAST (redirected into the peer) or SPILLED (through TCP). The reader drains redirected bytes before those of
 * its TCP queue, so FAST -> SPILLED is always in order; SPILLED -> FAST waits for the latch: all that went through TCP has been
 * acknowledged and read. The redirect knows no backpressure, so a reader that lags makes the direction spill, and TCP's own
 * takes over. PASS appends to the TCP stream under the socket's lock, so a verdict and its effect cannot be reordered. */
#ifndef SHUNT_REDIRECT_BPF_H
#define SHUNT_REDIRECT_BPF_H

#include "policy_maps.bpf.h"
#include "profile.bpf.h"
#include "punt_maps.bpf.h"
#include "select.bpf.h"

#define SH_MEMORY_PAGES_MIN 256   /* a memory cgroup with less than this left gets nothing redirected */
#define SH_MEMORY_PAGES_EASY 16384 /* ... and with less than this left every message is looked at */
#define SH_TCP_PAGES_MIN 512       /* the same for all TCP sockets of the host, before they are under pressure */
#define SH_MEMORY_DEPTH 6         /* levels of memory cgroups that are looked at */
#define SH_GRANT_MSGS 16          /* so many messages, and bytes, between two looks at the reader */
#define SH_GRANT_BYTES 16384
#define SH_STREAM_SMALL_BYTES 32768
#define SH_LEARN_TURNS_MASK 255   /* a long connection teaches its profile now and then */
#define SH_LEARN_RUN_MASK 1023

/* The active end's first message: has the passive end answered? */
static __always_inline bool sh_adopt_answer(struct sh_sock *st)
{
	__u64 cookie = st->shared.cookie;
	struct sh_end *answer = bpf_map_lookup_elem(&sh_answers, &cookie);

	if (!answer || answer->reason)
		return false;
	sh_join(st, answer);
	bpf_map_delete_elem(&sh_answers, &cookie);
	return true;
}

/* Another program writes this socket than the one it was enrolled for (exec, a descriptor passed on): it must be a receiver too. */
static __always_inline bool sh_writer_changed(struct sh_config *cfg, struct tcp_sock *tp, struct sh_sock *st)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 mm = (__u64)task->mm;
	struct sh_who who = {};

	if (mm == st->mm)
		return false;
	sh_program_name(task, who.program);
	st->mm = mm;
	if (sh_same_program(who.program, st->program) || !who.program[0])
		return false;
	who.start_boottime_ns = task->group_leader->start_boottime;
	who.tgid = task->tgid;
	who.nonblocking = sh_nonblocking(tp);
	if (sh_program_reason(cfg, &who))
		return true;
	__builtin_memcpy(st->program, who.program, SH_PROGRAM_NAME_BYTES);
	st->tgid = who.tgid;
	return false;
}

/* Have all bytes that went through TCP been acknowledged and taken from the peer's queues? Without the verdict a reader may sit
 * inside tcp_recvmsg(), which redirected bytes do not wake: then only a direction that never used TCP starts. */
static __always_inline bool sh_latch(struct sh_config *cfg, struct tcp_sock *tp, struct sh_sock *st)
{
	struct tcp_sock *peer = (void *)st->peer_sock;
	struct sk_psock *psock;

	if (tp->snd_una != tp->write_seq || (!cfg->verdict && st->tcp_msgs))
		return false;
	if (BPF_CORE_READ(peer, copied_seq) != BPF_CORE_READ(peer, rcv_nxt))
		return false;
	if (BPF_CORE_READ(peer, inet_conn.icsk_inet.sk.sk_backlog.rmem_alloc.counter))
		return false;
	psock = sh_psock((void *)peer);
	return psock && sh_psock_empty(psock);
}

/* The counter that the sockets of a memory cgroup are charged to. */
static __always_inline struct page_counter *sh_socket_counter(struct mem_cgroup *memcg)
{
	struct mem_cgroup___tcpmem *v1 = (void *)memcg;

	if (bpf_core_field_exists(v1->tcpmem_active) && BPF_CORE_READ(v1, tcpmem_active))
		return (void *)memcg + bpf_core_field_offset(v1->tcpmem);
	return (void *)memcg + bpf_core_field_offset(memcg->memory);
}

/* All TCP sockets of the host together. The message that makes the kernel notice pressure is refused already, so the flag alone comes
 * too late; each CPU adds to the sum in steps of 256 pages. */
static __always_inline bool sh_tcp_memory_short(struct proto *prot)
{
	unsigned long pressure = 0;
	long pages = 0, limits[2] = {};

	bpf_probe_read_kernel(&pressure, sizeof(pressure), prot->memory_pressure);
	bpf_probe_read_kernel(&pages, sizeof(pages), prot->memory_allocated);
	bpf_probe_read_kernel(limits, sizeof(limits), prot->sysctl_mem);
	return pressure || pages + SH_TCP_PAGES_MIN > limits[1];
}

/* Would the kernel refuse to charge the reader? It would give the sender ENOMEM, or end the reader, which plain TCP does not. Where
 * little is left the grant is withdrawn: many connections could use theirs at once. */
static __always_inline bool sh_memory_short(struct tcp_sock *tp, struct sh_sock *st)
{
	struct sock *peer = (void *)st->peer_sock;
	struct page_counter *counter;
	struct mem_cgroup *memcg;
	long left;

	if (sh_tcp_memory_short(SKC(tp)->skc_prot))
		return true;
	memcg = BPF_CORE_READ(peer, sk_memcg);
	if (!memcg)
		return false;
	counter = sh_socket_counter(memcg);
	for (int i = 0; i < SH_MEMORY_DEPTH && counter; i++) {
		left = (long)BPF_CORE_READ(counter, max) - BPF_CORE_READ(counter, usage.counter);
		if (left < SH_MEMORY_PAGES_MIN)
			return true;
		if (left < SH_MEMORY_PAGES_EASY)
			st->granted_msgs = 0;
		counter = BPF_CORE_READ(counter, parent);
	}
	return false;
}

/* Takes the message from what the last look at the reader left free. Nobody but this end adds to that queue, so what was free then
 * is so now, and most messages of a request/response connection need not look into the peer. The reader's memory is others' too:
 * a grant is good for one jiffy, so that the grants of many idle connections cannot exhaust it together. */
static __always_inline bool sh_take_grant(struct sh_sock *st, __u32 size)
{
	if (!st->granted_msgs || st->granted_bytes < size || st->granted_jiffies != (__u32)bpf_jiffies64())
		return false;
	st->granted_msgs--;
	st->granted_bytes -= size;
	return true;
}

/* How much may be queued at the reader. A spilled message must still find room in its receive buffer: TCP would drop it and
 * wait for the retransmission timer. So redirected bytes take half of the buffer at most. Grants what is left beyond this message. */
static __always_inline bool sh_reader_lags(struct sh_config *cfg, struct sh_sock *st, __u32 size)
{
	struct sock *peer = (void *)st->peer_sock;
	__u32 room = (__u32)BPF_CORE_READ(peer, sk_rcvbuf) / 2;
	__u32 queued = BPF_CORE_READ(peer, sk_backlog.rmem_alloc.counter);
	bool empty = queued == 0;

	if (!cfg->rmem_charged) {
		struct sk_psock *psock = sh_psock(peer);

		empty = empty && psock && sh_psock_empty(psock);
	}
	if (empty) {
		st->queued_msgs = 0;
		st->queued_bytes = 0;
	}
	if (!cfg->rmem_charged)
		queued = sh_least(st->queued_bytes, 1 << 30);
	if (room > cfg->spill_bytes)
		room = cfg->spill_bytes;
	if (queued + size > room || st->queued_msgs >= cfg->spill_msgs)
		return true;
	st->granted_msgs = sh_least(SH_GRANT_MSGS, cfg->spill_msgs - st->queued_msgs - 1);
	st->granted_bytes = sh_least(SH_GRANT_BYTES, room - queued - size);
	st->granted_jiffies = bpf_jiffies64();
	return false;
}

/* The reason why this message goes through TCP, or none. */
static __always_inline __u32 sh_tcp_reason(struct sh_config *cfg, struct tcp_sock *tp, struct sh_sock *st, __u32 size)
{
	struct sh_shared peer = {};

	if (cfg->mode != SH_MODE_ON)
		return SH_R_OFF;
	if (sh_cannot_send(tp))
		return SH_R_CLOSING;
	if (!st->peer_cookie && !sh_adopt_answer(st))
		return SH_R_NO_PEER;
	bpf_probe_read_kernel(&peer, sizeof(peer), (void *)st->peer_storage);
	if (peer.cookie != st->peer_cookie)
		return SH_R_PEER_GONE;
	if (peer.rx_stopped && peer.rx_stopped != SH_R_LATCH) {
		st->state = SH_STATE_STOPPED;
		return SH_R_PEER_STOPPED;
	}
	if (peer.tx_msgs != st->peer_msgs) {
		st->peer_msgs = peer.tx_msgs;
		st->turns++;
		st->run_msgs = 0;
	}
	st->run_msgs++;
	if (sh_writer_changed(cfg, tp, st)) {
		st->shared.rx_stopped = SH_R_EXEC;
		st->state = SH_STATE_STOPPED;
		return SH_R_EXEC;
	}
	if (st->l7_via_tcp)
		return SH_R_REQUEST;
	if (st->run_msgs > cfg->one_way_msgs && size < SH_STREAM_SMALL_BYTES)
		return SH_R_STREAM;
	if (cfg->firewall_jiffies && (__u32)bpf_jiffies64() - st->tcp_jiffies > cfg->firewall_jiffies)
		return SH_R_FIREWALL;
	if (st->state == SH_STATE_FAST && sh_take_grant(st, size))
		return SH_R_NONE;
	if (st->state != SH_STATE_FAST && (peer.rx_stopped || !sh_latch(cfg, tp, st)))
		return SH_R_LATCH;
	if (sh_reader_lags(cfg, st, size))
		return SH_R_BACKLOG;
	if (cfg->memory_check && sh_memory_short(tp, st))
		return SH_R_MEMORY;
	return SH_R_NONE;
}

static __always_inline void sh_teach_now_and_then(struct sh_config *cfg, struct sh_sock *st)
{
	bool many_turns = st->run_msgs == 1 && st->turns && !(st->turns & SH_LEARN_TURNS_MASK);
	bool long_run = st->run_msgs && !(st->run_msgs & SH_LEARN_RUN_MASK);

	if (many_turns || long_run)
		sh_profile_learn(cfg, st);
}

static __always_inline void sh_through_tcp(struct sh_config *cfg, struct sh_sock *st, __u32 size, __u32 reason)
{
	/* passing states: neither counted nor told */
	bool waiting = reason == SH_R_LATCH || reason == SH_R_NO_PEER || reason == SH_R_REQUEST;

	st->tcp_msgs++;
	st->tcp_bytes += size;
	st->tcp_jiffies = bpf_jiffies64();
	if (st->state == SH_STATE_FAST || (st->reason != reason && !waiting)) {
		sh_count_reason(reason);
		sh_tell(cfg, st, st->state == SH_STATE_STOPPED ? SH_EV_STOPPED : SH_EV_SPILL, reason);
	}
	if (st->state == SH_STATE_FAST) {
		st->state = SH_STATE_SPILLED;
		st->spills++;
	}
	if (!waiting)
		st->reason = reason;
}

static __always_inline void sh_went_fast(struct sh_config *cfg, struct sh_sock *st, __u32 size)
{
	if (st->state != SH_STATE_FAST) {
		st->state = SH_STATE_FAST;
		st->reason = SH_R_NONE;
		st->latches++;
		sh_tell(cfg, st, SH_EV_LATCH, 0);
	}
	st->fast_msgs++;
	st->fast_bytes += size;
	st->queued_msgs++;
	st->queued_bytes += size;
}

/* Between the verdict to redirect and the enqueueing the socket is not locked, so what another thread sends through TCP or to the proxy
 * meanwhile is read first, and the redirected request in the middle of it: the rest of it would be read as a request that nobody has
 * judged. So all that is not one whole request, redirected, waits for redirects to have arrived: the thread that decided on the last one
 * has left its send(), because it is this one, or because nobody else is inside a call on the socket (each call holds a reference;
 * one is the socket's, one is ours). */
#define SH_WRITERS_SEVERAL (~0ULL)

static __always_inline bool sh_all_arrived(struct tcp_sock *tp, struct sh_sock *st)
{
	struct sk_psock *psock;

	if (!st->l7_writer || st->l7_writer == (__u64)bpf_get_current_task())
		return true;
	psock = sh_psock((void *)tp);
	if (!psock || BPF_CORE_READ(psock, refcnt.refs.counter) != 2)
		return false;
	st->l7_writer = 0;
	return true;
}

static __always_inline void sh_note_writer(struct tcp_sock *tp, struct sh_sock *st)
{
	st->l7_writer = sh_all_arrived(tp, st) ? (__u64)bpf_get_current_task() : SH_WRITERS_SEVERAL;
}

static __always_inline bool sh_is_judged_client(const struct sh_sock *st)
{
	return st->l7_state && st->flags & SH_SOCK_ACTIVE;
}

/* For the next message of a judged connection: what of this one TCP's stream will show. */
static __always_inline void sh_note_way(struct tcp_sock *tp, struct sh_sock *st, __u32 tcp_bytes)
{
	if (!(st->flags & SH_SOCK_ACTIVE))
		st->l7_seq = tp->write_seq + tcp_bytes;
	else if (!tcp_bytes)
		st->l7_left = 0;
}

/* Heads that TCP takes in parts, because its buffer is full: it waits in the middle of one with the socket unlocked, or gives up. The
 * kernel forgets a PASS only when all has been taken (tcp_bpf_send_verdict()), so the next bytes, another thread's or this one's, would
 * come behind the first part without a run of our program and make another head of it. A redirect, here into our own TCP, it
 * forgets before the append: each message is seen, and ends the connection if the head before it is incomplete (sh_settle()). */
static __always_inline int sh_into_tcp(struct sk_msg_md *msg, struct sh_sock *st)
{
	__u64 own = st->shared.cookie;

	if (!sh_is_judged_client(st) || st->l7_left <= st->l7_loose)
		return SK_PASS;
	return bpf_msg_redirect_hash(msg, &sh_socks, &own, 0);
}

/* Redirects one message if it may. SK_PASS: a redirect that fails leaves the message to TCP. SK_DROP, on a judged connection alone: TCP
 * may not have it, as sh_all_arrived() says. */
static __always_inline int sh_carry(struct sk_msg_md *msg, struct bpf_sock *sk, struct sh_sock *st)
{
	struct sh_config *cfg = sh_config();
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u32 reason, size;
	__u64 peer;

	if (!tp || !cfg)
		return SK_PASS;
	size = msg->size;
	if (sh_is_judged_client(st) && st->l7_left && st->l7_left < size)
		size = (__u32)st->l7_left; /* what follows has its own run */
	st->shared.tx_msgs++;
	st->corked_msgs += sh_corked(tp);
	if (st->state == SH_STATE_STOPPED) {
		if (sh_is_judged_client(st) && !sh_all_arrived(tp, st))
			return SK_DROP;
		sh_through_tcp(cfg, st, size, st->reason);
		if (st->l7_state)
			sh_note_way(tp, st, size);
		return sh_into_tcp(msg, st);
	}
	reason = sh_tcp_reason(cfg, tp, st, size);
	peer = st->peer_cookie;
	if (!reason && sh_is_judged_client(st))
		sh_note_writer(tp, st);
	if (!reason && bpf_msg_redirect_hash(msg, &sh_socks, &peer, BPF_F_INGRESS) != SK_PASS)
		reason = SH_R_REDIRECT_FAILED;
	if (reason && sh_is_judged_client(st) && !sh_all_arrived(tp, st))
		return SK_DROP;
	if (reason)
		sh_through_tcp(cfg, st, size, reason);
	else
		sh_went_fast(cfg, st, size);
	if (st->l7_state)
		sh_note_way(tp, st, reason ? size : 0);
	sh_teach_now_and_then(cfg, st);
	return reason ? sh_into_tcp(msg, st) : SK_PASS;
}

/* Every message. Where a policy judges requests, or has changed since this socket asked it, another program goes first. If that one
 * is missing nothing is sent. */
static __always_inline int sh_judge(struct sk_msg_md *msg)
{
	struct sh_policy_head *policy = sh_policy();
	struct bpf_sock *sk = msg->sk;
	struct sh_sock *st;

	st = sk ? bpf_sk_storage_get(&sh_sockets, sk, 0, 0) : 0;
	if (!sk || !policy)
		return SK_PASS;
	if (!st) {
		if (bpf_sk_storage_get(&sh_channel_of, sk, 0, 0))
			bpf_tail_call(msg, &sh_msg_progs, SH_MSG_CHANNEL);
		return SK_PASS;
	}
	if (st->l7_state || st->l7_generation != policy->generation) {
		bpf_tail_call(msg, &sh_msg_progs, SH_MSG_L7);
		return SK_DROP;
	}
	return sh_carry(msg, sk, st);
}

#endif
