// SPDX-License-Identifier: GPL-2.0-only
/* What is learned about a destination, and what follows from it for the next connection. Enrolling costs map inserts, a one-way
 * stream pays for the shortcut's queue handling: both are left on TCP, but for a sample that notices a change. */
#ifndef SHUNT_PROFILE_BPF_H
#define SHUNT_PROFILE_BPF_H

#include "maps.bpf.h"

#define SH_AVG_ONE 256    /* fixed point */
#define SH_AVG_SHIFT 3    /* weight 1/8 */
#define SH_ONE_SHOT_SAMPLES 4 /* a verdict on length needs more than one connection */
#define SH_NO_PEER_MASK 7     /* trying again costs next to nothing, and servers are replaced: one in eight */
#define SH_CORKED_MEMORY 8
#define SH_LEARN_CAP 8    /* a single connection counts as at most so many times the threshold, so that a change shows soon */

/* FNV-1a over 4-byte words: the fields are few and the map is LRU, so a stronger hash would buy nothing. */
static __always_inline __u64 sh_hash_words(__u64 hash, const void *data, __u32 words)
{
	const __u32 *word = data;

	for (__u32 i = 0; i < words; i++)
		hash = (hash ^ word[i]) * 0x100000001b3ULL;
	return hash;
}

static __always_inline __u64 sh_profile_id(const __u8 *addr, __u16 port, const char *program)
{
	__u64 hash = sh_hash_words(0xcbf29ce484222325ULL, addr, SH_ADDR_BYTES / 4);

	hash = sh_hash_words(hash, program, SH_PROGRAM_NAME_BYTES / 4);
	hash = (hash ^ port) * 0x100000001b3ULL;
	return (hash ^ (hash >> 32)) | 1; /* 0 means none */
}

/* A new profile for a destination; NULL: no memory. */
static __always_inline struct sh_profile *sh_profile_make(__u64 id, const __u8 *addr, __u16 port, const char *program)
{
	struct sh_profile fresh = {.port = port, .connections = 1};

	__builtin_memcpy(fresh.addr, addr, SH_ADDR_BYTES);
	__builtin_memcpy(fresh.program, program, SH_PROGRAM_NAME_BYTES);
	bpf_map_update_elem(&sh_profiles, &id, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&sh_profiles, &id);
}

static __always_inline __u32 sh_profile_reason(__u32 kind)
{
	switch (kind) {
	case SH_PROFILE_ONE_SHOT: return SH_R_ONE_SHOT;
	case SH_PROFILE_ONE_WAY: return SH_R_ONE_WAY;
	case SH_PROFILE_BULK: return SH_R_BULK;
	case SH_PROFILE_NO_PEER: return SH_R_NO_PEER;
	case SH_PROFILE_CORKED: return SH_R_CORKED;
	}
	return SH_R_NONE;
}

static __always_inline __u64 sh_average(__u64 avg, __u64 sample, bool first)
{
	return first ? sample : avg - (avg >> SH_AVG_SHIFT) + (sample >> SH_AVG_SHIFT);
}

static __always_inline __u32 sh_profile_judge(struct sh_config *cfg, struct sh_profile *p)
{
	__u32 msgs = p->msgs_per_turn[0] > p->msgs_per_turn[1] ? p->msgs_per_turn[0] : p->msgs_per_turn[1];
	__u64 bytes = p->bytes_per_turn[0] > p->bytes_per_turn[1] ? p->bytes_per_turn[0] : p->bytes_per_turn[1];

	if (p->corked)
		return SH_PROFILE_CORKED;
	if (bytes > (__u64)cfg->bulk_bytes * SH_AVG_ONE)
		return SH_PROFILE_BULK;
	if (msgs > cfg->one_way_msgs * SH_AVG_ONE)
		return SH_PROFILE_ONE_WAY;
	if (p->samples >= SH_ONE_SHOT_SAMPLES && p->turns_avg < cfg->one_shot_turns * SH_AVG_ONE)
		return SH_PROFILE_ONE_SHOT;
	return SH_PROFILE_GOOD;
}

static __always_inline __u64 sh_least(__u64 a, __u64 b) { return a < b ? a : b; }

/* Adds what one socket saw: at its close, and now and then in the life of a long connection. A socket that sent nothing teaches
 * nothing: health checks connect and close all day. */
static __noinline int sh_profile_learn(struct sh_config *cfg, struct sh_sock *st)
{
	struct sh_profile *p;
	__u64 id, msgs, bytes, turns;
	bool active, first;
	__u32 way;

	if (!cfg || !st || !cfg->profile_on || !st->profile)
		return 0;
	id = st->profile;
	p = bpf_map_lookup_elem(&sh_profiles, &id);
	if (!p)
		return 0;
	active = st->flags & SH_SOCK_ACTIVE;
	way = active ? 0 : 1;
	turns = st->turns;
	if (!(st->fast_msgs + st->tcp_msgs))
		return 0;
	msgs = (st->fast_msgs + st->tcp_msgs) * SH_AVG_ONE;
	bytes = (st->fast_bytes + st->tcp_bytes) * SH_AVG_ONE;
	if (turns > 1) {
		msgs /= turns;
		bytes /= turns;
	}
	msgs = sh_least(msgs, (__u64)cfg->one_way_msgs * SH_AVG_ONE * SH_LEARN_CAP);
	bytes = sh_least(bytes, (__u64)cfg->bulk_bytes * SH_AVG_ONE * SH_LEARN_CAP);
	if (st->corked_msgs * 2 > st->fast_msgs + st->tcp_msgs)
		p->corked = SH_CORKED_MEMORY;
	else if (!active && p->corked)
		p->corked--;
	first = !p->msgs_per_turn[way];
	p->msgs_per_turn[way] = sh_average(p->msgs_per_turn[way], msgs, first);
	p->bytes_per_turn[way] = sh_average(p->bytes_per_turn[way], bytes, first);
	if (active) {
		turns = sh_least(turns, cfg->one_shot_turns * SH_LEARN_CAP) * SH_AVG_ONE;
		p->turns_avg = sh_average(p->turns_avg, turns, !p->samples);
		p->samples++;
	}
	p->kind = sh_profile_judge(cfg, p);
	return 0;
}

/* Nobody on this host answered, or with `reason`: the next ones to this destination stay out, but for the sample. A reason that
 * passes by itself teaches nothing. */
static __always_inline void sh_profile_no_peer(__u64 id, __u32 reason)
{
	struct sh_profile *p = id ? bpf_map_lookup_elem(&sh_profiles, &id) : 0;

	if (p && reason != SH_R_PROGRAM_UNVERIFIED && reason != SH_R_UNGUARDED && reason != SH_R_OFF)
		p->kind = SH_PROFILE_NO_PEER;
}

#endif
