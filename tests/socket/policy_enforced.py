#!/usr/bin/env python3
"""Policies in force: real clients and servers in cgroups; nothing that is forbidden is ever read by the server (root)

usage: policy_enforced.py [--build DIR] [--list] [--race SECONDS] [--within SECONDS] [SCENARIO...]

The Star Wars demo of the Cilium documentation on plain processes. Each scenario has a daemon, cgroups and servers of its own. The
recorder is a server that writes down every byte it reads: what it never read was stopped before it.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/lib"))
sys.dont_write_bytecode = True

from galaxy import PATIENCE_S, POLICY, Galaxy, Idlers  # noqa: E402
from scenarios import SLOWER, Scenarios, eventually, expect  # noqa: E402

CURL_CANNOT_CONNECT = 7
USAGE = 2  # exit code of shuntd
SCENARIOS = Scenarios("policy", lambda lab, function, options: function(Galaxy(lab, options)), lambda outcome: f"{outcome['seconds']} s",
                      [("race", float, 5, "seconds of each of the three races of several writers"),
                       ("within", float, 5, "seconds in which what a new policy forbids ends; 2 on a host that is not busy")])


def head(method, path, *headers, body=""):
    lines = [f"{method} {path} HTTP/1.1", "Host: deathstar", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines) + "\r\n\r\n" + body


def statuses_of(result):
    return re.findall(r"HTTP/1\.1 (\d+) ", result["got"])


LANDING = head("POST", "/v1/request-landing", "Content-Length: 0")
EXHAUST = head("PUT", "/v1/exhaust-port", "Content-Length: 0")
FORCE = head("PUT", "/v1/exhaust-port", "X-Has-Force: true", "Content-Length: 0")


def scenario(name):
    def add(function):
        SCENARIOS.all[name] = function
        return function
    return add


@scenario("Star Wars: who may connect, which requests pass")
def star_wars(galaxy):
    galaxy.web_server()
    code, _, text = galaxy.curl("xwing", "POST", "/v1/request-landing")
    expect(code == CURL_CANNOT_CONNECT, f"the alliance: curl ended with {code}: {text}")
    expect("PermissionError" in str(galaxy.client("xwing")["error"]), "the alliance gets another errno than EPERM")
    code, _, text = galaxy.curl("stranger", "POST", "/v1/request-landing")
    expect(code == CURL_CANNOT_CONNECT, f"a process of the host: curl ended with {code}: {text}")
    for method, path, more, wanted in (("POST", "/v1/request-landing", (), "200"), ("PUT", "/v1/exhaust-port", (), "403"),
                                       ("PUT", "/v1/exhaust-port", ("-H", "X-Has-Force: true"), "200"),
                                       ("PUT", "/v1/exhaust-port", ("-H", "X-Has-Force: no"), "403"), ("GET", "/", (), "403"),
                                       ("POST", "/v1/request-landing/../exhaust-port", ("--path-as-is",), "503"),
                                       ("POST", "/v1//request-landing", ("--path-as-is",), "503")):
        code, status, text = galaxy.curl("tiefighter", method, path, *more)
        expect((code, status) == (0, wanted), f"{method} {path} {more}: curl {code}, status {status}, not {wanted}: {text}")
    code, status, text = galaxy.curl("tiefighter", "POST", "/v1/request-landing", "-H", "Transfer-Encoding: chunked", "-d", "x")
    expect(code != 0 and status == "000", f"a chunked request, which nobody here can judge: curl {code}, status {status}: {text}")
    code, status, text = galaxy.curl("tiefighter", "HEAD", "/", "-I")
    expect((code, status) == (0, "403"), f"HEAD: curl {code}, {status}: {text}")
    seen = (galaxy.lab.folder / "nginx/access.log").read_text()
    expect(seen.count("POST /v1/request-landing HTTP") == 1 and seen.count("PUT") == 1 and len(seen.splitlines()) == 2,
           f"nginx saw {seen}")
    policy = json.loads(galaxy.shunt("-o", "json", "policy", "get"))
    # Those with an odd path are punted by the rule that may match them.
    expect([rule["hits"] for rule in policy["rules"]] == [3, 1] and policy["hits_of_no_rule"] >= 4,
           f"hits: {policy['rules']}, {policy['hits_of_no_rule']}")
    galaxy.lab.stop(galaxy.daemon)
    galaxy.daemon = galaxy.lab.run_daemon()
    again = json.loads(galaxy.shunt("-o", "json", "policy", "get"))
    expect(all(rule in again["rules"] for rule in policy["rules"]), f"a restarted daemon counts anew: {again['rules']}")
    counters = galaxy.counters()
    expect(counters["requests_denied"] >= 4 and counters["requests_punted"] >= 2 and counters["requests_allowed"] == 2,
           f"counted: {counters}")


@scenario("a trace says what the kernel does")
def trace(galaxy):
    server = galaxy.recorder()

    def ask(*arguments):
        code, text = galaxy.lab.shunt("-o", "json", "policy", "trace", *map(str, arguments))
        return code, json.loads(text)

    def verdict(*arguments):
        return ask(*arguments)[1]["verdict"]

    def clients():
        return [row for row in json.loads(galaxy.shunt("-o", "json", "list"))["sockets"] if row["role"] == "active"]

    target = f"deathstar:{galaxy.port}"
    expect(ask(galaxy.path("xwing"), target)[0] == 7 and verdict("host", target) == "denied", "the alliance, or the host, may connect")
    code, answer = ask(galaxy.path("tiefighter"), f"{server.pid}:{galaxy.port}", "PUT", "/v1/exhaust-port", "-H", "X-Has-Force: no")
    expect(code == 7 and answer["ingress"]["reason"] == "no-matching-rule", f"no force: {code} {answer}")
    code, answer = ask(galaxy.path("tiefighter"), target, "PUT", "/v1/exhaust-port", "-H", "X-Has-Force: true")
    expect(code == 0 and "empire.yaml:" in answer["ingress"]["rules"][0], f"the force: {code} {answer}")
    expect(ask("tiefighter", target, "POST", "/v1//request-landing")[0] == 8, "a path that is not in its normal form is not punted")
    # A live connection, by its addresses; the daemon no longer knows the documents that it reads.
    client = galaxy.lab.serve(galaxy.client_command([["send", LANDING], ["responses", 1], ["sleep", 4]]),
                              cgroup=galaxy.cgroups["tiefighter"])
    eventually(lambda: "landing" in galaxy.read(), "the request arrives")
    (galaxy.folder / "empire.yaml").write_text("nonsense")
    eventually(clients, "the client is listed")
    row = clients()[0]
    for ends in ((row["local"], row["remote"]), (row["remote"], row["local"])):
        code, answer = ask(*ends, "POST", "/v1/request-landing")
        expect(code == 0 and answer["from"]["name"] == "default/tiefighter" and answer["to"]["name"] == "default/deathstar"
               and answer["from"]["pid"] == row["pid"] and answer["from"]["cookie"] == row["cookie"], f"{ends}: {code} {answer}")
    client.communicate(timeout=PATIENCE_S)
    expect(ask("127.0.0.1:1", "127.0.0.1:2")[0] == 2, "a connection that is not there")


@scenario("one connection: allowed and denied in turns, in order")
def in_turns(galaxy):
    galaxy.recorder()
    steps = []
    for _ in range(200):
        for text in (LANDING, EXHAUST, FORCE, EXHAUST):
            steps += [["send", text], ["responses", 1]]
    result = galaxy.client("tiefighter", *steps)
    statuses = statuses_of(result)
    expect(result["error"] is None and statuses == ["200", "403"] * 400, f"{result['error']}, {len(statuses)} responses: {statuses[:12]}")
    read = galaxy.read()
    # Sent before the response to the one before it: never answered first, however the race ends.
    for _ in range(20):
        statuses = statuses_of(galaxy.client("tiefighter", ["send", LANDING], ["send", EXHAUST], ["recv", 0.5]))
        expect(statuses in ([], ["200"], ["200", "403"]), f"not in order: {statuses}")
    expect(read.count("POST /v1/request-landing") == 200 and read.count("PUT /v1/exhaust-port") == 200
           and read.count("X-Has-Force") == 200, "the recorder read something else")


@scenario("wrk: every request is judged, and redirected")
def wrk(galaxy):
    galaxy.write_policy(POLICY.replace('method: "POST"', 'method: "GET"'))
    galaxy.reload()
    galaxy.web_server()
    code, text = galaxy.run("tiefighter", ["wrk", "-t1", "-c16", "-d3s", f"http://127.0.0.1:{galaxy.port}/v1/request-landing"])
    expect(code == 0 and "Non-2xx" not in text and "Socket errors" not in text, text)
    requests = int(text.split(" requests in")[0].split()[-1])
    counters = galaxy.counters()
    expect(counters["requests_allowed"] >= requests > 1000, f"{requests} requests, {counters['requests_allowed']} judged")
    expect(counters["requests_denied"] == 0 and counters["redirected_messages"] > 1.8 * requests,
           f"of {requests} requests and as many responses {counters['redirected_messages']} were redirected")


@scenario("bodies: whole, in pieces, and nothing rides behind them")
def bodies(galaxy):
    galaxy.recorder()
    big = head("POST", "/v1/request-landing", body="x" * 3_000_000)
    result = galaxy.client("tiefighter", ["send", big], ["responses", 1], ["send", LANDING], ["responses", 1],
                           ["send", big[:100000]], ["sleep", 0.2], ["send", big[100000:]], ["responses", 1],
                           ["send", EXHAUST], ["responses", 1])
    statuses = statuses_of(result)
    expect(statuses == ["200", "200", "200", "403"], f"{statuses}, {result['error']}")
    expect(galaxy.read().count("x") == 6_000_000, "the bodies arrived changed")
    before = len(galaxy.read())
    smuggled = head("POST", "/v1/request-landing", body="hello") + EXHAUST
    result = galaxy.client("tiefighter", ["send", smuggled], ["recv", 3])
    expect("exhaust" not in galaxy.read(), "a request behind a body was not judged")
    expect(galaxy.read()[before:] in ("", head("POST", "/v1/request-landing", body="hello")), "the recorder read something else")


@scenario("dodging: split heads, urgent bytes, sendfile, pipelines")
def dodging(galaxy):
    galaxy.recorder()
    forbidden = galaxy.lab.folder / "forbidden"
    forbidden.write_text(EXHAUST)
    attempts = {
        "a head in two sends": [["send", EXHAUST[:20]], ["sleep", 0.2], ["send", EXHAUST[20:]], ["recv", 2]],
        "byte by byte": [step for byte in EXHAUST for step in (["send", byte],)] + [["recv", 2]],
        "sendfile": [["file", str(forbidden)], ["recv", 2]],
        "an urgent byte": [["urgent", EXHAUST], ["recv", 2]],
        "behind one that is allowed": [["send", LANDING + EXHAUST], ["recv", 2]],
        "between two": [["send", LANDING], ["send", EXHAUST + FORCE], ["recv", 2]],
        "a bare line feed": [["send", LANDING[:-2] + "\n" + EXHAUST], ["recv", 2]],
        "two lengths": [["send", head("POST", "/v1/request-landing", "Content-Length: 0", f"Content-Length: {len(EXHAUST)}") + EXHAUST],
                        ["recv", 2]],
        "not HTTP": [["send", "\x16\x03\x01" + EXHAUST], ["recv", 2]],
    }
    for what, steps in attempts.items():
        result = galaxy.client("tiefighter", *steps)
        expect("/v1/exhaust-port" not in result["got"], f"{what}: the server answered: {result}")
        read = galaxy.read().replace(FORCE, "")
        expect("exhaust" not in read and EXHAUST[:3] not in read, f"{what}: the server read {read[-300:]!r}")
    result = galaxy.client("tiefighter", ["urgent", LANDING[:5] + "!"], ["send", LANDING[5:]], ["recv", 2])
    expect("200" not in result["got"], f"an urgent byte in a request: {result}")


# What its server's end has left for the client is taken away: as if that end were still coming about on another CPU.
EARLY = """
import ctypes, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, attr):
    room = ctypes.create_string_buffer(attr, 128)
    return libc.syscall(321, command, room, 128)
