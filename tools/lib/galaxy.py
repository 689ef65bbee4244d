"""The Star Wars demo of the Cilium documentation on plain processes: the ships are cgroups, the deathstar is a server in one of them.

Of use for a demonstration, and for tests of what a policy lets through: the recorder is a server that writes down every byte it reads."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import urllib.request

from lab import LabError, cgroup_mount, free_port, nginx_conf
from scenarios import SLOWER, eventually

PATIENCE_S = 60 * SLOWER
STATUS_AGE_S = 0.6
POLICIES = pathlib.Path(__file__).resolve().parents[2] / "tests/vectors/policy"
POLICY = (POLICIES / "starwars_l7.yaml").read_text()
LANDED = r'return 200 "Ship landed\n";'  # of the deathstar, if it is nginx

RECORDER = """
import asyncio, sys
log = open(sys.argv[2], "ab", buffering=0)
lines = open(sys.argv[2] + ".lines", "ab", buffering=0)
async def serve(reader, writer):
    data = b""
    try:
        while True:
            while b"\\r\\n\\r\\n" not in data:
                more = await reader.read(65536)
                if not more:
                    return
                log.write(more)
                data += more
            head, data = data.split(b"\\r\\n\\r\\n", 1)
            lines.write(head.split(b"\\r\\n")[0] + b"\\n")
            length, chunked = 0, False
            for line in head.split(b"\\r\\n"):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
                chunked |= line.lower() == b"transfer-encoding: chunked"
            while True:
                if chunked and b"\\r\\n" in data:
                    size = int(data.split(b"\\r\\n", 1)[0], 16)
                    length = data.index(b"\\r\\n") + size + 4
                if len(data) >= length and (not chunked or length):
                    data = data[length:]
                    if not chunked or not size:
                        break
                    length = 0
                    continue
                more = await reader.read(65536)
                if not more:
                    return
                log.write(more)
                data += more
            path = head.split(b" ")[1]
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(path) + path)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", int(sys.argv[1]))
    print("ready", flush=True)
    async with server:
        await server.serve_forever()
asyncio.run(main())
"""

# Steps: ["send", text] ["urgent", text] ["file", path] ["recv", seconds] (until nothing comes for so long) ["sleep", seconds]
# ["shut", 0] (its half of the connection) ["responses", n] (until n whole responses have come) ["until", [path, steps]] (these
# again and again, until the file is there) ["tell", path] (makes the file). Prints what was received and the error that ended it.
CLIENT = """
import json, os, re, socket, sys, time
host, port, steps = sys.argv[1], int(sys.argv[2]), json.load(open(sys.argv[3]))
source = (sys.argv[4], 0) if sys.argv[4:] else None
patience = 20 * int(os.environ.get("SHUNT_TESTS_SLOWER", "1"))
got, error = b"", None
def whole(data):
    n = 0
    while b"\\r\\n\\r\\n" in data:
        head, rest = data.split(b"\\r\\n\\r\\n", 1)
        found = re.search(rb"(?i)content-length: *(\\d+)", head)
        last = b"0\\r\\n\\r\\n" # of chunks, in none of which it stands
        length = int(found.group(1)) if found else rest.find(last) + len(last)
        if len(rest) < length or not found and last not in rest:
            break
        data, n = rest[length:], n + 1
    return n
def run(steps):
    global got, error
    for what, value in steps:
        if what == "send":
            s.sendall(value.encode("latin-1"))
        elif what == "urgent":
            s.send(value.encode("latin-1"), socket.MSG_OOB)
        elif what == "file":
            with open(value, "rb") as f:
                s.sendfile(f)
        elif what == "shut":
            s.shutdown(socket.SHUT_WR)
        elif what == "sleep":
            time.sleep(value)
        elif what == "tell":
            open(value, "w").close()
        elif what == "until":
            while not os.path.exists(value[0]) and not error:
                run(value[1])
        elif what == "responses":
            wanted = whole(got) + value
            while whole(got) < wanted:
                more = s.recv(65536)
                if not more:
                    error = "closed"
                    break
                got += more
        elif what == "recv":
            s.settimeout(value)
            while True:
                more = s.recv(65536)
                if not more:
                    error = "closed"
                    break
                got += more
try:
    s = socket.create_connection((host, port), timeout=patience, source_address=source)
    run(steps)
except OSError as e:
    error = type(e).__name__ + ": " + str(e)
