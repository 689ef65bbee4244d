// SPDX-License-Identifier: GPL-2.0-only
/* Who is at an end of a connection: the workload of the socket's own cgroup, network namespace and user. Not of the task: a socket
 * keeps the cgroup that its process had at socket(), an accepted one that of its listener. A socket of the gateway stands for the
 * workload on the other host, if that was said of it (remote.bpf.h). */
#ifndef SHUNT_IDENTITY_BPF_H
#define SHUNT_IDENTITY_BPF_H

#include "policy_maps.bpf.h"
#include "select.bpf.h"

struct sh_identity_walk {
	struct cgroup *cgroup;
	__u32 by; /* sh_policy_head.by of the half */
	__u32 half;
	__u32 netns;
	__u32 uid;
	__u32 identity; /* 0: not found yet */
	__s32 level;
};

/* The entries of one cgroup; the one with most conditions wins. */
static __always_inline __u32 sh_identity_at(struct sh_identity_walk *walk, __u64 cgroup)
{
	struct sh_policy_workload_key key = {.cgroup = cgroup, .half = walk->half};
	__u32 by = walk->by, *found;

	for (int conditions = SH_POLICY_BY_BOTH; conditions >= SH_POLICY_BY_CGROUP; conditions--) {
		if (!(by & 1U << conditions))
			continue;
		key.netns = conditions & SH_POLICY_BY_NETNS ? walk->netns : 0;
		key.uid = conditions & SH_POLICY_BY_UID ? walk->uid : SH_POLICY_UID_ANY;
		found = bpf_map_lookup_elem(&sh_pol_workload, &key);
		if (found)
			return *found;
	}
	return 0;
}

static long sh_identity_step(__u32 index, struct sh_identity_walk *walk)
{
	__s32 level = walk->level - (__s32)index;
	struct cgroup *ancestor = 0;
	__u64 id = 0; /* beyond the root: any */

	if (level >= 0) {
		bpf_probe_read_kernel(&ancestor, sizeof(ancestor),
				      (void *)walk->cgroup + bpf_core_field_offset(struct cgroup, ancestors) + level * sizeof(void *));
		id = BPF_CORE_READ(ancestor, kn, id);
	}
	walk->identity = sh_identity_at(walk, id);
	return walk->identity || level < 0;
}

/* Of a socket of this host: SH_IDENTITY_HOST if no workload claims it. `sk` may be any address. */
static __always_inline __u32 sh_identity(struct sh_policy_head *policy, struct sock *sk)
{
	struct sh_identity_walk walk = {.half = policy->generation & 1};
	struct cgroup *cgroup = BPF_CORE_READ(sk, sk_cgrp_data.cgroup);

	walk.cgroup = cgroup;
	walk.by = policy->by[walk.half];
	walk.netns = BPF_CORE_READ(sk, __sk_common.skc_net.net, ns.inum);
	walk.uid = BPF_CORE_READ(sk, sk_uid.val);
	walk.level = BPF_CORE_READ(cgroup, level);
	bpf_loop(SH_CGROUP_DEPTH_MAX + 1, sh_identity_step, &walk, 0);
	return walk.identity ? walk.identity : SH_IDENTITY_HOST;
}

/* Who is at one end of a connection on this host: whom its socket stands for, or its own workload. `sk` and `remote` may be any address.
 * Not inlined: the stack of the callers has no room for it (544 bytes on 6.1), and what comes after it would be verified for each way
 * through it. */
static __noinline int sh_identify(struct sh_policy_head *policy, struct sock *sk, const struct sh_remote *remote, __u32 *to)
{
	struct sh_policy_remote_key key = {.half = policy->generation & 1};
	__u32 *found;

	if (bpf_probe_read_kernel(&key.remote, sizeof(key.remote), remote) || !sh_is_anybody(&key.remote)) {
		*to = sh_identity(policy, sk);
		return 0;
	}
	found = bpf_map_lookup_elem(&sh_pol_remotes, &key);
	*to = found ? *found : SH_IDENTITY_WORLD;
	return 0;
}

/* Of what is elsewhere. */
static __always_inline __u32 sh_identity_of_address(struct sh_policy_head *policy, const __u8 *addr)
{
	struct sh_policy_cidr_key key = {.prefix_bits = 32 + 8 * SH_ADDR_BYTES, .half = policy->generation & 1};
	__u32 *found;

	__builtin_memcpy(key.addr, addr, SH_ADDR_BYTES);
	found = bpf_map_lookup_elem(&sh_pol_cidrs, &key);
	return found ? *found : SH_IDENTITY_WORLD;
}

/* Who is at the other end, if that is elsewhere: by its address. Not inlined, likewise. */
static __noinline int sh_identify_elsewhere(struct sh_policy_head *policy, struct tcp_sock *tp, __u32 *to)
{
	__u8 local[SH_ADDR_BYTES] = {}, remote[SH_ADDR_BYTES] = {};

	sh_addrs(tp, local, remote);
	*to = sh_identity_of_address(policy, remote);
	return 0;
}