path = ctypes.create_string_buffer(sys.argv[2].encode())
answers = bpf(7, struct.pack("=QII", ctypes.addressof(path), 0, 0))
if answers < 0:
    sys.exit("cannot open " + sys.argv[2] + ": " + os.strerror(ctypes.get_errno()))
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=20)
s.setblocking(True)
s.settimeout(20)
key, gone = ctypes.create_string_buffer(8), 0
while bpf(4, struct.pack("=IIQQ", answers, 0, 0, ctypes.addressof(key))) == 0:
    gone += bpf(3, struct.pack("=IIQ", answers, 0, ctypes.addressof(key))) == 0
try:
    for text in sys.argv[3:]:
        s.sendall(text.encode())
    print(gone, s.recv(100))
except OSError as e:
    print(gone, e.errno)
"""


@scenario("a client that sends before its server's end is known: nothing that nobody has judged is read")
def early(galaxy):
    galaxy.recorder()
    pins = list((galaxy.lab.folder / "bpffs").rglob("sh_answers"))
    expect(len(pins) == 1, f"pinned: {pins}")
    galaxy.client("tiefighter", ["send", LANDING], ["responses", 1])
    before = galaxy.read()
    for number in range(20):  # where in the numbers of TCP it begins is chance
        texts = [LANDING] if number % 2 else [LANDING, EXHAUST]
        client = galaxy.lab.start([sys.executable, "-c", EARLY, galaxy.port, pins[0], *texts], cgroup=galaxy.cgroups["tiefighter"])
        outcome = client.communicate(timeout=PATIENCE_S)[0].decode("latin-1").strip()
        expect(outcome in ("1 104", "1 13"), f"connection {number}: {outcome}")  # reset; or told by the second send()
    expect(galaxy.read() == before, f"the server read {galaxy.read()[len(before):]!r}")


@scenario("several threads and processes, heirs and strangers, write one connection at once")
def racing(galaxy):
    galaxy.recorder()
    for kind in ("threads", "processes", "passed"):
        racer = galaxy.lab.serve([pathlib.Path(__file__).with_name("request_race.py"), galaxy.port, galaxy.options.race, kind,
                                  galaxy.cgroups["stranger"]],
                                 cgroup=galaxy.cgroups["tiefighter"])
        text = racer.communicate(timeout=galaxy.options.race + PATIENCE_S)[0].decode()
        expect(racer.returncode == 0, f"{kind}: {racer.returncode}, {text}")  # how many connections are reset is the machine's affair
        print(f"{kind}: {text.strip()}", file=sys.stderr)
    lines = galaxy.request_lines()
    expect(len(lines) > 100, f"the server read {len(lines)} requests")
    denied = [line for line in lines if "exhaust" in line]
    expect(not denied, f"of {len(lines)} requests that the server read {len(denied)} had been denied")


@scenario("a denied request behind one whose response is under way: the answer does not overtake it")
def chasing(galaxy):
    galaxy.recorder()
    chaser = galaxy.lab.serve([pathlib.Path(__file__).with_name("request_chase.py"), galaxy.port, galaxy.options.race],
                              cgroup=galaxy.cgroups["tiefighter"])
    text = chaser.communicate(timeout=galaxy.options.race + PATIENCE_S)[0].decode()
    expect(chaser.returncode == 0, f"{chaser.returncode}, {text}")
    told = json.loads(text)
    print(text.strip(), file=sys.stderr)
    # How often the order can be proved is the machine's affair, but for those that come behind the response.
    expect(told["overtaken"] == 0 and told["ordered"] > 100 / SLOWER, f"answers: {told}")


# A thread for each connection waits for the next request inside recv(). Known by its listener, which does not block, as a receiver: one
# that blocks there is none.
BLOCKING = """
import select, socket, sys, threading
def serve(connection):
    connection.setblocking(True)
    data = b""
    while True:
        try:
            more = connection.recv(65536)
        except BlockingIOError:
            continue
        if not more:
            return
        data += more
        while b"\\r\\n\\r\\n" in data:
            data = data.split(b"\\r\\n\\r\\n", 1)[1]
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
listener = socket.socket()
listener.setblocking(False)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
print("ready", flush=True)
while True:
    select.select([listener], [], [])
    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"""


@scenario("a denied request to a server that waits inside recv(): answered in its place")
def blocked(galaxy):
    log = galaxy.lab.folder / "blocking.log"
    server = galaxy.lab.serve([sys.executable, "-c", BLOCKING, galaxy.port], cgroup=galaxy.cgroups["deathstar"], log=log)
    galaxy.lab.wait_for(lambda: "ready" in log.read_text(), server, log, "the server that blocks")
    pause = ["sleep", 0.02 * SLOWER]  # the server is in recv() again
    steps = [step for text in (EXHAUST, LANDING, EXHAUST, EXHAUST, LANDING) for step in (pause, ["send", text], ["responses", 1])]
    result = galaxy.client("tiefighter", *steps)
    expect(statuses_of(result) == ["403", "200", "403", "403", "200"] and result["error"] is None, f"answers: {result}")
    expect(galaxy.counters()["redirected_messages"] > 0, "what is allowed is redirected")


@scenario("TCP takes a head in two parts")
def in_parts(galaxy):
    program, requests = pathlib.Path(__file__).with_name("request_parts.py"), 500
    log = galaxy.lab.folder / "parts.log"
    server = galaxy.lab.serve([program, "serve", galaxy.port, galaxy.log], cgroup=galaxy.cgroups["deathstar"], log=log)
    galaxy.lab.wait_for(lambda: "ready" in log.read_text(), server, log, "the server that does not read")
    code, text = galaxy.run("tiefighter", [program, "whole", galaxy.port, requests])
    expect(code == 0, f"who waits in the middle of a head: {code}, {text}")
    eventually(lambda: galaxy.read().count("\r\n\r\n") == requests, lambda: f"{requests} requests arrive: {len(galaxy.read())} bytes")
    # Before 6.5 TCP takes a piece of memory whole or not at all (do_tcp_sendpages()), and a head lies in two pieces only where a page ends:
    # who does not block sees none there.
    whole_pieces = tuple(map(int, os.uname().release.split(".")[:2])) < (6, 5)
    for way in ("again", "between"):
        code, text = galaxy.run("tiefighter", [program, way, galaxy.port, galaxy.options.race])
        parts = code == 0 and json.loads(text)["parts"]
        expect(code == 0 and (parts or way == "again" and whole_pieces), f"{way}: {code}, {text}")
        print(f"{way}: {text.strip()}", file=sys.stderr)
    eventually(lambda: galaxy.read().endswith("\n"), "the last connection ends")
    data = galaxy.read()
    expect("exhaust" not in data, f"among {data.count('HTTP/1.1')} requests the server read {data.count('exhaust')} that nobody judged")


@scenario("whose requests the kernel cannot see does not get through")
def unseen(galaxy):
    galaxy.recorder()
    program = galaxy.unknown_program()
    code, text = galaxy.run("tiefighter", galaxy.client_command([["send", LANDING], ["recv", 5]], program=program))
    expect(code == 0 and "200 OK" not in text, f"a program that is no receiver: {code} {text}")
    expect(not galaxy.read(), "the server read a request that nobody judged")
    galaxy.daemon.kill()
    galaxy.daemon.wait()
    code, text = galaxy.run("tiefighter", galaxy.client_command([["send", LANDING], ["recv", 2]], program=program))
    expect(code == 0 and "200 OK" not in text and not galaxy.read(), "with the daemon dead a request passed that nobody judged")
    expect(statuses_of(galaxy.client("tiefighter", *[["send", LANDING], ["responses", 1], ["send", EXHAUST], ["responses", 1]])) ==
           ["200", "403"], "with the daemon dead a receiver's requests are not judged as before")
    expect(galaxy.curl("xwing", "POST", "/v1/request-landing")[0] == CURL_CANNOT_CONNECT, "with the daemon dead the alliance connects")


@scenario("a policy changes under live connections")
def changes(galaxy):
    galaxy.recorder()
    client = galaxy.lab.serve(galaxy.client_command(
        [["send", LANDING], ["responses", 1], ["sleep", 4], ["send", LANDING], ["responses", 1],
         ["send", head("GET", "/new")], ["responses", 1]]),
        cgroup=galaxy.cgroups["tiefighter"])
    eventually(lambda: galaxy.read().count("landing") == 1, "the first request arrives")
    galaxy.write_policy(POLICY.replace('method: "POST"', 'method: "GET"').replace("/v1/request-landing", "/new"))
    galaxy.reload()
    result = json.loads(client.communicate(timeout=PATIENCE_S)[0])
    statuses = statuses_of(result)
    expect(statuses == ["200", "403", "200"], f"{statuses}, {result['error']}")
    galaxy.write_policy(POLICY.replace("org: empire\n    toPorts", "org: nobody\n    toPorts"))
    galaxy.reload()
    code, _, text = galaxy.curl("tiefighter", "POST", "/v1/request-landing")
    expect(code == CURL_CANNOT_CONNECT, f"a connection that the new policy forbids: {code} {text}")
    (galaxy.folder / "empire.yaml").unlink()
    galaxy.reload()
    expect(galaxy.curl("xwing", "GET", "/any")[:2] == (0, "200"), "without a policy everything passes")


@scenario("a policy that changes all the time: what all of them say always holds")
def restless(galaxy):
    galaxy.recorder()
    paths = ["/v1/second", "/v1/third/[a-z]+", "/v1/fourth"]
    changes, ended = [], threading.Event()

    def change():
        while not ended.is_set():
            more = f'        - method: "POST"\n          path: "{paths[len(changes) % 3]}"\n        - method: "PUT"'
            galaxy.write_policy(POLICY.replace('        - method: "PUT"', more))
            galaxy.reload()
            changes.append(len(changes))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        seen = set()
        for _ in range(15):
            requests = (LANDING, EXHAUST, head("POST", "/v1/third/x"))
            result = galaxy.client("tiefighter", *[step for text in requests * 60 for step in (["send", text], ["responses", 1])])
            statuses = statuses_of(result)
            expect(result["error"] is None and len(statuses) == 180, f"{result['error']}, {len(statuses)} responses")
            expect(statuses[0::3] == ["200"] * 60 and statuses[1::3] == ["403"] * 60, f"what every policy says: {statuses}")
            seen.update(statuses[2::3])
            expect(galaxy.curl("xwing", "POST", "/v1/request-landing")[0] == CURL_CANNOT_CONNECT, "the alliance connects")
    finally:
        ended.set()
        thread.join()
    expect(seen == {"200", "403"} and len(changes) >= 10, f"{len(changes)} changes; where they differ: {seen}")
    rules = json.loads(galaxy.shunt("-o", "json", "policy", "get"))["rules"]
    hits = [rule["hits"] for rule in rules if rule["hits"] >= 15 * 60]
    expect(hits == [15 * 60], f"hits of the rule that never changed: {rules}")


@scenario("a large policy: the daemon answers while it compiles, and one rule among many changes")
def large(galaxy):
    galaxy.recorder()
    galaxy.restart_with_room(8192, 131072)
    (galaxy.folder / "many.yaml").write_text(galaxy.many_rules(400, 50))
    began = time.monotonic()
    reload = subprocess.Popen([galaxy.lab.build / "control/shunt", "-c", galaxy.lab.folder / "shunt.yaml", "reload"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    waits = []
    while reload.poll() is None:
        asked = time.monotonic()
        galaxy.lab.status()
        waits.append(time.monotonic() - asked)
    took = time.monotonic() - began
    expect(reload.returncode == 0, f"reload: {reload.stdout.read()}")
    expect(len(waits) > 2 and max(waits) < max(1, took / 2), f"of {took:.2f} s the daemon did not answer for {max(waits):.2f} s")
    status = galaxy.lab.status()["policy"]
    expect(status["sets"] == 401, f"in force: {status}")
    for path, wanted in (("/v1/other", ["403", "200"]), ("/v1/request-landing", ["200", "403"])):
        galaxy.write_policy(POLICY.replace("/v1/request-landing", path))
        galaxy.reload()
        statuses = statuses_of(galaxy.client("tiefighter", ["send", LANDING], ["responses", 1], ["send", head("POST", "/v1/other")],
                                             ["responses", 1]))
        expect(statuses == wanted, f"after the change to {path}: {statuses}")


@scenario("a policy begins: older connections end")
def begins(galaxy):
    (galaxy.folder / "empire.yaml").unlink()
    galaxy.reload()
    galaxy.recorder()
    client = galaxy.lab.serve(galaxy.client_command(
        [["send", LANDING], ["responses", 1], ["sleep", 4], ["send", EXHAUST], ["recv", 3]]), cgroup=galaxy.cgroups["xwing"])
    eventually(lambda: galaxy.read().count("landing") == 1, "the first request arrives")
    galaxy.write_policy(POLICY)
    galaxy.reload()
    result = json.loads(client.communicate(timeout=PATIENCE_S)[0])
    expect("exhaust" not in galaxy.read() and result["error"], f"a connection older than the policy: {result}")


def with_xwing(text):
    """Also the alliance may connect, whatever it asks."""
    rule = "  - fromEndpoints: [{matchLabels: {org: alliance}}]\n    toPorts: [{ports: [{port: \"80\"}]}]\n"
    return text.replace("  ingress:\n", "  ingress:\n" + rule, 1)


WITHOUT_EMPIRE = POLICY.replace("org: empire\n    toPorts", "org: nobody\n    toPorts")


def check_ended(galaxy, idlers, since, count, what):
    result = idlers.end()
    late = [round(at - since, 2) for at in result["ended"] if not 0 <= at - since <= galaxy.options.within]
    expect(len(result["ended"]) == count and not late, f"{what}: {len(result['ended'])} of {count} ended, late: {late[:9]}")


def check_alive(idlers, count, what):
    result = idlers.end()
    expect(not result["ended"] and result["answered"] == count, f"{what}: {len(result['ended'])} ended, {result['answered']} answered")


def reload_and_wait(galaxy, text):
    """When the reload began; returns when what it forbids must have ended."""
    galaxy.write_policy(text)
    since = time.monotonic()
    galaxy.reload()
    time.sleep(galaxy.options.within)
    return since


@scenario("idle connections that a new policy forbids end, all others live")
def idle(galaxy):
    galaxy.write_policy(with_xwing(POLICY))
    galaxy.reload()
    galaxy.recorder()
    many, others, kept = (Idlers(galaxy, ship, count, request=LANDING) for ship, count in
                          (("tiefighter", 200), ("xwing", 5), ("xwing", 5)))
    monitor = galaxy.lab.serve([galaxy.lab.build / "control/shunt", "-c", galaxy.lab.folder / "shunt.yaml", "-o", "json", "monitor"],
                               log=galaxy.lab.folder / "monitor.log")
    eventually(lambda: galaxy.lab.status().get("mode") == "on", "the daemon answers")
    time.sleep(1)
    since = reload_and_wait(galaxy, with_xwing(WITHOUT_EMPIRE))
    check_ended(galaxy, many, since, 200, "judged by requests")
    check_alive(kept, 5, "allowed by both policies")
    since = reload_and_wait(galaxy, WITHOUT_EMPIRE)
    check_ended(galaxy, others, since, 5, "allowed whatever they ask")
    galaxy.lab.stop(monitor)
    events = [json.loads(line) for line in (galaxy.lab.folder / "monitor.log").read_text().splitlines() if line.startswith("{")]
    changed = [event for event in events if event.get("reason") == "policy-changed"]
    ends = {(event["client"], event["server"], event["policy_reason"]) for event in changed}
    expect(len(changed) >= 205 and ends == {(f"default/{ship}", "default/deathstar", "default-deny") for ship in ("tiefighter", "xwing")},
           f"{len(changed)} events: {ends}")


def older(galaxy, existing):
    """Connections that are older than the first policy, all of them of ships that ask for a landing."""
    (galaxy.folder / "empire.yaml").unlink()
    galaxy.reload()
    galaxy.lab.configure(galaxy.more.replace("policy: {", f"policy: {{existing: {existing}, ", 1))
    galaxy.recorder()
    return [Idlers(galaxy, ship, 5, request=LANDING) for ship in ("tiefighter", "xwing")]


@scenario("idle connections that are older than the policy end")
def older_idle(galaxy):
    ships = older(galaxy, "reset")
    since = reload_and_wait(galaxy, POLICY)
    for idlers in ships:
        check_ended(galaxy, idlers, since, 5, "older than the policy")


@scenario("by grace an older connection goes on, unless the policy forbids it whatever is asked")
def grace(galaxy):
    allowed, forbidden = older(galaxy, "grace")
    since = reload_and_wait(galaxy, POLICY.replace('method: "POST"', 'method: "GET"'))
    check_ended(galaxy, forbidden, since, 5, "forbidden at L4")
    check_alive(allowed, 5, "older, of one whose requests are judged")


@scenario("requests that nobody can judge, on a connection from before there were any rules on them: reset, or grace")
def unjudged(galaxy):
    program = galaxy.unknown_program()
    galaxy.recorder()
    begin, rest = POLICY.split("      rules:\n")[0], POLICY.split("---\n", 1)[1]
    for existing, check in (("reset", lambda idlers, since: check_ended(galaxy, idlers, since, 5, "by reset")),
                            ("grace", lambda idlers, _: check_alive(idlers, 5, "by grace"))):
        galaxy.lab.configure(galaxy.more.replace("policy: {", f"policy: {{existing: {existing}, ", 1))
        galaxy.write_policy(f"{begin}---\n{rest}")
        galaxy.reload()
        idlers = Idlers(galaxy, "tiefighter", 5, request=LANDING, program=program)
        check(idlers, reload_and_wait(galaxy, POLICY))


@scenario("an idle connection to another host ends too")
def idle_elsewhere(galaxy):
    inside, *_ = galaxy.namespace(78)
    egress = ("apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: out}\nspec:\n"
              "  endpointSelector: {matchLabels: {class: tiefighter}}\n  egress: [{toCIDR: [%s]}]\n---\n")
    galaxy.write_policy(egress % "198.18.78.0/24" + POLICY)
    galaxy.reload()
    galaxy.cgroups["deathstar"] = galaxy.lab.without
    galaxy.recorder(command=inside)
    forbidden, allowed = (Idlers(galaxy, ship, 5, host="198.18.78.2", request=LANDING) for ship in ("tiefighter", "xwing"))
    since = reload_and_wait(galaxy, egress % "198.18.79.0/24" + POLICY)
    check_ended(galaxy, forbidden, since, 5, "to an address that is no longer allowed")
    check_alive(allowed, 5, "of a workload that no egress rule selects")


@scenario("a start that bad documents forbid leaves nothing")
def bad_start(galaxy):
    lab = galaxy.lab
    lab.stop(galaxy.daemon)
    galaxy.shunt("cleanup")
    (galaxy.folder / "empire.yaml").write_text("kind: Nonsense\n")
    status = lab.start([lab.build / "control/shuntd", "-c", lab.folder / "shunt.yaml"], log=lab.folder / "shuntd.log").wait(PATIENCE_S)
    expect(status == USAGE, f"shuntd ended with {status}")
    left = {path.name for path in (lab.folder / "bpffs").iterdir()} - {"maps.debug", "progs.debug"}
    expect(not left, f"pinned: {left}")


# Connects again and again until it may stop; prints how often it tried, and how often it got through.
KNOCKER = """
import os, socket, sys
tried = through = 0
while not os.path.exists(sys.argv[2]):
    tried += 1
    with socket.socket() as s:
        s.settimeout(0.2)
        try:
            s.connect(("127.0.0.1", int(sys.argv[1])))
            s.sendall(sys.argv[3].encode())
            through += s.recv(100) != b""
        except OSError:
            pass
