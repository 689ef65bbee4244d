#!/usr/bin/env python3
"""Requests whose verdict is known, simple and complex in turns, over some connections: each response whole, in order, and right

usage: request_load.py PORT CONNECTIONS REQUESTS DEPTH [--large BYTES] [--seed N]

Each connection sends REQUESTS, up to DEPTH of them before it reads, cut into pieces at random places. For the Star Wars policy with
/v1/other beside: POST /v1/request-landing and /v1/other?N are allowed or denied as the policy of the moment says, the second one
either way. Prints {"statuses", "errors", "seconds", "messages"}.

With --large it speaks to numbering_server.py, of what is allowed: bodies and responses of up to BYTES (requests for the proxy: of 1 MiB).
Each response is compared with what its request asks for, and where the server closes the connection the next one goes on with what it
has not answered. Also prints {"bytes", "reconnects"}.
"""

import argparse
import json
import random
import re
import socket
import sys
import threading
import time
import zlib

from numbering_server import pattern

LENGTH = re.compile(rb"(?i)content-length: *(\d+)")
CLOSE = re.compile(rb"(?i)\r\nconnection: *close")
EITHER = ("200", "403")
PUNTED_BODY_MAX = 1 << 20
LARGE_ONE_IN = 200


def request(rng):
    """(bytes, the statuses that are right)"""
    body = "b" * rng.randrange(1, 3000)
    chunked = f"Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n{body}\r\n0\r\n\r\n"
    return rng.choices((
        ("POST /v1/request-landing HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n", ("200",)),
        (f"POST /v1/request-landing HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n\r\n{body}", ("200",)),
        ("POST /v1/x/../request-landing HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n", ("200",)),
        (f"POST /v1/request-landing HTTP/1.1\r\nHost: d\r\n{chunked}", ("200",)),
        ("POST /v1/exhaust-port HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n", ("403",)),
        ("GET /v1/%65xhaust-port HTTP/1.1\r\nHost: d\r\n\r\n", ("403",)),
        ("POST /v1/other HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n", EITHER),
    ), weights=(30, 15, 20, 10, 10, 5, 10))[0]


