"""What the tests of shunt-proxy stand on: a server that says what it got, the proxy itself, and a client that reads strictly."""

import asyncio
import hashlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

PROXY = os.environ.get("SHUNT_PROXY", "build/fallback-proxy/shunt-proxy")
WAIT_SECONDS = 60
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: api}
spec:
  endpointSelector: {matchLabels: {app: api}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: web}}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http:
        - {path: "/open(/.*)?([?].*)?"}
        - {method: PUT, path: "/force", headers: ["X-Has-Force: true"]}
        - {method: GET, path: "/twice/(a|b)\\\\1"}
        - {method: GET, path: "/not/(?!secret).*"}
        - {method: OPTIONS, path: "[*]"}
---
apiVersion: shunt.dev/v1
kind: Workload
metadata: {name: api, labels: {app: api}}
spec: {match: {unit: api.service}}
---
apiVersion: shunt.dev/v1
kind: Workload
metadata: {name: web, labels: {app: web}}
spec: {match: {unit: web.service}}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def blob(size, seed="x"):
    """The same bytes for the same size and seed."""
    unit = hashlib.sha256(f"{size}{seed}".encode()).digest()
    return (unit * (size // len(unit) + 1))[:size]


def digest(data):
    return hashlib.sha256(data).hexdigest()


class EchoServer:
    """Answers with what it read, and reads only what the proxy may send: anything else is kept in `errors`."""

    def __init__(self):
        self.port = free_port()
        self.requests = []
        self.keep_requests = True
        self.errors = []
        self.connections = 0
        self.loop = asyncio.new_event_loop()
        ready = threading.Event()
        self.thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self.thread.start()
        ready.wait(WAIT_SECONDS)

    def _run(self, ready):
        asyncio.set_event_loop(self.loop)
        server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 20))
        ready.set()
        self.loop.run_forever()
        server.close()

    def stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(WAIT_SECONDS)

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                self.errors.append(("partial head", error.partial))
            return False
        found = re.fullmatch(rb"([A-Z]+) (\S+) HTTP/1\.([01])\r\n((?:[!-9;-~]+: [^\r\n\x00]*\r\n)*)\r\n", head)
        if not found:
            self.errors.append(("head", head))
            return False
        method, target, minor, lines = found.groups()
        fields = [tuple(line.split(b": ", 1)) for line in lines.split(b"\r\n") if line]
        names = [name.lower() for name, _ in fields]
        if names.count(b"host") != int(minor) or names.count(b"content-length") + names.count(b"transfer-encoding") > 1:
            self.errors.append(("framing", head))
        values = dict((name.lower(), value) for name, value in fields)
        if b"early" in target:
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge")
            await writer.drain()
            return False
        if values.get(b"expect") == b"100-continue" and b"refuse" not in target:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if values.get(b"expect") == b"100-continue" and b"refuse" in target:
            writer.write(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")
            await writer.drain()
            return False
        body = await self._body(reader, values)
        record = (method.decode(), target.decode(), fields, digest(body), len(body))
        if self.keep_requests:
            self.requests.append(record)
        return await self._answer(writer, method.decode(), target.decode(), fields, body)

    async def _body(self, reader, values):
        if values.get(b"transfer-encoding") == b"chunked":
            body = b""
            while True:
                line = await reader.readuntil(b"\r\n")
                if not re.fullmatch(rb"[0-9a-f]+\r\n", line):
                    self.errors.append(("chunk size", line))
                size = int(line, 16)
                data = await reader.readexactly(size + 2)
                if data[size:] != b"\r\n":
                    self.errors.append(("chunk end", data[-8:]))
                if size == 0:
                    return body
                body += data[:size]
        return await reader.readexactly(int(values.get(b"content-length", b"0")))

    async def _answer(self, writer, method, target, fields, body):
        path = target.partition("?")[0]
        kind, _, rest = path.removeprefix("/open/").partition("/")
        text = f"{method} {target} {digest(body)} {len(body)}".encode()
        if kind == "big":
            text = blob(int(rest))
        if kind in ("chunked", "until-close"):
            text = blob(int(rest))
        if kind == "hints":
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        if kind == "chunked":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            step = max(1, len(text) // 7)
            for at in range(0, len(text), step):
                part = text[at:at + step]
                writer.write(b"%X;ext=1\r\n%s\r\n" % (len(part), part))
            writer.write(b"0\r\nX-Trailer: t\r\n\r\n")
        elif kind == "until-close":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + text)
        elif kind == "status":
            extra = b"" if rest in ("204", "304") else b"Content-Length: 0\r\n"
            writer.write(b"HTTP/1.1 %s Status\r\n%s\r\n" % (rest.encode(), extra))
        elif kind == "truncate":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 50)
        elif kind == "truncate-chunks":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nhalf")
        elif kind == "silent":
            return False
        elif kind == "odd":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        elif kind == "sleep":
            await asyncio.sleep(float(rest))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
        else:
            names = b",".join(name for name, _ in fields)
            last = b"Connection: close\r\n" if kind == "last" else b""
            writer.write(b"HTTP/1.1 200 OK\r\nX-Names: %s\r\n%sContent-Length: %d\r\n\r\n" % (names, last, len(text)))
            writer.write(b"" if method == "HEAD" else text)
        await writer.drain()
        return kind not in ("until-close", "truncate", "truncate-chunks", "odd", "last")


