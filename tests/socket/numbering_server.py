#!/usr/bin/env python3
"""A server whose responses tell to which request they belong, and that closes each connection after some

usage: numbering_server.py PORT REQUESTS

A request has X-Number and X-Want: the response has that number, the CRC of the request's body, and a body of so many bytes made of the
number. The last of REQUESTS responses of a connection has Connection: close; what the client has sent behind it is thrown away.
"""

import asyncio
import re
import sys
import zlib

FIELD = re.compile(rb"(?im)^(x-number|x-want|content-length|transfer-encoding): *(.*?)\r?$")


def pattern(number, size):
    text = b"%08d." % number
    return (text * (size // len(text) + 1))[:size]


async def read_body(reader, fields):
    if b"transfer-encoding" not in fields:
        return await reader.readexactly(int(fields.get(b"content-length", 0)))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


async def answer(reader, writer, last):
    head = await reader.readuntil(b"\r\n\r\n")
    fields = {name.lower(): value for name, value in FIELD.findall(head)}
    body = await read_body(reader, fields)
    number, size = int(fields[b"x-number"]), int(fields[b"x-want"])
    writer.write(b"HTTP/1.1 200 OK\r\n%sX-Number: %d\r\nX-Crc: %d\r\nContent-Length: %d\r\n\r\n" % (
        b"Connection: close\r\n" if last else b"", number, zlib.crc32(body), size) + pattern(number, size))
    await writer.drain()


async def serve(reader, writer, requests):
    try:
        for served in range(requests):
            await answer(reader, writer, served == requests - 1)
        writer.write_eof()
        while await reader.read(1 << 16):
            pass
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main():
    port, requests = map(int, sys.argv[1:])
    server = await asyncio.start_server(lambda reader, writer: serve(reader, writer, requests), "0.0.0.0", port)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
