/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Heads of HTTP/1.0 and HTTP/1.1 requests and responses.
 *
 *     struct l7_http1 head;
 *     l7_http1_begin(&head, L7_HTTP1_REQUEST);
 *     l7_http1_parse(&head, &input);     again with a longer input of the same beginning while INCOMPLETE
 *
 * A simple request has one reading: every conforming server sees the same method, target, host, fields and body length, and the
 * next request begins where this one ends. Path flags are not a reason to punt by themselves: they say that a server may look up
 * another path than the bytes of `path`, so whoever has rules about paths must not decide by these bytes. */
#ifndef SHUNT_L7_HTTP1_H
#define SHUNT_L7_HTTP1_H

#include <l7parsers/core/http1_grammar.h>
#include <l7parsers/core/outcome.h>
#include <l7parsers/core/text.h>

#define L7_HTTP1_HEAD_BYTES_MAX L7_WINDOW_BYTES
#define L7_HTTP1_HEADERS_MAX 64 /* a power of two */
/* Each step takes at least one byte. */
#define L7_HTTP1_STEPS_MAX (L7_HTTP1_HEAD_BYTES_MAX + 1)
#define L7_HTTP1_STEP_BYTES 16
#define L7_HTTP1_STEP_WORDS 8 /* of a value */
#define L7_HTTP1_NAME_WORDS 3

enum l7_http1_kind {
	L7_HTTP1_REQUEST,
	L7_HTTP1_RESPONSE,
	L7_HTTP1_RESPONSE_TO_HEAD, /* has no body, whatever its fields say (RFC 9112, 6.3) */
};

/* X(id, packed name, whether a body is usual) */
#define L7_HTTP1_METHODS(X)                                                                                                   \
	X(GET, L7_P3('G', 'E', 'T'), 0)                                                                                       \
	X(HEAD, L7_P4('H', 'E', 'A', 'D'), 0)                                                                                 \
	X(POST, L7_P4('P', 'O', 'S', 'T'), 1)                                                                                 \
	X(PUT, L7_P3('P', 'U', 'T'), 1)                                                                                       \
	X(PATCH, L7_P5('P', 'A', 'T', 'C', 'H'), 1)                                                                           \
	X(DELETE, L7_P6('D', 'E', 'L', 'E', 'T', 'E'), 0)                                                                     \
	X(OPTIONS, L7_P7('O', 'P', 'T', 'I', 'O', 'N', 'S'), 0)

enum l7_http1_method {
	L7_M_NONE,
#define L7_METHOD_ENUM(id, packed, body) L7_M_##id,
	L7_HTTP1_METHODS(L7_METHOD_ENUM)
#undef L7_METHOD_ENUM
	L7_M_COUNT
};

enum l7_http1_framing {
	L7_FRAMING_NONE,        /* no body */
	L7_FRAMING_LENGTH,      /* content_length bytes follow the head */
	L7_FRAMING_CHUNKED,     /* responses only; a simple request is never chunked */
	L7_FRAMING_UNTIL_CLOSE, /* responses only */
};

enum l7_http1_flag {
	L7_F_KEEP_ALIVE = 1 << 0, /* the connection goes on after this exchange; set when SIMPLE */
	L7_F_HOST = 1 << 1,
	L7_F_CONTENT_LENGTH = 1 << 2,
	L7_F_CHUNKED = 1 << 3,
	L7_F_CONNECTION = 1 << 4,
	L7_F_CONNECTION_CLOSE = 1 << 5,
	L7_F_INTERIM = 1 << 6, /* a 1xx response: the real one follows */
	/* What a server may change in the path before it looks it up. */
	L7_F_PATH_DOT = 1 << 8,        /* "." or ".." as a segment */
	L7_F_PATH_EMPTY = 1 << 9,      /* "//" */
	L7_F_PATH_PERCENT = 1 << 10,   /* "%" */
	L7_F_PATH_BACKSLASH = 1 << 11, /* "\", a slash to some */
	L7_F_PATH_PARAMETER = 1 << 12, /* ";", which some cut */
	L7_F_FRAGMENT = 1 << 13,       /* "#", which does not belong into a request */
};

