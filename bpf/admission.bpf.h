// SPDX-License-Identifier: GPL-2.0-only
/* Services of this host in mode strict: other hosts reach them through the gateway alone. Looked at when a SYN comes (steer.bpf.c).
 *
 * A client of this host is known by the record that its connect() has left, which must be under way. Its address says nothing: behind a
 * masquerade of this host a client from elsewhere has one of ours. What comes from within the server's namespace is local. */
#ifndef SHUNT_ADMISSION_BPF_H
#define SHUNT_ADMISSION_BPF_H

#include "maps.bpf.h"
#include "steer_maps.bpf.h"

#include <bpf/abi/gateway.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SH_ADMISSIONS_MAX);
	__type(key, struct sh_admission_key);
	__type(value, __u32);
} sh_admissions SEC(".maps");

/* `netns`: where the SYN has arrived, its inode; `addr`: its destination. */
static __always_inline bool sh_admits_only_local(__u32 netns, const __u8 *addr, __u16 port)
{
	struct sh_admission_key key = {.port = port};
	__u32 *admission;

	__builtin_memcpy(key.addr, addr, SH_ADDR_BYTES);
	admission = bpf_map_lookup_elem(&sh_admissions, &key);
	if (!admission) {
		__builtin_memset(key.addr, 0, SH_ADDR_BYTES);
		key.netns = netns;
		admission = bpf_map_lookup_elem(&sh_admissions, &key);
	}
	return admission && *admission == SH_ADMIT_LOCAL;
}

/* In some namespace. */
static __always_inline bool sh_port_is_strict(__u16 port)
{
	struct sh_admission_key key = {.port = port};

	return bpf_map_lookup_elem(&sh_admissions, &key) != 0;
}

/* Did this client call just that address? `addr` and `port` as in the SYN, behind a DNAT, which gives another answer. */
static __always_inline bool sh_calls(struct sock *sk, const __u8 *addr, __u16 port)
{
	__u8 dialled[SH_ADDR_BYTES] = {};
	const __u64 *a = (const void *)dialled, *b = (const void *)addr;

	if (BPF_CORE_READ(sk, __sk_common.skc_dport) != bpf_htons(port))
		return false;
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET)
		sh_map_v4(dialled, BPF_CORE_READ(sk, __sk_common.skc_daddr));
	else
		BPF_CORE_READ_INTO(&dialled, sk, __sk_common.skc_v6_daddr);
	return a[0] == b[0] && a[1] == b[1];
}

/* Is the connect() that left this record under way? Records outlive their connections, and ports are used again. Behind a DNAT it
 * must be the first SYN: a client that waits for an answer of another server would lend its port to whom a masquerade gives the same. */
static __always_inline bool sh_is_calling(struct sh_caller *caller, const __u8 *addr, __u16 port)
{
	struct tcp_sock *tp = (void *)caller->sock;
	__u8 state;

	if (BPF_CORE_READ(SK(tp), __sk_common.skc_cookie.counter) != (__s64)caller->cookie)
		return false;
	state = BPF_CORE_READ(SK(tp), __sk_common.skc_state);
	if (state == BPF_TCP_SYN_SENT)
		return sh_calls(SK(tp), addr, port) || !BPF_CORE_READ(tp, inet_conn.icsk_retransmits);
	/* With SYN cookies the listener is asked again, when the handshake's last packet comes. */
	return state == BPF_TCP_ESTABLISHED && !BPF_CORE_READ(tp, bytes_received) && BPF_CORE_READ(tp, bytes_acked) <= 1;
}

#endif
