// SPDX-License-Identifier: GPL-2.0-only
/* setsockopt on enrolled sockets: options that a redirected socket cannot keep stop the shortcut for that socket; those that would
 * break it are refused, with the errno of a kernel that does not have them. Options set before ESTABLISHED keep a socket out. */
#ifndef SHUNT_OPTIONS_BPF_H
#define SHUNT_OPTIONS_BPF_H

#include "events.bpf.h"

/* include/uapi/asm-generic/socket.h, include/uapi/linux/tcp.h */
#define SO_RCVLOWAT 18
#define SO_ATTACH_FILTER 26
#define SO_TIMESTAMP_OLD 29
#define SO_TIMESTAMPNS_OLD 35
#define SO_TIMESTAMPING_OLD 37
#define SO_PEEK_OFF 42
#define SO_MAX_PACING_RATE 47
#define SO_ATTACH_BPF 50
#define SO_ZEROCOPY 60
#define SO_TXTIME 61
#define SO_TIMESTAMP_NEW 63
#define SO_TIMESTAMPNS_NEW 64
#define SO_TIMESTAMPING_NEW 65
#define SOL_TLS 282
#define TCP_REPAIR 19
#define TCP_ULP 31
#define TCP_INQ 36

static __always_inline enum sh_reason sh_option_reason(int level, int name)
{
	if (level == SOL_TCP)
		return name == TCP_ULP ? SH_R_ULP : name == TCP_INQ || name == TCP_REPAIR ? SH_R_SOCKET_OPTION : SH_R_NONE;
	if (level != SOL_SOCKET)
		return SH_R_NONE;
	switch (name) {
	case SO_ZEROCOPY: return SH_R_ZEROCOPY;
	case SO_RCVLOWAT: return SH_R_RCVLOWAT;
	case SO_TIMESTAMP_OLD:
	case SO_TIMESTAMPNS_OLD:
	case SO_TIMESTAMPING_OLD:
	case SO_TIMESTAMP_NEW:
	case SO_TIMESTAMPNS_NEW:
	case SO_TIMESTAMPING_NEW: return SH_R_TIMESTAMP;
	case SO_ATTACH_FILTER:
	case SO_ATTACH_BPF:
	case SO_PEEK_OFF:
	case SO_MAX_PACING_RATE:
	case SO_TXTIME: return SH_R_SOCKET_OPTION;
	}
	return SH_R_NONE;
}

/* The errno that refuses the option, as a kernel without it would; 0: it is not refused. */
static __always_inline int sh_option_errno(int level, int name)
{
	if (level == SOL_TCP)
		return name == TCP_ULP ? ENOENT : name == TCP_INQ ? ENOPROTOOPT : 0;
	switch (name) {
	case SO_ZEROCOPY:
	case SO_PEEK_OFF: return EOPNOTSUPP;
	case SO_TIMESTAMP_OLD:
	case SO_TIMESTAMPNS_OLD:
	case SO_TIMESTAMPING_OLD:
	case SO_TIMESTAMP_NEW:
	case SO_TIMESTAMPNS_NEW:
	case SO_TIMESTAMPING_NEW: return ENOPROTOOPT;
	}
	return 0;
}

/* Turning an option off is always allowed: SO_PEEK_OFF with -1, the others with 0. */
static __always_inline bool sh_turns_off(struct bpf_sockopt *ctx)
{
	int *value = ctx->optval;

	if ((void *)(value + 1) > ctx->optval_end)
		return false;
	return ctx->level == SOL_SOCKET && ctx->optname == SO_PEEK_OFF ? *value < 0 : *value == 0;
}

SEC("cgroup/setsockopt")
int sh_setsockopt(struct bpf_sockopt *ctx)
{
	enum sh_reason reason = sh_option_reason(ctx->level, ctx->optname);
	struct sh_config *cfg;
	struct sh_sock *st;
	int refusal;

	if (ctx->level == SOL_TLS)
		ctx->optlen = 0; /* Keys: the kernel takes them from the process, not from its copy for us, of which 7.2 warns. */
	if (!reason || !ctx->sk)
		return 1;
	cfg = sh_config();
	st = bpf_sk_storage_get(&sh_sockets, ctx->sk, 0, 0);
	if (!st || !cfg || !(st->flags & SH_SOCK_IN_MAP))
		return 1;
	if (reason != SH_R_ULP && sh_turns_off(ctx))
		return 1;
	refusal = sh_option_errno(ctx->level, ctx->optname);
	if (refusal) {
		bpf_set_retval(-refusal);
		return 0;
	}
	st->shared.rx_stopped = reason;
	st->state = SH_STATE_STOPPED;
	st->reason = reason;
	sh_count_reason(reason);
	sh_tell(cfg, st, SH_EV_STOPPED, reason);
	return 1;
}

#endif