print(tried, through)
"""


def load(galaxy):
    """As the unit at boot: nothing is pinned, no daemon runs. (exit code, what it said)"""
    command = [galaxy.lab.build / "control/shuntd", "-c", galaxy.lab.folder / "shunt.yaml", "--load"]
    result = subprocess.run(command, text=True, capture_output=True, timeout=PATIENCE_S)
    return result.returncode, result.stdout + result.stderr


def check_governed(galaxy):
    expect(galaxy.curl("xwing", "POST", "/v1/request-landing")[0] == CURL_CANNOT_CONNECT, "the alliance connects")
    result = galaxy.client("tiefighter", ["send", EXHAUST], ["responses", 1], ["send", LANDING], ["responses", 1])
    expect(statuses_of(result) == ["403", "200"], f"the empire: {result}")


@scenario("at boot the policy is in force before the daemon, which adopts it without a gap")
def boot(galaxy):
    eventually(galaxy.kept.exists, "the policy is kept")
    galaxy.lab.stop(galaxy.daemon)
    galaxy.shunt("cleanup")
    code, text = load(galaxy)
    expect(code == 0 and galaxy.lab.status()["source"] == "pins", f"--load ended with {code}: {text}")
    galaxy.recorder()
    check_governed(galaxy)
    client = Idlers(galaxy, "tiefighter", 3, request=LANDING)
    stop = galaxy.lab.folder / "stop-knocking"
    knocker = galaxy.lab.serve([sys.executable, "-c", KNOCKER, galaxy.port, stop, LANDING], cgroup=galaxy.cgroups["xwing"])
    galaxy.daemon = galaxy.lab.run_daemon()
    time.sleep(1)
    stop.touch()
    tried, through = map(int, knocker.communicate(timeout=PATIENCE_S)[0].split())
    expect(tried > 100 and through == 0, f"of {tried} attempts {through} got through while the daemon started")
    check_alive(client, 3, "made before the daemon")
    expect(load(galaxy)[0] == 0, "--load fails beside the daemon, which has all in force")
    check_governed(galaxy)


@scenario("at boot spoilt documents give way to those that were in force last; without any nothing is in force")
def boot_spoilt(galaxy):
    eventually(galaxy.kept.exists, "the policy is kept")
    galaxy.lab.stop(galaxy.daemon)
    galaxy.shunt("cleanup")
    (galaxy.folder / "empire.yaml").write_text("kind: Nonsense\n")
    code, text = load(galaxy)
    expect(code == 0 and "empire.yaml" in text, f"--load ended with {code}: {text}")
    galaxy.recorder()
    check_governed(galaxy)
    galaxy.daemon = galaxy.lab.run_daemon()
    check_governed(galaxy)
    expect("empire.yaml" in galaxy.lab.status()["daemon"]["policy_error"], "the daemon does not say that the documents have errors")
    galaxy.lab.stop(galaxy.daemon)
    galaxy.shunt("cleanup")
    galaxy.kept.write_bytes(b"not what was kept")
    code, text = load(galaxy)
    expect(code == USAGE and "empire.yaml" in text, f"--load without documents ended with {code}: {text}")
    left = {path.name for path in (galaxy.lab.folder / "bpffs").iterdir()} - {"maps.debug", "progs.debug"}
    expect(not left, f"pinned: {left}")
    (galaxy.folder / "empire.yaml").unlink()
    galaxy.daemon = galaxy.lab.run_daemon()
    expect(not galaxy.kept.exists(), "without a policy the last one is kept")


@scenario("a cgroup that is made anew is governed at once")
def anew(galaxy):
    server = galaxy.recorder()
    galaxy.lab.stop(server)
    galaxy.daemon.kill()  # it would notice within a second
    galaxy.daemon.wait()
    cgroup = galaxy.cgroups["deathstar"]
    for _ in range(3):
        eventually(lambda: not (cgroup / "cgroup.procs").read_text(), "the server is gone")
        cgroup.rmdir()
        cgroup.mkdir()
        server = galaxy.recorder()
        expect(galaxy.curl("xwing", "POST", "/v1/request-landing")[0] == CURL_CANNOT_CONNECT, "the alliance connects to the new one")
        result = galaxy.client("tiefighter", ["send", EXHAUST], ["responses", 1], ["send", LANDING], ["responses", 1])
        expect("403" in result["got"] and "200 OK" in result["got"], f"the new one: {result}")
        galaxy.lab.stop(server)


@scenario("the next policy gives the same numbers to others")
def renumbered(galaxy):
    galaxy.recorder()
    steps = [["send", LANDING], ["responses", 1], ["sleep", 12], ["send", EXHAUST], ["responses", 1], ["send", LANDING], ["responses", 1]]
    client = galaxy.lab.serve(galaxy.client_command(steps), cgroup=galaxy.cgroups["tiefighter"])
    eventually(lambda: galaxy.read().count("landing") == 1, "the first request arrives")
    galaxy.lab.stop(galaxy.daemon)  # a daemon that starts counts from the beginning, in the order of the documents
    documents = POLICY.split("---\n")
    galaxy.write_policy("\n---\n".join([documents[-1], *documents[:-1]]))
    galaxy.daemon = galaxy.lab.run_daemon()
    places = json.loads(galaxy.shunt("-o", "json", "policy", "get"))["places"]
    numbers = {place["workload"]: place["identity"] for place in places}
    expect(numbers["default/xwing"] < numbers["default/deathstar"], f"the workloads kept their numbers: {numbers}")
    result = json.loads(client.communicate(timeout=PATIENCE_S)[0])
    expect(statuses_of(result) == ["200", "403", "200"], f"judged as somebody else: {result}")


@scenario("a governed server where no program sees its connections begin")
def outside(galaxy):
    galaxy.write_policy(POLICY.replace("{unit: deathstar.service}", f"{{cgroup: {galaxy.path('../without/deathstar')}}}"))
    galaxy.cgroups["deathstar"] = galaxy.lab.make_cgroup(galaxy.lab.without / "deathstar")
    galaxy.reload()
    galaxy.recorder()
    for ship in ("tiefighter", "xwing"):
        result = galaxy.client(ship, ["send", LANDING], ["recv", 3])
        expect(not result["got"] and not galaxy.read(), f"{ship}: {result}, the server read {galaxy.read()!r}")


@scenario("from another network namespace")
def namespaces(galaxy):
    galaxy.recorder()
    inside, ours, *_ = galaxy.namespace()
    result = galaxy.client("tiefighter", ["send", LANDING], ["responses", 1], ["send", EXHAUST], ["responses", 1], host=ours,
                           command=inside)
    expect("200 OK" in result["got"] and "403" in result["got"], f"the empire: {result}")
    before = galaxy.read()
    result = galaxy.client("xwing", ["send", LANDING], ["recv", 5], host=ours, command=inside)
    expect(galaxy.read() == before and not result["got"] and result["error"], f"the alliance: {result}")
    # Started outside of all cgroups that Shunt sees: an address like any other host's.
    process = galaxy.lab.serve(galaxy.client_command([["send", LANDING], ["recv", 5]], host=ours, command=inside),
                               cgroup=galaxy.lab.without)
    result = json.loads(process.communicate(timeout=PATIENCE_S)[0])
    expect(galaxy.read() == before and not result["got"], f"somebody elsewhere: {result}")


if __name__ == "__main__":
    sys.exit(SCENARIOS.main(__doc__))