/* The setsockopt program of the folder above watches over this one too: its first connection need not wait for the daemon. */
static __always_inline void sh_inherit_guard(struct cgroup *cgroup)
{
	__u64 above = BPF_CORE_READ(cgroup, self.parent, cgroup, kn, id), id = BPF_CORE_READ(cgroup, kn, id);
	struct sh_guard *guard = bpf_map_lookup_elem(&sh_guards, &above), inherited = {.guarded = 1};

	if (guard && guard->guarded)
		bpf_map_update_elem(&sh_guards, &id, &inherited, BPF_ANY);
}

/* The tracepoint cgroup_mkdir; also told of the hierarchies of cgroup v1, which have ids of their own. */
static __always_inline int sh_name_cgroup(struct cgroup *cgroup, const char *path)
{
	struct sh_policy_head *policy = sh_policy();
	struct sh_policy_workload_key key = {};
	struct sh_policy_path_key named = {};
	struct sh_policy_path *found;

	if (!policy || !policy->generation || BPF_CORE_READ(cgroup, root, hierarchy_id))
		return 0;
	named.half = policy->generation & 1;
	if (bpf_probe_read_kernel_str(named.path, sizeof(named.path), path) >= (long)sizeof(named.path))
		return 0; /* too long: cut */
	found = bpf_map_lookup_elem(&sh_pol_paths, &named);
	if (!found)
		return 0;
	key.cgroup = BPF_CORE_READ(cgroup, kn, id);
	key.netns = found->netns;
	key.uid = found->uid;
	key.half = named.half;
	bpf_map_update_elem(&sh_pol_workload, &key, &found->identity, BPF_ANY);
	sh_inherit_guard(cgroup);
	return 0;
}

/* ---- the tables, as policy/core reads them ---- */

struct sh_policy_view {
	const struct l7_input *in; /* the request, while one is judged */
};

static __always_inline int sh_policy_find_subject(const struct sh_policy_view *view, const struct sh_policy_subject_key *key,
						  struct sh_policy_subject *to)
{
	struct sh_policy_subject *found = bpf_map_lookup_elem(&sh_pol_subjects, key);

	if (found)
		*to = *found;
	return found != 0;
}

static __always_inline int sh_policy_find_entry(const struct sh_policy_view *view, const struct sh_policy_key *key,
						struct sh_policy_entry *to)
{
	struct sh_policy_entry *found = bpf_map_lookup_elem(&sh_pol_entries, key);

	if (found)
		*to = *found;
	return found != 0;
}

static __always_inline __u16 sh_policy_first_port(const struct sh_policy_view *view, __u8 half, __u16 port)
{
	__u32 block = (half & 1) * (SH_POLICY_PORT_BLOCKS / 2) + port / SH_POLICY_BLOCK_CELLS;
	struct sh_policy_block *found = bpf_map_lookup_elem(&sh_pol_ports, &block);

	return found ? found->cells[port & (SH_POLICY_BLOCK_CELLS - 1)] : 0;
}

#include <policy/core/both.h>
#include <policy/core/lookup.h>

/* What both directions say about a connection, and the sets that its requests must pass. */
struct sh_policy_asked {
	__u8 verdict; /* enum sh_policy_verdict */
	__u8 reason;  /* enum sh_policy_reason: of a denial */
	__u16 protocol; /* enum sh_l7_protocol, where requests are judged */
	__u32 sets[2];
	__u32 origins[2];
};

static __always_inline void sh_policy_add(struct sh_policy_asked *asked, const struct sh_policy_entry *entry, int direction)
{
	if (entry->verdict == SH_POLICY_ALLOW || asked->verdict == SH_POLICY_DENY)
		return;
	if (entry->verdict != SH_POLICY_DENY && entry->verdict != SH_POLICY_RULES) {
		asked->verdict = SH_POLICY_PUNT;
		return;
	}
	if (entry->verdict == SH_POLICY_DENY || asked->verdict == SH_POLICY_ALLOW)
		asked->verdict = entry->verdict;
	asked->reason = entry->reason;
	asked->protocol = entry->protocol;
	asked->sets[direction] = entry->set;
	asked->origins[direction] = entry->origin;
}

/* Not inlined: several programs' slow path. `asked` is written whole. */
static __noinline int sh_policy_ask_both(struct sh_policy_asked *asked, __u32 generation, __u32 client, __u32 server, __u32 port)
{
	struct sh_policy_entry egress, ingress;
	struct sh_policy_view view = {};

	if (!asked)
		return 0;
	__builtin_memset(asked, 0, sizeof(*asked));
	egress = sh_policy_ask(&view, generation & 1, SH_POLICY_EGRESS, client, server, port);
	ingress = sh_policy_ask(&view, generation & 1, SH_POLICY_INGRESS, server, client, port);
	asked->verdict = SH_POLICY_ALLOW;
	sh_policy_add(asked, &egress, SH_POLICY_EGRESS);
	sh_policy_add(asked, &ingress, SH_POLICY_INGRESS);
	if (sh_policy_protocols_differ(&egress, &ingress)) {
		asked->verdict = SH_POLICY_DENY;
		asked->reason = SH_POLICY_R_PROTOCOLS;
	}
	if (asked->verdict == SH_POLICY_PUNT) /* no set of one direction can replace what the other cannot decide */
		asked->sets[0] = asked->sets[1] = 0;
	return 0;
}

static __always_inline __u32 sh_protocol_of(const struct sh_policy_asked *asked)
{
	return asked->protocol ? asked->protocol : SH_L7_HTTP1;
}

#endif
