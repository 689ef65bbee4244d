// SPDX-License-Identifier: GPL-2.0-only
/* A server ends its connection while a request that went through the proxy has no whole response: the client is to get its response or
 * a 502, not an end in its place. What the server had answered by then is written down here, before its FIN or RST leaves; the gate
 * holds these (sh_gate_end), and the proxy is asked for the 502, which goes the way of its other answers (sh_may_answer_at_end). */
#ifndef SHUNT_SERVER_END_BPF_H
#define SHUNT_SERVER_END_BPF_H

#include "channel.bpf.h"

static __always_inline bool sh_is_end(__u32 state)
{
	return state == BPF_TCP_CLOSE || state == BPF_TCP_FIN_WAIT1 || state == BPF_TCP_LAST_ACK;
}

/* Has the server answered all that came through the proxy? Where responses cannot be counted any more: it has said something since. */
static __always_inline bool sh_has_answered(struct sh_sock *server, struct sh_apart *apart)
{
	if (server->l7_lost)
		return server->shared.tx_msgs != apart->server_msgs;
	return (__s32)(server->l7_count - apart->punted) >= 0;
}

static __always_inline void sh_note_end(struct tcp_sock *tp, struct sh_sock *server, struct sh_apart *apart)
{
	apart->end_count = server->l7_count;
	apart->end_seq = tp->write_seq; /* the FIN is not counted yet */
	apart->end_lost = server->shared.tx_msgs && (server->l7_state != SH_L7_JUDGED || server->l7_lost || server->l7_left);
}

/* On the channel that the client has: one byte more. Its epoch; 0: it has none. */
static __always_inline __u32 sh_owe_on_bound(struct sh_sock *client, __u64 cookie, __u32 *number)
{
	__u32 bound[2] = {}, index, epoch = 0; /* l7_channel, l7_epoch */
	struct sh_channel *channel;

	bpf_probe_read_kernel(bound, sizeof(bound), &client->l7_channel);
	if (!bound[0])
		return 0;
	index = bound[0] - 1;
	channel = bpf_map_lookup_elem(&sh_channels, &index);
	if (!channel)
		return 0;
	bpf_spin_lock(&channel->lock);
	if (channel->ends.client == cookie && channel->epoch == bound[1]) {
		channel->punted++;
		epoch = bound[1];
	}
	bpf_spin_unlock(&channel->lock);
	*number = bound[0];
	return epoch;
}

/* Asks the proxy to tell the client. False: nobody can. */
static __always_inline bool sh_owe_end(struct sh_sock *client, struct sh_apart *apart)
{
	struct sh_punt_page *page = sh_punt_page();
	__u32 number = 0, index, epoch;

	if (!page || !sh_proxy_lives())
		return false;
	epoch = sh_owe_on_bound(client, apart->ends.client, &number);
	if (!epoch) {
		epoch = sh_claim_channel(&apart->ends, 1, &number);
		apart->channel = number;
		apart->epoch = epoch;
	}
	index = number - 1;
	if (!epoch || index >= SH_CHANNELS_MAX)
		return false;
	apart->ended = SH_ENDED_OWED; /* before the proxy knows */
	page->ended[index] = epoch;
	return true;
}

/* The server's socket closes, or its half of the connection does. Not inlined: slow path. */
static __noinline int sh_end_server(struct tcp_sock *tp, struct sh_sock *server)
{
	struct sh_apart *apart;
	struct sh_sock *client;
	__u64 cookie;

	if (!tp || !server)
		return 0;
	cookie = server->peer_cookie;
	client = (void *)server->peer_storage;
	apart = bpf_map_lookup_elem(&sh_aparts, &cookie);
	if (!apart || apart->ended)
		return 0;
	sh_settle_server(tp, server, SH_L7_HTTP1);
	sh_note_end(tp, server, apart);
	if (sh_has_answered(server, apart) && !sh_owes_request(client, cookie)) {
		apart->ended = SH_ENDED_IDLE;
		return 0;
	}
	if (sh_owe_end(client, apart))
		return 0;
	sh_count(SH_C_SERVER_ENDS_RESET, 1);
	sh_tell_broken(&apart->ends);
	apart->ended = SH_ENDED_OWED; /* no end before the reset */
	return 0;
}

static __always_inline void on_server_end(struct bpf_sock_ops *ops)
{
	struct sh_policy_head *policy = sh_policy();
	struct tcp_sock *tp = sh_tcp_sock(ops);
	struct sh_sock *st;

	if (!tp || !policy || !policy->generation)
		return;
	st = sh_storage(tp, 0);
	if (st && st->peer_cookie && !(st->flags & SH_SOCK_ACTIVE))
		sh_end_server(tp, st);
}

#endif
