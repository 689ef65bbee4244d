#!/usr/bin/env python3
"""Checks of style and of consistency that no compiler makes. Each check is a function that yields complaints.

usage: tools/dev lint [CHECK...]     --list shows the checks
"""

import argparse
import ast
import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
FUNCTION_LINES_MAX = 70
LINE_COLUMNS_MAX = 140
CHECKS = {}
# Keys of documents that are spelled like programs.
NOT_PROGRAMS = {"time"}


def check(function):
    CHECKS[function.__name__.replace("_", "-")] = function
    return function


def run(*command, **options):
    return subprocess.run([str(part) for part in command], text=True, capture_output=True, stdin=subprocess.DEVNULL, **options)


@functools.cache
def all_files():
    """What belongs to the project: tracked by git, or all that is not ignored; a copy without .git is walked."""
    git = run("git", "-c", f"safe.directory={ROOT}", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard")
    if git.returncode == 0:
        names = git.stdout.splitlines()
    else:
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*")
                 if not re.match(r"build|\.cache|\.git/", str(path.relative_to(ROOT)))]
    return [ROOT / name for name in names if (ROOT / name).is_file() and not (ROOT / name).is_symlink()]


def files(pattern):
    return [path for path in all_files() if re.search(pattern, str(path.relative_to(ROOT)))]


def is_script(path, word):
    with open(path, "rb") as file:
        first = file.readline(80)
    return first.startswith(b"#") and word in first


def shell_files():
    return [path for path in all_files() if path.suffix in (".sh", "") and
            (is_script(path, b"bash") or is_script(path, b"/sh") or is_script(path, b"shellcheck shell="))]


def python_files():
    return [path for path in all_files() if path.suffix == ".py" or (path.suffix == "" and is_script(path, b"python3"))]


def shown(path, line=None):
    return f"{path.relative_to(ROOT)}" + (f":{line}" if line else "")


# ---- sources ----

NO_FUNCTION = re.compile(r"^\s*(?:namespace|class|struct|enum|union|extern|else|do\b|try|switch|for|while|if|case|default|#)")


