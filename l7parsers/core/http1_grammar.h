/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The grammar of HTTP/1 message heads as tables: RFC 9112 sections 2 to 6, RFC 9110 section 5, RFC 3986 for the target; strict
 * where two parsers could read the same bytes differently.
 *
 * L7_HTTP1_CLASSES gives each byte a class, L7_HTTP1_CELLS each (row, class) a cell: the next row with an action, or a reason to
 * punt. The actions are in http1.h. */
#ifndef SHUNT_L7_HTTP1_GRAMMAR_H
#define SHUNT_L7_HTTP1_GRAMMAR_H

#include <l7parsers/core/reasons.h>
#include <l7parsers/core/target.h>

enum l7_http1_class {
	L7_C_CONTROL,
	L7_C_HIGH, /* 0x80 to 0xff */
	L7_C_TAB,
	L7_C_LF,
	L7_C_CR,
	L7_C_SPACE,
	L7_C_ALPHA,
	L7_C_DIGIT,
	L7_C_DASH,
	L7_C_DOT,
	L7_C_UNDERSCORE,
	L7_C_STAR,
	L7_C_TOKEN_URI, /* ! $ & ' + ~    in tokens and in targets */
	L7_C_TOKEN,     /* ^ ` |          in tokens */
	L7_C_URI,       /* ( ) , = @      in targets */
	L7_C_OTHER,     /* " < > { }      in neither */
	L7_C_SLASH,
	L7_C_COLON,
	L7_C_QUESTION,
	L7_C_HASH,
	L7_C_PERCENT,
	L7_C_SEMICOLON,
	L7_C_BACKSLASH,
	L7_C_OPEN,  /* [ */
	L7_C_CLOSE, /* ] */
	L7_C_COUNT,
	L7_C_COLUMNS = 32, /* of a row: a power of two */
};

#define L7_16(x) x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x
#define XX L7_C_CONTROL
#define AL L7_C_ALPHA
#define DI L7_C_DIGIT
#define TU L7_C_TOKEN_URI
#define TK L7_C_TOKEN
#define UR L7_C_URI
#define OT L7_C_OTHER

static const l7_u8 l7_http1_classes[256] = {
	/* 00 */ XX, XX, XX, XX, XX, XX, XX, XX, XX, L7_C_TAB, L7_C_LF, XX, XX, L7_C_CR, XX, XX,
	/* 10 */ L7_16(XX),
	/*  ! */ L7_C_SPACE, TU, OT, L7_C_HASH, TU, L7_C_PERCENT, TU, TU,
	/* (  */ UR, UR, L7_C_STAR, TU, UR, L7_C_DASH, L7_C_DOT, L7_C_SLASH,
	/* 0  */ DI, DI, DI, DI, DI, DI, DI, DI, DI, DI, L7_C_COLON, L7_C_SEMICOLON, OT, UR, OT, L7_C_QUESTION,
	/* @  */ UR, AL, AL, AL, AL, AL, AL, AL, AL, AL, AL, AL, AL, AL, AL, AL,
	/* P  */ AL, AL, AL, AL, AL, AL, AL, AL, AL, AL, AL, L7_C_OPEN, L7_C_BACKSLASH, L7_C_CLOSE, TK, L7_C_UNDERSCORE,
	/* `  */ TK, AL, AL, AL, AL, AL, AL, AL, AL, AL, AL, AL, AL, AL, AL, AL,
	/* p  */ AL, AL, AL, AL, AL, AL, AL, AL, AL, AL, AL, OT, TK, OT, TU, XX,
	/* 80 */ L7_16(L7_C_HIGH), L7_16(L7_C_HIGH), L7_16(L7_C_HIGH), L7_16(L7_C_HIGH),
	/* c0 */ L7_16(L7_C_HIGH), L7_16(L7_C_HIGH), L7_16(L7_C_HIGH), L7_16(L7_C_HIGH),
};

#undef XX
#undef AL
#undef DI
#undef TU
#undef TK
#undef UR
#undef OT
#undef L7_16

