#!/usr/bin/env python3
"""Connections between hosts: who is at the other end counts in policies, and local programs find services by their addresses (root)

usage: across_hosts.py [--build DIR] [--list] [SCENARIO...]

Two gateways carry the Star Wars demo between this host, which has a daemon, and a network namespace that has none. OpenSSL encrypts, or in
guests with SHUNT_TEST_KTLS=required the kernel.
"""

import json
import pathlib
import pwd
import signal
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/lib"))
sys.dont_write_bytecode = True

from checked_requests import CheckedRequests, start_server  # noqa: E402
from databases import start_redis, through_postgres, through_redis, write_cargo  # noqa: E402
from lab import free_port  # noqa: E402
from postgres import start_postgres  # noqa: E402
from scenarios import PATIENCE_S, Scenarios, eventually, expect  # noqa: E402
from two_hosts import HERE, HOOK_PORT, MESH_PORT, THERE, USER, TwoHosts, remote_policy  # noqa: E402

CURL_CANNOT_CONNECT = 7
SERVICE, SERVICE6 = "10.96.77.7", "fd00:96:77::7"  # nobody has these addresses


def tell(outcome):
    told = ("_ns", "connections", "requests", "rotations")
    return f"{outcome['seconds']} s" + "".join(f", {name} {value}" for name, value in outcome.items() if name.endswith(told))


SCENARIOS = Scenarios("across", lambda lab, function, _: function(lab), tell)


def scenario(name):
    def add(function):
        SCENARIOS.all[name] = function
        return function
    return add


class Arrivals:
    """The deathstar is on this host, behind its gateway; each ship has a gateway of its own on the other one."""

    def __init__(self, lab, ships=("tiefighter", "xwing")):
        self.hosts = hosts = TwoHosts(lab, remote_policy("tiefighter", "xwing"))
        hosts.start_daemon(hosts.gateway_config("here", self.config()))
        self.process, self.log = hosts.gateway("here", self.config())
        hosts.linked()
        self.ports = {ship: free_port() for ship in ships}
        for ship, port in self.ports.items():
            directory = hosts.mesh / f"{ship}.yaml"
            directory.write_text(f"services: [{{name: deathstar, listen: '127.0.0.1:{port}', gateway: '{HERE}:{MESH_PORT}', "
                                 "identity: spiffe://mesh.example/here}]\n")
            hosts.gateway(ship, f"directory: [{directory}]\n", here=False)

    def config(self):
        return (f"shuntd: {{socket: {self.hosts.lab.folder}/gateway.sock}}\nlisten: ['{HERE}:{MESH_PORT}']\n"
                f"services: [{{name: deathstar, server: '127.0.0.1:{self.hosts.port}'}}]\n")

    def request(self, ship, method, path, *more):
        code, status, text = self.hosts.curl_there(self.ports[ship], method, path, *more)
        return (code, status) if code == 0 else (code, text)


@scenario("a workload on another host: L3, L4 and L7 rules, judged in the kernel")
def arrivals(lab):
    mesh = Arrivals(lab)
    hosts = mesh.hosts
    hosts.web_server()
    for method, path, more, wanted in (("POST", "/v1/request-landing", (), "200"), ("PUT", "/v1/exhaust-port", (), "403"),
                                       ("PUT", "/v1/exhaust-port", ("-H", "X-Has-Force: true"), "200"), ("GET", "/", (), "403")):
        outcome = mesh.request("tiefighter", method, path, *more)
        expect(outcome == (0, wanted), f"{method} {path} {more}: {outcome}\n{mesh.log()}")
    counters = hosts.counters()
    expect(counters["requests_denied"] == 2 and counters["requests_allowed"] == 2 and counters["requests_punted"] == 0,
           f"counted: {counters}")
    seen = (lab.folder / "nginx/access.log").read_text()
    expect(len(seen.splitlines()) == 2 and "GET" not in seen, f"nginx saw {seen}")
    before = counters["connections_forbidden"]
    code, text = mesh.request("xwing", "POST", "/v1/request-landing")
    expect(code != 0, f"the alliance: {code} {text}")
    counters = hosts.counters()
    expect(counters["connections_forbidden"] > before and counters["requests_denied"] == 2, f"counted: {counters}")
    expect((lab.folder / "nginx/access.log").read_text() == seen, "nginx saw the alliance")
    for ship in ("stranger", "xwing"):  # on this host the cgroup xwing is nobody's
        code, _, text = hosts.curl(ship, "POST", "/v1/request-landing")
        expect(code == CURL_CANNOT_CONNECT, f"a process of this host: curl ended with {code}: {text}")


