/* Punt channels: how single requests go to the fallback proxy and come back. Plain C11 that is also C++20.
 *
 * A channel is a socket of the proxy that is in the sockhash. The kernel side binds one to a client's connection when a request
 * comes that it does not judge: from then on all that the client sends is redirected into the channel, each message behind a
 * struct sh_punt_head, until the proxy has dealt with every byte of it. What the proxy sends on the channel begins with such a
 * head, too, and is delivered to the server (INJECT) or to the client (ANSWER), or not: which ends those are, and whether their
 * turn has come, only the kernel side decides. outcomes[i] in the page says what became of it when the send() returns; what
 * was not delivered comes back as well (RETURN), because a message can only be sent somewhere, and is of no use there.
 *
 * The proxy says how far it is in the page: finished[i] = epoch << 32 | bytes, after the send() that ends a request.
 *
 * A server that ends while a request that was punted has no whole response: neither end learns of it, ended[i] becomes the epoch of
 * the client's binding, or of one made for this, and the proxy owes one byte more. It sends an ANSWER with SH_PUNT_GONE. */
#ifndef SHUNT_ABI_PUNT_H
#define SHUNT_ABI_PUNT_H

#include "shunt.h"

#define SH_CHANNELS_MAX 1024
#define SH_PUNT_HEAD_BYTES 64
#define SH_PUNT_STALE_NS 2000000000ULL /* a proxy whose heartbeat is older gets no new request */
#define SH_PUNT_AHEAD_BYTES (4U << 20) /* a client that is so far ahead of the proxy is ended: a channel has no backpressure */
#define SH_PUNT_PIECE_BYTES 16384      /* of one INJECT or ANSWER at most, without the head */

enum sh_punt_kind {
	/* to the proxy */
	SH_PUNT_DATA = 1, /* the client sent the bytes that follow */
	SH_PUNT_RETURN,   /* what the proxy sent, head and bytes, and what was not delivered */
	/* from the proxy */
	SH_PUNT_INJECT,  /* to the server */
	SH_PUNT_ANSWER,  /* to the client, in place of a response */
	SH_PUNT_ASK,     /* nothing: READY if an INJECT would be delivered now */
	SH_PUNT_RELEASE, /* nothing: READY if the channel is free again */
	SH_PUNT_BREAK,   /* nothing: the connection is reset */
};

enum sh_punt_status {
	SH_PUNT_READY,
	SH_PUNT_NOT_YET,     /* earlier bytes are on their way, or the reader has no room: again, later */
	SH_PUNT_CLIENT_GONE, /* nothing more will come; RELEASE frees the channel */
	SH_PUNT_SERVER_GONE, /* the server's end is closed; of an ANSWER: and an earlier request has no response */
	SH_PUNT_MALFORMED,
	SH_PUNT_ANSWERED, /* ANSWER with SH_PUNT_GONE: there is nothing that the server has not answered */
	SH_PUNT_UNPROVED, /* ANSWER: it cannot be proved what the server has answered, and never will: the connection is to end */
};

enum sh_punt_flags {
	SH_PUNT_FIRST = 1 << 0,   /* DATA: the first of the epoch */
	SH_PUNT_BEGIN = 1 << 1,   /* INJECT: a request begins, to which the server will respond ... */
	SH_PUNT_TO_HEAD = 1 << 2, /* ... without a body: its method is HEAD */
	SH_PUNT_INTERIM = 1 << 3, /* ANSWER: 100, the real one follows */
	SH_PUNT_GONE = 1 << 4,    /* ANSWER: the server has ended; in place of the first response that it owes ... */
	SH_PUNT_IN_HAND = 1 << 5, /* ... or of the one to a request that the proxy has, and the server got nothing of */
};

