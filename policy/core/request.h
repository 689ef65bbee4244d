/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Hands a request that l7parsers/core has read to the matcher of a set. Who includes this says first what policy/core/automaton.h
 * asks for; sh_policy_byte() gives the bytes that the head was read from. */
#ifndef SHUNT_POLICY_CORE_REQUEST_H
#define SHUNT_POLICY_CORE_REQUEST_H

#include <l7parsers/core/http1.h>
#include <l7parsers/core/resp.h>
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

struct sh_policy_resp_run {
	struct sh_policy_run run;
	const struct l7_resp *command;
	struct sh_policy_result result; /* of the keys so far */
	sh_u32 asked;                   /* other than 0: there is a result */
	sh_u16 behind_name;
	sh_u16 zero;
};

/* What the set says of the command with key number `i`; without any key, of the name alone. */
SH_POLICY_INLINE long sh_policy_resp_ask(struct sh_policy_resp_run *resp, sh_u32 i, int with_key)
{
	const struct l7_range *key = &resp->command->keys[l7_bounded(i, L7_RESP_KEYS_MAX - 1)];
	struct sh_policy_run *run = &resp->run;
	struct sh_policy_result result;

	run->state = resp->behind_name;
	if (with_key) {
		run->state = sh_policy_next(run->view, run->set, run->state, run->set->class_of[(sh_u8)SH_POLICY_KEY_MARK]);
		sh_policy_controlled(run, key->off, key->len);
	} else {
		run->state = sh_policy_symbol(run, run->state, SH_POLICY_SEP);
	}
	run->state = sh_policy_symbol(run, run->state, SH_POLICY_SEP); /* the host, which commands do not have */
	result = sh_policy_end(run);
	if (!resp->asked || result.verdict != SH_POLICY_ALLOW)
		resp->result = result;
	resp->asked = 1;
	return result.verdict != SH_POLICY_ALLOW;
}

static long sh_policy_resp_key(sh_u32 i, void *context)
{
	return sh_policy_resp_ask((struct sh_policy_resp_run *)context, i, 1);
}

/* The verdict of `set` on a command of which the end is known: every key must be allowed. One whose keys are not known
 * passes rules that ask for none. Names are read in small letters; a key is any bytes. */
SH_POLICY_INLINE struct sh_policy_result sh_policy_resp(const struct sh_policy_view *view, const struct sh_policy_set *set,
							const struct l7_resp *command)
{
	struct sh_policy_result odd = {0, SH_POLICY_NO_RULE, SH_POLICY_PUNT, SH_POLICY_R_ODD};
	struct sh_policy_resp_run resp;
	struct sh_policy_walk walk;

	if (!command->out.unit_bytes)
		return odd;
	sh_policy_begin(&resp.run, view, set);
	resp.run.host_read = 1;
	resp.command = command;
	resp.result = odd;
	resp.asked = set->zero;
	resp.zero = 0;
	walk = sh_policy_walk_from(&resp.run, resp.run.state, command->name.off, command->name.len, SH_POLICY_SEP);
	walk.first_open = 1;
	SH_POLICY_RUN(sh_policy_name_step, SH_POLICY_TURNS_MAX, &walk);
	resp.behind_name = walk.state;
	if (command->out.verdict == L7_SIMPLE && command->key_count)
		SH_POLICY_RUN(sh_policy_resp_key, command->key_count, &resp);
	else
		sh_policy_resp_ask(&resp, 0, 0);
	return resp.result;
}

#endif
