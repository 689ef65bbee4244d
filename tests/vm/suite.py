"""The tests that the guests run: tests.list, for each kernel, two guests at a time."""

import concurrent.futures
import glob
import io
import os
import pathlib
import re
import shlex
import sys
import time

import guest

SOURCES = pathlib.Path(__file__).resolve().parents[2]
IDLE_CPUS_MIN = 0.7
IDLE_LOOK_S = 5
BENCH = "bench-tls"
# Google Test's line for the end of a case; the summary at its end repeats the failed ones without a time.
NO_CASE = b"[==========] 0 tests from 0 test suites ran."
CASE = re.compile(rb"^\[ +(OK|FAILED|SKIPPED) +\] .* \(\d+ ms\)", re.M)


def read_list(build, parse_run):
    """(name, parsed options) of each line of tests.list; patterns are those of the build folder, other files may be sources too."""
    jobs = []
    for line in (pathlib.Path(__file__).parent / "tests.list").read_text().splitlines():
        words = shlex.split(line, comments=True)
        if words:
            jobs.append((words[0], parse_run([found for word in words[1:] for found in expand(build, word)])))
    return jobs


def expand(build, word):
    """The files of the build folder that a pattern means; options are none."""
    if "*" not in word or word.startswith("-"):
        return [word]
    found = sorted(glob.glob(word, root_dir=build))
    if not found:
        raise guest.GuestError(f"nothing in {build} matches {word}")
    return found


def count(output, status):
    """[passed, failed, skipped] of a program with this output; one without cases is a case, and a filter that no case fits has failed."""
    if NO_CASE in output:
        return [0, 1, 0]
    cases = [match.group(1) for match in CASE.finditer(output)]
    counts = [cases.count(b"OK"), cases.count(b"FAILED"), cases.count(b"SKIPPED")]
    if not cases and status == 0:
        counts[0] = 1
    if status != 0 and not counts[1]:
        counts[1] = 1
    return counts


def run_options(kernel, options, build, out=None):
    """Status of what a line of the list says."""
    here = lambda path: next((str(root / path) for root in (build, SOURCES) if (root / path).exists()), path)  # noqa: E731
    program = build / options.argv[0]
    if not program.exists():
        raise guest.GuestError(f"{program} is not there: build first")
    argv = [str(program), *map(here, options.argv[1:])]
    return guest.run(kernel, argv, files=[here(f) for f in options.file], programs=[here(p) for p in options.program],
                     modules=options.module, env=dict(item.split("=", 1) for item in options.env), memory=options.memory,
                     openssl=options.openssl, cpus=options.cpus, timeout=options.timeout, out=out,
                     count_instructions=options.count_instructions)


def run_job(kernel, name, options, build):
    """(kernel, name, counts, seconds, output)"""
    began = time.monotonic()
    out = io.BytesIO()
    try:
        status = run_options(kernel, options, build, out)
    except Exception as error:  # noqa: BLE001  # whatever went wrong with one guest, the others still run
        out.write(f"{error}\n".encode())
        status = -1
    return kernel, name, count(out.getvalue(), status), time.monotonic() - began, out.getvalue()


def bench(kernel, build, parse_run, arguments, timeout):
    """`shunt bench tls` in a guest, as the list has it but with other arguments."""
    options = dict(read_list(build, parse_run))[BENCH]
    options.argv[2:] = arguments
    options.timeout = timeout
    return run_options(kernel, options, build)


class Idleness:
    """Whether a CPU has been idle since the last look."""

    def __init__(self):
        self.last = self.look()

    @staticmethod
    def look():
        """(idle, all) in seconds of all CPUs."""
        ticks = [int(word) for word in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return tuple(sum(of) / os.sysconf("SC_CLK_TCK") for of in (ticks[3:5], ticks))

    def cpus(self):
        now = self.look()
        idle, every = (after - before for after, before in zip(now, self.last))
        self.last = now
        return os.cpu_count() * idle / every if every else 0


def run_jobs(waiting, guests, when_idle):
    """The outcomes of (kernel, name, options, build), each as it comes."""
    running, idleness = set(), Idleness()
    with concurrent.futures.ThreadPoolExecutor(max_workers=guests) as pool:
        while waiting or running:
            if waiting and len(running) < guests and (not running or not when_idle or idleness.cpus() >= IDLE_CPUS_MIN):
                running.add(pool.submit(run_job, *waiting.pop(0)))
                if not when_idle:
                    continue
            done, running = concurrent.futures.wait(running, IDLE_LOOK_S if waiting else None, concurrent.futures.FIRST_COMPLETED)
            yield from (one.result() for one in done)


def run(kernels, build, parse_run, only=(), guests=1, when_idle=False):
    """Runs everything, `guests` at a time, with `when_idle` all but the first only where a CPU has nothing else to do; prints the output of
    what failed, a line for each job, and the sum. 0 if nothing failed."""
    jobs = [job for job in read_list(build, parse_run) if not only or job[0] in only]
    total = [0, 0, 0]
    for kernel, name, counts, seconds, output in run_jobs([(kernel, name, options, build) for kernel in kernels for name, options in jobs],
                                                          guests, when_idle):
        total = [a + b for a, b in zip(total, counts)]
        if counts[1]:
            sys.stdout.write(output.decode(errors="replace"))
        skipped = f", {counts[2]} skipped" if counts[2] else ""
        print(f"{'FAIL' if counts[1] else 'ok  '} {kernel:5} {name}: {counts[0]} passed, {counts[1]} failed{skipped}"
              f" in {seconds:.0f} s", flush=True)
    print(f"vm: {total[0]} passed, {total[1]} failed" + (f", {total[2]} skipped" if total[2] else ""), flush=True)
    return 1 if total[1] or not total[0] else 0
