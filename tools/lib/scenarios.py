"""A test that is a list of scenarios with a daemon: each in a process of its own, as private mounts and cgroups are the process's.

What holds is said with expect() and eventually(). The outcome is TAP, or a JSON list of documents."""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from lab import Lab, LabError

BUILD = pathlib.Path(__file__).resolve().parents[2] / "build"
SLOWER = int(os.environ.get("SHUNT_TESTS_SLOWER", "1"))  # how many times longer than usual a sanitized program may take
PATIENCE_S = 120 * SLOWER


class Broken(Exception):
    """What was promised does not hold."""


def expect(holds, what):
    if not holds:
        raise Broken(what)


def eventually(condition, what, seconds=PATIENCE_S):
    end = time.monotonic() + seconds
    while not condition():
        expect(time.monotonic() < end, f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(0.05)


class Scenarios:
    """`go(lab, scenario, options)` runs one and returns what its document has more; `tell(outcome)` is the line of one that went well.
    `settings`: further options, as (name, type, default, help)."""

    def __init__(self, lab_name, go, tell, settings=()):
        self.lab_name, self.go, self.tell, self.settings = lab_name, go, tell, settings
        self.all = {}

    def run_one(self, name, options):
        began = time.monotonic()
        outcome = {"name": name, "ok": False, "log": ""}
        try:
            with Lab(options.build, self.lab_name) as lab:
                try:
                    more = self.go(lab, self.all[name], options)
                    return {"name": name, "ok": True, **(more or {}), "seconds": round(time.monotonic() - began, 1)}
                except (Broken, LabError, subprocess.SubprocessError) as error:
                    log = lab.folder / "shuntd.log"
                    return {**outcome, "error": str(error), "log": log.read_text()[-1500:] if log.is_file() else ""}
        except Exception as error:  # noqa: BLE001  # whatever went wrong with one scenario, the others still run
            return {**outcome, "error": f"{type(error).__name__}: {error}"}

    def in_child(self, name, options):
        command = [sys.executable, sys.argv[0], "--one", name, "--build", options.build]
        for setting, *_ in self.settings:
            command += [f"--{setting}", getattr(options, setting)]
        result = subprocess.run([str(part) for part in command], text=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        try:
            return json.loads(result.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            return {"name": name, "ok": False, "error": f"ended with {result.returncode}: {result.stdout[-500:]}", "log": ""}

    def print_tap(self, number, outcome):
        print(f"{'ok' if outcome['ok'] else 'not ok'} {number} - {outcome['name']}" + (f": {self.tell(outcome)}" if outcome["ok"] else ""))
        for line in [] if outcome["ok"] else (outcome["error"] + "\n" + outcome["log"]).splitlines():
            print(f"# {line}")
        sys.stdout.flush()
        if not outcome["ok"]:  # a runner that keeps TAP to itself shows this
            print(f"{outcome['name']}: {outcome['error']}", file=sys.stderr)

    def parse(self, description):
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--build", type=pathlib.Path, default=BUILD)
        for name, kind, default, text in self.settings:
            parser.add_argument(f"--{name}", type=kind, default=default, help=text)
        parser.add_argument("-o", "--output", choices=("tap", "json"), default="tap")
        parser.add_argument("--list", action="store_true", help="print the scenarios")
        parser.add_argument("--one", help=argparse.SUPPRESS)
        parser.add_argument("scenarios", nargs="*", metavar="SCENARIO")
        options = parser.parse_args()
        unknown = set(options.scenarios) - set(self.all)
        if unknown:
            parser.error(f"unknown scenario {', '.join(sorted(unknown))}")
        return options

    def main(self, description):
        options = self.parse(description)
        if options.list:
            print("\n".join(self.all))
            return 0
        if options.one:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
            print(json.dumps(self.run_one(options.one, options)))
            return 0
        names = options.scenarios or list(self.all)
        outcomes = []
        if options.output == "tap":
            print(f"1..{len(names)}", flush=True)
        for number, name in enumerate(names, start=1):
            outcomes.append(self.in_child(name, options))
            if options.output == "tap":
                self.print_tap(number, outcomes[-1])
        if options.output == "json":
            print(json.dumps(outcomes, indent=2))
        return 0 if all(outcome["ok"] for outcome in outcomes) else 1
