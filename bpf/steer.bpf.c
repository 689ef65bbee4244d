// SPDX-License-Identifier: GPL-2.0-only
/* Which socket a SYN is for. None, if it comes from another host in plaintext and the service is strict (admission.bpf.h): the client gets
 * a RST. One for a server whose requests the policy judges is for the fallback proxy, if nobody else can judge them. That is so where the
 * client is elsewhere, where it will not be enrolled, and where the server's sockets cannot be.
 *
 * Loaded once for each network namespace, because the program is not told in which one it runs. Its maps are those of the other
 * programs. Whatever it leaves alone reaches the server's own listener, where the gate refuses what no verdict covers: the policy forbids
 * nothing here, and every doubt about it ends with the server's listener. */
#include "admission.bpf.h"
#include "govern.bpf.h"

char LICENSE[] SEC("license") = "GPL";

/* The inode of the namespace; set before the load. */
const volatile __u32 sh_steer_netns = 0;

/* One look at a SYN. Addresses as everywhere: v4-mapped, network order. */
struct sh_look {
	struct sh_caller_key from;
	struct sh_steer_key to;
	struct sh_caller *caller; /* of this host; NULL: the client is elsewhere */
};

static __always_inline bool sh_read_look(struct bpf_sk_lookup *ctx, struct sh_look *look)
{
	__u16 port = bpf_ntohs((__u16)ctx->remote_port);

	look->to.netns = sh_steer_netns;
	look->to.port = ctx->local_port;
	look->to.family = ctx->family;
	if (ctx->family == AF_INET) {
		__u8 from[SH_ADDR_BYTES] = {};

		sh_map_v4(from, ctx->remote_ip4);
		sh_caller_key_of(&look->from, from, port, sh_steer_netns);
		sh_map_v4(look->to.addr, ctx->local_ip4);
		return ctx->remote_ip4 != 0; /* 0: one of our own programs asks who listens */
	}
	__u32 from[4] = {ctx->remote_ip6[0], ctx->remote_ip6[1], ctx->remote_ip6[2], ctx->remote_ip6[3]};
	__u32 to[4] = {ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2], ctx->local_ip6[3]};

	sh_caller_key_of(&look->from, (void *)from, port, sh_steer_netns);
	__builtin_memcpy(look->to.addr, to, SH_ADDR_BYTES);
	return from[0] | from[1] | from[2] | from[3];
}

/* Of this namespace, whoever it is. Who calls an address of its own is told to come through the device that has it, not the loopback; from
 * outside nobody comes with that very address, to which the answer would never leave. */
static __always_inline bool sh_is_within(struct bpf_sk_lookup *ctx, const struct sh_look *look)
{
	const __u64 *from = (const void *)look->from.addr, *to = (const void *)look->to.addr;

	return ctx->ingress_ifindex == LOOPBACK_IFINDEX || (from[0] == to[0] && from[1] == to[1]);
}

static __always_inline bool sh_is_refused(struct bpf_sk_lookup *ctx, struct sh_look *look)
{
	struct sh_caller *caller;

	if (sh_is_within(ctx, look) || !sh_admits_only_local(sh_steer_netns, look->to.addr, look->to.port))
		return false;
	caller = bpf_map_lookup_elem(&sh_callers, &look->from);
	return !caller || !sh_is_calling(caller, look->to.addr, look->to.port);
}

/* May the proxy have to do with this client? One of this host must have left a record: its address says nothing about who it is. Behind a
 * masquerade of this host it is not found under its address, and the gate refuses it. */
static __always_inline bool sh_is_for_proxy(struct bpf_sk_lookup *ctx, struct sh_look *look)
{
	look->caller = bpf_map_lookup_elem(&sh_callers, &look->from);
	if (look->caller)
		return look->caller->kind != SH_CALLER_PROXY;
	return ctx->ingress_ifindex != LOOPBACK_IFINDEX && !bpf_map_lookup_elem(&sh_own_addrs, look->from.addr);
}

/* Would the proxy reach this server under the address that the client has called? */
static __always_inline bool sh_is_reachable(struct sh_look *look)
{
	struct sh_proxy_process *proxy;
	__u32 zero = 0, *netns;

	proxy = bpf_map_lookup_elem(&sh_proxies, &zero);
	if (proxy && proxy->netns == sh_steer_netns)
		return true;
	netns = bpf_map_lookup_elem(&sh_own_addrs, look->to.addr);
	return netns && *netns == sh_steer_netns;
}

/* The server's socket listens there, for connections of this family. */
static __always_inline bool sh_listens(struct sh_steer *steer, __u32 family)
{
	struct sock *sk = (void *)steer->sock;

	if (BPF_CORE_READ(sk, __sk_common.skc_cookie.counter) != (__s64)steer->cookie)
		return false;
	if (family == AF_INET && BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET6 &&
	    BPF_CORE_READ_BITFIELD_PROBED(sk, __sk_common.skc_ipv6only))
		return false;
	return BPF_CORE_READ(sk, __sk_common.skc_state) == BPF_TCP_LISTEN;
}