# Asks shuntd to be the gateway, as a user.
ASK = """
import os, socket, struct, sys
os.setuid(int(sys.argv[1]))
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[2])
try:
    s.send(struct.pack("=II", 8, 2))
    got, ancillary, *_ = s.recvmsg(64, 1024)
    print("maps" if got and ancillary else "nothing")
except OSError:
    print("nothing")
"""


@scenario("nobody but the gateway stands for others")
def claims(lab):
    mesh = Arrivals(lab, ships=())
    hosts = mesh.hosts
    hosts.recorder()
    # So the claim itself works: of the gateway's user, in its cgroup.
    outcome = hosts.claim(hosts.gateway_cgroup, "tiefighter", USER)
    expect("200 OK" in outcome["got"], f"the gateway's own: {outcome}")
    read = hosts.read()
    for what, cgroup, who, user in (("another cgroup", hosts.cgroups["stranger"], "tiefighter", USER),
                                    ("another user", hosts.gateway_cgroup, "tiefighter", "root"),
                                    ("a workload of this host", hosts.cgroups["xwing"], "tiefighter", USER),
                                    ("somebody whom no document names", hosts.gateway_cgroup, "shuttle", USER),
                                    ("the alliance", hosts.gateway_cgroup, "xwing", USER)):
        outcome = hosts.claim(cgroup, who, user)
        expect(outcome["error"] == "PermissionError" and not outcome["got"], f"{what}: {outcome}")
    # The map itself is handed to no other user.
    code, text = hosts.run("stranger", [sys.executable, "-c", ASK, pwd.getpwnam("daemon").pw_uid, f"{lab.folder}/gateway.sock"])
    expect((code, text.strip()) == (0, "nothing") and lab.status()["gateway"]["linked"], f"another user asks for it: {code} {text}")
    lab.stop(mesh.process)
    eventually(lambda: not lab.status()["gateway"]["linked"], "the gateway is gone")
    outcome = hosts.claim(hosts.gateway_cgroup, "tiefighter", USER)
    expect(outcome["error"] == "PermissionError", f"without a gateway: {outcome}")
    expect(hosts.read() == read, f"the server read {hosts.read()!r}")
    log = lab.folder / "outside.log"
    process = lab.serve([lab.build / "ktls/gateway/shunt-gateway", "-c", hosts.mesh / "here/gateway.yaml"], cgroup=lab.without, log=log)
    expect(process.wait(30) == 1 and "does not take this gateway" in log.read_text(), f"outside of the selection: {log.read_text()}")


@scenario("another policy gives other numbers: a remote workload stays who it is")
def renumbered(lab):
    mesh = Arrivals(lab)
    hosts = mesh.hosts
    hosts.recorder()
    steps = [["send", "POST /v1/request-landing HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n"], ["responses", 1], ["sleep", 6],
             ["send", "PUT /v1/exhaust-port HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n"], ["responses", 1],
             ["send", "POST /v1/request-landing HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n"], ["responses", 1]]
    port, hosts.port = hosts.port, mesh.ports["tiefighter"]
    command = hosts.client_command(steps, command=hosts.inside)
    hosts.port = port
    client = lab.serve(command, cgroup=lab.without)
    eventually(lambda: hosts.read().count("landing") == 1, "the first request arrives")
    documents = remote_policy("tiefighter", "xwing").split("---\n")
    lab.stop(hosts.daemon)
    hosts.write_policy("\n---\n".join([documents[-1], *documents[:-1]]))
    hosts.daemon = lab.run_daemon()
    hosts.linked()
    result = json.loads(client.communicate(timeout=60)[0])
    expect("403" in result["got"] and result["got"].count("200 OK") == 2, f"after another policy: {result}")
    hosts.daemon.kill()
    hosts.daemon.wait()
    expect(mesh.request("tiefighter", "GET", "/") == (0, "403"), "with the daemon dead a request passed")
    expect(mesh.request("tiefighter", "POST", "/v1/request-landing") == (0, "200"), "with the daemon dead nothing passes")


