/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Hands a request that l7parsers/core has read to the matcher of a set. Who includes this says first what policy/core/automaton.h
 * asks for; sh_policy_byte() gives the bytes that the head was read from. */
#ifndef SHUNT_POLICY_CORE_REQUEST_H
#define SHUNT_POLICY_CORE_REQUEST_H

#include <l7parsers/core/http1.h>
#include <policy/core/automaton.h>

struct sh_policy_http1_run {
	struct sh_policy_run run;
	const struct l7_http1 *head;
};

static long sh_policy_http1_header(sh_u32 i, void *context)
{
	struct sh_policy_http1_run *http1 = (struct sh_policy_http1_run *)context;
	const struct l7_http1_header *header = &http1->head->headers[l7_bounded(i, L7_HTTP1_HEADERS_MAX - 1)];

	sh_policy_header(&http1->run, header->name.off, header->name.len, header->value.off, header->value.len);
	return 0;
}

/* The verdict of `set` on the request: deny, allow or punt; `name` holds the reason. What is not a simple request is punted as odd. A
 * path that a server may look up under another name is odd too: rules that look at it punt. */
SH_POLICY_INLINE struct sh_policy_result sh_policy_http1(const struct sh_policy_view *view, const struct sh_policy_set *set,
							 const struct l7_http1 *head)
{
	struct sh_policy_result odd = {0, SH_POLICY_NO_RULE, SH_POLICY_PUNT, SH_POLICY_R_ODD};
	struct sh_policy_http1_run http1;

	if (head->out.verdict != L7_SIMPLE || head->kind != L7_HTTP1_REQUEST)
		return odd;
	http1.head = head;
	sh_policy_begin(&http1.run, view, set);
	/* The parser has seen that all fields are plain: the functions that look for what is not would come to the same. */
	sh_policy_known_method(&http1.run, head->method);
	if (head->flags & L7_F_PATH_ANY)
		sh_policy_odd(&http1.run);
	else
		sh_policy_plain(&http1.run, head->target.off, head->target.len);
	http1.run.host_read = 1;
	sh_policy_plain(&http1.run, head->host.off, head->host.len);
	if (set->names)
		SH_POLICY_RUN(sh_policy_http1_header, head->header_count, &http1);
	return sh_policy_end(&http1.run);
}

#endif
