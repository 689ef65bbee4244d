"""Two guests, each a host with daemon and gateway, and a wire between them that is recorded outside of both.

The guests have one disk, which stays as it is; on a second one, an archive of tar, is what makes each the host that it is:
certificates of one CA, and settings. Over their second serial line they talk about the test. two_guests_host.py is what runs there.
"""

import concurrent.futures
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import time

import disk
import guest
import scenarios
import suite

HOSTS = {"client": ("tiefighter", "xwing"), "server": ("server",)}  # the identities of each
MARKER = "plaintext-marker"  # for which the recording is searched
PLAIN_PORT = 15480
MESH_BYTES = 6 * 10_000_000  # three times there and back
MODULES = [*scenarios.MODULES, "virtio_net"]
WORK = "mkdir host && tar -xf /dev/vdb -C host && python3 tests/vm/two_guests_host.py /shunt/build host"
LISTENING_S = 60


def make_certificates(build, mesh):
    mesh.mkdir()
    for command in (["init", "mesh.example"], *(["issue", f"spiffe://mesh.example/{name}", "--out", mesh / name] for names in HOSTS.values()
                                                for name in names)):
        disk.call(build / "control/shunt", "ca", *command, "--ca", mesh / "ca")


def write_archive(path, mesh, host):
    """What makes a guest this host. It gets no other one's key."""
    settings = json.dumps({"host": host, "marker": MARKER, "plain_port": PLAIN_PORT}).encode()
    with tarfile.open(path, "w") as archive:
        entry = tarfile.TarInfo("settings.json")
        entry.size = len(settings)
        archive.addfile(entry, io.BytesIO(settings))
        for name in HOSTS[host]:
            archive.add(mesh / name, f"mesh/{name}")


def qemu_options(folder, host):
    """The client's guest listens for the server's, and has the wire recorded."""
    listens = host == "client"
    options = ["-snapshot", "-drive", f"file={folder}/{host}.tar,format=raw,if=virtio",
               "-netdev", f"stream,id=wire,server={'on' if listens else 'off'},addr.type=unix,addr.path={folder}/wire",
               "-device", f"virtio-net-pci,netdev=wire,romfile=,mac=52:54:00:00:79:0{1 if listens else 2}",
               "-chardev", f"socket,id=line,path={folder}/line" + (",server=on,wait=off" if listens else ""), "-serial", "chardev:line"]
    return options + (["-object", f"filter-dump,id=recorder,netdev=wire,file={folder}/recorded"] if listens else [])


class Pair:
    def __init__(self, folder, image, timeout):
        self.folder, self.image, self.timeout = folder, image, timeout
        self.processes = []
        self.counted = {host: scenarios.Counted(f"{host}: ") for host in HOSTS}

    def boot(self, host, kernel):
        return guest.boot(kernel, self.image, memory="2G", timeout=self.timeout, modules=MODULES, out=self.counted[host],
                          more=qemu_options(self.folder, host), on_start=self.processes.append)

    def end(self):
        for process in self.processes:
            process.kill()

    def await_listener(self, running):
        end = time.monotonic() + LISTENING_S
        while not all((self.folder / name).exists() for name in ("wire", "line")):
            if running.done() or time.monotonic() > end:
                raise guest.GuestError("the first guest was not started")
            time.sleep(0.05)

    def run(self, kernels):
        """Whether both have ended well. If one has not, the other is not waited for."""
        with concurrent.futures.ThreadPoolExecutor(len(HOSTS)) as pool:
            try:
                running = [pool.submit(self.boot, "client", kernels[0])]
                self.await_listener(running[0])
                running.append(pool.submit(self.boot, "server", kernels[1]))
                for one in concurrent.futures.as_completed(running):
                    if one.result() != 0:
                        return False
                return True
            finally:
                self.end()


def look_at_recording(build, folder):
    program = build / "tests/ktls/gateway/ktls_recorded"
    if not program.exists():
        raise guest.GuestError(f"{program} is not there: build first")
    env = {**os.environ, "SHUNT_TEST_RECORDED": str(folder / "recorded"), "SHUNT_TEST_PLAIN_PORT": str(PLAIN_PORT),
           "SHUNT_TEST_MESH_BYTES": str(MESH_BYTES)}
    result = subprocess.run([program], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    sys.stdout.buffer.write(result.stdout)
    return suite.count(result.stdout, result.returncode)


def run(kernels, build, timeout):
    """0 if all went well; `kernels`: the client's, and the server's."""
    with tempfile.TemporaryDirectory(prefix="shunt-two-guests-") as name:
        folder = pathlib.Path(name)
        make_certificates(build, folder / "mesh")
        for host in HOSTS:
            write_archive(folder / f"{host}.tar", folder / "mesh", host)
        pair = Pair(folder, scenarios.make_disk(folder, build, WORK), timeout)
        well = pair.run(kernels)
        passed, failed = (sum(getattr(counted, what) for counted in pair.counted.values()) for what in ("passed", "failed"))
        if well:
            seen = look_at_recording(build, folder)
            passed, failed = passed + seen[0], failed + seen[1] + seen[2]
        failed += not well and not failed
    print(f"vm: {passed} passed, {failed} failed", flush=True)
    return int(failed > 0 or not passed)
