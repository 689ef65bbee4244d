"""Debian's cloud kernels for the guests, fetched by apt with a state of its own and kept in a cache.

The packages come from the mirror that the machine already uses, whatever its name; the machine's own sources, lists and
package state are neither changed nor needed to hold the other suites.
"""

import contextlib
import fcntl
import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SUITES = ["bookworm", "bookworm-backports", "sid"]

# What a list of modules may name instead of each. All that keys in the kernel need, in the order in which they need each other; a kernel
# without one of these names has it built in or elsewhere.
MODULE_SETS = {"ktls": ["crypto_null", "gf128mul", "ghash-generic", "ctr", "gcm", "ccm", "aesni-intel", "chacha-x86_64", "poly1305-x86_64",
                        "chacha_generic", "poly1305_generic", "chacha", "chacha20poly1305", "tls"]}

# The name of a guest kernel and the versions of linux-image-cloud-amd64 that it may be: the highest one is taken.
KERNELS = {"6.1": r"6\.1\.", "6.12": r"6\.12\.", "sid": r""}


class KernelError(Exception):
    """A kernel could not be had: always fatal for the test that needs it."""


def cache_dir():
    """Machine-wide for root, so that every clone shares it; else in the clone."""
    root = pathlib.Path(__file__).resolve().parents[2]
    default = "/var/cache/shunt" if os.geteuid() == 0 else root / ".cache"
    path = pathlib.Path(os.environ.get("SHUNT_CACHE", default)) / "vm"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextlib.contextmanager
