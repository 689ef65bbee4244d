// SPDX-License-Identifier: GPL-2.0-only
/* The compiled policy in the kernel, as bpf/abi/policy.h describes it. Written by the user side alone, but for the last group. */
#ifndef SHUNT_POLICY_MAPS_BPF_H
#define SHUNT_POLICY_MAPS_BPF_H

#include "maps.bpf.h"

#include <bpf/abi/policy.h>

/* The user side makes the arrays of results, blocks and hits as large as the policy needs before it loads them. */
#define SH_POLICY_BLOCKS_DEFAULT 1024
#define SH_POLICY_RESULTS_DEFAULT 65536

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sh_policy_head);
} sh_pol_heads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SH_POLICY_WORKLOADS_MAX);
	__type(key, struct sh_policy_workload_key);
	__type(value, __u32); /* identity */
} sh_pol_workload SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SH_POLICY_WORKLOADS_MAX);
	__type(key, struct sh_policy_path_key);
	__type(value, struct sh_policy_path);
} sh_pol_paths SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SH_POLICY_WORKLOADS_MAX);
	__type(key, struct sh_policy_remote_key);
	__type(value, __u32); /* identity */
} sh_pol_remotes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SH_POLICY_SUBJECTS_MAX);
	__type(key, struct sh_policy_subject_key);
	__type(value, struct sh_policy_subject);
} sh_pol_subjects SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SH_POLICY_ENTRIES_MAX);
	__type(key, struct sh_policy_key);
	__type(value, struct sh_policy_entry);
} sh_pol_entries SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SH_POLICY_PORT_BLOCKS);
	__type(key, __u32);
	__type(value, struct sh_policy_block);
} sh_pol_ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SH_POLICY_CIDRS_MAX);
	__type(key, struct sh_policy_cidr_key);
	__type(value, __u32); /* identity */
} sh_pol_cidrs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SH_POLICY_SETS_MAX);
	__type(key, __u32);
	__type(value, struct sh_policy_set);
} sh_pol_sets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SH_POLICY_RESULTS_DEFAULT);
	__type(key, __u32);
	__type(value, struct sh_policy_result);
} sh_pol_results SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SH_POLICY_BLOCKS_DEFAULT);
	__type(key, __u32);
	__type(value, struct sh_policy_block);
} sh_pol_blocks SEC(".maps");

/* Rules' counters: in memory that the user side maps. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, SH_POLICY_RESULTS_DEFAULT);
	__type(key, __u32);
	__type(value, struct sh_policy_hit);
} sh_pol_hits SEC(".maps");

/* Ports on which requests are judged: such connections are enrolled whatever was learned about them. A bit for each half. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, __u8);
} sh_pol_judged SEC(".maps");

/* ---- written by the kernel side ---- */

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SH_ISNS_MAX);
	__type(key, struct sh_isn_key);
	__type(value, struct sh_policy_client);
} sh_pol_clients SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sh_policed);
} sh_policed SEC(".maps");

/* ---- access ---- */

/* Never NULL, as far as the verifier does not ask; generation 0: there is no policy. */
static __always_inline struct sh_policy_head *sh_policy(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&sh_pol_heads, &zero);
}

/* A request was decided by this rule of an entry, or by none that has a number. */
static __always_inline void sh_count_rule(__u32 origin, __u32 rule)
{
	__u32 number = origin + (rule == SH_POLICY_NO_RULE ? 0 : 2 * (rule + 1));
	struct sh_policy_hit *hit = bpf_map_lookup_elem(&sh_pol_hits, &number);

	if (hit)
		__sync_fetch_and_add(&hit->hits, 1);
}

static __always_inline bool sh_port_is_judged(__u16 port)
{
	struct sh_policy_head *policy = sh_policy();
	__u32 key = port;
	__u8 *halves;

	if (!policy || !policy->requests)
		return false;
	halves = bpf_map_lookup_elem(&sh_pol_judged, &key);
	return halves && (*halves >> (policy->generation & 1)) & 1;
}

#endif
