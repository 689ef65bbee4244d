"""The shortcut: a host's local connections go from socket to socket, and nothing can tell."""

import pathlib
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from lab import Lab, free_port, nginx_conf  # noqa: E402
from points import CORRECTNESS, SPEED, Failed, Point, Row  # noqa: E402
from postgres import bin_dir, start_postgres  # noqa: E402

CONNECTIONS = 100_000
AT_ONCE = 1000
# A connection of the checker sends and expects in small pieces: at least so much of it must have taken the shortcut for the
# checked bytes to say anything about it.
REDIRECTED_SHARE_MIN = 0.25
LIFE_MEGABYTES = 1000  # of checked traffic under each event


def counter(status, name):
    return status.get("counters", {}).get(name, 0)


def checked_traffic(context):
    """The checker as it is, through a daemon as it is installed: only the checker is named as a receiver."""
    connections = CONNECTIONS // 50 if context.quick else CONNECTIONS
    more = "receivers: {add: [shunt-traffic]}\nprofile: {enabled: false}\n"
    with Lab(context.build, "accept") as lab:
        lab.start_daemon(more)
        report = context.json("tests/socket/shunt-traffic", "--connections", str(connections), "--at-once", str(AT_ONCE),
                              "--threads", "8", "--processes", "4", "--cgroup", str(lab.with_shunt), "-o", "json",
                              seconds=3600, statuses=(0, 1))
        status = lab.status()
    yield Row("connections, every byte checked", f"{report['connections']:,}", f"{connections:,}",
              report["connections"] >= connections, detail="; ".join(report["messages"][:3]))
    yield Row("errors", str(report["errors"]), "0", report["errors"] == 0)
    yield Row("stalled", str(report["stalled"]), "0", report["stalled"] == 0)
    yield Row("longest time in which a thread did not look", f"{report['longest_round_seconds']:.1f} s", "reported", True,
              informative=True)
    fast, tcp = counter(status, "redirected_bytes"), counter(status, "tcp_bytes")
    share = fast / (fast + tcp) if fast + tcp else 0
    yield Row("of the enrolled sockets' bytes redirected", f"{share:.0%}", f">= {REDIRECTED_SHARE_MIN:.0%}",
              share >= REDIRECTED_SHARE_MIN)


def tests(*programs):
    """A measurement that runs test programs, each (path, filter)."""
    def measure(context):
        for program, only in programs:
            yield context.gtest(program, only)
    return measure


def traffic_and_hazards(context):
    yield from checked_traffic(context)
    yield from tests(("tests/socket/test_checker", "*"), ("tests/socket/test_hazards", "*"), ("tests/socket/test_retransmission", "*"),
                     ("tests/socket/test_topology", "Firewall.*"), ("tests/kernel/test_kernel", "*"))(context)


def start_nginx(lab):
    """(server, its address, what loads it)"""
    folder = lab.folder / "nginx"
    folder.mkdir()
    port = free_port()
    (folder / "nginx.conf").write_text(nginx_conf(folder, f"127.0.0.1:{port}"))
    server = lab.serve(["nginx", "-c", folder / "nginx.conf", "-e", folder / "error.log"], cgroup=lab.with_shunt,
                       log=folder / "log")
    return server, port, ["wrk", "-t2", "-c50", "-d3s", f"http://127.0.0.1:{port}/"]


def start_haproxy(lab):
    """wrk -> haproxy -> nginx, without splicing."""
    _, backend, _ = start_nginx(lab)
    port = free_port()
    config = lab.folder / "haproxy.cfg"
    config.write_text(f"global\n  maxconn 4000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n"
                      f"  timeout server 60s\nfrontend f\n  bind 127.0.0.1:{port}\n  default_backend b\n"
                      f"backend b\n  http-reuse always\n  server s 127.0.0.1:{backend}\n")
    server = lab.serve(["haproxy", "-db", "-f", config], cgroup=lab.with_shunt, log=lab.folder / "haproxy.log")
    return server, port, ["wrk", "-t2", "-c50", "-d3s", f"http://127.0.0.1:{port}/"]


