#!/usr/bin/env python3
"""shuntd comes and goes in the middle of checked traffic: nothing lost, nothing broken, nothing left (root)

usage: daemon_life.py [--build DIR] [--megabytes N] [--rate N] [--connections N] [-o tap|json] [--list] [SCENARIO...]

Each scenario has a daemon and a shunt-traffic of its own: connections that live from the beginning to the end, every byte
checked, and new ones all the time. The event happens when every live connection has sent over the shortcut and a quarter of N
megabytes has moved; the traffic goes on until N have moved, a quarter of them after the event.
"""

import contextlib
import json
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/lib"))
sys.dont_write_bytecode = True

from lab import cgroup_mount  # noqa: E402
from scenarios import PATIENCE_S, Broken, Scenarios, expect, eventually  # noqa: E402

RECEIVERS = "receivers: {add: [shunt-traffic]}\nprofile: {enabled: false}\n"
CHANGED = "spill: {bytes: 64KiB, messages: 64}\nfirewall: {interval: 200ms}\n"
BROKEN = "spill: {bytes: many}\n"
MARGIN = 0.25  # of the bytes that are asked for: so much moves before the event, and so much after it
NEW_PER_SECOND = 150
NEW_PAIRS_MIN = 20
NEW_FAST_MIN = 2  # of them seen in a list while they last, which is short
BPFFS_OWN = {"maps.debug", "progs.debug"}  # every bpffs has them
OK, USAGE, SOCKETS_KEPT = 0, 2, 3  # exit codes of shunt(1)
SCENARIOS = {}


