// SPDX-License-Identifier: GPL-2.0-only
/* The programs of the shortcut. See ARCHITECTURE.md for the way of a byte through them. */
#include "arrival.bpf.h"
#include "dial.bpf.h"
#include "ends.bpf.h"
#include "list.bpf.h"
#include "options.bpf.h"
#include "govern.bpf.h"
#include "redirect.bpf.h"
#include "requests.bpf.h"
#include "server_end.bpf.h"

char LICENSE[] SEC("license") = "GPL";

SEC("sockops")
int sh_sock_ops(struct bpf_sock_ops *ops)
{
	struct sh_config *cfg;

	/* The most frequent callbacks are none of ours: they end here. */
	if (ops->op < BPF_SOCK_OPS_TCP_CONNECT_CB)
		return 1;
	cfg = sh_config();
	if (!cfg)
		return 1;
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		sh_start_connect(ops, cfg);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		on_listen(ops, cfg);
		sh_govern_listen(ops, cfg);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		on_active(ops, cfg);
		sh_govern_active(ops);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		on_passive(ops, cfg);
		break;
	case BPF_SOCK_OPS_RTT_CB:
		on_rtt(ops, cfg);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (sh_is_end(ops->args[1]))
			on_server_end(ops);
		if (ops->args[1] == BPF_TCP_CLOSE)
			on_close(ops, cfg);
		else if (ops->args[1] == BPF_TCP_CLOSE_WAIT)
			on_fin(ops);
		break;
	}
	return 1;
}

/* A receiver begins: by the time it connects, its cgroup may be watched. Without this only its first connection would be lost. */
SEC("raw_tp/sched_process_exec")
int sh_on_exec(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = bpf_get_current_task_btf();
	char program[SH_PROGRAM_NAME_BYTES];
	__u32 *flags;

	sh_program_name(task, program);
	flags = bpf_map_lookup_elem(&sh_programs, program);
	if (flags && (*flags & SH_PROGRAM_RECEIVER) && !(*flags & SH_PROGRAM_EXCLUDED))
		sh_ask_for_guard(BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id));
	return 0;
}

/* Attached to the sockhash; live sockets keep it for their life. The program behind it can be swapped. */
SEC("sk_msg")
int sh_msg_entry(struct sk_msg_md *msg)
{
	bpf_tail_call(msg, &sh_msg_progs, 0);
	return SK_PASS;
}

SEC("sk_msg")
int sh_msg_judge(struct sk_msg_md *msg) { return sh_judge(msg); }

SEC("sk_skb/stream_verdict")
int sh_pass(struct __sk_buff *skb) { return sh_arrive(skb); }

/* Requests under a policy: judged here, then carried. */
SEC("sk_msg")
int sh_msg_l7(struct sk_msg_md *msg)
{
	enum sh_do what = sh_request(msg);

	if (what == SH_DO_CARRY)
		bpf_tail_call(msg, &sh_msg_progs, SH_MSG_CARRY); /* does not return */
	if (what == SH_DO_RESP)
		bpf_tail_call(msg, &sh_msg_progs, SH_MSG_RESP); /* likewise */
	return what == SH_DO_REDIRECT ? SK_PASS : SK_DROP;
}

/* The same for Redis; a further protocol would follow here. */
SEC("sk_msg")
int sh_msg_resp(struct sk_msg_md *msg)
{
	enum sh_do what = sh_request_of(msg, SH_L7_RESP);

	if (what == SH_DO_CARRY)
		bpf_tail_call(msg, &sh_msg_progs, SH_MSG_CARRY); /* does not return */
	return what == SH_DO_REDIRECT ? SK_PASS : SK_DROP;
}

/* What the fallback proxy sends on a punt channel. */
SEC("sk_msg")
int sh_msg_channel(struct sk_msg_md *msg) { return sh_channel_send(msg); }

SEC("sk_msg")
int sh_msg_carry(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	struct sh_sock *st = sk ? bpf_sk_storage_get(&sh_sockets, sk, 0, 0) : 0;

	if (!sk || !st)
		return SK_DROP;
	if (sh_carry(msg, sk, st) == SK_PASS)
		return SK_PASS;
	sh_break(st, SH_L7_WHY_WRITERS);
	return SK_DROP;
}

SEC("cgroup/connect4")
int sh_connect4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock_tuple tuple = {.ipv4.daddr = ctx->user_ip4, .ipv4.dport = (__u16)ctx->user_port};

	return sh_connect_to(ctx, &tuple, sizeof(tuple.ipv4), (tuple.ipv4.daddr & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000));
}

