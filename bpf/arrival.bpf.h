// SPDX-License-Identifier: GPL-2.0-only
/* The pass-all verdict: with it attached, TCP's bytes too are read through the psock's queue, so that one set of calls (FIONREAD,
 * blocking readers) sees both ways of delivery in order.
 *
 * It takes whole packets. What TCP sends again may overlap with what has arrived: a sender whose acknowledgements were lost joins
 * the packet that is missing with those before it. TCP's own recvmsg() skips the bytes that it has read; the psock's queue would
 * deliver them twice (seen on 6.18; such packets reach the verdict on 6.1, 6.12 and 7.2 too). So the verdict remembers how far the
 * stream has come, and cuts. */
#ifndef SHUNT_ARRIVAL_BPF_H
#define SHUNT_ARRIVAL_BPF_H

#include "maps.bpf.h"

#define SH_CUT_STEP_BYTES 4095 /* more is refused by bpf_skb_adjust_room() */
#define SH_CUTS_MAX 160        /* of one packet: 640 KiB, more than the largest (512 KiB) */

/* Of an skb in the receive queue: TCP's sequence number of its first byte, and the one after its last byte (and FIN). */
static __always_inline void sh_sequence(struct __sk_buff *skb, __u32 *first, __u32 *end)
{
	__u64 cb = (__u64)skb + bpf_core_field_offset(struct sk_buff, cb);

	bpf_probe_read_kernel(first, sizeof(*first), (void *)(cb + bpf_core_field_offset(struct tcp_skb_cb, seq)));
	bpf_probe_read_kernel(end, sizeof(*end), (void *)(cb + bpf_core_field_offset(struct tcp_skb_cb, end_seq)));
}

/* Takes `bytes` from the head of the packet; 0: it could not, there was no memory for it. A global function: the verifier goes through
 * it once, and not again for each number of steps that may have come before what follows it. */
__noinline int sh_cut(struct __sk_buff *skb, __u32 bytes)
{
	for (__u32 i = 0; i < SH_CUTS_MAX; i++) {
		if (bytes <= SH_CUT_STEP_BYTES)
			return !bytes || !bpf_skb_adjust_room(skb, -(__s32)bytes, 0, 0);
		if (bpf_skb_adjust_room(skb, -SH_CUT_STEP_BYTES, 0, 0))
			return 0;
		bytes -= SH_CUT_STEP_BYTES;
	}
	return 0;
}

/* If bytes cannot be cut nothing more is delivered: a stall can be seen, wrong bytes cannot. */
static __always_inline int sh_new_bytes(struct __sk_buff *skb, struct sh_arrival *arrival, __u32 first, __u32 end)
{
	__u32 old = arrival->end_seq - first;

	if (arrival->broken)
		return SK_DROP;
	if ((__s32)old > 0) {
		bool fin = end - first != skb->len;

		sh_count(SH_C_OVERLAPS, 1);
		if (old > skb->len)
			old = skb->len;
		if (!sh_cut(skb, old)) {
			arrival->broken = 1;
			return SK_DROP;
		}
		if (!skb->len && !fin)
			return SK_DROP;
	}
	arrival->end_seq = end;
	return SK_PASS;
}

/* Runs under the socket's lock. An end that has closed its half is in TCP_CLOSE when it is shown the packet with the other one's end
 * (tcp_fin() comes before tcp_data_ready()): nothing follows, so what is remembered goes with it. */
static __always_inline int sh_arrive(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	bool last = sk && sk->state == BPF_TCP_CLOSE;
	__u64 cookie = bpf_get_socket_cookie(skb);
	struct sh_arrival fresh = {}, *arrival;
	__u32 first = 0, end = 0;
	int verdict = SK_PASS;

	sh_sequence(skb, &first, &end);
	arrival = bpf_map_lookup_elem(&sh_arrivals, &cookie);
	if (arrival)
		verdict = sh_new_bytes(skb, arrival, first, end);
	if (last) {
		bpf_map_delete_elem(&sh_arrivals, &cookie);
	} else if (!arrival) { /* enrolled by the generation before, while the programs were exchanged */
		fresh.end_seq = end;
		bpf_map_update_elem(&sh_arrivals, &cookie, &fresh, BPF_NOEXIST);
	}
	return verdict;
}

#endif
