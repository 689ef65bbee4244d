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

/* The number of the lowest byte whose top bit is set; no others are, and at least one is. Multiplication moves it to the top: BPF has
 * no count of zeros. */
L7_INLINE l7_u32 l7_lowest(l7_u64 found)
{
	return (l7_u32)((((found & -found) >> 7) * 0x0001020304050607ULL) >> 56);
}

/* The offset of the first byte at or behind `off` that is not printable ASCII (0x20 to 0x7e), but at most `words` words further. */
L7_INLINE l7_u32 l7_skip_printable(const struct l7_input *in, l7_u32 off, l7_u32 words)
{
	for (l7_u32 i = 0; i < words; i++) {
		l7_u64 word = l7_word(in, off);
		/* Borrows and carries spoil only bytes above the lowest one found. */
		l7_u64 found = ((word - L7_BYTES_OF(0x20)) & ~word) | (word + L7_BYTES_OF(0x01)) | word;

		found &= L7_BYTES_OF(0x80);
		if (found)
			return off + l7_lowest(found);
		off += L7_WORD_BYTES;
	}
	return off;
}

/* The same for the first byte that is neither a letter nor a digit nor '-'. */
L7_INLINE l7_u32 l7_skip_name(const struct l7_input *in, l7_u32 off, l7_u32 words)
{
	const l7_u64 top = L7_BYTES_OF(0x80);

	for (l7_u32 i = 0; i < words; i++) {
		l7_u64 word = l7_word(in, off);
		/* With their top bits set no byte borrows from the next. */
		l7_u64 bytes = word | top, letters = L7_FOLDED(word) | top;
		l7_u64 is_letter = (letters - L7_BYTES_OF('a')) & ~(letters - L7_BYTES_OF('z' + 1));
		l7_u64 is_digit = (bytes - L7_BYTES_OF('0')) & ~(bytes - L7_BYTES_OF('9' + 1));
		l7_u64 is_dash = (bytes - L7_BYTES_OF('-')) & ~(bytes - L7_BYTES_OF('-' + 1));
		l7_u64 found = (~(is_letter | is_digit | is_dash) | word) & top;

		if (found)
			return off + l7_lowest(found);
		off += L7_WORD_BYTES;
	}
	return off;
}

/* The last bytes of the `len` at `off`, packed, at most eight of them. */
L7_INLINE l7_u64 l7_packed_end(const struct l7_input *in, l7_u32 off, l7_u32 len)
{
	if (len >= L7_WORD_BYTES)
		return __builtin_bswap64(l7_word(in, off + len - L7_WORD_BYTES));
	return len ? __builtin_bswap64(l7_word(in, off)) >> (8 * (L7_WORD_BYTES - len)) : 0;
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
