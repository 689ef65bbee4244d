/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Responses of the Redis serialization protocol (RESP2 and RESP3), as far as it takes to count them: a server writes
 * many at once.
 *
 *     struct l7_replies replies;
 *     l7_replies_begin(&replies, message_bytes);
 *     l7_replies_parse(&replies, &input);     again with a longer input of the same beginning while INCOMPLETE
 *
 * SIMPLE: the message is `count` whole responses, or these and the beginning of one whose last string ends at
 * unit_bytes, behind the message. The input may be shorter than the message. What comes unasked (pushes) or is of
 * unknown length is punted. */
#ifndef SHUNT_L7_RESP_REPLY_H
#define SHUNT_L7_RESP_REPLY_H

#include <l7parsers/core/outcome.h>
#include <l7parsers/core/text.h>

#define L7_REPLY_LENGTH_DIGITS_MAX 9 /* 512 MiB, which is what a server sends */
#define L7_REPLY_LINE_WORDS 8        /* of a line, in one step */
/* Each step takes at least one byte. */
#define L7_REPLY_STEPS_MAX (L7_WINDOW_BYTES + 1)

struct l7_replies {
	struct l7_outcome out;
	l7_u64 message_bytes;
	l7_u32 count;   /* responses that have ended */
	l7_u32 in_line; /* 1: of a line, all that comes before its end is passed over */
	l7_u64 lacking; /* values that the response at hand has yet to come to; 0: none is at hand */
};

struct l7_replies_run {
	struct l7_replies *replies;
	const struct l7_input *in;
};

L7_INLINE void l7_replies_begin(struct l7_replies *p, l7_u64 message_bytes)
{
	__builtin_memset(p, 0, sizeof(*p));
	l7_begin(&p->out);
	p->message_bytes = message_bytes;
}

/* One value has ended at `end`, where the next one begins. */
L7_INLINE long l7_reply_value(struct l7_replies *p, l7_u64 end)
{
	p->lacking--;
	if (end < p->message_bytes) {
		p->count += !p->lacking;
		p->out.at = (l7_u32)end;
		return 0;
	}
	if (p->lacking)
		return l7_punt(&p->out, L7_R_INCOMPLETE);
	p->count += end == p->message_bytes;
	p->out.verdict = L7_SIMPLE;
	p->out.reason = L7_R_NONE;
	p->out.head_bytes = p->out.at;
	p->out.unit_bytes = end;
	return 1;
}

/* Passes over the rest of a line; what it says is of no interest. */
L7_INLINE long l7_reply_line(struct l7_replies *p, const struct l7_input *in)
{
	l7_u32 at = l7_skip_printable(in, p->out.at, L7_REPLY_LINE_WORDS);

	if (at >= in->len)
		return 1;
	if (l7_byte(in, at) != '\r') {
		if (l7_byte(in, at) == '\n')
			return l7_punt(&p->out, L7_R_RESP_TERMINATOR);
		p->out.at = at + (at == p->out.at);
		return 0;
	}
	if (at + 1 >= in->len)
		return 1;
	if (l7_byte(in, at + 1) != '\n')
		return l7_punt(&p->out, L7_R_RESP_TERMINATOR);
	p->in_line = 0;
	return l7_reply_value(p, at + 2);
}

/* The number behind a type byte. Its digits, without sign; 0 while the line is not whole, or what is wrong has punted. */
L7_INLINE l7_u32 l7_reply_number(struct l7_replies *p, const struct l7_input *in, l7_u32 at, l7_u64 *value)
{
	l7_u32 digits = 0;

	*value = 0;
	for (l7_u32 i = 0; i < L7_REPLY_LENGTH_DIGITS_MAX; i++) {
		l7_u32 digit = (l7_u32)l7_byte(in, at + i) - '0';

		if (at + i >= in->len || digit > 9)
			break;
		*value = *value * 10 + digit;
		digits++;
	}
	if (at + digits + 1 >= in->len)
		return 0;
	if (!digits || l7_byte(in, at + digits) != '\r' || l7_byte(in, at + digits + 1) != '\n') {
		l7_punt(&p->out, L7_R_RESP_LENGTH);
		return 0;
	}
	return digits;
}

/* A string of known length, or an array, map or set with so many values. */
L7_INLINE long l7_reply_counted(struct l7_replies *p, const struct l7_input *in, l7_u8 type)
{
	l7_u32 at = p->out.at + 1, null = l7_byte(in, at) == '-', digits;
	l7_u64 number;

	digits = l7_reply_number(p, in, at + null, &number);
	if (!digits)
		return 1;
	at += null + digits + 2;
	if (null)
		return l7_reply_value(p, at);
	if (type == '$' || type == '!' || type == '=')
		return l7_reply_value(p, at + number + 2);
	p->lacking += type == '%' ? 2 * number : number;
	return l7_reply_value(p, at);
}

L7_INLINE long l7_replies_step(l7_u32 index, void *context)
{
	struct l7_replies_run *run = (struct l7_replies_run *)context;
	struct l7_replies *p = run->replies;
	l7_u8 type;

	(void)index;
	if (p->in_line)
		return l7_reply_line(p, run->in);
	if (p->out.at >= run->in->len)
		return 1;
	type = l7_byte(run->in, p->out.at);
	p->lacking += !p->lacking;
	switch (type) {
	case '+':
	case '-':
	case ':':
	case '_':
	case '#':
	case ',':
	case '(':
		p->in_line = 1;
		p->out.at++;
		return 0;
	case '$':
	case '!':
	case '=':
	case '*':
	case '~':
	case '%':
		return l7_reply_counted(p, run->in, type);
	default:
		return l7_punt(&p->out, L7_R_RESP_TYPE);
	}
}

/* Goes on where the last call ended. The input begins with the bytes that were given before. */
L7_INLINE void l7_replies_parse(struct l7_replies *p, const struct l7_input *in)
{
	struct l7_replies_run run = {p, in};

	if (p->out.verdict != L7_INCOMPLETE)
		return;
	L7_RUN(l7_replies_step, L7_REPLY_STEPS_MAX, &run);
	if (p->out.verdict == L7_INCOMPLETE && in->len >= L7_WINDOW_BYTES)
		l7_punt(&p->out, L7_R_TOO_LONG);
}

#endif