@scenario("a workload on another host and a server that is no receiver: by the proxy, as who it is")
def unknown_server(lab):
    mesh = Arrivals(lab)
    hosts = mesh.hosts
    gate = hosts.whole_host()[1]
    hosts.recorder(program=hosts.unknown_program())
    hosts.proxy_of(gate)
    for method, path, more, wanted in (("POST", "/v1/request-landing", (), "200"), ("PUT", "/v1/exhaust-port", (), "403"),
                                       ("PUT", "/v1/exhaust-port", ("-H", "X-Has-Force: true"), "200"), ("GET", "/", (), "403")):
        outcome = mesh.request("tiefighter", method, path, *more)
        expect(outcome == (0, wanted), f"{method} {path} {more}: {outcome}\n{mesh.log()}")
    code, text = mesh.request("xwing", "POST", "/v1/request-landing")
    expect(code != 0, f"the alliance: {code} {text}")
    code, _, text = hosts.curl("stranger", "POST", "/v1/request-landing")
    expect(code == CURL_CANNOT_CONNECT, f"a process of this host: curl ended with {code}: {text}")
    expect({row["from"] for row in hosts.accessed()} == {"default/tiefighter"} and len(hosts.request_lines()) == 2,
           f"logged: {hosts.accessed()}")


# ---- the other way ----

class Departures:
    """The deathstar is on the other host; local programs dial addresses that nobody has."""

    def __init__(self, lab, strict=True):
        self.hosts = hosts = TwoHosts(lab)
        self.port, self.port6, self.server_port = free_port(), free_port(), free_port()
        self.service = f"{SERVICE}:{self.port}" if strict else f"{THERE}:{self.server_port}"
        self.directory = hosts.mesh / "directory"
        self.directory.mkdir()
        self.write_directory("deathstar", (("deathstar", self.service), ("deathstar", f"[{SERVICE6}]:{self.port6}")), strict)
        hosts.start_daemon(hosts.gateway_config("here", self.config()), ("tiefighter", "xwing", "stranger"))
        self.access = hosts.nginx_there(self.server_port)
        hosts.gateway("deathstar", f"listen: ['{THERE}:{MESH_PORT}']\n"
                      f"services: [{{name: deathstar, server: '127.0.0.1:{self.server_port}'}}]\n", here=False)
        self.process = self.start()

    def write_directory(self, name, services, strict=True):
        lines = [f"- {{name: {service}, address: '{address}', gateway: '{THERE}:{MESH_PORT}', strict: {str(strict).lower()}, "
                 "identity: spiffe://mesh.example/deathstar}\n" for service, address in services]
        (self.directory / f"{name}.yaml").write_text("services:\n" + "".join(lines))

    def config(self):
        return (f"shuntd: {{socket: {self.hosts.lab.folder}/gateway.sock}}\n"
                f"hooks: {{listen: ['127.0.0.1:{HOOK_PORT}', '[::1]:{HOOK_PORT}']}}\ndirectory: [{self.directory}]\n")

    def start(self):
        process, self.log = self.hosts.gateway("here", self.config())
        self.hosts.linked()
        return process

    def curl(self, ship, method, path, service=None):
        """(curl's exit code, status, what getpeername() says, body)"""
        code, text = self.hosts.run(ship, ["curl", "-sS", "-m", "20", "-X", method, "-w", "\n%{http_code} %{remote_ip} %{remote_port}",
                                           f"http://{service or self.service}{path}"])
        body, _, last = text.rpartition("\n")
        status, address, port = (last.split() + ["", "", ""])[:3]
        return code, status, f"{address}:{port}", body

    def arrived(self):
        return self.log().count("msg=closed")


