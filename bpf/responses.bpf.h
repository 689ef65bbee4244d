// SPDX-License-Identifier: GPL-2.0-only
/* Counts how HTTP requests were answered, for metrics, where the configuration asks for it.
 *
 * The server's program sees responses: those to punted requests too, which the server answers itself. What the kernel side answers in its
 * place is told by the client's program, and what the proxy answers by the proxy. This counting proves nothing, unlike that of
 * requests.bpf.h, and so goes on where that one ends (chunked responses): a message of the server that begins with a status line while
 * a response is owed is the beginning of one. What shares a message with a response before it is not seen. */
#ifndef SHUNT_RESPONSES_BPF_H
#define SHUNT_RESPONSES_BPF_H

#include "channel.bpf.h"

#include <bpf/abi/responses.h>

#define SH_STATUS_BYTES 12 /* "HTTP/1.1 200" */
#define NSEC_PER_USEC 1000

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SH_RESPONSES_MAX);
	__type(key, struct sh_response_key);
	__type(value, struct sh_response_sum);
} sh_responses SEC(".maps");

static const struct sh_response_sum sh_no_response; /* the stack has no room for one */
static const __u64 sh_response_bounds[SH_RESPONSE_BOUNDS] = {SH_RESPONSE_BOUNDS_US};

static __always_inline bool sh_tells_responses(void)
{
	struct sh_config *cfg = sh_config();

	return cfg && cfg->tell_responses;
}

static __always_inline void sh_add_response(struct sh_response_sum *sum, __u64 us)
{
	__u32 i = 0;

	while (i < SH_RESPONSE_BOUNDS && us > sh_response_bounds[i])
		i++;
	if (i <= SH_RESPONSE_BOUNDS)
		__sync_fetch_and_add(&sum->within[i], 1);
	__sync_fetch_and_add(&sum->duration_us, us);
	__sync_fetch_and_add(&sum->requests, 1);
}

/* A request of this client to this server was answered so (0: with the end of the connection). Kernel addresses of their storage. */
static __noinline int sh_note_response(__u64 client_storage, __u64 server_storage, __u32 status)
{
	struct sh_sock *client = (void *)client_storage, *server = (void *)server_storage;
	struct sh_remote remote = {};
	struct sh_response_key key = {.status = (__u16)status};
	struct sh_response_sum *sum;
	__u64 asked = 0;

	bpf_probe_read_kernel(&key.generation, sizeof(key.generation), &client->l7_generation);
	bpf_probe_read_kernel(&key.client, sizeof(key.client), &client->identity);
	bpf_probe_read_kernel(&key.server, sizeof(key.server), &client->peer_identity);
	bpf_probe_read_kernel(&key.port, sizeof(key.port), &server->service_port);
	bpf_probe_read_kernel(&remote, sizeof(remote), &client->remote);
	bpf_probe_read_kernel(&asked, sizeof(asked), &client->l7_asked_ns);
	if (remote.digest[0] || remote.digest[1])
		key.flags |= SH_RESPONSE_FROM_REMOTE;
	if (key.port)
		key.flags |= SH_RESPONSE_TO_REMOTE;
	else
		bpf_probe_read_kernel(&key.port, sizeof(key.port), &server->local_port);
	sum = bpf_map_lookup_elem(&sh_responses, &key);
	if (!sum) {
		bpf_map_update_elem(&sh_responses, &key, &sh_no_response, BPF_NOEXIST);
		sum = bpf_map_lookup_elem(&sh_responses, &key);
	}
	if (sum)
		sh_add_response(sum, asked ? (bpf_ktime_get_ns() - asked) / NSEC_PER_USEC : 0);
	else
		sh_count(SH_C_RESPONSES_LOST, 1);
	return 0;
}

/* Of a line "HTTP/1.x NNN"; 0: it is none. */
static __always_inline __u32 sh_status_of(const __u8 *line)
{
	__u32 a = line[9] - '0', b = line[10] - '0', c = line[11] - '0';

	if (*(const __u32 *)line != bpf_htonl(0x48545450) || line[4] != '/' || line[5] != '1' || line[6] != '.' || line[8] != ' ')
		return 0;
	return a <= 9 && b <= 9 && c <= 9 ? 100 * a + 10 * b + c : 0;
}

/* A message of the server. An interim response is none, but for the one that ends HTTP. */
static __always_inline void sh_see_response(struct sk_msg_md *msg, struct sh_sock *st)
{
	__u8 line[SH_STATUS_BYTES] = {};
	__u32 status;

	if (!sh_tells_responses() || (__s32)(sh_requests_of((void *)st->peer_storage, st->peer_cookie) - st->l7_seen) <= 0)
		return;
	if (msg->size < sizeof(line) || bpf_msg_pull_data(msg, 0, sizeof(line), 0) ||
	    bpf_probe_read_kernel(line, sizeof(line), msg->data))
		return;
	status = sh_status_of(line);
	if (status < 200 && status != 101)
		return;
	st->l7_seen++;
	sh_note_response(st->peer_storage, (__u64)st, status);
}

/* The client's message was refused: answered in the server's place, or by the end of the connection. What went to the proxy it tells. */
static __always_inline void sh_see_refusal(struct sh_sock *st, bool dropped, bool denied)
{
	if (sh_tells_responses() && (dropped || !st->l7_channel))
		sh_note_response((__u64)st, st->peer_storage, dropped ? 0 : denied ? 403 : 503);
}

static __always_inline void sh_see_request(struct sh_sock *st)
{
	if (sh_tells_responses())
		st->l7_asked_ns = bpf_ktime_get_ns();
}

#endif
