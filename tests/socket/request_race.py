#!/usr/bin/env python3
"""Several threads or processes write one connection at once: what the server reads must be what was judged

usage: request_race.py PORT SECONDS threads|processes|passed [CGROUP]

Two writers send whole requests of R bytes, one message each. A third one sends a head whose body follows in a message of its own, and
ends with a request of R bytes that is denied. Should a whole request come to the server between that head and its body, the
server's body is complete R bytes too early, and the denied request is the next thing that it reads. A connection that ends is
followed by the next one. With `passed` the writers are processes in another cgroup, to which the connection is sent
(SCM_RIGHTS). Prints {"connections", "responses"}; what the server took for a request its own log tells.
"""

import contextlib
import json
import os
import pathlib
import socket
import sys
import threading
import time

WRITERS, WRITES = 3, 300  # of each writer on a connection
REQUEST_BYTES = 160
BODY_BYTES = 500


def padded(line):
    """A request without a body, of REQUEST_BYTES."""
    head, end = f"{line} HTTP/1.1\r\nHost: d\r\nX-Pad: ", "\r\n\r\n"
    return (head + "x" * (REQUEST_BYTES - len(head) - len(end)) + end).encode()


WHOLE = padded("POST /v1/request-landing")
DENIED = padded("PUT /v1/exhaust-port")
HEAD = f"POST /v1/request-landing HTTP/1.1\r\nHost: d\r\nContent-Length: {BODY_BYTES}\r\n\r\n".encode()
BODY = b"b" * (BODY_BYTES - len(DENIED)) + DENIED


def write(connection, parts):
    try:
        for _ in range(WRITES):
            for part in parts:
                connection.sendall(part)
    except OSError:
        pass  # the connection was ended


class Forked:
    def __init__(self, target, args):
        self.pid = os.fork()
        if self.pid == 0:
            target(*args)
            os._exit(0)

    def start(self):
        """It runs."""

    def join(self):
        os.waitpid(self.pid, 0)


class Passed:
    """A process that was there before the connection, and belongs to somebody else."""

    idle = []

    @classmethod
    def prepare(cls, cgroup, count):
        for _ in range(count):
            ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            if os.fork() == 0:
                ours.close()
                pathlib.Path(cgroup, "cgroup.procs").write_text("0")
                cls.serve(its)
                os._exit(0)
            its.close()
            cls.idle.append(ours)

    @staticmethod
    def serve(link):
        while True:
            said, fds, *_ = socket.recv_fds(link, 65536, 1)
            if not said:
                return
            with socket.socket(fileno=fds[0]) as connection:
                connection.setblocking(True)
                write(connection, [part.encode("latin-1") for part in json.loads(said)])
            link.send(b"done")

    def __init__(self, target, args):
        self.connection, self.parts = args
        self.link = self.idle.pop()

    def start(self):
        said = json.dumps([part.decode("latin-1") for part in self.parts]).encode()
        socket.send_fds(self.link, [said], [self.connection.fileno()])

    def join(self):
        self.link.recv(16)
        self.idle.append(self.link)


def race(port, writer_class):
    """The responses of one connection."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    writers = [writer_class(target=write, args=(connection, parts)) for parts in ([WHOLE], [HEAD, BODY], [WHOLE])]
    for writer in writers:
        writer.start()
    responses = 0
    try:
        while responses < len(writers) * WRITES:
            data = connection.recv(65536)
            if not data:
                break
            responses += data.count(b"HTTP/1.1 ")
    except OSError:
        pass
    with contextlib.suppress(OSError):  # it was ended
        connection.shutdown(socket.SHUT_RDWR)
    for writer in writers:
        writer.join()
    connection.close()
    return responses


def main():
    port, seconds, kind = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    writer_class = {"threads": threading.Thread, "processes": Forked, "passed": Passed}[kind]
    if writer_class is Passed:
        Passed.prepare(sys.argv[4], WRITERS)
    connections = responses = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            responses += race(port, writer_class)
        except OSError:
            time.sleep(0.01)  # a writer that got no place to connect
        connections += 1
    print(json.dumps({"connections": connections, "responses": responses}))


if __name__ == "__main__":
    main()