/* Before each message on a channel. */
struct sh_punt_head {
	sh_u32 kind;   /* enum sh_punt_kind */
	sh_u32 bytes;  /* that follow */
	sh_u32 epoch;  /* of the binding: what carries an old one meets CLIENT_GONE */
	sh_u32 flags;  /* enum sh_punt_flags */
	/* of DATA: */
	sh_u32 why;           /* enum sh_l7_why: of the first */
	sh_u32 generation;    /* of the policy */
	sh_u32 identity;      /* of the client */
	sh_u32 peer_identity; /* of the server */
	sh_u16 server_port;   /* of the server's own end */
	sh_u16 client_port;   /* of the client's own end, before any NAT */
	sh_u8 client_addr[SH_ADDR_BYTES];
	sh_u32 index; /* of the channel in the page */
	sh_u32 zero[2];
};

/* The one thing of the kernel side that the proxy can write. Its own writing into `outcomes` deceives nobody else. */
struct sh_punt_page {
	sh_u64 heartbeat_ns; /* CLOCK_MONOTONIC; 0: no proxy */
	sh_u64 finished[SH_CHANNELS_MAX];
	sh_u32 outcomes[SH_CHANNELS_MAX]; /* by the kernel side: enum sh_punt_status + 1 of what was sent last */
	sh_u32 ended[SH_CHANNELS_MAX];    /* by the kernel side: the epoch in which the server ended before it had answered */
};

/* Whose requests come on a channel, and to whom they go. */
struct sh_punt_ends {
	sh_u64 client;      /* cookie; 0: of nobody */
	sh_u64 client_sock; /* kernel addresses, good as long as the cookies are */
	sh_u64 server;
	sh_u64 server_sock;
	sh_u64 server_storage;
	sh_u64 netns; /* where the client's socket is, to reset it */
	sh_u8 local_addr[SH_ADDR_BYTES];
	sh_u8 remote_addr[SH_ADDR_BYTES];
	sh_u32 family;
	sh_u16 local_port;
	sh_u16 remote_port;
	sh_u16 server_port;
	sh_u16 zero[3];
};

/* Bound and released by the kernel side; the user side makes and ends channels. */
struct sh_channel {
#ifdef __bpf__
	struct bpf_spin_lock lock;
#else
	sh_u32 lock;
#endif
	sh_u32 epoch;          /* counts the bindings */
	sh_u64 cookie;         /* of the proxy's socket; 0: there is none */
	struct sh_punt_ends ends;
	sh_u32 punted;         /* bytes that were sent into it in this epoch, wrapping; one more for a server that has ended */
	sh_u32 broken;         /* 1: the connection is to end */
	sh_u32 orphan;         /* 1: the client is gone, and the proxy has not released the channel yet */
	sh_u32 zero;
};

enum sh_ended {
	SH_ENDED_NOT,  /* the server has not closed, nor its half */
	SH_ENDED_IDLE, /* it has, and no punted request waited for its response */
	SH_ENDED_OWED, /* the client is to be told; until then it learns of no end */
	SH_ENDED_SAID, /* it has been */
};

/* How many requests the server has got of a connection that was punted once: from then on two programs count them. And how the
 * server's end was when it closed. */
struct sh_apart {
	struct sh_punt_ends ends;
	sh_u64 heads;       /* as sh_sock.l7_heads */
	sh_u32 count;       /* as sh_sock.l7_count */
	sh_u32 punted;      /* `count` up to the last one that came from the proxy; 0: none did */
	sh_u32 server_msgs; /* messages that the server had sent when the proxy last delivered something */
	sh_u32 ended;       /* enum sh_ended */
	sh_u32 end_count;   /* responses that were complete */
	sh_u32 end_seq;     /* TCP's sequence number behind the server's last byte */
	sh_u32 end_lost;    /* 1: responses could not be counted, or one was not whole */
	sh_u32 channel;     /* number + 1 of the one that was bound to tell the client; 0: none was ... */
	sh_u32 epoch;       /* ... and of its binding */
	sh_u32 zero;
};

SH_ASSERT_SIZE(sh_punt_head, SH_PUNT_HEAD_BYTES);
SH_ASSERT_SIZE(sh_punt_ends, 96);
SH_ASSERT_SIZE(sh_channel, 128);
SH_ASSERT_SIZE(sh_apart, 144);

#endif