class Traffic:
    """shunt-traffic, followed while it runs."""

    def __init__(self, lab, connections, rate):
        self.progress, self.report, self.noise = {}, None, []
        command = [lab.build / "tests/socket/shunt-traffic", "--live", connections, "--live-rate", rate, "--until-told",
                   "--per-second", NEW_PER_SECOND, "--at-once", 40, "--stall-seconds", 30, "--progress", "-o", "json"]
        self.process = lab.start(command, cgroup=lab.with_shunt)
        lab.stack.callback(lab.stop, self.process)
        self.reader = threading.Thread(target=self.follow, daemon=True)
        self.reader.start()

    def follow(self):
        for line in self.process.stdout:
            try:
                document = json.loads(line)
            except ValueError:
                self.noise.append(line.decode(errors="replace"))
                continue
            if "progress" in document:
                self.progress = document["progress"]
            else:
                self.report = document

    def look(self):
        """The progress; an error of the traffic ends the scenario at once."""
        expect(self.process.poll() is None, f"the traffic ended: {self.report} {''.join(self.noise[-5:])}")
        if self.progress.get("errors"):
            raise Broken(self.finish())
        return self.progress

    def bytes(self):
        return self.look().get("live_bytes", 0)

    def finish(self):
        """Ends the traffic; the first errors, or nothing."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE_S)
        self.reader.join(10)
        if self.report is None:
            return f"no report: {''.join(self.noise[-5:])}"
        if self.report["errors"] or self.process.returncode != 0:
            return f"{self.report['errors']} errors, {self.report['stalled']} stalled: {'; '.join(self.report['messages'][:4])}"
        return ""


class Run:
    """One scenario under way."""

    def __init__(self, lab, options):
        self.lab = lab
        self.options = options
        self.shunt_program = "control/shunt"
        self.daemon = None
        self.kernel_ids = {"prog": set(), "map": set(), "link": set()}

    # ---- the daemon ----

    def start(self, version=""):
        self.shunt_program = f"control/shunt{version}"
        self.daemon = self.lab.run_daemon(f"control/shuntd{version}", cgroup=self.lab.without)
        self.note_kernel_ids()

    def note_kernel_ids(self):
        """All that the daemon holds of the kernel's, to look for it in the end."""
        for info in pathlib.Path(f"/proc/{self.daemon.pid}/fdinfo").iterdir():
            with contextlib.suppress(OSError):
                for kind, number in re.findall(r"^(prog|map|link)_id:\s*(\d+)", info.read_text(), re.M):
                    self.kernel_ids[kind].add(int(number))
        pins = self.lab.folder / "bpffs/shunt"
        for pin in [*pins.glob("links/*"), *pins.glob("gen-*/guard-*")]:
            shown = self.bpftool("link", "show", "pinned", pin)
            self.kernel_ids["link"].add(shown["id"])
            self.kernel_ids["prog"].add(shown["prog_id"])

    def held_enough(self):
        expect(len(self.kernel_ids["prog"]) >= 5 and len(self.kernel_ids["map"]) >= 10 and self.kernel_ids["link"],
               f"the daemon holds too little of the kernel's to be true: {self.kernel_ids}")

    @staticmethod
    def bpftool(*arguments):
        result = subprocess.run(["bpftool", "-j", *map(str, arguments)], text=True, capture_output=True)
        expect(result.returncode == 0, f"bpftool {' '.join(map(str, arguments))}: {result.stdout}{result.stderr}")
        return json.loads(result.stdout.strip() or "[]")

    def end_daemon(self, number):
        self.daemon.send_signal(number)
        status = self.daemon.wait(60)
        expect(status == (-signal.SIGKILL if number == signal.SIGKILL else 0), f"shuntd ended with {status}")

    def kill(self):
        self.end_daemon(signal.SIGKILL)

    def stop(self):
        self.end_daemon(signal.SIGTERM)

    def shunt(self, *arguments, status=OK):
        code, text = self.lab.shunt(*arguments, program=self.shunt_program)
        expect(code == status, f"shunt {' '.join(arguments)} ended with {code}, not {status}: {text[-600:]}")
        return text

    def document(self, *command):
        """What may follow on standard error, such as a warning about a broken configuration, is not looked at."""
        return json.JSONDecoder().raw_decode(self.shunt("-o", "json", *command))[0]

    def status(self):
        return self.document("status")

    def rows(self):
        return self.document("list")["sockets"]

    def live_rows(self):
        port = f":{self.traffic.look()['live_port']}"
        return {row["cookie"]: row for row in self.rows() if row["local"].endswith(port) or row["remote"].endswith(port)}

    def pairs_made(self):
        return self.status()["counters"]["pairs_made"]

    # ---- what must hold ----

    def wait_for_traffic(self, megabytes=2):
        """So much more moves, and something on every live connection."""
        before = self.traffic.look()

        def moved():
            now = self.traffic.look()
            return (now["live_bytes"] >= before["live_bytes"] + megabytes * 10**6
                    and all(new > old for new, old in zip(now["live_received"], before["live_received"])))
        eventually(moved, "every live connection moves on")

    def all_live_redirect(self):
        """Both directions of every live connection have sent more over the shortcut than at the last call."""
        known = getattr(self, "redirected", {})

        def missing():
            rows = self.live_rows()
            done = [row for row in rows.values() if row["in_map"] and row["redirected_bytes"] > known.get(row["cookie"], 0)]
            return 2 * self.options.connections - len(done)
        eventually(lambda: missing() == 0, lambda: f"{missing()} ends of live connections send nothing over the shortcut")
        self.redirected = {cookie: row["redirected_bytes"] for cookie, row in self.live_rows().items()}

    def new_pairs(self, since):
        """Connections made from now on are paired, and send over the shortcut; how many were made."""
        old = {row["cookie"] for row in self.rows()}
        fast = set()

        def enough():
            fast.update(row["cookie"] for row in self.rows() if row["cookie"] not in old and row["redirected_bytes"])
            return self.pairs_made() - since >= NEW_PAIRS_MIN and len(fast) >= NEW_FAST_MIN
        eventually(enough, lambda: f"new connections are accelerated: {self.pairs_made() - since} pairs, {len(fast)} seen fast; "
                                   f"{self.status()}")
        return self.pairs_made() - since

    def nothing_attached(self):
        for cgroup in (self.lab.with_shunt, self.lab.without):
            shown = self.bpftool("cgroup", "show", cgroup)
            expect(not shown, f"attached to {cgroup.name}: {shown}")

    def nothing_pinned(self):
        names = {path.name for path in (self.lab.folder / "bpffs").iterdir()} - BPFFS_OWN
        expect(not names, f"pinned: {names}")

    def files(self):
        return {path.name for path in self.lab.folder.iterdir()}

    def nothing_left(self):
        self.nothing_pinned()
        self.nothing_attached()
        for kind, numbers in self.kernel_ids.items():
            def left():
                return [(entry["id"], entry.get("name")) for entry in self.bpftool(kind, "list") if entry["id"] in numbers]  # noqa: B023
            eventually(lambda: not left(), lambda: f"left in the kernel: {kind} {left()}", 30)  # noqa: B023
        for cgroup in (self.lab.with_shunt, self.lab.without):
            eventually(lambda: not (cgroup / "cgroup.procs").read_text(), f"no process in {cgroup.name}", 10)  # noqa: B023
            below = [path.name for path in cgroup.iterdir() if path.is_dir()]
            expect(not below, f"cgroups left: {below}")
        more = self.files() - {"bpffs", "state", "shunt.yaml", "shuntd.log"}
        expect(not more, f"files left: {more}")

    # ---- the frame of every scenario ----

    def until_moved(self, share, since=0):
        """That part of the bytes that are asked for, since then."""
        wanted = since + share * self.options.megabytes * 10**6
        eventually(lambda: self.traffic.bytes() >= wanted, f"{wanted:,.0f} bytes on the live connections",
                   seconds=PATIENCE_S + self.options.megabytes)  # a megabyte a second is too slow

    def go(self, scenario):
        began = time.monotonic()
        self.lab.configure(RECEIVERS)
        self.start(scenario.first)
        self.traffic = Traffic(self.lab, self.options.connections, self.options.rate * 10**6)
        eventually(lambda: self.traffic.look().get("live_open") == self.options.connections, "all live connections are there")
        self.all_live_redirect()
        self.until_moved(MARGIN)
        self.note_kernel_ids()
        self.held_enough()
        pairs, first = self.pairs_made(), self.traffic.bytes()
        scenario.event(self)
        last = self.traffic.bytes()
        pairs_during = self.pairs_made() - pairs if scenario.goes_on else 0
        expect(pairs_during > 0 or not scenario.goes_on, "no pair was made during the event")
        if scenario.goes_on:
            self.all_live_redirect()
        pairs_after = self.new_pairs(self.pairs_made())
        if self.daemon.poll() is None:
            self.note_kernel_ids()
        self.wait_for_traffic()
        self.until_moved(1)
        self.until_moved(MARGIN, since=last)
        self.tear_down()
        text = self.traffic.finish()
        expect(not text, text)
        total, report = self.traffic.progress["live_bytes"], self.traffic.report
        expect(report["kinds"]["live"] == self.options.connections, f"{report['kinds']['live']} live connections ended well")
        self.nothing_left()
        return {"bytes": total, "connections": self.options.connections, "errors": report["errors"], "stalled": report["stalled"],
                "event_begin_bytes": first, "event_end_bytes": last, "pairs_during": pairs_during,
                "pairs_after": pairs_after, "new_connections": report["connections"] - self.options.connections,
                "seconds": round(time.monotonic() - began, 1)}

    def tear_down(self):
        """As an operator ends it for good, with the traffic going on."""
        if self.daemon.poll() is None:
            self.stop()
        self.shunt("cleanup", "--timeout", "60s")
        self.nothing_pinned()
        self.nothing_attached()
        self.wait_for_traffic(1)


