// SPDX-License-Identifier: GPL-2.0-only
/* What we read of the kernel's own structures. Everything that depends on the kernel's layout is here. */
#ifndef SHUNT_KERNEL_BPF_H
#define SHUNT_KERNEL_BPF_H

/* clang-format off: vmlinux.h first */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <bpf/abi/shunt.h>
/* clang-format on */

#define AF_INET 2
#define AF_INET6 10
#define O_NONBLOCK 04000
#define SOL_SOCKET 1
#define SOL_TCP 6
#define IPPROTO_TCP 6
#define EPERM 1
#define ENOENT 2
#define EBUSY 16
#define ENOPROTOOPT 92
#define EOPNOTSUPP 95
#define E2BIG 7
#define ENOMEM 12

#define SK_USER_DATA_PSOCK_MASK (~7ULL) /* include/net/sock.h: SK_USER_DATA_PTRMASK */
#define LOOPBACK_IFINDEX 1              /* of `lo` in every network namespace */

/* Fields that exist only with some kernel configurations. */
struct tcp_sock___mptcp {
	bool is_mptcp;
} __attribute__((preserve_access_index));

struct tcp_sock___smc {
	__u8 syn_smc : 1;
} __attribute__((preserve_access_index));

/* cgroup v1: sockets have a counter of their own. */
struct mem_cgroup___tcpmem {
	struct page_counter tcpmem;
	bool tcpmem_active;
} __attribute__((preserve_access_index));

struct sk_psock___inq {
	__u32 msg_tot_len;
} __attribute__((preserve_access_index));

#define SK(tp) (&(tp)->inet_conn.icsk_inet.sk)
#define SKC(tp) (&(tp)->inet_conn.icsk_inet.sk.__sk_common)

static __always_inline __u64 sh_netns(struct tcp_sock *tp) { return SKC(tp)->skc_net.net->net_cookie; }

static __always_inline __u64 sh_cgroup_id(struct tcp_sock *tp)
{
	return SK(tp)->sk_cgrp_data.cgroup->kn->id;
}

static __always_inline void sh_map_v4(__u8 *to, __u32 addr_be)
{
	__u32 words[4] = {0, 0, bpf_htonl(0xffff), addr_be};

	__builtin_memcpy(to, words, sizeof(words));
}

/* Local and remote address as v4-mapped IPv6, in network order: SH_ADDR_BYTES each. */
static __always_inline void sh_addrs(struct tcp_sock *tp, __u8 *local, __u8 *remote)
{
	if (SKC(tp)->skc_family == AF_INET) {
		sh_map_v4(local, SKC(tp)->skc_rcv_saddr);
		sh_map_v4(remote, SKC(tp)->skc_daddr);
		return;
	}
	bpf_core_read(local, SH_ADDR_BYTES, &SKC(tp)->skc_v6_rcv_saddr);
	bpf_core_read(remote, SH_ADDR_BYTES, &SKC(tp)->skc_v6_daddr);
}

static __always_inline __u16 sh_local_port(struct tcp_sock *tp) { return SKC(tp)->skc_num; }
static __always_inline __u16 sh_remote_port(struct tcp_sock *tp) { return bpf_ntohs(SKC(tp)->skc_dport); }

/* The executable of a process: base name, cut and zero-padded. */
static __always_inline void sh_program_name(struct task_struct *task, char *name)
{
	struct file *exe = task->mm ? task->mm->exe_file : 0;

	__builtin_memset(name, 0, SH_PROGRAM_NAME_BYTES);
	if (exe)
		bpf_probe_read_kernel_str(name, SH_PROGRAM_NAME_BYTES, exe->f_path.dentry->d_name.name);
}

static __always_inline bool sh_same_program(const char *a, const char *b)
{
	const __u32 *left = (const void *)a, *right = (const void *)b;
	__u32 difference = 0;

	for (__u32 i = 0; i < SH_PROGRAM_NAME_BYTES / 4; i++)
		difference |= left[i] ^ right[i];
	return !difference;
}

static __always_inline bool sh_has_flag(struct tcp_sock *tp, enum sock_flags flag)
{
	return SK(tp)->__sk_common.skc_flags & (1UL << flag);
}

