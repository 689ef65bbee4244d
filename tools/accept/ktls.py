"""kTLS: encrypted once, at the edge, by the kernel; mTLS between hosts with identities."""

import json

from points import CORRECTNESS, SPEED, Failed, Point, Row, last_lines, missing, scenarios

KERNELS = ("6.1", "6.12", "sid")
PAIRS = (("6.1", "6.12"), ("6.12", "sid"), ("sid", "6.1"))  # of two guests: client and server
GATEWAY = "tests/ktls/gateway/ktls_gateway"
SPEED_KERNEL = "6.12"
SPEED_VARIANTS = ("gateway-openssl", "gateway-ktls", "haproxy", "nginx", "plain")
SPEED_WHOLE = ("--rounds", "7", "--seconds", "0.1")
SPEED_QUICK = ("--rounds", "1", "--seconds", "0.02", "--cells", "one-way/16KiB,request/1KiB/c1/")
MANY = ("--env", "SHUNT_TEST_CONNECTIONS=2000", "--env", "SHUNT_TEST_MEGABYTES=100", "--memory", "2G", "--timeout", "10800")
REFUSALS = "StrangersAreRefused*:PlaintextIsRefused:UnfinishedHandshakes*:StrangersServices*:WhatDoesNotFit*"


def kernels(context):
    return KERNELS[1:2] if context.quick else KERNELS


def two_hosts(context):
    """With keys in the kernel, so in guests: real programs through two gateways, between network namespaces."""
    for kernel in kernels(context):
        many = () if context.quick else MANY
        yield context.parts("vm", "test", "--only", "ktls-gateway", *many, kernel, seconds=11000)
        yield context.parts("vm", "scenarios", "--timeout", "14400", kernel, "across_hosts", seconds=15000)
    for pair in PAIRS[:1] if context.quick else PAIRS:
        yield context.parts("vm", "two-hosts", *pair)


def wire(context):
    """What crosses between the hosts is recorded raw by the tests themselves, also while each system call and each allocation fails
    once: of the handshake and of a life in user space here, from the handoff to the end with keys in the kernel in guests."""
    yield context.gtest("tests/ktls/test_ktls", "*EveryStep*")
    for kernel in kernels(context):
        yield context.parts("vm", "test", "--only", "ktls", kernel)


def interoperability(context):
    """nginx 1.22 offers no ALPN to servers: it is a server, and as a client seen to be refused."""
    yield context.gtest(GATEWAY, "*OpensslIsAPeer*:*Curl*:*Redis*:*H2load*:Peers.*")
    for kernel in kernels(context):
        yield context.parts("vm", "test", "--only", "ktls-openssl-3.5", "--only", "gateway-openssl-3.5", kernel)


def refusals(context):
    yield context.gtest(GATEWAY, ":".join(f"*{name}" for name in REFUSALS.split(":")), env={"SHUNT_TEST_HANDSHAKES": "10000"})
    yield from scenarios(context, "service_modes", bar="refused with a reason, the mesh and local programs are not")


def policy(context):
    yield from scenarios(context, "across_hosts", "a workload on another host: L3, L4 and L7 rules, judged in the kernel",
                         "nobody but the gateway stands for others",
                         "another policy gives other numbers: a remote workload stays who it is", bar="as a local one")


def life(context):
    yield context.gtest(GATEWAY, "*ASignalLetsLiveConnectionsFinish:*AKilledGateway*:*CertificatesRotate*:*EndLiveConnections:*ABundle*")
    yield from scenarios(context, "across_hosts",
                         *(f"100 live connections each way, every byte checked, while shuntd is {event}"
                           for event in ("killed and restarted", "upgraded and downgraded to other layouts")))


def directory(context):
    outcome = context.json(context.root / "tests/socket/across_hosts.py", "--build", str(context.build), "-o", "json",
                           "a service is found among 50,000", statuses=(0, 1))[0]
    if not outcome["ok"]:
        raise Failed(outcome["error"])
    few, many = outcome["few_ns"], outcome["many_ns"]
    yield Row("connect(), 50,002 services / 2", f"{many / few:.3f} ({many:,} ns, {few:,} ns)", "<= 1.05", many <= 1.05 * few)


def bench_document(context, *arguments):
    """The report of `shunt bench tls` in a guest, whose console brings errors with it."""
    text = context.run(context.root / "tools/dev", "vm", "bench", SPEED_KERNEL, "-o", "json", *arguments, seconds=7500,
                       statuses=(0, 1), env={"SHUNT_BUILD": str(context.build)})
    begin = text.find("{\n")
    try:
        return json.JSONDecoder().raw_decode(text[begin:])[0]
    except ValueError as error:
        raise Failed(f"shunt bench tls wrote no JSON: {last_lines(text)}") from error


def interval(ratio):
    return f"{ratio['median']:.2f} [{ratio['low']:.2f} {ratio['high']:.2f}]"


def told(cell):
    """What the others reach, and what the gateways cost."""
    variants = cell["variants"]
    others = [f"{name} {interval(v['ratio'])}" for name, v in variants.items() if "ratio" in v and name != "gateway-ktls"]
    stream = cell["group"] == "one-way"
    field, per, digits = ("gateway_cost_per_byte", "byte", 2) if stream else ("gateway_cost_per_message", "request", 0)
    costs = [f"{name} {v[field]:,.{digits}f}" for name, v in variants.items() if field in v]
    return f"{', '.join(others)}; instructions of both gateways per {per}: {', '.join(costs)}"


def speed(context):
    """In instructions of an emulator, so ratios are reported and judged by nobody; that each was measured, is."""
    document = bench_document(context, *(SPEED_QUICK if context.quick else SPEED_WHOLE))
    absent, problems = document["tls"]["absent"], document["problems"]
    results = [v for cell in document["cells"] for v in cell["variants"].values()]
    good = [v for v in results if v["value"] > 0 and not v["failures"] and len(v["rounds"]) == document["plan"]["rounds"]]
    wanted = len(SPEED_VARIANTS) * len(document["cells"])
    whole = document["cost"]["source"] == "emulator" and not document["plan"]["interrupted"] and not absent and not problems
    trouble = [*(f"{name}: {why}" for name, why in absent.items()), *problems, *(why for v in results for why in v["failures"])]
    yield Row("pairs of gateways and cells measured, all bytes checked", f"{len(good)} of {wanted}", "all, in all rounds",
              whole and wanted > 0 and len(good) == len(results) == wanted, "; ".join(trouble)[:400])
    for cell in document["cells"]:
        kernel = cell["variants"].get("gateway-ktls", {})
        value = interval(kernel["ratio"]) if "ratio" in kernel else "not measured"
        yield Row(f"{cell['name']}: kTLS / OpenSSL, emulated", value, "reported", True, told(cell), informative=True)


POINTS = [
    Point("1", CORRECTNESS, "two hosts: curl, h2load, psql, redis-cli and their servers, keys in the kernel", two_hosts),
    Point("2", CORRECTNESS, "wire oracle: never plaintext, never a forged or truncated stream", wire),
    Point("3", CORRECTNESS, "OpenSSL, nginx and haproxy as peers", interoperability),
    Point("4", CORRECTNESS, "who is not who he should be is refused, with a reason and in bounds", refusals),
    Point("5", CORRECTNESS, "rules on requests count for what arrives over kTLS, judged in the kernel", policy),
    Point("6", CORRECTNESS, "restart and upgrade of shuntd and the gateway", life),
    Point("7", SPEED, "kTLS against OpenSSL in userspace, haproxy and nginx: reported", speed),
    Point("D", SPEED, "the cost at connect does not depend on the number of services", directory),
]
