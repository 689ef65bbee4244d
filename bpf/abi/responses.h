/* How requests were answered, by who asked whom: what metrics with Istio's names are made of. Plain C11 that is also C++20; no padding
 * that is not named. All integers are in host order. */
#ifndef SHUNT_ABI_RESPONSES_H
#define SHUNT_ABI_RESPONSES_H

#include "shunt.h"

#define SH_RESPONSES_MAX 16384 /* combinations; further ones are counted as responses_not_told */

/* Upper bounds of the durations counted together, in microseconds: those of Istio's histogram. What lasts longer is in one more. */
#define SH_RESPONSE_BOUNDS_US                                                                                                   \
	500, 1000, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000, 30000000, 60000000,        \
		300000000, 600000000, 1800000000, 3600000000
#define SH_RESPONSE_BOUNDS 19

enum sh_response_flags {
	SH_RESPONSE_FROM_REMOTE = 1 << 0, /* the client is on another host, the gateway stands for it */
	SH_RESPONSE_TO_REMOTE = 1 << 1,   /* so is the server */
};

struct sh_response_key {
	sh_u32 generation; /* of the policy by which the identities are meant */
	sh_u32 client;     /* identity */
	sh_u32 server;     /* identity */
	sh_u16 port;       /* where the server listens */
	sh_u16 status;     /* of the response; 0: there was none, the connection ended */
	sh_u32 flags;      /* enum sh_response_flags */
};

struct sh_response_sum {
	sh_u64 requests;
	sh_u64 duration_us; /* of all of them, from the request to the beginning of its response */
	sh_u64 within[SH_RESPONSE_BOUNDS + 1]; /* how many took at most so long, and longer than the bound before */
};

SH_ASSERT_SIZE(sh_response_key, 20);
SH_ASSERT_SIZE(sh_response_sum, 16 + 8 * (SH_RESPONSE_BOUNDS + 1));

#endif
