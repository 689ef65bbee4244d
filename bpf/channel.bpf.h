// SPDX-License-Identifier: GPL-2.0-only
/* Punting: a request that is not judged here goes to the fallback proxy, that request alone, and comes back on its channel.
 *
 *   client's send()   sh_punt           binds a channel, and sends what has come into it
 *                     sh_follow         while the proxy owes something, all that the client sends follows, unread
 *   proxy's send()    sh_channel_send   the request into the server's queue (the server answers the client directly), or an answer
 *                                       into the client's; or back to the proxy, if its turn has not come
 *   client's send()   sh_follow         the proxy has finished every byte: the connection is the kernel's again
 *
 * A channel's binding is changed under its lock alone, by the client's programs and by the proxy's. The proxy decides what it sends,
 * never where it goes. */
#ifndef SHUNT_CHANNEL_BPF_H
#define SHUNT_CHANNEL_BPF_H

#include "punt_maps.bpf.h"
#include "redirect.bpf.h"

#define SH_SERVER_WAIT_STEPS 4096 /* some tens of microseconds: the server's end, or its send(), is being finished on another CPU */
#define SH_CERTAIN_WAIT_STEPS (1 << 17) /* one or two milliseconds: there certainly is one; its CPU may be taken away for a while */
#define SH_IDLE_TRIES 4           /* channels of a proxy that is gone may stand in the queue */
#define TCP_ESTABLISHED 1
#define TCP_CLOSE_WAIT 8

/* ---- how many requests the server got ---- */

static __always_inline __u32 sh_requests_sent(struct sh_sock *st)
{
	__u64 cookie = st->shared.cookie;
	struct sh_apart *apart = st->l7_apart ? bpf_map_lookup_elem(&sh_aparts, &cookie) : 0;

	return apart ? apart->count : st->l7_count;
}

static __always_inline void sh_note_head(__u64 *heads, __u32 *count, bool to_head)
{
	__u64 bit = 1ULL << (*count & 63);

	*heads = to_head ? *heads | bit : *heads & ~bit;
	(*count)++;
}

static __always_inline void sh_note_request(struct sh_sock *st, bool to_head)
{
	__u64 cookie = st->shared.cookie;
	struct sh_apart *apart = st->l7_apart ? bpf_map_lookup_elem(&sh_aparts, &cookie) : 0;

	if (apart)
		sh_note_head(&apart->heads, &apart->count, to_head);
	else
		sh_note_head(&st->l7_heads, &st->l7_count, to_head);
}

/* Of the client with this storage and cookie. 0: what it has sent is in its storage. */
static __always_inline struct sh_apart *sh_apart_of(struct sh_sock *client, __u64 cookie)
{
	__u32 is_apart = 0;

	bpf_probe_read_kernel(&is_apart, sizeof(is_apart), &client->l7_apart);
	return is_apart ? bpf_map_lookup_elem(&sh_aparts, &cookie) : 0;
}

/* How many requests it has sent. */
static __always_inline __u32 sh_requests_of(struct sh_sock *client, __u64 cookie)
{
	struct sh_apart *apart = sh_apart_of(client, cookie);
	__u32 count = 0;

	if (apart)
		return apart->count;
	bpf_probe_read_kernel(&count, sizeof(count), &client->l7_count);
	return count;
}

/* Of its requests: which were HEAD. */
static __always_inline __u64 sh_heads_of(struct sh_sock *client, __u64 cookie)
{
	struct sh_apart *apart = sh_apart_of(client, cookie);
	__u64 heads = 0;

	if (apart)
		return apart->heads;
	bpf_probe_read_kernel(&heads, sizeof(heads), &client->l7_heads);
	return heads;
}

/* ---- have all responses arrived? ---- */

