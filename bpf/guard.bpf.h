// SPDX-License-Identifier: GPL-2.0-only
/* Which cgroups have the setsockopt program. The kernel copies every option and takes the socket's lock for it, in all of a cgroup's
 * processes: so only cgroups get it whose sockets are enrolled, and no socket is enrolled before its cgroup has it. The user side
 * attaches it when it is asked; asking early (a receiver is executed, or listens) spares the first connection. */
#ifndef SHUNT_GUARD_BPF_H
#define SHUNT_GUARD_BPF_H

#include "select.bpf.h"

#define SH_GUARD_ASK_AGAIN_NS 1000000000ULL /* the request may have been lost, or nobody was there to answer */

/* Not inlined: several programs' slow path. */
static __noinline int sh_ask_for_guard(__u64 cgroup)
{
	struct sh_guard asked = {.asked_ns = bpf_ktime_get_ns()};
	struct sh_guard *guard = bpf_map_lookup_elem(&sh_guards, &cgroup);
	struct sh_event *ev;

	if (guard && (guard->guarded || asked.asked_ns - guard->asked_ns < SH_GUARD_ASK_AGAIN_NS))
		return 0;
	if (guard)
		guard->asked_ns = asked.asked_ns;
	else if (bpf_map_update_elem(&sh_guards, &cgroup, &asked, BPF_NOEXIST))
		return 0;
	ev = sh_event_new(SH_EV_GUARD, SH_R_UNGUARDED, 0);
	if (!ev)
		return 0;
	ev->cgroup = cgroup;
	bpf_ringbuf_submit(ev, 0);
	return 0;
}

/* Whether the setsockopt program watches over the sockets of a cgroup; asks for it if not. */
static __always_inline bool sh_guards_in(__u64 cgroup)
{
	struct sh_guard *guard = bpf_map_lookup_elem(&sh_guards, &cgroup);

	if (guard && guard->guarded)
		return true;
	sh_ask_for_guard(cgroup);
	return false;
}

static __always_inline bool sh_is_guarded(struct tcp_sock *tp) { return sh_guards_in(sh_cgroup_id(tp)); }

#endif
