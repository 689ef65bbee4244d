/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What differs between the kernel (BPF) and userspace: as for the parsers, whose loop this is. */
#ifndef SHUNT_POLICY_CORE_TARGET_H
#define SHUNT_POLICY_CORE_TARGET_H

#include <l7parsers/core/target.h>

#define SH_POLICY_INLINE L7_INLINE

/* Runs long step(index, context) at most `steps` times, until it returns other than 0. */
#define SH_POLICY_RUN(step, steps, context) L7_RUN(step, steps, context)

#endif
