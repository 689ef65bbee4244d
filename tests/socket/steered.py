#!/usr/bin/env python3
"""Clients that cannot be judged while they send: steered to the fallback proxy, which judges and forwards their requests, or refused (root)

usage: steered.py [--build DIR] [--list] [SCENARIO...]

"Elsewhere" is an address that a network namespace answers for without having it: as far as Shunt can tell, another host behind
a router. The others are on this host: a program that is no receiver, of the client or of the server, is a copy of Python by another
name. Each scenario has a daemon, cgroups, servers and a proxy of its own. The recorder is a server that writes down every byte
it reads: what it never read was stopped before it.
"""

import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/lib"))
sys.dont_write_bytecode = True

from galaxy import PATIENCE_S, POLICY, Galaxy, istio_requests, metrics_at  # noqa: E402
from scenarios import Scenarios, eventually, expect  # noqa: E402

FAR, STRANGE, TRUSTED = "203.0.113.5", "192.0.2.9", "198.51.100.7"  # by rules on requests; by no rule; as a whole
REDIS = "198.51.100.9"  # by rules on what the proxy does not speak
# The same by IPv6; the strangers differ from those in the second, the sixth and the last byte.
FAR6, TRUSTED6, STRANGE6 = "2001:db8:5::5", "2001:db8:7::7", ("20fe:db8:5::5", "2001:db8:6::5", "2001:db8:7::8")
BODY_BYTES = 10 << 20
SLOW_BYTES = 200 << 20
HELD_BYTES_MAX = 30 << 20  # by sockets and the proxy, of a response that nobody reads

# Sends a body back, and SLOW_BYTES for a GET, counting in a file what it has sent.
MIRROR = """
import asyncio, sys
count = open(sys.argv[2], "w")
async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            length = 0
            for line in head.split(b"\\r\\n"):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            body = await reader.readexactly(length)
            while b"transfer-encoding: chunked" in head.lower():
                chunk = await reader.readexactly(int(await reader.readline(), 16))
                await reader.readline()
                body += chunk
                if not chunk:
                    break
            size = int(sys.argv[3]) if head.startswith(b"GET") else len(body)
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % size)
            if not head.startswith(b"GET"):
                writer.write(body)
                await writer.drain()
                continue
            for sent in range(0, size, 65536):
                writer.write(b"z" * min(65536, size - sent))
                await writer.drain()
                count.seek(0)
                count.write(str(sent))
                count.flush()
    except (OSError, asyncio.IncompleteReadError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", int(sys.argv[1]), limit=1 << 24)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()
asyncio.run(main())
"""

RULES = f"""
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: elsewhere}}
spec:
  endpointSelector: {{matchLabels: {{class: deathstar}}}}
  ingress:
  - fromCIDR: [203.0.113.0/24, 198.18.77.2/32, "2001:db8:5::/48"]
    toPorts:
    - ports: [{{port: "80", protocol: TCP}}]
      rules:
        http:
        - {{method: POST, path: "/v1/(request-landing|cargo)"}}
        - {{method: GET, path: /v1/cargo}}
  - fromCIDR: [{TRUSTED}/32, "{TRUSTED6}/128"]
    toPorts:
    - ports: [{{port: "80", protocol: TCP}}]
  - fromCIDR: [{REDIS}/32]
    toPorts:
    - ports: [{{port: "80", protocol: TCP}}]
      rules: {{l7proto: redis, l7: [{{command: GET}}]}}
"""


