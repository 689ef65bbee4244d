// SPDX-License-Identifier: GPL-2.0-only
/* The programs of the shortcut. See ARCHITECTURE.md for the way of a byte through them. */
#include "enrol.bpf.h"
#include "list.bpf.h"
#include "options.bpf.h"
#include "redirect.bpf.h"

char LICENSE[] SEC("license") = "GPL";

SEC("sockops")
int sh_sock_ops(struct bpf_sock_ops *ops)
{
	struct sh_config *cfg = sh_config();

	if (!cfg)
		return 1;
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		on_connect(ops, cfg);
		break;
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		on_listen(ops);
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

/* Attached to the sockhash; live sockets keep it for their life. The program behind it can be swapped. */
SEC("sk_msg")
int sh_msg_entry(struct sk_msg_md *msg)
{
	bpf_tail_call(msg, &sh_msg_progs, 0);
	return SK_PASS;
}

SEC("sk_msg")
int sh_msg_judge(struct sk_msg_md *msg) { return sh_judge(msg); }

/* Passes everything: with it attached, TCP bytes too are read through the psock's queue, so that one set of calls (FIONREAD,
 * blocking readers) sees both ways of delivery in order. */
SEC("sk_skb/stream_verdict")
int sh_pass(struct __sk_buff *skb) { return SK_PASS; }