#define L7_F_PATH_ANY                                                                                                         \
	(L7_F_PATH_DOT | L7_F_PATH_EMPTY | L7_F_PATH_PERCENT | L7_F_PATH_BACKSLASH | L7_F_PATH_PARAMETER | L7_F_FRAGMENT)

/* Fields that the parser itself reads. */
enum l7_http1_field {
	L7_H_OTHER,
	L7_H_HOST,
	L7_H_CONTENT_LENGTH,
	L7_H_TRANSFER_ENCODING,
	L7_H_CONNECTION,
	L7_H_EXPECT,
	L7_H_UPGRADE,
	L7_H_HTTP2_SETTINGS,
	L7_H_HOP_BY_HOP,
};

/* One field line. */
struct l7_http1_header {
	struct l7_range name;
	struct l7_range value; /* without the space before it; may be empty */
};

struct l7_http1 {
	struct l7_outcome out;

	/* Of the scan; not for others. */
	l7_u16 row;   /* of l7_http1_cells, as an offset */
	l7_u16 mark;  /* where the current element begins */
	l7_u16 field; /* enum l7_http1_field: whose value is being read */
	l7_u16 kind;  /* enum l7_http1_kind */

	/* Valid when SIMPLE; as far as they go when not. */
	l7_u16 method;  /* enum l7_http1_method; the name begins at offset 0 */
	l7_u16 minor;   /* HTTP/1.minor */
	l7_u16 status;  /* of a response */
	l7_u16 framing; /* enum l7_http1_framing */
	l7_u32 flags;   /* enum l7_http1_flag */
	struct l7_range target;
	struct l7_range path;      /* of the target, from the first slash */
	struct l7_range query;     /* without its question mark; off is 0 if there is none */
	struct l7_range host;      /* with the port */
	struct l7_range host_name; /* without the port; IPv6 with its brackets; case as it came */
	l7_u16 host_port;          /* 0: none given */
	l7_u16 header_count;
	l7_u64 content_length;
	struct l7_http1_header headers[L7_HTTP1_HEADERS_MAX];
};

struct l7_http1_run {
	struct l7_http1 *head;
	const struct l7_input *in;
};

L7_INLINE void l7_http1_begin(struct l7_http1 *p, enum l7_http1_kind kind)
{
	__builtin_memset(p, 0, __builtin_offsetof(struct l7_http1, headers));
	l7_begin(&p->out);
	p->kind = (l7_u16)kind;
	p->row = L7_ROW_OFFSET(kind == L7_HTTP1_REQUEST ? L7_S_METHOD_FIRST : L7_S_RESPONSE_VERSION);
}

L7_INLINE struct l7_range l7_range_between(l7_u32 from, l7_u32 to)
{
	struct l7_range range = {(l7_u16)from, (l7_u16)(to - from)};

	return range;
}

/* Is this text, of which the packed end is known, the packed text of up to 8 bytes, whatever the case of its letters? */
L7_INLINE int l7_http1_is_folded(l7_u64 end, l7_u64 text) { return L7_FOLDED(end) == L7_FOLDED(text); }

L7_INLINE enum l7_reason l7_http1_method_end(struct l7_http1 *p, const struct l7_input *in, l7_u32 at)
{
	l7_u64 text = l7_packed_end(in, 0, at);

	if (at > L7_WORD_BYTES)
		return L7_R_METHOD;
#define L7_METHOD_IF(id, packed, body)                                                                                        \
	if (text == (packed))                                                                                                 \
		p->method = L7_M_##id;
	L7_HTTP1_METHODS(L7_METHOD_IF)
#undef L7_METHOD_IF
	if (text == L7_P7('C', 'O', 'N', 'N', 'E', 'C', 'T'))
		return L7_R_CONNECT;
	if (text == L7_P3('P', 'R', 'I'))
		return L7_R_H2_PREFACE;
	if (p->method == L7_M_NONE)
		return L7_R_METHOD;
	p->target.off = p->path.off = (l7_u16)(at + 1);
	return L7_R_NONE;
}