SEC("cgroup/connect6")
int sh_connect6(struct bpf_sock_addr *ctx)
{
	__u32 a = ctx->user_ip6[0], b = ctx->user_ip6[1], c = ctx->user_ip6[2], d = ctx->user_ip6[3];
	struct bpf_sock_tuple tuple = {};

	if (!a && !b && c == bpf_htonl(0xffff)) {
		tuple.ipv4.daddr = d;
		tuple.ipv4.dport = (__u16)ctx->user_port;
		return sh_connect_to(ctx, &tuple, sizeof(tuple.ipv4), (d & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000));
	}
	tuple.ipv6.daddr[0] = a;
	tuple.ipv6.daddr[1] = b;
	tuple.ipv6.daddr[2] = c;
	tuple.ipv6.daddr[3] = d;
	tuple.ipv6.dport = (__u16)ctx->user_port;
	return sh_connect_to(ctx, &tuple, sizeof(tuple.ipv6), !a && !b && !c && d == bpf_htonl(1));
}

SEC("cgroup/connect4")
int sh_dial4(struct bpf_sock_addr *ctx)
{
	struct sh_service_key key = {.port = bpf_ntohs((__u16)ctx->user_port)};
	struct sh_service *service = 0;
	enum sh_dial what;

	sh_map_v4(key.addr, ctx->user_ip4);
	what = sh_dial(ctx, &key, &service);
	if (what == SH_DIAL_TURNED && service) {
		ctx->user_ip4 = ((const __u32 *)service->gateway)[SH_V4_WORD];
		ctx->user_port = bpf_htons(service->port);
	}
	return what == SH_DIAL_AS_IT_IS || what == SH_DIAL_TURNED;
}

SEC("cgroup/connect6")
int sh_dial6(struct bpf_sock_addr *ctx)
{
	__u32 words[4] = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]};
	struct sh_service_key key = {.port = bpf_ntohs((__u16)ctx->user_port)};
	struct sh_service *service = 0;
	enum sh_dial what;

	__builtin_memcpy(key.addr, words, SH_ADDR_BYTES);
	what = sh_dial(ctx, &key, &service);
	if (what == SH_DIAL_TURNED && service) {
		const __u32 *to = (const void *)service->gateway;

		ctx->user_ip6[0] = to[0];
		ctx->user_ip6[1] = to[1];
		ctx->user_ip6[2] = to[2];
		ctx->user_ip6[3] = to[3];
		ctx->user_port = bpf_htons(service->port);
	}
	return what == SH_DIAL_AS_IT_IS || what == SH_DIAL_TURNED;
}

/* With the address that the client dialled in place of the gateway's. */
SEC("cgroup/getpeername4")
int sh_peer4(struct bpf_sock_addr *ctx)
{
	struct sh_dialled *dialled = sh_dialled_by(ctx->sk);

	if (dialled) {
		ctx->user_ip4 = ((const __u32 *)dialled->addr)[SH_V4_WORD];
		ctx->user_port = bpf_htons(dialled->port);
	}
	return 1;
}

SEC("cgroup/getpeername6")
int sh_peer6(struct bpf_sock_addr *ctx)
{
	struct sh_dialled *dialled = sh_dialled_by(ctx->sk);

	if (dialled) {
		const __u32 *words = (const void *)dialled->addr;

		ctx->user_ip6[0] = words[0];
		ctx->user_ip6[1] = words[1];
		ctx->user_ip6[2] = words[2];
		ctx->user_ip6[3] = words[3];
		ctx->user_port = bpf_htons(dialled->port);
	}
	return 1;
}

SEC("cgroup/getsockopt")
int sh_getsockopt(struct bpf_sockopt *ctx)
{
	struct sh_dialled *dialled;
	__u32 bytes;

	if (ctx->optname != SO_ORIGINAL_DST || (ctx->level != SOL_IP && ctx->level != SOL_IPV6))
		return 1;
	dialled = sh_dialled_by(ctx->sk);
	if (!dialled)
		return 1;
	bytes = ctx->level == SOL_IP ? sh_write_v4(dialled, ctx->optval, ctx->optval_end)
				     : sh_write_v6(dialled, ctx->optval, ctx->optval_end);
	if (bytes) {
		ctx->optlen = bytes;
		bpf_set_retval(0);
	}
	return 1;
}

SEC("cgroup_skb/ingress")
int sh_gate_in(struct __sk_buff *skb) { return sh_gate(skb, true); }

SEC("cgroup_skb/egress")
int sh_gate_out(struct __sk_buff *skb) { return sh_gate(skb, false); }

/* A workload's folder is made anew: who enters it is known from the first moment. */
SEC("raw_tp/cgroup_mkdir")
int sh_on_mkdir(struct bpf_raw_tracepoint_args *ctx) { return sh_name_cgroup((void *)ctx->args[0], (void *)ctx->args[1]); }
