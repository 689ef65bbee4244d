/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The Redis commands that are known: where their keys are, as `COMMAND` tells it, or why they are never simple.
 *
 * X(name, first, last, step, reason): arguments first, first + step, ... up to last are keys; the name is argument 0, a negative
 * last counts from the end (-1: the last one), all zero: no keys. Sorted by length, then by name, for a binary search; names of
 * more than 16 bytes are left out, so they are not known. Containers whose subcommands name keys (OBJECT, XGROUP) count as
 * commands with movable keys. */
#ifndef SHUNT_L7_RESP_COMMANDS_H
#define SHUNT_L7_RESP_COMMANDS_H

#include <l7parsers/core/reasons.h>
#include <l7parsers/core/text.h>

#define L7_RESP_NAME_BYTES_MAX 16

/* clang-format off */
#define L7_RESP_COMMANDS(X) \
	X("ACL", 0, 0, 0, NONE) \
	X("DEL", 1, -1, 1, NONE) \
	X("GET", 1, 1, 1, NONE) \
	X("LCS", 1, 2, 1, NONE) \
	X("SET", 1, 1, 1, NONE) \
	X("TTL", 1, 1, 1, NONE) \
	X("AUTH", 0, 0, 0, RESP_SESSION) \
	X("COPY", 1, 2, 1, NONE) \
	X("DECR", 1, 1, 1, NONE) \
	X("DUMP", 1, 1, 1, NONE) \
	X("ECHO", 0, 0, 0, NONE) \
	X("EVAL", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("EXEC", 0, 0, 0, RESP_STATEFUL) \
	X("HDEL", 1, 1, 1, NONE) \
	X("HGET", 1, 1, 1, NONE) \
	X("HLEN", 1, 1, 1, NONE) \
	X("HSET", 1, 1, 1, NONE) \
	X("INCR", 1, 1, 1, NONE) \
	X("INFO", 0, 0, 0, NONE) \
	X("KEYS", 0, 0, 0, NONE) \
	X("LLEN", 1, 1, 1, NONE) \
	X("LPOP", 1, 1, 1, NONE) \
	X("LPOS", 1, 1, 1, NONE) \
	X("LREM", 1, 1, 1, NONE) \
	X("LSET", 1, 1, 1, NONE) \
	X("MGET", 1, -1, 1, NONE) \
	X("MOVE", 1, 1, 1, NONE) \
	X("MSET", 1, -1, 2, NONE) \
	X("PING", 0, 0, 0, NONE) \
	X("PTTL", 1, 1, 1, NONE) \
	X("QUIT", 0, 0, 0, RESP_STATEFUL) \
	X("ROLE", 0, 0, 0, NONE) \
	X("RPOP", 1, 1, 1, NONE) \
	X("SADD", 1, 1, 1, NONE) \
	X("SAVE", 0, 0, 0, NONE) \
	X("SCAN", 0, 0, 0, NONE) \
	X("SORT", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("SPOP", 1, 1, 1, NONE) \
	X("SREM", 1, 1, 1, NONE) \
	X("SYNC", 0, 0, 0, RESP_STATEFUL) \
	X("TIME", 0, 0, 0, NONE) \
	X("TYPE", 1, 1, 1, NONE) \
	X("WAIT", 0, 0, 0, NONE) \
	X("XACK", 1, 1, 1, NONE) \
	X("XADD", 1, 1, 1, NONE) \
	X("XDEL", 1, 1, 1, NONE) \
	X("XLEN", 1, 1, 1, NONE) \
	X("ZADD", 1, 1, 1, NONE) \
	X("ZREM", 1, 1, 1, NONE) \
	X("BITOP", 2, -1, 1, NONE) \
	X("BLPOP", 1, -2, 1, NONE) \
	X("BRPOP", 1, -2, 1, NONE) \
	X("DEBUG", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("FCALL", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("GETEX", 1, 1, 1, NONE) \
	X("HELLO", 0, 0, 0, RESP_SESSION) \
	X("HKEYS", 1, 1, 1, NONE) \
	X("HMGET", 1, 1, 1, NONE) \
	X("HMSET", 1, 1, 1, NONE) \
	X("HSCAN", 1, 1, 1, NONE) \
	X("HVALS", 1, 1, 1, NONE) \
	X("LMOVE", 1, 2, 1, NONE) \
	X("LMPOP", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("LPUSH", 1, 1, 1, NONE) \
	X("LTRIM", 1, 1, 1, NONE) \
	X("MULTI", 0, 0, 0, RESP_STATEFUL) \
	X("PFADD", 1, 1, 1, NONE) \
	X("PSYNC", 0, 0, 0, RESP_STATEFUL) \
	X("RESET", 0, 0, 0, RESP_STATEFUL) \
	X("RPUSH", 1, 1, 1, NONE) \
	X("SCARD", 1, 1, 1, NONE) \
	X("SDIFF", 1, -1, 1, NONE) \
	X("SETEX", 1, 1, 1, NONE) \
	X("SETNX", 1, 1, 1, NONE) \
	X("SMOVE", 1, 2, 1, NONE) \
	X("SSCAN", 1, 1, 1, NONE) \
	X("TOUCH", 1, -1, 1, NONE) \
	X("WATCH", 1, -1, 1, NONE) \
	X("XINFO", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("XREAD", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("XTRIM", 1, 1, 1, NONE) \
	X("ZCARD", 1, 1, 1, NONE) \
	X("ZDIFF", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("ZMPOP", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("ZRANK", 1, 1, 1, NONE) \
	X("ZSCAN", 1, 1, 1, NONE) \
	X("APPEND", 1, 1, 1, NONE) \
	X("ASKING", 0, 0, 0, RESP_SESSION) \
	X("BGSAVE", 0, 0, 0, NONE) \
	X("BITPOS", 1, 1, 1, NONE) \
	X("BLMOVE", 1, 2, 1, NONE) \
	X("BLMPOP", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("BZMPOP", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("CLIENT", 0, 0, 0, RESP_STATEFUL) \
	X("CONFIG", 0, 0, 0, NONE) \
	X("DBSIZE", 0, 0, 0, NONE) \
	X("DECRBY", 1, 1, 1, NONE) \
	X("EXISTS", 1, -1, 1, NONE) \
	X("EXPIRE", 1, 1, 1, NONE) \
	X("GEOADD", 1, 1, 1, NONE) \
	X("GEOPOS", 1, 1, 1, NONE) \
	X("GETBIT", 1, 1, 1, NONE) \
	X("GETDEL", 1, 1, 1, NONE) \
	X("GETSET", 1, 1, 1, NONE) \
	X("HSETNX", 1, 1, 1, NONE) \
	X("INCRBY", 1, 1, 1, NONE) \
	X("LINDEX", 1, 1, 1, NONE) \
	X("LOLWUT", 0, 0, 0, NONE) \
	X("LPUSHX", 1, 1, 1, NONE) \
	X("LRANGE", 1, 1, 1, NONE) \
	X("MEMORY", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("MODULE", 0, 0, 0, NONE) \
	X("MSETNX", 1, -1, 2, NONE) \
	X("OBJECT", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("PSETEX", 1, 1, 1, NONE) \
	X("PUBSUB", 0, 0, 0, NONE) \
	X("RENAME", 1, 2, 1, NONE) \
	X("RPUSHX", 1, 1, 1, NONE) \
	X("SCRIPT", 0, 0, 0, NONE) \
	X("SELECT", 0, 0, 0, RESP_SESSION) \
	X("SETBIT", 1, 1, 1, NONE) \
	X("SINTER", 1, -1, 1, NONE) \
	X("STRLEN", 1, 1, 1, NONE) \
	X("SUBSTR", 1, 1, 1, NONE) \
	X("SUNION", 1, -1, 1, NONE) \
	X("SWAPDB", 0, 0, 0, NONE) \
	X("UNLINK", 1, -1, 1, NONE) \
	X("XCLAIM", 1, 1, 1, NONE) \
	X("XGROUP", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("XRANGE", 1, 1, 1, NONE) \
	X("XSETID", 1, 1, 1, NONE) \
	X("ZCOUNT", 1, 1, 1, NONE) \
	X("ZINTER", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("ZRANGE", 1, 1, 1, NONE) \
	X("ZSCORE", 1, 1, 1, NONE) \
	X("ZUNION", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("CLUSTER", 0, 0, 0, NONE) \
	X("COMMAND", 0, 0, 0, NONE) \
	X("DISCARD", 0, 0, 0, RESP_STATEFUL) \
	X("EVALSHA", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("EVAL_RO", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("FLUSHDB", 0, 0, 0, NONE) \
	X("GEODIST", 1, 1, 1, NONE) \
	X("GEOHASH", 1, 1, 1, NONE) \
	X("HEXISTS", 1, 1, 1, NONE) \
	X("HGETALL", 1, 1, 1, NONE) \
	X("HINCRBY", 1, 1, 1, NONE) \
	X("HSTRLEN", 1, 1, 1, NONE) \
	X("LATENCY", 0, 0, 0, NONE) \
	X("LINSERT", 1, 1, 1, NONE) \
	X("MIGRATE", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("MONITOR", 0, 0, 0, RESP_STATEFUL) \
	X("PERSIST", 1, 1, 1, NONE) \
	X("PEXPIRE", 1, 1, 1, NONE) \
	X("PFCOUNT", 1, -1, 1, NONE) \
	X("PFDEBUG", 2, 2, 1, NONE) \
	X("PFMERGE", 1, -1, 1, NONE) \
	X("PUBLISH", 0, 0, 0, NONE) \
	X("RESTORE", 1, 1, 1, NONE) \
	X("SLAVEOF", 0, 0, 0, NONE) \
	X("SLOWLOG", 0, 0, 0, NONE) \
	X("SORT_RO", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("UNWATCH", 0, 0, 0, RESP_SESSION) \
	X("ZINCRBY", 1, 1, 1, NONE) \
	X("ZMSCORE", 1, 1, 1, NONE) \
	X("ZPOPMAX", 1, 1, 1, NONE) \
	X("ZPOPMIN", 1, 1, 1, NONE) \
	X("BITCOUNT", 1, 1, 1, NONE) \
	X("BITFIELD", 1, 1, 1, NONE) \
	X("BZPOPMAX", 1, -2, 1, NONE) \
	X("BZPOPMIN", 1, -2, 1, NONE) \
	X("EXPIREAT", 1, 1, 1, NONE) \
	X("FAILOVER", 0, 0, 0, NONE) \
	X("FCALL_RO", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("FLUSHALL", 0, 0, 0, NONE) \
	X("FUNCTION", 0, 0, 0, NONE) \
	X("GETRANGE", 1, 1, 1, NONE) \
	X("LASTSAVE", 0, 0, 0, NONE) \
	X("READONLY", 0, 0, 0, RESP_SESSION) \
	X("RENAMENX", 1, 2, 1, NONE) \
	X("REPLCONF", 0, 0, 0, RESP_STATEFUL) \
	X("SETRANGE", 1, 1, 1, NONE) \
	X("SHUTDOWN", 0, 0, 0, NONE) \
	X("SMEMBERS", 1, 1, 1, NONE) \
	X("SPUBLISH", 1, 1, 1, NONE) \
	X("XPENDING", 1, 1, 1, NONE) \
	X("ZREVRANK", 1, 1, 1, NONE) \
	X("GEORADIUS", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("GEOSEARCH", 1, 1, 1, NONE) \
	X("PEXPIREAT", 1, 1, 1, NONE) \
	X("RANDOMKEY", 0, 0, 0, NONE) \
	X("READWRITE", 0, 0, 0, RESP_SESSION) \
	X("REPLICAOF", 0, 0, 0, NONE) \
	X("RPOPLPUSH", 1, 2, 1, NONE) \
	X("SISMEMBER", 1, 1, 1, NONE) \
	X("SUBSCRIBE", 0, 0, 0, RESP_STATEFUL) \
	X("XREVRANGE", 1, 1, 1, NONE) \
	X("ZLEXCOUNT", 1, 1, 1, NONE) \
	X("ZREVRANGE", 1, 1, 1, NONE) \
	X("BRPOPLPUSH", 1, 2, 1, NONE) \
	X("EVALSHA_RO", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("EXPIRETIME", 1, 1, 1, NONE) \
	X("HRANDFIELD", 1, 1, 1, NONE) \
	X("PFSELFTEST", 0, 0, 0, NONE) \
	X("PSUBSCRIBE", 0, 0, 0, RESP_STATEFUL) \
	X("SDIFFSTORE", 1, -1, 1, NONE) \
	X("SINTERCARD", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("SMISMEMBER", 1, 1, 1, NONE) \
	X("SSUBSCRIBE", 0, 0, 0, RESP_STATEFUL) \
	X("XAUTOCLAIM", 1, 1, 1, NONE) \
	X("XREADGROUP", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("ZDIFFSTORE", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("ZINTERCARD", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("BITFIELD_RO", 1, 1, 1, NONE) \
	X("INCRBYFLOAT", 1, 1, 1, NONE) \
	X("PEXPIRETIME", 1, 1, 1, NONE) \
	X("SINTERSTORE", 1, -1, 1, NONE) \
	X("SRANDMEMBER", 1, 1, 1, NONE) \
	X("SUNIONSTORE", 1, -1, 1, NONE) \
	X("UNSUBSCRIBE", 0, 0, 0, RESP_STATEFUL) \
	X("ZINTERSTORE", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("ZRANDMEMBER", 1, 1, 1, NONE) \
	X("ZRANGEBYLEX", 1, 1, 1, NONE) \
	X("ZRANGESTORE", 1, 2, 1, NONE) \
	X("ZUNIONSTORE", 0, 0, 0, RESP_MOVABLE_KEYS) \
	X("BGREWRITEAOF", 0, 0, 0, NONE) \
	X("GEORADIUS_RO", 1, 1, 1, NONE) \
	X("HINCRBYFLOAT", 1, 1, 1, NONE) \
	X("PUNSUBSCRIBE", 0, 0, 0, RESP_STATEFUL) \
	X("SUNSUBSCRIBE", 0, 0, 0, RESP_STATEFUL) \
	X("ZRANGEBYSCORE", 1, 1, 1, NONE) \
	X("GEOSEARCHSTORE", 1, 2, 1, NONE) \
	X("RESTORE-ASKING", 1, 1, 1, NONE) \
	X("ZREMRANGEBYLEX", 1, 1, 1, NONE) \
	X("ZREVRANGEBYLEX", 1, 1, 1, NONE) \
	X("ZREMRANGEBYRANK", 1, 1, 1, NONE) \
	X("ZREMRANGEBYSCORE", 1, 1, 1, NONE) \
	X("ZREVRANGEBYSCORE", 1, 1, 1, NONE)
/* clang-format on */

struct l7_resp_command {
	l7_u64 high; /* the name, folded and packed over two words */
	l7_u64 low;
	l7_u8 first;
	signed char last;
	l7_u8 step;
	l7_u8 reason; /* enum l7_reason */
	l7_u32 unused;
};

/* Byte `i` from the end of a literal, or 0. */
#define L7_CHAR_BACK(s, i) ((l7_u64)(l7_u8)((i) < sizeof(s) - 1 ? (s)[sizeof(s) - 2 - ((i) < sizeof(s) - 1 ? (i) : 0)] : 0))
#define L7_CHARS_BACK(s, i)                                                                                                   \
	(L7_CHAR_BACK(s, i) | L7_CHAR_BACK(s, (i) + 1) << 8 | L7_CHAR_BACK(s, (i) + 2) << 16 | L7_CHAR_BACK(s, (i) + 3) << 24)
#define L7_PACKED_LOW(s) L7_FOLDED(L7_CHARS_BACK(s, 0) | L7_CHARS_BACK(s, 4) << 32)
#define L7_PACKED_HIGH(s) L7_FOLDED(L7_CHARS_BACK(s, 8) | L7_CHARS_BACK(s, 12) << 32)

#define L7_RESP_TABLE_ROWS 256 /* a power of two; what is left over is zero */
#define L7_COMMAND_ONE(name, first, last, step, reason) +1
enum { L7_RESP_COMMAND_COUNT = 0 L7_RESP_COMMANDS(L7_COMMAND_ONE) };
#undef L7_COMMAND_ONE

static const struct l7_resp_command l7_resp_commands[L7_RESP_TABLE_ROWS] = {
#define L7_COMMAND_ROW(name, first, last, step, reason) {L7_PACKED_HIGH(name), L7_PACKED_LOW(name), first, last, step, L7_R_##reason, 0},
	L7_RESP_COMMANDS(L7_COMMAND_ROW)
#undef L7_COMMAND_ROW
};

#endif