L7_INLINE l7_u32 l7_http1_path_flag(l7_u8 byte, l7_u16 row)
{
	switch (byte) {
	case '/':
		return row == L7_ROW_OFFSET(L7_S_SLASH) ? L7_F_PATH_EMPTY : L7_F_PATH_DOT;
	case '%':
		return L7_F_PATH_PERCENT;
	case ';':
		return L7_F_PATH_PARAMETER;
	default:
		return L7_F_PATH_BACKSLASH;
	}
}

/* A space, '?' or '#' ends the path, the query or the fragment. */
L7_INLINE void l7_http1_part_end(struct l7_http1 *p, l7_u32 at, l7_u8 byte, l7_u16 row)
{
	if (!p->path.len) {
		p->path.len = (l7_u16)(at - p->path.off);
		if (row == L7_ROW_OFFSET(L7_S_DOT) || row == L7_ROW_OFFSET(L7_S_DOT_DOT))
			p->flags |= L7_F_PATH_DOT;
	} else if (row == L7_ROW_OFFSET(L7_S_QUERY)) {
		p->query.len = (l7_u16)(at - p->query.off);
	}
	if (byte == '?')
		p->query.off = (l7_u16)(at + 1);
	if (byte == '#')
		p->flags |= L7_F_FRAGMENT;
	if (byte == ' ') {
		p->target.len = (l7_u16)(at - p->target.off);
		p->mark = (l7_u16)(at + 1);
	}
}

/* HTTP/1.0 or HTTP/1.1, as a word of the input. */
L7_INLINE int l7_http1_is_version(l7_u64 word)
{
	return (__builtin_bswap64(word) | 1) == L7_P8('H', 'T', 'T', 'P', '/', '1', '.', '1');
}

L7_INLINE enum l7_reason l7_http1_version_end(struct l7_http1 *p, const struct l7_input *in, l7_u32 at)
{
	l7_u64 word = l7_word(in, p->mark);

	if (at - p->mark != L7_WORD_BYTES || !l7_http1_is_version(word))
		return L7_R_VERSION;
	p->minor = word >> 56 & 1;
	p->mark = (l7_u16)(at + 1);
	return L7_R_NONE;
}

L7_INLINE enum l7_reason l7_http1_status_end(struct l7_http1 *p, const struct l7_input *in, l7_u32 at)
{
	l7_u64 text = l7_packed_end(in, p->mark, at - p->mark);

	/* Three digits, the first of them 1 to 5 (RFC 9110, 15). */
	if (at - p->mark != 3 || text < L7_P3('1', '0', '0') || text > L7_P3('5', '9', '9'))
		return L7_R_STATUS;
	p->status = (l7_u16)((text >> 16 & 0xf) * 100 + (text >> 8 & 0xf) * 10 + (text & 0xf));
	return p->status == 101 ? L7_R_SWITCHING : L7_R_NONE;
}

