// SPDX-License-Identifier: GPL-2.0-only
/* The parser cores of l7parsers/core in the kernel, one program each, for tests and benchmarks. sk_msg programs cannot be run by
 * BPF_PROG_TEST_RUN; tc programs can, and for the verifier and the compiler the core is the same. The input does not come in the
 * packet, which would limit its length, but in `request`; each run copies it as a verdict program copies a message. */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include <l7parsers/core/http1.h>
#include <l7parsers/core/resp.h>

#include "bpf/abi/l7_harness.h"

char LICENSE[] SEC("license") = "GPL";

#define TC_ACT_OK 0

struct l7_harness_request request;
struct l7_http1 http1;
struct l7_resp resp;

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct l7_input);
} l7_scratch SEC(".maps");

static __always_inline struct l7_input *copied(void)
{
	__u32 zero = 0;
	struct l7_input *in = bpf_map_lookup_elem(&l7_scratch, &zero);
	__u32 len = request.len;

	if (!in || len > L7_WINDOW_BYTES)
		return NULL;
	if (bpf_probe_read_kernel(in->bytes, len, request.bytes))
		return NULL;
	in->len = len;
	return in;
}

SEC("tc")
int l7_copy(struct __sk_buff *skb)
{
	return copied() ? TC_ACT_OK : -1;
}

SEC("tc")
int l7_http1(struct __sk_buff *skb)
{
	struct l7_input *in = copied();

	if (!in)
		return -1;
	l7_http1_begin(&http1, request.kind);
	l7_http1_parse(&http1, in);
	return TC_ACT_OK;
}

SEC("tc")
int l7_resp(struct __sk_buff *skb)
{
	struct l7_input *in = copied();

	if (!in)
		return -1;
	l7_resp_begin(&resp);
	l7_resp_parse(&resp, in);
	return TC_ACT_OK;
}
