// SPDX-License-Identifier: GPL-2.0-only
/* The punt channels in the kernel, as bpf/abi/punt.h describes them, and what other programs ask about them. */
#ifndef SHUNT_PUNT_MAPS_BPF_H
#define SHUNT_PUNT_MAPS_BPF_H

#include "maps.bpf.h"

#include <bpf/abi/punt.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SH_CHANNELS_MAX);
	__type(key, __u32);
	__type(value, struct sh_channel);
} sh_channels SEC(".maps");

/* Numbers of channels that are bound to nobody. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, SH_CHANNELS_MAX);
	__type(value, __u32);
} sh_idle_chans SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct sh_punt_page);
} sh_punt_pages SEC(".maps");

/* Of the proxy's sockets: the number of their channel + 1. Written by the user side alone. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} sh_channel_of SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SH_SOCKETS_MAX);
	__type(key, __u64); /* cookie of the client's socket */
	__type(value, struct sh_apart);
} sh_aparts SEC(".maps");

static __always_inline struct sh_punt_page *sh_punt_page(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&sh_punt_pages, &zero);
}

static __always_inline bool sh_proxy_lives(void)
{
	struct sh_punt_page *page = sh_punt_page();
	__u64 beat = page ? *(volatile __u64 *)&page->heartbeat_ns : 0;

	return beat && bpf_ktime_get_ns() - beat < SH_PUNT_STALE_NS;
}

/* What the proxy wrote last about channel `index`; never equal to what sh_all_finished() expects if there is no page. */
static __always_inline __u64 sh_finished(__u32 index)
{
	struct sh_punt_page *page = sh_punt_page();

	return page && index < SH_CHANNELS_MAX ? *(volatile __u64 *)&page->finished[index] : 0;
}

static __always_inline bool sh_all_finished(const struct sh_channel *channel, __u64 finished)
{
	return finished == ((__u64)channel->epoch << 32 | channel->punted);
}

/* Is a request of this client with the proxy? `client` may be any address. */
static __always_inline bool sh_owes_request(struct sh_sock *client, __u64 cookie)
{
	struct sh_channel *channel;
	__u32 bound[2] = {}, index; /* l7_channel, l7_epoch */

	bpf_probe_read_kernel(bound, sizeof(bound), &client->l7_channel);
	if (!bound[0])
		return false;
	index = bound[0] - 1;
	channel = bpf_map_lookup_elem(&sh_channels, &index);
	return channel && channel->ends.client == cookie && channel->epoch == bound[1] &&
	       !sh_all_finished(channel, sh_finished(index));
}

/* Has the server ended, and the client is not to see it before it has been told? */
static __always_inline bool sh_is_owed_end(__u64 cookie)
{
	struct sh_apart *apart = bpf_map_lookup_elem(&sh_aparts, &cookie);

	return apart && apart->ended == SH_ENDED_OWED;
}

/* May neither end learn yet that the other one has ended? */
static __always_inline bool sh_holds_end(struct sh_sock *client, __u64 cookie)
{
	struct sh_apart *apart = bpf_map_lookup_elem(&sh_aparts, &cookie);

	if (apart && apart->ended)
		return apart->ended == SH_ENDED_OWED;
	return sh_owes_request(client, cookie);
}

/* A channel that waits for nothing is free at once; the others are the proxy's to release. `number`: of the channel + 1. */
static __always_inline void sh_orphan_channel(__u32 number, __u32 epoch, __u64 cookie)
{
	__u32 index = number - 1, idle = 0;
	struct sh_channel *channel;
	__u64 finished;

	if (!number)
		return;
	channel = bpf_map_lookup_elem(&sh_channels, &index);
	if (!channel)
		return;
	finished = sh_finished(index);
	bpf_spin_lock(&channel->lock);
	if (channel->ends.client == cookie && channel->epoch == epoch) {
		channel->ends.client = 0;
		idle = sh_all_finished(channel, finished);
		channel->orphan = !idle;
	}
	bpf_spin_unlock(&channel->lock);
	if (idle)
		bpf_map_push_elem(&sh_idle_chans, &index, 0);
}

/* The client's socket is closed. */
static __always_inline void sh_leave_channel(struct sh_sock *st, __u64 cookie)
{
	struct sh_apart *apart = st->l7_apart ? bpf_map_lookup_elem(&sh_aparts, &cookie) : 0;

	if (apart) {
		sh_orphan_channel(apart->channel, apart->epoch, cookie);
		bpf_map_delete_elem(&sh_aparts, &cookie);
	}
	sh_orphan_channel(st->l7_channel, st->l7_epoch, cookie);
}

#endif