/* Which field the current name, of `len` bytes, is. */
L7_INLINE enum l7_http1_field l7_http1_known_field(const struct l7_http1 *p, const struct l7_input *in, l7_u32 len)
{
	l7_u64 end = l7_packed_end(in, p->mark, len);
	l7_u64 begin = __builtin_bswap64(l7_word(in, p->mark)); /* of a name of more than 8 bytes */

#define L7_NAME_IS(text) l7_http1_is_folded(end, text)
#define L7_NAME_IS_LONG(first, text) (l7_http1_is_folded(begin >> (8 * (2 * L7_WORD_BYTES - len)), first) && L7_NAME_IS(text))
	switch (len) {
	case 2:
		return L7_NAME_IS(L7_P2('t', 'e')) ? L7_H_HOP_BY_HOP : L7_H_OTHER;
	case 4:
		return L7_NAME_IS(L7_P4('h', 'o', 's', 't')) ? L7_H_HOST : L7_H_OTHER;
	case 6:
		return L7_NAME_IS(L7_P6('e', 'x', 'p', 'e', 'c', 't')) ? L7_H_EXPECT : L7_H_OTHER;
	case 7:
		if (L7_NAME_IS(L7_P7('u', 'p', 'g', 'r', 'a', 'd', 'e')))
			return L7_H_UPGRADE;
		return L7_NAME_IS(L7_P7('t', 'r', 'a', 'i', 'l', 'e', 'r')) ? L7_H_HOP_BY_HOP : L7_H_OTHER;
	case 10:
		if (L7_NAME_IS_LONG(L7_P2('c', 'o'), L7_P8('n', 'n', 'e', 'c', 't', 'i', 'o', 'n')))
			return L7_H_CONNECTION;
		return L7_NAME_IS_LONG(L7_P2('k', 'e'), L7_P8('e', 'p', '-', 'a', 'l', 'i', 'v', 'e')) ? L7_H_HOP_BY_HOP : L7_H_OTHER;
	case 14:
		if (L7_NAME_IS_LONG(L7_P6('c', 'o', 'n', 't', 'e', 'n'), L7_P8('t', '-', 'l', 'e', 'n', 'g', 't', 'h')))
			return L7_H_CONTENT_LENGTH;
		if (L7_NAME_IS_LONG(L7_P6('h', 't', 't', 'p', '2', '-'), L7_P8('s', 'e', 't', 't', 'i', 'n', 'g', 's')))
			return L7_H_HTTP2_SETTINGS;
		return L7_H_OTHER;
	case 16:
		if (L7_NAME_IS_LONG(L7_P8('p', 'r', 'o', 'x', 'y', '-', 'c', 'o'), L7_P8('n', 'n', 'e', 'c', 't', 'i', 'o', 'n')))
			return L7_H_HOP_BY_HOP;
		return L7_H_OTHER;
	case 17:
		if (l7_http1_is_folded(begin, L7_P8('t', 'r', 'a', 'n', 's', 'f', 'e', 'r')) && (l7_byte(in, p->mark + 8u) == '-') &&
		    L7_NAME_IS(L7_P8('e', 'n', 'c', 'o', 'd', 'i', 'n', 'g')))
			return L7_H_TRANSFER_ENCODING;
		return L7_H_OTHER;
	default:
		return L7_H_OTHER;
	}
#undef L7_NAME_IS
#undef L7_NAME_IS_LONG
}

/* What the name alone decides. */
L7_INLINE enum l7_reason l7_http1_field_reason(const struct l7_http1 *p, enum l7_http1_field field)
{
	if (field == L7_H_UPGRADE)
		return L7_R_UPGRADE;
	if (p->kind != L7_HTTP1_REQUEST)
		return L7_R_NONE;
	switch (field) {
	case L7_H_HOST:
		return p->flags & L7_F_HOST ? L7_R_HOST_REPEATED : L7_R_NONE;
	case L7_H_EXPECT:
		return L7_R_EXPECT;
	case L7_H_HTTP2_SETTINGS:
		return L7_R_H2C;
	case L7_H_HOP_BY_HOP:
		return L7_R_HOP_BY_HOP;
	default:
		return L7_R_NONE;
	}
}

/* The colon at `at` ends a name. */
L7_INLINE enum l7_reason l7_http1_name_end(struct l7_http1 *p, const struct l7_input *in, l7_u32 at)
{
	l7_u32 index = p->header_count;
	l7_u32 len = at - p->mark;
	enum l7_http1_field field = l7_http1_known_field(p, in, len);
	enum l7_reason reason = l7_http1_field_reason(p, field);
	struct l7_http1_header *header = &p->headers[index & (L7_HTTP1_HEADERS_MAX - 1)];

	if (reason)
		return reason;
	if (index >= L7_HTTP1_HEADERS_MAX)
		return L7_R_HEADERS_MANY;
	header->name = l7_range_between(p->mark, at);
	p->field = (l7_u16)field;
	p->mark = (l7_u16)(at + 1);
	if (field == L7_H_HOST && p->kind == L7_HTTP1_REQUEST)
		p->row = L7_ROW_OFFSET(L7_S_HOST_COLON);
	else if (field == L7_H_CONNECTION || field == L7_H_TRANSFER_ENCODING)
		p->row = L7_ROW_OFFSET(L7_S_WORD);
	return L7_R_NONE;
}

