// SPDX-License-Identifier: GPL-2.0-only
/* Iterators: what the user side reads, and how sockets are taken out of the map while they live. */
#ifndef SHUNT_LIST_BPF_H
#define SHUNT_LIST_BPF_H

#include "enrol.bpf.h"
#include "punt_maps.bpf.h"

/* Enrolled sockets of one network namespace: for each a struct sh_sock and a struct sh_row_tail. Not an iterator over the socket
 * storage itself: hardened kernels refuse iterators that hand out map values (EPERM). */
SEC("iter/tcp")
int sh_iter_list(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	struct sh_row_tail tail = {};
	struct sk_psock *psock;
	struct tcp_sock *tp;
	struct sh_sock *st;

	tp = skc ? bpf_skc_to_tcp_sock(skc) : 0;
	st = tp ? bpf_sk_storage_get(&sh_sockets, tp, 0, 0) : 0;
	if (!st)
		return 0;
	tail.tcp_state = SKC(tp)->skc_state;
	tail.rcv_queued_bytes = SK(tp)->sk_backlog.rmem_alloc.counter;
	psock = sh_psock(SK(tp));
	tail.in_map = psock && (st->flags & SH_SOCK_IN_MAP);
	if (psock) {
		tail.psock_queued = !sh_psock_empty(psock);
		tail.psock_users = BPF_CORE_READ(psock, refcnt.refs.counter);
	}
	bpf_seq_write(ctx->meta->seq, st, sizeof(*st));
	bpf_seq_write(ctx->meta->seq, &tail, sizeof(tail));
	return 0;
}

/* Takes sockets out of the map, in one network namespace, after the stop flag was set. The socket is locked by the iterator: no
 * packet is being processed, no call is half-way. Not taken out: a socket with unread bytes, one with somebody inside a call
 * (psock reference), one whose peer has somebody inside a call, who may be about to redirect, and both ends while the proxy has a
 * request of theirs. Writes the cookie of each. */
SEC("iter/tcp")
int sh_iter_leave(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	struct sk_psock *psock;
	struct tcp_sock *tp;
	struct sock *peer;
	struct sh_sock *st;
	__u64 cookie;

	if (!skc)
		return 0;
	tp = bpf_skc_to_tcp_sock(skc);
	st = tp ? bpf_sk_storage_get(&sh_sockets, tp, 0, 0) : 0;
	if (!st || !(st->flags & SH_SOCK_IN_MAP))
		return 0;
	psock = sh_psock(SK(tp));
	if (!psock || !sh_psock_empty(psock) || BPF_CORE_READ(psock, refcnt.refs.counter) != 1)
		return 0;
	if (sh_owes_request(st, st->shared.cookie) || sh_owes_request((void *)st->peer_storage, st->peer_cookie))
		return 0;
	if (SK(tp)->sk_receive_queue.qlen)
		return 0;
	peer = (void *)st->peer_sock;
	if (peer && BPF_CORE_READ(peer, __sk_common.skc_cookie.counter) == (__s64)st->peer_cookie) {
		psock = sh_psock(peer);
		if (psock && BPF_CORE_READ(psock, refcnt.refs.counter) != 1)
			return 0;
	}
	cookie = st->shared.cookie;
	if (sh_leave_map(cookie))
		return 0;
	st->flags = (st->flags & ~SH_SOCK_IN_MAP) | SH_SOCK_LEFT;
	st->state = SH_STATE_STOPPED;
	st->reason = SH_R_OFF;
	bpf_seq_write(ctx->meta->seq, &cookie, sizeof(cookie));
	return 0;
}

/* The TCP sockets that processes hold open, listeners included: one struct sh_owner for each descriptor. */
SEC("iter/task_file")
int sh_iter_owners(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct sh_owner owner = {};
	struct socket *socket;
	struct sock *sk;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	owner.cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	owner.netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, net_cookie);
	owner.cgroup = BPF_CORE_READ(sk, sk_cgrp_data.cgroup, kn, id);
	owner.start_boottime_ns = BPF_CORE_READ(task, group_leader, start_boottime);
	owner.tgid = task->tgid;
	owner.uid = BPF_CORE_READ(sk, sk_uid.val);
	owner.tcp_state = BPF_CORE_READ(sk, __sk_common.skc_state);
	owner.family = BPF_CORE_READ(sk, __sk_common.skc_family);
	owner.local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
	owner.remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	if (owner.family == AF_INET) {
		if (BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr))
			sh_map_v4(owner.local_addr, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
		if (BPF_CORE_READ(sk, __sk_common.skc_daddr))
			sh_map_v4(owner.remote_addr, BPF_CORE_READ(sk, __sk_common.skc_daddr));
	} else {
		BPF_CORE_READ_INTO(&owner.local_addr, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&owner.remote_addr, sk, __sk_common.skc_v6_daddr);
	}
	owner.nonblocking = file->f_flags & O_NONBLOCK ? 1 : 0;
	owner.netns_inode = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	owner.fd = ctx->fd;
	owner.sock = (__u64)sk;
	sh_program_name(task, owner.program);
	bpf_seq_write(ctx->meta->seq, &owner, sizeof(owner));
	return 0;
}

#endif
