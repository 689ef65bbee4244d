/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What every protocol's core has in common. README.md of l7parsers/ says what a core must offer. */
#ifndef SHUNT_L7_OUTCOME_H
#define SHUNT_L7_OUTCOME_H

#include <l7parsers/core/reasons.h>
#include <l7parsers/core/target.h>

/* More bytes may turn INCOMPLETE into one of the others. SIMPLE and PUNT are final. */
enum l7_verdict {
	L7_INCOMPLETE,
	L7_SIMPLE, /* read alike by every conforming parser, and without consequences for what follows on the connection */
	L7_PUNT,   /* not provably simple; not necessarily wrong */
};

#define L7_BYTES_UNKNOWN (~0ULL)

/* The first member of every core's result. */
struct l7_outcome {
	enum l7_verdict verdict;
	enum l7_reason reason; /* INCOMPLETE, NONE with SIMPLE, or why PUNT */
	l7_u32 at;             /* PUNT: offset of the byte that decided; otherwise how far the scan has come */
	l7_u32 head_bytes;     /* SIMPLE: what was parsed; what follows up to unit_bytes is opaque */
	l7_u64 unit_bytes;     /* SIMPLE: the whole request or response, or L7_BYTES_UNKNOWN */
};

/* Bytes of the input, from where the request or response begins. Both are 0 if there are none. */
struct l7_range {
	l7_u16 off;
	l7_u16 len;
};

/* How a simple unit fills the message that begins with it. */
enum l7_extent {
	L7_WHOLE,     /* the message is exactly this unit */
	L7_CONTINUES, /* the unit goes on in later messages */
	L7_PIPELINED, /* something else follows in the message */
};

L7_INLINE enum l7_extent l7_extent(const struct l7_outcome *out, l7_u64 message_bytes)
{
	if (out->unit_bytes == message_bytes)
		return L7_WHOLE;
	return out->unit_bytes > message_bytes ? L7_CONTINUES : L7_PIPELINED;
}

/* Ends the scan; the value is what a step function returns to end its loop. */
L7_INLINE long l7_punt(struct l7_outcome *out, enum l7_reason reason)
{
	out->verdict = L7_PUNT;
	out->reason = reason;
	return 1;
}

L7_INLINE void l7_begin(struct l7_outcome *out)
{
	out->verdict = L7_INCOMPLETE;
	out->reason = L7_R_INCOMPLETE;
	out->at = 0;
	out->head_bytes = 0;
	out->unit_bytes = 0;
}

/* After the loop: what has used up the window cannot become complete. */
L7_INLINE void l7_end(struct l7_outcome *out)
{
	if (out->verdict == L7_INCOMPLETE && out->at >= L7_WINDOW_BYTES)
		l7_punt(out, L7_R_TOO_LONG);
}

#endif
