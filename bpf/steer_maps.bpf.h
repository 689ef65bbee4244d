// SPDX-License-Identifier: GPL-2.0-only
/* Steering in the kernel, as bpf/abi/steer.h describes it, and what other programs ask about it. */
#ifndef SHUNT_STEER_MAPS_BPF_H
#define SHUNT_STEER_MAPS_BPF_H

#include "maps.bpf.h"

#include <bpf/abi/steer.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SH_STEERS_MAX);
	__type(key, struct sh_steer_key);
	__type(value, struct sh_steer);
} sh_steers SEC(".maps");

/* Listening sockets of the proxy. One that is closed is not there any more. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, SH_STEERS_MAX);
	__type(key, __u32);
	__type(value, __u64);
} sh_steer_socks SEC(".maps");

/* Marks them, and with them what they accept. Written by the user side alone. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, __u32);
} sh_steer_marks SEC(".maps");

/* The addresses of this host: the inode of the namespace that has it, 0 if several have. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SH_OWN_ADDRS_MAX);
	__type(key, __u8[SH_ADDR_BYTES]);
	__type(value, __u32);
} sh_own_addrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sh_proxy_process);
} sh_proxies SEC(".maps");

/* ---- written by the kernel side ---- */

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SH_CALLERS_MAX);
	__type(key, struct sh_caller_key);
	__type(value, struct sh_caller);
} sh_callers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sh_steered);
} sh_steered SEC(".maps");

/* ---- access ---- */

/* The server that listened at an address when the user side looked. */
static __always_inline struct sh_steer *sh_find_steer(const struct sh_steer_key *at)
{
	struct sh_steer *found = bpf_map_lookup_elem(&sh_steers, at);
	struct sh_steer_key any = {.netns = at->netns, .port = at->port, .family = at->family};

	if (found)
		return found;
	found = bpf_map_lookup_elem(&sh_steers, &any);
	if (found || any.family == AF_INET6)
		return found;
	any.family = AF_INET6; /* of both families */
	return bpf_map_lookup_elem(&sh_steers, &any);
}

static __always_inline bool sh_is_loopback(const __u8 *addr)
{
	const __u32 *words = (const void *)addr;

	if (!words[0] && !words[1] && words[2] == bpf_htonl(0xffff))
		return (words[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !words[0] && !words[1] && !words[2] && words[3] == bpf_htonl(1);
}

/* Only where the current task is the socket's user, as in connect(). */
static __always_inline bool sh_is_proxy(void)
{
	struct sh_proxy_process *proxy;
	struct task_struct *task;
	__u32 zero = 0;

	proxy = bpf_map_lookup_elem(&sh_proxies, &zero);
	if (!proxy || !proxy->tgid)
		return false;
	task = bpf_get_current_task_btf();
	return task->tgid == proxy->tgid && task->group_leader->start_boottime / SH_CLOCK_TICK_NS == proxy->start_ticks;
}

/* What the proxy's listening socket has accepted. `sk`: a socket, as bpf_sk_storage_get() takes it. */
#define sh_is_steered(sk) (bpf_sk_storage_get(&sh_steer_marks, sk, 0, 0) != 0)

#endif