/* A connection as an answer of ours needs to know it. Addresses that are good as long as the cookies are. */
struct sh_ends {
	struct tcp_sock *client;
	struct tcp_sock *server;
	struct sh_sock *server_storage;
	__u64 server_cookie;
	__u32 requests; /* that the server got */
	__u32 quiet;
	__u32 counts_refs; /* 1: the caller is inside the client's send(), so sh_other_refs() may be asked */
};

/* The server's messages as TCP took them: of the last one perhaps only a part, and then more without a run, because a PASS that failed
 * repeats its verdict. Of Redis a message holds many replies, and a part of it says nothing. */
static __always_inline void sh_settle_server(struct tcp_sock *tp, struct sh_sock *st, __u32 protocol)
{
	__s32 more = tp->write_seq - st->l7_seq;

	if (!more || st->l7_lost)
		return;
	st->l7_seq = tp->write_seq;
	if (protocol != SH_L7_HTTP1 || more > (__s64)st->l7_left) {
		st->l7_lost = 1;
	} else if (more < 0) {
		st->l7_count -= !st->l7_left; /* it has been counted */
		st->l7_left += -more;
	} else {
		st->l7_left -= more;
		st->l7_count += !st->l7_left;
	}
}

/* References to a socket in a map beside those of its file, of its psock and of timers that run. A redirect that is on its way to it holds
 * one from its verdict until it is queued (tcp_bpf_send_verdict()). The caller holds the socket's lock: then only a timer's function, which
 * has a reference itself, starts a timer; and as timers are looked at last, none is counted that was not referred to before. */
static __always_inline __s32 sh_other_refs(struct tcp_sock *tp)
{
	struct inet_connection_sock *icsk = &tp->inet_conn;
	__s32 refs = BPF_CORE_READ(icsk, icsk_inet.sk.__sk_common.skc_refcnt.refs.counter) - 2;

	refs -= BPF_CORE_READ(icsk, icsk_inet.sk.sk_timer.entry.pprev) != 0;
	refs -= BPF_CORE_READ(icsk, icsk_delack_timer.entry.pprev) != 0;
	if (bpf_core_field_exists(icsk->icsk_retransmit_timer))
		refs -= BPF_CORE_READ(icsk, icsk_retransmit_timer.entry.pprev) != 0;
	return refs;
}

/* While nothing can be on its way to the client, as nobody is inside a call on the server's socket, or it has sent nothing: is the client's
 * socket referred to as we think? A packet that is being processed refers to it, too; then the next request asks again. */
static __always_inline void sh_know_refs(struct tcp_sock *tp, struct sh_sock *st)
{
	struct sk_psock *psock = sh_psock((void *)st->peer_sock);
	struct sh_sock *server = (void *)st->peer_storage;
	__u32 sent = 1;

	bpf_probe_read_kernel(&sent, sizeof(sent), &server->shared.tx_msgs);
	if (psock && (!sent || BPF_CORE_READ(psock, refcnt.refs.counter) == 1) && !sh_other_refs(tp))
		st->l7_proof |= SH_L7_REFS_KNOWN;
}

/* Can nobody be about to queue a part of a response? Nobody is inside a call on the server's socket; or whoever is waits in recv(), or has
 * left the verdict, which is under the socket's lock, and queued the message: where the two share a CPU, the client wakes, and sends before
 * the server's send() has ended. A message that lies in one piece of memory is queued as a whole. */
static __always_inline bool sh_none_is_queued(struct sh_ends *ends)
{
	struct tcp_sock *server = ends->server;
	struct sk_psock *psock = sh_psock((void *)server);
	__u32 proof = 0;

	if (!psock)
		return false;
	if (BPF_CORE_READ(psock, refcnt.refs.counter) == 1)
		return true;
	bpf_probe_read_kernel(&proof, sizeof(proof), &ends->server_storage->l7_proof);
	return ends->counts_refs && !(proof & SH_L7_IN_PIECES) &&
	       !BPF_CORE_READ(server, inet_conn.icsk_inet.sk.sk_lock.owned) && !sh_other_refs(ends->client);
}

