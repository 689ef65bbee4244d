/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Reads a request with the automaton of a set (bpf/abi/policy.h): the one matcher of the kernel side, of the proxy and of `shunt
 * policy explain`. C11 that is also C++20.
 *
 * Who includes this says first how the tables and the request are reached:
 *   struct sh_policy_view                                              whatever the three functions need
 *   const struct sh_policy_block *sh_policy_block(const struct sh_policy_view *, sh_u32 number)     null: there is none
 *   struct sh_policy_result sh_policy_result_at(..., sh_u32 index)     likewise; outside: zeroes, which deny
 *   sh_u8 sh_policy_byte(const struct sh_policy_view *, sh_u32 offset) a byte of the request; outside of it: 0
 *
 * Use: begin, method, path, then host and headers in any order, end. What was not given counts as absent (an empty host).
 * Costs at most one step for each byte given, and one for each condition, however many rules the set has. */
#ifndef SHUNT_POLICY_CORE_AUTOMATON_H
#define SHUNT_POLICY_CORE_AUTOMATON_H

#include <bpf/abi/policy.h>
#include <policy/core/names.h>
#include <policy/core/target.h>

/* Bytes that are read in one turn of a loop: a turn costs as much as some bytes. */
#define SH_POLICY_STEP_BYTES 16

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

/* A field that the automaton reads. */
struct sh_policy_walk {
	const struct sh_policy_view *view;
	const struct sh_policy_set *set;
	sh_u32 offset;
	sh_u32 end;
	sh_u32 last; /* the column that is read behind the field */
	sh_u16 state;
	sh_u16 first_open; /* below it, only `last` is read yet */
};

/* A field that is looked at before: is it plain text, in its normal form? */
struct sh_policy_field {
	const struct sh_policy_view *view;
	sh_u32 offset;
	sh_u8 path;
	sh_u8 odd;
	sh_u8 control; /* it has control characters */
	sh_u8 in_query;
	sh_u32 dots; /* of the path's segment so far: 0 to 2 if it has nothing but dots, else 3 */
};

/* A cell, counted over all blocks; outside of them: 0. */
SH_POLICY_INLINE sh_u16 sh_policy_cell(const struct sh_policy_view *view, sh_u32 index)
{
	const struct sh_policy_block *block = sh_policy_block(view, index / SH_POLICY_BLOCK_CELLS);

	return block ? block->cells[l7_bounded(index, SH_POLICY_BLOCK_CELLS - 1)] : 0;
}

SH_POLICY_INLINE sh_u16 sh_policy_next(const struct sh_policy_view *view, const struct sh_policy_set *set, sh_u16 state, sh_u32 column)
{
	return sh_policy_cell(view, set->first_cell + ((sh_u32)state << (set->row_shift & 15)) + column);
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

	if (field->path)
		sh_policy_path_byte(field, i, c);
	else
		field->odd |= c >= 0x80;
	field->control |= c < ' ' || c == 0x7f;
	return field->odd;
}

/* Capital letters become small ones. Without a branch: there would be one for each byte of a turn, and the verifier follows all
 * combinations ("The sequence of 8193 jumps is too complex"). */
SH_POLICY_INLINE sh_u8 sh_policy_folded(sh_u8 c)
{
	return (sh_u8)(c + (~(((sh_u32)c - 'A') | ('Z' - (sh_u32)c)) >> 31 << 5));
}

/* Where it reads comes from the number of the turn: an offset that is kept from turn to turn has other bounds in each, and the
 * verifier goes through all of them. A block is looked up when another one begins: a look-up for each byte took half of the time. */
SH_POLICY_INLINE long sh_policy_walk_turn(struct sh_policy_walk *walk, sh_u32 turn, int fold)
{
	const struct sh_policy_set *set = walk->set;
	const struct sh_policy_block *block = 0;
	sh_u32 offset = walk->offset + turn * SH_POLICY_STEP_BYTES, end = walk->end, first_open = walk->first_open;
	sh_u32 state = walk->state, number = ~0U;
	int last = 0;

	for (sh_u32 i = 0; i <= SH_POLICY_STEP_BYTES; i++) {
		sh_u8 c = sh_policy_byte(walk->view, offset + i);
		sh_u32 column = set->class_of[fold ? sh_policy_folded(c) : c];
		sh_u32 index;

		if (state < first_open || offset + i >= end) {
			column = walk->last;
			last = 1;
		} else if (i == SH_POLICY_STEP_BYTES) {
			break;
		}
		index = set->first_cell + (state << (set->row_shift & 15)) + column;
		if (!block || index / SH_POLICY_BLOCK_CELLS != number) { /* the former for Linux 6.1, which compares only constants */
			number = index / SH_POLICY_BLOCK_CELLS;
			block = sh_policy_block(walk->view, number);
			if (!block) {
				walk->state = 0;
				return 1;
			}
		}
		state = block->cells[l7_bounded(index, SH_POLICY_BLOCK_CELLS - 1)];
		if (last)
			break;
	}
	walk->state = (sh_u16)state;
	return last;
}

static long sh_policy_walk_step(sh_u32 turn, void *context)
{
	return sh_policy_walk_turn((struct sh_policy_walk *)context, turn, 0);
}

static long sh_policy_name_step(sh_u32 turn, void *context)
{
	return sh_policy_walk_turn((struct sh_policy_walk *)context, turn, 1);
}

#define SH_POLICY_TURNS_MAX (SH_POLICY_FIELD_BYTES_MAX / SH_POLICY_STEP_BYTES + 1)

