#!/usr/bin/env python3
"""Requests handed to the fallback proxy, one by one, and back into their connection (root)

usage: punted.py [--build DIR] [--requests N] [-o tap|json] [--list] [SCENARIO...]

The Star Wars demo with shunt-proxy: what the kernel side does not judge is judged by the proxy and put back, so that the server
answers the client directly, in order. Each scenario has a daemon, cgroups, a server and a proxy of its own.
"""

import json
import pathlib
import re
import signal
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/lib"))
sys.dont_write_bytecode = True

from galaxy import PATIENCE_S, POLICY, Galaxy, istio_requests, metrics_at  # noqa: E402
from scenarios import SLOWER, Scenarios, eventually, expect  # noqa: E402



def go(lab, function, options):
    galaxy = Galaxy(lab)
    galaxy.requests = options.requests
    return function(galaxy)


SCENARIOS = Scenarios("punted", go, lambda outcome: f"{outcome['seconds']} s",
                      (("requests", int, 3000, "in each scenario of load, at least"),))
LANDING = "POST /v1/request-landing HTTP/1.1\r\nHost: deathstar\r\nContent-Length: 0\r\n\r\n"
DOTS = "POST /v1/x/../request-landing HTTP/1.1\r\nHost: deathstar\r\nContent-Length: 0\r\n\r\n"
EXHAUST = "PUT /v1/exhaust-port HTTP/1.1\r\nHost: deathstar\r\nContent-Length: 0\r\n\r\n"
EXHAUST_DOTS = "PUT /v1/x/../exhaust-port HTTP/1.1\r\nHost: deathstar\r\nContent-Length: 0\r\n\r\n"


def chunked(*chunks, path="/v1/request-landing", more=""):
    body = "".join(f"{len(chunk):x}\r\n{chunk}\r\n" for chunk in chunks)
    return f"POST {path} HTTP/1.1\r\nHost: deathstar\r\n{more}Transfer-Encoding: chunked\r\n\r\n{body}0\r\n\r\n"


def with_length(body, path="/v1/x/../request-landing", more=""):
    return f"POST {path} HTTP/1.1\r\nHost: deathstar\r\n{more}Content-Length: {len(body)}\r\n\r\n{body}"


def statuses_of(result):
    return re.findall(r"HTTP/1\.1 (\d+) ", result["got"])


def scenario(name):
    def add(function):
        SCENARIOS.all[name] = function
        return function
    return add


@scenario("curl and nginx: normalised, chunked, denied, refused")
def shapes(galaxy):
    galaxy.web_server()
    galaxy.proxy()
    for method, path, more, wanted in (
            ("POST", "/v1/request-landing", (), "200"), ("POST", "/v1/request-landing/../request-landing", ("--path-as-is",), "200"),
            ("POST", "/v1//request-landing", ("--path-as-is",), "200"), ("POST", "/v1/%72equest-landing", (), "200"),
            ("PUT", "/v1/request-landing/../exhaust-port", ("--path-as-is",), "403"),
            ("PUT", "/v1/x/../exhaust-port", ("--path-as-is", "-H", "X-Has-Force: true"), "200"),
            ("POST", "/v1/request-landing", ("-H", "Transfer-Encoding: chunked", "-d", "some cargo"), "200"),
            ("POST", "/v1/request-landing", ("-H", "Expect: 100-continue", "-d", "some cargo"), "200"),
            ("POST", "/v1/request-landing", ("-H", "X: " + 20000 * "x"), "200"),
            ("POST", "/v1/request-landing", ("-H", "X: " + 70000 * "x"), "431"),
            ("POST", "/v1/request-landing/%2e%2e/%2fx", ("--path-as-is",), "400")):
        code, status, text = galaxy.curl("tiefighter", method, path, *more)
        expect((code, status) == (0, wanted), f"{method} {path[:60]} {str(more)[:60]}: curl {code}, status {status}, not {wanted}: {text}")
    seen = [line.split('"')[1] for line in (galaxy.lab.folder / "nginx/access.log").read_text().splitlines()]
    expect(set(seen) == {"POST /v1/request-landing HTTP/1.1", "PUT /v1/exhaust-port HTTP/1.1"} and len(seen) == 8, f"nginx saw {seen}")
    counters = galaxy.counters()
    expect(counters["requests_to_proxy"] == 9 and counters["requests_without_channel"] == 0, f"counted: {counters}")
    verdicts = [entry["verdict"] for entry in galaxy.accessed()]
    expect(verdicts.count("forwarded") == 7 and verdicts.count("refused") == 2 and len(verdicts) == 9, f"logged: {verdicts}")
    metrics = galaxy.proxy_metrics()
    counted = {series: value for series, value in metrics.items() if series.startswith("shunt_proxy_requests_total") and value}
    expect(counted == {'shunt_proxy_requests_total{source="channel",outcome="forwarded",code="none"}': 7,
                       'shunt_proxy_requests_total{source="channel",outcome="refused",code="4xx"}': 2}
           and metrics["shunt_proxy_channels"] == 64, f"in its metrics: {counted}, {metrics.get('shunt_proxy_channels')} channels")


