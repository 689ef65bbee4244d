// SPDX-License-Identifier: GPL-2.0-only
/* Every map of the shortcut. The first group is crossing layout: shared by all generations (see bpf/abi/shunt.h). */
#ifndef SHUNT_MAPS_BPF_H
#define SHUNT_MAPS_BPF_H

#include "kernel.bpf.h"

/* ---- crossing ---- */

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, SH_SOCKETS_MAX);
	__type(key, __u64); /* socket cookie */
	__type(value, __u64);
} sh_socks SEC(".maps");

/* Written by the active end at ESTABLISHED, taken by the passive one. Entries that nobody takes go by age. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SH_ISNS_MAX);
	__type(key, struct sh_isn_key);
	__type(value, struct sh_end);
} sh_isns SEC(".maps");

/* Written by the passive end for the active one, by the active end's cookie; taken at its first message or first RTT sample. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SH_ANSWERS_MAX);
	__type(key, __u64);
	__type(value, struct sh_end);
} sh_answers SEC(".maps");

/* ---- one generation ---- */

/* New settings are written before the old ones go: a list and its successor. */
#define SH_SELECT_ENTRIES (2 * SH_SELECT_MAX)

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sh_sock);
} sh_sockets SEC(".maps");

/* How far TCP's stream towards an enrolled socket has come. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SH_SOCKETS_MAX);
	__type(key, __u64); /* socket cookie */
	__type(value, struct sh_arrival);
} sh_arrivals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sh_config);
} sh_configs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sh_counts);
} sh_counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SH_PROFILES_MAX);
	__type(key, __u64);
	__type(value, struct sh_profile);
} sh_profiles SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SH_SKIPPED_MAX);
	__type(key, __u32); /* socket cookie, low bits */
	__type(value, struct sh_skipped);
} sh_skipped SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SH_LISTENERS_MAX);
	__type(key, struct sh_listener_key);
	__type(value, struct sh_listener);
} sh_listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SH_SELECT_ENTRIES);
	__type(key, struct sh_program_key);
	__type(value, __u32); /* enum sh_program_flags */
} sh_programs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SH_SELECT_MAX);
	__type(key, struct sh_process_key);
	__type(value, struct sh_process);
} sh_processes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SH_GUARDS_MAX);
	__type(key, __u64); /* cgroup id */
	__type(value, struct sh_guard);
} sh_guards SEC(".maps");

/* The selection: values are enum sh_select. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u8);
} sh_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SH_SELECT_ENTRIES);
	__type(key, struct sh_cidr_key);
	__type(value, __u32);
} sh_cidrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SH_SELECT_ENTRIES);
	__type(key, __u64); /* cgroup id */
	__type(value, __u32);
} sh_cgroups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SH_SELECT_ENTRIES);
	__type(key, __u32);
	__type(value, __u32);
} sh_users SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, SH_EVENT_RING_BYTES);
} sh_events SEC(".maps");

/* The sk_msg programs in force. Swapping them reaches live sockets, which keep the dispatcher they were enrolled with. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, SH_MSG_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} sh_msg_progs SEC(".maps");

/* ---- access ---- */

static __always_inline struct sh_config *sh_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&sh_configs, &zero);
}

static __always_inline struct sh_counts *sh_counted(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&sh_counts, &zero);
}

/* A program may be interrupted by another on the same CPU: a count can be lost, never torn. */
static __always_inline void sh_count(enum sh_counter counter, __u64 n)
{
	struct sh_counts *counts = sh_counted();

	if (counts)
		counts->counters[counter] += n;
}

static __always_inline void sh_count_reason(__u32 reason)
{
	struct sh_counts *counts = sh_counted();

	if (counts && reason < SH_REASON_COUNT)
		counts->reasons[reason]++;
}

static __always_inline struct sh_sock *sh_storage(struct tcp_sock *tp, __u64 flags)
{
	return bpf_sk_storage_get(&sh_sockets, tp, 0, flags);
}

/* The other end of a pair, into the storage. What stopped this end before stays in force; that it was not ready does not. */
static __always_inline void sh_join(struct sh_sock *st, const struct sh_end *peer)
{
	st->peer_cookie = peer->cookie;
	st->peer_sock = peer->sock;
	st->peer_storage = peer->storage;
	if (st->state != SH_STATE_STOPPED)
		st->state = SH_STATE_SPILLED;
	if (st->shared.rx_stopped == SH_R_LATCH)
		st->shared.rx_stopped = SH_R_NONE;
}

/* Takes a live socket out of the sockhash, with what is kept beside it. 0, or the sockhash's error: it was not there. */
static __always_inline long sh_leave_map(__u64 cookie)
{
	long err = bpf_map_delete_elem(&sh_socks, &cookie);

	if (!err) /* after the last packet that the verdict can see */
		bpf_map_delete_elem(&sh_arrivals, &cookie);
	return err;
}

#endif