ORIGINAL = """
import json, socket, struct, sys
host, port = sys.argv[1], int(sys.argv[2])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
s = socket.socket(family)
error = None
try:
    s.connect((host, port))
    s.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
    if family == socket.AF_INET:
        raw = s.getsockopt(0, 80, 16)
        original = [socket.inet_ntop(family, raw[4:8]), struct.unpack("!H", raw[2:4])[0], len(raw)]
    else:
        raw = s.getsockopt(41, 80, 28)
        original = [socket.inet_ntop(family, raw[8:24]), struct.unpack("!H", raw[2:4])[0], len(raw)]
    print(json.dumps({"peer": s.getpeername()[:2], "original": original, "got": s.recv(4096).decode("latin-1")}))
except OSError as e:
    print(json.dumps({"errno": e.errno}))
"""


@scenario("programs that know nothing dial a service on another host: IPv4 and IPv6")
def departures(lab):
    mesh = Departures(lab)
    hosts = mesh.hosts
    for number, (host, service, port) in enumerate(((SERVICE, mesh.service, mesh.port),
                                                    (SERVICE6, f"[{SERVICE6}]:{mesh.port6}", mesh.port6)), start=1):
        code, status, peer, text = mesh.curl("tiefighter", "GET", "/", service)
        expect((code, status) == (0, "200") and "from 127.0.0.1 to 127.0.0.1" in text, f"{service}: {code} {status} {text}\n{mesh.log()}")
        expect(peer == f"{host}:{port}", f"getpeername() says {peer}, not {host}:{port}")
        code, text = hosts.run("tiefighter", [sys.executable, "-c", ORIGINAL, host, port])
        said = json.loads(text)
        expect(said["peer"] == [host, port] and said["original"][:2] == [host, port] and "200 OK" in said["got"], f"{service}: {said}")
        eventually(lambda number=number: mesh.arrived() == 2 * number, lambda: f"the gateway's log: {mesh.log()}")
    expect(mesh.log().count("service=deathstar") == 4 and "peer=spiffe://mesh.example/deathstar" in mesh.log(), mesh.log())
    expect(hosts.counters()["services_dialled"] == 4, f"counted: {hosts.counters()}")
    # Outside of the selected cgroups nothing is turned; nor is what goes elsewhere.
    code, text = hosts.run("deathstar", ["curl", "-sS", "-m", "2", f"http://{mesh.service}/"])
    expect(code != 0 and mesh.arrived() == 4, f"a cgroup that is not selected: {code} {text}")
    code, text = hosts.run("tiefighter", ["curl", "-sS", "-m", "5", "-w", "%{remote_ip}", f"http://{THERE}:{mesh.server_port}/"])
    expect(code == 0 and THERE in text and HERE in text and mesh.arrived() == 4, f"another address: {code} {text}")
    # Nobody comes to the listener without having dialled.
    code, text = hosts.run("tiefighter", ["curl", "-sS", "-m", "5", f"http://127.0.0.1:{HOOK_PORT}/"])
    expect(code != 0 and "reason=not-dialled" in mesh.log(), f"directly: {code} {text}\n{mesh.log()}")
    # A socket that dialled a service may dial something else.
    again = ("import ctypes, socket, struct, sys\ns = socket.socket()\ns.connect((sys.argv[1], int(sys.argv[2])))\n"
             "ctypes.CDLL(None).connect(s.fileno(), struct.pack('=H14x', 0), 16)\n"
             "s.connect((sys.argv[3], int(sys.argv[4])))\nprint(s.getpeername()[0])\n")
    code, text = hosts.run("tiefighter", [sys.executable, "-c", again, SERVICE, mesh.port, THERE, mesh.server_port])
    expect(code == 0 and text.strip() == THERE, f"the same socket, elsewhere: {code} {text}")