enum l7_http1_row {
	L7_S_METHOD_FIRST, /* a request begins */
	L7_S_METHOD,
	L7_S_TARGET,   /* its first byte */
	L7_S_SLASH,    /* behind a slash of the path */
	L7_S_DOT,      /* behind "/." */
	L7_S_DOT_DOT,  /* behind "/.." */
	L7_S_SEGMENT,  /* elsewhere in the path */
	L7_S_QUERY,
	L7_S_FRAGMENT,
	L7_S_VERSION,
	L7_S_RESPONSE_VERSION, /* a response begins */
	L7_S_STATUS,
	L7_S_PHRASE,
	L7_S_LINE_LF, /* behind the CR of any line but the last */
	L7_S_FIELD,   /* a header field, or the empty line, begins */
	L7_S_NAME,
	L7_S_VALUE,
	L7_S_WORD,       /* the value of a field that is compared with single words */
	L7_S_HOST_COLON, /* behind "Host:" */
	L7_S_HOST_FIRST,
	L7_S_HOST,
	L7_S_HOST_DOT,
	L7_S_HOST_V6,
	L7_S_HOST_V6_END,
	L7_S_HOST_PORT_FIRST,
	L7_S_HOST_PORT,
	L7_S_LAST_LF,
	L7_S_COUNT,
	L7_S_ROWS = 32, /* of the table: a power of two */
};

enum l7_http1_action {
	L7_A_NONE,
	L7_A_METHOD_END,
	L7_A_PATH_FLAG, /* a byte that normalisation of the path would change */
	L7_A_PART_END,  /* of path, query or fragment */
	L7_A_VERSION_END,
	L7_A_RESPONSE_VERSION_END,
	L7_A_STATUS_END,
	L7_A_LINE_END,
	L7_A_NAME_END,
	L7_A_HOST_NAME_END,
	L7_A_VALUE_END,
	L7_A_HEAD_END,
};

/* A cell: row in bits 5 to 9 (so that it is an offset into the table), action from bit 10; or bit 15 and a reason. */
#define L7_CELL_ROW_MASK 0x3e0
#define L7_CELL_INDEX_MASK 0x3ff
#define L7_CELL_ACTION_SHIFT 10
#define L7_CELL_PUNT 0x8000
#define L7_CELL_REASON_MASK 0xff
#define L7_ROW_OFFSET(row) ((l7_u16)(row) * L7_C_COLUMNS)

#define P(reason) (L7_CELL_PUNT | L7_R_##reason)
#define A(row, action) (L7_ROW_OFFSET(L7_S_##row) | L7_A_##action << L7_CELL_ACTION_SHIFT)
#define G(row) A(row, NONE)

/* Rows by shape. Columns are those of enum l7_http1_class. */
#define L7_ROW(tab, lf, cr, space, alpha, digit, dash, dot, underscore, star, token_uri, token, uri, other, slash, colon,     \
	       question, hash, percent, semicolon, backslash, open, close)                                                    \
	{P(CONTROL), P(NON_ASCII), tab, lf, cr, space, alpha, digit, dash, dot, underscore, star, token_uri, token, uri,      \
	 other, slash, colon, question, hash, percent, semicolon, backslash, open, close}

#define L7_ROW_TOKEN(cr, space, token, underscore, colon, bad)                                                                \
	L7_ROW(P(WHITESPACE), P(BARE_LF), cr, space, token, token, token, token, underscore, token, token, token, bad, bad,   \
	       bad, colon, bad, token, token, bad, bad, bad, bad)
#define L7_ROW_TARGET(space, uri, dot, slash, question, hash, flagged)                                                        \
	L7_ROW(P(WHITESPACE), P(BARE_LF), P(BARE_CR), space, uri, uri, uri, dot, uri, uri, uri, P(TARGET), uri, P(TARGET),    \
	       slash, uri, question, hash, flagged, flagged, flagged, P(TARGET), P(TARGET))
#define L7_ROW_TEXT(cr, space, text)                                                                                          \
	L7_ROW(P(WHITESPACE), P(BARE_LF), cr, space, text, text, text, text, text, text, text, text, text, text, text, text,  \
	       text, text, text, text, text, text, text)