class Elsewhere:
    """The deathstar with a proxy, and clients of other hosts."""

    def __init__(self, lab):
        galaxy = self.galaxy = Galaxy(lab)
        self.own, self.gate = galaxy.whole_host()
        self.inside, self.host, self.router, self.device = galaxy.namespace()
        for address in (FAR, STRANGE, TRUSTED, REDIS):
            self.route(address, self.router)
        galaxy.write_policy(POLICY + RULES)
        galaxy.reload()

    def route(self, address, router):
        """An address behind the namespace, which answers for it. Both routes go with their devices."""
        subprocess.run(["ip", "route", "add", address, "via", router, "dev", self.device], check=True)
        subprocess.run(["ip", "-n", self.inside[-1], "route", "add", "local", address, "dev", "lo"], check=True)

    def begin(self, ship, *steps, program=None, host="127.0.0.1", command=(), source=None):
        """A client of this host."""
        command = self.galaxy.client_command(list(steps), host=host, command=command, source=source,
                                             program=program or self.galaxy.unknown_program())
        return self.galaxy.lab.start([str(part) for part in command], cgroup=self.galaxy.cgroups[ship])

    def ask(self, ship, *steps, **how):
        return outcome_of(self.begin(ship, *steps, **how))

    def proxy(self, servers=1):
        return self.galaxy.proxy_of(self.gate, servers)

    def start(self, *steps, source=FAR, host=None):
        command = self.galaxy.client_command(list(steps), host=host or self.host, command=self.inside, source=source)
        return self.galaxy.lab.serve(command, cgroup=self.galaxy.lab.without)

    def client(self, *steps, source=FAR, host=None):
        return outcome_of(self.start(*steps, source=source, host=host))

    def curl(self, *more, source=FAR):
        """What curl printed, told to print something."""
        command = [*self.inside, "curl", "-sS", "-m", "60", "--interface", source, *more]
        process = self.galaxy.lab.start([str(part) for part in command], cgroup=self.galaxy.lab.without)
        return process.communicate(timeout=PATIENCE_S)[0].decode()

    def url(self, path):
        return f"http://{self.host}:{self.galaxy.port}{path}"


def outcome_of(client):
    return json.loads(client.communicate(timeout=PATIENCE_S)[0])


def is_refused(result):
    return not result["got"] and result["error"] and "timed out" not in result["error"]


def statuses_of(result):
    return re.findall(r"HTTP/1\.1 (\d+) ", result["got"])


def head(method, path, *headers, body=""):
    length = [f"Content-Length: {len(body)}"] if method != "GET" else []
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: deathstar", *headers, *length]) + "\r\n\r\n" + body


LANDING = head("POST", "/v1/request-landing")
EXHAUST = head("PUT", "/v1/exhaust-port", "X-Has-Force: true")  # the empire may, nobody elsewhere
TURNS = [["send", LANDING], ["responses", 1], ["send", EXHAUST], ["responses", 1]]

SCENARIOS = Scenarios("steered", lambda lab, function, _: function(Elsewhere(lab)), lambda outcome: f"{outcome['seconds']} s")


def scenario(name):
    def add(function):
        SCENARIOS.all[name] = function
        return function
    return add


def mirror(galaxy):
    log = galaxy.lab.folder / "mirror.log"
    server = galaxy.lab.serve([sys.executable, "-c", MIRROR, galaxy.port, galaxy.lab.folder / "sent", SLOW_BYTES],
                              cgroup=galaxy.cgroups["deathstar"], log=log)
    galaxy.lab.wait_for(lambda: "ready" in log.read_text(), server, log, "the mirror")
    return server


@scenario("a strict service: who would be steered is refused")
def strict(elsewhere):
    galaxy = elsewhere.galaxy
    galaxy.recorder()
    elsewhere.proxy()
    config = galaxy.lab.folder / "gateway.yaml"
    config.write_text(f"shuntd: {{socket: {galaxy.lab.folder}/gateway.sock}}\nlisten: ['127.0.0.1:1']\n"
                      "identity: {certificate: /none, key: /none}\ntrust: [{domain: mesh.example, bundle: /none}]\n"
                      f"services: [{{name: deathstar, server: '127.0.0.1:{galaxy.port}', mode: strict}}]\n")
    for more, refused in ((f"gateway: {{config: {config}}}\n", True), ("", False)):
        galaxy.lab.configure(galaxy.more + more)
        galaxy.reload()
        result = elsewhere.client(["send", LANDING], ["responses", 1])
        if refused:
            expect(not result["got"] and "ConnectionRefused" in result["error"], f"strict: {result}")
            expect(galaxy.counters()["connections_steered"] == 0 and not galaxy.read(), f"steered, or read: {galaxy.read()!r}")
        else:
            expect(statuses_of(result) == ["200"], f"not strict: {result}")


