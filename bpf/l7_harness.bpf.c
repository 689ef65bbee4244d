// SPDX-License-Identifier: GPL-2.0-only
/* The parser cores of l7parsers/core in the kernel, one program each, and with a policy, for tests and benchmarks. sk_msg
 * programs cannot be run by BPF_PROG_TEST_RUN; tc programs can, and for the verifier and the compiler the core is the same. The
 * input does not come in the packet, which would limit its length, but in `request`; each run copies it as a verdict program copies
 * a message. */
#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include <l7parsers/core/http1.h>
#include <l7parsers/core/resp.h>
#include <l7parsers/core/resp_reply.h>

#include "bpf/abi/l7_harness.h"
#include "bpf/abi/policy.h"

char LICENSE[] SEC("license") = "GPL";

#define TC_ACT_OK 0

struct l7_harness_request request;
struct l7_http1 http1;
struct l7_resp resp;
struct l7_replies replies;

struct sh_policy_set policy_set;
struct sh_policy_result policy_result;

/* Larger where the test program needs it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct sh_policy_block);
} policy_blocks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct sh_policy_result);
} policy_results SEC(".maps");

struct sh_policy_view {
	const struct l7_input *in;
};

static __always_inline const struct sh_policy_block *sh_policy_block(const struct sh_policy_view *view, sh_u32 number)
{
	return bpf_map_lookup_elem(&policy_blocks, &number);
}

static __always_inline struct sh_policy_result sh_policy_result_at(const struct sh_policy_view *view, sh_u32 index)
{
	struct sh_policy_result none = {};
	const struct sh_policy_result *found = bpf_map_lookup_elem(&policy_results, &index);

	return found ? *found : none;
}

static __always_inline sh_u8 sh_policy_byte(const struct sh_policy_view *view, sh_u32 offset)
{
	return l7_byte_unbranched(view->in, offset);
}

#include <policy/core/request.h>

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
int l7_policy(struct __sk_buff *skb)
{
	struct l7_input *in = copied();
	struct sh_policy_view view = {in};

	if (!in)
		return -1;
	l7_http1_begin(&http1, request.kind);
	l7_http1_parse(&http1, in);
	policy_result = sh_policy_http1(&view, &policy_set, &http1);
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

SEC("tc")
int l7_resp_policy(struct __sk_buff *skb)
{
	struct l7_input *in = copied();
	struct sh_policy_view view = {in};

	if (!in)
		return -1;
	l7_resp_begin(&resp);
	l7_resp_parse(&resp, in);
	policy_result = sh_policy_resp(&view, &policy_set, &resp);
	return TC_ACT_OK;
}

/* `kind`: how many bytes the message has beyond its beginning. */
SEC("tc")
int l7_resp_replies(struct __sk_buff *skb)
{
	struct l7_input *in = copied();

	if (!in)
		return -1;
	l7_replies_begin(&replies, (__u64)in->len + request.kind);
	l7_replies_parse(&replies, in);
	return TC_ACT_OK;
}
