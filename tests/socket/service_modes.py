#!/usr/bin/env python3
"""Modes of this host's services: plaintext from other hosts is refused for a strict one, the mesh for one that is off (root)

usage: service_modes.py [--build DIR] [--list] [SCENARIO...]

The other host is a network namespace whose processes the daemon does not see: as behind a masquerade, its addresses are those of this host,
and no connect() has left a record. A process in the same namespace that the daemon does see is a workload of this host.
"""

import json
import pathlib
import shutil
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/lib"))
sys.dont_write_bytecode = True

from galaxy import PATIENCE_S  # noqa: E402
from lab import free_port, nginx_conf  # noqa: E402
from scenarios import Scenarios, eventually, expect  # noqa: E402
from two_hosts import HERE, HERE6, MESH_PORT, TwoHosts  # noqa: E402

CONTAINER = "198.18.80.2"  # of a namespace of this host ...
FAR, NEAR = "198.18.81.1", "198.18.81.2"  # ... which has a wire to the other one, too

# What a client got: a body, or the number of an error.
CLIENT = """
import http.client, sys
client = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=20)
try:
    client.request("GET", "/")
    print(client.getresponse().read().decode().strip())
except OSError as e:
    print(e.errno)
"""
LANDED, REFUSED = "landed", "111"

SCENARIOS = Scenarios("modes", lambda lab, function, _: function(lab), lambda outcome: f"{outcome['seconds']} s")


def scenario(name):
    def add(function):
        SCENARIOS.all[name] = function
        return function
    return add


class Modes:
    """A service on this host, behind its gateway, and a gateway on the other one that knows it."""

    def __init__(self, lab, mode="strict", server="127.0.0.1"):
        self.hosts = hosts = TwoHosts(lab)
        self.lab, self.server, self.port, self.servers = lab, server, free_port(), 0
        self.write(mode)
        hosts.start_daemon(hosts.mesh / "here/gateway.yaml")
        self.start()
        self.there = free_port()
        (hosts.mesh / "directory.yaml").write_text(
            f"services: [{{name: web, listen: '127.0.0.1:{self.there}', gateway: '{HERE}:{MESH_PORT}', "
            "identity: spiffe://mesh.example/here}]\n")
        hosts.gateway("there", f"directory: [{hosts.mesh}/directory.yaml]\n", here=False)

    def config(self, mode):
        return (f"shuntd: {{socket: {self.lab.folder}/gateway.sock}}\nlisten: ['{HERE}:{MESH_PORT}']\n"
                f"services: [{{name: web, server: '{self.server}:{self.port}', mode: {mode}}}]\n")

    def write(self, mode):
        self.mode = mode
        self.hosts.gateway_config("here", self.config(mode))

    def start(self):
        self.process, self.log = self.hosts.gateway("here", self.config(self.mode))
        self.hosts.linked()

    def nginx(self, command=(), port=None):
        port = port or self.port
        self.servers += 1
        folder = self.lab.folder / f"nginx-{self.servers}"
        folder.mkdir()
        access = folder / "access.log"
        (folder / "nginx.conf").write_text(nginx_conf(folder, f"{port}; listen [::]:{port}", r'return 200 "landed\n";', access_log=access))
        server = self.lab.serve([*command, shutil.which("nginx"), "-c", folder / "nginx.conf", "-e", folder / "error.log"],
                                cgroup=self.hosts.cgroups["deathstar"], log=folder / "log")
        self.lab.wait_for(lambda: (folder / "pid").exists(), server, folder / "error.log", "nginx")
        return server, access

    def ask(self, host, *command, cgroup=None, port=None):
        process = self.lab.start([*command, sys.executable, "-c", CLIENT, host, port or self.port], cgroup=cgroup or self.lab.without)
        return process.communicate(timeout=PATIENCE_S)[0].decode("latin-1").strip()

    def plain(self, host=HERE, port=None):
        """From the other host."""
        return self.ask(host, *self.hosts.inside, port=port)

    def mesh(self):
        code, status, _ = self.hosts.curl_there(self.there, "GET", "/")
        return code, status

    def refused(self):
        return self.hosts.counters()["plaintext_refused"]


