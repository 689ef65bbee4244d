/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
#ifndef SHUNT_POLICY_CORE_BOTH_H
#define SHUNT_POLICY_CORE_BOTH_H

#include <bpf/abi/policy.h>
#include <policy/core/target.h>

/* Of the verdicts of two directions, the one that holds: a denial before a punt before a permission. */
SH_POLICY_INLINE sh_u8 sh_policy_both(sh_u8 egress, sh_u8 ingress)
{
	if (egress == SH_POLICY_DENY || ingress == SH_POLICY_DENY)
		return SH_POLICY_DENY;
	return egress == SH_POLICY_PUNT || ingress == SH_POLICY_PUNT ? SH_POLICY_PUNT : SH_POLICY_ALLOW;
}

/* Nobody can read a connection in two protocols: such a connection is denied. */
SH_POLICY_INLINE int sh_policy_protocols_differ(const struct sh_policy_entry *egress, const struct sh_policy_entry *ingress)
{
	return egress->verdict == SH_POLICY_RULES && ingress->verdict == SH_POLICY_RULES &&
	       egress->protocol != ingress->protocol;
}

#endif
