#!/usr/bin/env python3
"""Redis under a policy: commands and keys are judged, and nothing that is forbidden is ever read by the server (root)

usage: policy_redis.py [--build DIR] [--list] [SCENARIO...]

The documents of tests/vectors/policy/redis.yaml on plain processes: a cache, a shop that may use it, and a visitor that may not. The
cache is redis-server, or a recorder that writes down every byte it reads and answers each command.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools/lib"))
sys.dont_write_bytecode = True

from galaxy import CLIENT, POLICIES, Galaxy  # noqa: E402
from scenarios import Scenarios, eventually, expect  # noqa: E402

DOCUMENTS = (POLICIES / "redis.yaml").read_text()
DENIED = "-NOPERM shunt: not allowed by policies\r\n"
COMMANDS = 100_000

# Answers +OK to every command, and the value of GET; what is no array of strings ends the connection.
RECORDER = """
import asyncio, sys
log = open(sys.argv[2], "ab", buffering=0)
class Logged:
    def __init__(self, reader):
        self.reader, self.data = reader, b""
    async def more(self):
        got = await self.reader.read(65536)
        if not got:
            raise EOFError
        log.write(got)
        self.data += got
    async def line(self):
        while b"\\r\\n" not in self.data:
            await self.more()
        line, self.data = self.data.split(b"\\r\\n", 1)
        return line
    async def take(self, size):
        while len(self.data) < size:
            await self.more()
        taken, self.data = self.data[:size], self.data[size:]
        return taken
async def serve(reader, writer):
    reader = Logged(reader)
    try:
        while True:
            line = await reader.line()
            if line[:1] != b"*":
                return
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.line())[1:])
                words.append((await reader.take(size + 2))[:-2])
            writer.write(b"$%d\\r\\n%s\\r\\n" % (len(words[1]), words[1]) if words[0].upper() == b"GET" else b"+OK\\r\\n")
            await writer.drain()
    except (OSError, EOFError, ValueError):
        pass
    finally:
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", int(sys.argv[1]))
    print("ready", flush=True)
    async with server:
        await server.serve_forever()