/* Is there something about the socket that a redirected socket could not keep? */
static __always_inline enum sh_reason sh_socket_obstacle(struct tcp_sock *tp)
{
	struct tcp_sock___mptcp *mp = (void *)tp;
	struct tcp_sock___smc *smc = (void *)tp;

	if (bpf_core_field_exists(mp->is_mptcp) && BPF_CORE_READ(mp, is_mptcp))
		return SH_R_MPTCP;
	if (bpf_core_field_exists(smc->syn_smc) && BPF_CORE_READ_BITFIELD_PROBED(smc, syn_smc))
		return SH_R_SMC;
	if (tp->fastopen_req || BPF_CORE_READ_BITFIELD_PROBED(tp, syn_fastopen) || BPF_CORE_READ_BITFIELD_PROBED(tp, syn_data))
		return SH_R_FASTOPEN;
	if (tp->inet_conn.icsk_ulp_ops)
		return SH_R_ULP;
	if (sh_has_flag(tp, bpf_core_enum_value(enum sock_flags, SOCK_ZEROCOPY)))
		return SH_R_ZEROCOPY;
	if (sh_has_flag(tp, bpf_core_enum_value(enum sock_flags, SOCK_RCVTSTAMP)) || SK(tp)->sk_tsflags)
		return SH_R_TIMESTAMP;
	if (SK(tp)->sk_rcvlowat > 1)
		return SH_R_RCVLOWAT;
	if (SK(tp)->sk_filter || BPF_CORE_READ_BITFIELD_PROBED(tp, recvmsg_inq) || SK(tp)->sk_peek_off >= 0)
		return SH_R_SOCKET_OPTION;
	return SH_R_NONE;
}

/* Whether the descriptor is in non-blocking mode now. */
static __always_inline bool sh_nonblocking(struct tcp_sock *tp)
{
	return SK(tp)->sk_socket->file->f_flags & O_NONBLOCK;
}

#define SEND_SHUTDOWN 2
#define SHUTDOWN_MASK 3

/* TCP answers a send on such a socket with EPIPE or its error: it must see the message. */
static __always_inline bool sh_cannot_send(struct tcp_sock *tp)
{
	return (SK(tp)->sk_shutdown & SEND_SHUTDOWN) || SK(tp)->sk_err;
}

#define TCP_NAGLE_CORK 2

/* A redirect wakes the reader for each part of what the sender wants to arrive as one. */
static __always_inline bool sh_corked(struct tcp_sock *tp)
{
	return BPF_CORE_READ_BITFIELD(tp, nonagle) & TCP_NAGLE_CORK;
}

#define SH_WAITERS_MAX 8

/* Is somebody asleep in a call on the socket? Entries of epoll have no task; those of recv(), send() and poll() do. Too many to
 * look at counts as yes. */
static __always_inline bool sh_somebody_waits(struct sock *sk)
{
	struct socket_wq *wq = BPF_CORE_READ(sk, sk_wq);
	void *head = (void *)wq + bpf_core_field_offset(struct socket_wq, wait.head);
	struct list_head *at = BPF_CORE_READ(wq, wait.head.next);
	struct wait_queue_entry *entry;

	for (int i = 0; i < SH_WAITERS_MAX; i++) {
		if (!at || (void *)at == head)
			return !at;
		entry = (void *)at - bpf_core_field_offset(struct wait_queue_entry, entry);
		if (BPF_CORE_READ(entry, private))
			return true;
		at = BPF_CORE_READ(at, next);
	}
	return true;
}

/* The psock of a socket that is in a map, or NULL. `sk` may be any address; reads through it cannot fault. */
static __always_inline struct sk_psock *sh_psock(struct sock *sk)
{
	return (void *)((__u64)BPF_CORE_READ(sk, sk_user_data) & SK_USER_DATA_PSOCK_MASK);
}

/* Nothing is queued in the psock, neither ready to be read nor on its way there. */
static __always_inline bool sh_psock_empty(struct sk_psock *psock)
{
	__u64 head = (__u64)psock + bpf_core_field_offset(struct sk_psock, ingress_msg);

	return (__u64)BPF_CORE_READ(psock, ingress_msg.next) == head && !BPF_CORE_READ(psock, ingress_skb.qlen);
}

#endif