def start_redis(lab):
    port = free_port()
    server = lab.serve(["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir",
                        lab.folder], cgroup=lab.with_shunt, log=lab.folder / "redis.log")
    return server, port, ["redis-benchmark", "-p", str(port), "-c", "50", "-n", "100000", "-q", "-t", "get,set"]


def start_pgbench(lab):
    port = free_port()
    server, data = start_postgres(lab, port, lab.with_shunt)
    pgbench = [str(bin_dir() / "pgbench"), "-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
    # The tables are filled over the Unix socket: bulk loading is not the traffic that is judged.
    subprocess.run([pgbench[0], "-h", data, "-p", str(port), "-U", "postgres", "-i", "-q", "postgres"], check=True,
                   capture_output=True)
    return server, port, [*pgbench, "-S", "-n", "-c", "20", "-j", "2", "-T", "3", "postgres"]


STACKS = {"nginx": start_nginx, "haproxy": start_haproxy, "redis": start_redis, "PostgreSQL": start_pgbench}


def enrolment(context):
    """Real servers under a daemon on its defaults: the first load teaches, the second one counts."""
    for name, start in STACKS.items():
        with Lab(context.build, "accept") as lab:
            lab.start_daemon()
            server, port, load = start(lab)
            lab.wait_for_port(port, server, lab.folder, name)
            statuses = [lab.status()]
            for _ in range(2):
                process = lab.start(load, cgroup=lab.with_shunt)
                text = process.communicate()[0].decode(errors="replace")
                if process.returncode != 0:
                    raise Failed(f"{load[0]}: {text[-400:]}")
                time.sleep(0.5)  # the last sockets close
                statuses.append(lab.status())
        counted = {key: counter(statuses[2], key) - counter(statuses[1], key)
                   for key in ("sockets_seen", "pairs_made", "redirected_bytes", "tcp_bytes")}
        seen, sent = counted["sockets_seen"], counted["redirected_bytes"] + counted["tcp_bytes"]
        pairs = counted["pairs_made"] / seen if seen else 0
        share = counted["redirected_bytes"] / sent if sent else 0
        yield Row(f"{name}: connections paired", f"{pairs:.1%} of {seen}", ">= 95 %", pairs >= 0.95)
        yield Row(f"{name}: bytes redirected", f"{share:.1%} of {sent:,}", ">= 90 %", share >= 0.90)


def call_matrix(context):
    yield from tests(("tests/socket/test_call_matrix", "*"), ("tests/socket/test_guards", "*"))(context)
    yield from enrolment(context)


def daemon_life(context):
    """The daemon and the command line as a user has them, each event in the middle of checked traffic."""
    megabytes = LIFE_MEGABYTES // 20 if context.quick else LIFE_MEGABYTES
    outcomes = context.json(context.root / "tests/socket/daemon_life.py", "--build", str(context.build), "--megabytes",
                            str(megabytes), "--rate", "60", "-o", "json", seconds=3600, statuses=(0, 1))
    for outcome in outcomes:
        if not outcome["ok"]:
            yield Row(outcome["name"], "failed", "nothing lost, nothing left", False, detail=outcome["error"][:400])
            continue
        value = f"{outcome['bytes'] / 1e6:,.0f} MB, {outcome['errors']} errors"
        yield Row(outcome["name"], value, f">= {megabytes:,} MB, 0 errors",
                  outcome["bytes"] >= megabytes * 1e6 and outcome["errors"] == 0,
                  detail=f"{outcome['connections']} connections, event from {outcome['event_begin_bytes'] / 1e6:,.0f} to"
                         f" {outcome['event_end_bytes'] / 1e6:,.0f} MB; pairs made: {outcome['pairs_during']} during,"
                         f" {outcome['pairs_after']} after; nothing left")


def life_cycle(context):
    yield from daemon_life(context)
    yield from tests(("tests/socket/test_lifecycle", "*"), ("tests/socket/test_nginx", "*"))(context)
    yield context.parts("package", "--test", "--megabytes", str(100 if context.quick else LIFE_MEGABYTES))


def sanitized(context):
    """A row for each sanitizer, and one that names what did not run under it."""
    report = context.json(context.root / "tools/dev", "sanitize", "-o", "json", seconds=3 * 3600, statuses=(0, 1))
    for name in ("address", "thread"):
        tests = [test for test in report["tests"] if test["sanitizer"] == name]
        passed, failed = (sum(test[key] for test in tests) for key in ("passed", "failed"))
        findings = sum(len(test["findings"]) for test in tests)
        bad = [f"{test['test']}: {'; '.join(test['failures'] + test['findings'])}" for test in tests
               if test["failures"] or test["findings"]]
        yield Row(f"{name} sanitizer, {len(tests)} test programs", f"{passed} passed, {failed} failed, {findings} findings",
                  "all, at least one; no finding", passed > 0 and not failed and not findings, detail="; ".join(bad)[:400])
        left = [f"{entry['test']} ({entry['reason']})" for entry in report["not_run"] if entry["sanitizer"] == name]
        yield Row(f"{name} sanitizer, not run", str(len(left)), "reported", True, detail="; ".join(left), informative=True)


def parsers_and_sanitizers(context):
    yield context.parts("fuzz", "--seconds", "5" if context.quick else "60")
    yield from sanitized(context)


def bars(context):
    """The harness judges its own bars: one run with every variant interleaved."""
    quick = ["--quick"] if context.quick else []
    document = context.json("bench/shunt-bench", "--accept", "-o", "json", *quick, seconds=4 * 3600, statuses=(0, 1))
    yield Row("a system call on this machine", f"{document['environment']['syscall_ns']:.0f} ns", "reported", True, informative=True)
    for bar in document["bars"]:
        ratio = bar["ratio"]
        interval = f"{ratio['median']:.2f} [{ratio['low']:.2f} {ratio['high']:.2f}]" if ratio["rounds"] else "not measured"
        detail = f"falls short of the prototype's {bar['prototype']}" if bar.get("below_prototype") else ""
        if "bare" in bar:
            bare = bar["bare"]
            detail += f"{'; ' if detail else ''}a redirect that checks nothing: {bare['median']:.2f} [{bare['low']:.2f} {bare['high']:.2f}]"
        yield Row(bar["name"], interval, f">= {bar['bar']:.2f}", bar["holds"], detail)
    if not document["bars"]:
        raise Failed("the harness judged no bar")
    for row in document.get("memory", []):
        yield Row("held connections", ", ".join(f"{k} {v}" for k, v in row.items())[:100], "reported", True, informative=True)


POINTS = [
    Point("1", CORRECTNESS, "checked traffic in all shapes; hazards provoked with and without their remedy", traffic_and_hazards),
    Point("2", CORRECTNESS, "socket calls answer as on plain TCP, while the stacks are accelerated", call_matrix),
    Point("3", CORRECTNESS, "a reader that never reads stops its sender; memory per pair is bounded",
          tests(("tests/socket/test_backpressure", "*"))),
    Point("4", CORRECTNESS, "the right peer through namespaces, veth and NAT; ends that are not enrolled are plain",
          tests(("tests/socket/test_topology", "*"))),
    Point("5", CORRECTNESS, "crash, restart, upgrade, off and removal under traffic", life_cycle),
    Point("6", CORRECTNESS, "exhaustion falls back to TCP with a reason",
          tests(("tests/socket/test_limits", "*"), ("tests/socket/test_full_maps", "*"))),
    Point("7", CORRECTNESS, "parsers fuzzed; sanitizers clean", parsers_and_sanitizers),
    Point("S", SPEED, "ratios to plain TCP in interleaved rounds: a bar is held when the 95 % interval reaches it", bars),
]
