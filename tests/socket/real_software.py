#!/usr/bin/env python3
"""Real clients and servers with an L7 policy in force between them: the same bytes as without, and the kernel judges, or the proxy (root)

usage: real_software.py [--build DIR] [--requests N] [-o tap|json] [--list] [SCENARIO...]

A scenario is a server with two files that the policy allows to be read, and one that it does not. Every client asks for them; curl, Python
and Node compare each byte, the programs that make load are compared by what they count.
"""

import hashlib
import pathlib
import re
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools/lib"))
sys.dont_write_bytecode = True

from galaxy import POLICY, Galaxy  # noqa: E402
from lab import free_port, nginx_conf  # noqa: E402
from scenarios import Scenarios, expect  # noqa: E402

SMALL, LARGE = "Ship landed\n", "".join(f"{number:08x} of the cargo\n" for number in range(50_000))
JUDGED_SHARE = 0.9
CONNECTIONS, DEPTH = 8, 40  # of load; requests on each connection of the clients that look at the bytes

APACHE = """
ServerRoot {folder}
PidFile {folder}/apache.pid
ErrorLog {folder}/apache.log
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
User nobody
Group nogroup
ServerName a
Listen 127.0.0.1:{port}
DocumentRoot {site}
MaxKeepAliveRequests 0
AcceptFilter http none
"""  # not TCP_DEFER_ACCEPT: what comes with the handshake is lost on a governed listener

HAPROXY = """
defaults
  mode http
  timeout connect 10s
  timeout client 60s
  timeout server 60s
frontend deathstar
  bind 127.0.0.1:{port}
  default_backend nginx
backend nginx
  server one 127.0.0.1:{behind}
"""

NODE_SERVER = """
const http = require("http"), fs = require("fs"), [site, port] = process.argv.slice(2);
http.createServer((request, response) => fs.readFile(site + request.url, (error, data) => {
  response.writeHead(error ? 404 : 200, {"Content-Length": error ? 0 : data.length});
  response.end(data);
})).listen(Number(port), "127.0.0.1");
"""

# Asks for each of the paths in turn over one connection; prints status and hash of each.
PYTHON_CLIENT = """
import hashlib, http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=30)
for path in sys.argv[2:]:
    connection.request("GET", path)
    response = connection.getresponse()
    print(response.status, hashlib.sha256(response.read()).hexdigest())
"""

NODE_CLIENT = """
const http = require("http"), crypto = require("crypto"), [port, ...paths] = process.argv.slice(2);
const agent = new http.Agent({keepAlive: true, maxSockets: 1});
const next = () => paths.length && http.get({host: "127.0.0.1", port, path: paths.shift(), agent}, response => {
  const hash = crypto.createHash("sha256");
  response.on("data", data => hash.update(data));
  response.on("end", () => { console.log(response.statusCode, hash.digest("hex")); setImmediate(next); });
}).on("error", error => { console.log(error.message); process.exit(1); });
next();
"""


def go(lab, function, options):
    galaxy = Galaxy(lab, options, POLICY.replace('method: "POST"', 'method: "GET"').replace("/v1/request-landing", "/v1/(small|large)"))
    return function(galaxy)


def tell(outcome):
    return f"{outcome['requests']:,} requests, {outcome['share']:.1%} judged {outcome['who']}: {outcome['seconds']:.1f} s"


SCENARIOS = Scenarios("real", go, tell, (("requests", int, 1000, "of each program that makes load"),))


def scenario(name, **how):
    def add(function):
        SCENARIOS.all[name] = lambda galaxy: with_clients(galaxy, function, **how)
        return function
    return add


# ---- servers ----

def write_site(galaxy):
    site = galaxy.lab.folder / "site"
    for path, text in (("v1/small", SMALL), ("v1/large", LARGE), ("v2/secret", "the plans\n")):
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    return site


def serve(galaxy, port, *command, env=(), cgroup=None):
    name = pathlib.Path(command[0]).name
    log = galaxy.lab.folder / f"{name}.log"
    server = galaxy.lab.serve([*(("env", *env) if env else ()), *command], cgroup=cgroup or galaxy.cgroups["deathstar"], log=log)
    galaxy.lab.wait_for_port(port, server, log, name)