@scenario("one connection: judged here and there in turns, in order")
def in_turns(galaxy):
    galaxy.recorder()
    galaxy.proxy()
    steps = []
    for number in range(100):
        for text in (LANDING, DOTS, EXHAUST, EXHAUST_DOTS, chunked("a" * (number + 1)), LANDING, with_length("b" * 3000)):
            steps += [["send", text], ["responses", 1]]
    result = galaxy.client("tiefighter", *steps)
    statuses = statuses_of(result)
    wanted = ["200", "200", "403", "403", "200", "200", "200"] * 100  # the third and fourth by the kernel: whatever the path means
    expect(result["error"] is None and statuses == wanted,
           f"{result['error']}, {len(statuses)} responses, first difference at "
           f"{next((i for i, (a, b) in enumerate(zip(statuses, wanted)) if a != b), len(statuses))}: {result['got'][-200:]}")
    read = galaxy.read()
    expect(read.count("POST /v1/request-landing HTTP/1.1") == 500 and "exhaust" not in read and "/../" not in read,
           f"the server read {read.count('POST')} requests")
    # What is sent before the proxy has said that it is done follows to it, simple or not.
    counters, by_proxy = galaxy.counters(), len(galaxy.accessed())
    expect(counters["requests_allowed"] + counters["requests_denied"] + by_proxy == 700 and counters["requests_allowed"] >= 100
           and counters["connections_forbidden"] == 0, f"counted: {counters}; by the proxy: {by_proxy}")


@scenario("shunt monitor shows who was denied and punted, and why")
def monitored(galaxy):
    galaxy.recorder()
    galaxy.proxy()
    folder = galaxy.lab.folder
    out = folder / "monitor"
    monitor = galaxy.lab.serve([galaxy.lab.build / "control/shunt", "-c", folder / "shunt.yaml", "monitor", "-o", "json", "--event",
                                "denied", "punted"], log=out)

    def shown():
        lines = [json.loads(line) for line in out.read_text().splitlines() if line.startswith("{")]
        return {(line["verdict"], line["policy_reason"], line["client"]) for line in lines if line.get("rules") is not None}

    def asked():  # until the kernel side knows that somebody watches
        galaxy.client("tiefighter", ["send", EXHAUST], ["responses", 1], ["send", DOTS], ["responses", 1])
        return {entry[0] for entry in shown()} == {"denied", "punted"}

    eventually(asked, lambda: f"the monitor shows {out.read_text()}", PATIENCE_S)
    expect(monitor.poll() is None and all("tiefighter" in client and why for _, why, client in shown()), f"shown: {shown()}")


@scenario("responses to punted requests are redirected as others are")
def responses(galaxy):
    galaxy.recorder()
    galaxy.proxy()
    before = galaxy.counters()
    result = galaxy.client("tiefighter", *[["send", DOTS], ["responses", 1]] * 300)
    expect(statuses_of(result) == ["200"] * 300 and result["error"] is None, f"{result['error']}: {result['got'][-200:]}")
    redirected = galaxy.counters()["redirected_messages"] - before["redirected_messages"]
    expect(redirected >= 290, f"of 300 responses {redirected} were redirected")


@scenario("pipelines: simple and complex, with denials between")
def pipelined(galaxy):
    galaxy.recorder()
    galaxy.proxy()
    burst = [LANDING, DOTS, LANDING, EXHAUST_DOTS, chunked("xyz"), EXHAUST, LANDING, DOTS]
    wanted = ["200", "200", "200", "403", "200", "403", "200", "200"]
    for cut in (1, 40, 100, 161, 300, 700):
        text = "".join(burst)
        parts = [text[i:i + cut] for i in range(0, len(text), cut)] if cut > 1 else [text]
        steps = [["send", part] for part in parts] + [["responses", len(burst)]]
        result = galaxy.client("tiefighter", *(steps * 5))
        expect(result["error"] is None and statuses_of(result) == wanted * 5,
               f"pieces of {cut}: {result['error']}, {statuses_of(result)}")
    expect("exhaust" not in galaxy.read(), "a denied request reached the server")


