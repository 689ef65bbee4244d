// SPDX-License-Identifier: GPL-2.0-only
/* Connections of local processes to services on other hosts, turned to the gateway at connect(): one lookup, however many services
 * there are. getpeername() and SO_ORIGINAL_DST go on telling what was dialled.
 *
 * A connection is turned only where the gateway itself listens, as seen from the client's network namespace: another process on its
 * port gets nothing. Where it does not listen, a strict service refuses and any other is dialled as it is. */
#ifndef SHUNT_DIAL_BPF_H
#define SHUNT_DIAL_BPF_H

#include "govern.bpf.h"

#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80 /* and IP6T_SO_ORIGINAL_DST */
#define ECONNREFUSED 111
#define SH_V4_WORD 3 /* of a v4-mapped address */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SH_SERVICES_MAX);
	__type(key, struct sh_service_key);
	__type(value, struct sh_service);
} sh_services SEC(".maps");

static __always_inline bool sh_is_v4(const __u32 *words) { return !words[0] && !words[1] && words[2] == bpf_htonl(0xffff); }

static __always_inline bool sh_gateway_listens(struct bpf_sock_addr *ctx, struct sh_service *service)
{
	const __u32 *words = (const void *)service->gateway;
	struct bpf_sock_tuple tuple = {};
	struct tcp_sock *tp;
	struct bpf_sock *sk;
	bool listens;

	if (sh_is_v4(words)) {
		tuple.ipv4.daddr = words[SH_V4_WORD];
		tuple.ipv4.dport = bpf_htons(service->port);
		sk = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv4), BPF_F_CURRENT_NETNS, 0);
	} else {
		__builtin_memcpy(tuple.ipv6.daddr, words, SH_ADDR_BYTES);
		tuple.ipv6.dport = bpf_htons(service->port);
		sk = bpf_sk_lookup_tcp(ctx, &tuple, sizeof(tuple.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return false;
	tp = bpf_skc_to_tcp_sock(sk);
	listens = tp && sk->state == BPF_TCP_LISTEN && sh_is_gateway(SK(tp));
	bpf_sk_release(sk);
	return listens;
}

/* May it? The policy knows the workload behind the service, not the gateway. */
static __always_inline bool sh_may_dial(struct tcp_sock *tp, struct sh_service *service, __u16 port)
{
	struct sh_policy_head *policy = sh_policy();
	struct sh_policy_asked asked = {};
	struct sh_remote own;
	__u32 client = 0, server = 0;

	if (!policy || !policy->generation)
		return true;
	sh_stands_for(tp, &own);
	sh_identify(policy, SK(tp), &own, &client);
	sh_identify(policy, SK(tp), &service->remote, &server);
	sh_policy_ask_both(&asked, policy->generation, client, server, port);
	if (asked.verdict != SH_POLICY_DENY)
		return true;
	sh_count(SH_C_FORBIDDEN, 1);
	return false;
}

enum sh_dial {
	SH_DIAL_AS_IT_IS,
	SH_DIAL_TURNED,  /* `service` says where to */
	SH_DIAL_REFUSED, /* the error is set */
	SH_DIAL_FORBIDDEN,
};

static __always_inline enum sh_dial sh_dial_without(struct sh_service *service)
{
	if (!service->strict)
		return SH_DIAL_AS_IT_IS;
	sh_count(SH_C_SERVICES_REFUSED, 1);
	bpf_set_retval(-ECONNREFUSED);
	return SH_DIAL_REFUSED;
}

static __always_inline enum sh_dial sh_dial(struct bpf_sock_addr *ctx, struct sh_service_key *key, struct sh_service **to)
{
	struct sh_service *service = bpf_map_lookup_elem(&sh_services, key);
	struct tcp_sock *tp = ctx->sk ? bpf_skc_to_tcp_sock(ctx->sk) : 0;
	struct sh_dialled *dialled;

	if (!service) {
		if (tp && bpf_sk_storage_get(&sh_dialled, tp, 0, 0)) /* dialled another one before */
			bpf_sk_storage_delete(&sh_dialled, tp);
		return SH_DIAL_AS_IT_IS;
	}
	*to = service;
	if (ctx->type != SOCK_STREAM)
		return SH_DIAL_AS_IT_IS;
	if (tp && sh_is_gateway(SK(tp)))
		return SH_DIAL_AS_IT_IS;
	if (!tp || ctx->protocol != IPPROTO_TCP || !sh_gateway_listens(ctx, service))
		return sh_dial_without(service);
	if (!sh_may_dial(tp, service, key->port))
		return SH_DIAL_FORBIDDEN;
	dialled = bpf_sk_storage_get(&sh_dialled, tp, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!dialled)
		return sh_dial_without(service);
	dialled->remote = service->remote;
	__builtin_memcpy(dialled->addr, key->addr, SH_ADDR_BYTES);
	dialled->port = key->port;
	sh_count(SH_C_SERVICES_DIALLED, 1);
	return SH_DIAL_TURNED;
}

/* What this socket's client dialled, for the client itself. */
static __always_inline struct sh_dialled *sh_dialled_by(struct bpf_sock *sk)
{
	struct sh_dialled *dialled = sk ? bpf_sk_storage_get(&sh_dialled, sk, 0, 0) : 0;

	return dialled && !dialled->accepted ? dialled : 0;
}

/* SO_ORIGINAL_DST, as netfilter answers it where it is there. The number of bytes; 0: there is no room, or another family was asked for. */
static __always_inline __u32 sh_write_v4(const struct sh_dialled *dialled, struct sockaddr_in *to, void *end)
{
	const __u32 *words = (const void *)dialled->addr;

	if (!sh_is_v4(words) || (void *)(to + 1) > end)
		return 0;
	to->sin_family = AF_INET;
	to->sin_port = bpf_htons(dialled->port);
	to->sin_addr.s_addr = words[SH_V4_WORD];
	__builtin_memset(to->__pad, 0, sizeof(to->__pad));
	return sizeof(*to);
}

static __always_inline __u32 sh_write_v6(const struct sh_dialled *dialled, struct sockaddr_in6 *to, void *end)
{
	if ((void *)(to + 1) > end)
		return 0;
	to->sin6_family = AF_INET6;
	to->sin6_port = bpf_htons(dialled->port);
	to->sin6_flowinfo = 0;
	__builtin_memcpy(&to->sin6_addr, dialled->addr, SH_ADDR_BYTES);
	to->sin6_scope_id = 0;
	return sizeof(*to);
}

#endif
