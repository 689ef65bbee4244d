/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Commands of the Redis serialization protocol: arrays of bulk strings, alike in RESP2 and RESP3. What servers answer:
 * resp_reply.h.
 *
 *     struct l7_resp command;
 *     l7_resp_begin(&command);
 *     l7_resp_parse(&command, &input);     again with a longer input of the same beginning while INCOMPLETE
 *
 * SIMPLE as soon as the name, all keys and the lengths of all arguments have been seen. A last argument that is no key is opaque,
 * its end included: servers take it by its length. What follows unit_bytes is the next command.
 *
 * Where every server finds the same end, but what the command does to which keys is not told by its arguments alone, or
 * it changes what comes later, the verdict is PUNT with unit_bytes: whoever has rules about names alone can decide by
 * `name`. */
#ifndef SHUNT_L7_RESP_H
#define SHUNT_L7_RESP_H

#include <l7parsers/core/outcome.h>
#include <l7parsers/core/resp_commands.h>
#include <l7parsers/core/text.h>

#define L7_RESP_KEYS_MAX 16 /* a power of two */
#define L7_RESP_COUNT_DIGITS_MAX 7
#define L7_RESP_LENGTH_DIGITS_MAX 9 /* 512 MiB, which is what a server takes */
/* A step takes one line or one string. */
#define L7_RESP_STEPS_MAX (L7_WINDOW_BYTES / 2)

enum l7_resp_state {
	L7_RESP_ARRAY,  /* the line with the number of arguments is next */
	L7_RESP_LENGTH, /* the line with the length of an argument is next */
	L7_RESP_STRING, /* the argument itself is next */
};

struct l7_resp {
	struct l7_outcome out;

	/* Of the scan; not for others. */
	l7_u32 state;  /* enum l7_resp_state */
	l7_u32 index;  /* of the current argument */
	l7_u32 length; /* of the current argument */
	l7_u32 next_key; /* number of the next argument that is a key */
	l7_u32 last_key; /* number of the last one; less than next_key: none is left */
	l7_u32 key_step;
	enum l7_reason doubt; /* why it is not simple, though its end is found */

	/* Valid when SIMPLE, and but for the keys whenever unit_bytes is not 0. */
	l7_u32 argument_count; /* the name included */
	l7_u16 command;        /* of l7_resp_commands; L7_RESP_COMMAND_COUNT: it is not there */
	l7_u16 key_count;
	struct l7_range name; /* as it came; its case means nothing */
	struct l7_range keys[L7_RESP_KEYS_MAX];
};

struct l7_resp_run {
	struct l7_resp *command;
	const struct l7_input *in;
};

L7_INLINE void l7_resp_begin(struct l7_resp *p)
{
	__builtin_memset(p, 0, sizeof(*p));
	l7_begin(&p->out);
}

/* For a command that begins at this offset of the input: all offsets, and unit_bytes, count from the input's beginning. */
L7_INLINE void l7_resp_begin_at(struct l7_resp *p, l7_u32 off)
{
	l7_resp_begin(p);
	p->out.at = off;
}

/* What a - b - borrow borrows. The search and what leads to it have no branches: at each one the verifier goes both ways, and these
 * ways never meet again (Linux 7.2: "BPF program is too large"). */
L7_INLINE l7_u64 l7_resp_borrow(l7_u64 a, l7_u64 b, l7_u64 borrow)
{
	return ((~a & b) | (~(a ^ b) & (a - b - borrow))) >> 63;
}

/* 1 if this folded name stands at the place of command `index` or behind it, else 0. */
L7_INLINE l7_u32 l7_resp_not_before(l7_u64 high, l7_u64 low, l7_u32 index)
{
	const struct l7_resp_command *entry = &l7_resp_commands[index];

	return 1 - (l7_u32)l7_resp_borrow(high, entry->high, l7_resp_borrow(low, entry->low, 0));
}

