// SPDX-License-Identifier: GPL-2.0-only
/* Selection: which connections may be enrolled at all. Run at connect() for the active end and at ESTABLISHED for the passive. */
#ifndef SHUNT_SELECT_BPF_H
#define SHUNT_SELECT_BPF_H

#include "events.bpf.h"
#include "remote.bpf.h"

#define SH_CGROUP_DEPTH_MAX 16

/* The owner of a socket, as far as a decision needs it. */
struct sh_who {
	char program[SH_PROGRAM_NAME_BYTES];
	__u64 start_boottime_ns;
	__u32 tgid;
	__u32 uid;
	__u32 nonblocking;
	__u32 pad;
};

/* Whether a map's answer (0: no entry) excludes, given whether any include entry exists. */
static __always_inline bool sh_is_out(__u32 answer, __u32 includes)
{
	return answer == SH_SELECT_OUT || (includes && answer != SH_SELECT_IN);
}

static __always_inline bool sh_port_is_out(struct sh_config *cfg, __u16 port)
{
	__u32 key = port;
	__u8 *answer;

	if (!cfg->ports_out && !cfg->ports_in)
		return false;
	answer = bpf_map_lookup_elem(&sh_ports, &key);
	return answer && sh_is_out(*answer, cfg->ports_in);
}

static __always_inline bool sh_cidr_is_out(struct sh_config *cfg, const __u8 *addr)
{
	struct sh_cidr_key key = {.prefix_bits = 128};
	__u32 *answer;

	if (!cfg->cidrs_out && !cfg->cidrs_in)
		return false;
	__builtin_memcpy(key.addr, addr, SH_ADDR_BYTES);
	answer = bpf_map_lookup_elem(&sh_cidrs, &key);
	return sh_is_out(answer ? *answer : 0, cfg->cidrs_in);
}

static __always_inline bool sh_user_is_out(struct sh_config *cfg, __u32 uid)
{
	__u32 *answer;

	if (!cfg->users_out && !cfg->users_in)
		return false;
	answer = bpf_map_lookup_elem(&sh_users, &uid);
	return sh_is_out(answer ? *answer : 0, cfg->users_in);
}

struct sh_cgroup_walk {
	struct cgroup *cgroup;
	__u32 answer;
};

static long sh_cgroup_step(__u32 level, struct sh_cgroup_walk *walk)
{
	struct cgroup *cgroup = walk->cgroup, *ancestor = 0;
	__u32 *answer;
	__u64 id;

	if ((__s32)level > BPF_CORE_READ(cgroup, level))
		return 1;
	/* ancestors[level]: an array of pointers at the end of struct cgroup (Linux 6.1) */
	bpf_probe_read_kernel(&ancestor, sizeof(ancestor),
			      (void *)cgroup + bpf_core_field_offset(struct cgroup, ancestors) + level * sizeof(void *));
	id = BPF_CORE_READ(ancestor, kn, id);
	answer = bpf_map_lookup_elem(&sh_cgroups, &id);
	if (answer && *answer == SH_SELECT_OUT) {
		walk->answer = SH_SELECT_OUT;
		return 1;
	}
	if (answer)
		walk->answer = SH_SELECT_IN;
	return 0;
}

/* A cgroup is out if it or an ancestor is, and in if it or an ancestor is. */
static __always_inline bool sh_cgroup_is_out(struct sh_config *cfg, struct tcp_sock *tp)
{
	struct sh_cgroup_walk walk = {};

	if (!cfg->cgroups_out && !cfg->cgroups_in)
		return false;
	walk.cgroup = BPF_CORE_READ(SK(tp), sk_cgrp_data.cgroup);
	bpf_loop(SH_CGROUP_DEPTH_MAX, sh_cgroup_step, &walk, 0);
	return sh_is_out(walk.answer, cfg->cgroups_in);
}

/* What can be decided by the program. Asks the daemon for a verdict where the list says so. */
static __always_inline enum sh_reason sh_program_reason(struct sh_config *cfg, const struct sh_who *who)
{
	struct sh_process_key process = {.start_boottime_ns = who->start_boottime_ns, .tgid = who->tgid};
	struct sh_process asked = {.reason = SH_R_PROGRAM_UNVERIFIED}, *verdict;
	__u32 *found = bpf_map_lookup_elem(&sh_programs, who->program);
	__u32 flags = found ? *found : 0;

	if ((flags & SH_PROGRAM_EXCLUDED) || (cfg->programs_in && !(flags & SH_PROGRAM_INCLUDED)))
		return SH_R_PROGRAM;
	if (cfg->any_program)
		return SH_R_NONE;
	if (!(flags & SH_PROGRAM_RECEIVER))
		return SH_R_PROGRAM_UNKNOWN;
	if ((flags & SH_PROGRAM_FIONREAD) && !cfg->fionread_ok)
		return SH_R_PROGRAM_FIONREAD;
	if ((flags & SH_PROGRAM_BLOCKS) && !who->nonblocking)
		return SH_R_BLOCKING;
	if (!(flags & SH_PROGRAM_VERIFY))
		return SH_R_NONE;
	verdict = bpf_map_lookup_elem(&sh_processes, &process);
	if (verdict)
		return verdict->reason;
	bpf_map_update_elem(&sh_processes, &process, &asked, BPF_NOEXIST);
	if (!sh_ask_to_verify(who->tgid))
		bpf_map_delete_elem(&sh_processes, &process); /* the next connection asks again */
	return SH_R_PROGRAM_UNVERIFIED;
}

/* What is decided without knowing the program: `addr` and `port` are the destination's. */
static __always_inline enum sh_reason sh_place_reason(struct sh_config *cfg, struct tcp_sock *tp, const __u8 *addr, __u16 port,
						      __u32 uid)
{
	if (cfg->mode != SH_MODE_ON)
		return SH_R_OFF;
	if (sh_port_is_out(cfg, port))
		return SH_R_PORT;
	if (sh_cidr_is_out(cfg, addr))
		return SH_R_CIDR;
	if (sh_user_is_out(cfg, uid))
		return SH_R_USER;
	if (sh_cgroup_is_out(cfg, tp))
		return SH_R_CGROUP;
	return SH_R_NONE;
}

/* What is decided by the program and its socket. Of the gateway only the plain ends are receivers: the others get keys, and those are
 * the ones that stand for nobody. */
static __always_inline enum sh_reason sh_owner_reason(struct sh_config *cfg, struct tcp_sock *tp, const struct sh_who *who)
{
	enum sh_reason reason = sh_claim(tp) ? SH_R_NONE : sh_program_reason(cfg, who);

	return reason ? reason : sh_socket_obstacle(tp);
}

/* All that is decided about one end. */
static __always_inline enum sh_reason sh_selection_reason(struct sh_config *cfg, struct tcp_sock *tp, const __u8 *addr,
							  __u16 port, const struct sh_who *who)
{
	enum sh_reason reason = sh_place_reason(cfg, tp, addr, port, who->uid);

	return reason ? reason : sh_owner_reason(cfg, tp, who);
}

#endif