/* All responses are complete, and queued. */
static long sh_silence_step(__u32 index, struct sh_ends *ends)
{
	struct tcp_sock *server = ends->server;
	__u32 count = 0, seq = 0, left = 0;

	bpf_probe_read_kernel(&count, sizeof(count), &ends->server_storage->l7_count);
	bpf_probe_read_kernel(&left, sizeof(left), &ends->server_storage->l7_left);
	if (left) { /* TCP may have got it without a run, as in sh_settle_server() */
		bpf_probe_read_kernel(&seq, sizeof(seq), &ends->server_storage->l7_seq);
		count += BPF_CORE_READ(server, write_seq) - seq == left;
	}
	ends->quiet = count == ends->requests && sh_none_is_queued(ends);
	return ends->quiet;
}

/* Has the client read all that the server has sent, with nothing on the way? */
static __always_inline bool sh_all_read(struct tcp_sock *server, struct tcp_sock *client)
{
	struct sk_psock *psock = sh_psock((void *)client);

	return BPF_CORE_READ(server, write_seq) == BPF_CORE_READ(client, copied_seq) && psock && sh_psock_empty(psock) &&
	       !BPF_CORE_READ(client, inet_conn.icsk_inet.sk.sk_backlog.rmem_alloc.counter);
}

/* Have all responses to earlier requests reached the client's queue, and been read, with nothing on the way? A server that still is
 * inside the send() whose bytes the client has read is waited for a moment. */
static __always_inline bool sh_all_answered(struct sh_ends *ends)
{
	struct sh_sock *storage = ends->server_storage;
	struct tcp_sock *server = ends->server;
	__u32 lost = 0, seq = 0, left = 0;
	__u64 cookie = 0;

	bpf_loop(SH_SERVER_WAIT_STEPS, sh_silence_step, ends, 0);
	if (!ends->quiet)
		return false;
	bpf_probe_read_kernel(&cookie, sizeof(cookie), &storage->shared.cookie);
	bpf_probe_read_kernel(&lost, sizeof(lost), &storage->l7_lost);
	bpf_probe_read_kernel(&seq, sizeof(seq), &storage->l7_seq);
	bpf_probe_read_kernel(&left, sizeof(left), &storage->l7_left);
	if (lost || cookie != ends->server_cookie || (ends->requests && BPF_CORE_READ(server, write_seq) - seq != left))
		return false;
	return sh_all_read(server, ends->client);
}

/* ---- the client's side ---- */

/* Puts the head before the message, and the whole into the channel. False: nobody is there; the message is as it was, or to be dropped. */
static __always_inline bool sh_into_channel(struct sk_msg_md *msg, struct sh_sock *st, struct sh_channel *channel, __u32 why,
					    __u32 flags)
{
	struct sh_punt_head head = {.kind = SH_PUNT_DATA, .bytes = msg->size, .flags = flags, .why = why};
	__u64 to = channel->cookie, *from = (void *)&head, *at;

	if (bpf_msg_redirect_hash(msg, &sh_socks, &to, BPF_F_INGRESS) != SK_PASS)
		return false;
	head.epoch = st->l7_epoch;
	head.index = st->l7_channel - 1;
	head.generation = st->l7_generation;
	head.identity = st->identity;
	head.peer_identity = st->peer_identity;
	head.server_port = channel->ends.server_port;
	head.client_port = st->local_port;
	__builtin_memcpy(head.client_addr, st->local_addr, SH_ADDR_BYTES);
	if (bpf_msg_push_data(msg, 0, sizeof(head), 0) || bpf_msg_pull_data(msg, 0, sizeof(head), 0))
		return false;
	at = msg->data;
	if ((void *)at + sizeof(head) > msg->data_end)
		return false;
	for (__u32 i = 0; i < sizeof(head) / sizeof(*at); i++)
		at[i] = from[i];
	st->shared.tx_msgs++; /* the server's response to it is a turn, not one more message of a stream */
	return true;
}