def serve_nginx(galaxy, site, port, cgroup=None):
    folder = galaxy.lab.folder / "nginx"
    folder.mkdir()
    (folder / "nginx.conf").write_text(nginx_conf(folder, f"127.0.0.1:{port}", f"root {site};"))
    serve(galaxy, port, shutil.which("nginx"), "-c", folder / "nginx.conf", "-e", folder / "error.log", cgroup=cgroup)


@scenario("nginx")
def nginx(galaxy, site):
    serve_nginx(galaxy, site, galaxy.port)


@scenario("haproxy before nginx")
def haproxy(galaxy, site):
    behind = free_port()
    serve_nginx(galaxy, site, behind, galaxy.lab.without)
    configuration = galaxy.lab.folder / "haproxy.cfg"
    configuration.write_text(HAPROXY.format(port=galaxy.port, behind=behind))
    serve(galaxy, galaxy.port, shutil.which("haproxy"), "-db", "-f", configuration)


@scenario("Apache")
def apache(galaxy, site):
    configuration = galaxy.lab.folder / "apache.conf"
    configuration.write_text(APACHE.format(folder=galaxy.lab.folder, site=site, port=galaxy.port))
    serve(galaxy, galaxy.port, shutil.which("apache2"), "-X", "-f", configuration)


@scenario("Node")
def node(galaxy, site):
    script = galaxy.lab.folder / "server.js"
    script.write_text(NODE_SERVER)
    serve(galaxy, galaxy.port, shutil.which("node"), script, site, galaxy.port)


# ---- clients: each returns how many requests it made ----

def url(galaxy, path):
    return f"http://127.0.0.1:{galaxy.port}{path}"


def curl(galaxy):
    folder = galaxy.lab.folder / "got"
    folder.mkdir()
    paths = ["/v1/small", "/v1/large"] * DEPTH
    command = ["curl", "-sS", "--fail", "-m", "60"]
    for number, path in enumerate(paths):
        command += ["-o", folder / str(number), url(galaxy, path)]
    code, text = galaxy.run("tiefighter", command)
    expect(code == 0, f"curl ended with {code}: {text[-300:]}")
    for number, path in enumerate(paths):
        expect((folder / str(number)).read_text() == (SMALL if path == "/v1/small" else LARGE), f"curl: {path} arrived changed")
    code, status, _ = galaxy.curl("tiefighter", "GET", "/v2/secret")
    expect((code, status) == (0, "403"), f"curl got {status} for what is denied ({code})")
    return len(paths) + 1


def comparing(galaxy, program, text, suffix):
    """Clients that print status and hash of what they got, in turns with a request that is denied."""
    script = galaxy.lab.folder / f"client{suffix}"
    script.write_text(text)
    paths = ["/v1/small", "/v1/large", "/v2/secret"] * DEPTH
    code, said = galaxy.run("tiefighter", [program, script, galaxy.port, *paths])
    good = [f"200 {hashlib.sha256(body.encode()).hexdigest()}" for body in (SMALL, LARGE)]
    lines = said.splitlines()
    expect(code == 0 and len(lines) == len(paths), f"{program} ended with {code} after {len(lines)} responses: {said[-300:]}")
    for line, path, wanted in zip(lines, paths, [*good, None] * DEPTH):
        expect(line == wanted if wanted else line.startswith("403 "), f"{program} got {line} for {path}")
    return len(paths)


