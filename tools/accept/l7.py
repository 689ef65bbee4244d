"""L7 in the kernel: requests judged as they are sent, and single requests punted to the fallback proxy."""

import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from galaxy import LANDED, POLICY, Galaxy  # noqa: E402
from lab import Lab, free_port, nginx_conf  # noqa: E402
from points import CORRECTNESS, SPEED, Failed, Point, Row, missing, scenarios  # noqa: E402
from policy_change import rules_in_force  # noqa: E402

REQUESTS = 100_000
FUZZED_INPUTS = 100_000_000
ROUNDS = 9
# Of nine sorted ratios the second and the eighth enclose the median with a probability of 96 %.
LOW, HIGH = 1, -2
RULES = 50


def star_wars(context):
    yield from scenarios(context, "policy_enforced", "Star Wars: who may connect, which requests pass")
    yield from scenarios(context, "punted", "curl and nginx: normalised, chunked, denied, refused")


def order(context):
    requests = REQUESTS // 50 if context.quick else REQUESTS
    yield from scenarios(context, "punted", "load: one connection, one request after the other",
                         "load: 64 connections, pipelines of up to 16", "load: 16 connections, and the policy changes all the time",
                         "pipelines: simple and complex, with denials between", "bodies: to the limit, beyond it, and large responses",
                         "a denied request behind a large response, which TCP takes in parts",
                         "a denied request behind a chunked response: that is read whole, and then the connection ends",
                         "ends: client and server leave while a request is with the proxy",
                         "ends: a server leaves before it has answered: its answer or a 502, no early end, nothing twice",
                         "load: bodies and responses of up to 10 MB, and a server that closes every 50 requests",
                         options=("--requests", str(requests)), bar=f">= {requests:,} requests of load, no error")
    yield from scenarios(context, "policy_enforced",
                         "a denied request behind one whose response is under way: the answer does not overtake it",
                         "a denied request to a server that waits inside recv(): answered in its place",
                         options=("--race", "5" if context.quick else "60"), bar="no answer overtakes a response")


def parsers_agree(context):
    for program in ("tests/unit/l7_parsers_test", "tests/unit/l7_judge_test", "tests/unit/policy_request_test",
                    "tests/unit/policy_differential_test", "tests/unit/proxy_test", "tests/kernel/test_l7"):
        yield context.gtest(program)
    yield context.parts("fuzz", "--seconds", "5" if context.quick else "60")
    if not context.quick:  # the kernel, userspace and another parser: an hour
        yield context.parts("fuzz", "--inputs", str(FUZZED_INPUTS), "kernel", seconds=4 * 3600)


def dodging(context):
    yield from scenarios(context, "policy_enforced", "dodging: split heads, urgent bytes, sendfile, pipelines",
                         "TCP takes a head in two parts",
                         "whose requests the kernel cannot see does not get through",
                         "bodies: whole, in pieces, and nothing rides behind them", "from another network namespace")
    yield from scenarios(context, "policy_enforced", "several threads and processes, heirs and strangers, write one connection at once",
                         options=("--race", "5" if context.quick else "200"), bar="10 minutes, nothing denied is read")
    yield from scenarios(context, "steered")
    yield from scenarios(context, "punted", "a proxy that was taken over reaches no connection but those that were handed to it",
                         bar="nothing delivered, no call of bpf()")


def real_software(context):
    yield from scenarios(context, "policy_enforced", "wrk: every request is judged, and redirected")
    yield from scenarios(context, "policy_redis")
    yield from scenarios(context, "real_software", "nginx", "haproxy before nginx", "Apache", "Node",
                         options=("--requests", "400" if context.quick else "5000"), bar="same bytes, >= 90 % in the kernel")
    # Programs in Go splice from their sockets: they are no receivers, and the proxy judges in the kernel's place.
    yield from scenarios(context, "real_software", "a server in Go", "a client in Go before nginx", "a client and a server in Go",
                         options=("--requests", "400" if context.quick else "5000"), bar="same bytes, >= 90 % by the proxy")


def said_and_done(context):
    yield context.gtest("tests/kernel/test_policy")
    yield from scenarios(context, "policy_enforced", "a trace says what the kernel does")
    yield from scenarios(context, "punted", "shunt monitor shows who was denied and punted, and why")
    for program in ("tests/unit/policy_documents_test", "tests/unit/policy_vectors_test"):
        yield context.gtest(program)


def life(context):
    yield from scenarios(context, "punted", "the proxy killed, stopped, and there again", "shuntd killed and started: the proxy goes on")
    yield from scenarios(context, "policy_enforced", "a policy changes under live connections",
                         "a policy that changes all the time: what all of them say always holds",
                         "a cgroup that is made anew is governed at once")
    yield from scenarios(context, "policy_enforced", "idle connections that a new policy forbids end, all others live",
                         "an idle connection to another host ends too", options=("--within", "2"), bar="within 2 s")
    yield from in_guests(context)


