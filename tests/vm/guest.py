"""One run of one program in a guest kernel under QEMU's software emulation: no KVM, no disk, no network, unless options bring one.

The initramfs holds a first process of ours (init.c), busybox, the program with its libraries at the paths they have on the
host, and the modules that were asked for. The program's output comes over the serial line, its exit status through
isa-debug-exit: QEMU ends with twice the status plus one, so that an even status means that the guest died by itself.
"""

import hashlib
import lzma
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading

import kernels
import openssl as newer_openssl

HERE = pathlib.Path(__file__).resolve().parent
START = b"shunt-guest: start"
TIMED_OUT = 124
DIED = 125
# A guest ends with the process that started it, however that ends.
QEMU = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-accel", "tcg,thread=single", "-nodefaults", "-nographic",
        "-monitor", "none", "-serial", "stdio", "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
CPU = "max,la57=off"
# The guest's clock goes on by a nanosecond with each instruction, and with the host's only while the guest has nothing to do: CPU time in
# the guest is the number of instructions then. A string instruction counts once for each byte here, which no CPU takes for one: without
# these features nobody copies by it.
COUNTING = ["-icount", "shift=0"]
COUNTING_CPU = "erms=off,fsrm=off"
# On a busy machine the kernel's look at the timer can miss all its ticks ("8254 timer not connected to IO-APIC"), and it panics.
APPEND = "console=ttyS0 panic=-1 quiet oops=panic mitigations=off random.trust_cpu=on no_timer_check"
# With cmpxchg16b, 6.12 double-faults now and then under this emulation. Without it, kernels that allocate socket storage by
# kmalloc_nolock (7.2) have none: bpf_sk_storage_get(CREATE) silently returns NULL. haproxy, in user space, has no other way.
APPEND_OF = {"6.1": "clearcpuid=cx16", "6.12": "clearcpuid=cx16", "sid": ""}


class GuestError(Exception):
    """The guest could not be made or started."""


class Initramfs:
    """An uncompressed newc archive: unpacking costs more than reading under emulation."""

    def __init__(self):
        self.entries = {}

    def add(self, name, mode, data=b""):
        name = name.strip("/")
        for parent in reversed(pathlib.PurePosixPath(name).parents[:-1]):
            self.entries.setdefault(str(parent), (stat.S_IFDIR | 0o755, b""))
        self.entries[name] = (mode, data)

    def add_file(self, source, name=None):
        source = pathlib.Path(source)
        name = name or os.path.abspath(source)
        if source.is_dir():
            for child in sorted(source.iterdir()):
                self.add_file(child, f"{name}/{child.name}")
            return
        data = source.read_bytes()
        if source.suffix == ".xz":
            data = lzma.decompress(data)
        elif source.suffix == ".zst":
            data = subprocess.run(["zstd", "-dc", str(source)], capture_output=True, check=True).stdout
        self.add(name, stat.S_IFREG | (0o755 if os.access(source, os.X_OK) else 0o644), data)

    def add_program(self, path, name=None):
        """A program with its libraries; a script only as it is."""
        self.add_file(path, name)
        result = subprocess.run(["ldd", str(path)], text=True, capture_output=True)
        if "not found" in result.stdout:
            raise GuestError(f"{path} lacks libraries:\n{result.stdout}")
        for library in re.findall(r"(?:=> |^\s)(/\S+) \(0x", result.stdout, re.M):
            self.add_file(library)

    def write(self, out):
        names = {**self.entries, "TRAILER!!!": (0, b"")}
        for inode, (name, (mode, data)) in enumerate(names.items(), start=1):
            encoded = name.encode() + b"\0"
            fields = [inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
            out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + encoded)
            out.write(b"\0" * (-(110 + len(encoded)) % 4) + data + b"\0" * (-len(data) % 4))


def first_process():
    """init.c compiled, from the cache while it is unchanged."""
    source = (HERE / "init.c").read_bytes()
    target = kernels.cache_dir() / f"init-{hashlib.sha256(source).hexdigest()[:16]}"
    if not target.exists():
        # Several guests may be made at once: each compiles its own, and the last one stays.
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            partial = pathlib.Path(folder) / "init"
            subprocess.run(["gcc", "-static", "-O2", "-Wall", "-Werror", "-o", partial, HERE / "init.c"], check=True)
            partial.rename(target)
    return target


def base_ramfs(kernel_dir, modules):
    """The first process and the modules that it loads."""
    ramfs = Initramfs()
    ramfs.add_file(first_process(), "/init")
    for name in ("proc", "sys", "dev", "tmp", "run", "root", "etc"):
        ramfs.add(name, stat.S_IFDIR | 0o755)
    loading = []
    for path in kernels.module_files(kernel_dir, modules):
        name = "/modules/" + re.sub(r"\.(xz|zst)$", "", path.name)
        ramfs.add_file(path, name)
        loading.append(name)
    ramfs.add("shunt/modules", stat.S_IFREG | 0o644, "".join(f"{name}\n" for name in loading).encode())
    return ramfs


