/* What bpf/l7_harness.bpf.c is given: the test program writes it into the object's memory. */
#ifndef SHUNT_ABI_L7_HARNESS_H
#define SHUNT_ABI_L7_HARNESS_H

#define L7_HARNESS_BYTES_MAX 4096

struct l7_harness_request {
	unsigned int len;
	unsigned int kind; /* of the protocol's begin function */
	unsigned char bytes[L7_HARNESS_BYTES_MAX];
};

#endif