/* Binds an idle channel to these ends, with so many bytes for the proxy. Its epoch, or 0: there is none, or no proxy. */
static __always_inline __u32 sh_claim_channel(const struct sh_punt_ends *ends, __u32 bytes, __u32 *number)
{
	struct sh_channel *channel;
	__u32 index, epoch = 0;

	for (int i = 0; i < SH_IDLE_TRIES && !epoch; i++) {
		if (bpf_map_pop_elem(&sh_idle_chans, &index))
			return 0;
		channel = bpf_map_lookup_elem(&sh_channels, &index);
		if (!channel)
			return 0;
		bpf_spin_lock(&channel->lock);
		if (channel->cookie && !channel->ends.client) {
			channel->epoch += channel->epoch + 1 ? 1 : 2; /* 0 is none */
			epoch = channel->epoch;
			channel->ends = *ends;
			channel->punted = bytes;
			channel->broken = 0;
		}
		bpf_spin_unlock(&channel->lock);
	}
	*number = index + 1;
	return epoch;
}

static const struct sh_apart sh_no_apart; /* the stack has no room for one */

/* What is kept of a connection from its first punt on. */
static __always_inline struct sh_apart *sh_set_apart(struct tcp_sock *tp, struct sh_sock *st)
{
	struct sh_sock *server = (void *)st->peer_storage;
	__u64 cookie = st->shared.cookie;
	struct sh_punt_ends *ends;
	struct sh_apart *apart;

	if (bpf_map_update_elem(&sh_aparts, &cookie, &sh_no_apart, BPF_ANY))
		return 0;
	apart = bpf_map_lookup_elem(&sh_aparts, &cookie);
	if (!apart)
		return 0;
	apart->heads = st->l7_heads;
	apart->count = st->l7_count;
	ends = &apart->ends;
	ends->client = cookie;
	ends->client_sock = (__u64)tp;
	ends->server = st->peer_cookie;
	ends->server_sock = st->peer_sock;
	ends->server_storage = st->peer_storage;
	ends->netns = st->netns;
	ends->family = st->family;
	__builtin_memcpy(ends->local_addr, st->local_addr, SH_ADDR_BYTES);
	__builtin_memcpy(ends->remote_addr, st->remote_addr, SH_ADDR_BYTES);
	ends->local_port = st->local_port;
	ends->remote_port = st->remote_port;
	bpf_probe_read_kernel(&ends->server_port, sizeof(ends->server_port), &server->local_port);
	st->l7_apart = 1;
	return apart;
}

/* For the first `bytes` of a request. False: there is none. */
static __always_inline bool sh_bind_channel(struct tcp_sock *tp, struct sh_sock *st, __u32 bytes)
{
	__u64 cookie = st->shared.cookie;
	struct sh_apart *apart = st->l7_apart ? bpf_map_lookup_elem(&sh_aparts, &cookie) : sh_set_apart(tp, st);
	__u32 number = 0, epoch = apart ? sh_claim_channel(&apart->ends, bytes, &number) : 0;

	if (!epoch)
		return false;
	st->l7_channel = number;
	st->l7_epoch = epoch;
	return true;
}

/* Nothing was sent into the channel that was bound just now: it has lost its proxy, so it is not offered again. */
static __always_inline void sh_unbind_channel(struct sh_sock *st, struct sh_channel *channel)
{
	bpf_spin_lock(&channel->lock);
	if (channel->ends.client == st->shared.cookie && channel->epoch == st->l7_epoch) {
		channel->ends.client = 0;
		channel->cookie = 0;
	}
	bpf_spin_unlock(&channel->lock);
	st->l7_channel = 0;
}

enum sh_punted {
	SH_PUNTED,     /* the message is on its way to the proxy */
	SH_NOT_PUNTED, /* nobody is there to take it; it is as it was */
	SH_PUNT_FAILED /* it can only be dropped */
};