@scenario("a strict service is not reached without the gateway, whoever takes its port")
def strict(lab):
    mesh = Departures(lab)
    hosts = mesh.hosts
    expect(mesh.curl("tiefighter", "GET", "/")[:2] == (0, "200"), mesh.log())
    lab.stop(mesh.process)
    for host, port in ((SERVICE, mesh.port), (SERVICE6, mesh.port6)):
        code, text = hosts.run("tiefighter", [sys.executable, "-c", ORIGINAL, host, port])
        expect(json.loads(text) == {"errno": 111}, f"{host}: {text}")
    impostor = ("import socket\ns = socket.socket()\ns.setsockopt(1, 2, 1)\n"
                f"s.bind(('127.0.0.1', {HOOK_PORT}))\ns.listen()\nprint('ready', flush=True)\nc = s.accept()[0]\n"
                "print(c.recv(99), flush=True)\n")
    log = lab.folder / "impostor.log"
    taken = lab.serve([sys.executable, "-c", impostor], cgroup=hosts.cgroups["stranger"], log=log)
    lab.wait_for(lambda: "ready" in log.read_text(), taken, log, "the impostor")
    code, _, _, text = mesh.curl("tiefighter", "GET", "/")
    expect(code == CURL_CANNOT_CONNECT and "GET" not in log.read_text(), f"to another process on the port: {code} {text} {log.read_text()}")
    expect(hosts.counters()["services_refused"] >= 3, f"counted: {hosts.counters()}")
    lab.stop(taken)
    hosts.daemon.send_signal(signal.SIGKILL)
    hosts.daemon.wait()
    expect(mesh.curl("tiefighter", "GET", "/")[0] == CURL_CANNOT_CONNECT, "with the daemon dead too it was reached")
    hosts.daemon = lab.run_daemon()
    expect(mesh.curl("tiefighter", "GET", "/")[0] == CURL_CANNOT_CONNECT, "after a restart it was reached")
    mesh.process = mesh.start()
    expect(mesh.curl("tiefighter", "GET", "/")[:2] == (0, "200"), f"with the gateway back: {mesh.log()}")


@scenario("a service that is not strict is dialled as it is while there is no gateway")
def lenient(lab):
    mesh = Departures(lab, strict=False)
    code, status, peer, text = mesh.curl("tiefighter", "GET", "/")
    expect((code, status) == (0, "200") and "to 127.0.0.1" in text and peer == mesh.service, f"{code} {status} {peer} {text}")
    mesh.hosts.lab.stop(mesh.process)
    code, status, peer, text = mesh.curl("tiefighter", "GET", "/")
    expect((code, status) == (0, "200") and f"to {HERE}" in text and peer == mesh.service, f"{code} {status} {peer} {text}")


ROTATIONS = 4


