#!/usr/bin/env python3
"""A server that ends each of its connections as it is told

usage: leaving_server.py PORT FOLDER PLANS

PLANS is JSON: of each connection, in the order in which they come, the list of its steps: ["read", n] (exactly so many bytes)
["rest"] (what there is) ["send", text] ["send", text, times] ["await", name] (until FOLDER/name is there) ["touch", name] ["fin"]
(close) ["rst"] (close, with RST) ["shut"] (its half). What it read is in FOLDER/read-N, and FOLDER/ended-N is there when all is done;
FOLDER/one-too-many, if there was one connection more. Its sockets do not block, as those of a receiver.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import socket
import struct
import sys

POLL_S = 0.005 * int(os.environ.get("SHUNT_TESTS_SLOWER", "1"))  # thirty of these look at once


async def read(loop, connection, log, size):
    while size:
        more = await loop.sock_recv(connection, size)  # never more than what it is to read
        if not more:
            raise OSError("the client has closed")
        log.write(more)
        size -= len(more)


async def follow(connection, folder, number, plan):
    loop = asyncio.get_running_loop()
    with open(folder / f"read-{number}", "wb", buffering=0) as log:
        for what, *value in plan:
            if what == "read":
                await read(loop, connection, log, value[0])
            elif what == "rest":
                with contextlib.suppress(BlockingIOError):
                    log.write(connection.recv(1 << 16))
            elif what == "send":
                await loop.sock_sendall(connection, value[0].encode("latin-1") * (value[1:] or [1])[0])
            elif what == "await":
                while not (folder / value[0]).exists():
                    await asyncio.sleep(POLL_S)
            elif what == "touch":
                (folder / value[0]).touch()
            elif what == "shut":
                connection.shutdown(socket.SHUT_WR)
            elif what == "rst":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
            elif what == "fin":
                connection.close()
    (folder / f"ended-{number}").touch()


async def serve(port, folder, plans):
    loop = asyncio.get_running_loop()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setblocking(False)
    listener.bind(("0.0.0.0", port))
    listener.listen(64)
    print("ready", flush=True)
    tasks = []
    for number, plan in enumerate(plans):
        connection, _ = await loop.sock_accept(listener)
        tasks.append(asyncio.create_task(follow(connection, folder, number, plan)))
    connection, _ = await loop.sock_accept(listener)  # one more than there should be
    (folder / "one-too-many").touch()
    await asyncio.gather(*tasks)


def main():
    asyncio.run(serve(int(sys.argv[1]), pathlib.Path(sys.argv[2]), json.loads(sys.argv[3])))


if __name__ == "__main__":
    main()
