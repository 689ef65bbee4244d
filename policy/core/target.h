/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What differs between the kernel (BPF) and userspace; nothing else in core/ asks for whom it is compiled. */
#ifndef SHUNT_POLICY_CORE_TARGET_H
#define SHUNT_POLICY_CORE_TARGET_H

#define SH_POLICY_INLINE static inline __attribute__((always_inline))

/* Runs long step(index, context) at most `steps` times, until it returns other than 0. */
#ifdef __bpf__
#define SH_POLICY_RUN(step, steps, context) bpf_loop(steps, step, context, 0)
#else
#define SH_POLICY_RUN(step, steps, context)                                                                                \
	do {                                                                                                               \
		for (sh_u32 sh_policy_index = 0; sh_policy_index < (steps); sh_policy_index++)                             \
			if (step(sh_policy_index, context))                                                                \
				break;                                                                                     \
	} while (0)
#endif

#endif
