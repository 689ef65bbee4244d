/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Reads a request with the automaton of a set (bpf/abi/policy.h): the one matcher of the kernel side, of the proxy and of `shunt
 * policy explain`. C11 that is also C++20.
 *
 * Who includes this says first how the tables and the request are reached:
 *   struct sh_policy_view                                              whatever the four functions need
 *   sh_u16 sh_policy_cell(const struct sh_policy_view *, sh_u32 index)        a cell, counted over all blocks; outside of them: 0
 *   struct sh_policy_result sh_policy_result_at(..., sh_u32 index)     likewise; outside: zeroes, which deny
 *   sh_u8 sh_policy_byte(const struct sh_policy_view *, sh_u32 offset) a byte of the request; outside of it: 0
 *
 * Use: begin, method, path, then host and headers in any order, end. What was not given counts as absent (an empty host).
 * Costs one step for each byte given, and one for each condition, however many rules the set has. */
#ifndef SHUNT_POLICY_CORE_AUTOMATON_H
#define SHUNT_POLICY_CORE_AUTOMATON_H

#include <bpf/abi/policy.h>
#include <policy/core/target.h>

struct sh_policy_view;

struct sh_policy_run {
	const struct sh_policy_view *view;
	const struct sh_policy_set *set;
	sh_u32 header_bits;
	sh_u32 names_seen;
	sh_u16 state;
	sh_u8 twice; /* a header with conditions came more than once */
	sh_u8 host_read;
	sh_u32 zero;
};

enum sh_policy_field_kind { SH_POLICY_TEXT, SH_POLICY_PATH, SH_POLICY_HEADER_NAME, SH_POLICY_HEADER_VALUE };

/* A field that is being read. */
struct sh_policy_field {
	const struct sh_policy_view *view;
	const struct sh_policy_set *set;
	sh_u32 offset;
	sh_u16 state;
	sh_u8 kind;
	sh_u8 odd;
	sh_u8 in_query;
	sh_u8 dots; /* of the path's segment so far: 0 to 2 if it has nothing but dots, else 3 */
	sh_u16 zero;
};

SH_POLICY_INLINE sh_u16 sh_policy_next(const struct sh_policy_view *view, const struct sh_policy_set *set, sh_u16 state, sh_u32 column)
{
	return sh_policy_cell(view, set->first_cell + (sh_u32)state * set->columns + column);
}

SH_POLICY_INLINE sh_u16 sh_policy_symbol(const struct sh_policy_run *run, sh_u16 state, sh_u32 symbol)
{
	return sh_policy_next(run->view, run->set, state, run->set->classes + symbol);
}

/* Characters that proxies rewrite in a path before they match it (RFC 3986, 6.2.2, and the URL standard): a path with one of them
 * is not what the server will be asked for. */
SH_POLICY_INLINE sh_u8 sh_policy_is_odd_in_path(sh_u8 c)
{
	const sh_u64 low = 0xffffffffULL | 1ULL << ' ' | 1ULL << '"' | 1ULL << '#' | 1ULL << '%' | 1ULL << '<' | 1ULL << '>';
	const sh_u64 high = 1ULL << ('\\' - 64) | 1ULL << ('^' - 64) | 1ULL << ('`' - 64) | 1ULL << ('{' - 64) |
			    1ULL << ('|' - 64) | 1ULL << ('}' - 64) | 1ULL << (0x7f - 64);

	return c >= 0x80 || (((c < 64 ? low : high) >> (c & 63)) & 1);
}

/* Notes what makes a path differ from its normal form: escapes, empty segments, "." and "..". */
SH_POLICY_INLINE void sh_policy_path_byte(struct sh_policy_field *field, sh_u32 i, sh_u8 c)
{
	if (field->in_query) {
		field->odd |= c <= ' ' || c >= 0x7f || c == '#';
		return;
	}
	field->odd |= sh_policy_is_odd_in_path(c);
	if (c == '/' || c == '?') {
		field->odd |= i == 0 ? c == '?' : (c == '/' && field->dots == 0) || field->dots == 1 || field->dots == 2;
		field->in_query = c == '?';
		field->dots = 0;
	} else if (c == '.' && field->dots < 2) {
		field->dots++;
	} else {
		field->dots = 3;
	}
	field->odd |= i == 0 && c != '/';
}

static long sh_policy_field_step(sh_u32 i, void *context)
{
	struct sh_policy_field *field = (struct sh_policy_field *)context;
	sh_u8 c = sh_policy_byte(field->view, field->offset + i);

	if (field->kind == SH_POLICY_PATH)
		sh_policy_path_byte(field, i, c);
	else if (field->kind == SH_POLICY_TEXT)
		field->odd |= c >= 0x80;
	else if (field->kind == SH_POLICY_HEADER_NAME && c >= 'A' && c <= 'Z')
		c += 'a' - 'A';
	field->state = sh_policy_next(field->view, field->set, field->state, field->set->class_of[c]);
	/* A header that leads nowhere is done; of a request the rest decides whether it is odd. */
	return field->odd || (field->state == 0 && field->kind >= SH_POLICY_HEADER_NAME);
}

/* What a loop changes begins with set->zero, not with 0: Linux 6.1 verifies one turn of a bpf_loop() and takes what is constant
 * before it for constant in all turns. It removed the code that sees a header for the second time. */