def cache_lock():
    """Of the programs that put something into the cache, one at a time."""
    with open(cache_dir() / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(command, **options):
    result = subprocess.run(command, text=True, capture_output=True, stdin=subprocess.DEVNULL, **options)
    if result.returncode != 0:
        raise KernelError(f"{' '.join(map(str, command[:3]))} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


def mirrors():
    """(archive, security) of the machine's own sources: what apt says, so both source formats are understood."""
    fields = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(CREATED_BY)"
    archive = security = None
    for line in run(["apt-get", "indextargets", "--format", fields]).splitlines():
        uri, release, component, origin, created_by = line.split("|")
        # The origin is known only once the lists were fetched; other vendors have suites of their own names.
        if component != "main" or created_by != "Packages" or origin not in ("Debian", "$(ORIGIN)", ""):
            continue
        if release.endswith("-security"):
            security = security or uri
        elif re.fullmatch(r"[a-z]+", release):
            archive = archive or uri
    if not archive:
        raise KernelError("no Debian archive among the machine's apt sources: guests need one to fetch their kernels from")
    return archive, security


class Apt:
    """An apt of the test's own: its lists, its package cache, an empty dpkg status. The first suite is a release, which has security
    updates."""

    def __init__(self, folder, suites):
        self.folder = folder
        for sub in ("lists/partial", "cache/archives/partial"):
            (folder / sub).mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()
        archive, security = mirrors()
        option = f"[arch=amd64 signed-by={KEYRING}]"
        lines = [f"deb {option} {archive} {suite} main" for suite in suites]
        if security:
            lines.append(f"deb {option} {security} {suites[0]}-security main")
        (folder / "sources.list").write_text("\n".join(lines) + "\n")
        # The user _apt may not enter the cache; the signatures are checked all the same.
        (folder / "apt.conf").write_text(
            f'Dir::Etc::SourceList "{folder}/sources.list";\nDir::Etc::SourceParts "/nonexistent";\n'
            f'Dir::State "{folder}";\nDir::State::Lists "{folder}/lists";\nDir::State::status "{folder}/status";\n'
            f'Dir::Cache "{folder}/cache";\nAPT::Sandbox::User "root";\nAcquire::Languages "none";\n'
            "Acquire::Retries 3;\n#clear APT::Update::Post-Invoke-Success;\n#clear APT::Update::Post-Invoke;\n"
            "#clear DPkg::Post-Invoke;\n")

    def __call__(self, *command, **options):
        return run(command, env={**os.environ, "APT_CONFIG": str(self.folder / "apt.conf")}, **options)

    @functools.cached_property
    def versions(self):
        rows = self("apt-cache", "madison", "linux-image-cloud-amd64").splitlines()
        return sorted({row.split("|")[1].strip() for row in rows}, key=functools.cmp_to_key(compare_versions))

    def image_packages(self, kernel):
        """The (name, version) of the packages that hold the kernel and its modules, behind the metapackage; the image first."""
        fitting = [v for v in self.versions if re.match(KERNELS[kernel], v)]
        if not fitting:
            raise KernelError(f"no linux-image-cloud-amd64 for {kernel}; the archive has {', '.join(self.versions) or 'none'}")
        version = fitting[-1]
        depends = self.depends("linux-image-cloud-amd64", version)
        image_name = next((name for name in depends if name.startswith("linux-image-")), None)
        if not image_name:
            raise KernelError(f"linux-image-cloud-amd64 {version} depends on no image")
        # Newer releases split the image: kernel and modules are packages of their own.
        parts = [name for name in self.depends(image_name, version) if re.match("linux-(binary|modules)-", name)]
        return [(name, version) for name in [image_name, *parts]]

    def depends(self, name, version):
        text = self("apt-cache", "show", f"{name}={version}")
        found = re.search(r"^Depends: (.*)$", text, re.M)
        return [part.split()[0] for part in found.group(1).split(",")] if found else []


def compare_versions(a, b):
    return -1 if subprocess.run(["dpkg", "--compare-versions", a, "lt", b]).returncode == 0 else 1


def unpack(debs, kernel_dir):
    """Keeps the image and the modules, with the index that says which module needs which. Complete or not there."""
    partial = kernel_dir.with_name(kernel_dir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for deb in debs:
        run(["dpkg-deb", "-x", str(deb), str(partial)])
    merged = partial / "usr/lib/modules"
    if merged.exists():
        (partial / "lib").mkdir(exist_ok=True)
        merged.rename(partial / "lib/modules")
    run(["/usr/sbin/depmod", "-b", str(partial), modules_dir(partial).name])
    image(partial)
    partial.rename(kernel_dir)


def fetch(kernel, refresh=False):
    """The folder of an unpacked kernel; from the cache unless it is missing or `refresh` asks for the archive's newest."""
    if kernel not in KERNELS:
        raise KernelError(f"unknown kernel {kernel}; known: {', '.join(KERNELS)}")
    cache = cache_dir()
    link = cache / f"kernel-{kernel}"
    if link.exists() and not refresh:
        return link.resolve()
    with cache_lock():
        if link.exists() and not refresh:
            return link.resolve()
        apt = Apt(cache / "apt", SUITES)
        print(f"vm: fetching the kernel {kernel}", file=sys.stderr, flush=True)
        apt("apt-get", "update", "-q")
        packages = apt.image_packages(kernel)
        kernel_dir = cache / "_".join(packages[0])
        if not kernel_dir.exists():
            with tempfile.TemporaryDirectory(dir=cache) as folder:
                apt("apt-get", "download", "-q", *("=".join(package) for package in packages), cwd=folder)
                unpack(sorted(pathlib.Path(folder).glob("*.deb")), kernel_dir)
        temporary = cache / f"kernel-{kernel}.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(kernel_dir.name)
        temporary.rename(link)
        return kernel_dir


def modules_dir(kernel_dir):
    return only_file(kernel_dir, "lib/modules/*")


def image(kernel_dir):
    return only_file(kernel_dir, "boot/vmlinuz-*", "lib/modules/*/vmlinuz")


def only_file(kernel_dir, *patterns):
    found = next((path for pattern in patterns for path in kernel_dir.glob(pattern)), None)
    if not found:
        raise KernelError(f"{kernel_dir} has no {' or '.join(patterns)}")
    return found


def module_files(kernel_dir, names):
    """The files of the named modules after those they need, in loading order; names that the kernel lacks are left out."""
    base = modules_dir(kernel_dir)
    depends = {}
    for line in (base / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        depends[path] = needs.split()
    by_name = {re.sub(r"\.ko(\.\w+)?$", "", path.rsplit("/", 1)[-1]).replace("-", "_"): path for path in depends}
    ordered = []
    for name in [each for name in names for each in MODULE_SETS.get(name, [name])]:
        path = by_name.get(name.replace("-", "_"))
        if path:
            # modules.dep lists the nearest dependency first.
            ordered += [p for p in [*reversed(depends[path]), path] if p not in ordered]
    return [base / path for path in ordered]
