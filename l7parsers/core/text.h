/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Text in registers. A packed text has its last byte lowest: 'G' << 16 | 'E' << 8 | 'T'. */
#ifndef SHUNT_L7_TEXT_H
#define SHUNT_L7_TEXT_H

#include <l7parsers/core/target.h>

#define L7_P1(a) ((l7_u64)(a))
#define L7_P2(a, b) (L7_P1(a) << 8 | L7_P1(b))
#define L7_P3(a, b, c) (L7_P2(a, b) << 8 | L7_P1(c))
#define L7_P4(a, b, c, d) (L7_P3(a, b, c) << 8 | L7_P1(d))
#define L7_P5(a, b, c, d, e) (L7_P4(a, b, c, d) << 8 | L7_P1(e))
#define L7_P6(a, b, c, d, e, f) (L7_P5(a, b, c, d, e) << 8 | L7_P1(f))
#define L7_P7(a, b, c, d, e, f, g) (L7_P6(a, b, c, d, e, f) << 8 | L7_P1(g))
#define L7_P8(a, b, c, d, e, f, g, h) (L7_P7(a, b, c, d, e, f, g) << 8 | L7_P1(h))

/* Folds the case of packed letters. It is exact for a comparison with letters, digits and '-': nothing else printable folds to
 * these. Bytes that a shorter text does not have become spaces, so lengths are compared too. */
#define L7_FOLD 0x2020202020202020ULL
#define L7_FOLDED(packed) ((packed) | L7_FOLD)

#define L7_BYTES_OF(byte) ((byte) * 0x0101010101010101ULL)

/* The offset of the first byte at or behind `off` that is not printable ASCII (0x20 to 0x7e), but at most `words` words further. */
L7_INLINE l7_u32 l7_skip_printable(const struct l7_input *in, l7_u32 off, l7_u32 words)
{
	for (l7_u32 i = 0; i < words; i++) {
		l7_u32 start = off & ~(l7_u32)(L7_WORD_BYTES - 1);
		l7_u64 word = l7_word(in, start);
		/* Borrows and carries spoil only bytes above the lowest one found. */
		l7_u64 found = ((word - L7_BYTES_OF(0x20)) & ~word) | (word + L7_BYTES_OF(0x01)) | word;

		found &= L7_BYTES_OF(0x80) & (~0ULL << (8 * (off - start)));
		if (found) /* multiplication moves the number of the lowest byte to the top: BPF has no count of zeros */
			return start + (l7_u32)((((found & -found) >> 7) * 0x0001020304050607ULL) >> 56);
		off = start + L7_WORD_BYTES;
	}
	return off;
}

#define L7_NOT_DECIMAL (~0ULL)
#define L7_DECIMAL_DIGITS_MAX 10

/* A number of 1 to `digits_max` (at most L7_DECIMAL_DIGITS_MAX) digits without leading zeros, or L7_NOT_DECIMAL. */
L7_INLINE l7_u64 l7_decimal(const struct l7_input *in, l7_u32 off, l7_u32 len, l7_u32 digits_max)
{
	l7_u64 value = 0;

	if (len == 0 || len > digits_max || (len > 1 && l7_byte(in, off) == '0'))
		return L7_NOT_DECIMAL;
	for (l7_u32 i = 0; i < L7_DECIMAL_DIGITS_MAX && i < len; i++) {
		l7_u32 digit = (l7_u32)l7_byte(in, off + i) - '0';

		if (digit > 9)
			return L7_NOT_DECIMAL;
		value = value * 10 + digit;
	}
	return value;
}

#endif
