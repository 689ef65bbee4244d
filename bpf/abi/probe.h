/* The contract of the kernel's self-test: bpf/probe.bpf.c and sockops/probe*.cpp. Nothing of it is pinned or outlives a run. */
#ifndef SHUNT_ABI_PROBE_H
#define SHUNT_ABI_PROBE_H

#include "shunt.h"

enum probe_map {
	PROBE_MAP_NONE = 0,
	PROBE_MAP_PLAIN = 1,   /* the sockhash with an sk_msg program only */
	PROBE_MAP_VERDICT = 2, /* the sockhash with the pass-all verdict as well */
};

enum probe_mode {
	PROBE_PASS = 0,     /* through TCP */
	PROBE_REDIRECT = 1, /* into the peer */
};

/* What happens to the sockets that are made from now on. */
struct probe_config {
	sh_u32 map_active;  /* enum probe_map of the connecting end */
	sh_u32 map_passive; /* ... and of the accepting end */
	sh_u32 rtt_delete;  /* 1: an active socket leaves its map at the first BPF_SOCK_OPS_RTT_CB */
	sh_u32 pad;
};

/* Socket storage. Written by sock_ops and sk_msg, and by the user side between two calls on the socket. */
struct probe_sock {
	sh_u64 cookie;
	sh_u64 sock; /* struct tcp_sock */
	sh_u64 peer_cookie;
	sh_u32 snd_nxt; /* at ESTABLISHED */
	sh_u32 rcv_nxt;
	sh_u32 op;   /* BPF_SOCK_OPS_*_ESTABLISHED_CB */
	sh_u32 map;  /* enum probe_map */
	sh_u32 mode; /* enum probe_mode */
	sh_s32 update_error;
	sh_u32 redirected; /* messages */
	sh_u32 passed;
	sh_u32 failed;
	sh_u32 rtt_calls;
	sh_s32 delete_error; /* of the delete at RTT_CB */
	sh_u32 rtt_delete; /* probe_config's, at ESTABLISHED */
};

/* Argument and answer of the program that reads kernel memory. */
struct probe_peek {
	sh_u64 sock;    /* in: struct tcp_sock; 0: none */
	sh_u64 cookie;  /* in: must be this socket's */
	sh_u64 address; /* in: read eight bytes from here; 0: do not */
	sh_u64 word;    /* out: those eight bytes */
	sh_u64 memory_pressure; /* the protocol's: the address of an unsigned long */
	sh_s32 address_error;
	sh_u32 tgid; /* of the caller, in the initial pid namespace */
	sh_u32 found;
	sh_u32 copied_seq;
	sh_u32 rcv_nxt;
	sh_u32 rcv_wnd;
	sh_u32 snd_una;
	sh_u32 write_seq;
	sh_s32 rmem_alloc;
	sh_s32 rcvbuf;
	sh_u32 msgs_queued; /* 1: messages wait in the psock */
	sh_u32 skbs_queued; /* packets that wait in the psock for room */
};

/* What the listen callback saw. */
struct probe_listen {
	sh_u32 calls;
	sh_u32 tgid;
	sh_u32 port;
	sh_u32 pad;
	char program[SH_PROGRAM_NAME_BYTES];
};

/* Value of the map of sockets that the iterator shall delete from the sockhash. */
struct probe_mark {
	sh_u32 seen;
	sh_s32 error;
	sh_u32 lock_owned; /* the socket lock was held by a process */
	sh_u32 pad;
};

SH_ASSERT_SIZE(probe_sock, 72);
SH_ASSERT_SIZE(probe_peek, 88);

#endif
