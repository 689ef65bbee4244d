#!/usr/bin/env python3
"""A denied request chases an allowed one: its answer, which is made in the server's place, must not overtake the server's response

usage: request_chase.py PORT SECONDS

Sends an allowed request, waits a random time about as long as the server needs, and sends a denied one, whether the response has come or
not. Where the order cannot be proved the connection ends, and is followed by the next one. Prints {"connections", "ordered", "overtaken"}.
"""

import json
import random
import socket
import statistics
import sys
import time

ALLOWED = b"POST /v1/request-landing HTTP/1.1\r\nHost: d\r\n\r\n"
DENIED = b"PUT /v1/exhaust-port HTTP/1.1\r\nHost: d\r\n\r\n"
SEED = 403
MEASURED = 50  # requests that tell how long the server needs
LONGEST = 2  # wait, of that
PATIENCE_S = 60


class Client:
    def __init__(self, port):
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.connection.setblocking(False)
        self.data, self.statuses, self.ended = b"", [], False

    def send(self, request):
        try:
            self.connection.sendall(request)
        except OSError:
            self.ended = True

    def read(self):
        """What is there."""
        try:
            more = self.connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        self.ended |= not more
        self.data += more
        head, mark, rest = self.data.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]) if mark else 0
        if mark and len(rest) >= length:
            self.statuses.append(head.split()[1].decode())
            self.data = rest[length:]

    def read_until(self, seconds, count=None):
        """For so long, or until so many responses have come."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until and len(self.statuses) != count and not self.ended:
            self.read()


def response_time(port):
    client, times = Client(port), []
    for number in range(MEASURED):
        began = time.perf_counter()
        client.send(ALLOWED)
        client.read_until(PATIENCE_S, number + 1)
        times.append(time.perf_counter() - began)
    if client.statuses != ["200"] * MEASURED:
        sys.exit(f"the server does not answer: {client.statuses}")
    return statistics.median(times)


def chase(client, wait_s):
    """What came for the two."""
    client.statuses = []
    client.send(ALLOWED)
    client.read_until(wait_s)
    client.send(DENIED)
    client.read_until(PATIENCE_S, 2)
    return client.statuses


def main():
    port, seconds = int(sys.argv[1]), float(sys.argv[2])
    chance, longest = random.Random(SEED), LONGEST * response_time(port)
    told = {"connections": 0, "ordered": 0, "overtaken": 0}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        client = Client(port)
        told["connections"] += 1
        while time.monotonic() < end and not client.ended:
            found = chase(client, chance.random() * longest)
            told["overtaken"] += found[:1] == ["403"]
            told["ordered"] += found == ["200", "403"]
    print(json.dumps(told))


if __name__ == "__main__":
    main()