class Scenario:
    """`first`: the version that runs before the event; `goes_on`: the acceleration is never interrupted."""

    def __init__(self, event, first="", goes_on=True):
        self.event, self.first, self.goes_on = event, first, goes_on


def scenario(name, **options):
    def add(event):
        SCENARIOS[name] = Scenario(event, **options)
        return event
    return add


@scenario("kill -9")
def kill(run):
    run.kill()
    run.wait_for_traffic()
    expect(run.status()["source"] == "pins", "somebody answers for a dead daemon")


@scenario("restart")
def restart(run):
    run.stop()
    run.start()
    expect(run.status()["generation"] == 1, "the same layout is adopted")


@scenario("kill -9 and start")
def kill_and_start(run):
    run.kill()
    run.start()
    expect(run.status()["generation"] == 1, "the same layout is adopted")


@scenario("kill -9 in the middle of starts")
def kill_in_starts(run):
    run.stop()
    for version in ("", "-next"):
        for tenths in (6, 14, 18):
            daemon = run.lab.start([run.lab.build / f"control/shuntd{version}", "-c", run.lab.folder / "shunt.yaml"],
                                   cgroup=run.lab.without, log=run.lab.folder / "shuntd.log")
            time.sleep(tenths / 10)
            daemon.kill()
            daemon.wait()
            run.status()
    run.start()