@scenario("strict: other hosts reach the service through the gateway alone, programs of this host as ever")
def strict(lab):
    modes = Modes(lab)
    hosts = modes.hosts
    access = modes.nginx()[1]
    log = lab.folder / "monitor.log"
    command = [lab.build / "control/shunt", "-c", lab.folder / "shunt.yaml", "-o", "json", "monitor", "--event", "forbidden"]
    monitor = lab.serve(command, log=log)

    def told():
        modes.plain()
        return '"strict"' in log.read_text()

    eventually(told, lambda: f"the monitor: {log.read_text()}")
    before = modes.refused()
    for host in (HERE, HERE6):
        outcome = modes.plain(host)
        expect(outcome == REFUSED, f"plaintext to {host}: {outcome}")
    expect(modes.refused() == before + 2 and not access.read_text(), f"counted {modes.refused() - before}, nginx saw {access.read_text()}")
    expect(modes.mesh() == (0, "200"), f"through the mesh: {modes.log()}")
    tiefighter = hosts.cgroups["tiefighter"]
    for host in ("127.0.0.1", HERE, HERE6, "::1"):
        for cgroup in (tiefighter, lab.without):
            outcome = modes.ask(host, cgroup=cgroup)
            expect(outcome == LANDED, f"from this host to {host}: {outcome}")
    for host in (HERE, HERE6):
        outcome = modes.ask(host, *hosts.inside, cgroup=tiefighter)
        expect(outcome == LANDED, f"a workload of this host in another namespace, to {host}: {outcome}")
    other = free_port()
    modes.nginx(port=other)
    expect(modes.plain(port=other) == LANDED, "a port of no service")
    monitor.terminate()
    events = [json.loads(line) for line in log.read_text().splitlines() if '"strict"' in line]
    expect(events and events[0]["event"] == "forbidden" and events[0]["reason"] == "strict" and events[0]["local"] == f"{HERE}:{modes.port}"
           and events[0]["remote"].startswith("198.18.79.2:"), f"told: {log.read_text()}")


@scenario("strict stays in force with the daemon dead, and ends with shunt off")
def life(lab):
    modes = Modes(lab)
    hosts = modes.hosts
    modes.nginx()
    said = lab.status()["gateway"]
    command = [lab.build / "ktls/gateway/shunt-gateway", "-c", hosts.mesh / "here/gateway.yaml", "--status"]
    own = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    expect(said["strict_services"] == 1 and said["certificate_expires"] == own["expires"], f"status: {said}, {own['expires']}")
    lab.stop(modes.process)
    expect(modes.plain() == REFUSED, "without the gateway")
    hosts.daemon.send_signal(signal.SIGKILL)
    hosts.daemon.wait()
    expect(modes.plain() == REFUSED, "with the daemon dead")
    expect(modes.ask(HERE, *hosts.inside, cgroup=hosts.cgroups["tiefighter"]) == LANDED, "a workload meanwhile")
    hosts.daemon = lab.run_daemon()
    expect(modes.plain() == REFUSED, "after a restart")
    modes.start()
    expect(modes.mesh() == (0, "200"), f"through the mesh: {modes.log()}")
    for mode, wanted in (("permissive", LANDED), ("strict", REFUSED), ("off", LANDED), ("strict", REFUSED)):
        modes.write(mode)
        hosts.reload()
        outcome = modes.plain()
        expect(outcome == wanted, f"{mode} after a reload: {outcome}")
    hosts.shunt("off")
    expect(modes.plain() == LANDED, "turned off")
    hosts.shunt("on")
    expect(modes.plain() == REFUSED, "turned on again")


@scenario("permissive takes both, off plaintext alone: the gateway refuses by name")
def others(lab):
    modes = Modes(lab, "permissive")
    modes.nginx()
    expect(modes.plain() == LANDED and modes.mesh() == (0, "200"), f"permissive: {modes.log()}")
    lab.stop(modes.process)
    modes.write("off")
    modes.hosts.reload()
    modes.start()
    expect(modes.plain() == LANDED, "off: plaintext")
    code, status = modes.mesh()
    expect(code != 0 and "reason=service-off" in modes.log(), f"off: {code} {status} {modes.log()}")
    expect(modes.refused() == 0, f"counted {modes.refused()}")