L7_INLINE enum l7_reason l7_http1_content_length(struct l7_http1 *p, const struct l7_input *in, struct l7_range value)
{
	l7_u64 length = l7_decimal(in, value.off, value.len, L7_DECIMAL_DIGITS_MAX);

	if (p->flags & L7_F_CONTENT_LENGTH)
		return L7_R_CONTENT_LENGTH_REPEATED;
	if (length == L7_NOT_DECIMAL)
		return L7_R_CONTENT_LENGTH;
	p->flags |= L7_F_CONTENT_LENGTH;
	p->content_length = length;
	return p->flags & L7_F_CHUNKED ? L7_R_LENGTH_CONFLICT : L7_R_NONE;
}

L7_INLINE enum l7_reason l7_http1_transfer_encoding(struct l7_http1 *p, const struct l7_input *in, struct l7_range value)
{
	if (p->flags & L7_F_CONTENT_LENGTH)
		return L7_R_LENGTH_CONFLICT;
	if (p->flags & L7_F_CHUNKED || p->minor == 0)
		return L7_R_TRANSFER_ENCODING;
	if (value.len != 7 || !l7_http1_is_folded(l7_packed_end(in, value.off, 7), L7_P7('c', 'h', 'u', 'n', 'k', 'e', 'd')))
		return L7_R_TRANSFER_ENCODING;
	p->flags |= L7_F_CHUNKED;
	return L7_R_NONE;
}

L7_INLINE enum l7_reason l7_http1_connection(struct l7_http1 *p, const struct l7_input *in, struct l7_range value)
{
	l7_u64 end = l7_packed_end(in, value.off, value.len);

	if (p->flags & L7_F_CONNECTION)
		return L7_R_CONNECTION_OPTION;
	p->flags |= L7_F_CONNECTION;
	if (value.len == 5 && l7_http1_is_folded(end, L7_P5('c', 'l', 'o', 's', 'e')))
		p->flags |= L7_F_CONNECTION_CLOSE;
	else if (value.len != 10 || !l7_http1_is_folded(end, L7_P8('e', 'p', '-', 'a', 'l', 'i', 'v', 'e')) ||
		 !l7_http1_is_folded(l7_packed_end(in, value.off, 2), L7_P2('k', 'e')))
		return L7_R_CONNECTION_OPTION;
	return L7_R_NONE;
}

L7_INLINE enum l7_reason l7_http1_host(struct l7_http1 *p, const struct l7_input *in, struct l7_range value)
{
	l7_u64 port;

	p->flags |= L7_F_HOST;
	p->host = value;
	if (!p->host_name.len) {
		p->host_name = value;
		return L7_R_NONE;
	}
	port = l7_decimal(in, p->mark, value.off + value.len - p->mark, 5);
	if (port == 0 || port > 65535)
		return L7_R_HOST;
	p->host_port = (l7_u16)port;
	return L7_R_NONE;
}

/* The CR at `at` ends a value. */
L7_INLINE enum l7_reason l7_http1_value_end(struct l7_http1 *p, const struct l7_input *in, l7_u32 at)
{
	struct l7_http1_header *header = &p->headers[p->header_count & (L7_HTTP1_HEADERS_MAX - 1)];
	l7_u32 off = header->name.off + header->name.len + 1;
	struct l7_range value;

	if (l7_byte(in, off) == ' ')
		off++;
	if (off < at && (l7_byte(in, off) == ' ' || l7_byte(in, at - 1) == ' '))
		return L7_R_WHITESPACE;
	value = l7_range_between(off, at);
	header->value = value;
	p->header_count++;
	switch (p->field) {
	case L7_H_CONTENT_LENGTH:
		return l7_http1_content_length(p, in, value);
	case L7_H_TRANSFER_ENCODING:
		return l7_http1_transfer_encoding(p, in, value);
	case L7_H_CONNECTION:
		return l7_http1_connection(p, in, value);
	case L7_H_HOST:
		return p->kind == L7_HTTP1_REQUEST ? l7_http1_host(p, in, value) : L7_R_NONE;
	default:
		return L7_R_NONE;
	}
}

L7_INLINE int l7_http1_has_body(l7_u32 method)
{
#define L7_METHOD_BODY(id, packed, body) || (body && method == L7_M_##id)
	return 0 L7_HTTP1_METHODS(L7_METHOD_BODY);
#undef L7_METHOD_BODY
}