class Numbered:
    """A request, and what its response must be."""

    def __init__(self, rng, number, size, want):
        head = f"X-Number: {number}\r\nX-Want: {want}\r\n"
        punted = pattern(number, min(size, PUNTED_BODY_MAX))
        kinds = (("/v1/request-landing", pattern(number, size), False), ("/v1/x/../request-landing", punted, False),
                 ("/v1/request-landing", punted, True))
        path, body, chunked = rng.choices(kinds, weights=(3, 1, 1))[0]
        framing = b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        if chunked:
            framing = b"Transfer-Encoding: chunked\r\n\r\n" + (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
        self.text = f"POST {path} HTTP/1.1\r\nHost: d\r\n{head}".encode() + framing
        self.wanted = (b"X-Number: %d\r\nX-Crc: %d\r\n" % (number, zlib.crc32(body)), pattern(number, want))

    def check(self, head, body):
        if head[9:12] != b"200" or self.wanted[0] not in head or body != self.wanted[1]:
            raise OSError(f"{bytes(head[:200])!r} with {len(body)} bytes for {self.text[:120]!r}, wanted {self.wanted[0]!r}")


class Connection:
    def __init__(self, port, seed):
        self.rng = random.Random(seed)
        self.connect(port)

    def connect(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.got = bytearray()

    def send(self, data):
        while data:
            cut = len(data) if self.rng.random() < 0.6 else self.rng.randrange(1, len(data) + 1)
            self.socket.sendall(data[:cut])
            data = data[cut:]

    def receive(self, enough):
        while not enough():
            more = self.socket.recv(1 << 18)
            if not more:
                raise OSError("closed")
            self.got += more

    def response(self):
        """(head, body) of the next one."""
        self.receive(lambda: b"\r\n\r\n" in self.got)
        end = self.got.index(b"\r\n\r\n") + 4
        head = bytes(self.got[:end])
        length = int(LENGTH.search(head).group(1))
        self.receive(lambda: len(self.got) >= end + length)
        body = bytes(self.got[end:end + length])
        del self.got[:end + length]
        return head, body


class Outcome:
    """What all connections add to."""

    def __init__(self, *sums):
        self.lock = threading.Lock()
        self.sums = {"statuses": {}, "errors": 0, "messages": [], **{name: 0 for name in sums}}

    def answered(self, status, **more):
        with self.lock:
            self.sums["statuses"][status] = self.sums["statuses"].get(status, 0) + 1
            for name, value in more.items():
                self.sums[name] += value

    def failed(self, message):
        with self.lock:
            self.sums["errors"] += 1
            self.sums["messages"].append(message)


def converse(port, number, count, depth, seed, outcome):
    done = 0
    try:
        connection = Connection(port, seed * 7919 + number)
        while done < count:
            batch = [request(connection.rng) for _ in range(connection.rng.randrange(1, depth + 1))]
            connection.send("".join(text for text, _ in batch).encode())
            for text, right in batch:
                status = connection.response()[0][9:12].decode()
                if status not in right:
                    raise OSError(f"{status}, not {right}, for {text[:60]!r}")
                outcome.answered(status)
                done += 1
    except (OSError, AttributeError) as error:
        outcome.failed(f"connection {number} after {done}: {type(error).__name__} {error}")


def batch_of(rng, numbers, depth, large):
    """Small ones, or a large one alone: nobody reads while the other one waits for that, and what follows a request for the proxy is
    for the proxy, too, which takes no large body."""
    count = rng.randrange(1, depth + 1)
    if rng.randrange(LARGE_ONE_IN) >= count:
        return [Numbered(rng, next(numbers), rng.randrange(3000), rng.randrange(3000)) for _ in range(count)]
    sizes = [rng.randrange(large + 1) if rng.random() < 0.7 else large, rng.randrange(3000)]
    rng.shuffle(sizes)
    return [Numbered(rng, next(numbers), *sizes)]


def converse_closing(port, number, count, depth, options, outcome):
    done = 0
    try:
        connection, numbers = Connection(port, options.seed * 7919 + number), iter(range(number * 1_000_000, 99_999_999))
        batch = []
        while done < count:
            batch = batch or batch_of(connection.rng, numbers, depth, options.large)
            text = b"".join(request.text for request in batch)
            if len(text) > PUNTED_BODY_MAX:
                connection.socket.sendall(text)  # a head in pieces is for the proxy
            else:
                connection.send(text)
            while batch:
                head, body = connection.response()
                batch.pop(0).check(head, body)
                closes = bool(CLOSE.search(head))
                outcome.answered(head[9:12].decode(), bytes=len(body), reconnects=closes)
                done += 1
                if closes:
                    connection.socket.close()
                    connection.connect(port)
                    break
    except (OSError, AttributeError) as error:
        outcome.failed(f"connection {number} after {done}: {type(error).__name__} {error}; {len(connection.got)} bytes of a "
                       f"response to {batch[0].text[:150] if batch else b''!r}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("port", "connections", "requests", "depth"):
        parser.add_argument(name, type=int, metavar=name.upper())
    parser.add_argument("--large", type=int, default=0, metavar="BYTES")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    return parser.parse_args()


def main():
    options = parse()
    outcome = Outcome(*(("bytes", "reconnects") if options.large else ()))
    began = time.monotonic()
    run, last = (converse_closing, options) if options.large else (converse, options.seed)
    threads = [threading.Thread(target=run, args=(options.port, i, options.requests, options.depth, last, outcome))
               for i in range(options.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({**outcome.sums, "messages": outcome.sums["messages"][:5], "seconds": round(time.monotonic() - began, 2)}))


if __name__ == "__main__":
    main()
