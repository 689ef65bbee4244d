"""50,000 http rules in force, and one of them changed: from the file that is written to the request that the new rule judges."""

import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from galaxy import Galaxy  # noqa: E402
from lab import Lab, free_port  # noqa: E402
from points import SPEED, Failed, Point, Row  # noqa: E402

SMALL_SETS, SMALL_RULES, LARGE_RULES = 1000, 45, 5000
LOAD_S, CHANGE_MS = 5, 50
BLOCKS, RESULTS = 16384, 524288  # of the daemon: room for all of it twice
SEED = 54

# Sends a request for each line of its input on one connection, and prints the status.
ASKER = """
import re, socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=20)
print("ready", flush=True)
for line in sys.stdin:
    connection.sendall(f"GET {line.strip()} HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n".encode())
    data = b""
    while b"\\r\\n\\r\\n" not in data or len(data.split(b"\\r\\n\\r\\n", 1)[1]) < int(re.search(rb"(?i)content-length: *(\\d+)", data)[1]):
        more = connection.recv(65536)
        if not more:
            sys.exit("the connection has ended")
        data += more
    print(data.split()[1].decode(), flush=True)
"""


class ChangingSet:
    """The rules of one file, of which one after the other changes, and a client that they judge."""

    def __init__(self, lab, file, prefix, client, port):
        self.file, self.prefix = file, prefix
        self.lines = file.read_text().splitlines(keepends=True)
        self.rules = [i for i, line in enumerate(self.lines) if "{method:" in line]
        self.asker = lab.serve([sys.executable, "-c", ASKER, port], cgroup=client, stdin=subprocess.PIPE)
        self.told("ready")

    def told(self, wanted):
        said = self.asker.stdout.readline().decode().strip()
        if said != wanted:
            raise Failed(f"{self.file.name}: {said!r} instead of {wanted}")

    def ask(self, path, wanted):
        self.asker.stdin.write(f"{path}\n".encode())
        self.asker.stdin.flush()
        self.told(wanted)

    def change(self, number, rule, reload):
        """Milliseconds until a request that only the new rule allows has its response."""
        path = f"{self.prefix}/other{number}"
        self.lines[self.rules[rule]] = f"        - {{method: GET, path: '{path}/[a-z0-9]+'}}\n"
        text = "".join(self.lines)
        self.ask(path + "/x", "403")
        began = time.monotonic()
        self.file.write_text(text)
        reload()
        self.ask(path + "/x", "200")
        return (time.monotonic() - began) * 1000


def large_policy(galaxy, port):
    """One set of 5,000 rules: many_rules' first policy, for other workloads."""
    text = galaxy.many_rules(1, LARGE_RULES).split("---\n")[-1]
    for old, new in (("name: p0", "name: large"), ("app: w0", "app: w19"), ("app: w20", "app: w39"), ("'8000'", f"'{port}'"),
                     ("/v0/", "/large/")):
        text = text.replace(old, new)
    return text


def write_documents(galaxy, folder, small_port, large_port):
    """A file for each policy."""
    folder.mkdir()
    documents = galaxy.many_rules(SMALL_SETS, SMALL_RULES).replace("'8000'", f"'{small_port}'").split("---\n")
    policies = documents[-SMALL_SETS:]
    (folder / "workloads.yaml").write_text("---\n".join(documents[:-SMALL_SETS]))
    for number, text in enumerate(policies):
        (folder / f"small-{number}.yaml").write_text(text)
    (folder / "large.yaml").write_text(large_policy(galaxy, large_port))


def load(galaxy, documents):
    """Seconds until all of it is in force, where before nothing was."""
    for file in documents.iterdir():
        shutil.copy(file, galaxy.folder)
    began = time.monotonic()
    galaxy.reload()
    took = time.monotonic() - began
    sets = galaxy.lab.status()["policy"]["sets"]
    if sets != SMALL_SETS + 1:
        raise Failed(f"{sets} sets are in force")
    return took


def loads(galaxy, documents, rounds):
    for number in range(rounds):
        if number:
            for file in galaxy.folder.iterdir():
                file.unlink()
            galaxy.reload()
            galaxy.restart_with_room(BLOCKS, RESULTS)
        yield load(galaxy, documents)


def serve(galaxy, name, port):
    cgroup, log = galaxy.lab.make_cgroup(galaxy.lab.with_shunt / name), galaxy.lab.folder / f"{name}.log"
    server = galaxy.lab.serve([sys.executable, "-c", galaxy.recorder_code, port, f"{log}.read"], cgroup=cgroup, log=log)
    galaxy.lab.wait_for(lambda: "ready" in log.read_text(), server, log, "the server")


def percentile(values, share):
    return sorted(values)[max(0, -(-len(values) * share // 100) - 1)]


def changes(galaxy, sets, count):
    """Milliseconds of each change, the sets in turn."""
    chance = random.Random(SEED)
    for number in range(count):
        one = sets[number % len(sets)]
        yield one.change(number, chance.randrange(len(one.rules)), galaxy.reload)


def change_row(figure, values):
    late = percentile(values, 99)
    return Row(figure, f"median {statistics.median(values):.1f} ms, p99 {late:.1f} ms, of {len(values)}", f"p99 <= {CHANGE_MS} ms",
               late <= CHANGE_MS)


def rules_in_force(context):
    rounds, count, small_sets = (1, 10, 2) if context.quick else (3, 200, 5)
    with Lab(context.build, "accept-change") as lab:
        galaxy = Galaxy(lab, policy=None)
        galaxy.restart_with_room(BLOCKS, RESULTS)
        small_port, large_port = free_port(), free_port()
        write_documents(galaxy, lab.folder / "documents", small_port, large_port)
        slowest = max(loads(galaxy, lab.folder / "documents", rounds))
        total = SMALL_SETS * SMALL_RULES + LARGE_RULES
        yield Row(f"{total:,} rules in {SMALL_SETS + 1:,} sets, one of {LARGE_RULES:,}, in force",
                  f"{slowest:.2f} s, the slowest of {rounds}", f"<= {LOAD_S} s", slowest <= LOAD_S)
        serve(galaxy, "w0", small_port)
        serve(galaxy, "w19", large_port)
        clients = {f"w{20 + i}": f"small-{20 * i}.yaml" for i in range(small_sets)}  # who may reach w0 by which policy
        small = [ChangingSet(lab, galaxy.folder / file, f"/api/v{file[6:-5]}", lab.make_cgroup(lab.with_shunt / client), small_port)
                 for client, file in clients.items()]
        large = [ChangingSet(lab, galaxy.folder / "large.yaml", "/api/large", lab.make_cgroup(lab.with_shunt / "w39"), large_port)]
        yield change_row(f"one of them changed, in a set of {SMALL_RULES}", list(changes(galaxy, small, count)))
        yield change_row(f"one of them changed, in the set of {LARGE_RULES:,}", list(changes(galaxy, large, count)))


POINTS = [Point("S", SPEED, "50,000 http rules in force, one of them changed", rules_in_force)]