@scenario("allowed and denied in turns, pipelined, normalised; everybody can see it")
def requests(elsewhere):
    galaxy = elsewhere.galaxy
    daemons = galaxy.tell_metrics(", istio: true")
    galaxy.reload()
    galaxy.recorder()
    elsewhere.proxy()
    monitor = galaxy.lab.serve([galaxy.lab.build / "control/shunt", "-c", galaxy.lab.folder / "shunt.yaml", "-o", "json", "monitor",
                                "--event", "steered"], log=galaxy.lab.folder / "monitor.log")
    time.sleep(1)
    result = elsewhere.client(*(TURNS * 50))
    expect(statuses_of(result) == ["200", "403"] * 50 and result["error"] is None, f"in turns: {statuses_of(result)[:9]} {result['error']}")
    burst = LANDING + EXHAUST + LANDING + head("POST", "/v1/x/../request-landing") + EXHAUST + head("POST", "/v1/cargo", body="gold")
    for piece in (len(burst), 7, 90):
        parts = [["send", burst[i:i + piece]] for i in range(0, len(burst), piece)]
        result = elsewhere.client(*parts, ["responses", 6])
        expect(statuses_of(result) == ["200", "403", "200", "200", "403", "200"], f"pieces of {piece}: {result}")
    read = galaxy.read()
    expect(read.count("POST /v1/request-landing HTTP/1.1") == 50 + 3 * 3 and "exhaust" not in read and "/../" not in read
           and read.count("gold") == 3, f"the server read {read[-600:]!r}")
    expect(read.count(f"X-Forwarded-For: {FAR}\r\n") == read.count("POST"), "who the client is was not told to the server")
    rows = galaxy.accessed()
    expect(all(row["client"].startswith(FAR + ":") and row["listener"] == "steered" and row["to"] == "default/deathstar"
               and row["from"].startswith("203.0.113.0/24") for row in rows), f"logged: {rows[0]}")
    expect([row["verdict"] for row in rows].count("denied") == 50 + 2 * 3, f"logged: {len(rows)} rows")
    told = {("unknown", "deathstar", "200"): 50 + 4 * 3, ("unknown", "deathstar", "403"): 50 + 2 * 3}
    expect(istio_requests(galaxy.proxy_metrics()) == told, f"the proxy told {istio_requests(galaxy.proxy_metrics())}, not {told}")
    expect(not istio_requests(metrics_at(daemons)), f"and the kernel side told them again: {istio_requests(metrics_at(daemons))}")
    counters = galaxy.counters()
    expect(counters["connections_steered"] == 4 and counters["connections_forbidden"] == 0, f"counted: {counters}")
    galaxy.lab.stop(monitor)
    events = [json.loads(line) for line in (galaxy.lab.folder / "monitor.log").read_text().splitlines()]
    events = [event for event in events if event.get("event") == "steered"]
    expect(len(events) == 4 and all(event["remote"].startswith(FAR) and event["local"] == f"{elsewhere.host}:{galaxy.port}" and
                                    event["server"] == "default/deathstar" and event["reason"] == "steered" for event in events),
           f"told: {events}")


@scenario("local clients go the direct way")
def local(elsewhere):
    galaxy = elsewhere.galaxy
    galaxy.recorder()
    proxy = elsewhere.proxy()
    waiting = elsewhere.start(*TURNS, ["sleep", 6], *TURNS)
    eventually(lambda: len(galaxy.accessed()) == 2, "the first requests")
    why = json.loads(galaxy.shunt("-o", "json", "why", str(proxy.pid)))
    both = [row for row in why["connections"] if f":{galaxy.port}" in row["local"] + row["remote"]]
    expect(len(both) == 2 and all(row["reason"] == "steered" for row in both), f"why: {why}")
    for host, command in (("127.0.0.1", ()), (elsewhere.host, ()), (elsewhere.host, elsewhere.inside)):
        result = galaxy.client("tiefighter", *(TURNS * 20), host=host, command=command)
        expect(statuses_of(result) == ["200"] * 40, f"the empire at {host}: {statuses_of(result)[:9]} {result['error']}")
        result = galaxy.client("xwing", ["send", LANDING], ["recv", 3], host=host, command=command)
        expect(is_refused(result), f"the alliance at {host}: {result}")
    # 120 from processes whose workload the kernel knows, wherever they call from.
    counters = galaxy.counters()
    expect(counters["requests_allowed"] == 120 and counters["redirected_messages"] >= 200 and counters["connections_steered"] == 1,
           f"counted: {counters}")
    expect(len(galaxy.accessed()) == 2 and "X-Forwarded-For" not in galaxy.read().split("\r\n\r\n")[-2], "the proxy saw a local request")
    expect(statuses_of(outcome_of(waiting)) == ["200", "403"] * 2, "a connection that waited")


