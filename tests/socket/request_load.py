#!/usr/bin/env python3
"""Requests whose verdict is known, simple and complex in turns, over some connections: each response whole, in order, and right

usage: request_load.py PORT CONNECTIONS REQUESTS DEPTH [SEED]

Each connection sends REQUESTS, up to DEPTH of them before it reads, cut into pieces at random places. For the Star Wars policy with
/v1/other beside: POST /v1/request-landing and /v1/other?N are allowed or denied as the policy of the moment says, the second one
either way. Prints {"statuses", "errors", "seconds", "messages"}.
"""

import json
import random
import re
import socket
import sys
import threading
import time

LENGTH = re.compile(rb"(?i)content-length: *(\d+)")
EITHER = ("200", "403")


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


class Connection:
    def __init__(self, port, seed):
        self.rng = random.Random(seed)
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.got = b""

    def send(self, data):
        while data:
            cut = len(data) if self.rng.random() < 0.6 else self.rng.randrange(1, len(data) + 1)
            self.socket.sendall(data[:cut])
            data = data[cut:]

    def response(self):
        """The status of the next one."""
        while True:
            end = self.got.find(b"\r\n\r\n")
            if end >= 0:
                length = int(LENGTH.search(self.got[:end]).group(1))
                if len(self.got) >= end + 4 + length:
                    status = self.got[9:12].decode()
                    self.got = self.got[end + 4 + length:]
                    return status
            more = self.socket.recv(65536)
            if not more:
                raise OSError("closed")
            self.got += more


def converse(port, number, count, depth, seed, outcome):
    done = 0
    try:
        connection = Connection(port, seed * 7919 + number)
        while done < count:
            batch = [request(connection.rng) for _ in range(connection.rng.randrange(1, depth + 1))]
            connection.send("".join(text for text, _ in batch).encode())
            for text, right in batch:
                status = connection.response()
                if status not in right:
                    raise OSError(f"{status}, not {right}, for {text[:60]!r}")
                outcome["statuses"][status] = outcome["statuses"].get(status, 0) + 1
                done += 1
    except (OSError, AttributeError) as error:
        outcome["errors"] += 1
        outcome["messages"].append(f"connection {number} after {done}: {type(error).__name__} {error}")


def main():
    port, connections, count, depth, *seed = map(int, sys.argv[1:])
    outcome = {"statuses": {}, "errors": 0, "messages": []}
    began = time.monotonic()
    threads = [threading.Thread(target=converse, args=(port, i, count, depth, seed[0] if seed else 1, outcome)) for i in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({**outcome, "messages": outcome["messages"][:5], "seconds": round(time.monotonic() - began, 2)}))


if __name__ == "__main__":
    main()