#define L7_ROW_DIGITS(cr, space, digit, bad)                                                                                  \
	L7_ROW(P(WHITESPACE), P(BARE_LF), cr, space, bad, digit, bad, bad, bad, bad, bad, bad, bad, bad, bad, bad, bad, bad,  \
	       bad, bad, bad, bad, bad)
#define L7_ROW_LF(lf)                                                                                                         \
	L7_ROW(P(BARE_CR), lf, P(BARE_CR), P(BARE_CR), P(BARE_CR), P(BARE_CR), P(BARE_CR), P(BARE_CR), P(BARE_CR),            \
	       P(BARE_CR), P(BARE_CR), P(BARE_CR), P(BARE_CR), P(BARE_CR), P(BARE_CR), P(BARE_CR), P(BARE_CR), P(BARE_CR),    \
	       P(BARE_CR), P(BARE_CR), P(BARE_CR), P(BARE_CR), P(BARE_CR))
#define L7_ROW_HOST(cr, space, name, dot, colon, open, close)                                                                 \
	L7_ROW(P(WHITESPACE), P(BARE_LF), cr, space, name, name, name, dot, name, P(HOST), P(HOST), P(HOST), P(HOST),         \
	       P(HOST), P(HOST), colon, P(HOST), P(HOST), P(HOST), P(HOST), P(HOST), open, close)