@scenario("psql and redis-cli find PostgreSQL and Redis on another host: 10 MB there and back")
def databases(lab, rotating=False):
    hosts = TwoHosts(lab)
    postgres, redis = free_port(), free_port()
    directory = hosts.mesh / "databases.yaml"
    config = (f"shuntd: {{socket: {lab.folder}/gateway.sock}}\nhooks: {{listen: ['127.0.0.1:{HOOK_PORT}']}}\n"
              f"directory: [{directory}]\n")
    directory.write_text("services:\n" + "".join(
        f"- {{name: {name}, address: '{SERVICE}:{port}', gateway: '{THERE}:{MESH_PORT}', identity: spiffe://mesh.example/databases}}\n"
        for name, port in (("postgres", postgres), ("redis", redis))))
    hosts.start_daemon(hosts.gateway_config("here", config), ("tiefighter",))
    start_postgres(lab, postgres, lab.without, hosts.inside)
    start_redis(lab, redis, lab.without, hosts.inside)
    services = ", ".join(f"{{name: {name}, server: '127.0.0.1:{port}'}}" for name, port in (("postgres", postgres), ("redis", redis)))
    hosts.gateway("databases", f"listen: ['{THERE}:{MESH_PORT}']\nservices: [{services}]\n", here=False)
    log = hosts.gateway("here", config)[1]
    hosts.linked()
    if rotating:
        hosts.rotate("here", "databases")
    cargo = lab.folder / "cargo"
    write_cargo(cargo)

    def run(*command):
        code, text = hosts.run("tiefighter", command)
        expect(code == 0, f"{command}: {code} {text[-800:]}\n{log()}")
        return text

    rounds, wanted = 0, {}
    while rounds == 0 or (rotating and hosts.rotations < ROTATIONS):
        rounds += 1
        who = through_postgres(run, SERVICE, postgres, cargo)
        expect(who == f"{postgres}|127.0.0.1", f"PostgreSQL is talking to {who}")
        through_redis(run, SERVICE, redis, cargo)
        wanted = {"service=postgres": 4 * rounds, "service=redis": 2 * rounds, "peer=spiffe://mesh.example/databases": 6 * rounds}
    eventually(lambda: all(log().count(part) == count for part, count in wanted.items()), lambda: f"the gateway's log: {log()}")
    if rotating:
        return {"rotations": hosts.rotated()}
    return None


@scenario("psql and redis-cli, the same while both hosts get new certificates every second")
def databases_while_certificates_rotate(lab):
    return databases(lab, rotating=True)


LIVE = 100  # connections each way


class BothWays:
    """The deathstar is on this host and the depot on the other one; each answers with what it gets."""

    def __init__(self, lab, existing="reset"):
        self.lab, self.hosts = lab, TwoHosts(lab, remote_policy("tiefighter", "xwing"))
        self.hosts.more = self.hosts.more.replace("policy: {", f"policy: {{existing: {existing}, ")
        hosts, self.depot, there, server = self.hosts, free_port(), free_port(), free_port()
        directories = {"here": f"- {{name: depot, address: '{SERVICE}:{self.depot}', gateway: '{THERE}:{MESH_PORT}', "
                               "identity: spiffe://mesh.example/depot}\n",
                       "tiefighter": f"- {{name: deathstar, listen: '127.0.0.1:{there}', gateway: '{HERE}:{MESH_PORT}', "
                                     "identity: spiffe://mesh.example/here}\n"}
        for name, services in directories.items():
            (hosts.mesh / f"{name}.yaml").write_text("services:\n" + services)
        config = (f"shuntd: {{socket: {lab.folder}/gateway.sock}}\nlisten: ['{HERE}:{MESH_PORT}']\n"
                  f"services: [{{name: deathstar, server: '127.0.0.1:{hosts.port}'}}]\n"
                  f"hooks: {{listen: ['127.0.0.1:{HOOK_PORT}']}}\ndirectory: [{hosts.mesh}/here.yaml]\n")
        hosts.start_daemon(hosts.gateway_config("here", config), ("stranger",))
        start_server(lab, hosts.port, hosts.cgroups["deathstar"], "deathstar")
        start_server(lab, server, lab.without, "depot", hosts.inside)
        hosts.gateway("depot", f"listen: ['{THERE}:{MESH_PORT}']\nservices: [{{name: depot, server: '127.0.0.1:{server}'}}]\n", here=False)
        hosts.gateway("tiefighter", f"directory: [{hosts.mesh}/tiefighter.yaml]\n", here=False)
        self.log = hosts.gateway("here", config)[1]
        hosts.linked()
        self.there = there
        self.flows = [CheckedRequests(lab, "inbound", LIVE, "127.0.0.1", there, lab.without, "/v1/request-landing", hosts.inside,
                                      explain=self.explain),
                      CheckedRequests(lab, "outbound", LIVE, SERVICE, self.depot, hosts.cgroups["stranger"], "/v1/cargo",
                                      explain=self.explain)]

    def explain(self):
        counters = {name: value for name, value in self.hosts.counters().items() if value and not isinstance(value, dict)}
        return f"{counters}\n" + "\n".join(line for line in self.log().splitlines() if "reason=" in line)[-1500:]

    def rows(self):
        """Sockets of live connections: the deathstar's and the gateway's that call it, the clients' of the depot and the gateway's."""
        ports = (f":{self.hosts.port}", f":{HOOK_PORT}", f":{self.depot}")
        rows = json.loads(self.hosts.shunt("-o", "json", "list"))["sockets"]
        return {row["cookie"]: row for row in rows if row["local"].endswith(ports) or row["remote"].endswith(ports)}

    def hold(self, known):
        """All that live go on, over the shortcut; what is new is judged. What was redirected is kept in `known`."""
        for flow in self.flows:
            flow.move_on()

        def fast():
            return [row for row in self.rows().values() if row["in_map"] and row["redirected_bytes"] > known.get(row["cookie"], 0)]
        eventually(lambda: len(fast()) >= 4 * LIVE, lambda: f"{len(fast())} of {4 * LIVE} sockets send over the shortcut")
        known.update((cookie, row["redirected_bytes"]) for cookie, row in self.rows().items())
        for method, wanted in (("POST", "200"), ("GET", "403")):
            code, status, text = self.hosts.curl_there(self.there, method, "/v1/request-landing", "-H", "Content-Length: 0")
            expect((code, status) == (0, wanted), f"a new connection, {method}: {code} {status} {text}\n{self.log()}")
        code, status, text = self.hosts.curl("stranger", "POST", "/v1/request-landing")
        expect(code == CURL_CANNOT_CONNECT, f"a process of this host: {code} {status} {text}")

    def replace_daemon(self, number, program="control/shuntd"):
        generation = self.lab.status()["generation"]
        self.hosts.daemon.send_signal(number)
        self.hosts.daemon.wait(PATIENCE_S)
        for flow in self.flows:  # without it
            flow.move_on()
        self.hosts.daemon = self.lab.run_daemon(program)
        self.hosts.linked()
        return self.lab.status()["generation"] - generation