WRITTEN = """        - method: GET
          path: /v1/.*
          headerMatches:
          - {name: X-Fleet, value: death squadron, mismatch: REPLACE}
        - method: GET
          path: /v1/cargo
          headerMatches:
          - {name: X-Hold, value: "4", mismatch: ADD}
          - {name: X-Origin, value: endor, mismatch: DELETE}
        - {method: GET, path: /v1/seen, headerMatches: [{name: X-Seen, mismatch: LOG}]}
"""


def get(path, *headers):
    return "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", "Host: deathstar", *headers)) + "\r\n"


@scenario("headers that rules have written: replaced, added, deleted, logged; what is right stays in the kernel")
def written(galaxy):
    galaxy.recorder()
    proxy = galaxy.proxy()
    galaxy.write_policy(POLICY.replace("        http:\n", "        http:\n" + WRITTEN, 1))
    galaxy.reload()
    right = get("/v1/cargo", "X-Fleet: death squadron", "x-hold: 4", "X-Origin: endor")
    wrong = get("/v1/cargo", "X-Fleet: rebels", "X-Hold: 5", "X-Origin: hoth", "x-fleet: more", "X-Left: alone")
    result = galaxy.client("tiefighter", *[["send", right], ["responses", 1]] * 20)
    expect(statuses_of(result) == ["200"] * 20 and galaxy.read() == right * 20, f"as rules say: {result}")
    expect(galaxy.counters()["requests_to_proxy"] == 0 and not galaxy.accessed(), "what is right went to the proxy")
    result = galaxy.client("tiefighter", ["send", right + wrong + right], ["responses", 3], ["send", LANDING], ["responses", 1])
    expect(statuses_of(result) == ["200"] * 4, f"not as rules say: {result}")
    changed = get("/v1/cargo", "X-Hold: 5", "X-Left: alone", "X-Fleet: death squadron", "X-Hold: 4")
    expect(galaxy.read() == right * 20 + right + changed + right + LANDING, f"the server read {galaxy.read()[len(right) * 20:]}")
    told = [row["mismatched_headers"] for row in galaxy.accessed() if "mismatched_headers" in row]
    expect(told == ["x-fleet, x-hold, x-origin"], f"logged: {galaxy.accessed()}")
    result = galaxy.client("tiefighter", ["send", get("/v1/seen", "X-Fleet: death squadron")], ["responses", 1])
    expect(statuses_of(result) == ["200"] and galaxy.read().endswith(get("/v1/seen", "X-Fleet: death squadron")), f"logged alone: {result}")
    expect(galaxy.accessed()[-1]["mismatched_headers"] == "x-seen" and galaxy.accessed()[-1]["verdict"] == "forwarded",
           f"logged: {galaxy.accessed()[-1]}")
    # Allowed by another rule, but not without the proxy.
    galaxy.lab.stop(proxy)
    eventually(lambda: statuses_of(galaxy.client("tiefighter", ["send", wrong], ["responses", 1])) == ["503"], "nobody writes them")
    result = galaxy.client("tiefighter", ["send", right], ["responses", 1])
    expect(statuses_of(result) == ["200"], f"what is right needs no proxy: {result}")


@scenario("bodies: to the limit, beyond it, and large responses")
def bodies(galaxy):
    galaxy.recorder()
    galaxy.proxy()
    big = with_length("c" * (1 << 20))
    result = galaxy.client("tiefighter", ["send", big], ["responses", 1], ["send", LANDING], ["responses", 1],
                           ["send", chunked(*["d" * 10000] * 100)], ["responses", 1], ["send", DOTS + LANDING + DOTS], ["responses", 3])
    expect(statuses_of(result) == ["200"] * 6 and result["error"] is None, f"{statuses_of(result)}, {result['error']}")
    read = galaxy.read()
    whole = re.sub("\r\n[0-9a-f]+\r\n", "", read)  # the proxy may cut chunks anew
    expect(whole.count("c" * (1 << 20)) == 1 and whole.count("d" * 1_000_000) == 1, "the bodies arrived changed")
    for text in (with_length("e" * (1 << 20) + "e"), chunked(*["e" * 10000] * 120), "POST /v1/x/../request-landing HTTP/1.1\r\n"
                 "Host: a\r\nContent-Length: 123456789\r\n\r\n"):
        result = galaxy.client("tiefighter", ["send", LANDING], ["responses", 1], ["send", text], ["responses", 1], ["recv", 6])
        expect(statuses_of(result) == ["200", "413"] and result["error"], f"beyond the limit: {statuses_of(result)}, {result['error']}")
    expect("eee" not in galaxy.read(), "a body beyond the limit reached the server")