/* The number of the command with this folded name; L7_RESP_COMMAND_COUNT if there is none. */
L7_INLINE l7_u32 l7_resp_find(l7_u64 high, l7_u64 low)
{
	l7_u32 index = 0;

	for (l7_u32 step = L7_RESP_TABLE_ROWS / 2; step; step /= 2) {
		l7_u32 next = (l7_u32)l7_bounded(index + step, L7_RESP_TABLE_ROWS - 1);
		l7_u32 is_row = (next - L7_RESP_COMMAND_COUNT) >> 31;

		index += step * (is_row & l7_resp_not_before(high, low, next));
	}
	index = (l7_u32)l7_bounded(index, L7_RESP_TABLE_ROWS - 1);
	if (l7_resp_commands[index].high != high || l7_resp_commands[index].low != low)
		return L7_RESP_COMMAND_COUNT;
	return index;
}

/* Argument 0, whole in the input from `off`: which command, and where are its keys? Returns why it is not simple. */
L7_INLINE enum l7_reason l7_resp_name(struct l7_resp *p, const struct l7_input *in, l7_u32 off)
{
	const struct l7_resp_command *entry;
	l7_u64 high = 0, low = 0;
	l7_u32 index, last, outside = 0;

	p->command = L7_RESP_COMMAND_COUNT;
	p->name.off = (l7_u16)off;
	p->name.len = (l7_u16)p->length;
	if (p->length > L7_RESP_NAME_BYTES_MAX)
		return L7_R_RESP_COMMAND;
	for (l7_u32 i = 0; i < L7_RESP_NAME_BYTES_MAX; i++) {
		l7_u64 inside = 0 - (l7_u64)((i - p->length) >> 31);
		l7_u8 byte = l7_byte_unbranched(in, off + i);

		/* Negative outside '-' to '~', where bytes fold to others than their case. */
		outside |= (((l7_u32)byte - '-') | ('~' - (l7_u32)byte)) & (l7_u32)inside;
		high ^= (high ^ (high << 8 | low >> 56)) & inside;
		low ^= (low ^ (low << 8 | byte)) & inside;
	}
	index = l7_resp_find(L7_FOLDED(high), L7_FOLDED(low));
	if (outside >> 31 || index >= L7_RESP_COMMAND_COUNT)
		return L7_R_RESP_COMMAND;
	entry = &l7_resp_commands[l7_bounded(index, L7_RESP_TABLE_ROWS - 1)];
	p->command = (l7_u16)index;
	if (entry->reason)
		return (enum l7_reason)entry->reason;
	last = entry->last < 0 ? p->argument_count - (l7_u32)-entry->last : (l7_u32)entry->last;
	if (entry->first && (p->argument_count <= entry->first || last < entry->first || last >= p->argument_count))
		return L7_R_RESP_ARITY;
	p->next_key = entry->first;
	p->key_step = entry->step;
	p->last_key = last;
	return L7_R_NONE;
}

L7_INLINE int l7_resp_is_key(const struct l7_resp *p)
{
	return p->index && p->key_step && p->index == p->next_key && p->index <= p->last_key;
}

L7_INLINE void l7_resp_key(struct l7_resp *p, l7_u32 off)
{
	if (p->key_count >= L7_RESP_KEYS_MAX) {
		p->doubt = L7_R_RESP_KEYS_MANY;
		p->key_step = 0;
		return;
	}
	p->keys[p->key_count & (L7_RESP_KEYS_MAX - 1)].off = (l7_u16)off;
	p->keys[p->key_count & (L7_RESP_KEYS_MAX - 1)].len = (l7_u16)p->length;
	p->key_count++;
	p->next_key += p->key_step;
}

/* Its end has been found. */
L7_INLINE long l7_resp_end(struct l7_resp *p, l7_u32 head_bytes, l7_u64 unit_bytes)
{
	p->out.verdict = p->doubt ? L7_PUNT : L7_SIMPLE;
	p->out.reason = p->doubt;
	p->out.head_bytes = head_bytes;
	p->out.unit_bytes = unit_bytes;
	return 1;
}

/* A line of a type byte and a number. Returns its number of digits, 0 while it is not whole; the value goes to *value.
 * What is wrong already punts. */