def change_version(run, version, end):
    before = run.status()["generation"]
    old = {cookie: row["generation"] for cookie, row in run.live_rows().items()}
    end()
    run.start(version)
    after = run.status()
    expect(after["generation"] == before + 1, f"the layout changes, the generation is {after['generation']} after {before}")
    expect(set(old.values()) <= set(after["generations"]), f"the generation of live sockets is gone: {after['generations']}")
    now = {cookie: row["generation"] for cookie, row in run.live_rows().items()}
    expect(now == old, f"the other version lists {len(now)} live sockets, not {len(old)}, or of other generations")
    run.wait_for_traffic()
    eventually(lambda: any(row["generation"] == after["generation"] and row["redirected_bytes"] for row in run.rows()),
               "a new connection of the new generation sends over the shortcut")


@scenario("upgrade")
def upgrade(run):
    change_version(run, "-next", run.stop)


@scenario("downgrade", first="-next")
def downgrade(run):
    change_version(run, "", run.stop)


@scenario("kill -9, upgrade, kill -9, downgrade")
def there_and_back(run):
    change_version(run, "-next", run.kill)
    change_version(run, "", run.kill)


@scenario("off and on", goes_on=False)
def off_and_on(run):
    run.shunt("off", "--timeout", "60s")
    expect(not [row for row in run.rows() if row["in_map"]], "a socket is in the map after 'shunt off'")
    run.nothing_attached()
    run.wait_for_traffic()
    pairs = run.pairs_made()
    run.wait_for_traffic(1)
    expect(run.pairs_made() == pairs, "a pair was made while shunt was off")
    run.shunt("on")


@scenario("reload, changed and broken")
def reload(run):
    run.lab.configure(RECEIVERS + CHANGED)
    run.shunt("reload")
    run.wait_for_traffic()
    run.lab.configure(RECEIVERS + BROKEN)
    text = run.shunt("reload", status=USAGE)
    expect("shunt.yaml:" in text and "bytes" in text, f"the message names no place: {text}")
    run.wait_for_traffic()
    run.all_live_redirect()
    expect(run.status()["daemon"]["config_error"], "status hides that the reload failed")
    run.lab.configure(RECEIVERS)
    run.shunt("reload")
    expect(not run.status()["daemon"]["config_error"], "status still shows the error of before")


@scenario("cleanup with the daemon dead, and start", goes_on=False)
def cleanup(run):
    run.kill()
    run.shunt("cleanup", "--timeout", "60s")
    run.nothing_pinned()
    run.nothing_attached()
    run.wait_for_traffic()
    run.start()


@scenario("off with the daemon dead, start, on", goes_on=False)
def off_without_daemon(run):
    run.kill()
    run.shunt("off", "--timeout", "60s")
    run.nothing_attached()
    run.start()
    run.nothing_attached()
    run.wait_for_traffic(1)
    run.shunt("on")


