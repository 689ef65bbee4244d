/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The one list of reasons why a request (or a response) is not simple.
 *
 * X(id, name, text): id as C identifier, name as it is shown (stable: users grep for it), text for people. Append only: the numbers
 * are stored in maps and events that outlive a version. */
#ifndef SHUNT_L7_REASONS_H
#define SHUNT_L7_REASONS_H

#define L7_REASONS(X)                                                                                                         \
	X(NONE, "none", "simple")                                                                                             \
	X(INCOMPLETE, "incomplete", "the head has not arrived whole")                                                         \
	X(TOO_LONG, "too-long", "the head is longer than what is scanned")                                                    \
	/* HTTP/1: characters and lines */                                                                                    \
	X(CONTROL, "control-character", "a control character")                                                                \
	X(NON_ASCII, "non-ascii", "a byte above 0x7f")                                                                        \
	X(WHITESPACE, "whitespace", "white space other than the one space that the grammar has there")                        \
	X(BARE_LF, "bare-lf", "a line feed without carriage return")                                                          \
	X(BARE_CR, "bare-cr", "a carriage return without line feed")                                                          \
	X(LEADING_NEWLINE, "leading-newline", "an empty line before the first line")                                          \
	/* HTTP/1: the request line */                                                                                        \
	X(METHOD, "method", "a method that is not one of the usual ones")                                                     \
	X(CONNECT, "connect", "CONNECT, which opens a tunnel")                                                                \
	X(H2_PREFACE, "h2-preface", "the connection preface of HTTP/2")                                                       \
	X(ABSOLUTE_FORM, "absolute-form", "a target that names the host")                                                     \
	X(ASTERISK_FORM, "asterisk-form", "the target *")                                                                     \
	X(TARGET, "target", "a character that RFC 3986 does not allow in the target")                                         \
	X(VERSION, "version", "neither HTTP/1.0 nor HTTP/1.1")                                                                \
	/* HTTP/1: header fields */                                                                                           \
	X(OBS_FOLD, "obs-fold", "a header field that is folded over lines")                                                   \
	X(HEADER_NAME, "header-name", "a header name that is not a token, or not followed by its colon")                      \
	X(HEADER_UNDERSCORE, "header-underscore", "an underscore in a header name, which some servers read as a dash")        \
	X(HEADERS_MANY, "headers-many", "more header fields than are looked at")                                              \
	X(HOST, "host", "a Host that is not a plain name or address with an optional port")                                   \
	X(HOST_REPEATED, "host-repeated", "more than one Host")                                                               \
	X(HOST_MISSING, "host-missing", "HTTP/1.1 without Host")                                                              \
	X(CONTENT_LENGTH, "content-length", "a Content-Length that is not a plain decimal number")                            \
	X(CONTENT_LENGTH_REPEATED, "content-length-repeated", "more than one Content-Length")                                 \
	X(LENGTH_CONFLICT, "length-conflict", "both Content-Length and Transfer-Encoding")                                    \
	X(CHUNKED, "chunked", "a chunked request")                                                                            \
	X(TRANSFER_ENCODING, "transfer-encoding", "a Transfer-Encoding other than chunked, or repeated, or in HTTP/1.0")      \
	X(EXPECT, "expect", "Expect, usually 100-continue")                                                                   \
	X(UPGRADE, "upgrade", "Upgrade to another protocol")                                                                  \
	X(H2C, "h2c", "HTTP2-Settings, an upgrade to HTTP/2")                                                                 \
	X(CONNECTION_OPTION, "connection-option", "a Connection other than one keep-alive or close")                          \
	X(HOP_BY_HOP, "hop-by-hop", "TE, Trailer, Keep-Alive or Proxy-Connection")                                            \
	X(BODY_UNEXPECTED, "body-unexpected", "a body with a method that has none")                                           \
	X(LENGTH_MISSING, "length-missing", "HTTP/1.0 with a method that has a body, but without Content-Length")             \
	/* HTTP/1: responses */                                                                                               \
	X(STATUS, "status", "a status line that is not three digits between single spaces")                                   \
	X(SWITCHING, "switching-protocols", "101: the connection speaks another protocol from here on")                       \
	X(STATUS_BODY, "status-body", "a body with a status that has none")                                                   \
	/* RESP */                                                                                                            \
	X(RESP_INLINE, "resp-inline", "an inline command")                                                                    \
	X(RESP_TYPE, "resp-type", "an array of something else than bulk strings")              \
	X(RESP_LENGTH, "resp-length", "a length that is not a plain decimal number, or null")                                 \
	X(RESP_TERMINATOR, "resp-terminator", "a line or bulk string that does not end with CR LF")                           \
	X(RESP_COMMAND, "resp-command", "a command that is not in the table")                                                 \
	X(RESP_STATEFUL, "resp-stateful", "a command that changes how the connection's later bytes are read or answered")     \
	X(RESP_MOVABLE_KEYS, "resp-movable-keys", "a command whose keys depend on its other arguments")                       \
	X(RESP_ARITY, "resp-arity", "a command that lacks its key")                                                           \
	X(RESP_KEYS_MANY, "resp-keys-many", "more keys than are looked at")                                                   \
	X(RESP_SESSION, "resp-session", "a command that changes what the connection's later commands mean")

enum l7_reason {
#define L7_REASON_ENUM(id, name, text) L7_R_##id,
	L7_REASONS(L7_REASON_ENUM)
#undef L7_REASON_ENUM
	L7_REASON_COUNT
};

#endif