def brace_functions(text):
    """(first line, lines) of the functions of a formatted C or C++ source: a head ends in `{`; its end is indented
    alike, or less where the head is the last line of a constructor's initializers."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        head = re.match(r"^(\s*)(\S.*)?\{$", line)
        if not head or NO_FUNCTION.match(line) or ")" not in line:
            continue
        indent = head.group(1)
        for end in range(number + 1, len(lines)):
            if re.match(rf"^\s{{0,{len(indent)}}}\}}", lines[end]):
                yield number + 1, end - number + 1
                break


def shell_functions(text):
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"^\w+\(\) \{$", line):
            end = next((i for i in range(number, len(lines)) if lines[i] == "}"), len(lines))
            yield number + 1, end - number + 1


def python_functions(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.lineno, node.end_lineno - node.lineno + 1


@check
def function_length():
    kinds = [(files(r"\.(c|h|cpp|hpp)$"), brace_functions), (shell_files(), shell_functions),
             (python_files(), python_functions)]
    for paths, functions in kinds:
        for path in paths:
            for line, length in functions(path.read_text()):
                if length > FUNCTION_LINES_MAX:
                    yield f"{shown(path, line)}: a function of {length} lines, at most {FUNCTION_LINES_MAX}"


@check
def text_hygiene():
    """Line ends, unfinished work, and what must not be written down: hosts and paths of one machine."""
    hosts = set(re.findall(r"https?://([\w.-]+)", run("apt-get", "indextargets", "--format", "$(REPO_URI)").stdout))
    # Written in parts, or this file would complain about itself.
    unfinished = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX)\b")
    for path in all_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if text and not text.endswith("\n"):
            yield f"{shown(path)}: no newline at the end"
        for number, line in enumerate(text.splitlines(), start=1):
            if line != line.rstrip():
                yield f"{shown(path, number)}: white space at the end of the line"
            if unfinished.search(line):
                yield f"{shown(path, number)}: unfinished work"
            for host in hosts:
                if host in line:
                    yield f"{shown(path, number)}: the package mirror {host} belongs to the machine"
            if str(ROOT) in line:
                yield f"{shown(path, number)}: a path of this machine"
            if (path.suffix in (".c", ".h", ".py") or path.parent.name == "dev.d") and len(line.expandtabs(8)) > LINE_COLUMNS_MAX:
                yield f"{shown(path, number)}: longer than {LINE_COLUMNS_MAX} columns"


@check
def names():
    """snake_case file names; sources of the kernel side say their licence, which the kernel asks for."""
    for path in files(r"\.(c|h|cpp|hpp|py)$"):
        if not re.fullmatch(r"[a-z0-9_]+(\.bpf)?\.\w+", path.name):
            yield f"{shown(path)}: file names are snake_case"
    for path in files(r"\.bpf\.[ch]$"):
        if "SPDX-License-Identifier: GPL-2.0-only" not in path.read_text().splitlines()[0]:
            yield f"{shown(path)}: the first line lacks SPDX-License-Identifier: GPL-2.0-only"


@check
def layering():
    """Who may include whom (ARCHITECTURE.md)."""
    allowed = {"base": {"base"}, "bpf/abi": {"bpf"}, "ktls": {"ktls", "base"}, "ktls/gateway": {"ktls", "base", "bpf"},
               "sockops": {"sockops", "base", "bpf"},
               "l7parsers": {"l7parsers"}, "policy": {"policy", "l7parsers", "base", "bpf"},
               "fallback-proxy": {"fallback-proxy", "policy", "l7parsers", "ktls", "base", "bpf"},
               "control": {"control", "policy", "l7parsers", "sockops", "ktls", "base", "bpf"},
               "bench": {"bench", "sockops", "policy", "l7parsers", "ktls", "base", "bpf", "control"}}
    folders = {folder.split("/")[0] for folder in allowed}
    for folder, may in allowed.items():
        for path in files(rf"^{folder}/.*\.(h|hpp|cpp)$"):
            if path.name.endswith("_test.cpp") or (folder == "ktls" and path.parent.name == "gateway"):
                continue
            for used in re.findall(rf'^#include [<"]({"|".join(folders)})/(?!\w+\.skel)', path.read_text(), re.M):
                if used not in may and not (used == "bpf" and "libbpf" in used):
                    yield f"{shown(path)}: {folder} may not use {used}"


@check
def clang_format():
    paths = files(r"\.(cpp|hpp)$")
    result = run("clang-format", "--dry-run", *paths, cwd=ROOT)
    for path in sorted(set(re.findall(r"^(\S+?\.[ch]pp):\d+:\d+: warning", result.stderr, re.M))):
        yield f"{shown(pathlib.Path(path))}: not formatted; clang-format -i mends it"


@check
def shellcheck():
    result = run("shellcheck", "-x", "-S", "warning", "-f", "gcc", *shell_files(), cwd=ROOT / "tools/dev.d")
    yield from result.stdout.replace(f"{ROOT}/", "").splitlines()
    if result.returncode not in (0, 1):
        yield f"shellcheck: {result.stderr}"


@check
def python_compiles():
    for path in python_files():
        try:
            compile(path.read_text(), str(path), "exec")
        except SyntaxError as error:
            yield f"{shown(path)}: {error}"


# ---- what is installed ----


@functools.cache
def installed():
    """The tree of `meson install`, in a folder that ends with the program."""
    folder = tempfile.TemporaryDirectory(prefix="shunt-lint-")
    installed.folder = folder
    result = run("meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", folder.name)
    if result.returncode != 0:
        raise RuntimeError(f"meson install failed: {result.stdout[-500:]}{result.stderr[-500:]}")
    return pathlib.Path(folder.name)


@check
def units():
    """systemd-analyze verify ends with 0 even for unknown keys: any word of it is a complaint."""
    found = list(installed().rglob("*.service"))
    if not found:
        yield "meson install brings no unit"
    with tempfile.TemporaryDirectory(prefix="shunt-units-") as folder:
        for unit in found:
            # The programs are not installed on this machine: the verifier is pointed at the copies.
            text = re.sub(r"^(Exec\w+=[-+!:@]*)(/\S+)", lambda m: m.group(1) + str(installed()) + m.group(2),
                          unit.read_text(), flags=re.M)
            copy = pathlib.Path(folder) / unit.name
            copy.write_text(text)
            result = run("systemd-analyze", "verify", "--man=no", copy)
            for line in (result.stdout + result.stderr).splitlines():
                if unit.name.removesuffix(".service") in line or result.returncode != 0:
                    yield f"{unit.name}: {line}"


@check
def manuals():
    pages = [path for path in installed().rglob("share/man/man*/*")]
    if not pages:
        yield "meson install brings no manual page"
    for page in pages:
        result = run("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", page,
                     env={**os.environ, "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"})
        for line in result.stderr.splitlines():
            yield f"{page.name}: {line}"
    for program in [*installed().glob("usr/*bin/*"), *installed().glob("usr/local/*bin/*")]:
        if not any(page.name.startswith(program.name + ".") for page in pages):
            yield f"{program.name} has no manual page"


# ---- the list of packages ----


def wanted_packages():
    text = (ROOT / "tools/packages.list").read_text()
    return {line.split("#")[0].strip() for line in text.splitlines() if line.split("#")[0].strip()}


@functools.cache
def closure():
    """The listed packages with all that they bring, and what every Debian has."""
    status = run("dpkg-query", "-W", "-f", "${Package}\t${Depends}, ${Pre-Depends}\t${Priority}\t${Provides}\n").stdout
    depends, todo, provides = {}, set(wanted_packages()), {}
    for line in status.splitlines():
        name, needs, priority, provided = line.split("\t")
        # Each alternative counts only where it is installed.
        depends[name] = re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9+.-]+)", needs)
        if priority == "required":
            todo.add(name)
        for virtual in re.findall(r"([a-z0-9][a-z0-9+.-]+)", re.sub(r"\([^)]*\)", "", provided)):
            provides.setdefault(virtual, set()).add(name)
    done = set()
    while todo:
        name = todo.pop()
        if name in done:
            continue
        done.add(name)
        for needed in depends.get(name, []):
            todo |= {needed} | provides.get(needed, set())
    return done


@check
def packages():
    """Programs that tests, benchmarks and tools call by name come from a listed package."""
    where = files(r"^(tests|bench|tools)/.*\.(cpp|hpp|py)$") + [p for p in python_files() if p.suffix == ""]
    called = {}
    for path in where:
        for line in path.read_text().splitlines():
            # The first word of an argument list, a `which`, or a path of a program.
            for name in re.findall(r'(?:\{|\[|run\(|which\(|program\()\s*"(?:/usr)?(?:/s?bin/)?([a-z][\w.-]+)"', line):
                called.setdefault(name, path)
    for build_file in files(r"meson\.build$"):
        for name in re.findall(r"find_program\('([\w.-]+)'", build_file.read_text()):
            called.setdefault(name, build_file)
    for name, path in sorted(called.items()):
        program = shutil.which(name)
        if not program or name in NOT_PROGRAMS:
            continue
        real = os.path.realpath(program)
        owners = {p for spelled in {program, real, program.removeprefix("/usr"), real.removeprefix("/usr")}
                  for p in re.findall(r"^([^:, ]+)", run("dpkg", "-S", spelled).stdout, re.M)}
        if owners and not owners & closure():
            yield f"{shown(path)} calls {name} of {', '.join(sorted(owners))}, which tools/packages.list does not bring"


@check
def libraries():
    """What meson asks pkg-config for comes from a listed package, and the Debian package builds with the same."""
    control = (ROOT / "packaging/debian/control").read_text()
    for build_file in files(r"meson\.build$"):
        for name in re.findall(r"dependency\('([\w.+-]+)'", build_file.read_text()):
            where = run("pkg-config", "--variable=pcfiledir", name).stdout.strip()
            owner = re.match(r"[^:]+", run("dpkg", "-S", f"{where}/{name}.pc").stdout) if where else None
            if not owner:  # threads and gtest variants are known to meson itself
                continue
            if owner.group() not in wanted_packages():
                yield f"{shown(build_file)} needs {name} of {owner.group()}, which tools/packages.list lacks"
            for_tests = build_file.is_relative_to(ROOT / "tests") or name.startswith("gtest")
            if not for_tests and not re.search(rf"\b{re.escape(owner.group())}\b", control):
                yield f"{shown(build_file)} needs {name} of {owner.group()}, which packaging/debian/control lacks"


@check
def versions():
    """meson, the changelog of the package and CHANGELOG.md speak of one version."""
    version = re.search(r"version: '([^']+)'", (ROOT / "meson.build").read_text()).group(1)
    for name in ("packaging/debian/changelog", "CHANGELOG.md"):
        if version not in (ROOT / name).read_text():
            yield f"{name} does not know version {version}"


def main():
    global BUILD
    parser = argparse.ArgumentParser(prog="tools/dev lint", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build", help=argparse.SUPPRESS)
    parser.add_argument("--list", action="store_true", help="print the checks")
    parser.add_argument("checks", nargs="*", metavar="CHECK")
    arguments = parser.parse_args()
    BUILD = arguments.build
    if arguments.list:
        print("\n".join(CHECKS))
        return 0
    unknown = set(arguments.checks) - set(CHECKS)
    if unknown:
        parser.error(f"unknown check {', '.join(sorted(unknown))}")
    failed = 0
    chosen = arguments.checks or list(CHECKS)
    for name in chosen:
        try:
            complaints = list(CHECKS[name]())
        except Exception as error:  # noqa: BLE001  # a check that cannot run has failed
            complaints = [f"{type(error).__name__}: {error}"]
        print(f"{'FAIL' if complaints else 'ok  '} {name}")
        for complaint in complaints:
            print(f"     {complaint}")
        failed += bool(complaints)
    print(f"lint: {len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