L7_INLINE enum l7_reason l7_http1_request_end(struct l7_http1 *p)
{
	int has_body = l7_http1_has_body(p->method);

	if (p->flags & L7_F_CHUNKED)
		return L7_R_CHUNKED;
	if (p->minor == 1 && !(p->flags & L7_F_HOST))
		return L7_R_HOST_MISSING;
	if (!has_body && p->content_length)
		return L7_R_BODY_UNEXPECTED;
	if (has_body && p->minor == 0 && !(p->flags & L7_F_CONTENT_LENGTH))
		return L7_R_LENGTH_MISSING;
	p->framing = p->content_length ? L7_FRAMING_LENGTH : L7_FRAMING_NONE;
	return L7_R_NONE;
}

L7_INLINE enum l7_reason l7_http1_response_end(struct l7_http1 *p)
{
	int to_head = p->kind == L7_HTTP1_RESPONSE_TO_HEAD;
	/* May tell the length that a 200 would have (RFC 9110, 8.6); not all clients know that it has no body nevertheless. */
	int none = p->status < 200 || p->status == 204 || (p->status == 304 && !to_head);

	if (p->status < 200)
		p->flags |= L7_F_INTERIM;
	if (none && (p->content_length || p->flags & L7_F_CHUNKED))
		return L7_R_STATUS_BODY;
	if (none || to_head)
		p->framing = L7_FRAMING_NONE;
	else if (p->flags & L7_F_CHUNKED)
		p->framing = L7_FRAMING_CHUNKED;
	else if (p->flags & L7_F_CONTENT_LENGTH)
		p->framing = p->content_length ? L7_FRAMING_LENGTH : L7_FRAMING_NONE;
	else
		p->framing = L7_FRAMING_UNTIL_CLOSE;
	return L7_R_NONE;
}

/* The LF at `at` ends the head. */
L7_INLINE enum l7_reason l7_http1_head_end(struct l7_http1 *p, l7_u32 at)
{
	enum l7_reason reason = p->kind == L7_HTTP1_REQUEST ? l7_http1_request_end(p) : l7_http1_response_end(p);
	int stays = p->minor == 1 ? !(p->flags & L7_F_CONNECTION_CLOSE)
				  : p->flags & L7_F_CONNECTION && !(p->flags & L7_F_CONNECTION_CLOSE);

	if (reason)
		return reason;
	if (stays && p->framing != L7_FRAMING_UNTIL_CLOSE)
		p->flags |= L7_F_KEEP_ALIVE;
	p->out.verdict = L7_SIMPLE;
	p->out.reason = L7_R_NONE;
	p->out.head_bytes = at + 1;
	if (p->framing == L7_FRAMING_NONE)
		p->out.unit_bytes = at + 1;
	else if (p->framing == L7_FRAMING_LENGTH)
		p->out.unit_bytes = at + 1 + p->content_length;
	else
		p->out.unit_bytes = L7_BYTES_UNKNOWN;
	return L7_R_NONE;
}

L7_INLINE enum l7_reason l7_http1_act(struct l7_http1 *p, const struct l7_input *in, l7_u32 at, l7_u32 action, l7_u16 row)
{
	switch (action) {
	case L7_A_METHOD_END:
		return l7_http1_method_end(p, in, at);
	case L7_A_PATH_FLAG:
		p->flags |= l7_http1_path_flag(l7_byte(in, at), row);
		return L7_R_NONE;
	case L7_A_PART_END:
		l7_http1_part_end(p, at, l7_byte(in, at), row);
		return L7_R_NONE;
	case L7_A_VERSION_END:
	case L7_A_RESPONSE_VERSION_END:
		return l7_http1_version_end(p, in, at);
	case L7_A_STATUS_END:
		return l7_http1_status_end(p, in, at);
	case L7_A_LINE_END:
		p->mark = (l7_u16)(at + 1);
		return L7_R_NONE;
	case L7_A_NAME_END:
		return l7_http1_name_end(p, in, at);
	case L7_A_HOST_NAME_END:
		p->host_name = l7_range_between(p->mark, at);
		if (l7_byte(in, p->mark) == ' ')
			p->host_name = l7_range_between(p->mark + 1u, at);
		p->mark = (l7_u16)(at + 1);
		return L7_R_NONE;
	case L7_A_VALUE_END:
		return l7_http1_value_end(p, in, at);
	case L7_A_HEAD_END:
		return l7_http1_head_end(p, at);
	default:
		return L7_R_NONE;
	}
}