/* Will what this server accepts be enrolled? As sh_pair_passive() decides when it comes to that. */
static __noinline int sh_server_reason(struct sh_look *look, struct sh_steer *steer)
{
	struct sh_listener_key key = {};
	struct sh_config *cfg = sh_config();
	struct sh_who who = {};
	struct sock *sk;
	bool known;
	int reason;

	if (!look || !steer || !cfg)
		return SH_R_REFUSED;
	sk = (void *)steer->sock;
	key.netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, net_cookie);
	key.port = look->to.port;
	key.family = BPF_CORE_READ(sk, __sk_common.skc_family);
	__builtin_memcpy(key.addr, look->to.addr, SH_ADDR_BYTES);
	who.uid = BPF_CORE_READ(sk, sk_uid.val);
	known = sh_who_listens_at(&key, &who);
	if (!known && !cfg->any_program)
		return SH_R_LISTENER_UNKNOWN;
	reason = sh_place_reason(cfg, (void *)sk, look->to.addr, look->to.port, who.uid);
	if (!reason)
		reason = sh_program_reason(cfg, &who);
	if (!reason && !sh_guards_in(BPF_CORE_READ(sk, sk_cgrp_data.cgroup, kn, id)))
		reason = SH_R_UNGUARDED;
	return reason;
}

/* The identity of the client, as far as it can be known before it is connected: of the process that called last from its address. The
 * proxy is told by the sequence numbers. 0: it has gone. */
static __always_inline __u32 sh_client_of(struct sh_policy_head *policy, struct sh_look *look)
{
	struct sh_caller *caller = look->caller;
	__u32 identity = 0;
	struct sock *sk;

	if (!caller)
		return sh_identity_of_address(policy, look->from.addr);
	sk = (void *)caller->sock;
	if (BPF_CORE_READ(sk, __sk_common.skc_cookie.counter) == (__s64)caller->cookie)
		sh_identify(policy, sk, &caller->remote, &identity);
	return identity;
}

static __always_inline void sh_event_of_look(struct sh_event *ev, const struct sh_look *look)
{
	ev->family = look->to.family;
	__builtin_memcpy(ev->local_addr, look->to.addr, SH_ADDR_BYTES);
	__builtin_memcpy(ev->remote_addr, look->from.addr, SH_ADDR_BYTES);
	ev->local_port = look->to.port;
	ev->remote_port = look->from.port;
}

/* A stranger sends as many SYNs as he likes: all are counted, and told only while somebody watches. */
static __noinline int sh_tell_refused(struct sh_look *look)
{
	struct sh_config *cfg = sh_config();
	struct sh_event *ev;

	if (!look || !cfg)
		return 0;
	sh_count(SH_C_PLAINTEXT_REFUSED, 1);
	ev = cfg->events ? sh_event_new(SH_EV_FORBIDDEN, SH_R_STRICT, 0) : 0;
	if (!ev)
		return 0;
	sh_event_of_look(ev, look);
	bpf_ringbuf_submit(ev, 0);
	return 0;
}

static __noinline int sh_tell_steered(struct sh_look *look, struct sh_steer *steer, __u32 client, __u32 server)
{
	struct sock *listener;
	struct sh_event *ev;

	if (!look || !steer)
		return 0;
	listener = (void *)steer->sock;
	sh_count(SH_C_STEERED, 1);
	sh_count_reason(SH_R_STEERED);
	ev = sh_event_new(SH_EV_STEERED, SH_R_STEERED, 0);
	if (!ev)
		return 0;
	ev->netns = BPF_CORE_READ(listener, __sk_common.skc_net.net, net_cookie);
	sh_event_of_look(ev, look);
	ev->identity = client;
	ev->peer_identity = server;
	bpf_ringbuf_submit(ev, 0);
	return 0;
}

static __always_inline void sh_assign(struct bpf_sk_lookup *ctx, struct sh_look *look, struct sh_steer *steer, __u32 client,
				      __u32 server)
{
	__u32 slot = steer->slot;
	struct bpf_sock *sk = bpf_map_lookup_elem(&sh_steer_socks, &slot);

	if (!sk)
		return;
	if (!bpf_sk_assign(ctx, sk, 0))
		sh_tell_steered(look, steer, client, server);
	bpf_sk_release(sk);
}

/* The verdict on the connection decides: what the policy allows as a whole may be no HTTP, and what it forbids the gate refuses. */
SEC("sk_lookup")
int sh_steer(struct bpf_sk_lookup *ctx)
{
	struct sh_policy_head *policy = sh_policy();
	struct sh_policy_asked asked = {};
	struct sh_look look = {};
	struct sh_steer *steer;
	__u32 client, server;

	if (ctx->protocol != IPPROTO_TCP || !sh_read_look(ctx, &look))
		return SK_PASS;
	if (sh_is_refused(ctx, &look)) {
		sh_tell_refused(&look);
		return SK_DROP;
	}
	if (!policy || !policy->generation || !sh_port_is_judged(ctx->local_port) || !sh_proxy_lives())
		return SK_PASS;
	if (!sh_is_for_proxy(ctx, &look) || !sh_is_reachable(&look))
		return SK_PASS;
	steer = sh_find_steer(&look.to);
	if (!steer || !sh_listens(steer, ctx->family))
		return SK_PASS;
	if (look.caller && look.caller->kind == SH_CALLER_JUDGES && !sh_server_reason(&look, steer))
		return SK_PASS;
	client = sh_client_of(policy, &look);
	if (!client)
		return SK_PASS;
	server = sh_identity(policy, (void *)steer->sock);
	sh_policy_ask_both(&asked, policy->generation, client, server, look.to.port);
	if (sh_protocol_of(&asked) == SH_L7_HTTP1 && (asked.verdict == SH_POLICY_RULES || asked.verdict == SH_POLICY_PUNT))
		sh_assign(ctx, &look, steer, client, server);
	return SK_PASS;
}
