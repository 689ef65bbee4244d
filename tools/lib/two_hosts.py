"""Hosts with a gateway each, for tests of what crosses between them: this one with a daemon, and a network namespace that has none."""

import json
import os
import pwd
import shutil
import subprocess
import sys
import threading

from galaxy import PATIENCE_S, POLICY, Galaxy
from lab import LabError, nginx_conf
from scenarios import SLOWER, eventually

USER = "nobody"
HERE, THERE = "198.18.79.1", "198.18.79.2"
HERE6, THERE6 = "fd00:18:79::1", "fd00:18:79::2"
MESH_PORT, HOOK_PORT = 15443, 15441

# A process that claims in the daemon's map to stand for somebody: becomes `user`, claims, connects, says what came of it.
CLAIM = """
import ctypes, hashlib, json, os, socket, struct, sys
pin, who, host, port, user = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, attr):
    room = ctypes.create_string_buffer(attr, 128)
    return libc.syscall(321, command, room, 128)
path = ctypes.create_string_buffer(pin.encode())
claims = bpf(7, struct.pack("=QII", ctypes.addressof(path), 0, 0))
if claims < 0:
    sys.exit("cannot open " + pin + ": " + os.strerror(ctypes.get_errno()))
os.setuid(user)
s = socket.socket()
key = ctypes.create_string_buffer(struct.pack("=i", s.fileno()))
value = ctypes.create_string_buffer(hashlib.sha256(who.encode()).digest()[:16])
if bpf(2, struct.pack("=IIQQQ", claims, 0, ctypes.addressof(key), ctypes.addressof(value), 0)) < 0:
    sys.exit("cannot claim: " + os.strerror(ctypes.get_errno()))
s.settimeout(10)
got, error = b"", None
try:
    s.connect((host, port))
    s.sendall(b"POST /v1/request-landing HTTP/1.1\\r\\nHost: deathstar\\r\\nContent-Length: 0\\r\\n\\r\\n")
    got = s.recv(4096)
except OSError as e:
    error = type(e).__name__
print(json.dumps({"got": got.decode("latin-1"), "error": error}))
"""


def remote_policy(*ships):
    """The ships are on the other host."""
    text = POLICY
    for ship in ships:
        text = text.replace(f"{{match: {{unit: {ship}.service}}}}", f"{{spiffe: spiffe://mesh.example/{ship}}}")
    return text


class Host(Galaxy):
    """This host; certificates are in folders of `mesh`, by the end of their identity."""

    inside = []  # what runs a command on the other host

    def __init__(self, lab, policy=None):
        super().__init__(lab, policy=policy, start=False)
        self.mesh = lab.folder / "mesh"
        self.mesh.mkdir()
        self.gateway_cgroup = lab.make_cgroup(lab.with_shunt / "gateway")

    def start_daemon(self, config, cgroups=()):
        """With the gateway that has this configuration."""
        paths = ", ".join(self.path(name) for name in cgroups)
        self.daemon = self.lab.start_daemon(f"{self.more}gateway: {{config: {config}, cgroups: [{paths}]}}\n")

    def gateway_config(self, identity, more):
        """The file of a gateway with the identity spiffe://mesh.example/IDENTITY."""
        folder = self.mesh / identity
        config, ktls = folder / "gateway.yaml", os.environ.get("SHUNT_TEST_KTLS", "off")
        config.write_text(f"user: {USER}\nktls: {ktls}\nthreads: 1\nstatus: {folder}/status.sock\nlog: {{target: stderr}}\n"
                          f"timeouts: {{handshake: {10 * SLOWER}s, connect: {3 * SLOWER}s}}\n"
                          f"identity: {{certificate: {folder}/certificate.pem, key: {folder}/key.pem}}\n"
                          f"trust: [{{domain: mesh.example, bundle: {folder}/bundle.pem}}]\n{more}")
        return config

    def gateway(self, identity, more, here=True):
        """A gateway that runs: the process, and a function that reads its log."""
        config = self.gateway_config(identity, more)
        log = config.parent / "log"
        process = self.lab.serve([*([] if here else self.inside), self.lab.build / "ktls/gateway/shunt-gateway", "-c", config],
                                 cgroup=self.gateway_cgroup if here else self.lab.without, log=log)
        self.lab.wait_for(lambda: "msg=ready" in log.read_text(), process, log, f"the gateway {identity}")
        return process, log.read_text

    def claim(self, cgroup, who, user, port=None):
        """What becomes of a process that claims to stand for `who`."""
        pins = [path for path in (self.lab.folder / "bpffs").rglob("sh_remotes")]
        if len(pins) != 1:
            raise LabError(f"pinned: {pins}")
        uid = pwd.getpwnam(user).pw_uid
        process = self.lab.start([sys.executable, "-c", CLAIM, pins[0], f"spiffe://mesh.example/{who}", "127.0.0.1",
                                  port or self.port, uid], cgroup=cgroup)
        text = process.communicate(timeout=PATIENCE_S)[0].decode("latin-1")
        if process.returncode != 0:
            raise LabError(f"the claim ended with {process.returncode}: {text}")
        return json.loads(text)

    def linked(self):
        eventually(lambda: self.lab.status()["gateway"]["linked"], "the gateway is linked", PATIENCE_S)