def in_guests(context):
    """Emulated, twenty times slower than here, on one CPU for each kernel: two hours."""
    suites = [["policy_enforced", "a trace says what the kernel does"]] if context.quick else [["policy_enforced"], ["punted"], ["steered"]]

    def row(kernel, suite):
        try:
            return context.parts("vm", "scenarios", "--timeout", "14400", kernel, *suite, seconds=15000)
        except Failed as error:  # the others count all the same
            return missing(f"{kernel} {suite[0]}", "all, at least one", str(error))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        for rows in pool.map(lambda kernel: [row(kernel, suite) for suite in suites], ("6.1", "6.12")):
            yield from rows


# ---- speed ----

def rules_policy():
    """The Star Wars policy with so many http rules, the one that is asked for in the middle."""
    rules = "".join(f'        - {{method: "GET", path: "/v1/rule-{number}/.*"}}\n' for number in range(RULES - 1))
    head, mark, tail = POLICY.replace('method: "POST"', 'method: "GET"').partition("        http:\n")
    if not mark:
        raise Failed("the policy of the demonstration has another shape")
    return head + mark + rules + tail


class Race:
    """Variants of one load, in turns, all on one CPU."""

    def __init__(self, context):
        self.context = context
        self.cpu = max(os.sched_getaffinity(0))
        self.seconds = 1 if context.quick else 2
        self.rounds = 3 if context.quick else ROUNDS

    def serve(self, lab, command, cgroup, log):
        return lab.serve(command, cgroup=cgroup, log=log, cpu=self.cpu)

    def pin(self, process):
        for thread in pathlib.Path(f"/proc/{process.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {self.cpu})

    def load(self, lab, cgroup, url, connections, script=None):
        """Requests a second."""
        command = ["wrk", "-t1", f"-c{connections}", f"-d{self.seconds}s", *(["-s", script] if script else []), url]
        text = lab.start(command, cgroup=cgroup, cpu=self.cpu).communicate()[0].decode(errors="replace")
        found = re.search(r"Requests/sec: *([\d.]+)", text)
        if not found or "Non-2xx" in text or "Socket errors" in text:
            raise Failed(f"{' '.join(map(str, command))}: {text[-300:]}")
        return float(found.group(1))

    def ratios(self, variants):
        """For each but the first its ratios to the first, sorted."""
        values = {name: [] for name in variants}
        for number in range(self.rounds):
            order = list(variants) if number % 2 else list(reversed(variants))
            for name in order:
                values[name].append(variants[name]())
        first = next(iter(variants))
        return {name: sorted(b / a for a, b in zip(values[first], values[name])) for name in variants if name != first}


def interval(ratios):
    return (ratios[LOW], ratios[HIGH]) if len(ratios) >= ROUNDS else (ratios[0], ratios[-1])


def told(ratios):
    low, high = interval(ratios)
    return f"{statistics.median(ratios):.2f} [{low:.2f} {high:.2f}]"


def judged(figure, ratios, bar):
    return Row(figure, told(ratios), f">= {bar:.2f}", interval(ratios)[1] >= bar)


def reported(figure, ratios):
    return Row(figure, told(ratios), "reported", True, informative=True)


def nginx_without_rules(race, lab, name, cgroup):
    folder, port = lab.folder / name, free_port()
    folder.mkdir()
    (folder / "nginx.conf").write_text(nginx_conf(folder, f"127.0.0.1:{port}", LANDED))
    race.serve(lab, [shutil.which("nginx"), "-c", folder / "nginx.conf", "-e", folder / "error.log"], cgroup, folder / "log")
    return port


def proxies(race, lab, upstream):
    """Ports of haproxy and of nginx as the proxy in between, without Shunt."""
    haproxy, nginx, folder = free_port(), free_port(), lab.folder / "proxy"
    folder.mkdir()
    (folder / "haproxy.cfg").write_text(
        f"global\n  maxconn 4000\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
        f"frontend f\n  bind 127.0.0.1:{haproxy}\n  default_backend b\nbackend b\n  http-reuse always\n  server s 127.0.0.1:{upstream}\n")
    race.serve(lab, ["haproxy", "-db", "-f", folder / "haproxy.cfg"], lab.without, folder / "haproxy.log")
    (folder / "nginx.conf").write_text(nginx_conf(
        folder, f"127.0.0.1:{nginx}", 'proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection "";',
        http=f"upstream up {{ server 127.0.0.1:{upstream}; keepalive 128; }}"))
    race.serve(lab, [shutil.which("nginx"), "-c", folder / "nginx.conf", "-e", folder / "error.log"], lab.without, folder / "nginx.log")
    return haproxy, nginx


def punting_script(share, path):
    """Of wrk: so many of a hundred requests are ones that the kernel does not judge. They are made beforehand: wrk is measured, too."""
    return ("local n = 0\nlocal simple, odd\n"
            f"function init() simple, odd = wrk.format('GET', '{path}'), wrk.format('GET', '/v1/x/..{path[3:]}') end\n"
            f"function request()\n  n = n + 1\n  return n * {share} % 100 < {share} and odd or simple\nend\n")


def speed(context):
    race = Race(context)
    with Lab(context.build, "accept-l7") as lab:
        galaxy = Galaxy(lab)
        galaxy.write_policy(rules_policy())
        galaxy.reload()
        proxy = galaxy.proxy(access_log=False)
        for process in (galaxy.nginx(access_log=False), proxy):
            race.pin(process)
        plain = nginx_without_rules(race, lab, "plain", lab.without)
        haproxy, nginx = proxies(race, lab, plain)
        stranger = galaxy.cgroups["stranger"]  # accelerated, and in no policy
        shortcut = nginx_without_rules(race, lab, "shortcut", stranger)
        ship, path = galaxy.cgroups["tiefighter"], "/v1/request-landing"
        scripts = {}
        for share in (10, 50, 100):
            scripts[share] = lab.folder / f"punted-{share}.lua"
            scripts[share].write_text(punting_script(share, path))

        def at(port, connections, cgroup=lab.without, script=None):
            return lambda: race.load(lab, cgroup, f"http://127.0.0.1:{port}{path}", connections, script)

        for port in (plain, haproxy, nginx, shortcut):
            lab.wait_for_port(port, proxy, lab.folder / "proxy.log", "a server")
        for connections, bar in ((1, 1.2), (16, 1.25), (128, 1.25)):
            found = race.ratios({"plain": at(plain, connections), "l7": at(galaxy.port, connections, ship)})
            yield judged(f"wrk -> nginx, {RULES} rules, c = {connections}: Shunt / plain TCP", found["l7"], bar)
        found = race.ratios({"haproxy": at(haproxy, 16), "l7": at(galaxy.port, 16, ship), "shortcut": at(shortcut, 16, stranger),
                             "plain": at(plain, 16)})
        yield judged("c = 16: Shunt / haproxy in between", found["l7"], 3.0)
        yield reported("c = 16: the shortcut without a policy / haproxy, the most that rules can leave", found["shortcut"])
        yield reported("c = 16: plain TCP without a proxy / haproxy", found["plain"])
        for share, bar in ((10, 2.8), (50, 2.0), (100, 1.4)):  # both get the same requests
            found = race.ratios({name: at(port, 16, cgroup, scripts[share])
                                 for name, port, cgroup in (("haproxy", haproxy, lab.without), ("l7", galaxy.port, ship))})
            yield judged(f"c = 16, {share} % punted: Shunt / haproxy in between", found["l7"], bar)
        found = race.ratios({"nginx": at(nginx, 16), "l7": at(galaxy.port, 16, ship)})
        yield judged("c = 16: Shunt / nginx in between", found["l7"], 2.6)
        counters = galaxy.counters()
        yield Row("requests judged in the kernel and by the proxy",
                  f"{counters['requests_allowed']:,}, {counters['requests_to_proxy']:,}", "reported", True, informative=True)
    yield from verdict_time(context)
    yield from rules_in_force(context)


def verdict_time(context):
    """Of a head of 160 bytes in the kernel, by the number of rules."""
    text = context.run("bench/gbench_l7", "--benchmark_filter=policy/kernel/.*160", "--benchmark_format=json", "--benchmark_repetitions=5",
                       "--benchmark_report_aggregates_only=true", seconds=1200)
    medians = [entry for entry in json.loads(text)["benchmarks"] if entry.get("aggregate_name") == "median"]
    found = {entry["run_name"]: entry["real_time"] for entry in medians}
    if not found:
        yield missing("verdict on a head of 160 bytes", "<= 400 ns", "the benchmark has no such cell")
    for name, nanoseconds in found.items():
        yield Row(name, f"{nanoseconds:.0f} ns", "<= 400 ns", nanoseconds <= 400)


POINTS = [
    Point("1", CORRECTNESS, "the Star Wars demo on plain processes", star_wars),
    Point("2", CORRECTNESS, "every response whole, in order, to its request, with punts in between", order),
    Point("3", CORRECTNESS, "kernel, C++ and proxy agree", parsers_agree),
    Point("4", CORRECTNESS, "no server reads an unjudged request", dodging),
    Point("5", CORRECTNESS, "real clients and servers", real_software),
    Point("6", CORRECTNESS, "what is shown and explained is what is done", said_and_done),
    Point("7", CORRECTNESS, "proxy and shuntd killed, stopped, upgraded", life),
    Point("S", SPEED, "ratios in interleaved rounds, on one CPU: a bar is held when the 95 % interval reaches it", speed),
]
