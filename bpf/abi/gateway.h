/* Connections that leave the host or come from another one, as far as the kernel side takes part: whose sockets are the gateway's, for
 * whom they stand, which services it carries connections to, and which of this host's take connections of other hosts from it alone. Plain
 * C11 that is also C++20; integers in host order, addresses as in shunt.h. */
#ifndef SHUNT_ABI_GATEWAY_H
#define SHUNT_ABI_GATEWAY_H

#include "shunt.h"

#define SH_SERVICES_MAX 131072
#define SH_ADMISSIONS_MAX 65536

/* The gateway that shuntd has admitted: a socket is its own if it has both. Crossing layout, as sh_remote and sh_dialled. */
struct sh_gateway {
	sh_u64 cgroup;  /* id */
	sh_u32 uid;
	sh_u32 present; /* 0: there is none */
};

/* An address that local processes dial. */
struct sh_service_key {
	sh_u8 addr[SH_ADDR_BYTES];
	sh_u16 port;
	sh_u16 zero[3];
};

struct sh_service {
	struct sh_remote remote; /* who the workload behind it is */
	sh_u8 gateway[SH_ADDR_BYTES]; /* where the gateway takes connections for it, of the same family ... */
	sh_u16 port;             /* ... and this port */
	sh_u16 strict;           /* 1: nobody reaches it in another way */
	sh_u32 zero;
};

/* Which plaintext connections a port takes. Looked up by (address, port) first, then by (namespace, port). */
struct sh_admission_key {
	sh_u8 addr[SH_ADDR_BYTES]; /* all zero: every address of the namespace */
	sh_u32 netns; /* inode; 0: with an address, wherever it is; without one, the row only says that there are others for this port */
	sh_u16 port;
	sh_u16 zero;
};

enum sh_admission {
	SH_ADMIT_ALL = 1,
	SH_ADMIT_LOCAL = 2, /* of this host, the gateway's among them: the service is strict */
};

/* What a client dialled before its connection was turned to the gateway: in the storage of both ends. */
struct sh_dialled {
	struct sh_remote remote;
	sh_u8 addr[SH_ADDR_BYTES];
	sh_u16 port;
	sh_u16 accepted; /* 1: of the gateway's end */
	sh_u32 zero;
};

SH_ASSERT_SIZE(sh_gateway, 16);
SH_ASSERT_SIZE(sh_service_key, 24);
SH_ASSERT_SIZE(sh_service, 40);
SH_ASSERT_SIZE(sh_admission_key, 24);
SH_ASSERT_SIZE(sh_dialled, 40);

#endif