/* A request of which this message has the beginning goes to the proxy. */
static __always_inline enum sh_punted sh_punt(struct sk_msg_md *msg, struct tcp_sock *tp, struct sh_sock *st, __u32 why)
{
	__u32 size = msg->size, index;
	struct sh_channel *channel;

	if (!sh_proxy_lives() || !sh_bind_channel(tp, st, size)) {
		sh_count(SH_C_NO_CHANNEL, 1);
		return SH_NOT_PUNTED;
	}
	index = st->l7_channel - 1;
	channel = bpf_map_lookup_elem(&sh_channels, &index);
	if (!channel)
		return SH_PUNT_FAILED;
	if (!sh_into_channel(msg, st, channel, why, SH_PUNT_FIRST)) {
		sh_unbind_channel(st, channel);
		sh_count(SH_C_NO_CHANNEL, 1);
		return msg->size == size ? SH_NOT_PUNTED : SH_PUNT_FAILED;
	}
	sh_count(SH_C_REQUESTS_TO_PROXY, 1);
	return SH_PUNTED;
}

enum sh_follow {
	SH_FOLLOW_NONE,   /* the proxy owes nothing: the message is judged here */
	SH_FOLLOW_PROXY,  /* it is on its way to the proxy */
	SH_FOLLOW_BROKEN, /* the connection ends */
};

/* A message of a connection that has, or had, a channel. */
static __always_inline enum sh_follow sh_follow(struct sk_msg_md *msg, struct sh_sock *st)
{
	__u32 index = st->l7_channel - 1, size = msg->size, idle = 0;
	enum sh_follow what = SH_FOLLOW_NONE;
	struct sh_channel *channel;
	__u64 finished;

	channel = bpf_map_lookup_elem(&sh_channels, &index);
	if (!channel)
		return SH_FOLLOW_BROKEN;
	finished = sh_finished(index);
	bpf_spin_lock(&channel->lock);
	if (channel->ends.client == st->shared.cookie && channel->epoch == st->l7_epoch) {
		if (channel->broken) {
			what = SH_FOLLOW_BROKEN;
		} else if (sh_all_finished(channel, finished)) {
			channel->ends.client = 0;
			idle = 1;
		} else if (channel->punted - (__u32)finished > SH_PUNT_AHEAD_BYTES && finished >> 32 == channel->epoch) {
			what = SH_FOLLOW_BROKEN;
		} else {
			channel->punted += size;
			what = SH_FOLLOW_PROXY;
		}
	}
	bpf_spin_unlock(&channel->lock);
	if (idle)
		bpf_map_push_elem(&sh_idle_chans, &index, 0);
	if (what == SH_FOLLOW_NONE)
		st->l7_channel = 0;
	if (what == SH_FOLLOW_PROXY && !sh_into_channel(msg, st, channel, 0, 0))
		what = SH_FOLLOW_BROKEN;
	return what;
}

/* ---- the proxy's side ---- */

/* Is there room in the queue of the reader for `bytes` more? An empty queue takes any piece. */
static __always_inline bool sh_takes(struct tcp_sock *reader, __u32 bytes)
{
	__u32 queued = BPF_CORE_READ(reader, inet_conn.icsk_inet.sk.sk_backlog.rmem_alloc.counter);
	__u32 most = (__u32)BPF_CORE_READ(reader, inet_conn.icsk_inet.sk.sk_rcvbuf) / 2;

	return !queued || queued + bytes <= most;
}

static __always_inline bool sh_is_cookie(struct tcp_sock *tp, __u64 cookie)
{
	return BPF_CORE_READ(tp, inet_conn.icsk_inet.sk.__sk_common.skc_cookie.counter) == (__s64)cookie;
}

