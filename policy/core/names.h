/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
#ifndef SHUNT_POLICY_CORE_NAMES_H
#define SHUNT_POLICY_CORE_NAMES_H

#include <bpf/abi/policy.h>
#include <policy/core/target.h>

/* Which bit of sh_policy_set.names a header has, by the first and the last byte of its name and its length; its case does not
 * matter. Different names may come to the same bit, equal ones always do. */
SH_POLICY_INLINE sh_u32 sh_policy_name_bit(sh_u8 first, sh_u8 last, sh_u32 length)
{
	return ((first | 0x20U) * 3 + (last | 0x20U) + length * 7) & 63;
}

#endif