def loading(galaxy, command, *patterns):
    """Programs that make load: what they count is in the groups of the patterns, and is to be (requests, bytes of bodies or nothing)."""
    total = 0
    for path, body, requests in (("/v1/small", SMALL, galaxy.options.requests), ("/v1/large", LARGE, galaxy.options.requests // 20)):
        requests -= requests % CONNECTIONS
        code, text = galaxy.run("tiefighter", [*(str(part).format(requests=requests) for part in command), url(galaxy, path)])
        found = [re.search(pattern, text) for pattern in patterns]
        counted = tuple(int(match.group(1)) if match else None for match in found)
        expect(code == 0 and counted == (requests, requests * len(body))[:len(patterns)],
               f"{command[0]} ended with {code} and counted {counted} of {requests} requests for {path}: {text[-600:]}")
        total += requests
    return total


def wrk(galaxy):
    code, text = galaxy.run("tiefighter", ["wrk", "-t1", f"-c{CONNECTIONS}", "-d1s", url(galaxy, "/v1/small")])
    expect(code == 0 and "Non-2xx" not in text and "Socket errors" not in text, f"wrk: {text}")
    return int(re.search(r"(\d+) requests in", text).group(1))


CLIENTS = {
    "curl": curl,
    "Python": lambda galaxy: comparing(galaxy, sys.executable, PYTHON_CLIENT, ".py"),
    "Node": lambda galaxy: comparing(galaxy, "node", NODE_CLIENT, ".js"),
    "h2load": lambda galaxy: loading(galaxy, ["h2load", "--h1", "-n", "{requests}", "-c", CONNECTIONS], r"(\d+) 2xx, 0 3xx, 0 4xx, 0 5xx",
                                     r"\((\d+)\) data"),
    "ab": lambda galaxy: loading(galaxy, ["ab", "-q", "-k", "-n", "{requests}", "-c", CONNECTIONS],
                                 r"Complete requests:\s+(\d+)\nFailed requests:\s+0\n(?!Non-2xx)", r"HTML transferred:\s+(\d+) bytes"),
    "wrk": wrk,
}


def hey(galaxy):
    """In Go: a connection for each request, and kept ones."""
    total = 0
    for path, requests, more in (("/v1/small", galaxy.options.requests, ()), ("/v1/large", galaxy.options.requests // 20, ()),
                                 ("/v1/small", 12 * galaxy.options.requests, ("-disable-keepalive",)), ("/v2/secret", 40, ())):
        requests -= requests % CONNECTIONS
        code, text = galaxy.run("tiefighter", ["hey", "-n", requests, "-c", CONNECTIONS, "-t", "30", *more, url(galaxy, path)])
        status = 403 if "secret" in path else 200
        expect(code == 0 and f"[{status}]\t{requests} responses" in text and "Error" not in text, f"hey ended with {code}: {text[-900:]}")
        total += requests
    return total


# ---- who judges: programs in Go splice from their sockets and are no receivers, so the proxy has their connections ----

def by_kernel(galaxy):
    counters = galaxy.counters()
    return counters["requests_allowed"] + counters["requests_denied"]


def by_proxy(galaxy):
    return sum(value for series, value in galaxy.proxy_metrics().items()
               if series.startswith("shunt_proxy_requests_total{") and 'source="steered"' in series)


def with_clients(galaxy, server, clients=None, judged=by_kernel, who="in the kernel"):
    site = write_site(galaxy)
    gate = galaxy.whole_host()[1]
    server(galaxy, site)
    galaxy.proxy_of(gate, access_log=False)
    total, shares = 0, {}
    before = judged(galaxy)
    for name, client in (clients or CLIENTS).items():
        requests = client(galaxy)
        after = judged(galaxy)
        shares[name] = min((after - before) / requests, 1)  # wrk stops counting before it stops asking
        expect(shares[name] >= JUDGED_SHARE, f"{name}: {after - before} of {requests} requests were judged {who} ({shares})")
        before, total = after, total + requests
    return {"requests": total, "share": min(shares.values()), "who": who}


def serve_caddy(galaxy, site):
    folder = galaxy.lab.folder
    serve(galaxy, galaxy.port, shutil.which("caddy"), "file-server", "--listen", f"127.0.0.1:{galaxy.port}", "--root", site,
          env=(f"HOME={folder}", f"XDG_CONFIG_HOME={folder}", f"XDG_DATA_HOME={folder}"))


@scenario("a server in Go", judged=by_proxy, who="by the proxy")
def caddy(galaxy, site):
    serve_caddy(galaxy, site)


@scenario("a client in Go before nginx", clients={"hey": hey}, judged=by_proxy, who="by the proxy")
def go_client(galaxy, site):
    serve_nginx(galaxy, site, galaxy.port)


@scenario("a client and a server in Go", clients={"hey": hey}, judged=by_proxy, who="by the proxy")
def go_both(galaxy, site):
    serve_caddy(galaxy, site)


if __name__ == "__main__":
    sys.exit(SCENARIOS.main(__doc__))