/* What the server reads next must be behind all that the client has sent it: read, or in the psock's queue, where this goes too. Both
 * ends count the same bytes by the same sequence numbers, so nobody has to wait for an acknowledgement, which TCP delays by 40 ms. A
 * FIN of the client may wait behind that, held back by the gate. */
static __always_inline __u32 sh_may_inject(struct sh_ends *ends, __u64 client_cookie, __u32 bytes)
{
	struct tcp_sock *server = ends->server, *client = ends->client;
	struct sk_psock *psock = sh_psock((void *)server);
	__u32 state, behind;

	if (!sh_is_cookie(client, client_cookie))
		return SH_PUNT_CLIENT_GONE;
	state = BPF_CORE_READ(server, inet_conn.icsk_inet.sk.__sk_common.skc_state);
	if (!sh_is_cookie(server, ends->server_cookie) || (state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT) || !psock)
		return SH_PUNT_SERVER_GONE;
	behind = BPF_CORE_READ(client, write_seq) - BPF_CORE_READ(server, copied_seq);
	if (behind && !(behind == 1 && BPF_CORE_READ(client, inet_conn.icsk_inet.sk.sk_shutdown) & SEND_SHUTDOWN))
		return SH_PUNT_NOT_YET;
	if (BPF_CORE_READ(psock, ingress_skb.qlen)) /* on its way into the queue */
		return SH_PUNT_NOT_YET;
	return sh_takes(server, bytes) ? SH_PUNT_READY : SH_PUNT_NOT_YET;
}

/* The server has ended: what it had answered by then is written down. Its end of the connection may be gone. */
static __always_inline __u32 sh_may_answer_at_end(struct sh_ends *ends, struct sh_apart *apart, __u32 flags)
{
	struct tcp_sock *server = ends->server, *client = ends->client;
	struct sk_psock *psock = sh_psock((void *)client), *other = sh_psock((void *)server);
	__u32 behind = apart->end_seq - BPF_CORE_READ(client, copied_seq);
	bool answered = apart->count == apart->end_count;

	if (apart->ended == SH_ENDED_SAID)
		return SH_PUNT_CLIENT_GONE;
	if (!psock) { /* it has closed, too: both ends may learn of each other */
		apart->ended = SH_ENDED_SAID;
		return SH_PUNT_CLIENT_GONE;
	}
	if (flags & SH_PUNT_INTERIM || !sh_psock_empty(psock))
		return SH_PUNT_NOT_YET;
	if ((behind && behind + 1) || BPF_CORE_READ(client, inet_conn.icsk_inet.sk.sk_backlog.rmem_alloc.counter))
		return SH_PUNT_NOT_YET; /* one more: it has read a FIN */
	if (sh_is_cookie(server, ends->server_cookie) && other && BPF_CORE_READ(other, refcnt.refs.counter) != 1)
		return SH_PUNT_NOT_YET; /* it closed its half, and somebody may still be inside a send() */
	if (apart->end_lost)
		return SH_PUNT_UNPROVED;
	if (flags & SH_PUNT_GONE)
		return answered && !(flags & SH_PUNT_IN_HAND) ? SH_PUNT_ANSWERED : SH_PUNT_READY;
	return answered ? SH_PUNT_READY : SH_PUNT_SERVER_GONE;
}

static __always_inline __u32 sh_may_answer(struct sh_ends *ends, __u64 client_cookie, struct sh_apart *apart, __u32 flags)
{
	struct tcp_sock *client = ends->client;
	__u32 lost = 0;

	if (!sh_is_cookie(client, client_cookie))
		return SH_PUNT_CLIENT_GONE;
	if (apart->ended)
		return sh_may_answer_at_end(ends, apart, flags);
	bpf_probe_read_kernel(&lost, sizeof(lost), &ends->server_storage->l7_lost);
	if (lost && sh_is_cookie(ends->server, ends->server_cookie) && !(flags & SH_PUNT_INTERIM)) /* this will not change */
		return sh_all_read(ends->server, client) ? SH_PUNT_UNPROVED : SH_PUNT_NOT_YET;
	return !(flags & SH_PUNT_GONE) && sh_all_answered(ends) ? SH_PUNT_READY : SH_PUNT_NOT_YET;
}