def policy_documents(run, path):
    """A workload below the traffic's cgroup, which is not there: what is in force concerns no byte of the traffic."""
    cgroup = "/" + str((run.lab.with_shunt / "api").relative_to(cgroup_mount()))
    return (f"apiVersion: shunt.dev/v1\nkind: Workload\nmetadata: {{name: api, labels: {{app: api}}}}\n"
            f"spec: {{match: {{cgroup: {cgroup}}}}}\n---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\n"
            f"metadata: {{name: p}}\nspec:\n  endpointSelector: {{matchLabels: {{app: api}}}}\n"
            f"  ingress: [{{toPorts: [{{ports: [{{port: '80'}}], rules: {{http: [{{path: {path}}}]}}}}]}}]\n")


@scenario("policies imported, changed, refused, kept")
def policies(run):
    folder, given = run.lab.folder / "policy", run.lab.folder / "web.yaml"
    run.lab.configure(RECEIVERS + f"policy: {{directory: {folder}}}\n")
    folder.mkdir()
    run.shunt("reload")
    expect(run.status()["policy"]["generation"] == 0, "a policy is in force without documents")
    given.write_text(policy_documents(run, "/one"))
    imported = run.document("policy", "import", str(given))
    expect(imported["installed"] == ["web.yaml"] and imported["policy"]["generation"] == 1, f"import says {imported}")
    place = run.document("policy", "get")["places"][0]
    expect(place["workload"] == "default/api" and not place["found"], f"the workload that is not there: {place}")
    below = run.lab.with_shunt / "api"
    below.mkdir()
    eventually(lambda: run.document("policy", "get")["places"][0]["found"], "the workload is found", 20)
    below.rmdir()
    run.wait_for_traffic(1)
    run.note_kernel_ids()

    given.write_text(policy_documents(run, "/two") + "nonsense: 1\n")
    text = run.shunt("policy", "import", str(given), status=USAGE)
    expect(f"{given}:" in text and "nonsense" in text, f"the message names no place: {text}")
    expect((folder / "web.yaml").read_text() == policy_documents(run, "/one"), "a refused import changed the folder")
    (folder / "web.yaml").write_text("kind: Nonsense\n")
    run.shunt("reload", status=USAGE)
    expect(run.status()["policy"]["generation"] == 1, "bad documents changed the policy in force")
    expect("web.yaml:1:" in run.status()["daemon"]["config_error"], "status hides what is wrong")
    run.kill()
    expect(run.status()["policy"]["generation"] == 1, "the policy ended with the daemon")
    run.start()
    expect(run.status()["policy"]["generation"] == 1, "the policy ended with bad documents at a start")
    given.write_text(policy_documents(run, "/two"))
    imported = run.document("policy", "import", "--replace", str(given))
    expect(imported["policy"]["generation"] == 2, f"import says {imported}")
    run.wait_for_traffic(1)
    run.all_live_redirect()
    run.note_kernel_ids()
    (folder / "web.yaml").unlink()
    run.shunt("reload")
    expect(run.status()["policy"]["generation"] == 0, "a policy is in force without documents")
    run.lab.configure(RECEIVERS)
    run.shunt("reload")
    folder.rmdir()
    given.unlink()


def tell(outcome):
    return (f"{outcome['bytes'] / 1e6:,.0f} MB on {outcome['connections']} connections, event from"
            f" {outcome['event_begin_bytes'] / 1e6:,.0f} to {outcome['event_end_bytes'] / 1e6:,.0f} MB, {outcome['errors']} errors; pairs"
            f" {outcome['pairs_during']} during, {outcome['pairs_after']} after; {outcome['new_connections']} more connections;"
            f" {outcome['seconds']} s")


def main():
    settings = (("megabytes", float, 10, "at least, on live connections, in each scenario"),
                ("rate", int, 10, "megabytes a second of all live connections"), ("connections", int, 100, "live ones"))
    scenarios = Scenarios("life", lambda lab, one, options: Run(lab, options).go(one), tell, settings)
    scenarios.all = SCENARIOS
    return scenarios.main(__doc__)


if __name__ == "__main__":
    sys.exit(main())