class Proxy:
    def __init__(self, upstream_port, listener="", top="", policies=None, env=None, start=True, metrics="", sample=1):
        self.folder = tempfile.TemporaryDirectory(prefix="shunt-proxy-test-")
        os.chmod(self.folder.name, 0o755)
        base = pathlib.Path(self.folder.name)
        self.port = free_port()
        self.config = base / "proxy.yaml"
        self.policy = base / "policy.yaml"
        self.log = base / "log"
        self.access = base / "access.log"
        self.access.touch()
        os.chmod(self.access, 0o666)
        self.policy.write_text(POLICY if policies is None else policies)
        self.listener = listener
        self.top = top
        self.upstream_port = upstream_port
        self.metrics = metrics
        self.sample = sample
        self.write_config()
        self.process = None
        if start:
            self.start(env)

    def write_config(self):
        listen = "" if "descriptors:" in self.listener else f"listen: [\"127.0.0.1:{self.port}\"], "
        self.config.write_text(
            f"user: nobody\nthreads: 2\nmetrics: {{listen: \"{self.metrics}\"}}\npolicies: [{self.policy}]\n"
            f"access_log: {{path: {self.access}, format: json, sample: {self.sample}}}\n{self.top}\n"
            f"listeners:\n- {{name: api, {listen}to: api, port: 80,\n   upstreams: [\"127.0.0.1:{self.upstream_port}\"],\n"
            f"   sources: [{{network: 127.0.0.1, is: web}}], {self.listener}}}\n")

    def start(self, env=None):
        with self.log.open("a") as log:
            self.process = subprocess.Popen([PROXY, "--config", str(self.config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, **(env or {})})
        self.wait_for(lambda: "msg=ready" in self.log.read_text() or self.process.poll() is not None)
        if self.process.poll() is not None:
            raise RuntimeError(self.log.read_text())

    def wait_for(self, condition, seconds=WAIT_SECONDS):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(self.log.read_text())
            time.sleep(0.01)

    def connect(self, **options):
        return Client(self.port, **options)

    def memory_kib(self):
        return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{self.process.pid}/status").read_text()).group(1))

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        status = self.process.returncode if self.process else None
        self.folder.cleanup()
        return status


class Closed(Exception):
    """The connection ended before the response did."""


class Response:
    def __init__(self, version, status, fields, body, trailers):
        self.version, self.status, self.fields, self.body, self.trailers = version, status, fields, body, trailers

    def get(self, name):
        return dict((key.lower(), value) for key, value in self.fields).get(name.lower())


class Client:
    """Reads responses strictly, and keeps what follows."""

    def __init__(self, port, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(WAIT_SECONDS)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.bytes = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def _more(self):
        data = self.socket.recv(1 << 18)
        if not data:
            raise Closed(self.bytes)
        self.bytes += data

    def _until(self, end):
        while end not in self.bytes:
            self._more()
        part, _, self.bytes = self.bytes.partition(end)
        return part + end

    def _exactly(self, size):
        parts, have = [self.bytes], len(self.bytes)
        while have < size:
            data = self.socket.recv(1 << 18)
            if not data:
                raise Closed(b"".join(parts))
            parts.append(data)
            have += len(data)
        whole = b"".join(parts)
        self.bytes = whole[size:]
        return whole[:size]

    def read(self, method="GET"):
        """One final response; interim ones are kept in `interim`."""
        self.interim = []
        while True:
            head = self._until(b"\r\n\r\n")
            found = re.fullmatch(rb"HTTP/1\.([01]) ([1-5]\d\d) ([^\r\n]*)\r\n((?:[!-9;-~]+: [^\r\n]*\r\n)*)\r\n", head)
            assert found, head
            status = int(found.group(2))
            fields = [tuple(line.decode("latin-1").split(": ", 1)) for line in found.group(4).split(b"\r\n") if line]
            if status >= 200:
                break
            self.interim.append(status)
        values = dict((name.lower(), value) for name, value in fields)
        assert not ("content-length" in values and "transfer-encoding" in values), head
        trailers = []
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif values.get("transfer-encoding") == "chunked":
            body, trailers = self._chunks()
        elif "content-length" in values:
            body = self._exactly(int(values["content-length"]))
        else:
            body = self.rest()
        return Response(int(found.group(1)), status, fields, body, trailers)

    def _chunks(self):
        body = []
        while True:
            size = int(self._until(b"\r\n"), 16)
            if size == 0:
                break
            data = self._exactly(size + 2)
            assert data.endswith(b"\r\n"), data[-8:]
            body.append(data[:size])
        trailers = []
        while (line := self._until(b"\r\n")) != b"\r\n":
            trailers.append(line[:-2].decode())
        return b"".join(body), trailers

    def rest(self):
        """What comes until the end; a reset is an error."""
        try:
            while True:
                self._more()
        except Closed:
            data, self.bytes = self.bytes, b""
            return data

    def ask(self, data, method="GET"):
        self.send(data)
        return self.read(method)


def request(target, method="GET", body=None, chunks=None, fields=(), host="h", minor=1):
    head = f"{method} {target} HTTP/1.{minor}\r\n" + (f"Host: {host}\r\n" if host is not None else "")
    head += "".join(f"{name}: {value}\r\n" for name, value in fields)
    if chunks is not None:
        data = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in chunks) + b"0\r\n\r\n"
        return (head + "Transfer-Encoding: chunked\r\n\r\n").encode() + data
    if body is not None:
        return (head + f"Content-Length: {len(body)}\r\n\r\n").encode() + body
    return (head + "\r\n").encode()


def echoed(method, target, body=b""):
    return f"{method} {target} {digest(body)} {len(body)}".encode()