def load_once(galaxy, connections, depth, meanwhile, *more):
    each = galaxy.requests // connections + 1
    client = galaxy.lab.serve([sys.executable, ROOT / "tests/socket/request_load.py", galaxy.port, connections, each, depth, *more],
                              cgroup=galaxy.cgroups["tiefighter"])
    while client.poll() is None:
        meanwhile()
        time.sleep(0.05)
    return json.loads(client.communicate()[0])


def load(galaxy, connections, depth, meanwhile=lambda: None, enough=lambda: True):
    """All requests at once over so many connections, and again until it is enough."""
    galaxy.web_server()
    galaxy.proxy()
    outcome = load_once(galaxy, connections, depth, meanwhile)
    while not outcome["errors"] and not enough():
        outcome = load_once(galaxy, connections, depth, meanwhile)
    answered = sum(outcome["statuses"].values())
    expect(outcome["errors"] == 0 and answered >= galaxy.requests, f"{outcome}; {galaxy.counters()}")
    to_proxy = galaxy.counters()["requests_to_proxy"]  # what follows such a request is not counted
    expect(to_proxy >= connections, f"of {answered} requests {to_proxy} went to the proxy")
    return {"requests": answered, "requests_to_proxy": to_proxy, "errors": outcome["errors"], "load_seconds": outcome["seconds"]}


@scenario("load: one connection, one request after the other")
def load_one(galaxy):
    return load(galaxy, 1, 1)


@scenario("load: 64 connections, pipelines of up to 16")
def load_many(galaxy):
    return load(galaxy, 64, 16)


@scenario("load: 16 connections, and the policy changes all the time")
def load_changing(galaxy):
    changes = 0

    def change():
        nonlocal changes
        changes += 1
        path = "/v1/(request-landing|other)" if changes % 2 else "/v1/request-landing"
        galaxy.write_policy(POLICY.replace('"/v1/request-landing"', f'"{path}"'))
        galaxy.reload()

    outcome = load(galaxy, 16, 4, change, lambda: changes >= 5)
    return {**outcome, "changes": changes}


def number(galaxy, requests):
    """The server that numbers responses, and closes each connection after so many; its log."""
    log = galaxy.lab.folder / "server.log"
    server = galaxy.lab.serve([sys.executable, ROOT / "tests/socket/numbering_server.py", galaxy.port, requests],
                              cgroup=galaxy.cgroups["deathstar"], log=log)
    galaxy.lab.wait_for(lambda: "ready" in log.read_text(), server, log, "the server")
    return log