@scenario("bodies of 10 MB both ways, with a length and chunked")
def bodies(elsewhere):
    galaxy = elsewhere.galaxy
    mirror(galaxy)
    elsewhere.proxy()
    sent, got = galaxy.lab.folder / "sent-body", galaxy.lab.folder / "got-body"
    sent.write_bytes(os.urandom(BODY_BYTES))
    sums = []
    for more in ((), ("-H", "Expect:"), ("-H", "Transfer-Encoding: chunked")):
        text = elsewhere.curl("-w", "%{http_code}", "-o", got, "--data-binary", f"@{sent}", *more, elsewhere.url("/v1/cargo"))
        expect(text == "200", f"{more}: {text}")
        sums.append(hashlib.sha256(got.read_bytes()).hexdigest())
    wanted = hashlib.sha256(sent.read_bytes()).hexdigest()
    expect(sums == [wanted] * 3, f"{sums}, not {wanted}")


@scenario("a client that does not read holds the server back")
def slow(elsewhere):
    galaxy = elsewhere.galaxy
    mirror(galaxy)
    proxy = elsewhere.proxy()
    client = elsewhere.start(["send", head("GET", "/v1/cargo")], ["sleep", 6])
    counted = galaxy.lab.folder / "sent"
    eventually(lambda: counted.read_text() not in ("", "0"), "the response begins")
    time.sleep(4)
    first = int(counted.read_text())
    time.sleep(1)
    resident = int(re.search(r"VmRSS:\s+(\d+) kB", pathlib.Path(f"/proc/{proxy.pid}/status").read_text()).group(1)) << 10
    expect(int(counted.read_text()) == first < HELD_BYTES_MAX, f"the server has sent {first} bytes, then {counted.read_text()}")
    expect(resident < 100 << 20, f"the proxy holds {resident} bytes")
    client.communicate(timeout=PATIENCE_S)
    text = elsewhere.curl("-o", "/dev/null", "-w", "%{size_download}", elsewhere.url("/v1/cargo"))
    expect(text == str(SLOW_BYTES), f"who reads gets {text}")


@scenario("no rule, a rule without requests, the proxy's own door")
def others(elsewhere):
    galaxy = elsewhere.galaxy
    galaxy.recorder()
    proxy = elsewhere.proxy()
    result = elsewhere.client(["send", LANDING], ["recv", 9], source=STRANGE)
    expect(is_refused(result) and not galaxy.read(), f"whom no rule names: {result}")
    result = elsewhere.client(["send", LANDING], ["recv", 9], source=REDIS)
    expect(is_refused(result) and not galaxy.read(), f"on whose commands there are rules: {result}")
    result = elsewhere.client(["send", LANDING + EXHAUST], ["responses", 2], source=TRUSTED)
    expect(statuses_of(result) == ["200", "200"] and "X-Forwarded-For" not in galaxy.read(), f"who is allowed as a whole: {result}")
    # An address that is this host's says nothing about who calls, whatever rules say about it.
    result = elsewhere.client(["send", LANDING], ["recv", 9], source=elsewhere.router)
    expect(is_refused(result), f"from an address of this host: {result}")
    expect(not galaxy.accessed() and galaxy.counters()["connections_steered"] == 0, f"the proxy was asked: {galaxy.accessed()}")
    table = subprocess.check_output(["ss", "-Hltnp"], text=True).splitlines()
    doors = [line.split()[3].rsplit(":", 1)[1] for line in table
             if f"pid={proxy.pid}," in line and galaxy.proxy_metrics_at not in line]
    expect(len(doors) == 1, f"the proxy listens at {doors}")
    text = galaxy.run("stranger", ["curl", "-sS", "-m", "5", f"http://127.0.0.1:{doors[0]}/v1/request-landing", "-X", "POST"])[1]
    expect("curl: (" in text and not galaxy.accessed(), f"at the proxy's own door: {text}")


