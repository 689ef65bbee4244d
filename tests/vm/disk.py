"""Disks for guests that need a system around the program: a minimal Debian, and on it programs of this machine."""

import re
import shutil
import subprocess

import guest
import kernels

SUITE = "bookworm"


def call(*command, **options):
    result = subprocess.run([str(part) for part in command], text=True, capture_output=True, stdin=subprocess.DEVNULL, **options)
    if result.returncode != 0:
        raise guest.GuestError(f"{command[0]} failed:\n{(result.stdout + result.stderr)[-3000:]}")
    return result.stdout


def base_system(packages):
    """The folder of a minimal Debian with `packages`, made by debootstrap; from the cache if it was made before."""
    archive, _ = kernels.mirrors()
    base = kernels.cache_dir() / f"rootfs-{SUITE}-{'-'.join(packages)}"
    with kernels.cache_lock():
        if not base.exists():
            print("vm: making a minimal Debian with debootstrap", flush=True)
            partial = base.with_name("rootfs.partial")
            shutil.rmtree(partial, ignore_errors=True)
            call("debootstrap", "--variant=minbase", f"--keyring={kernels.KEYRING}", f"--include={','.join(packages)}", SUITE,
                 partial, archive)
            partial.rename(base)
    return base


def take_program(root, program, target):
    """A program of this machine as `target` of the disk, with those of its libraries that the guest's Debian does not have."""
    (root / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(program, root / target)
    for library in re.findall(r"(?:=> |^\s)(/\S+) \(0x", call("ldd", program), re.M):
        copied = root / library.lstrip("/")
        if not copied.exists():
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, copied)


def make_image(root, image, size_bytes):
    with open(image, "wb") as file:
        file.truncate(size_bytes)
    call("mke2fs", "-q", "-t", "ext4", "-d", root, image)
