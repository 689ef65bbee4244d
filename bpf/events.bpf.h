// SPDX-License-Identifier: GPL-2.0-only
/* Records for `shunt monitor` and for the daemon. They may be lost: no state depends on them. */
#ifndef SHUNT_EVENTS_BPF_H
#define SHUNT_EVENTS_BPF_H

#include "maps.bpf.h"

/* A zeroed record with its head filled, or NULL: the ring is full, which is counted. The caller submits it. */
static __always_inline struct sh_event *sh_event_new(__u32 kind, __u32 reason, __u32 tgid)
{
	struct sh_event *ev = bpf_ringbuf_reserve(&sh_events, sizeof(*ev), 0);

	if (!ev) {
		sh_count(SH_C_EVENTS_LOST, 1);
		return 0;
	}
	__builtin_memset(ev, 0, sizeof(*ev));
	ev->time_ns = bpf_ktime_get_ns();
	ev->kind = kind;
	ev->reason = reason;
	ev->tgid = tgid;
	return ev;
}

static __always_inline void sh_event_fill(struct sh_event *ev, struct sh_sock *st)
{
	ev->cookie = st->shared.cookie;
	ev->peer_cookie = st->peer_cookie;
	ev->netns = st->netns;
	ev->bytes = st->fast_bytes;
	ev->family = st->family;
	__builtin_memcpy(ev->local_addr, st->local_addr, SH_ADDR_BYTES);
	__builtin_memcpy(ev->remote_addr, st->remote_addr, SH_ADDR_BYTES);
	ev->local_port = st->local_port;
	ev->remote_port = st->remote_port;
	__builtin_memcpy(ev->program, st->program, SH_PROGRAM_NAME_BYTES);
}

static __noinline int sh_emit_sock(struct sh_sock *st, __u32 kind, __u32 reason)
{
	struct sh_event *ev;

	if (!st)
		return 0;
	ev = sh_event_new(kind, reason, st->tgid);
	if (!ev)
		return 0;
	sh_event_fill(ev, st);
	bpf_ringbuf_submit(ev, 0);
	return 0;
}

/* For people: only while somebody watches. */
static __always_inline void sh_tell(struct sh_config *cfg, struct sh_sock *st, enum sh_event_kind kind, __u32 reason)
{
	if (cfg->events)
		sh_emit_sock(st, kind, reason);
}

/* What can be said of a socket that has no storage. */
static __always_inline void sh_event_of_sock(struct sh_event *ev, struct tcp_sock *tp, __u64 cookie)
{
	ev->cookie = cookie;
	ev->netns = sh_netns(tp);
	ev->family = SKC(tp)->skc_family;
	sh_addrs(tp, ev->local_addr, ev->remote_addr);
	ev->local_port = sh_local_port(tp);
	ev->remote_port = sh_remote_port(tp);
}

/* For a connection that has no storage: it was not enrolled. */
static __always_inline void sh_tell_skipped(struct tcp_sock *tp, __u64 cookie, __u32 tgid, const char *program, __u32 reason)
{
	struct sh_event *ev = sh_event_new(SH_EV_CONNECT_SKIPPED, reason, tgid);

	if (!ev)
		return;
	sh_event_of_sock(ev, tp, cookie);
	__builtin_memcpy(ev->program, program, SH_PROGRAM_NAME_BYTES);
	bpf_ringbuf_submit(ev, 0);
}

/* Asks the daemon to inspect a process. Written whether or not somebody watches. False: the request was lost. */
static __always_inline bool sh_ask_to_verify(__u32 tgid)
{
	struct sh_event *ev = sh_event_new(SH_EV_VERIFY, SH_R_NONE, tgid);

	if (!ev)
		return false;
	bpf_ringbuf_submit(ev, 0);
	return true;
}

#endif