@scenario("the proxy stopped, killed, and there again: nothing unjudged in between")
def proxy_ends(elsewhere):
    galaxy = elsewhere.galaxy
    galaxy.recorder()
    result = elsewhere.client(["send", LANDING], ["recv", 9])
    expect(is_refused(result), f"before there is a proxy: {result}")
    proxy = elsewhere.proxy()
    expect(statuses_of(elsewhere.client(*TURNS)) == ["200", "403"], "with the proxy")
    before = galaxy.read()
    proxy.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    result = elsewhere.client(["send", LANDING], ["recv", 9])
    expect(is_refused(result), f"with a proxy that is stopped: {result}")
    proxy.send_signal(signal.SIGCONT)
    time.sleep(0.5)
    answered = galaxy.lab.folder / "answered"
    waiting = elsewhere.start(*TURNS, ["tell", str(answered)], ["recv", 20])
    eventually(answered.exists, "a connection with the proxy")
    before = galaxy.read()
    proxy.kill()
    proxy.wait()
    result = outcome_of(waiting)
    expect(statuses_of(result) == ["200", "403"] and result["error"], f"whose proxy was killed: {result}")
    for _ in range(5):
        result = elsewhere.client(["send", LANDING], ["recv", 9])
        expect(is_refused(result), f"without the proxy: {result}")
    expect(galaxy.read() == before, "the server read what nobody judged")
    elsewhere.proxy()
    expect(statuses_of(elsewhere.client(*TURNS)) == ["200", "403"], "with the next proxy")


@scenario("shuntd dies and comes back; the policy changes; servers come and go")
def daemon_ends(elsewhere):
    galaxy = elsewhere.galaxy
    server = galaxy.recorder()
    elsewhere.proxy()
    changed = galaxy.lab.folder / "changed"
    waiting = elsewhere.start(*TURNS, ["until", [str(changed), [["sleep", 0.05]]]], *TURNS)
    eventually(lambda: len(galaxy.accessed()) == 2, "the first requests")
    galaxy.daemon.kill()
    galaxy.daemon.wait()
    expect(statuses_of(elsewhere.client(*TURNS)) == ["200", "403"], "without shuntd")
    galaxy.daemon = galaxy.lab.run_daemon(cgroup=elsewhere.own)
    log = galaxy.lab.folder / "proxy.log"
    eventually(lambda: "the channels go on" in log.read_text(), "the proxy comes back")
    expect(statuses_of(elsewhere.client(*TURNS)) == ["200", "403"], "with the next shuntd")
    expect(log.read_text().count("clients of a server may come here") == 1, "the next shuntd did not take over the proxy's sockets")
    galaxy.write_policy(POLICY + RULES.replace("method: POST", "method: PUT").replace("request-landing|", "exhaust-port|"))
    galaxy.reload()
    result = elsewhere.client(*TURNS)
    expect(statuses_of(result) == ["403", "200"], f"with the next policy: {result}")
    changed.touch()
    result = outcome_of(waiting)
    expect(statuses_of(result) == ["200", "403", "403", "200"], f"a connection that is older than both: {result}")
    galaxy.lab.stop(server)
    galaxy.recorder()
    eventually(lambda: statuses_of(elsewhere.client(*TURNS)) == ["403", "200"], "the next server is found", 10)


@scenario("a server in another network namespace")
def container(elsewhere):
    galaxy = elsewhere.galaxy
    inside, _, address, device = galaxy.namespace(78)
    for one in (elsewhere.device, device):
        pathlib.Path(f"/proc/sys/net/ipv4/conf/{one}/forwarding").write_text("1")
    galaxy.recorder(command=inside)
    elsewhere.proxy()
    result = elsewhere.client(*(TURNS * 10), host=address)
    expect(statuses_of(result) == ["200", "403"] * 10 and "exhaust" not in galaxy.read(), f"{result}")
    expect(galaxy.counters()["connections_steered"] == 1, "it was not steered")
    result = galaxy.client("tiefighter", *(TURNS * 10), host=address)
    expect(statuses_of(result) == ["200"] * 20, f"the empire: {result}")


# ---- clients of this host that cannot be judged while they send ----

DENIED = head("POST", "/v1/self-destruct")
MIXED = [["send", LANDING], ["responses", 1], ["send", DENIED], ["responses", 1], ["send", EXHAUST], ["responses", 1]]
VISITORS = """
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: visitors}
spec:
  endpointSelector: {matchLabels: {class: deathstar}}
  ingress:
  - fromEndpoints: [{matchLabels: {org: alliance}}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{method: POST, path: /v1/self-destruct}]}
"""


