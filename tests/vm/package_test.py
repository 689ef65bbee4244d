#!/usr/bin/env python3
"""Installs, runs and removes the Debian package under a booted systemd, in a guest.

The disk is a minimal Debian made by debootstrap (kept in the cache), plus exactly the packages that the package depends on:
were one missing, dpkg in the guest would refuse. package_guest.sh is what runs there, with the traffic checker of the build
folder beside it.
"""

import argparse
import os
import pathlib
import re
import shutil
import sys
import tempfile

import disk
import guest
import kernels

HERE = pathlib.Path(__file__).resolve().parent
# On 6.1 FIONREAD does not count redirected bytes, and nginx, which relies on it, stays on TCP there.
KERNEL = "6.12"
# systemd to boot, traffic to accelerate, and what looks for leftovers.
INCLUDE = ["systemd-sysv", "dbus", "nginx-light", "wrk", "curl", "bpftool", "procps"]
IMAGE_BYTES = 2 << 30
SECONDS_MAX = 900  # and one for each megabyte of traffic
UNIT = """[Unit]
Description=test of the package
After=basic.target dbus.service
[Service]
Type=oneshot
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
ExecStart=/bin/sh /root/package_guest.sh
ExecStopPost=/bin/sh -c 'exec /root/init --leave $EXIT_STATUS'
[Install]
WantedBy=multi-user.target
"""
# Nothing of these is of use in a guest that lives for a minute.
MASKED = ["getty@tty1", "serial-getty@ttyS0", "systemd-timesyncd", "systemd-networkd", "systemd-resolved", "apt-daily.timer",
          "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap", "fstrim.timer", "dpkg-db-backup.timer"]


def install_dependencies(root, deb):
    """What apt would bring along with the package, but not the package itself."""
    shutil.copy(deb, root / "root/shunt.deb")
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    disk.call("chroot", root, "apt-get", "update", "-q", env=environment)
    plan = disk.call("chroot", root, "apt-get", "install", "-s", "--no-install-recommends", "/root/shunt.deb", env=environment)
    names = [name for name in re.findall(r"^Inst (\S+)", plan, re.M) if name != "shunt"]
    if names:
        disk.call("chroot", root, "apt-get", "install", "-q", "-y", "--no-install-recommends", *names, env=environment)
    (root / "usr/sbin/policy-rc.d").unlink()
    print(f"package: depends on {len(names)} more packages than a minimal Debian has", flush=True)


def prepare(root, deb, traffic, megabytes):
    install_dependencies(root, deb)
    disk.take_program(root, traffic, "root/shunt-traffic")
    (root / "root/megabytes").write_text(f"{megabytes}\n")
    shutil.copy(HERE / "package_guest.sh", root / "root/package_guest.sh")
    shutil.copy(guest.first_process(), root / "root/init")
    (root / "etc/systemd/system/package-test.service").write_text(UNIT)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / "package-test.service").symlink_to("/etc/systemd/system/package-test.service")
    for name in MASKED:
        link = root / "etc/systemd/system" / (name if "." in name else f"{name}.service")
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    (root / "etc/machine-id").write_text("")
    (root / "etc/fstab").write_text("")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traffic", type=pathlib.Path, required=True, help="the program shunt-traffic")
    parser.add_argument("--megabytes", type=int, default=100, help="of checked traffic under each event")
    parser.add_argument("deb", type=pathlib.Path, metavar="PACKAGE.deb")
    return parser.parse_args()


def main():
    arguments = parse()
    if os.geteuid() != 0:
        print("package_test.py: needs root", file=sys.stderr)
        return 64
    with tempfile.TemporaryDirectory(prefix="shunt-package-") as folder:
        root = pathlib.Path(folder) / "root"
        image = pathlib.Path(folder) / "disk"
        disk.call("cp", "-a", disk.base_system(INCLUDE), root)
        prepare(root, arguments.deb.resolve(), arguments.traffic.resolve(), arguments.megabytes)
        disk.make_image(root, image, IMAGE_BYTES)
        print(f"package: booting systemd with the kernel {KERNEL}", flush=True)
        status = guest.boot(KERNEL, image, memory="1500M", timeout=SECONDS_MAX + arguments.megabytes)
    if status in (guest.TIMED_OUT, guest.DIED):
        print("package: 0 passed, 1 failed")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (kernels.KernelError, guest.GuestError) as error:
        print(f"package: {error}\npackage: 0 passed, 1 failed")
        sys.exit(1)