SH_POLICY_INLINE struct sh_policy_walk sh_policy_walk_from(const struct sh_policy_run *run, sh_u16 state, sh_u32 offset, sh_u32 length,
							   sh_u32 symbol)
{
	struct sh_policy_walk walk = {run->view, run->set, offset, offset + length, run->set->classes + symbol, state,
				      run->set->first_open};

	return walk;
}

/* The cell that `length` bytes and then the symbol lead to. */
SH_POLICY_INLINE sh_u16 sh_policy_walk(const struct sh_policy_run *run, sh_u16 state, sh_u32 offset, sh_u32 length, sh_u32 symbol)
{
	struct sh_policy_walk walk = sh_policy_walk_from(run, state, offset, length, symbol);

	SH_POLICY_RUN(sh_policy_walk_step, SH_POLICY_TURNS_MAX, &walk);
	return walk.state;
}

/* What a loop changes begins with set->zero, not with 0: Linux 6.1 verifies one turn of a bpf_loop() and takes what is constant
 * before it for constant in all turns. It removed the code that sees a header for the second time. */
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

/* A field of at most SH_POLICY_FIELD_BYTES_MAX bytes that is known to be printable ASCII (0x20 to 0x7e) in its normal form. */
SH_POLICY_INLINE void sh_policy_plain(struct sh_policy_run *run, sh_u32 offset, sh_u32 length)
{
	run->state = sh_policy_walk(run, run->state, offset, length, SH_POLICY_SEP);
}

/* Likewise, but it may have control characters: these may lead out of any state but 0. */
SH_POLICY_INLINE void sh_policy_controlled(struct sh_policy_run *run, sh_u32 offset, sh_u32 length)
{
	struct sh_policy_walk walk = sh_policy_walk_from(run, run->state, offset, length, SH_POLICY_SEP);

	walk.first_open = 1;
	SH_POLICY_RUN(sh_policy_walk_step, SH_POLICY_TURNS_MAX, &walk);
	run->state = walk.state;
}

/* Instead of method, path or host: a field of which the caller knows that it is not plain text in its normal form. */
SH_POLICY_INLINE void sh_policy_odd(struct sh_policy_run *run)
{
	run->state = sh_policy_symbol(run, sh_policy_symbol(run, run->state, SH_POLICY_ODD), SH_POLICY_SEP);
}

SH_POLICY_INLINE void sh_policy_text(struct sh_policy_run *run, sh_u32 offset, sh_u32 length, sh_u8 path)
{
	sh_u8 zero = (sh_u8)run->set->zero;
	struct sh_policy_field field = {run->view, offset, path, zero, zero, zero, zero};

	if (length > SH_POLICY_FIELD_BYTES_MAX)
		field.odd = 1;
	else
		SH_POLICY_RUN(sh_policy_field_step, length, &field);
	if (path)
		field.odd |= length == 0 || (!field.in_query && (field.dots == 1 || field.dots == 2));
	if (field.odd)
		sh_policy_odd(run);
	else if (field.control)
		sh_policy_controlled(run, offset, length);
	else
		sh_policy_plain(run, offset, length);
}

SH_POLICY_INLINE void sh_policy_method(struct sh_policy_run *run, sh_u32 offset, sh_u32 length)
{
	sh_policy_text(run, offset, length, 0);
}

/* Instead of the method its number, other than 0: below SH_POLICY_METHODS, in the order of l7_http1_method. */
SH_POLICY_INLINE void sh_policy_known_method(struct sh_policy_run *run, sh_u32 method)
{
	run->state = run->set->after_method[method & (SH_POLICY_METHODS - 1)];
}

/* The target in origin form, with its query. */
SH_POLICY_INLINE void sh_policy_path(struct sh_policy_run *run, sh_u32 offset, sh_u32 length)
{
	sh_policy_text(run, offset, length, 1);
}

SH_POLICY_INLINE void sh_policy_host(struct sh_policy_run *run, sh_u32 offset, sh_u32 length)
{
	if (run->host_read) {
		run->twice = 1;
		return;
	}
	run->host_read = 1;
	sh_policy_text(run, offset, length, 0);
}

/* May conditions look at the header? Most headers cost only this. */
SH_POLICY_INLINE int sh_policy_may_matter(const struct sh_policy_run *run, sh_u32 name, sh_u32 name_length)
{
	sh_u8 first = sh_policy_byte(run->view, name), last = sh_policy_byte(run->view, name + name_length - 1);

	return run->set->names >> sh_policy_name_bit(first, last, name_length) & 1;
}

/* One header, without white space around its value. */
SH_POLICY_INLINE void sh_policy_header(struct sh_policy_run *run, sh_u32 name, sh_u32 name_length, sh_u32 value, sh_u32 value_length)
{
	struct sh_policy_walk walk = sh_policy_walk_from(run, run->set->start_header, name, name_length, SH_POLICY_SEP);
	struct sh_policy_result result;
	sh_u16 number;

	if (name_length == 0 || name_length > SH_POLICY_FIELD_BYTES_MAX || !sh_policy_may_matter(run, name, name_length))
		return;
	SH_POLICY_RUN(sh_policy_name_step, SH_POLICY_TURNS_MAX, &walk);
	if (walk.state == 0)
		return;
	if (value_length > SH_POLICY_FIELD_BYTES_MAX) {
		run->twice = 1;
		value_length = 0;
	}
	number = sh_policy_walk(run, walk.state, value, value_length, SH_POLICY_END);
	result = sh_policy_result_at(run->view, run->set->first_result + number);
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
		sh_policy_plain(run, 0, 0);
	if (run->set->conditions)
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