@scenario("a local client that is no receiver: judged by who it is")
def unknown_client(elsewhere):
    galaxy = elsewhere.galaxy
    galaxy.write_policy(POLICY + VISITORS)
    galaxy.reload()
    galaxy.recorder()
    elsewhere.proxy()
    before = galaxy.counters()
    clients = [elsewhere.begin(ship, *(MIXED * 20)) for ship in ("tiefighter", "xwing", "tiefighter", "xwing")]
    for client, wanted in zip(clients, [["200", "403", "200"], ["403", "200", "403"]] * 2):
        result = outcome_of(client)
        expect(statuses_of(result) == wanted * 20 and result["error"] is None, f"{statuses_of(result)[:9]} {result['error']}")
    result = elsewhere.ask("stranger", ["send", LANDING], ["recv", 9])
    expect(is_refused(result), f"whom no rule names: {result}")
    lines = galaxy.request_lines()
    expect(len(lines) == 2 * 20 * 2 + 2 * 20, f"the server read {len(lines)} requests")
    rows = galaxy.accessed()
    expect({row["from"] for row in rows} == {"default/tiefighter", "default/xwing"} and {row["listener"] for row in rows} == {"steered"},
           f"logged: {rows[0]}")
    after = galaxy.counters()
    expect(after["connections_steered"] - before["connections_steered"] == 4 and after["requests_allowed"] == before["requests_allowed"],
           f"counted: {after}")
    why = elsewhere.begin("tiefighter", ["send", LANDING], ["responses", 1], ["sleep", 2])
    eventually(lambda: len(galaxy.accessed()) == len(rows) + 1, "one more request")
    known = json.loads(galaxy.shunt("-o", "json", "why", str(why.pid)))["connections"]
    expect([row["reason"] for row in known] == ["program-unknown"], f"why: {known}")
    outcome_of(why)


@scenario("a server that is no receiver: whoever calls it, and at whatever address")
def unknown_server(elsewhere):
    galaxy = elsewhere.galaxy
    galaxy.recorder(program=galaxy.unknown_program())
    elsewhere.proxy()
    places = (("127.0.0.1", ()), (elsewhere.host, ()), (elsewhere.host, elsewhere.inside))
    for program in (sys.executable, galaxy.unknown_program()):
        for host, command in places:
            result = elsewhere.ask("tiefighter", *(MIXED * 10), host=host, command=command, program=program)
            expect(statuses_of(result) == ["200", "403", "200"] * 10 and result["error"] is None,
                   f"{program} at {host}: {statuses_of(result)[:9]} {result['error']}")
            result = elsewhere.ask("xwing", ["send", LANDING], ["recv", 3], host=host, command=command, program=program)
            expect(is_refused(result), f"the alliance by {program} at {host}: {result}")
    expect(galaxy.counters()["connections_steered"] == 6 and "self-destruct" not in galaxy.read(), f"counted: {galaxy.counters()}")
    expect(statuses_of(elsewhere.client(*TURNS)) == ["200", "403"], "a client from elsewhere")


@scenario("such a server in another network namespace")
def unknown_container(elsewhere):
    galaxy = elsewhere.galaxy
    inside, _, address, _ = galaxy.namespace(78)
    galaxy.recorder(command=inside, program=galaxy.unknown_program())
    elsewhere.proxy()
    for program in (sys.executable, galaxy.unknown_program()):
        for command in ((), inside):
            result = elsewhere.ask("tiefighter", *(MIXED * 5), host=address, command=command, program=program)
            expect(statuses_of(result) == ["200", "403", "200"] * 5, f"{program} {command}: {result}")
    # On a loopback that the proxy does not have it would be another server.
    result = elsewhere.ask("tiefighter", ["send", LANDING], ["recv", 9], command=inside)
    expect(is_refused(result), f"on its loopback: {result}")
    expect(galaxy.counters()["connections_steered"] == 4, f"counted: {galaxy.counters()}")


@scenario("through DNAT, and by a masquerade, which hides who it is")
def translated(elsewhere):
    galaxy = elsewhere.galaxy
    galaxy.recorder()
    elsewhere.proxy()
    inside = elsewhere.inside

    def rule(*words):
        subprocess.run([*inside, "iptables", "-t", "nat", "-A", *words], check=True)

    rule(*f"OUTPUT -p tcp -d 10.96.0.80 --dport 8080 -j DNAT --to {elsewhere.host}:{galaxy.port}".split())
    command = galaxy.client_command(MIXED, host="10.96.0.80", command=inside, program=galaxy.unknown_program())
    command[command.index(galaxy.port)] = 8080
    client = galaxy.lab.start([str(part) for part in command], cgroup=galaxy.cgroups["tiefighter"])
    result = outcome_of(client)
    expect(statuses_of(result) == ["200", "403", "200"], f"through DNAT: {result}")
    # The address that the server sees has no record, or somebody else's: nothing is believed of it.
    rule(*f"POSTROUTING -p tcp --dport {galaxy.port} -j SNAT --to {elsewhere.router}:7000-7100".split())
    for ship in ("tiefighter", "xwing"):
        result = elsewhere.ask(ship, ["send", LANDING], ["recv", 9], host=elsewhere.host, command=inside)
        expect(is_refused(result), f"{ship} behind a masquerade: {result}")
    expect(galaxy.request_lines() == ["POST /v1/request-landing HTTP/1.1", "PUT /v1/exhaust-port HTTP/1.1"], f"{galaxy.request_lines()}")


