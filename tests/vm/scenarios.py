"""The scenarios of tests/socket in a guest, under a kernel of Debian's: daemon, proxy, clients and servers on a disk with a
minimal Debian."""

import pathlib
import re
import shlex
import shutil
import stat
import sys
import tempfile

import disk
import guest
import kernels

SOURCES = pathlib.Path(__file__).resolve().parents[2]
# What the scenarios call, and what finds out what is left.
PACKAGES = ["python3", "nginx-light", "haproxy", "curl", "wrk", "iproute2", "iptables", "procps", "kmod"]
PROGRAMS = ["control/shunt", "control/shuntd", "control/shuntd-next", "fallback-proxy/shunt-proxy", "ktls/gateway/shunt-gateway"]
# Of this machine, as they are: a package would make a cluster, and start it while the disk is made.
POSTGRES = ["/usr/lib/postgresql", "/usr/share/postgresql"]
OTHERS = ["/usr/bin/redis-server", "/usr/bin/redis-cli", "/usr/sbin/nghttpd", "/usr/bin/h2load"]
SCRIPTS = ["tools/lib", "tests/socket", "tests/vectors", "tests/vm/two_guests_host.py"]
# shuntd resets connections by the third; of the last iptables makes its rules.
MODULES = ["veth", "inet_diag", "tcp_diag", "ktls", "nft_compat", "nft_chain_nat", "xt_nat", "xt_tcpudp"]
IMAGE_BYTES = 2 << 30
CPUS = 2
SLOWER = 20  # this machine's emulation of another one, to what a scenario is used to
# The disk's first process: what a system has mounted, then the work, during which the kernel must not complain.
INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for folder in /dev/shm /run /tmp; do mount -t tmpfs tmpfs $folder; done
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
exec </dev/null >/dev/console 2>&1
stty raw -echo </dev/console
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
export SHUNT_GUEST=1 SHUNT_TESTS_SLOWER={slower} SHUNT_TEST_KTLS=required
ulimit -n 65536
ip link set lo up
echo "shunt-guest: start"
cd /shunt
{work}
status=$?
if dmesg | grep -A 20 "WARNING:\|BUG:\|refcount_t"; then status=1; fi
exec /root/init --leave $status
"""


def prepare(root, build, work):
    for name in SCRIPTS:
        target = root / "shunt" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (SOURCES / name).is_dir():
            shutil.copytree(SOURCES / name, target, ignore=shutil.ignore_patterns("*.cpp", "*.hpp", "__pycache__"))
        else:
            shutil.copy(SOURCES / name, target)
    for program in PROGRAMS:
        if not (build / program).exists():
            raise guest.GuestError(f"{build / program} is not there: build first")
        disk.take_program(root, build / program, f"shunt/build/{program}")
        disk.call("strip", "--strip-debug", root / "shunt/build" / program)
    for folder in POSTGRES:
        shutil.copytree(folder, root / folder.lstrip("/"), symlinks=True, dirs_exist_ok=True)
    for program in [*OTHERS, *pathlib.Path(POSTGRES[0]).glob("*/bin/*")]:
        disk.take_program(root, program, str(program).lstrip("/"))
    shutil.copy(guest.first_process(), root / "root/init")
    init = root / "sbin/init"
    init.unlink(missing_ok=True)
    init.write_text(INIT.format(work=work, slower=SLOWER))
    init.chmod(init.stat().st_mode | stat.S_IXUSR)


def make_disk(folder, build, work):
    """An image in `folder` whose system does `work`, a line of sh(1) in a copy of this tree and its programs, and nothing else."""
    root, image = pathlib.Path(folder) / "root", pathlib.Path(folder) / "disk"
    disk.call("cp", "-a", disk.base_system(PACKAGES), root)
    prepare(root, build, work)
    disk.make_image(root, image, IMAGE_BYTES)
    shutil.rmtree(root)
    return image


class Counted:
    """Shows the guest's output, each line behind `prefix`, and counts the lines of TAP."""

    OUTCOME = re.compile(rb"(not )?ok \d+ - ")

    def __init__(self, prefix=""):
        self.passed = self.failed = 0
        self.prefix = prefix.encode()

    def write(self, line):
        outcome = self.OUTCOME.match(line)
        if outcome:
            self.failed += outcome[1] is not None
            self.passed += outcome[1] is None
        sys.stdout.buffer.write(self.prefix + line)

    @staticmethod
    def flush():
        sys.stdout.buffer.flush()


def run(kernel, build, suite, names, timeout):
    """Status of tests/socket/SUITE.py in the guest; without names all of its scenarios."""
    if not (SOURCES / "tests/socket" / f"{suite}.py").exists():
        raise guest.GuestError(f"there is no tests/socket/{suite}.py")
    with tempfile.TemporaryDirectory(prefix="shunt-scenarios-") as folder:
        image = make_disk(folder, build, shlex.join(["python3", f"tests/socket/{suite}.py", "--build", "/shunt/build", *names]))
        counted = Counted()
        status = guest.boot(kernel, image, memory="2G", cpus=CPUS, timeout=timeout, modules=MODULES, out=counted)
    lost = status != 0 and not counted.failed
    print(f"vm: {counted.passed} passed, {counted.failed + lost} failed", flush=True)
    return status or int(not counted.passed)