/* Bytes that leave the row as it is, many at a time; the byte behind them, or the next turn, goes on with the table. */
L7_INLINE l7_u32 l7_http1_skip(struct l7_http1 *p, const struct l7_input *in, l7_u32 at)
{
	l7_u32 behind;

	switch (p->row) {
	case L7_ROW_OFFSET(L7_S_VALUE):
		return l7_skip_printable(in, at, L7_HTTP1_STEP_WORDS);
	case L7_ROW_OFFSET(L7_S_FIELD):
	case L7_ROW_OFFSET(L7_S_NAME):
		behind = l7_skip_name(in, at, L7_HTTP1_NAME_WORDS);
		if (behind != at)
			p->row = L7_ROW_OFFSET(L7_S_NAME);
		return behind;
	case L7_ROW_OFFSET(L7_S_VERSION):
		return at == p->mark && l7_http1_is_version(l7_word(in, at)) ? at + L7_WORD_BYTES : at;
	default:
		return at;
	}
}

/* Takes bytes up to and including the next one with an action, at most L7_HTTP1_STEP_BYTES of them; names and values word by word. */
L7_INLINE long l7_http1_step(l7_u32 index, void *context)
{
	struct l7_http1_run *run = (struct l7_http1_run *)context;
	struct l7_http1 *p = run->head;
	const struct l7_input *in = run->in;
	l7_u32 at = l7_http1_skip(p, in, p->out.at);
	l7_u16 row = p->row, cell = 0;
	enum l7_reason reason;

	(void)index;
	for (int i = 0; i < L7_HTTP1_STEP_BYTES && at < in->len; i++) {
		l7_u8 byte = l7_byte(in, at);
		l7_u64 index_of_cell = l7_bounded(row | l7_http1_classes[byte], L7_CELL_INDEX_MASK);

		cell = (&l7_http1_cells[0][0])[index_of_cell];
		if (cell != row) {
			if (cell >> L7_CELL_ACTION_SHIFT)
				break;
			row = l7_opaque(cell);
		}
		at++;
	}
	p->row = row;
	p->out.at = at;
	if (!(cell >> L7_CELL_ACTION_SHIFT))
		return at >= in->len;
	if (cell & L7_CELL_PUNT)
		return l7_punt(&p->out, (enum l7_reason)(cell & L7_CELL_REASON_MASK));
	p->row = cell & L7_CELL_ROW_MASK;
	reason = l7_http1_act(p, in, at, cell >> L7_CELL_ACTION_SHIFT, row);
	if (reason)
		return l7_punt(&p->out, reason);
	at++;
	if (p->row == L7_ROW_OFFSET(L7_S_VALUE)) {
		at = l7_skip_printable(in, at, L7_HTTP1_STEP_WORDS);
		p->out.at = at;
		if (l7_byte(in, at) != '\r')
			return 0;
		p->row = L7_ROW_OFFSET(L7_S_LINE_LF);
		reason = l7_http1_value_end(p, in, at);
		if (reason)
			return l7_punt(&p->out, reason);
		at++;
	}
	if (p->row == L7_ROW_OFFSET(L7_S_LINE_LF) && l7_byte(in, at) == '\n') {
		at++;
		p->mark = (l7_u16)at;
		p->row = L7_ROW_OFFSET(L7_S_FIELD);
	}
	p->out.at = at;
	return p->out.verdict != L7_INCOMPLETE;
}

/* Goes on where the last call ended. The input begins with the bytes that were given before. */
L7_INLINE void l7_http1_parse(struct l7_http1 *p, const struct l7_input *in)
{
	struct l7_http1_run run = {p, in};

	if (p->out.verdict != L7_INCOMPLETE)
		return;
	L7_RUN(l7_http1_step, L7_HTTP1_STEPS_MAX, &run);
	l7_end(&p->out);
}

#endif