SH_POLICY_INLINE struct sh_policy_field sh_policy_field(const struct sh_policy_run *run, sh_u32 offset, sh_u16 state, sh_u8 kind)
{
	sh_u8 zero = (sh_u8)run->set->zero;
	struct sh_policy_field field = {run->view, run->set, offset, state, kind, zero, zero, zero, 0};

	return field;
}

SH_POLICY_INLINE void sh_policy_begin(struct sh_policy_run *run, const struct sh_policy_view *view, const struct sh_policy_set *set)
{
	run->view = view;
	run->set = set;
	run->header_bits = set->zero;
	run->names_seen = set->zero;
	run->state = set->start_request;
	run->twice = (sh_u8)set->zero;
	run->host_read = 0;
	run->zero = 0;
}

SH_POLICY_INLINE void sh_policy_text(struct sh_policy_run *run, sh_u32 offset, sh_u32 length, sh_u8 kind)
{
	struct sh_policy_field field = sh_policy_field(run, offset, run->state, kind);

	if (run->state == 0)
		return;
	if (length > SH_POLICY_FIELD_BYTES_MAX)
		field.odd = 1;
	else
		SH_POLICY_RUN(sh_policy_field_step, length, &field);
	if (kind == SH_POLICY_PATH)
		field.odd |= length == 0 || (!field.in_query && (field.dots == 1 || field.dots == 2));
	if (field.odd)
		field.state = sh_policy_symbol(run, run->state, SH_POLICY_ODD);
	run->state = sh_policy_symbol(run, field.state, SH_POLICY_SEP);
}

SH_POLICY_INLINE void sh_policy_method(struct sh_policy_run *run, sh_u32 offset, sh_u32 length)
{
	sh_policy_text(run, offset, length, SH_POLICY_TEXT);
}

/* The target in origin form, with its query. */
SH_POLICY_INLINE void sh_policy_path(struct sh_policy_run *run, sh_u32 offset, sh_u32 length)
{
	sh_policy_text(run, offset, length, SH_POLICY_PATH);
}

/* Instead of method, path or host: a field of which the caller knows that it is not plain text in its normal form. */
SH_POLICY_INLINE void sh_policy_odd(struct sh_policy_run *run)
{
	if (run->state)
		run->state = sh_policy_symbol(run, sh_policy_symbol(run, run->state, SH_POLICY_ODD), SH_POLICY_SEP);
}

SH_POLICY_INLINE void sh_policy_host(struct sh_policy_run *run, sh_u32 offset, sh_u32 length)
{
	if (run->host_read) {
		run->twice = 1;
		return;
	}
	run->host_read = 1;
	sh_policy_text(run, offset, length, SH_POLICY_TEXT);
}

/* One header, without white space around its value. */
SH_POLICY_INLINE void sh_policy_header(struct sh_policy_run *run, sh_u32 name, sh_u32 name_length, sh_u32 value, sh_u32 value_length)
{
	struct sh_policy_field field = sh_policy_field(run, name, run->set->start_header, SH_POLICY_HEADER_NAME);
	struct sh_policy_result result;

	if (field.state == 0 || name_length > SH_POLICY_FIELD_BYTES_MAX)
		return;
	SH_POLICY_RUN(sh_policy_field_step, name_length, &field);
	field.state = sh_policy_symbol(run, field.state, SH_POLICY_SEP);
	if (field.state == 0)
		return;
	field.offset = value;
	field.kind = SH_POLICY_HEADER_VALUE;
	if (value_length > SH_POLICY_FIELD_BYTES_MAX)
		run->twice = 1;
	else
		SH_POLICY_RUN(sh_policy_field_step, value_length, &field);
	result = sh_policy_result_at(run->view, run->set->first_result + sh_policy_symbol(run, field.state, SH_POLICY_END));
	if (result.name == 0)
		return;
	if (run->names_seen & 1U << ((result.name - 1) & 31))
		run->twice = 1;
	run->names_seen |= 1U << ((result.name - 1) & 31);
	run->header_bits |= result.bits;
}

static long sh_policy_bit_step(sh_u32 i, void *context)
{
	struct sh_policy_run *run = (struct sh_policy_run *)context;

	run->state = sh_policy_symbol(run, run->state, run->header_bits >> (i & 31) & 1 ? SH_POLICY_ONE : SH_POLICY_ZERO);
	return run->state == 0;
}

/* The verdict: deny, allow or punt; `name` holds the reason. */
SH_POLICY_INLINE struct sh_policy_result sh_policy_end(struct sh_policy_run *run)
{
	struct sh_policy_result result;

	if (!run->host_read)
		sh_policy_host(run, 0, 0);
	SH_POLICY_RUN(sh_policy_bit_step, run->set->conditions, run);
	result = sh_policy_result_at(run->view, run->set->first_result + sh_policy_symbol(run, run->state, SH_POLICY_END));
	if (run->twice) {
		result.verdict = SH_POLICY_PUNT;
		result.rule = SH_POLICY_NO_RULE;
		result.name = SH_POLICY_R_HEADER_TWICE;
	} else if (result.verdict != SH_POLICY_PUNT) {
		result.name = result.verdict == SH_POLICY_ALLOW ? SH_POLICY_R_RULE : SH_POLICY_R_NO_REQUEST;
	}
	return result;
}

#endif