static const l7_u16 l7_http1_cells[L7_S_ROWS][L7_C_COLUMNS] = {
	/* METHOD_FIRST */
	L7_ROW(P(WHITESPACE), P(LEADING_NEWLINE), P(LEADING_NEWLINE), P(WHITESPACE), G(METHOD), P(METHOD), P(METHOD), P(METHOD),
	       P(METHOD), P(METHOD), P(METHOD), P(METHOD), P(METHOD), P(METHOD), P(METHOD), P(METHOD), P(METHOD), P(METHOD),
	       P(METHOD), P(METHOD), P(METHOD), P(METHOD), P(METHOD)),
	/* METHOD: the usual ones are letters */
	L7_ROW(P(WHITESPACE), P(BARE_LF), P(METHOD), A(TARGET, METHOD_END), G(METHOD), P(METHOD), P(METHOD), P(METHOD), P(METHOD),
	       P(METHOD), P(METHOD), P(METHOD), P(METHOD), P(METHOD), P(METHOD), P(METHOD), P(METHOD), P(METHOD), P(METHOD),
	       P(METHOD), P(METHOD), P(METHOD), P(METHOD)),
	/* TARGET: what begins with a letter or digit names a scheme or a host */
	L7_ROW(P(WHITESPACE), P(BARE_LF), P(TARGET), P(WHITESPACE), P(ABSOLUTE_FORM), P(ABSOLUTE_FORM), P(TARGET), P(TARGET),
	       P(TARGET), P(ASTERISK_FORM), P(TARGET), P(TARGET), P(TARGET), P(TARGET), G(SLASH), P(TARGET), P(TARGET), P(TARGET),
	       P(TARGET), P(TARGET), P(TARGET), P(TARGET), P(TARGET)),
	/* SLASH */
	L7_ROW_TARGET(A(VERSION, PART_END), G(SEGMENT), G(DOT), A(SLASH, PATH_FLAG), A(QUERY, PART_END), A(FRAGMENT, PART_END),
		      A(SEGMENT, PATH_FLAG)),
	/* DOT */
	L7_ROW_TARGET(A(VERSION, PART_END), G(SEGMENT), G(DOT_DOT), A(SLASH, PATH_FLAG), A(QUERY, PART_END),
		      A(FRAGMENT, PART_END), A(SEGMENT, PATH_FLAG)),
	/* DOT_DOT */
	L7_ROW_TARGET(A(VERSION, PART_END), G(SEGMENT), G(SEGMENT), A(SLASH, PATH_FLAG), A(QUERY, PART_END),
		      A(FRAGMENT, PART_END), A(SEGMENT, PATH_FLAG)),
	/* SEGMENT */
	L7_ROW_TARGET(A(VERSION, PART_END), G(SEGMENT), G(SEGMENT), G(SLASH), A(QUERY, PART_END), A(FRAGMENT, PART_END),
		      A(SEGMENT, PATH_FLAG)),
	/* QUERY: nothing of it belongs to the path */
	L7_ROW_TARGET(A(VERSION, PART_END), G(QUERY), G(QUERY), G(QUERY), G(QUERY), A(FRAGMENT, PART_END), G(QUERY)),
	/* FRAGMENT */
	L7_ROW_TARGET(A(VERSION, PART_END), G(FRAGMENT), G(FRAGMENT), G(FRAGMENT), G(FRAGMENT), P(TARGET), G(FRAGMENT)),
	/* VERSION: compared as a whole at its end */
	L7_ROW_TEXT(A(LINE_LF, VERSION_END), P(WHITESPACE), G(VERSION)),
	/* RESPONSE_VERSION */
	L7_ROW_TEXT(P(STATUS), A(STATUS, RESPONSE_VERSION_END), G(RESPONSE_VERSION)),
	/* STATUS */
	L7_ROW_DIGITS(P(STATUS), A(PHRASE, STATUS_END), G(STATUS), P(STATUS)),
	/* PHRASE */
	L7_ROW_TEXT(G(LINE_LF), G(PHRASE), G(PHRASE)),
	/* LINE_LF */
	L7_ROW_LF(A(FIELD, LINE_END)),
	/* FIELD */
	L7_ROW_TOKEN(G(LAST_LF), P(OBS_FOLD), G(NAME), P(HEADER_UNDERSCORE), P(HEADER_NAME), P(HEADER_NAME)),
	/* NAME: NAME_END chooses between VALUE, WORD and HOST_COLON */
	L7_ROW_TOKEN(P(HEADER_NAME), P(WHITESPACE), G(NAME), P(HEADER_UNDERSCORE), A(VALUE, NAME_END), P(HEADER_NAME)),
	/* VALUE */
	L7_ROW_TEXT(A(LINE_LF, VALUE_END), G(VALUE), G(VALUE)),
	/* WORD */
	L7_ROW_TEXT(A(LINE_LF, VALUE_END), G(WORD), G(WORD)),
	/* HOST_COLON */
	L7_ROW_HOST(P(HOST), G(HOST_FIRST), G(HOST), P(HOST), P(HOST), G(HOST_V6), P(HOST)),
	/* HOST_FIRST */
	L7_ROW_HOST(P(HOST), P(WHITESPACE), G(HOST), P(HOST), P(HOST), G(HOST_V6), P(HOST)),
	/* HOST: no empty label, and none behind the last dot, which some compare and others cut */
	L7_ROW_HOST(A(LINE_LF, VALUE_END), P(WHITESPACE), G(HOST), G(HOST_DOT), A(HOST_PORT_FIRST, HOST_NAME_END), P(HOST), P(HOST)),
	/* HOST_DOT */
	L7_ROW_HOST(P(HOST), P(WHITESPACE), G(HOST), P(HOST), P(HOST), P(HOST), P(HOST)),
	/* HOST_V6 */
	L7_ROW_HOST(P(HOST), P(WHITESPACE), G(HOST_V6), G(HOST_V6), G(HOST_V6), P(HOST), G(HOST_V6_END)),
	/* HOST_V6_END */
	L7_ROW_HOST(A(LINE_LF, VALUE_END), P(WHITESPACE), P(HOST), P(HOST), A(HOST_PORT_FIRST, HOST_NAME_END), P(HOST), P(HOST)),
	/* HOST_PORT_FIRST */
	L7_ROW_DIGITS(P(HOST), P(WHITESPACE), G(HOST_PORT), P(HOST)),
	/* HOST_PORT */
	L7_ROW_DIGITS(A(LINE_LF, VALUE_END), P(WHITESPACE), G(HOST_PORT), P(HOST)),
	/* LAST_LF */
	L7_ROW_LF(A(FIELD, HEAD_END)),
};

#undef P
#undef A
#undef G

#endif
