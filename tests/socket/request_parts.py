#!/usr/bin/env python3
"""A head that TCP takes in two parts, because its buffer is full: nothing may come between, or in place of the second one

usage: request_parts.py serve PORT LOG | whole PORT REQUESTS | again PORT SECONDS | between PORT SECONDS

`serve` does not read for a while, and then writes down all it reads. The others are clients that fill its buffers with allowed
requests. `whole` blocks, as an honest client does. `again` does not block: of a request that was taken in part it sends the rest, but
one that ends the head and begins a request that is denied. `between` blocks in the middle of a request, and another thread sends
such bytes. The last two print {"connections", "parts"}: how many requests were taken in part, or may have been. `python3` is a
receiver: all of this is judged.
"""

import json
import os
import select
import socket
import sys
import threading
import time

# The buffers are full within half of it, also on a machine that is said to be slower.
HOLD_S = 0.2 * min(5, int(os.environ.get("SHUNT_TESTS_SLOWER", "1")))
HEAD_BYTES = 3300
SEND_BUFFER_BYTES = 16384
FILL_MAX = 4000  # requests; more than all buffers hold

FIRST = b"POST /v1/request-landing HTTP/1.1\r\nHost: d\r\nX-Pad: "
DENIED = b"\r\n\r\nPUT /v1/exhaust-port HTTP/1.1\r\nHost: d\r\nX-Pad: "


def padded(first, size):
    return first + b"x" * (size - len(first) - 4) + b"\r\n\r\n"


def connect(port):
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    connection.settimeout(5)
    connection.connect(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def writable(connection):
    select.select([], [connection], [], 5)


def until_taken_in_part(connection, size):
    """What is left of the request that did not fit; 0: none was taken in part."""
    for _ in range(FILL_MAX):
        try:
            sent = connection.send(padded(FIRST, size))
        except BlockingIOError:
            return 0
        if sent < size:
            return size - sent
    raise SystemExit("the buffers take everything")


def again(port, number):
    connection = connect(port)
    connection.setblocking(False)
    left, until = 0, time.monotonic() + HOLD_S / 2
    while not left and time.monotonic() < until:
        left = until_taken_in_part(connection, HEAD_BYTES + number * 37 % 700)
        time.sleep(0.001)
    parts = len(DENIED) + 8 < left < HEAD_BYTES - len(FIRST)
    if parts:
        try:
            for rest in (padded(DENIED, left), *3 * [padded(FIRST, 160)]):  # those show to a program what has been taken
                writable(connection)
                connection.send(rest)
        except OSError:
            pass  # the connection was ended
    finish(connection)
    return parts


def whole(port, requests):
    connection = connect(port)
    connection.setblocking(True)
    for number in range(requests):
        connection.sendall(padded(FIRST, HEAD_BYTES + number * 37 % 700))
    finish(connection)


def between(port, number):
    connection = connect(port)
    connection.setblocking(True)
    blocked = threading.Event()

    def other():
        blocked.wait()
        time.sleep(HOLD_S / 2)
        try:
            connection.sendall(padded(DENIED, 160))
        except OSError:
            pass  # the connection was ended

    writer = threading.Thread(target=other)
    writer.start()
    blocked.set()
    try:
        for _ in range(FILL_MAX // 20):
            connection.sendall(padded(FIRST, HEAD_BYTES + number * 37 % 700))
    except OSError:
        pass
    writer.join()
    finish(connection)
    return True


def finish(connection):
    """What is under way arrives."""
    try:
        connection.settimeout(5)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    except OSError:
        pass
    connection.close()


def serve(port, log):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    listener.bind(("127.0.0.1", port))
    listener.settimeout(3600)  # python3 is a receiver only where its sockets do not block
    listener.listen(16)
    print("ready", flush=True)

    def read(connection):
        connection.settimeout(5)
        time.sleep(HOLD_S)
        data = b""
        try:
            while more := connection.recv(65536):
                data += more
        except OSError:
            pass
        with open(log, "ab") as file:
            file.write(data + b"\n")
        connection.close()

    while True:
        threading.Thread(target=read, args=(listener.accept()[0],)).start()


def main():
    way, port, value = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if way == "serve":
        serve(port, value)
    if way == "whole":
        whole(port, int(value))
        return
    attack = {"again": again, "between": between}[way]
    connections = parts = 0
    end = time.monotonic() + float(value)
    while time.monotonic() < end:
        try:
            parts += attack(port, connections)
        except OSError:
            pass  # ended, or no place to connect
        connections += 1
    print(json.dumps({"connections": connections, "parts": parts}))


if __name__ == "__main__":
    main()