# A socket that is not yet listening: asyncio makes it non-blocking first.
BOTH = """
import socket
def both(port):
    s = socket.socket(socket.AF_INET6)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    s.bind(("::", port))
    return s
"""


def record_both_families(elsewhere):
    galaxy = elsewhere.galaxy
    galaxy.recorder_code = BOTH + galaxy.recorder_code.replace('"0.0.0.0", int(sys.argv[1])', "sock=both(int(sys.argv[1]))")
    galaxy.recorder()
    elsewhere.proxy()


@scenario("IPv6, and a listener of both families")
def both_families(elsewhere):
    galaxy = elsewhere.galaxy
    record_both_families(elsewhere)
    eventually(lambda: galaxy.client("tiefighter", *MIXED, host="::1") and galaxy.counters()["requests_denied"], "its cgroup is guarded")
    for host in ("::1", "127.0.0.1", "::ffff:127.0.0.1"):
        for program, steered in ((galaxy.unknown_program(), 1), (sys.executable, 0)):
            before = galaxy.counters()["connections_steered"]
            result = elsewhere.ask("tiefighter", *(MIXED * 3), host=host, program=program)
            expect(statuses_of(result) == ["200", "403", "200"] * 3, f"{program} at {host}: {result}")
            expect(galaxy.counters()["connections_steered"] - before == steered, f"{program} at {host}: steered or not")
        result = elsewhere.ask("xwing", ["send", LANDING], ["recv", 9], host=host)
        expect(is_refused(result), f"whom no rule names, at {host}: {result}")  # reset: not left to time out


@scenario("other hosts by IPv6: networks decide by all of their bytes")
def far_by_ipv6(elsewhere):
    galaxy = elsewhere.galaxy
    record_both_families(elsewhere)
    host, router = "fd00:77::1", "fd00:77::2"
    subprocess.run(["ip", "addr", "add", f"{host}/64", "dev", elsewhere.device, "nodad"], check=True)
    inside = ["ip", "-n", elsewhere.inside[-1]]
    device = json.loads(subprocess.check_output([*inside, "-j", "addr", "show", "to", "198.18.77.2"]))[0]["ifname"]
    subprocess.run([*inside, "addr", "add", f"{router}/64", "dev", device, "nodad"], check=True)
    subprocess.run([*inside, "route", "add", "default", "via", host], check=True)
    subprocess.run([*elsewhere.inside, "sysctl", "-qw", "net.ipv6.ip_nonlocal_bind=1"], check=True)  # for IPv4 the routes are enough
    for address in (FAR6, TRUSTED6, *STRANGE6):
        elsewhere.route(address, router)
    result = elsewhere.client(*TURNS, source=FAR6, host=host)
    expect(statuses_of(result) == ["200", "403"], f"whom rules name: {result}")
    rows = galaxy.accessed()
    expect([row["verdict"] for row in rows] == ["forwarded", "denied"] and
           all(row["client"].startswith(f"[{FAR6}]:") and row["from"].startswith("2001:db8:5::/48") for row in rows), f"logged: {rows}")
    expect(galaxy.read().count(f"X-Forwarded-For: {FAR6}\r\n") == 1, f"the server read {galaxy.read()}")
    result = elsewhere.client(*TURNS, source=TRUSTED6, host=host)
    expect(statuses_of(result) == ["200", "200"] and len(galaxy.accessed()) == 2, f"who is allowed as a whole: {result}")
    read = galaxy.read()
    for stranger in STRANGE6:
        result = elsewhere.client(["send", LANDING], ["recv", 9], source=stranger, host=host)
        expect(is_refused(result) and galaxy.read() == read, f"{stranger}, whom no rule names: {result}")
    expect(galaxy.counters()["connections_steered"] == 1, f"counted: {galaxy.counters()}")