@scenario("a denied request behind a large response, which TCP takes in parts")
def behind_large(galaxy):
    number(galaxy, 1000)
    galaxy.proxy()
    large_one = LANDING.replace("\r\n\r\n", "\r\nX-Number: 1\r\nX-Want: 4000000\r\n\r\n")
    wanted = [["send", large_one], ["sleep", 0.3], ["responses", 1], ["send", EXHAUST], ["responses", 1]]
    statuses, large = [], 0
    for _ in range(2):
        result = galaxy.client("tiefighter", *3 * wanted)
        large += result["got"].count("X-Number")
        statuses += statuses_of(result)
        expect("timed out" not in str(result["error"]), f"nothing comes any more: {statuses}, {result['error']}")
    expect(large >= 2 and statuses.count("403") >= large // 2 and len(statuses) <= 2 * large, f"{large} responses, {statuses}")


@scenario("load: bodies and responses of up to 10 MB, and a server that closes every 50 requests")
def load_large(galaxy):
    log = number(galaxy, 50)
    galaxy.proxy()
    outcome = load_once(galaxy, 8, 6, lambda: None, "--large", 10_000_000)
    answered = sum(outcome["statuses"].values())
    expect(outcome["errors"] == 0 and answered >= galaxy.requests, f"{outcome}; {galaxy.counters()}; {log.read_text()[-500:]}")
    expect(outcome["reconnects"] >= answered // 100 and outcome["bytes"] > 20_000_000, f"too little was tried: {outcome}")
    return {"requests": answered, "requests_to_proxy": galaxy.counters()["requests_to_proxy"], "errors": 0,
            "megabytes": outcome["bytes"] // 1_000_000, "reconnects": outcome["reconnects"], "load_seconds": outcome["seconds"]}


@scenario("the proxy killed, stopped, and there again")
def proxy_ends(galaxy):
    galaxy.recorder()
    proxy = galaxy.proxy()
    half = chunked("x" * 100)[:-30]
    waiting = galaxy.lab.serve(galaxy.client_command([["send", half], ["recv", 30]]), cgroup=galaxy.cgroups["tiefighter"])
    eventually(lambda: galaxy.counters()["requests_to_proxy"] == 1, "the request is with the proxy")
    proxy.send_signal(signal.SIGKILL)
    proxy.wait()
    begin = time.monotonic()
    result = json.loads(waiting.communicate(timeout=PATIENCE_S)[0])
    expect(result["error"] and time.monotonic() - begin < 2, f"whose request was with a dead proxy: {result}")
    turns = [["send", LANDING], ["responses", 1], ["send", DOTS], ["responses", 1], ["send", LANDING], ["responses", 1]]
    result = galaxy.client("tiefighter", *turns)
    expect(statuses_of(result) == ["200", "503", "200"], f"without a proxy: {result}")
    proxy = galaxy.proxy()
    result = galaxy.client("tiefighter", *turns)
    expect(statuses_of(result) == ["200", "200", "200"], f"with the next proxy: {result}")
    proxy.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    result = galaxy.client("tiefighter", *turns)
    expect(statuses_of(result) == ["200", "503", "200"], f"with a proxy that is stopped: {result}")
    proxy.send_signal(signal.SIGCONT)
    time.sleep(0.5)
    result = galaxy.client("tiefighter", *turns)
    expect(statuses_of(result) == ["200", "200", "200"], f"with a proxy that goes on: {result}")
    proxy.send_signal(signal.SIGTERM)
    expect(proxy.wait(20) == 0, "the proxy ends badly")
    result = galaxy.client("tiefighter", *turns)
    expect(statuses_of(result) == ["200", "503", "200"], f"after a proxy that ended: {result}")


@scenario("shuntd killed and started: the proxy goes on")
def daemon_ends(galaxy):
    galaxy.recorder()
    proxy = galaxy.proxy()
    turns = [["send", LANDING], ["responses", 1], ["send", DOTS], ["responses", 1], ["send", EXHAUST_DOTS], ["responses", 1]]
    steps = turns + [["sleep", 8]] + turns
    client = galaxy.lab.serve(galaxy.client_command(steps), cgroup=galaxy.cgroups["tiefighter"])
    eventually(lambda: galaxy.counters()["requests_to_proxy"] == 2, "the first requests")
    galaxy.daemon.kill()
    galaxy.daemon.wait()
    result = galaxy.client("tiefighter", *turns)
    expect(statuses_of(result) == ["200", "200", "403"], f"without shuntd: {result}")
    galaxy.daemon = galaxy.lab.run_daemon()
    eventually(lambda: "the channels go on" in (galaxy.lab.folder / "proxy.log").read_text(), "the proxy comes back")
    result = json.loads(client.communicate(timeout=PATIENCE_S)[0])
    expect(statuses_of(result) == ["200", "200", "403"] * 2, f"a connection across the restart: {result}")
    galaxy.write_policy(POLICY.replace('method: "POST"', 'method: "GET"'))
    galaxy.reload()  # from now on nothing is judged by the policy before, by the proxy neither
    result = galaxy.client("tiefighter", ["send", DOTS], ["responses", 1], ["send", DOTS.replace("POST", "GET")], ["responses", 1])
    expect(statuses_of(result) == ["403", "200"], f"with the next policy: {result}")
    expect(proxy.poll() is None, "the proxy ended")


@scenario("a large policy: the proxy goes on while it compiles, and then judges by the new one")
def large(galaxy):
    galaxy.recorder()
    galaxy.restart_with_room(16384, 524288)
    galaxy.proxy("timeouts: {head: 100s}\n")
    (galaxy.folder / "many.yaml").write_text(galaxy.many_rules(1000, 50))
    in_force, turn = galaxy.lab.folder / "in-force", [["send", DOTS], ["responses", 1], ["sleep", 0.02]]
    client = galaxy.lab.serve(galaxy.client_command([["until", [str(in_force), turn]], *turn * 20]), cgroup=galaxy.cgroups["tiefighter"])
    eventually(lambda: len(galaxy.accessed()) > 5, "requests go to the proxy")
    galaxy.write_policy(POLICY.replace("/v1/request-landing", "/v1/other"))
    galaxy.reload()
    result = galaxy.client("tiefighter", ["send", DOTS], ["responses", 1])
    expect(statuses_of(result) == ["403"], f"right after the change: {result}")
    in_force.touch()
    result = json.loads(client.communicate(timeout=PATIENCE_S)[0])
    statuses = statuses_of(result)
    changes = sum(a != b for a, b in zip(statuses, statuses[1:]))
    expect(set(statuses) == {"200", "403"} and changes == 1 and result["error"] is None, f"{len(statuses)}, {changes}: {result['error']}")


@scenario("a proxy that was taken over reaches no connection but those that were handed to it")
def taken_over(galaxy):
    galaxy.recorder()
    log = galaxy.lab.folder / "lying.log"
    liar = galaxy.lab.serve([sys.executable, ROOT / "tests/socket/lying_proxy.py", galaxy.lab.folder / "proxy.sock"], log=log,
                            cgroup=galaxy.lab.make_cgroup(galaxy.lab.with_shunt / "gate"))
    galaxy.lab.wait_for(lambda: "ready" in log.read_text(), liar, log, "the proxy that lies")
    over = galaxy.lab.folder / "over"
    victim = galaxy.lab.serve(galaxy.client_command([["until", [str(over), [["send", LANDING], ["responses", 1]]]]]),
                              cgroup=galaxy.cgroups["tiefighter"])
    galaxy.client("tiefighter", ["send", LANDING], ["responses", 1], ["send", DOTS], ["recv", 1])
    eventually(lambda: "delivered" in log.read_text(), lambda: log.read_text())
    over.touch()
    result = json.loads(victim.communicate(timeout=PATIENCE_S)[0])
    said = json.loads(log.read_text().splitlines()[-1])
    expect(said["tried"] > 50 and not said["delivered"], f"delivered: {said}")
    expect(len(said["refused_calls"]) == 5, f"the kernel refused {said['refused_calls']} alone")
    expect(result["error"] is None and set(statuses_of(result)) == {"200"}, f"{result['error']}, {set(statuses_of(result))}")
    expect("evil" not in galaxy.read(), "the server read what the proxy made up")


@scenario("ends: client and server leave while a request is with the proxy")
def leaving(galaxy):
    galaxy.recorder()
    galaxy.proxy("timeouts: {exchange: 5s}\n")
    for _ in range(100):  # more than there are channels
        galaxy.client("tiefighter", ["send", chunked("x" * 50)[:-20]])
    result = galaxy.client("tiefighter", ["send", DOTS], ["responses", 1])
    eventually(lambda: statuses_of(galaxy.client("tiefighter", ["send", DOTS], ["responses", 1])) == ["200"], "channels are free again", 10)
    before = galaxy.read().count("POST")
    result = galaxy.client("tiefighter", ["send", LANDING + DOTS], ["shut", 0], ["recv", 3])
    expect(statuses_of(result) == ["200", "200"], f"a client that ends its half: {result}")
    expect(galaxy.read().count("POST") == before + 2, "the server read something else")


OK = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"
CHUNKED_OK = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n"
AS_ONE = DOTS.replace("/v1/x/..", "/v1")  # as the server gets it
RESET = "Connection"  # ConnectionResetError, or ConnectionAbortedError if the daemon did it


def leaving_plans():
    """{what happens: (steps of the client, of the server, what the client must see, how its connection may end)}. The server leaves when
    the proxy has delivered the request ("go"), a second later ("late"), or while the proxy waits for more of it ("half")."""
    ask, also, answered, ends = [["send", DOTS]], [["send", LANDING + DOTS]], ["502"], ("closed", RESET)
    read_landing, read_dots = ["read", len(LANDING)], ["read", len(AS_ONE)]
    plans = {}
    for end in ("fin", "rst"):
        for moment in ("go", "late"):
            plans.update({f"{end}, {moment}, {what}": (steps, before + [["await", moment]] + after + [[end]], statuses, how)
                          for what, steps, before, after, statuses, how in (
                ("before it reads", ask, [], [], answered, ends),
                ("half of the head read", ask, [["read", 20]], [], answered, ends),
                ("all read", ask, [read_dots], [["rest"]], answered, ends),
                ("half of a response", ask, [read_dots], [["send", OK[:-2]]], ["200"], RESET),
                ("the one before answered", also, [read_landing], [["send", OK]], ["200", "502"], ends),
                ("the one before not answered", also, [read_landing], [], answered, ends),
                ("all answered", also, [read_landing, read_dots], [["send", OK + OK], ["rest"]], ["200", "200"], ends),
                ("behind a chunked response", [["send", LANDING], ["await", "said"], *ask],
                 [read_landing, ["send", CHUNKED_OK], ["touch", "said"], read_dots], [], ["200"], RESET))})
        plans[f"{end}, in the middle of a head"] = (
            [["send", DOTS[:40]], ["await", "ended"], ["send", DOTS[40:]]], [["await", "half"], [end]], answered, ends)
        plans[f"{end}, in the middle of a body"] = (
            [["send", LANDING + chunked("x" * 50)[:-20]]], [read_landing, ["send", OK], ["await", "half"], [end]], ["200", "502"], ends)
    plans["its half, all read"] = (ask, [read_dots, ["await", "go"], ["shut"], ["await", "over"], ["fin"]], answered, ends)
    return plans


def start_leaving(galaxy, folder, plans):
    """The server, and a client for each plan: each has its own files in `folder`."""
    server_plans, clients = [], []
    for number, (_, plan, *_) in enumerate(plans.values()):
        server_plans.append([[what, f"{value[0]}-{number}"] if what in ("await", "touch") else [what, *value] for what, *value in plan])
    log = galaxy.lab.folder / "leaving.log"
    server = galaxy.lab.serve([sys.executable, ROOT / "tests/socket/leaving_server.py", galaxy.port, folder, json.dumps(server_plans)],
                              cgroup=galaxy.cgroups["deathstar"], log=log)
    galaxy.lab.wait_for(lambda: "ready" in log.read_text(), server, log, "the server that leaves")
    for number, (steps, *_) in enumerate(plans.values()):
        steps = [["until", [str(folder / f"{value}-{number}"), [["sleep", 0.01 * SLOWER]]]] if what == "await" else [what, value]
                 for what, value in steps]
        clients.append(galaxy.lab.serve(galaxy.client_command([*steps, ["recv", 20 * SLOWER]]), cgroup=galaxy.cgroups["tiefighter"]))
        eventually((folder / f"read-{number}").exists, f"the server has connection {number}")
    return clients


@scenario("a denied request behind a chunked response: that is read whole, and then the connection ends")
def behind_chunked(galaxy):
    folder = galaxy.lab.folder / "leaving"
    folder.mkdir()
    galaxy.proxy("timeouts: {exchange: 60s}\n")
    first, last = CHUNKED_OK.split("4\r\nfine\r\n")
    chunk, times = f"{10000:x}\r\n{10000 * 'c'}\r\n", 800  # more than all buffers hold
    (client,) = start_leaving(galaxy, folder, {"": (
        [["send", LANDING], ["await", "said"], ["sleep", 0.5], ["send", EXHAUST], ["sleep", 1]],
        [["read", len(LANDING)], ["touch", "said"], ["send", first], ["send", chunk, times], ["send", last], ["await", "over"]])})
    response = first + chunk * times + last
    result = json.loads(client.communicate(timeout=PATIENCE_S)[0])
    (folder / "over-0").touch()
    expect(result["got"] == response and str(result["error"]).startswith(("closed", RESET)),
           f"{len(result['got'])} of {len(response)} bytes, {result['error']}")


ENDS = "tiefighter", "deathstar"


def durations_of(metrics, status):
    """Of istio_request_duration_milliseconds: the values by what stands behind the name (count, sum) or as a bound."""
    labels = next(series for series in metrics if series.startswith("istio_requests_total{") and f'response_code="{status}"' in series)
    labels = labels.removeprefix("istio_requests_total{").removesuffix("}")
    found = {}
    for series, value in metrics.items():
        if series.startswith("istio_request_duration_milliseconds_") and labels in series:
            bound = re.search(r'le="([^"]*)"', series)
            found[bound[1] if bound else series.split("{")[0].rpartition("_")[2]] = value
    return labels, found


def chunked_recorder(galaxy):
    """Answers in chunks, behind which the kernel side proves nothing more; a part of a response looks like another one."""
    plain = 'writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(path) + path)'
    parts = ('writer.write(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\nc\\r\\n"); await writer.drain(); '
             'await asyncio.sleep(0.05); writer.write(b"HTTP/1.1 500\\r\\n0\\r\\n\\r\\n")')
    expect(plain in galaxy.recorder_code, "the recorder answers in another way")
    galaxy.recorder_code = galaxy.recorder_code.replace(plain, parts)
    return galaxy.recorder()


@scenario("metrics with Istio's names: each request once, whoever answered it, and over other policies")
def istio(galaxy):
    chunked_recorder(galaxy)
    galaxy.proxy()

    def ask(*requests):
        result = galaxy.client("tiefighter", *[step for text in requests for step in (["send", text], ["responses", 1])])
        return statuses_of(result)

    at = galaxy.tell_metrics()
    galaxy.reload()
    expect(ask(LANDING) == ["200"] and not istio_requests(metrics_at(at)), "requests are told without being asked for")
    at = galaxy.tell_metrics(", istio: true")
    galaxy.reload()
    denied = EXHAUST, EXHAUST, chunked("a", path="/v1/exhaust-port")  # the last one by the proxy
    for requests, status in (((LANDING,) * 3, "200"), ((DOTS,) * 4, "200"), (denied, "403")):
        expect(ask(*requests) == [status] * len(requests), f"not answered with {status}")
    metrics, by_proxy = metrics_at(at), istio_requests(galaxy.proxy_metrics())
    expect(istio_requests(metrics) == {(*ENDS, "200"): 7, (*ENDS, "403"): 2}, f"by the kernel side: {istio_requests(metrics)}")
    expect(by_proxy == {(*ENDS, "403"): 1}, f"by the proxy: {by_proxy}")
    labels, durations = durations_of(metrics, "200")
    for label in ('reporter="destination"', 'source_workload_namespace="default"', 'connection_security_policy="none"',
                  'destination_service="landing.default.svc.cluster.local"', 'request_protocol="http"', 'response_flags="-"'):
        expect(label in labels, f"no {label} in {labels}")
    expect(durations["count"] == durations["+Inf"] == 7 and 0 < durations["sum"] < 7 * 60000, f"durations: {durations}")
    for number in range(3):  # the counters of a policy are forgotten after the next but one
        more = f"kind: Workload\nmetadata: {{name: w{number}, labels: {{n: w{number}}}}}\nspec: {{match: {{uid: {60000 + number}}}}}\n"
        galaxy.write_policy(f"{POLICY}---\napiVersion: shunt.dev/v1\n{more}")
        galaxy.reload()
        expect(ask(LANDING) == ["200"], "a request after a change of the policy")
    told = istio_requests(metrics_at(at))
    expect(told == {(*ENDS, "200"): 10, (*ENDS, "403"): 2}, f"after changes of the policy: {told}")


@scenario("ends: a server leaves before it has answered: its answer or a 502, no early end, nothing twice")
def server_leaves(galaxy):
    plans = leaving_plans()
    folder = galaxy.lab.folder / "leaving"
    folder.mkdir()
    galaxy.proxy(f"timeouts: {{head: {40 * SLOWER}s, exchange: {40 * SLOWER}s}}\n")  # the clients begin one after the other
    clients = start_leaving(galaxy, folder, plans)
    whole = sum("in the middle" not in name for name in plans)
    eventually(lambda: len(galaxy.accessed()) == whole and galaxy.counters()["requests_to_proxy"] == len(plans),
               lambda: f"all requests are with the proxy, and {whole} delivered: {galaxy.accessed()}")
    for moment in ("go", "half", "late", "over"):
        for number in range(len(plans)):
            (folder / f"{moment}-{number}").touch()
        if moment == "half":
            time.sleep(1)  # until no connection has a channel any more
    wrong = []
    for number, (name, (steps, _, statuses, ends)) in enumerate(plans.items()):
        result = json.loads(clients[number].communicate(timeout=PATIENCE_S)[0])
        read = (folder / f"read-{number}").read_bytes().decode("latin-1")
        if statuses_of(result) != statuses or not str(result["error"]).startswith(ends) or read.count("POST") > str(steps).count("POST"):
            wrong.append(f"{name}: {statuses_of(result)}, {result['error']}, not {statuses}, {ends}; the server read {read!r}")
    counters = galaxy.counters()
    expect(not wrong, "\n".join([*wrong, str(counters)]))
    expect(not (folder / "one-too-many").exists(), "a request was sent over another connection")
    told, reset = (sum(test(plan) for plan in plans.values()) for test in (lambda plan: "502" in plan[2], lambda plan: plan[3] == RESET))
    expect((counters["server_ends_told"], counters["server_ends_reset"]) == (told, reset), f"not {told} and {reset}: {counters}")
    counted = {series: value for series, value in galaxy.proxy_metrics().items() if series.startswith("shunt_proxy_requests_total")}
    expect(sum(counted.values()) == len(plans), f"a request counts once, {len(plans)} in all: {counted}")


if __name__ == "__main__":
    sys.exit(SCENARIOS.main(__doc__))
