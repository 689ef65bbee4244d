#!/usr/bin/env python3
"""One of two hosts, each a guest: two_guests.py starts both, and knows what crosses between them.

usage: two_guests_host.py BUILD FOLDER

In FOLDER are settings.json and certificates. The host `server` has the servers, and answers questions over a serial line; the
host `client` has the programs that dial them, says in TAP what came of it, and ends the other one.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import termios
import time
import tty

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/lib"))
sys.dont_write_bytecode = True

from databases import start_redis, through_postgres, through_redis, write_cargo  # noqa: E402
from lab import Lab, LabError, free_port, nginx_conf  # noqa: E402
from postgres import start_postgres  # noqa: E402
from scenarios import PATIENCE_S, Broken, eventually, expect  # noqa: E402
from two_hosts import HERE, HOOK_PORT, MESH_PORT, THERE, Host, remote_policy  # noqa: E402

WIRE, LINE = "eth0", "/dev/ttyS1"
SERVICE, SERVICE6 = "10.96.77.7", "fd00:96:77::7"  # nobody has these addresses
PORTS = {"deathstar": 80, "depot": 81, "h2": 82, "postgres": 5432, "redis": 6379}  # of the services there
XWING_PORT = 7080
ASK_AGAIN_S = 3


def connect(address):
    """The wire to the other host has this address, and IPv4 alone."""
    (pathlib.Path("/proc/sys/net/ipv6/conf") / WIRE / "disable_ipv6").write_text("1")
    for command in (f"addr add {address}/30 dev {WIRE}", f"link set {WIRE} up"):
        subprocess.run(["ip", *command.split()], check=True)


class Line:
    """The serial line between the hosts: a question is a word, an answer a line of JSON."""

    def __init__(self):
        self.fd = os.open(LINE, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.fd)
        termios.tcflush(self.fd, termios.TCIOFLUSH)
        self.got = b""

    def read(self, seconds):
        """A line, or None."""
        end = time.monotonic() + seconds
        while b"\n" not in self.got:
            if not select.select([self.fd], [], [], max(0, end - time.monotonic()))[0]:
                return None
            self.got += os.read(self.fd, 4096)
        line, _, self.got = self.got.partition(b"\n")
        return line.decode("latin-1")

    def write(self, text):
        data = text.encode() + b"\n"
        while data:
            data = data[os.write(self.fd, data):]

    def await_other(self):
        """Until the other host answers; what it said to earlier questions is passed over."""
        end = time.monotonic() + PATIENCE_S
        while self.asked("ready", ASK_AGAIN_S) is None:
            expect(time.monotonic() < end, "the other host does not answer")
        while self.read(ASK_AGAIN_S) is not None:
            pass

    def asked(self, question, seconds):
        self.write(question)
        text = self.read(seconds)
        with contextlib.suppress(ValueError, TypeError):
            return json.loads(text)
        return None

    def ask(self, question):
        answer = self.asked(question, PATIENCE_S)
        expect(answer is not None, f"the other host has no answer to: {question}")
        return answer

    def answer(self, answers):
        """Questions, until one is `end`."""
        while True:
            question = self.read(PATIENCE_S)
            expect(question is not None, "the other host asks nothing")
            if question in answers:
                self.write(json.dumps(answers[question]()))
            if question == "end":
                return


def kernel_tls():
    """What the kernel says of the keys that it has got."""
    return {name: int(value) for name, value in (line.split() for line in pathlib.Path("/proc/net/tls_stat").read_text().splitlines())}


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class OneOfTwo(Host):
    def __init__(self, lab, folder, policy=None):
        super().__init__(lab, policy)
        self.settings = json.loads((folder / "settings.json").read_text())
        shutil.rmtree(self.mesh)
        shutil.copytree(folder / "mesh", self.mesh)
        for path in self.mesh.rglob("*"):
            shutil.chown(path, "nobody")


def serve(lab, folder, line):
    """The deathstar, judged by its policy; and a depot and databases that have none."""
    host = OneOfTwo(lab, folder, remote_policy("tiefighter", "xwing"))
    connect(THERE)
    ports = {"deathstar": host.port, **{name: free_port() for name in PORTS if name != "deathstar"}}
    services = "".join(f"- {{name: {name}, server: '127.0.0.1:{port}'}}\n" for name, port in ports.items())
    config = f"shuntd: {{socket: {lab.folder}/gateway.sock}}\nlisten: ['{THERE}:{MESH_PORT}']\nservices:\n{services}"
    host.start_daemon(host.gateway_config("server", config))
    log = host.gateway("server", config)[1]
    host.linked()
    host.web_server()
    site = lab.folder / "depot"
    site.mkdir()
    (site / "nginx.conf").write_text(nginx_conf(site, f"127.0.0.1:{ports['depot']}; listen {THERE}:{host.settings['plain_port']}",
                                                f"root {site}; dav_methods PUT;", http="client_max_body_size 0;"))
    depot = lab.serve(["nginx", "-c", site / "nginx.conf", "-e", site / "error.log"], cgroup=lab.without, log=site / "log")
    lab.wait_for(lambda: (site / "pid").exists(), depot, site / "error.log", "nginx")
    h2 = lab.serve(["nghttpd", "--no-tls", "-a", "127.0.0.1", "-d", site, ports["h2"]], cgroup=lab.without, log=lab.folder / "h2.log")
    lab.wait_for_port(ports["h2"], h2, lab.folder / "h2.log", "nghttpd")
    start_postgres(lab, ports["postgres"], lab.without)
    start_redis(lab, ports["redis"], lab.without)
    line.answer({"ready": lambda: True, "counters": host.counters, "tls": kernel_tls, "log": lambda: log()[-2000:],
                 "seen": (lab.folder / "nginx/access.log").read_text, "cargo": lambda: digest(site / "cargo"), "end": lambda: True})


class Client:
    """The ships, which know nothing of the mesh, and what is to come of their connections. Each method of STEPS is one line of TAP."""

    def __init__(self, lab, folder, line):
        self.lab, self.line = lab, line
        self.host = host = OneOfTwo(lab, folder)
        connect(HERE)
        self.config = (f"shuntd: {{socket: {lab.folder}/gateway.sock}}\n"
                       f"hooks: {{listen: ['127.0.0.1:{HOOK_PORT}', '[::1]:{HOOK_PORT}']}}\ndirectory: [{host.mesh}/directory.yaml]\n")
        (host.mesh / "directory.yaml").write_text("services:\n" + "".join(
            f"- {{name: {name}, address: '{address}:{port}', gateway: '{THERE}:{MESH_PORT}', strict: true, "
            "identity: spiffe://mesh.example/server}\n"
            for name, port in PORTS.items() for address in (SERVICE, f"[{SERVICE6}]")))
        self.cargo = lab.folder / "cargo"
        write_cargo(self.cargo, host.settings["marker"])

    def up(self):
        host = self.host
        self.line.await_other()
        host.start_daemon(host.gateway_config("tiefighter", self.config), ("tiefighter",))
        self.log = host.gateway("tiefighter", self.config)[1]
        host.linked()
        # The alliance has a gateway of its own, to which shuntd turns nobody.
        (host.mesh / "xwing.yaml").write_text(f"services: [{{name: deathstar, listen: '127.0.0.1:{XWING_PORT}', "
                                              f"gateway: '{THERE}:{MESH_PORT}', identity: spiffe://mesh.example/server}}]\n")
        host.gateway("xwing", f"directory: [{host.mesh}/xwing.yaml]\n", here=False)
        self.tls_before = {"here": kernel_tls(), "there": self.line.ask("tls")}

    def run(self, *command):
        code, text = self.host.run("tiefighter", command)
        expect(code == 0, f"{command}: {code} {text[-800:]}\n{self.log()[-2000:]}\nthere: {self.line.ask('log')}")
        return text

    def curl(self, method, path, *more, service="deathstar", address=SERVICE):
        """Status, what getpeername() says, and body."""
        text = self.run("curl", "-sS", "-m", PATIENCE_S, "-X", method, "-w", "\n%{http_code} %{remote_ip}",
                        "-H", f"X-Marker: {self.host.settings['marker']}", *more, f"http://{address}:{PORTS[service]}{path}")
        body, _, last = text.rpartition("\n")
        return *last.split(), body

    def requests(self):
        landed = "Ship landed\n"
        for method, path, more, address, wanted in (
                ("POST", "/v1/request-landing", (), SERVICE, "200"), ("POST", "/v1/request-landing", (), f"[{SERVICE6}]", "200"),
                ("PUT", "/v1/exhaust-port", (), SERVICE, "403"), ("PUT", "/v1/exhaust-port", ("-H", "X-Has-Force: true"), SERVICE, "200"),
                ("GET", "/", (), SERVICE, "403")):
            status, peer, body = self.curl(method, path, *more, address=address)
            expect(status == wanted and (body == landed) == (wanted == "200"), f"{method} {path}: {status} {body}")
            expect(peer == address.strip("[]"), f"getpeername() says {peer}, not {address}")
        counters, seen = self.line.ask("counters"), self.line.ask("seen")
        judged = [counters[f"requests_{what}"] for what in ("denied", "allowed", "punted")]
        expect(judged == [2, 3, 0], f"counted: {counters}")
        expect(len(seen.splitlines()) == 3 and "GET" not in seen, f"the server saw {seen}")

    def strangers(self):
        before, seen = self.line.ask("counters"), self.line.ask("seen")
        url = f"http://127.0.0.1:{XWING_PORT}/v1/request-landing"
        code, text = self.host.run("xwing", ["curl", "-sS", "-m", PATIENCE_S, "-X", "POST", url])
        expect(code != 0, f"the alliance: {text}")
        after = self.line.ask("counters")
        expect(after["connections_forbidden"] > before["connections_forbidden"] and self.line.ask("seen") == seen, f"counted: {after}")

    def bodies(self):
        status, *_ = self.curl("PUT", "/cargo", "-T", self.cargo, service="depot")
        expect(status == "201" and self.line.ask("cargo") == digest(self.cargo), f"there: {status}, or others than were sent")
        landed = self.cargo.with_name("landed")
        status, *_ = self.curl("GET", "/cargo", "-o", landed, service="depot")
        expect(status == "200" and digest(landed) == digest(self.cargo), f"back: {status}, {landed.stat().st_size} bytes, or others")

    def streams(self):
        text = self.run("h2load", "-n", 400, "-c", 4, "-m", 10, f"http://{SERVICE}:{PORTS['h2']}/nginx.conf")
        expect("400 succeeded, 0 failed, 0 errored" in text and "status codes: 400 2xx" in text, text)

    def postgres(self):
        who = through_postgres(self.run, SERVICE, PORTS["postgres"], self.cargo)
        expect(who.endswith("|127.0.0.1"), f"PostgreSQL is talking to {who}")

    def redis(self):
        through_redis(self.run, SERVICE, PORTS["redis"], self.cargo)

    def keys(self):
        """Each handshake has given the kernel two keys on each host, and no record failed."""
        links = 17  # of this gateway, in the steps before
        eventually(lambda: self.log().count("msg=closed") == links, lambda: f"{links} links: {self.log()}")
        for where, now in (("here", kernel_tls()), ("there", self.line.ask("tls"))):
            more = {name: now[name] - self.tls_before[where][name] for name in now}
            expect(min(more["TlsTxSw"], more["TlsRxSw"]) >= links and more["TlsDecryptError"] == 0, f"{where}, {links} links: {more}")

    def plain(self):
        """For who reads the recording: a beginning of the cargo, past the gateways."""
        url = f"http://{THERE}:{self.host.settings['plain_port']}/cargo"
        text = self.run("curl", "-sS", "-m", PATIENCE_S, "-r", "0-65535", url)
        expect(text == self.cargo.read_text()[:65536], f"{len(text)} bytes, or others")

    STEPS = {"both hosts are up": up,
             "requests from another host: 200s, and 403s that the server's kernel made": requests,
             "who may not connect reaches no server": strangers,
             "10 MB by curl to nginx, there and back": bodies,
             "h2load loads nghttpd": streams,
             "10 MB by psql to PostgreSQL, there and back": postgres,
             "10 MB by redis-cli to Redis, there and back": redis,
             "the kernels had the keys of all these connections": keys,
             "past the gateways the same bytes cross in plain": plain}

    def go(self):
        print(f"1..{len(self.STEPS)}", flush=True)
        for number, (name, step) in enumerate(self.STEPS.items(), start=1):
            began = time.monotonic()
            try:
                step(self)
            except (Broken, LabError, subprocess.SubprocessError) as error:
                print(f"not ok {number} - {name}")
                print("".join(f"# {text}\n" for text in str(error).splitlines()), end="", flush=True)
                return 1
            print(f"ok {number} - {name}: {time.monotonic() - began:.1f} s", flush=True)
        self.line.ask("end")
        return 0


def main():
    build, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    with Lab(build, "two") as lab:
        line = Line()
        if json.loads((folder / "settings.json").read_text())["host"] == "client":
            return Client(lab, folder, line).go()
        serve(lab, folder, line)
        return 0


if __name__ == "__main__":
    sys.exit(main())
