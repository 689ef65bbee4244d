#!/usr/bin/env python3
"""A fallback proxy that was taken over: with the descriptors of the real one it tries to reach what is not its own

usage: lying_proxy.py SOCKET

Gives up root, takes channels from shuntd, says "ready", waits until a request has come on one of them, and then sends requests and
answers on the channels that nobody has bound to it, under wrong epochs, and without a head; asks the kernel for programs and for maps
by their number, and writes into the map that it may read. Prints {"tried", "delivered", "refused_calls"}: of the messages none may be
delivered, and each call must be refused.
"""

import ctypes
import errno
import json
import mmap
import os
import pwd
import select
import socket
import struct
import sys
import time

HELLO, CHANNELS, PAGE, MAPS, VERSION, COUNT = 1, 4, 3, 9, 4, 8
DATA, INJECT, ANSWER = 1, 3, 4
BEGIN = 1 << 1
READY = 1  # as the page says it: one more than the status
HEAD = struct.Struct("=8IHH16s3I")  # struct sh_punt_head
CHANNELS_MAX = 1024
OUTCOMES = 8 + 8 * CHANNELS_MAX
PAGE_BYTES = OUTCOMES + 4 * CHANNELS_MAX
EVIL = b"PUT /v1/exhaust-port?evil HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n"
BPF_CALL = 321
WRITE = 2
BPF_COMMANDS = {"writing who a client is": WRITE,
                "a program": 5, "a program by its number": 13, "a map by its number": 14, "the next map": 12}


def take_channels(link):
    """(the page, {number: socket}, what stays open, the map); the other ends stay open, or the channels would end."""
    page, channels, kept, readable = None, {}, [], None
    link.send(struct.pack("=3I", HELLO, VERSION, COUNT))
    while len(channels) < COUNT or readable is None:
        data, fds, *_ = socket.recv_fds(link, 65536, 253)
        kind, *numbers = struct.unpack(f"={len(data) // 4}I", data)
        if kind == PAGE:
            page = mmap.mmap(fds[0], -(-PAGE_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE)
        elif kind == CHANNELS:
            for i, number in enumerate(numbers):
                channels[number] = socket.socket(fileno=fds[2 * i])
                kept.append(fds[2 * i + 1])
        elif kind == MAPS:
            readable = fds[0]
    return page, channels, kept, readable


def beat(page):
    struct.pack_into("=Q", page, 0, time.clock_gettime_ns(time.CLOCK_MONOTONIC))


def say(page, number, channel, kind, epoch, bytes_):
    """What became of it, as the page tells; None: the channel does not take it."""
    beat(page)
    struct.pack_into("=I", page, OUTCOMES + 4 * number, 0)
    head = HEAD.pack(kind, len(bytes_), epoch, BEGIN, 0, 0, 0, 0, 0, 0, bytes(16), number, 0, 0)
    try:
        channel.send(head + bytes_, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        return None
    return struct.unpack_from("=I", page, OUTCOMES + 4 * number)[0]


def refused_calls(readable):
    """Of bpf(): which were refused for want of permission."""
    libc = ctypes.CDLL(None, use_errno=True)
    own, me = socket.create_server(("127.0.0.1", 0)), ctypes.create_string_buffer(struct.pack("=4I", 1, 256, 2, 0))
    key = ctypes.create_string_buffer(struct.pack("=i", own.fileno()))
    refused = []
    for name, command in BPF_COMMANDS.items():
        attributes = ctypes.create_string_buffer(144)
        if command == WRITE:
            struct.pack_into("=IxxxxQQ", attributes, 0, readable, ctypes.addressof(key), ctypes.addressof(me))
        if libc.syscall(BPF_CALL, command, attributes, 144) < 0 and ctypes.get_errno() == errno.EPERM:
            refused.append(name)
    return refused


def become_nobody():
    user = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def main():
    become_nobody()
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.connect(sys.argv[1])
    page, channels, kept, map_of_clients = take_channels(link)
    beat(page)
    print("ready", flush=True)
    while True:
        readable = select.select(list(channels.values()), [], [], 0.2)[0]
        beat(page)
        if readable:
            break
    head = HEAD.unpack(readable[0].recv(65536)[:HEAD.size])
    own, its_epoch = head[11], head[2]
    tried, delivered = 0, []
    for number, channel in channels.items():
        for kind in (INJECT, ANSWER):
            for epoch in {0, 1, 2, 3, its_epoch, its_epoch + 1, 0xffffffff}:
                if number == own and epoch == its_epoch:
                    continue  # what it may do
                outcome = say(page, number, channel, kind, epoch, EVIL)
                tried += 1
                if outcome == READY:
                    delivered.append((number, kind, epoch))
    for number, channel in channels.items():
        if number != own:
            tried += 1
            try:
                channel.send(EVIL, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:
                pass
    print(json.dumps({"tried": tried, "delivered": delivered, "refused_calls": refused_calls(map_of_clients), "kept": len(kept)}),
          flush=True)
    while True:
        beat(page)
        time.sleep(0.2)


if __name__ == "__main__":
    main()
