/* Steering: connections to servers whose requests a policy judges, of clients whose programs cannot judge them while they are sent, reach a
 * listening socket of the fallback proxy, at the server's own address. Plain C11 that is also C++20.
 *
 * The user side knows the servers' listening sockets and makes one of the proxy's for each (a slot). In each network namespace with
 * such servers a program looks at every SYN. It knows addresses alone: what it takes for a client from elsewhere is whatever comes
 * from no address of this host, and was not seen to call connect() here; for one of this host, what connect() left a record of. Who such a
 * client is does not follow from that, but from the sequence numbers, when the proxy's end is established. */
#ifndef SHUNT_ABI_STEER_H
#define SHUNT_ABI_STEER_H

#include "shunt.h"

#define SH_STEERS_MAX 1024
#define SH_CALLERS_MAX 16384     /* clients of this host between connect() and their SYN's arrival: microseconds each */
#define SH_STEERED_LOOKS 3       /* a reader of struct sh_steered looks until two looks agree, or so often */
#define SH_OWN_ADDRS_MAX 65536   /* addresses of this host, in all its network namespaces */
#define SH_CLOCK_TICK_NS 10000000 /* of /proc/PID/stat: USER_HZ is 100 */

/* Where a server listens. */
struct sh_steer_key {
	sh_u32 netns;               /* inode */
	sh_u16 port;
	sh_u16 family;
	sh_u8 addr[SH_ADDR_BYTES];  /* all zero: any */
};

struct sh_steer {
	sh_u64 sock;   /* the server's listening socket, a kernel address: good as long as it has the cookie and listens */
	sh_u64 cookie;
	sh_u32 slot;   /* of the proxy's, in sh_steer_socks */
	sh_u32 zero;
};

/* A client of this host, by the address that it calls from. */
struct sh_caller_key {
	sh_u8 addr[SH_ADDR_BYTES];
	sh_u32 port;
	sh_u32 netns; /* inode, of a loopback address, which every namespace has; else 0 */
};

enum sh_caller_kind {
	SH_CALLER_NONE,
	SH_CALLER_JUDGES, /* its program can judge what it sends */
	SH_CALLER_CANNOT, /* it will not be enrolled */
	SH_CALLER_PROXY,
};

struct sh_caller {
	sh_u64 sock;   /* a kernel address: good as long as it has the cookie */
	sh_u64 cookie;
	struct sh_remote remote; /* for whom it stands */
	sh_u32 kind;   /* enum sh_caller_kind */
	sh_u32 zero;
};

enum sh_steered_from {
	SH_STEERED_UNKNOWN,   /* of this host, but nobody knows who */
	SH_STEERED_ELSEWHERE, /* its address tells */
	SH_STEERED_LOCAL,
};

/* Who is at the other end of a steered connection. Kept in the storage of the proxy's socket, which the proxy may read. Written anew for
 * each policy while it may be read: the generation is 0 until the rest is there. */
struct sh_steered {
	sh_u32 generation;
	sh_u32 identity; /* LOCAL: its number in that policy */
	sh_u32 from;     /* enum sh_steered_from: does not change */
	sh_u32 zero;
};

/* The process whose connections the gate takes for judged; none of its own maps. */
struct sh_proxy_process {
	sh_u64 start_ticks; /* of its start, since boot, as in /proc/PID/stat */
	sh_u32 tgid;        /* 0: there is none */
	sh_u32 netns;       /* inode of its network namespace */
};

SH_ASSERT_SIZE(sh_steer_key, 24);
SH_ASSERT_SIZE(sh_steer, 24);
SH_ASSERT_SIZE(sh_caller_key, 24);
SH_ASSERT_SIZE(sh_caller, 40);
SH_ASSERT_SIZE(sh_steered, 16);
SH_ASSERT_SIZE(sh_proxy_process, 16);

#endif
