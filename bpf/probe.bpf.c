// SPDX-License-Identifier: GPL-2.0-only
/* The kernel side of the self-test: small programs that provoke the behaviours which the shortcut depends on. Each program
 * can be left out on its own, so that a kernel which lacks one thing is still asked about the others. */
#include "vmlinux.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "bpf/abi/probe.h"

char LICENSE[] SEC("license") = "GPL";

#define PROBE_SOCKETS_MAX 64

struct probe_config probe_config;
struct probe_listen listened;
__u32 execs_seen;

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, PROBE_SOCKETS_MAX);
	__type(key, __u64);
	__type(value, __u64);
} sh_plain SEC(".maps"), sh_verdict SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct probe_sock);
} sh_socks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} sh_jump SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PROBE_SOCKETS_MAX);
	__type(key, __u64);
	__type(value, struct probe_mark);
} sh_marks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} sh_ring SEC(".maps");

static __always_inline void enrol(struct bpf_sock_ops *ctx, struct bpf_sock *sk, __u32 map)
{
	struct probe_sock *s = bpf_sk_storage_get(&sh_socks, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!s)
		return;
	volatile struct bpf_sock_ops *v = ctx; /* keeps the field offsets constant */
	__u64 cookie = bpf_get_socket_cookie(ctx);
	s->cookie = cookie;
	s->op = v->op;
	s->snd_nxt = v->snd_nxt;
	s->rcv_nxt = v->rcv_nxt;
	s->sock = (__u64)bpf_skc_to_tcp_sock(sk);
	s->map = map;
	s->rtt_delete = probe_config.rtt_delete;
	if (map == PROBE_MAP_PLAIN)
		s->update_error = bpf_sock_hash_update(ctx, &sh_plain, &cookie, BPF_NOEXIST);
	else if (map == PROBE_MAP_VERDICT)
		s->update_error = bpf_sock_hash_update(ctx, &sh_verdict, &cookie, BPF_NOEXIST);
}

static __always_inline void on_rtt(struct bpf_sock_ops *ctx, struct bpf_sock *sk)
{
	struct probe_sock *s = bpf_sk_storage_get(&sh_socks, sk, NULL, 0);
	if (!s)
		return;
	if (s->rtt_calls++ || !s->rtt_delete)
		return;
	__u64 cookie = s->cookie;
	if (s->map == PROBE_MAP_PLAIN)
		s->delete_error = bpf_map_delete_elem(&sh_plain, &cookie);
	else if (s->map == PROBE_MAP_VERDICT)
		s->delete_error = bpf_map_delete_elem(&sh_verdict, &cookie);
}

SEC("sockops")
int probe_sockops(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (!sk)
		return 1;
	switch (ctx->op) {
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		enrol(ctx, sk, probe_config.map_active);
		if (probe_config.rtt_delete)
			bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_RTT_CB_FLAG);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		enrol(ctx, sk, probe_config.map_passive);
		break;
	case BPF_SOCK_OPS_RTT_CB:
		on_rtt(ctx, sk);
		break;
	}
	return 1;
}

SEC("sockops")
int probe_listen(struct bpf_sock_ops *ctx)
{
	if (ctx->op != BPF_SOCK_OPS_TCP_LISTEN_CB)
		return 1;
	struct task_struct *task = (void *)bpf_get_current_task();
	const unsigned char *name = BPF_CORE_READ(task, mm, exe_file, f_path.dentry, d_name.name);
	listened.calls++;
	listened.tgid = BPF_CORE_READ(task, tgid);
	listened.port = ctx->local_port;
	bpf_probe_read_kernel_str(listened.program, sizeof(listened.program), name);
	return 1;
}

SEC("sk_msg")
int probe_msg(struct sk_msg_md *msg)
{
	bpf_tail_call(msg, &sh_jump, 0);
	return SK_PASS;
}