def make_container(modes):
    """A namespace of this host that the other one has a wire to: its name, its device on this host, and the wire's end in it."""
    hosts = modes.hosts
    inside, _, _, device = hosts.namespace(80)
    name, wire = inside[-1], f"smc{modes.port}"
    for command in (f"-n {hosts.name} link add {wire}a type veth peer name {wire}b netns {name}",
                    f"-n {hosts.name} link set {wire}a up", f"-n {hosts.name} addr add {FAR}/30 dev {wire}a",
                    f"-n {name} addr add {NEAR}/30 dev {wire}b",
                    f"-n {name} link set {wire}b up", f"-n {hosts.name} route add {CONTAINER}/32 via {NEAR}"):
        subprocess.run(["ip", *command.split()], check=True)
    return name, device, f"{wire}b"


@scenario("a strict service in a namespace of its own, which comes, goes and is made anew")
def container(lab):
    modes = Modes(lab, server=CONTAINER)
    hosts = modes.hosts
    eventually(lambda: lab.status()["gateway"]["strict_services_nowhere"] == ["web"], lambda: f"status: {lab.status()['gateway']}")
    for time in ("new", "made anew"):
        name, device, _ = make_container(modes)
        server = modes.nginx(["ip", "netns", "exec", name])[0]
        eventually(lambda: modes.plain(CONTAINER) == REFUSED, lambda time=time: f"{time}: {lab.status()['gateway']}")
        expect(lab.status()["gateway"]["strict_services_nowhere"] == [], f"{time}: {lab.status()['gateway']}")
        expect(modes.mesh() == (0, "200"), f"{time}, through the mesh: {modes.log()}")
        expect(modes.ask(CONTAINER, cgroup=hosts.cgroups["tiefighter"]) == LANDED, f"{time}: a workload")
        expect(modes.ask(CONTAINER) == REFUSED, f"{time}: a process that the daemon does not see")
        lab.stop(server)
        subprocess.run(["ip", "netns", "del", name], check=True)
        eventually(lambda device=device: not pathlib.Path(f"/sys/class/net/{device}").exists(), f"{device} goes with its namespace")


# With cookies the listener keeps nothing of a SYN: the ACK is looked up like another SYN, when the client's connect() has ended.
@scenario("a strict service that answers with SYN cookies: who is refused has no cookie, who is not is not refused later")
def cookies(lab):
    modes = Modes(lab, server=CONTAINER)
    inside = ["ip", "netns", "exec", make_container(modes)[0]]
    modes.nginx(inside)
    eventually(lambda: modes.plain(CONTAINER) == REFUSED, lambda: f"status: {lab.status()['gateway']}")
    subprocess.run([*inside, "sysctl", "-qw", "net.ipv4.tcp_syncookies=2"], check=True)
    for _ in range(20):
        expect(modes.ask(CONTAINER, cgroup=modes.hosts.cgroups["tiefighter"]) == LANDED, "a workload")
    expect(modes.plain(CONTAINER) == REFUSED, "plaintext from the other host")
    expect(modes.mesh() == (0, "200"), f"through the mesh: {modes.log()}")
    text = subprocess.run([*inside, "nstat", "-az", "TcpExtSyncookiesRecv"], capture_output=True, text=True, check=True).stdout
    expect(int(text.split()[-2]) >= 20, f"cookies that came back: {text}")


@scenario("a strict service behind a masquerade, which lends strangers an address of the service's own namespace")
def masquerade(lab):
    modes = Modes(lab, server=CONTAINER)
    name, _, wire = make_container(modes)
    inside = ["ip", "netns", "exec", name]
    modes.nginx(inside)
    eventually(lambda: modes.plain(CONTAINER) == REFUSED, lambda: f"status: {lab.status()['gateway']}")
    snat = f"-t nat -A INPUT -i {wire} -p tcp --dport {modes.port} -j SNAT --to {NEAR}:7000-7100"
    subprocess.run([*inside, "iptables", *snat.split()], check=True)
    before = modes.refused()
    outcome = modes.plain(CONTAINER)
    expect(outcome == REFUSED, f"plaintext from the other host, with an address of the service's namespace: {outcome}")
    expect(modes.refused() == before + 1, f"counted {modes.refused() - before}")
    tiefighter = modes.hosts.cgroups["tiefighter"]
    expect(modes.ask(CONTAINER, cgroup=tiefighter) == LANDED, "a workload, which comes by another wire")
    expect(modes.ask(CONTAINER, *inside, cgroup=tiefighter) == LANDED, "a workload in the service's namespace")
    modes.hosts.shunt("off")
    expect(modes.plain(CONTAINER) == LANDED, "turned off: the masquerade is no reason for the refusal")


if __name__ == "__main__":
    sys.exit(SCENARIOS.main(__doc__))
