/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What differs between the kernel (BPF) and userspace; nothing else in core/ asks for whom it is compiled.
 *
 * The input is at most L7_WINDOW_BYTES bytes. l7_byte() and l7_word() are the only places where it is read: reads behind its end
 * give 0 and touch no memory. Words are little-endian: the byte at the lowest offset is the lowest byte. */
#ifndef SHUNT_L7_TARGET_H
#define SHUNT_L7_TARGET_H

typedef __UINT8_TYPE__ l7_u8;
typedef __UINT16_TYPE__ l7_u16;
typedef __UINT32_TYPE__ l7_u32;
typedef __UINT64_TYPE__ l7_u64;

#define L7_INLINE static inline __attribute__((always_inline))
/* Offsets are 16 bits wide and, in the kernel, masked by this power of two less one. */
#define L7_WINDOW_BYTES 4096
#define L7_WORD_BYTES 8

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define L7_LITTLE_ENDIAN(word) (word)
#else
#define L7_LITTLE_ENDIAN(word) __builtin_bswap64(word)
#endif

/* The value, of which the compiler does not know that it equals another: what is assigned on a branch that is seldom taken is then
 * predicted, not waited for. */
#define l7_opaque(value)                                                                                                   \
	({                                                                                                                 \
		__typeof__(value) l7_value = (value);                                                                      \
		asm("" : "+r"(l7_value));                                                                                  \
		l7_value;                                                                                                  \
	})

#ifdef __bpf__

/* The input is copied into a map value, whose bounds the verifier knows; `len` is set by who copies. The includer brings bpf_loop().
 * Words are read from any offset, which the verifier allows where the machine does (x86, arm64). */
struct l7_input {
	l7_u8 bytes[L7_WINDOW_BYTES];
	l7_u32 len;
	l7_u32 unused;
};

/* value & mask, where the compiler may know already that it changes nothing, but the verifier does not. Linux 6.1.192 loses all
 * bounds at `|` ("register with unbounded min value"); 6.1 and 6.12 do not learn from a comparison what the compiler learns from
 * it ("unbounded memory access"). */
#define l7_bounded(value, mask)                                                                                            \
	({                                                                                                                 \
		l7_u64 l7_value = (value);                                                                                 \
		asm("%0 &= %1" : "+r"(l7_value) : "i"(mask));                                                              \
		l7_value;                                                                                                  \
	})

L7_INLINE l7_u8 l7_byte(const struct l7_input *in, l7_u32 off)
{
	return off < in->len ? in->bytes[l7_bounded(off, L7_WINDOW_BYTES - 1)] : 0;
}

/* The same for offsets below 2^31. */
L7_INLINE l7_u8 l7_byte_unbranched(const struct l7_input *in, l7_u32 off)
{
	return in->bytes[l7_bounded(off, L7_WINDOW_BYTES - 1)] & (l7_u8)(0 - ((off - in->len) >> 31));
}

/* The eight bytes from `off` on, whatever is behind the input's end: `unused` is there so that they are in bounds. */
L7_INLINE l7_u64 l7_whole_word(const struct l7_input *in, l7_u32 off)
{
	return L7_LITTLE_ENDIAN(*(const l7_u64 *)(in->bytes + l7_bounded(off, L7_WINDOW_BYTES - 1)));
}

L7_INLINE l7_u64 l7_word(const struct l7_input *in, l7_u32 off)
{
	l7_u32 left = off < in->len ? in->len - off : 0;
	l7_u64 word = l7_whole_word(in, off);

	return left < L7_WORD_BYTES ? word & ((1ULL << (8 * left)) - 1) : word;
}

#define L7_RUN(step, steps_max, context) bpf_loop(steps_max, step, context, 0)

#else

/* Refers to the caller's bytes; `len` is at most L7_WINDOW_BYTES. */
struct l7_input {
	const l7_u8 *bytes;
	l7_u32 len;
};

L7_INLINE l7_u8 l7_byte(const struct l7_input *in, l7_u32 off) { return off < in->len ? in->bytes[off] : 0; }
L7_INLINE l7_u8 l7_byte_unbranched(const struct l7_input *in, l7_u32 off) { return l7_byte(in, off); }

L7_INLINE l7_u64 l7_word(const struct l7_input *in, l7_u32 off)
{
	l7_u64 word = 0;

	if (off < in->len && in->len - off >= L7_WORD_BYTES) {
		__builtin_memcpy(&word, in->bytes + off, L7_WORD_BYTES);
		return L7_LITTLE_ENDIAN(word);
	}
	for (l7_u32 i = 0; i < L7_WORD_BYTES; i++)
		word |= (l7_u64)l7_byte(in, off + i) << (8 * i);
	return word;
}

#define l7_bounded(value, mask) ((value) & (mask))

#define L7_RUN(step, steps_max, context)                                                                                   \
	do {                                                                                                               \
		for (l7_u32 l7_index = 0; l7_index < (steps_max); l7_index++)                                              \
			if (step(l7_index, context))                                                                       \
				break;                                                                                     \
	} while (0)

#endif

#endif