@scenario("what is allowed as a whole goes to the server itself")
def as_a_whole(elsewhere):
    galaxy = elsewhere.galaxy
    galaxy.write_policy(POLICY + VISITORS.split("      rules:")[0])
    galaxy.reload()
    galaxy.recorder()
    elsewhere.proxy()
    result = elsewhere.ask("xwing", ["send", DENIED], ["responses", 1])
    expect(statuses_of(result) == ["200"] and "X-Forwarded-For" not in galaxy.read(), f"{result}")
    expect(galaxy.counters()["connections_steered"] == 0 and not galaxy.accessed(), "it went to the proxy")


@scenario("Multipath TCP and Fast Open")
def other_sockets(elsewhere):
    galaxy = elsewhere.galaxy
    galaxy.recorder()
    elsewhere.proxy()
    mptcp = galaxy.client_code.replace("s = socket.create_connection((host, port), timeout=patience, source_address=source)",
                                       "s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); s.connect((host, port))")
    fast = mptcp.replace("socket.SOCK_STREAM, 262)", "socket.SOCK_STREAM); s.setsockopt(socket.SOL_TCP, 30, 1)")  # TCP_FASTOPEN_CONNECT
    for name, code in (("mptcp", mptcp), ("fast open", fast)):
        galaxy.client_code = code
        result = elsewhere.ask("tiefighter", *(MIXED * 3), program=sys.executable)
        expect(statuses_of(result) == ["200", "403", "200"] * 3, f"{name}: {result}")
    expect(galaxy.counters()["connections_steered"] == 2, f"counted: {galaxy.counters()}")


@scenario("another policy for live local connections: each is judged by who it is in that one")
def another_policy(elsewhere):
    galaxy = elsewhere.galaxy
    galaxy.write_policy(POLICY + VISITORS)
    galaxy.reload()
    galaxy.recorder()
    elsewhere.proxy()
    go = galaxy.lab.folder / "go"
    steps = [*MIXED, ["until", [str(go), [["sleep", 0.1]]]], *MIXED]
    places = (("127.0.0.1", ()), (elsewhere.host, elsewhere.inside))
    clients = [(ship, elsewhere.begin(ship, *steps, host=host, command=command))
               for ship in ("tiefighter", "xwing") for host, command in places]
    eventually(lambda: len(galaxy.accessed()) == 12, lambda: f"{len(galaxy.accessed())} requests")
    # Workloads that come before the others in every order move their numbers; the alliance may now land, and nothing else.
    more = "".join(f"apiVersion: shunt.dev/v1\nkind: Workload\nmetadata: {{name: a{i}, labels: {{a: a{i}}}}}\n"
                   f"spec: {{match: {{cgroup: /a{i}}}}}\n---\n" for i in range(5))
    galaxy.write_policy(more + POLICY + VISITORS.replace("self-destruct", "request-landing"))
    galaxy.reload()
    go.touch()
    for ship, client in clients:
        result = outcome_of(client)
        wanted = ["200", "403", "200"] * 2 if ship == "tiefighter" else ["403", "200", "403", "200", "403", "403"]
        expect(statuses_of(result) == wanted, f"{ship}: {statuses_of(result)} {result['error']}")


@scenario("a local client without the proxy, and without shuntd")
def without(elsewhere):
    galaxy = elsewhere.galaxy
    galaxy.recorder()
    proxy = elsewhere.proxy()
    galaxy.daemon.kill()
    galaxy.daemon.wait()
    expect(statuses_of(elsewhere.ask("tiefighter", *MIXED)) == ["200", "403", "200"], "without shuntd")
    galaxy.daemon = galaxy.lab.run_daemon(cgroup=elsewhere.own)
    eventually(lambda: "the channels go on" in (galaxy.lab.folder / "proxy.log").read_text(), "the proxy comes back")
    expect(statuses_of(elsewhere.ask("tiefighter", *MIXED)) == ["200", "403", "200"], "with the next shuntd")
    read = galaxy.read()
    proxy.kill()
    proxy.wait()
    for _ in range(5):
        result = elsewhere.ask("tiefighter", ["send", LANDING], ["recv", 9])
        expect(is_refused(result), f"without the proxy: {result}")
    expect(galaxy.read() == read, "the server read what nobody judged")
    expect(statuses_of(galaxy.client("tiefighter", *MIXED)) == ["200", "403", "200"], "a receiver is judged as ever")


if __name__ == "__main__":
    sys.exit(SCENARIOS.main(__doc__))