/* The daemon is asked to reset the client, whose program drops what it sends meanwhile. By its cookie: should another one be bound
 * by now, nothing is found. */
static __always_inline void sh_tell_broken(const struct sh_punt_ends *ends)
{
	struct sh_event *ev;

	sh_count(SH_C_FORBIDDEN, 1);
	ev = sh_event_new(SH_EV_FORBIDDEN, SH_R_POLICY, 0);
	if (!ev)
		return;
	ev->cookie = ends->client;
	ev->peer_cookie = ends->server;
	ev->netns = ends->netns;
	ev->family = ends->family;
	__builtin_memcpy(ev->local_addr, ends->local_addr, SH_ADDR_BYTES);
	__builtin_memcpy(ev->remote_addr, ends->remote_addr, SH_ADDR_BYTES);
	ev->local_port = ends->local_port;
	ev->remote_port = ends->remote_port;
	ev->l7_reason = SH_L7_WHY_PROXY;
	bpf_ringbuf_submit(ev, 0);
}

static __always_inline __u32 sh_release_channel(struct sh_channel *channel, __u32 index, __u32 epoch)
{
	__u64 finished = sh_finished(index);
	__u32 idle = 0;

	bpf_spin_lock(&channel->lock);
	if (channel->epoch == epoch) {
		idle = channel->orphan || (channel->ends.client && sh_all_finished(channel, finished));
		if (idle) {
			channel->ends.client = 0;
			channel->orphan = 0;
		}
	}
	bpf_spin_unlock(&channel->lock);
	if (idle)
		bpf_map_push_elem(&sh_idle_chans, &index, 0);
	return idle ? SH_PUNT_READY : SH_PUNT_NOT_YET;
}

/* A message of the proxy has its target, or is of no use: what is to be remembered of it. */
static __always_inline void sh_note_delivery(struct sh_ends *ends, struct sh_apart *apart, const struct sh_punt_head *head,
					     __u32 status)
{
	if (head->kind == SH_PUNT_ANSWER) {
		if (apart->ended == SH_ENDED_OWED && status == SH_PUNT_READY)
			sh_count(SH_C_SERVER_ENDS_TOLD, 1);
		if (apart->ended)
			apart->ended = SH_ENDED_SAID;
		return;
	}
	if (head->flags & SH_PUNT_BEGIN) {
		sh_note_head(&apart->heads, &apart->count, head->flags & SH_PUNT_TO_HEAD);
		apart->punted = apart->count;
	}
	bpf_probe_read_kernel(&apart->server_msgs, sizeof(apart->server_msgs), &ends->server_storage->shared.tx_msgs);
}