class TwoHosts(Host):
    """The ships are on this host; `there` runs commands on the other one."""

    def __init__(self, lab, policy=None):
        super().__init__(lab, policy)
        self.make_other_host()
        self.ca("init", "mesh.example")

    def ca(self, *arguments):
        subprocess.run([self.lab.build / "control/shunt", "ca", *arguments, "--ca", self.mesh / "ca"], check=True, capture_output=True)

    def make_other_host(self):
        self.name = f"shunt-two-hosts-{os.getpid()}"
        wire = f"sth{os.getpid() % 100000}"
        self.lab.stack.callback(subprocess.run, ["ip", "netns", "del", self.name], stderr=subprocess.DEVNULL)
        for command in (f"netns add {self.name}", f"link add {wire}a type veth peer name {wire}b netns {self.name}",
                        f"addr add {HERE}/30 dev {wire}a", f"addr add {HERE6}/64 dev {wire}a nodad", f"link set {wire}a up",
                        f"-n {self.name} addr add {THERE}/30 dev {wire}b", f"-n {self.name} addr add {THERE6}/64 dev {wire}b nodad",
                        f"-n {self.name} link set {wire}b up", f"-n {self.name} link set lo up"):
            subprocess.run(["ip", *command.split()], check=True)
        self.inside = ["ip", "netns", "exec", self.name]

    def issue(self, identity, folder):
        self.ca("issue", f"spiffe://mesh.example/{identity}", "--out", str(folder))
        for path in (folder, *folder.iterdir()):
            os.chown(path, pwd.getpwnam(USER).pw_uid, -1)

    def gateway_config(self, identity, more):
        folder = self.mesh / identity
        if not folder.exists():
            self.issue(identity, folder)
        return super().gateway_config(identity, more)

    def rotate(self, *identities):
        """These get a new certificate every second, until rotated() is asked."""
        self.rotations, self.rotating = 0, identities
        self.last_rotation = threading.Event()
        self.lab.stack.callback(self.last_rotation.set)
        self.rotator = threading.Thread(target=self.issue_again_and_again, daemon=True)
        self.rotator.start()

    def issue_again_and_again(self):
        while not self.last_rotation.wait(1):
            for identity in self.rotating:
                self.issue(identity, self.mesh / f"{identity}-next")
                for path in (self.mesh / f"{identity}-next").iterdir():
                    path.rename(self.mesh / identity / path.name)
            self.rotations += 1

    def rotated(self):
        """How often; each gateway has noticed it."""
        self.last_rotation.set()
        self.rotator.join()
        for identity in self.rotating:
            log = self.mesh / identity / "log"
            eventually(lambda log=log: "msg=rotated" in log.read_text(), lambda log=log: f"no rotation: {log.read_text()}")
        return self.rotations

    def there(self, command):
        process = self.lab.start([*self.inside, *command], cgroup=self.lab.without)
        text = process.communicate(timeout=PATIENCE_S)[0].decode("latin-1")
        return process.returncode, text

    def curl_there(self, port, method, path, *more):
        code, text = self.there(["curl", "-sS", "-m", "20", "-X", method, "-w", "\n%{http_code}", *more, f"http://127.0.0.1:{port}{path}"])
        body, _, status = text.rpartition("\n")
        return code, status, body

    def nginx_there(self, port):
        folder = self.lab.folder / "nginx-there"
        folder.mkdir()
        text = nginx_conf(folder, f"{port}; listen [::]:{port}", r'return 200 "from $server_addr to $remote_addr\n";',
                          access_log=folder / "access.log")
        (folder / "nginx.conf").write_text(text)
        server = self.lab.serve([*self.inside, shutil.which("nginx"), "-c", folder / "nginx.conf", "-e", folder / "error.log"],
                                cgroup=self.lab.without, log=folder / "log")
        self.lab.wait_for(lambda: (folder / "pid").exists(), server, folder / "error.log", "nginx")
        return folder / "access.log"