SEC("sk_msg")
int probe_msg_mode(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	if (!sk)
		return SK_PASS;
	struct probe_sock *s = bpf_sk_storage_get(&sh_socks, sk, NULL, 0);
	if (!s)
		return SK_PASS;
	if (s->mode != PROBE_REDIRECT) {
		s->passed++;
		return SK_PASS;
	}
	__u64 key = s->peer_cookie;
	long verdict;
	if (s->map == PROBE_MAP_VERDICT)
		verdict = bpf_msg_redirect_hash(msg, &sh_verdict, &key, BPF_F_INGRESS);
	else
		verdict = bpf_msg_redirect_hash(msg, &sh_plain, &key, BPF_F_INGRESS);
	if (verdict == SK_PASS)
		s->redirected++;
	else
		s->failed++;
	return SK_PASS;
}

SEC("sk_msg")
int probe_msg_pass(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	struct probe_sock *s = sk ? bpf_sk_storage_get(&sh_socks, sk, NULL, 0) : NULL;
	if (s)
		s->passed++;
	return SK_PASS;
}

SEC("sk_skb/stream_verdict")
int probe_verdict(struct __sk_buff *skb)
{
	return SK_PASS;
}

static __always_inline void peek_psock(struct probe_peek *arg, struct sock *sk)
{
	struct sk_psock *psock = (void *)((__u64)BPF_CORE_READ(sk, sk_user_data) & ~7ULL);
	if (!psock)
		return;
	struct list_head *head = __builtin_preserve_access_index(&psock->ingress_msg);
	arg->msgs_queued = BPF_CORE_READ(head, next) != head;
	arg->skbs_queued = BPF_CORE_READ(psock, ingress_skb.qlen);
}

SEC("syscall")
int probe_read(struct probe_peek *arg)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	arg->tgid = BPF_CORE_READ(task, tgid);
	if (arg->address) {
		__u64 word = 0;
		arg->address_error = bpf_probe_read_kernel(&word, sizeof(word), (void *)arg->address);
		arg->word = word;
	}
	struct tcp_sock *tp = (void *)arg->sock;
	struct sock *sk = (void *)tp;
	if (!tp || (__u64)BPF_CORE_READ(sk, __sk_common.skc_cookie.counter) != arg->cookie)
		return 0;
	arg->found = 1;
	arg->memory_pressure = (__u64)BPF_CORE_READ(sk, __sk_common.skc_prot, memory_pressure);
	arg->copied_seq = BPF_CORE_READ(tp, copied_seq);
	arg->rcv_nxt = BPF_CORE_READ(tp, rcv_nxt);
	arg->rcv_wnd = BPF_CORE_READ(tp, rcv_wnd);
	arg->snd_una = BPF_CORE_READ(tp, snd_una);
	arg->write_seq = BPF_CORE_READ(tp, write_seq);
	arg->rmem_alloc = BPF_CORE_READ(sk, sk_backlog.rmem_alloc.counter);
	arg->rcvbuf = BPF_CORE_READ(sk, sk_rcvbuf);
	peek_psock(arg, sk);
	return 0;
}

SEC("syscall")
int probe_ring(void *arg)
{
	__u64 word = 0x73686f7274;
	return bpf_ringbuf_output(&sh_ring, &word, sizeof(word), 0);
}

SEC("iter/tcp")
int probe_iter(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;
	if (!skc)
		return 0;
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(skc);
	if (!tp)
		return 0;
	struct sock *sk = (void *)tp;
	__u64 cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	struct probe_mark *mark = bpf_map_lookup_elem(&sh_marks, &cookie);
	if (!mark)
		return 0;
	mark->seen++;
	mark->lock_owned = BPF_CORE_READ(sk, sk_lock.owned);
	mark->error = bpf_map_delete_elem(&sh_plain, &cookie);
	return 0;
}

SEC("raw_tp/sched_process_exec")
int probe_exec(struct bpf_raw_tracepoint_args *ctx)
{
	execs_seen++;
	return 0;
}

SEC("cgroup/setsockopt")
int probe_setopt(struct bpf_sockopt *ctx)
{
	/* One option that nobody sets is refused, everything else goes on. */
	return !(ctx->level == 1 /* SOL_SOCKET */ && ctx->optname == 60 /* SO_ZEROCOPY */);
}

SEC("cgroup/connect4")
int probe_connect(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	if (sk)
		bpf_sk_storage_get(&sh_socks, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	return 1;
}