def live_through(mesh, *events):
    """Events are (signal that ends the daemon, the next one's program, how many generations further that is)."""
    known = {}
    mesh.hold(known)
    cookies = set(mesh.rows())
    for number, program, generations in events:
        further = mesh.replace_daemon(number, program)
        expect(further == generations, f"{program}: {further} further generations, not {generations}")
        mesh.hold(known)
        lost = cookies - set(mesh.rows())
        expect(not lost, f"{program} does not know {len(lost)} of {len(cookies)} live sockets")


def end_all(mesh):
    requests = sum(flow.finish() for flow in mesh.flows)
    eventually(lambda: mesh.log().count("msg=closed") >= 2 * LIVE, lambda: f"the gateway's log: {mesh.log()[-800:]}")
    expect("msg=failed" not in mesh.log() and "msg=refused" not in mesh.log(), f"the gateway's log: {mesh.log()[-2000:]}")
    return {"connections": 2 * LIVE, "requests": requests, "errors": 0}


@scenario("100 live connections each way, every byte checked, while shuntd is killed and restarted")
def live_through_restarts(lab):
    mesh = BothWays(lab)
    live_through(mesh, (signal.SIGKILL, "control/shuntd", 0), (signal.SIGTERM, "control/shuntd", 0))
    return end_all(mesh)


# By `existing: reset` connections whose requests are judged end with an upgrade to another layout: to it they are older.
@scenario("100 live connections each way, every byte checked, while shuntd is upgraded and downgraded to other layouts")
def live_through_versions(lab):
    mesh = BothWays(lab, existing="grace")
    told, hosts = lab.folder / "upgraded", mesh.hosts
    request = "POST /v1/request-landing HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n"
    again = [["send", request], ["responses", 1], ["sleep", 1]]
    steps = [*again, ["until", [str(told), again]], ["send", request.replace("POST", "PUT")], ["responses", 1], *again]
    port, hosts.port = hosts.port, mesh.there
    command = hosts.client_command(steps, command=hosts.inside)
    hosts.port = port
    client = lab.serve(command, cgroup=lab.without)
    live_through(mesh, (signal.SIGTERM, "control/shuntd-next", 1), (signal.SIGKILL, "control/shuntd", 1))
    told.touch()
    result = json.loads(client.communicate(timeout=PATIENCE_S)[0])
    expect(not result["error"] and result["got"].count("403") == 1 and result["got"].endswith("Length: 0\r\n\r\n"),
           f"a live connection is not judged any more: {result}")
    return end_all(mesh)