asyncio.run(main())
"""

# How many whole replies the data has: with it, the steps of the galaxy's client count replies instead of responses.
WHOLE = '''
def skip(data, at):
    end = data.find(b"\\r\\n", at)
    if end < 0:
        return None
    kind, number = data[at:at + 1], data[at + 1:end]
    at = end + 2
    if kind == b"$" and number != b"-1":
        at += int(number) + 2
    if kind in b"*~%>":
        for _ in range(max(0, int(number)) * (2 if kind == b"%" else 1)):
            at = at and skip(data, at)
    return at if at and at <= len(data) else None
def whole(data):
    n, at = 0, 0
    while at < len(data) and (at := skip(data, at)):
        n += 1
    return n
'''
REDIS_CLIENT = re.sub(r"\ndef whole\(data\):\n(?:    .*\n)+", lambda _: WHOLE, CLIENT)


class Shop(Galaxy):
    """The galaxy's cgroups under other names."""

    recorder_code, client_code = RECORDER, REDIS_CLIENT
    NAMES = {"cache": "deathstar", "shop": "tiefighter", "visitor": "xwing"}

    def __init__(self, lab):
        super().__init__(lab)
        self.documents(DOCUMENTS)

    def documents(self, text):
        for name, cgroup in self.NAMES.items():
            text = text.replace(f"{{unit: {name}.service}}", f"{{cgroup: {self.path(cgroup)}}}")
        (self.folder / "empire.yaml").write_text(text.replace('"6379"', f'"{self.port}"'))
        self.reload()

    def redis(self):
        """redis-server; its socket in the file system is for those who look, and not for the shop."""
        folder = self.lab.folder / "redis"
        folder.mkdir()
        self.admin = folder / "socket"
        server = self.lab.serve([shutil.which("redis-server"), "--port", self.port, "--save", "", "--appendonly", "no", "--dir", folder,
                                 "--unixsocket", self.admin, "--bind", "127.0.0.1"],
                                cgroup=self.cgroups["deathstar"], log=folder / "log")
        self.lab.wait_for(self.admin.exists, server, folder / "log", "redis-server")
        return server

    def look(self, *arguments):
        return subprocess.run(["redis-cli", "-s", self.admin, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    def calls(self, command):
        """How often redis-server has run it."""
        found = re.search(rf"cmdstat_{command}:calls=(\d+)", self.look("INFO", "commandstats"))
        return int(found.group(1)) if found else 0

    def shopping(self, *steps):
        return self.client("tiefighter", *steps)


SCENARIOS = Scenarios("redis", lambda lab, function, _: function(Shop(lab)), lambda outcome: f"{outcome['seconds']} s")


def scenario(name):
    def add(function):
        SCENARIOS.all[name] = function
        return function
    return add


def command(*words):
    return f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)


def ask(*words):
    return [["send", command(*words)], ["responses", 1]]


def bulk(text):
    return f"${len(text)}\r\n{text}\r\n"


@scenario("who may connect, which commands and keys pass")
def who(shop):
    shop.redis()
    expect("PermissionError" in str(shop.client("xwing", *ask("PING"))["error"]), "the visitor connects")
    shop.look("MSET", "user:1", "one", "user:2", "two", "cart:1", "a", "admin", "secret", "jobs", "x")
    for words, wanted in ((("GET", "user:1"), bulk("one")), (("get", "user:2"), bulk("two")), (("GET", "admin"), DENIED),
                          (("MGET", "user:1", "user:2"), "*2\r\n" + bulk("one") + bulk("two")), (("MGET", "user:1", "admin"), DENIED),
                          (("MSET", "cart:1", "1", "cart:2", "2"), "+OK\r\n"), (("MSET", "cart:1", "1", "user:1", "2"), DENIED),
                          (("DEL", "cart:7", "cart:7"), ":0\r\n"), (("DEL", "cart:7", "cart:1"), DENIED), (("PING",), "+PONG\r\n"),
                          (("SET", "public:x", "1"), "+OK\r\n"), (("RENAME", "public:x", "public:y"), "+OK\r\n"),
                          (("RENAME", "public:y", "user:1"), DENIED), (("SELECT", "0"), "+OK\r\n"), (("FLUSHALL",), DENIED),
                          (("EVAL", "return redis.call('get', 'admin')", "0"), bulk("secret")), (("SORT", "public:y"), DENIED),
                          (("HELLO", "3"), DENIED), (("AUTH", "x"), DENIED), (("CLIENT", "SETNAME", "x"), DENIED),
                          (("json.GET", "a"), "-ERR unknown command 'json.GET', with args beginning with: 'a' \r\n"),
                          (("GET", "user:\r\n\x01\x80\xff"), "$-1\r\n"), (("GET", ""), DENIED)):
        result = shop.shopping(*ask(*words))
        expect(result == {"got": wanted, "error": None}, f"{words}: {result}, not {wanted!r}")
    for name in ("flushall", "sort", "hello", "auth"):
        expect(shop.calls(name) == 0, f"redis-server has run {name}")
    expect(shop.look("GET", "user:1") == "one", "a key was changed that may only be read")
    expect(shop.counters()["requests_denied"] == 11, f"counted: {shop.counters()}")


@scenario("one connection: allowed and denied in turns, in order")
def in_turns(shop):
    shop.redis()
    shop.look("MSET", "user:1", "one", "admin", "secret")
    steps, wanted = [], ""
    for i in range(200):
        steps += ask("GET", "user:1") + ask("GET", "admin") + ask("SET", "cart:1", f"x{i}") + ask("FLUSHALL")
        wanted += bulk("one") + DENIED + "+OK\r\n" + DENIED
    result = shop.shopping(*steps)
    expect(result == {"got": wanted, "error": None}, f"{result['error']}: {result['got'][:200]!r}")
    expect(shop.calls("get") == 200 and shop.calls("flushall") == 0, "redis-server has run something else")
    # Sent before the reply to the one before it: never answered first, however the race ends.
    for _ in range(20):
        got = shop.shopping(["send", command("GET", "user:1")], ["send", command("GET", "admin")], ["recv", 0.3])["got"]
        expect(got in ("", bulk("one"), bulk("one") + DENIED), f"not in order: {got!r}")


@scenario("replies of all kinds are counted: a denial comes behind them")
def replies(shop):
    shop.redis()
    shop.look("RPUSH", "public:list", *"abc")
    shop.look("HSET", "public:map", "a", "1", "b", "2")
    shop.look("SET", "public:big", "x" * 50_000)
    shop.documents(DOCUMENTS.replace("- {command: PING}", "- {command: PING}\n        - {command: HELLO}"))
    kinds = (("LRANGE", "public:list", "0", "-1"), ("GET", "public:none"), ("GET", "public:list"), ("HGETALL", "public:map"),
             ("LRANGE", "public:none", "0", "-1"), ("GET", "public:big"), ("INCR", "public:n"), ("PING",), ("HELLO", "3"),
             ("HGETALL", "public:map"), ("GET", "public:none"), ("SMEMBERS", "public:none"), ("GET", "public:big"))
    for words in kinds:
        result = shop.shopping(*(ask("HELLO", "3") if words[0] == "SMEMBERS" else []), *ask(*words), *ask("GET", "admin"))
        expect(result["error"] is None and result["got"].endswith(DENIED), f"{words}: {result}")
    result = shop.shopping(*[step for words in kinds for step in ask(*words) + ask("GET", "admin")])
    expect(result["error"] is None and result["got"].count(DENIED) == len(kinds), f"{result['error']}: {result['got'][-300:]!r}")
    many = "".join(command(*words) for words in kinds[:5] * 10)  # answered in one message
    result = shop.shopping(["send", many], ["responses", 50], *ask("GET", "admin"), *ask("PING"))
    expect(result["error"] is None and result["got"].endswith(DENIED + "+PONG\r\n"), f"{result['error']}: {result['got'][-300:]!r}")


@scenario("where the keys of commands are: as redis-server tells it")
def table(shop):
    shop.redis()
    theirs = {name: (keys, "movablekeys" in flags) for name, _, flags, *keys in
              (row[:6] for row in json.loads(shop.look("--json", "COMMAND")))}
    rows = re.findall(r'X\("([^"]+)", (\d+), (-?\d+), (\d+), (\w+)\)', (ROOT / "l7parsers/core/resp_commands.h").read_text())
    expect(len(rows) > 200, f"{len(rows)} rows")
    for name, *keys, reason in rows:
        if reason != "NONE" or name.lower() not in theirs:
            continue
        expect(theirs[name.lower()] == ([int(key) for key in keys], False), f"{name}: {keys}, and redis-server: {theirs[name.lower()]}")


@scenario("pipelines: what is allowed goes in one piece, and nothing behind what is not")
def pipelines(shop):
    shop.recorder()
    gets = "".join(command("GET", f"user:{i}") for i in range(50))
    before = shop.counters()
    result = shop.shopping(*[["send", gets], ["responses", 50]] * 20)
    expect(result == {"got": "".join(bulk(f"user:{i}") for i in range(50)) * 20, "error": None}, f"{result['error']}")
    after = shop.counters()
    expect(after["requests_allowed"] - before["requests_allowed"] == 1000, "not every command was judged")
    result = shop.shopping(["send", gets], ["responses", 50], *ask("GET", "admin"), *ask("GET", "user:x"))
    expect(result["got"].endswith(bulk("user:49") + DENIED + bulk("user:x")), f"a denial behind a pipeline: {result['got'][-100:]!r}")
    long = "".join(command("GET", f"user:{i}") for i in range(2000))  # longer than what is looked at in one go
    result = shop.shopping(["send", long], ["responses", 2000], *ask("GET", "user:x"))
    expect(result["got"] == "".join(bulk(f"user:{i}") for i in range(2000)) + bulk("user:x"), f"{result['error']}")
    for bad in (command("GET", "admin"), command("FLUSHALL"), command("MGET", "user:1", "admin"), "FLUSHALL\r\n"):
        for text in (gets + bad + gets, bad + gets, gets + bad):
            shop.log.write_bytes(b"")
            got = shop.shopping(["send", text], ["recv", 1])["got"]
            expect("admin" not in shop.read() and "FLUSHALL" not in shop.read(), f"the recorder read {shop.read()[-200:]!r}")
            expect(gets.startswith(shop.read()), f"the recorder read {shop.read()[-200:]!r}")
            wanted = "".join(bulk(f"user:{i}") for i in range(50))
            expect((wanted + DENIED).startswith(got), f"not in order: {got[-200:]!r}")


@scenario("big values: the head is judged, the rest follows, and nothing rides behind it")
def big_values(shop):
    shop.recorder()
    value = "v" * 1_000_000
    allowed, denied = command("SET", "cart:1", value), command("SET", "user:1", value)
    result = shop.shopping(["send", allowed], ["responses", 1], *ask("GET", "user:1"), *ask("GET", "admin"),
                           ["send", allowed[:70_000]], ["sleep", 0.2], ["send", allowed[70_000:]], ["responses", 1], *ask("GET", "admin"))
    expect(result == {"got": "+OK\r\n" + bulk("user:1") + DENIED + "+OK\r\n" + DENIED, "error": None}, f"{result}")
    expect(shop.read() == allowed + command("GET", "user:1") + allowed, "the values arrived changed")
    shop.log.write_bytes(b"")
    for text in (denied, allowed + command("FLUSHALL")):
        result = shop.shopping(["send", text], ["recv", 2])
        expect(result["got"] in ("", "+OK\r\n", DENIED), f"{result}")
        expect("user:1" not in shop.read() and "FLUSHALL" not in shop.read(), "the recorder read what is forbidden")


@scenario("commands that end in another message than they begin in")
def split(shop):
    shop.recorder()
    pair = command("SET", "cart:1", "v" * 20) + command("MGET", "user:1", "user:2")
    halves = [[["send", pair[:i]], ["sleep", 0.01], ["send", pair[i:]], ["responses", 2]] for i in range(1, len(pair))]
    result = shop.shopping(*[step for half in halves for step in half], *ask("GET", "admin"), *[["send", byte] for byte in pair],
                           ["responses", 2], *ask("GET", "admin"))
    expect(result == {"got": len(halves) * 2 * "+OK\r\n" + DENIED + 2 * "+OK\r\n" + DENIED, "error": None}, f"{result}")
    expect(shop.read() == len(pair) * pair, "the commands arrived changed")
    for count in (3_000, 30_000):  # the kernel cuts what is sent at once
        result = shop.shopping(["send", count * command("GET", "user:1")], ["responses", count], *ask("GET", "admin"), *ask("PING"))
        expect(result == {"got": count * bulk("user:1") + DENIED + "+OK\r\n", "error": None}, f"{count}: {result['error']}")
    expect(shop.counters()["connections_forbidden"] == 0, f"{shop.counters()}")


@scenario("dodging: split, inline, urgent and malformed commands")
def dodging(shop):
    shop.recorder()
    secret = command("GET", "admin")
    attempts = {
        "in two sends": [["send", secret[:15]], ["sleep", 0.2], ["send", secret[15:]]],
        "byte by byte": [["send", byte] for byte in secret],
        "a beginning that is allowed": [["send", command("GET", "user:1")[:-8]], ["sleep", 0.1], ["send", "admin1\r\n"]],
        "behind a pipeline": [["send", 9 * command("GET", "user:1") + secret[:20]], ["sleep", 0.1], ["send", secret[20:]]],
        "an urgent byte": [["urgent", secret]],
        "inline": [["send", "GET admin\r\n"]],
        "inline behind an empty line": [["send", "\r\n" + secret]],
        "inline behind one that is allowed": [["send", command("PING") + "GET admin\r\n"]],
        "a key of two lengths": [["send", "*2\r\n$3\r\nGET\r\n$06\r\nuser:1\r\n" + secret]],
        "a length that lies": [["send", "*2\r\n$3\r\nGET\r\n$6\r\nuser:1" + secret]],
        "a name with a NUL": [["send", command("GET\0", "admin")]],
        "a negative count": [["send", "*-1\r\n" + secret]],
        "an array in it": [["send", "*2\r\n$3\r\nGET\r\n*1\r\n$5\r\nadmin\r\n"]],
        "17 keys, the last one bad": [["send", command("MGET", *[f"user:{i}" for i in range(16)], "admin")]],
        "a key behind what is looked at": [["send", command("MGET", "user:" + "x" * 4000, "user:" + "y" * 4000, "admin")]],
        "HTTP": [["send", "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"]],
    }
    for what, steps in attempts.items():
        shop.log.write_bytes(b"")
        result = shop.shopping(*steps, ["recv", 1])
        expect(result["got"].replace(DENIED, "").replace(bulk("user:1"), "") in ("", "+OK\r\n"), f"{what}: {result}")
        expect(not re.search("admin.?\r\n", shop.read()), f"{what}: the recorder read {shop.read()[-200:]!r}")
    expect(shop.shopping(*ask("PING"))["got"] == "+OK\r\n", "nothing passes any more")


@scenario("a transaction ends with its connection where one of its commands is denied")
def transactions(shop):
    shop.redis()
    shop.look("SET", "user:1", "one")
    result = shop.shopping(*ask("MULTI"), *ask("GET", "user:1"), *ask("SET", "cart:1", "x"), *ask("EXEC"), *ask("GET", "user:1"))
    expect(result == {"got": "+OK\r\n" + "+QUEUED\r\n" * 2 + "*2\r\n" + bulk("one") + "+OK\r\n" + bulk("one"), "error": None},
           f"allowed: {result}")
    result = shop.shopping(*ask("MULTI"), *ask("SET", "cart:2", "x"), *ask("SET", "user:1", "x"), *ask("EXEC"))
    expect(result["error"] and "-NOPERM" not in result["got"], f"denied: {result}")
    expect(shop.look("EXISTS", "cart:2") == "0" and shop.look("GET", "user:1") == "one", "a part of the transaction was done")
    result = shop.shopping(*ask("SELECT", "1"), *ask("GET", "admin"), *ask("GET", "user:1"))
    expect(result["got"] == "+OK\r\n" + DENIED + "$-1\r\n", f"in another database: {result}")


@scenario("redis-benchmark: every command is judged, and redirected")
def benchmark(shop):
    shop.redis()
    for pipeline in (1, 16):
        before = shop.counters()
        code, text = shop.run("tiefighter", ["redis-benchmark", "-p", str(shop.port), "-c", "8", "-n", str(COMMANDS), "-P", str(pipeline),
                                             "-r", "1000", "-q", "GET", "user:__rand_int__"])
        expect(code == 0 and "requests per second" in text, text)
        after = shop.counters()
        judged = after["requests_allowed"] - before["requests_allowed"]
        redirected = after["redirected_messages"] - before["redirected_messages"]
        expect(judged >= COMMANDS, f"of {COMMANDS} commands {judged} were judged")
        # A reply comes for each message, or several share one.
        expect(redirected >= 0.9 * 2 * COMMANDS / pipeline, f"of {COMMANDS} by {pipeline} {redirected} messages were redirected")
    expect(shop.calls("get") >= 2 * COMMANDS, f"redis-server has run {shop.calls('get')}")
    code, text = shop.run("tiefighter", ["redis-benchmark", "-p", str(shop.port), "-c", "2", "-n", "10", "GET", "admin"])
    expect("NOPERM" in text, f"redis-benchmark says: {text}")


@scenario("redis-cli: blocks in recv(), so that it is no receiver; as one it shows what is denied")
def cli(shop):
    shop.redis()
    shop.look("SET", "user:1", "one")
    told = ["timeout", "5", "redis-cli", "-p", str(shop.port)]
    code, text = shop.run("tiefighter", [*told, "GET", "user:1"])
    expect(code != 0 and shop.calls("get") == 0, f"commands that nobody sees: {code} {text}")
    shop.lab.stop(shop.daemon)
    shop.lab.configure(shop.more + "receivers: {add: [redis-cli]}\n")
    shop.daemon = shop.lab.run_daemon()
    for words, wanted in ((("GET", "user:1"), "one"), (("GET", "admin"), DENIED[1:]), (("FLUSHALL",), DENIED[1:])):
        code, text = shop.run("tiefighter", [*told, *words])
        expect(wanted.strip() in text, f"{words}: {code} {text}")


@scenario("explain, trace and the counters of rules")
def told(shop):
    shop.recorder()
    shop.shopping(*ask("GET", "user:1") * 3, *ask("get", "user:2"), *ask("GET", "admin"), *ask("PING"))
    policy = json.loads(shop.shunt("-o", "json", "policy", "get"))
    hits = {rule["rule"].split(".rules.")[1].split(" ")[0]: rule["hits"] for rule in policy["rules"] if "/cache spec" in rule["rule"]}
    expect((hits["l7[0]"], hits["l7[7]"], hits["l7[2]"]) == (4, 1, 0), f"hits: {policy['rules']}")
    expect(policy["hits_of_no_rule"] == 1, f"hits of no rule: {policy['hits_of_no_rule']}")
    target = f"cache:{shop.port}"
    documents = str(shop.folder / "empire.yaml")
    for words, wanted in (("--command GET --key user:1", 0), ("--command GET --key admin", 7), ("--command MGET --key user:1 --key x", 7),
                          ("--command EVAL", 0), ("--command FLUSHALL", 7), ("", 0), ("GET /", 2)):
        code, text = shop.lab.shunt("-o", "json", "policy", "trace", shop.path("tiefighter"), target, *words.split())
        expect(code == wanted, f"trace {words}: {code} {text}")
        code, text = shop.lab.shunt("policy", "explain", "-f", documents, "shop", target, *words.split())
        expect(code == wanted, f"explain {words}: {code} {text}")
    code, text = shop.lab.shunt("-o", "json", "policy", "trace", shop.path("tiefighter"), target, "--command", "GET", "--key", "user:1")
    expect("spec.ingress[0].toPorts[0].rules.l7[0] (" in json.loads(text)["ingress"]["rules"][0], text)


@scenario("a policy changes: other keys, another protocol, two protocols")
def changes(shop):
    shop.recorder()
    steps = [*ask("GET", "user:1"), ["sleep", 4], *ask("GET", "user:1"), *ask("GET", "admin")]
    client = shop.lab.serve(shop.client_command(steps), cgroup=shop.cgroups["tiefighter"])
    eventually(lambda: "user:1" in shop.read(), "the first command arrives")
    shop.documents(DOCUMENTS.replace('key: "user:*"', 'key: "admin"'))
    result = json.loads(client.communicate(timeout=60)[0])
    expect(result == {"got": bulk("user:1") + DENIED + bulk("admin"), "error": None}, f"other keys: {result}")
    steps = [*ask("GET", "admin"), ["sleep", 4], *ask("GET", "admin")]
    client = shop.lab.serve(shop.client_command(steps), cgroup=shop.cgroups["tiefighter"])
    eventually(lambda: shop.read().count("admin") == 2, "the next one arrives")
    begin, end = DOCUMENTS.index("        l7proto: redis"), DOCUMENTS.index("---")
    shop.documents(DOCUMENTS[:begin] + "        http: [{}]\n" + DOCUMENTS[end:])
    result = json.loads(client.communicate(timeout=60)[0])
    expect(result["got"] == bulk("admin") and result["error"], f"another protocol: {result}")
    expect(shop.read().count("admin") == 2, "a command was read as HTTP")
    both = ("---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: second}\nspec:\n"
            "  endpointSelector: {matchLabels: {app: cache}}\n  ingress:\n  - toPorts:\n"
            '    - ports: [{port: "6379", protocol: TCP}]\n      rules: {http: [{}]}\n')
    shop.documents(DOCUMENTS + both)
    expect("PermissionError" in str(shop.shopping(*ask("PING"))["error"]), "a port of two protocols")


if __name__ == "__main__":
    os.environ.pop("REDISCLI_AUTH", None)
    sys.exit(SCENARIOS.main(__doc__))
