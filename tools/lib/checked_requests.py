"""Many live connections with requests on them, of which every byte is checked: the server answers with what it got."""

import json
import os
import signal
import sys

from lab import LabError
from scenarios import PATIENCE_S, SLOWER, Broken, eventually, expect

# Of a connection, after each request. What pauses for `firewall`'s five seconds sends each of its messages through TCP.
PAUSE_S = min(0.25 * SLOWER, 2)
LAST_BYTES = 1 << 16  # of what a client has said, more than its last line

SERVER = """
import asyncio, re, sys
async def serve(reader, writer):
    try:
        while head := await reader.readuntil(b"\\r\\n\\r\\n"):
            length = int(re.search(rb"(?i)content-length: *(\\d+)", head)[1])
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % length + await reader.readexactly(length))
            await writer.drain()
    except (asyncio.IncompleteReadError, OSError):
        pass
    finally:
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]), backlog=1000)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()
asyncio.run(main())
"""

# Prints how many requests each connection has had answered, and what went wrong; until SIGTERM, after which each ends in order.
CLIENT = """
import asyncio, json, random, re, signal, sys
host, port, count, path, pause = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], float(sys.argv[5])
turns, errors, ended, stop, opening = [0] * count, [], 0, None, None
async def ask(number, reader, writer, bodies):
    body = bodies.randbytes(bodies.randrange(1, 8000))
    writer.write(f"POST {path} HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n".encode() + body)
    head = await reader.readuntil(b"\\r\\n\\r\\n")
    got = await reader.readexactly(int(re.search(rb"(?i)content-length: *(\\d+)", head)[1]))
    if not head.startswith(b"HTTP/1.1 200") or got != body:
        raise ValueError(f"after {turns[number]} requests: {head[:20]}, {len(got)} bytes instead of {len(body)}, or others")
    turns[number] += 1
async def live(number):
    global ended
    bodies = random.Random(number)
    try:
        async with opening:  # one after the other: so many at once are another test
            reader, writer = await asyncio.open_connection(host, port)
            await ask(number, reader, writer, bodies)
        while not stop.is_set():
            await ask(number, reader, writer, bodies)
            try:
                await asyncio.wait_for(stop.wait(), pause)
            except asyncio.TimeoutError:
                pass
        writer.write_eof()
        if await reader.read():
            raise ValueError("more than was asked for")
        writer.close()
        ended += 1
    except (ValueError, OSError, asyncio.IncompleteReadError) as error:
        errors.append(f"connection {number}: {type(error).__name__}: {error}")
async def tell():
    while True:
        print(json.dumps({"turns": turns, "errors": errors, "ended": ended}), flush=True)
        await asyncio.sleep(0.2)
async def main():
    global stop, opening
    stop, opening = asyncio.Event(), asyncio.Lock()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    telling = asyncio.create_task(tell())
    await asyncio.gather(*[live(number) for number in range(count)])
    telling.cancel()
    print(json.dumps({"turns": turns, "errors": errors, "ended": ended}), flush=True)
asyncio.run(main())
"""


def start_server(lab, port, cgroup, name, command=()):
    log = lab.folder / f"{name}.log"
    server = lab.serve([*command, sys.executable, "-c", SERVER, port], cgroup=cgroup, log=log)
    lab.wait_for(lambda: "ready" in log.read_text(), server, log, name)
    return server


class CheckedRequests:
    """Connections that live until finish(). `explain` has more to say of one that has broken."""

    def __init__(self, lab, name, count, host, port, cgroup, path, command=(), explain=str):
        self.name, self.count, self.explain, self.log = name, count, explain, lab.folder / f"{name}.log"
        self.process = lab.serve([*command, sys.executable, "-c", CLIENT, host, port, count, path, PAUSE_S], cgroup=cgroup, log=self.log)

    def look(self):
        """What was said last. All that was said before is not read again: it grows, and a guest is slow."""
        with self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_BYTES))
            whole = log.read().decode().rpartition("\n")[0]
        last = whole.rpartition("\n")[2]
        said = json.loads(last) if last else {"turns": [0] * self.count, "errors": [], "ended": 0}
        if said["errors"]:
            raise Broken(f"{self.name}: {len(said['errors'])} of {self.count}: {'; '.join(said['errors'][:4])}\n{self.explain()}")
        return said

    def move_on(self, turns=3):
        """So many more requests are answered on every connection."""
        expect(self.process.poll() is None, f"{self.name} ended: {self.log.read_text()[-800:]}")
        before = self.look()["turns"]
        eventually(lambda: all(new >= old + turns for new, old in zip(self.look()["turns"], before)),
                   lambda: f"{self.name}: {sum(new < old + turns for new, old in zip(self.look()['turns'], before))} do not move on")

    def finish(self):
        """How many requests there were."""
        os.kill(self.process.pid, signal.SIGTERM)
        if self.process.wait(PATIENCE_S) != 0:
            raise LabError(f"{self.name} ended with {self.process.returncode}: {self.log.read_text()[-800:]}")
        said = self.look()
        expect(said["ended"] == self.count, f"{self.name}: {said['ended']} of {self.count} connections ended well")
        return sum(said["turns"])