L7_INLINE l7_u32 l7_resp_line(struct l7_resp *p, const struct l7_input *in, l7_u8 type, l7_u32 digits_max, l7_u64 *value)
{
	l7_u32 at = p->out.at, digits = 0;

	*value = 0;
	if (at >= in->len)
		return 0;
	if (l7_byte(in, at) != type) {
		l7_punt(&p->out, type == '*' ? L7_R_RESP_INLINE : L7_R_RESP_TYPE);
		return 0;
	}
	for (l7_u32 i = 0; i < L7_DECIMAL_DIGITS_MAX && digits < digits_max; i++) {
		l7_u32 digit = (l7_u32)l7_byte(in, at + 1 + i) - '0';

		if (at + 1 + i >= in->len || digit > 9)
			break;
		*value = *value * 10 + digit;
		digits++;
	}
	at += 1 + digits;
	if (digits > 1 && l7_byte(in, p->out.at + 1) == '0') {
		l7_punt(&p->out, L7_R_RESP_LENGTH);
		return 0;
	}
	if (at >= in->len)
		return 0;
	if (!digits || l7_byte(in, at) != '\r')
		l7_punt(&p->out, L7_R_RESP_LENGTH);
	else if (at + 1 < in->len && l7_byte(in, at + 1) != '\n')
		l7_punt(&p->out, L7_R_RESP_TERMINATOR);
	return at + 1 < in->len ? digits : 0;
}

L7_INLINE long l7_resp_array(struct l7_resp *p, const struct l7_input *in)
{
	l7_u64 count;
	l7_u32 digits = l7_resp_line(p, in, '*', L7_RESP_COUNT_DIGITS_MAX, &count);

	if (!digits || p->out.verdict != L7_INCOMPLETE)
		return 1;
	if (!count)
		return l7_punt(&p->out, L7_R_RESP_LENGTH);
	p->argument_count = (l7_u32)count;
	p->out.at += digits + 3;
	p->state = L7_RESP_LENGTH;
	return 0;
}

L7_INLINE long l7_resp_length(struct l7_resp *p, const struct l7_input *in)
{
	l7_u64 length;
	l7_u32 digits = l7_resp_line(p, in, '$', L7_RESP_LENGTH_DIGITS_MAX, &length);

	if (!digits || p->out.verdict != L7_INCOMPLETE)
		return 1;
	p->length = (l7_u32)length;
	p->out.at += digits + 3;
	p->state = L7_RESP_STRING;
	if (p->index && p->index + 1 == p->argument_count && !l7_resp_is_key(p))
		return l7_resp_end(p, p->out.at, p->out.at + length + 2);
	return 0;
}

L7_INLINE long l7_resp_string(struct l7_resp *p, const struct l7_input *in)
{
	l7_u32 off = p->out.at, end = off + p->length;

	if (end + 2 > L7_WINDOW_BYTES)
		return l7_punt(&p->out, L7_R_TOO_LONG);
	if (end + 2 > in->len)
		return 1;
	if (l7_byte(in, end) != '\r' || l7_byte(in, end + 1) != '\n')
		return l7_punt(&p->out, L7_R_RESP_TERMINATOR);
	if (!p->index)
		p->doubt = l7_resp_name(p, in, off);
	else if (l7_resp_is_key(p))
		l7_resp_key(p, off);
	p->index++;
	p->out.at = end + 2;
	p->state = L7_RESP_LENGTH;
	return p->index == p->argument_count ? l7_resp_end(p, end + 2, end + 2) : 0;
}

L7_INLINE long l7_resp_step(l7_u32 index, void *context)
{
	struct l7_resp_run *run = (struct l7_resp_run *)context;

	(void)index;
	switch (run->command->state) {
	case L7_RESP_ARRAY:
		return l7_resp_array(run->command, run->in);
	case L7_RESP_LENGTH:
		return l7_resp_length(run->command, run->in);
	default:
		return l7_resp_string(run->command, run->in);
	}
}

/* Goes on where the last call ended. The input begins with the bytes that were given before. */
L7_INLINE void l7_resp_parse(struct l7_resp *p, const struct l7_input *in)
{
	struct l7_resp_run run = {p, in};

	if (p->out.verdict != L7_INCOMPLETE)
		return;
	L7_RUN(l7_resp_step, L7_RESP_STEPS_MAX, &run);
	if (p->out.verdict == L7_INCOMPLETE && in->len >= L7_WINDOW_BYTES)
		l7_punt(&p->out, L7_R_TOO_LONG);
}

#endif
