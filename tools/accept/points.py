"""What an acceptance is made of: points, each measured anew by a program of ours, with figures against bars.

A point is (number, kind, title, measure); `measure(context)` yields rows. A row that cannot be measured does not hold: a
program that is missing, fails, or says nothing is never a pass.
"""

import dataclasses
import json
import os
import re
import subprocess
import tempfile
import time
import typing
import xml.etree.ElementTree

CORRECTNESS = "correctness"
SPEED = "speed"
# Exit status: the sum of what does not hold.
STATUS = {CORRECTNESS: 1, SPEED: 2}


@dataclasses.dataclass
class Row:
    figure: str  # what was measured
    value: str
    bar: str
    holds: bool
    detail: str = ""
    # Reported, but no part of the verdict.
    informative: bool = False


@dataclasses.dataclass
class Point:
    number: str
    kind: str
    title: str
    measure: typing.Callable


class Failed(Exception):
    """A measurement that could not be made."""


class Context:
    """How measurements run the project's programs."""

    def __init__(self, root, build, quick):
        self.root = root
        self.build = build
        self.quick = quick

    def run(self, program, *arguments, seconds=1200, statuses=(0,), env=None):
        """Standard output of a program of the build folder."""
        path = self.build / program
        if not path.exists():
            raise Failed(f"{program} is not built")
        try:
            result = subprocess.run([path, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                    text=True, timeout=seconds, env={**os.environ, **(env or {})}, cwd=self.root)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{program} did not end within {seconds} s") from error
        if result.returncode not in statuses:
            raise Failed(f"{program} ended with {result.returncode}: {last_lines(result.stdout + result.stderr)}")
        return result.stdout

    def json(self, program, *arguments, **options):
        text = self.run(program, *arguments, **options)
        try:
            return json.loads(text)
        except ValueError as error:
            raise Failed(f"{program} wrote no JSON: {last_lines(text)}") from error

    def parts(self, *command, seconds=3600):
        """One row for a command of tools/dev that ends with "N passed, N failed"."""
        name = " ".join(command)
        try:
            result = subprocess.run([self.root / "tools/dev", *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True, errors="replace", timeout=seconds,
                                    env={**os.environ, "SHUNT_BUILD": str(self.build)})
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{name} did not end within {seconds} s") from error
        counts = re.findall(r"^(?:[\w.-]+: )?(\d+) passed, (\d+) failed", result.stdout, re.M)
        passed, failed = map(int, counts[-1]) if counts else (0, 0)
        holds = result.returncode == 0 and passed > 0 and failed == 0
        return Row(name, f"{passed} passed, {failed} failed", "all, at least one", holds,
                   detail="" if holds else last_lines(result.stdout))

    def gtest(self, program, only="*", seconds=1200, env=None):
        """One row for the chosen cases of a test program: all must pass, none may be skipped."""
        with tempfile.NamedTemporaryFile(prefix="shunt-accept-", suffix=".xml") as report:
            self.run(program, f"--gtest_filter={only}", f"--gtest_output=xml:{report.name}", seconds=seconds, statuses=(0, 1),
                     env=env)
            try:
                cases = list(xml.etree.ElementTree.parse(report.name).getroot().iter("testcase"))
            except xml.etree.ElementTree.ParseError as error:
                raise Failed(f"{program} wrote no report") from error
        bad = [f"{c.get('classname')}.{c.get('name')}" for c in cases if c.find("failure") is not None]
        bad += [f"{c.get('classname')}.{c.get('name')} (skipped)" for c in cases
                if c.find("skipped") is not None or c.get("result") == "skipped"]
        name = program.rsplit("/", 1)[-1] + ("" if only == "*" else f" {only}")
        return Row(name, f"{len(cases) - len(bad)} of {len(cases)}", "all, at least one", bool(cases) and not bad,
                   detail="; ".join(bad))


def last_lines(text, characters=400):
    return text.strip()[-characters:]


def missing(figure, bar, why):
    """What is promised and cannot be measured: it does not hold."""
    return Row(figure, "not there", bar, False, why)


def scenarios(context, test, *names, options=(), bar="no error"):
    """A row for each scenario of a test."""
    outcomes = context.json(context.root / f"tests/socket/{test}.py", "--build", str(context.build), "-o", "json", *options, *names,
                            seconds=3600, statuses=(0, 1))
    for outcome in outcomes:
        if outcome["ok"]:
            told = ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in outcome.items()
                             if key in ("requests", "requests_to_proxy", "errors", "changes", "megabytes", "reconnects"))
            yield Row(outcome["name"], told or "holds", bar, True)
        else:
            yield Row(outcome["name"], "failed", bar, False, outcome["error"][:400])
    if not outcomes:
        raise Failed(f"{test} ran no scenario")


def measure(point, context):
    """{'number', 'kind', 'title', 'rows', 'holds', 'seconds'}"""
    began = time.monotonic()
    rows = []
    try:
        for row in point.measure(context):
            rows.append(row)
    except Failed as error:
        rows.append(Row("measurement", "failed", "done", False, str(error)))
    except Exception as error:  # noqa: BLE001  # one broken measurement must not hide the others
        rows.append(Row("measurement", "failed", "done", False, f"{type(error).__name__}: {error}"))
    judged = [row for row in rows if not row.informative]
    return {"number": point.number, "kind": point.kind, "title": point.title, "rows": [dataclasses.asdict(row) for row in rows],
            "holds": bool(judged) and all(row.holds for row in judged), "seconds": round(time.monotonic() - began, 1)}


def exit_status(results):
    return sum(STATUS[kind] for kind in STATUS if any(r["kind"] == kind and not r["holds"] for r in results))
