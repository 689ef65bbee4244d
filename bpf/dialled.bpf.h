// SPDX-License-Identifier: GPL-2.0-only
/* What was dialled, from the client's connect() (dial.bpf.h) to the gateway's end of the connection: by the sequence numbers, as pairs
 * are found. */
#ifndef SHUNT_DIALLED_BPF_H
#define SHUNT_DIALLED_BPF_H

#include "remote.bpf.h"

/* The gateway reads it for its own sockets. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sh_dialled);
} sh_dialled SEC(".maps");

/* Between the two ends' ESTABLISHED. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, SH_ISNS_MAX);
	__type(key, struct sh_isn_key);
	__type(value, struct sh_dialled);
} sh_dialled_isns SEC(".maps");

/* Of either end; 0: the connection was not turned to the gateway. */
static __always_inline __u16 sh_dialled_port(struct tcp_sock *tp)
{
	struct sh_dialled *dialled = bpf_sk_storage_get(&sh_dialled, tp, 0, 0);

	return dialled ? dialled->port : 0;
}

/* Of a client: what it connects to, as a policy sees it. */
static __always_inline __u16 sh_service_port(struct tcp_sock *tp)
{
	__u16 port = sh_dialled_port(tp);

	return port ? port : sh_remote_port(tp);
}

static __noinline int sh_dialled_active(struct tcp_sock *tp)
{
	struct sh_dialled *dialled = bpf_sk_storage_get(&sh_dialled, tp, 0, 0);
	struct sh_isn_key key = {};

	if (!dialled)
		return 0;
	key.active_seq = tp->snd_nxt;
	key.passive_seq = tp->rcv_nxt;
	bpf_map_update_elem(&sh_dialled_isns, &key, dialled, BPF_ANY);
	return 0;
}

/* Before the gateway's end is judged or paired: it stands for the service that was dialled. */
static __noinline int sh_dialled_passive(struct tcp_sock *tp)
{
	struct sh_isn_key key = {.active_seq = tp->rcv_nxt, .passive_seq = tp->snd_nxt};
	struct sh_dialled *record, *dialled;
	struct sh_remote *remote;

	if (!sh_is_gateway(SK(tp)))
		return 0;
	record = bpf_map_lookup_elem(&sh_dialled_isns, &key);
	if (!record)
		return 0;
	dialled = bpf_sk_storage_get(&sh_dialled, tp, 0, BPF_SK_STORAGE_GET_F_CREATE);
	remote = bpf_sk_storage_get(&sh_remotes, tp, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (dialled && remote) {
		*dialled = *record;
		dialled->accepted = 1;
		*remote = record->remote;
	}
	bpf_map_delete_elem(&sh_dialled_isns, &key);
	return 0;
}

#endif