def program_ramfs(kernel_dir, command, files, programs, modules, env):
    ramfs = base_ramfs(kernel_dir, modules)
    ramfs.add("etc/passwd", stat.S_IFREG | 0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    ramfs.add("etc/group", stat.S_IFREG | 0o644, b"root:x:0:\nnogroup:x:65534:\n")
    ramfs.add("etc/hosts", stat.S_IFREG | 0o644, b"127.0.0.1 localhost\n::1 localhost\n")
    for applet in subprocess.run(["/bin/busybox", "--list-full"], text=True, capture_output=True, check=True).stdout.split():
        ramfs.add(applet, stat.S_IFLNK | 0o777, b"/bin/busybox")
    ramfs.add_file("/bin/busybox")
    for program in programs:
        ramfs.add_program(shutil.which(program) or program)
    binary = shutil.which(command[0]) or command[0]
    if not os.path.isfile(binary):
        raise GuestError(f"no program {command[0]}")
    ramfs.add_program(binary)
    for item in files:
        source, _, target = item.partition(":")
        ramfs.add_file(source, target or None)
    argv = [os.path.abspath(binary), *command[1:]]
    ramfs.add("shunt/argv", stat.S_IFREG | 0o644, b"".join(a.encode() + b"\0" for a in argv))
    variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "TERM": "dumb", "SHUNT_GUEST": "1", **env}
    ramfs.add("shunt/env", stat.S_IFREG | 0o644, b"".join(f"{k}={v}".encode() + b"\0" for k, v in variables.items()))
    return ramfs


def run(kernel, command, *, files=(), programs=(), modules=(), env=None, openssl=None, memory="1G", cpus=1, timeout=300, whole=False,
        out=None, count_instructions=False):
    """Runs `command` in the guest; its exit status, TIMED_OUT, or DIED if the kernel went down. `openssl`: the version of that program
    that tests are to use instead of the machine's. `count_instructions`: see COUNTING."""
    if count_instructions and cpus != 1:
        raise GuestError("instructions are counted on one CPU")
    kernel_dir = kernels.fetch(kernel)
    if openssl:
        files = [*files, f"{newer_openssl.fetch(openssl)}:/openssl"]
        env = {**(env or {}), "SHUNT_TEST_OPENSSL": "/openssl/openssl", "SHUNT_TEST_OPENSSL_VERSION": openssl}
    ramfs = program_ramfs(kernel_dir, list(command), files, programs, modules, env or {})
    counting, cpu = (COUNTING, f"{CPU},{COUNTING_CPU}") if count_instructions else ([], None)
    return start(kernel, ramfs, ["-smp", str(cpus), "-m", memory, *counting], timeout=timeout, whole=whole, out=out, cpu=cpu)


def boot(kernel, image, *, memory="1G", cpus=1, timeout=300, modules=(), whole=False, out=None, more=(), on_start=None):
    """Boots a disk image; its status is what something in it gives to `init --leave`. `more`: options of QEMU; with -snapshot among
    them the image stays as it is."""
    kernel_dir = kernels.fetch(kernel)
    ramfs = base_ramfs(kernel_dir, ["virtio_pci", "virtio_blk", "ext4", "crc32c_generic", "libcrc32c", *modules])
    ramfs.add("shunt/root", stat.S_IFREG | 0o644)
    options = ["-smp", str(cpus), "-m", memory, "-drive", f"file={image},format=raw,if=virtio,cache=unsafe", *more]
    return start(kernel, ramfs, options, timeout=timeout, whole=whole, out=out, on_start=on_start)


def start(kernel, ramfs, options, *, timeout, whole, out, cpu=None, on_start=None):
    """`on_start` gets the process, for those who may have to end it."""
    out = out or sys.stdout.buffer
    with tempfile.NamedTemporaryFile(prefix="shunt-initrd-") as initrd:
        ramfs.write(initrd)
        initrd.flush()
        image = kernels.image(kernels.fetch(kernel))
        arguments = [*QEMU, "-cpu", cpu or CPU, *options, "-kernel", str(image), "-initrd", initrd.name,
                     "-append", f"{APPEND} {APPEND_OF[kernel]}"]
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT)
        if on_start:
            on_start(process)
        expired = threading.Event()
        timer = threading.Timer(timeout, lambda: (expired.set(), process.kill()))
        timer.start()
        firmware = []
        started = whole
        try:
            for line in process.stdout:
                if started:
                    out.write(line)
                    out.flush()
                elif START in line:  # the firmware's escape sequences may precede it
                    started = True
                else:
                    firmware.append(line)
            status = process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
    if not started:
        out.write(b"".join(firmware))
    if expired.is_set():
        print(f"vm: {kernel}: no end within {timeout} s", file=sys.stderr)
        return TIMED_OUT
    if status < 0 or status % 2 == 0:
        print(f"vm: {kernel}: the guest died (qemu {status})", file=sys.stderr)
        return DIED
    return (status - 1) // 2