/* Delivers, or says why not: what is READY has its target. */
static __always_inline __u32 sh_deliver(struct sk_msg_md *msg, struct sh_channel *channel, const struct sh_punt_head *head)
{
	struct sh_ends ends = {};
	struct sh_apart *apart;
	__u64 client, target;
	__u32 bound, status;

	bpf_spin_lock(&channel->lock);
	client = channel->ends.client;
	bound = client && channel->epoch == head->epoch && !channel->broken;
	if (bound && head->kind == SH_PUNT_BREAK)
		channel->broken = 1;
	ends.client = (void *)channel->ends.client_sock;
	ends.server = (void *)channel->ends.server_sock;
	ends.server_storage = (void *)channel->ends.server_storage;
	ends.server_cookie = channel->ends.server;
	bpf_spin_unlock(&channel->lock);
	if (!bound)
		return SH_PUNT_CLIENT_GONE;
	apart = bpf_map_lookup_elem(&sh_aparts, &client);
	if (!apart)
		return SH_PUNT_CLIENT_GONE;
	if (head->kind == SH_PUNT_BREAK) {
		if (apart->ended == SH_ENDED_OWED)
			sh_count(SH_C_SERVER_ENDS_RESET, 1);
		sh_tell_broken(&apart->ends);
		return SH_PUNT_READY;
	}
	ends.requests = apart->count;
	status = head->kind == SH_PUNT_ANSWER ? sh_may_answer(&ends, client, apart, head->flags)
					      : sh_may_inject(&ends, client, head->bytes);
	if (status == SH_PUNT_ANSWERED)
		sh_note_delivery(&ends, apart, head, status);
	if (status != SH_PUNT_READY || head->kind == SH_PUNT_ASK)
		return status;
	target = head->kind == SH_PUNT_ANSWER ? client : ends.server_cookie;
	if (bpf_msg_redirect_hash(msg, &sh_socks, &target, BPF_F_INGRESS) != SK_PASS)
		return head->kind == SH_PUNT_ANSWER ? SH_PUNT_CLIENT_GONE : SH_PUNT_SERVER_GONE;
	if (bpf_msg_pop_data(msg, 0, SH_PUNT_HEAD_BYTES, 0))
		return SH_PUNT_NOT_YET;
	sh_note_delivery(&ends, apart, head, status);
	return SH_PUNT_READY;
}

/* What the proxy sent goes back to it: dropping it would end the channel. */
static __always_inline int sh_return(struct sk_msg_md *msg, struct sh_channel *channel)
{
	__u64 own = channel->cookie;
	struct sh_punt_head *head;

	if (bpf_msg_pull_data(msg, 0, SH_PUNT_HEAD_BYTES, 0))
		return SK_DROP;
	head = msg->data;
	if ((void *)(head + 1) > msg->data_end)
		return SK_DROP;
	head->kind = SH_PUNT_RETURN;
	head->bytes = msg->size - SH_PUNT_HEAD_BYTES;
	return bpf_msg_redirect_hash(msg, &sh_socks, &own, BPF_F_INGRESS);
}

static __always_inline void sh_say_outcome(__u32 index, __u32 status)
{
	struct sh_punt_page *page = sh_punt_page();

	if (page && index < SH_CHANNELS_MAX)
		page->outcomes[index] = status + 1;
}

/* One message of the proxy. */
static __always_inline int sh_channel_send(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	__u32 *number = sk ? bpf_sk_storage_get(&sh_channel_of, sk, 0, 0) : 0, index, status;
	struct sh_punt_head head;
	struct sh_channel *channel;
	struct tcp_sock *tp;

	if (!sk || !number || !*number)
		return SK_DROP;
	index = *number - 1;
	channel = bpf_map_lookup_elem(&sh_channels, &index);
	bpf_msg_apply_bytes(msg, 0);
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp || !channel || !sh_is_cookie(tp, channel->cookie)) /* of a proxy that was replaced */
		return SK_DROP;
	if (msg->size < sizeof(head) || bpf_msg_pull_data(msg, 0, sizeof(head), 0) ||
	    bpf_probe_read_kernel(&head, sizeof(head), msg->data))
		return SK_DROP;
	switch (head.kind) {
	case SH_PUNT_INJECT:
	case SH_PUNT_ANSWER:
	case SH_PUNT_ASK:
	case SH_PUNT_BREAK:
		status = head.bytes == msg->size - sizeof(head) ? sh_deliver(msg, channel, &head) : SH_PUNT_MALFORMED;
		break;
	case SH_PUNT_RELEASE:
		status = sh_release_channel(channel, index, head.epoch);
		break;
	default:
		status = SH_PUNT_MALFORMED;
	}
	sh_say_outcome(index, status);
	if (status == SH_PUNT_READY && (head.kind == SH_PUNT_INJECT || head.kind == SH_PUNT_ANSWER))
		return SK_PASS;
	return sh_return(msg, channel);
}

#endif
