"""The shortcut: a host's local connections go from socket to socket, and nothing can tell."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from lab import Lab  # noqa: E402
from points import CORRECTNESS, SPEED, Failed, Point, Row  # noqa: E402

CONNECTIONS = 100_000
AT_ONCE = 1000
# A connection of the checker sends and expects in small pieces: at least so much of it must have taken the shortcut for the
# checked bytes to say anything about it.
REDIRECTED_SHARE_MIN = 0.25


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
    yield from tests(("tests/socket/test_checker", "*"))(context)


def bars(context):
    """The harness judges its own bars: one run with every variant interleaved."""
    quick = ["--quick"] if context.quick else []
    document = context.json("bench/shunt-bench", "--accept", "-o", "json", *quick, seconds=4 * 3600, statuses=(0, 1))
    for bar in document["bars"]:
        ratio = bar["ratio"]
        interval = f"{ratio['median']:.2f} [{ratio['low']:.2f} {ratio['high']:.2f}]" if ratio["rounds"] else "not measured"
        detail = f"falls short of the prototype's {bar['prototype']}" if bar.get("below_prototype") else ""
        yield Row(bar["name"], interval, f">= {bar['bar']:.2f}", bar["holds"], detail)
    if not document["bars"]:
        raise Failed("the harness judged no bar")
    for row in document.get("memory", []):
        yield Row("held connections", ", ".join(f"{k} {v}" for k, v in row.items())[:100], "reported", True, informative=True)


POINTS = [
    Point("1", CORRECTNESS, "checked traffic in all shapes; hazards provoked with and without their remedy", traffic_and_hazards),
    Point("S", SPEED, "ratios to plain TCP in interleaved rounds: a bar is held when the 95 % interval reaches it", bars),
]
