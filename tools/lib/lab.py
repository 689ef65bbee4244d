"""A daemon on its own corner of the host: a private bpffs, cgroups made for it, a folder for files. Leaves nothing behind."""

import contextlib
import ctypes
import json
import os
import pathlib
import signal
import socket
import subprocess
import tempfile
import time

PR_SET_PDEATHSIG = 1
CONFIG = """# All that is not named here is the shipped default.
control: {{socket: {folder}/shunt.sock}}
metrics: {{listen: ""}}
paths: {{bpffs: {folder}/bpffs, state: {folder}/state}}
selection: {{cgroups: {{include: [{cgroup}]}}}}
"""


HELLO = r'return 200 "hello from behind the shunt\n";'  # a location of nginx


class LabError(Exception):
    """Said to the user in one line."""


def cgroup_mount():
    """Where cgroup v2 is, as the machine has it mounted."""
    for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2" and fields[3] == "/":
            return pathlib.Path(fields[4])
    raise LabError("cgroup v2 is not mounted: mount -t cgroup2 none /sys/fs/cgroup")


def private_mounts():
    """From here on, mounts of this process are its own and end with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    clone_newns, ms_rec, ms_private = 0x20000, 0x4000, 1 << 18
    if libc.unshare(clone_newns) or libc.mount(None, b"/", None, ms_rec | ms_private, None):
        raise LabError(f"cannot make a mount namespace: {os.strerror(ctypes.get_errno())}")


def nginx_conf(folder, listen, location=HELLO, http="", access_log="off"):
    """Of one worker in the foreground, which writes into `folder` alone; `http`: what else stands in that block."""
    temporary = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return (f"daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n"
            f"events {{ worker_connections 1024; }}\n"
            f"http {{\n  {temporary}\n  access_log {access_log}; keepalive_requests 1000000000; {http}\n"
            f"  server {{ listen {listen}; location / {{ {location} }} }}\n}}\n")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Lab:
    """Use it as a context manager. `with_shunt` and `without` are cgroups; the daemon selects the first one only."""

    def __init__(self, build, name):
        self.build = pathlib.Path(build)
        self.name = name
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        with self.stack:
            private_mounts()
            self.folder = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix=f"shunt-{self.name}-")))
            self.folder.chmod(0o755)
            for name in ("bpffs", "state"):
                (self.folder / name).mkdir()
            subprocess.run(["mount", "-t", "bpf", "bpf", self.folder / "bpffs"], check=True)
            self.stack.callback(subprocess.run, ["umount", "-l", self.folder / "bpffs"])
            top = cgroup_mount() / f"shunt-{self.name}-{os.getpid()}"
            self.make_cgroup(top)
            self.with_shunt = self.make_cgroup(top / "with")
            self.without = self.make_cgroup(top / "without")
            self.stack = self.stack.pop_all()
        return self

    def __exit__(self, *error):
        return self.stack.__exit__(*error)

    def make_cgroup(self, path):
        path.mkdir()
        self.stack.callback(self.remove_cgroup, path)
        return path

    @staticmethod
    def remove_cgroup(path):
        """Whoever is left in there (a client that a failed test did not wait for, a child that outlived its parent) ends with it; that
        takes a moment."""
        for _ in range(50):
            with contextlib.suppress(OSError):
                path.rmdir()
                return
            (path / "cgroup.kill").write_text("1")
            time.sleep(0.1)
        path.rmdir()

    @staticmethod
    def start(command, cgroup=None, log=None, cpu=None, stdin=subprocess.DEVNULL, scheduler=os.SCHED_OTHER):
        """A process that ends with this one, in a cgroup and on a CPU; without `log` its output comes through a pipe."""
        def prepare():
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if cgroup:
                (cgroup / "cgroup.procs").write_text("0")
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})
            if scheduler != os.SCHED_OTHER:
                os.sched_setscheduler(0, scheduler, os.sched_param(0))

        output = open(log, "wb") if log else subprocess.PIPE
        process = subprocess.Popen([str(c) for c in command], stdin=stdin, stdout=output,
                                   stderr=subprocess.STDOUT, preexec_fn=prepare)
        if log:
            output.close()
        return process

    def serve(self, command, **options):
        process = self.start(command, **options)
        self.stack.callback(self.stop, process)
        return process

    @staticmethod
    def stop(process):
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def shunt(self, *arguments, program="control/shunt"):
        """(exit status, what it printed)"""
        result = subprocess.run([self.build / program, "-c", self.folder / "shunt.yaml", *arguments], text=True,
                                capture_output=True)
        return result.returncode, result.stdout + result.stderr

    def configure(self, more=""):
        """The daemon's configuration: the cgroup `with_shunt`, and `more`."""
        cgroup = "/" + str(self.with_shunt.relative_to(cgroup_mount()))
        (self.folder / "shunt.yaml").write_text(CONFIG.format(folder=self.folder, cgroup=cgroup) + more)

    def run_daemon(self, program="control/shuntd", cgroup=None):
        """shuntd on the configuration that is there; returns when it answers."""
        log = self.folder / "shuntd.log"
        # What is pinned goes with the private bpffs; the sockets are brought back to TCP before that.
        self.stack.callback(self.shunt, "cleanup")
        daemon = self.serve([self.build / program, "-c", self.folder / "shunt.yaml"], log=log, cgroup=cgroup)
        # With the daemon dead, the command line would answer from the pins.
        self.wait_for(lambda: self.status_source() == "daemon", daemon, log, "shuntd")
        return daemon

    def start_daemon(self, more=""):
        self.configure(more)
        return self.run_daemon()

    def status_source(self):
        with contextlib.suppress(LabError):
            return self.status().get("source")
        return None

    @staticmethod
    def wait_for(ready, process, log, what):
        for _ in range(150):
            if process.poll() is not None:
                break
            if ready():
                return
            time.sleep(0.1)
        raise LabError(f"{what} did not start:\n{log.read_text() if log.is_file() else ''}")

    def wait_for_port(self, port, process, log, what):
        def answers():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True
            return False
        self.wait_for(answers, process, log, what)

    def status(self):
        """What `shunt status` says, as a document."""
        code, text = self.shunt("-o", "json", "status")
        if code != 0:
            raise LabError(f"shunt status failed: {text}")
        return json.loads(text)