EGRESS = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out}
spec:
  endpointSelector: {matchLabels: {class: tiefighter}}
  egress:
  - toEndpoints: [{matchLabels: {class: deathstar}}]
    toPorts:
    - ports: [{port: "PORT"}]
      rules: {http: [{method: GET, path: /allowed}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: nowhere}
spec: {endpointSelector: {matchLabels: {class: xwing}}, egress: [{}], egressDeny: [{toEndpoints: [{matchLabels: {class: deathstar}}]}]}
"""


@scenario("rules on what leaves: the service's workload counts, by what was dialled")
def egress(lab):
    mesh = Departures(lab)
    hosts = mesh.hosts
    workloads = "\n---\n".join(part for part in remote_policy("deathstar").split("---\n") if "kind: Workload" in part)
    hosts.write_policy(EGRESS.replace("PORT", str(mesh.port)) + "---\n" + workloads)
    hosts.reload()
    for path, wanted in (("/allowed", "200"), ("/other", "403")):
        code, status, _, text = mesh.curl("tiefighter", "GET", path)
        expect((code, status) == (0, wanted), f"{path}: {code} {status} {text}\n{mesh.log()}")
    counters = hosts.counters()
    expect(counters["requests_denied"] == 1 and counters["requests_allowed"] == 1, f"counted: {counters}")
    expect("/other" not in mesh.access.read_text() and "/allowed" in mesh.access.read_text(), "nginx saw something else")
    code, text = hosts.run("xwing", [sys.executable, "-c", ORIGINAL, SERVICE, mesh.port])
    expect(json.loads(text) == {"errno": 1}, f"a service that is forbidden: {text}")
    expect(mesh.curl("stranger", "GET", "/other")[:2] == (0, "200"), "a process without rules")


TIMED = """
import json, socket, sys, time
listener = socket.create_server(("127.0.0.1", 0), backlog=64)
address = listener.getsockname()
times = []
for _ in range(4000):
    s = socket.socket()
    began = time.perf_counter_ns()
    s.connect(address)
    times.append(time.perf_counter_ns() - began)
    s.close()
    listener.accept()[0].close()
times.sort()
print(json.dumps({"median_ns": times[len(times) // 2]}))
"""


@scenario("a service is found among 50,000")
def many(lab):
    mesh = Departures(lab)
    hosts = mesh.hosts

    def median():
        return min(json.loads(hosts.run("tiefighter", [sys.executable, "-c", TIMED])[1])["median_ns"] for _ in range(5))

    few = median()
    for part in range(10):
        mesh.write_directory(f"many{part}", [(f"s{i}", f"10.97.{i >> 8}.{i & 255}:80") for i in range(part * 5000, part * 5000 + 5000)])
    hosts.reload()
    expect(lab.status()["gateway"]["services"] == 50_002, f"in force: {lab.status()['gateway']}")
    expect(mesh.curl("tiefighter", "GET", "/")[:2] == (0, "200"), mesh.log())
    code, text = hosts.run("tiefighter", [sys.executable, "-c", ORIGINAL, "10.97.195.79", 80])  # the last; this gateway does not know it
    expect(code == 0 and "not-dialled" in mesh.log(), f"the last one: {text}")
    lots = median()
    return {"few_ns": few, "many_ns": lots}  # to be judged on a host that is not busy


if __name__ == "__main__":
    sys.exit(SCENARIOS.main(__doc__))