print(json.dumps({"got": got.decode("latin-1"), "error": error}))
"""

# Opens connections, sends one request on each, and is silent; says for each when it ended (CLOCK_MONOTONIC). When the file is there, those
# that are left send their request once more. Prints when they ended, and how many of the others were answered.
IDLERS = """
import json, os, select, socket, sys, time
host, port, count, go, request = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5].encode("latin-1")
def ask(s):
    s.sendall(request)
    return s.recv(65536).startswith(b"HTTP/1.1 200")
left = {}
for _ in range(count):
    s = socket.create_connection((host, port), timeout=20)
    left[s.fileno()] = s
answered = sum(ask(s) for s in left.values())
poll, ended = select.poll(), []
for s in left.values():
    poll.register(s, select.POLLIN)
print(f"idle {answered}", flush=True)
while not os.path.exists(go):
    for number, events in poll.poll(20):
        ended.append(time.monotonic())
        poll.unregister(number)
        left.pop(number).close()
answered = 0
for s in left.values():
    try:
        answered += ask(s)
    except OSError:
        pass
print(json.dumps({"ended": ended, "answered": answered}))
"""


def metrics_at(address):
    """Values by series."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE_S) as response:
        lines = response.read().decode().splitlines()
    return {series: float(value) for series, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def istio_requests(metrics):
    """Of these: how many requests were answered with which status, by the workloads at the two ends."""
    counted = {}
    for series, value in metrics.items():
        if series.startswith("istio_requests_total{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', series))
            key = labels["source_workload"], labels["destination_workload"], labels["response_code"]
            counted[key] = counted.get(key, 0) + value
    return counted


class Idlers:
    """Connections on which nothing is sent."""

    def __init__(self, galaxy, ship, count, host="127.0.0.1", request="", program=sys.executable):
        galaxy.scripts += 1
        self.go = galaxy.lab.folder / f"go-{galaxy.scripts}"
        self.log = galaxy.lab.folder / f"idlers-{galaxy.scripts}.log"
        command = [program, "-c", IDLERS, host, galaxy.port, count, self.go, request]
        self.process = galaxy.lab.serve(command, cgroup=galaxy.cgroups[ship], log=self.log)
        galaxy.lab.wait_for(lambda: f"idle {count}" in self.log.read_text(), self.process, self.log, "connections")

    def end(self):
        """When those ended that did, and how many of the others were answered once more."""
        self.go.touch()
        self.process.wait(PATIENCE_S)
        try:
            return json.loads(self.log.read_text().splitlines()[-1])
        except ValueError:
            raise LabError(f"the idle connections: {self.log.read_text()}") from None


class Galaxy:
    """One scenario: the deathstar's port is served by the recorder or by nginx, the ships are cgroups."""

    recorder_code, client_code = RECORDER, CLIENT

    def __init__(self, lab, options=None, policy=POLICY, start=True):
        self.lab = lab
        self.options = options
        self.scripts = 0
        self.port = free_port()
        self.log = lab.folder / "read-by-the-server"
        self.cgroups = {name: lab.make_cgroup(lab.with_shunt / name) for name in ("deathstar", "tiefighter", "xwing", "stranger")}
        self.folder = lab.folder / "policy"
        self.folder.mkdir()
        if policy:
            self.write_policy(policy)
        self.kept = lab.folder / "state/policy"
        self.more = f"policy: {{directory: {self.folder}}}\nproxy: {{user: nobody}}\n"
        self.daemon = lab.start_daemon(self.more) if start else None

    def path(self, name):
        return "/" + str((self.lab.with_shunt / name).resolve().relative_to(cgroup_mount()))

    def write_policy(self, text):
        text = text.replace('port: "80"', f'port: "{self.port}"').replace("targetPort: 80", f"targetPort: {self.port}")
        for name in ("deathstar", "tiefighter", "xwing"):
            text = text.replace(f"{{unit: {name}.service}}", f"{{cgroup: {self.path(name)}}}")
        (self.folder / "empire.yaml").write_text(text)

    def many_rules(self, sets, rules):
        """Documents with `sets` sets of `rules` http rules, each for another pair of workloads and port."""
        workloads = [f"apiVersion: shunt.dev/v1\nkind: Workload\nmetadata: {{name: w{i}, labels: {{app: w{i}}}}}\n"
                     f"spec: {{match: {{cgroup: {self.path(f'w{i}')}}}}}\n" for i in range(40)]
        policies = []
        for i in range(sets):
            paths = "".join(f"        - {{method: GET, path: '/api/v{i}/items{k}/[a-z0-9]+'}}\n" for k in range(rules))
            policies.append(f"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: p{i}}}\nspec:\n"
                            f"  endpointSelector: {{matchLabels: {{app: w{i % 20}}}}}\n  ingress:\n"
                            f"  - fromEndpoints: [{{matchLabels: {{app: w{20 + i // 20 % 20}}}}}]\n    toPorts:\n"
                            f"    - ports: [{{port: '{8000 + i // 400}'}}]\n      rules:\n        http:\n{paths}")
        return "---\n".join(workloads + policies)

    def restart_with_room(self, blocks, results):
        """The daemon anew, with room for larger policies."""
        self.lab.stop(self.daemon)
        self.lab.configure(self.more.replace("}", f", blocks: {blocks}, results: {results}}}", 1))
        self.daemon = self.lab.run_daemon()

    def reload(self):
        self.shunt("reload")

    def shunt(self, *arguments):
        code, text = self.lab.shunt(*arguments)
        if code != 0:
            raise LabError(f"shunt {' '.join(arguments)} ended with {code}: {text[-600:]}")
        return text

    def counters(self):
        """What has been counted by now: the daemon's answer may be half a second old."""
        time.sleep(STATUS_AGE_S)
        return self.lab.status()["counters"]

    def recorder(self, command=(), program=sys.executable):
        server = self.lab.serve([*command, program, "-c", self.recorder_code, self.port, self.log], cgroup=self.cgroups["deathstar"],
                                log=self.lab.folder / "recorder.log")
        self.lab.wait_for(lambda: "ready" in (self.lab.folder / "recorder.log").read_text(), server,
                          self.lab.folder / "recorder.log", "the recorder")
        return server

    def nginx(self, access_log=True):
        folder = self.lab.folder / "nginx"
        folder.mkdir()
        log = folder / "access.log" if access_log else "off"
        (folder / "nginx.conf").write_text(nginx_conf(folder, f"127.0.0.1:{self.port}", LANDED, access_log=log,
                                                      http="client_max_body_size 0; large_client_header_buffers 4 128k;"))
        server = self.lab.serve([shutil.which("nginx"), "-c", folder / "nginx.conf", "-e", folder / "error.log"],
                                cgroup=self.cgroups["deathstar"], log=folder / "log")
        self.lab.wait_for(lambda: (folder / "pid").exists(), server, folder / "error.log", "nginx")
        return server

    def web_server(self):
        """nginx; haproxy where the kernel's FIONREAD does not count redirected bytes, so that nginx stays on TCP (6.1). Both answer and
        log alike."""
        items = {item["name"]: item["verdict"] for item in json.loads(self.lab.shunt("-o", "json", "check")[1])["items"]}
        if items["fionread-redirected"] == "ok":
            return self.nginx()
        folder = self.lab.folder / "nginx"
        folder.mkdir()
        (folder / "haproxy.cfg").write_text(
            "global\n  nbthread 1\n  maxconn 2000\n  tune.bufsize 131072\n  log stdout format raw daemon\n"
            "defaults\n  mode http\n  timeout client 60s\n  option dontlognull\n"
            f"frontend deathstar\n  bind 127.0.0.1:{self.port}\n  log global\n  log-format '%{{+Q}}r'\n"
            "  http-request wait-for-body time 60s\n  http-request return status 200 content-type text/plain string \"Ship landed\\n\"\n")
        server = self.lab.serve([shutil.which("haproxy"), "-db", "-f", folder / "haproxy.cfg"], cgroup=self.cgroups["deathstar"],
                                log=folder / "access.log")
        listening = f":{self.port:04X} 00000000:0000 0A"
        eventually(lambda: listening in pathlib.Path("/proc/net/tcp").read_text() or server.poll() is not None, "haproxy listens")
        if server.poll() is not None:
            raise LabError(f"haproxy ended with {server.returncode}: {(folder / 'access.log').read_text()}")
        return server

    def proxy(self, more="", access_log=True, cgroup=None):
        """The fallback proxy on punt channels; returns when requests can be handed to it. In a cgroup that Shunt sees it also gets
        the clients that nobody else can judge."""
        config, log = self.lab.folder / "proxy.yaml", self.lab.folder / "proxy.log"
        access = self.lab.folder / "access.log"
        access.touch()
        access.chmod(0o666)
        if access_log:
            more += f"access_log: {{path: {access}, format: json}}\n"
        self.proxy_metrics_at = f"127.0.0.1:{free_port()}"
        config.write_text(f"user: nobody\nthreads: 2\nmetrics: {{listen: '{self.proxy_metrics_at}', istio: true}}\n"
                          f"channels: {{socket: {self.lab.folder}/proxy.sock, count: 64}}\n"
                          f"log: {{target: stderr}}\n{more}")
        # Scheduled as by its unit.
        proxy = self.lab.serve([self.lab.build / "fallback-proxy/shunt-proxy", "-c", config], log=log, cgroup=cgroup or self.lab.without,
                               scheduler=os.SCHED_BATCH)
        self.lab.wait_for(lambda: "channels are here" in log.read_text(), proxy, log, "shunt-proxy")
        return proxy

    def whole_host(self):
        """As where Shunt sees everything: the sockets that the daemon makes for the proxy, and the proxy. The cgroups of the two."""
        own, gate = (self.lab.make_cgroup(self.lab.with_shunt / name) for name in ("daemon", "gate"))
        (own / "cgroup.procs").write_text(str(self.daemon.pid))
        return own, gate

    def proxy_of(self, gate, servers=1, **more):
        """The proxy in that cgroup; returns when the clients of so many servers may come to it."""
        proxy = self.proxy(cgroup=gate, **more)
        log = self.lab.folder / "proxy.log"
        eventually(lambda: log.read_text().count("clients of a server may come here") >= servers, lambda: log.read_text()[-800:], 20)
        return proxy

    def unknown_program(self):
        """Python by a name that is on no list: no receiver."""
        program = self.lab.folder / "unknown-program"
        if not program.exists():
            shutil.copy(os.path.realpath(sys.executable), program)
        return program

    def accessed(self):
        """The proxy's access log."""
        return [json.loads(line) for line in (self.lab.folder / "access.log").read_text().splitlines()]

    def proxy_metrics(self):
        """What the proxy says of itself: values by series."""
        return metrics_at(self.proxy_metrics_at)

    def tell_metrics(self, more=""):
        """From the next start or reload on the daemon has metrics; `more`: of that section. Where they are."""
        drop_ins, address = self.lab.folder / "conf.d", f"127.0.0.1:{free_port()}"
        drop_ins.mkdir(exist_ok=True)
        (drop_ins / "metrics.yaml").write_text(f"metrics: {{listen: '{address}'{more}}}\n")
        return address

    def read(self):
        return self.log.read_bytes().decode("latin-1") if self.log.exists() else ""

    def request_lines(self):
        """What the recorder took for requests, a line each."""
        return pathlib.Path(f"{self.log}.lines").read_text(errors="replace").splitlines()

    def run(self, ship, command):
        process = self.lab.start(command, cgroup=self.cgroups[ship])
        text = process.communicate(timeout=PATIENCE_S)[0].decode("latin-1")
        return process.returncode, text

    def namespace(self, number=77):
        """A network namespace behind a veth pair: (what runs a command inside, our address, its address, our device)."""
        name, short = f"shunt-{self.lab.name}-{os.getpid()}-{number}", f"sh{os.getpid() % 100000}n{number}"
        self.lab.stack.callback(subprocess.run, ["ip", "netns", "del", name], stderr=subprocess.DEVNULL)
        ours, its = f"198.18.{number}.1", f"198.18.{number}.2"
        for command in (f"netns add {name}", f"link add {short}a type veth peer name {short}b netns {name}",
                        f"addr add {ours}/30 dev {short}a", f"link set {short}a up", f"-n {name} addr add {its}/30 dev {short}b",
                        f"-n {name} link set {short}b up", f"-n {name} link set lo up", f"-n {name} route add default via {ours}"):
            subprocess.run(["ip", *command.split()], check=True)
        return ["ip", "netns", "exec", name], ours, its, f"{short}a"

    def client_command(self, steps, host="127.0.0.1", command=(), program=sys.executable, source=None):
        self.scripts += 1
        script = self.lab.folder / f"steps-{self.scripts}"
        script.write_text(json.dumps(steps))
        return [*command, program, "-c", self.client_code, host, self.port, script, *([source] if source else [])]

    def client(self, ship, *steps, host="127.0.0.1", command=()):
        code, text = self.run(ship, self.client_command(steps, host=host, command=command))
        if code != 0:
            raise LabError(f"the client ended with {code}: {text}")
        return json.loads(text)

    def curl(self, ship, method, path, *more):
        """(curl's exit code, HTTP status, body)"""
        code, text = self.run(ship, ["curl", "-sS", "-m", "20", "-X", method, "-w", "\n%{http_code}", *more,
                                     f"http://127.0.0.1:{self.port}{path}"])
        body, _, status = text.rpartition("\n")
        return code, status, body
