// SPDX-License-Identifier: GPL-2.0-only
/* Whom a socket of the gateway stands for: a workload on another host, whose certificate the gateway has seen.
 *
 * The gateway writes it into the storage of its own sockets, before connect() or listen(); an accepted socket inherits it from its
 * listener. The storage counts only on sockets that are the gateway's by cgroup and user, as shuntd has said: nobody else can claim
 * an identity with it, and the gateway none for the sockets of others. */
#ifndef SHUNT_REMOTE_BPF_H
#define SHUNT_REMOTE_BPF_H

#include "maps.bpf.h"

#include <bpf/abi/gateway.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sh_gateway);
} sh_gateways SEC(".maps");

/* The only map that the gateway writes; it can name none but its own sockets there. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct sh_remote);
} sh_remotes SEC(".maps");

static __always_inline bool sh_is_anybody(const struct sh_remote *remote) { return remote->digest[0] | remote->digest[1]; }

/* `sk` may be any address. */
static __always_inline bool sh_is_gateway(struct sock *sk)
{
	__u32 zero = 0;
	struct sh_gateway *gateway = bpf_map_lookup_elem(&sh_gateways, &zero);

	return gateway && gateway->present && BPF_CORE_READ(sk, sk_uid.val) == gateway->uid &&
	       BPF_CORE_READ(sk, sk_cgrp_data.cgroup, kn, id) == gateway->cgroup;
}

/* NULL: it stands for itself. */
static __always_inline struct sh_remote *sh_claim(struct tcp_sock *tp)
{
	struct sh_remote *claim = bpf_sk_storage_get(&sh_remotes, tp, 0, 0);

	return claim && sh_is_anybody(claim) && sh_is_gateway(SK(tp)) ? claim : 0;
}

/* Zeroes: itself. */
static __always_inline void sh_stands_for(struct tcp_sock *tp, struct sh_remote *who)
{
	struct sh_remote *claim = sh_claim(tp);

	who->digest[0] = claim ? claim->digest[0] : 0;
	who->digest[1] = claim ? claim->digest[1] : 0;
}

#endif
