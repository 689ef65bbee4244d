"""The program openssl of a newer Debian, with libraries and a loader of its own in one folder, so that it runs beside the machine's."""

import pathlib
import re
import shutil
import sys
import tempfile

import kernels

VERSIONS = {"3.5": "trixie"}
LOADER = "ld-linux-x86-64.so.2"
PROGRAM = f"""#!/bin/sh
here=${{0%/*}}
exec "$here/{LOADER}" --library-path "$here" "$here/openssl.real" "$@"
"""


def fetch(version):
    """The folder, in which `openssl` is the program; from the cache if it is there."""
    cache = kernels.cache_dir()
    folder = cache / f"openssl-{version}"
    with kernels.cache_lock():
        if not folder.exists():
            print(f"vm: fetching OpenSSL {version}", file=sys.stderr, flush=True)
            suite = VERSIONS[version]
            apt = kernels.Apt(cache / f"apt-{suite}", [suite])
            apt("apt-get", "update", "-q")
            apt("apt-get", "clean")
            # Nothing is installed for this apt, so that it brings all that the program needs.
            apt("apt-get", "install", "-q", "-y", "--download-only", "--no-install-recommends", "openssl")
            with tempfile.TemporaryDirectory(dir=cache) as partial:
                unpack(sorted((apt.folder / "cache/archives").glob("*.deb")), pathlib.Path(partial), version)
                (pathlib.Path(partial) / "own").rename(folder)
    return folder


def unpack(debs, partial, version):
    """In `partial`: `all`, what the packages hold, and `own`, what the program needs of it."""
    everything, own = partial / "all", partial / "own"
    own.mkdir()
    for deb in debs:
        kernels.run(["dpkg-deb", "-x", str(deb), str(everything)])
    libraries = everything / "usr/lib/x86_64-linux-gnu"
    command = [str(libraries / LOADER), "--library-path", str(libraries), "--list", str(everything / "usr/bin/openssl")]
    needed = [pathlib.Path(path) for path in re.findall(rf"=> ({re.escape(str(libraries))}/\S+) \(0x", kernels.run(command))]
    for path in (libraries / LOADER, *needed):
        shutil.copy(path, own)
    shutil.copy(everything / "usr/bin/openssl", own / "openssl.real")
    (own / "openssl").write_text(PROGRAM)
    (own / "openssl").chmod(0o755)
    said = kernels.run([str(own / "openssl"), "version"])
    if not said.startswith(f"OpenSSL {version}."):
        raise kernels.KernelError(f"{VERSIONS[version]} has no OpenSSL {version}, but {said.strip()}")
