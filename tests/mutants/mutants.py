#!/usr/bin/env python3
"""The kernel side with a remedy taken out: one object for each, so that a test can see the hazard that the remedy is against.

A mutant is a list of edits (file of bpf/, text, replacement). The text must be there exactly once, or the build fails: a
remedy that is moved or rewritten must not leave a mutant behind that takes out nothing. Keep the texts short, one expression
if possible.

usage: mutants.py list
       mutants.py build NAME OBJECT DEPFILE BPF_FOLDER COMPILER OPTION...
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

# What a test has to show with each of these is in tests/socket/hazards*_test.cpp.
MUTANTS = {
    # ---- order ----
    "no-latch": [("redirect.bpf.h", "!sh_latch(cfg, tp, st)", "false")],
    # Bytes of our own that TCP has not delivered.
    "latch-unsent": [("redirect.bpf.h", "tp->snd_una != tp->write_seq ||", "")],
    # Delivered bytes that the reader has not taken from its TCP queue (without the verdict).
    "latch-unread": [("redirect.bpf.h", "|| (!cfg->verdict && st->tcp_msgs)", ""),
                     ("redirect.bpf.h", "BPF_CORE_READ(peer, copied_seq) != BPF_CORE_READ(peer, rcv_nxt)", "false"),
                     ("redirect.bpf.h", "if (BPF_CORE_READ(peer, inet_conn.icsk_inet.sk.sk_backlog.rmem_alloc.counter))",
                      "if (false)")],
    # A reader that may be inside tcp_recvmsg() (without the verdict).
    "latch-inside": [("redirect.bpf.h", "|| (!cfg->verdict && st->tcp_msgs)", "")],
    # ---- backpressure and memory ----
    "no-spill": [("redirect.bpf.h", "sh_reader_lags(cfg, st, size))", "false)")],
    "no-message-limit": [("redirect.bpf.h", "|| st->queued_msgs >= cfg->spill_msgs", "")],
    "no-memory-check": [("redirect.bpf.h", "cfg->memory_check && sh_memory_short(tp, st)", "false")],
    # ---- pairing ----
    "four-tuple": [("enrol.bpf.h", "key.active_seq = tp->snd_nxt;", "key.active_seq = sh_local_port(tp);"),
                   ("enrol.bpf.h", "key.passive_seq = tp->rcv_nxt;", "key.passive_seq = sh_remote_port(tp);"),
                   ("enrol.bpf.h", "key.active_seq = tp->rcv_nxt;", "key.active_seq = sh_remote_port(tp);"),
                   ("enrol.bpf.h", "key.passive_seq = tp->snd_nxt;", "key.passive_seq = sh_local_port(tp);"),
                   ("redirect.bpf.h", "peer.rx_stopped || !sh_latch(", "!sh_latch(")],
    "unpaired-stays": [("shunt.bpf.c", "on_rtt(ops, cfg);", "")],
    # ---- a redirect that fails; a peer, a writer or a socket that is no longer what it was ----
    "drop": [("redirect.bpf.h", "reason = SH_R_REDIRECT_FAILED;", "return SK_DROP;")],
    "peer-unchecked-drop": [("redirect.bpf.h", "if (peer.cookie != st->peer_cookie)", "if (false)"),
                            ("redirect.bpf.h", "reason = SH_R_REDIRECT_FAILED;", "return SK_DROP;")],
    "any-writer": [("redirect.bpf.h", "if (sh_writer_changed(cfg, tp, st))", "if (false)")],
    "send-after-end": [("redirect.bpf.h", "if (sh_cannot_send(tp))", "if (false)")],
    "any-option": [("options.bpf.h", "if (!reason || !ctx->sk)", "if (true)")],
    # ---- leaving the map ----
    "leave-unread": [("list.bpf.h", "|| !sh_psock_empty(psock) ||", "||")],
    "leave-busy": [("list.bpf.h", "|| BPF_CORE_READ(psock, refcnt.refs.counter) != 1", "")],
    "unpaired-leaves-busy": [("enrol.bpf.h", "!sh_may_leave(tp)", "false")],
    # ---- the end ----
    "no-reset": [("shunt.bpf.c", "on_fin(ops);", "")],
}


class Stale(Exception):
    """A mutant that does not fit the sources any more."""


def mutate(name, folder):
    for file, text, replacement in MUTANTS[name]:
        path = folder / file
        source = path.read_text()
        if source.count(text) != 1:
            raise Stale(f"mutant {name}: {file} has {source.count(text)} times what must be there once: {text}")
        path.write_text(source.replace(text, replacement))


def build(name, target, depfile, bpf_folder, compiler):
    """Compiles a mutated copy of bpf/; the dependencies that it writes are the originals."""
    with tempfile.TemporaryDirectory(prefix="shunt-mutant-") as temporary:
        copy = pathlib.Path(temporary)
        for path in bpf_folder.glob("*.bpf.[ch]"):
            shutil.copy(path, copy)
        mutate(name, copy)
        command = [*compiler, "-MD", "-MF", depfile, "-MT", target, "-c", copy / "shunt.bpf.c", "-o", target]
        if subprocess.run(command).returncode != 0:
            raise Stale(f"mutant {name} does not compile")
        depfile.write_text(depfile.read_text().replace(str(copy), str(bpf_folder)))


def main():
    if sys.argv[1:] == ["list"]:
        print("\n".join(MUTANTS))
        return
    name, target, depfile, bpf_folder = sys.argv[2], *map(pathlib.Path, sys.argv[3:6])
    try:
        build(name, target, depfile, bpf_folder, sys.argv[6:])
    except Stale as error:
        sys.exit(str(error))


main()
