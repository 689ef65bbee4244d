/* Steering: connections from elsewhere to servers whose requests a policy judges reach a listening socket of the fallback proxy, at the
 * server's own address. Plain C11 that is also C++20.
 *
 * The user side knows the servers' listening sockets and makes one of the proxy's for each (a slot). In each network namespace with
 * such servers a program looks at every SYN. It knows addresses alone, so what it takes for a client from elsewhere is whatever comes
 * from no address of this host, and was not seen to call connect() here. */
#ifndef SHUNT_ABI_STEER_H
#define SHUNT_ABI_STEER_H

#include "shunt.h"

#define SH_STEERS_MAX 1024
#define SH_CALLERS_MAX 16384     /* clients of this host between connect() and their SYN's arrival: microseconds each */
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
};

/* The process whose connections the gate takes for judged; none of its own maps. */
struct sh_proxy_process {
	sh_u64 start_ticks; /* of its start, since boot, as in /proc/PID/stat */
	sh_u32 tgid;        /* 0: there is none */
	sh_u32 zero;
};

SH_ASSERT_SIZE(sh_steer_key, 24);
SH_ASSERT_SIZE(sh_steer, 24);
SH_ASSERT_SIZE(sh_caller_key, 20);
SH_ASSERT_SIZE(sh_proxy_process, 16);

#endif
