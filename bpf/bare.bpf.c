// SPDX-License-Identifier: GPL-2.0-only
/* A redirect and nothing else, for the harness: what no accelerator on a sockhash can be faster than. Every socket of the cgroup goes
 * into the map, ends find each other by their ports, every message is redirected. It keeps no order when a message is sent before
 * both ends are in the map, knows no backpressure, looks at no memory, and takes equal ports in two namespaces for one
 * connection: nothing for a host, only for measuring on loopback. */
#include "vmlinux.h"

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define BARE_SOCKETS_MAX 65536

char LICENSE[] SEC("license") = "GPL";

struct bare_key {
	__u32 local_port, remote_port; /* host order */
};

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, BARE_SOCKETS_MAX);
	__type(key, struct bare_key);
	__type(value, __u64);
} bare_socks SEC(".maps");

SEC("sockops")
int bare_enrol(struct bpf_sock_ops *ctx)
{
	struct bare_key key = {ctx->local_port, bpf_ntohl(ctx->remote_port)};

	if (ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB || ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		bpf_sock_hash_update(ctx, &bare_socks, &key, BPF_ANY);
	return 1;
}

SEC("sk_msg")
int bare_redirect(struct sk_msg_md *msg)
{
	struct bare_key peer = {bpf_ntohl(msg->remote_port), msg->local_port};

	bpf_msg_redirect_hash(msg, &bare_socks, &peer, BPF_F_INGRESS);
	return SK_PASS;
}
