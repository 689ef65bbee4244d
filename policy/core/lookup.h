/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Asks the tables about a connection (bpf/abi/policy.h), at most six look-ups for each direction. Who includes this says first
 * how they are reached:
 *   struct sh_policy_view
 *   int sh_policy_find_subject(const struct sh_policy_view *, const struct sh_policy_subject_key *, struct sh_policy_subject *)
 *   int sh_policy_find_entry(const struct sh_policy_view *, const struct sh_policy_key *, struct sh_policy_entry *)
 *       copy what they find and return 1; otherwise they return 0
 *   sh_u16 sh_policy_first_port(const struct sh_policy_view *, sh_u8 half, sh_u16 port) */
#ifndef SHUNT_POLICY_CORE_LOOKUP_H
#define SHUNT_POLICY_CORE_LOOKUP_H

#include <bpf/abi/policy.h>
#include <policy/core/target.h>

struct sh_policy_view;

/* What the policy of `subject` says about its connection with `peer` to the server's `port` (host order). */
SH_POLICY_INLINE struct sh_policy_entry sh_policy_ask(const struct sh_policy_view *view, sh_u8 half, sh_u8 direction, sh_u32 subject,
						      sh_u32 peer, sh_u16 port)
{
	struct sh_policy_subject_key subject_key = {subject, direction, half, 0};
	struct sh_policy_entry entry = {0, 0, SH_POLICY_ALLOW, SH_POLICY_R_NOT_ENFORCED, 0};
	struct sh_policy_key key = {0, peer, 0, 0};
	struct sh_policy_subject found;
	sh_u16 first_port;

	if (!sh_policy_find_subject(view, &subject_key, &found))
		return entry;
	first_port = sh_policy_first_port(view, half, port);
	key.table = found.table;
	for (int i = 0; i < 4; i++) {
		key.peer = i < 2 ? peer : SH_IDENTITY_ANY;
		key.port = i & 1 ? 0 : first_port;
		if (sh_policy_find_entry(view, &key, &entry))
			return entry;
	}
	entry.set = 0;
	entry.origin = 0;
	entry.verdict = SH_POLICY_DENY;
	entry.reason = SH_POLICY_R_DEFAULT;
	entry.protocol = 0;
	return entry;
}

#endif
