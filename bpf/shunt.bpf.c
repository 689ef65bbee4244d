// SPDX-License-Identifier: GPL-2.0-only
/* The programs of the shortcut. See ARCHITECTURE.md for the way of a byte through them. */
#include "arrival.bpf.h"
#include "enrol.bpf.h"
#include "list.bpf.h"
#include "options.bpf.h"
#include "redirect.bpf.h"

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
		on_connect(ops, cfg);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		on_listen(ops, cfg);
		break;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		on_active(ops, cfg);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		on_passive(ops, cfg);
		break;
	case BPF_SOCK_OPS_RTT_CB:
		on_rtt(ops, cfg);
		break;
	case BPF_SOCK_OPS_STATE_CB:
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
