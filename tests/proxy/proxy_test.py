#!/usr/bin/env python3
"""shunt-proxy against servers and clients that know nothing of it. Traffic stays on loopback.

usage: SHUNT_PROXY=PROGRAM proxy_test.py [unittest's arguments]
"""

import http.client
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.request

import lab
from lab import Client, Closed, EchoServer, Proxy, blob, digest, echoed, free_port, request

MIB = 1 << 20
# Of the proxy, whatever it passes on; a sanitizer keeps books of its own.
GROWTH_KIB_MAX = 4096 * int(os.environ.get("SHUNT_TESTS_SLOWER", "1"))


class ProxyCase(unittest.TestCase):
    listener = ""
    top = ""
    metrics = ""
    sample = 1
    policies = None

    def setUp(self):
        self.server = EchoServer()
        self.addCleanup(self.server.stop)
        self.proxy = Proxy(self.server.port, self.listener, self.top, self.policies, metrics=self.metrics, sample=self.sample)
        self.addCleanup(self.end)

    def end(self):
        self.assertEqual(self.server.errors, [])
        self.assertEqual(self.proxy.stop(), 0, "the proxy did not end cleanly")

    def expect_status(self, data, status, method="GET"):
        with self.proxy.connect() as client:
            self.assertEqual(client.ask(data, method).status, status, data[:200])

    def expect_refused(self, data, status=400):
        """Answered, closed, and never seen by the server."""
        before = len(self.server.requests)
        with self.proxy.connect() as client:
            response = client.ask(data)
            self.assertEqual(response.status, status, data[:200])
            self.assertEqual(response.get("connection"), "close", data[:200])
            self.assertEqual(client.rest(), b"", data[:200])
        self.assertEqual(len(self.server.requests), before, data[:200])


class Forwarding(ProxyCase):
    def test_requests_of_all_kinds_on_one_connection(self):
        with self.proxy.connect() as client:
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "FANCY"):
                response = client.ask(request("/open/a?b=c", method, body=b"body"))
                self.assertEqual((response.status, response.body), (200, echoed(method, "/open/a?b=c", b"body")))
            self.assertEqual(client.ask(request("/open/a", "HEAD"), "HEAD").get("content-length"), str(len(echoed("HEAD", "/open/a"))))
            self.assertEqual(client.ask(request("*", "OPTIONS")).body, echoed("OPTIONS", "*"))
        self.assertEqual(self.server.connections, 1)

    def test_chunked_bodies_are_made_anew_and_trailers_dropped(self):
        head = b"POST /open/c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\nTrailer: X-Has-Force\r\n\r\n"
        body = b"5;name=\"v\"\r\nhello\r\n00006\r\n world\r\n0;last\r\nX-Has-Force: true\r\n\r\n"
        with self.proxy.connect() as client:
            self.assertEqual(client.ask(head + body).body, echoed("POST", "/open/c", b"hello world"))
            self.assertEqual(client.ask(request("/open/next")).body, echoed("GET", "/open/next"))
        names = [name.lower() for name, _ in self.server.requests[0][2]]
        self.assertNotIn(b"trailer", names)

    def test_paths_are_forwarded_as_they_were_judged(self):
        for target, seen in [("/open/./x/../y//z", "/open/y/z"), ("/%6fpen/%7e%2D", "/open/~-"), ("/open/a%20%c3%a9", "/open/a%20%C3%A9"),
                             ("/x/../open/", "/open/"), ("/open/a;b=1", "/open/a;b=1"), ("/open/{a|b}", "/open/%7Ba%7Cb%7D"),
                             ("/open/a?b=%2f..//", "/open/a?b=%2f..//"), ("http://h/open/abs", "/open/abs"),
                             ("HTTP://H:80/open/abs", "/open/abs")]:
            with self.proxy.connect() as client:
                self.assertEqual(client.ask(request(target)).body, echoed("GET", seen), target)

    def test_hop_by_hop_fields_end_here(self):
        fields = [("Connection", "X-Mine, keep-alive"), ("X-Mine", "1"), ("Keep-Alive", "5"), ("TE", "trailers"), ("Proxy-Connection", "a"),
                  ("X-Kept", "1")]
        with self.proxy.connect() as client:
            names = client.ask(request("/open/a", fields=fields)).get("x-names")
        self.assertEqual(names, "Host,X-Kept")

    def test_http_1_0(self):
        with self.proxy.connect() as client:
            response = client.ask(request("/open/chunked/5000", minor=0))
            self.assertEqual((response.body, response.get("connection")), (blob(5000), "close"))
        with self.proxy.connect() as client:
            for _ in range(3):
                response = client.ask(request("/open/a", minor=0, host=None, fields=[("Connection", "Keep-Alive")]))
                self.assertEqual((response.body, response.get("connection")), (echoed("GET", "/open/a"), "keep-alive"))

    def test_responses_without_body(self):
        with self.proxy.connect() as client:
            for status in (204, 304, 200, 404):
                self.assertEqual(client.ask(request(f"/open/status/{status}")).status, status)
            self.assertEqual(client.ask(request("/open/a")).status, 200)

    def test_interim_responses_and_100_continue(self):
        head = b"POST /open/e HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        with self.proxy.connect() as client:
            client.ask(request("/open/hints/"))
            self.assertEqual(client.interim, [103])
            client.send(head)
            self.assertTrue(client._until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 "))
            self.assertEqual(client.ask(b"12345").body, echoed("POST", "/open/e", b"12345"))
        with self.proxy.connect() as client:
            response = client.ask(head.replace(b"/open/e", b"/open/refuse"))
            self.assertEqual((response.status, response.get("connection"), client.rest()), (401, "close", b""))
        with self.proxy.connect() as client:
            response = client.ask(head.replace(b"/open/e", b"/closed"))
            self.assertEqual((response.status, response.get("connection"), client.rest()), (403, "close", b""))
        self.expect_refused(head.replace(b"100-continue", b"200-ok"), 417)

    def test_ten_megabytes_both_ways(self):
        data = blob(10 * MIB, "up")
        parts = [data[at:at + 70001] for at in range(0, len(data), 70001)]
        with self.proxy.connect() as client:
            for message in (request("/open/up", "POST", body=data), request("/open/up", "POST", chunks=parts)):
                self.assertEqual(client.ask(message).body, echoed("POST", "/open/up", data))
            for kind in ("big", "chunked", "until-close"):
                self.assertEqual(digest(client.ask(request(f"/open/{kind}/{10 * MIB}")).body), digest(blob(10 * MIB)), kind)

    def test_every_split_of_a_pipeline(self):
        data = (request("/open/1", "POST", chunks=[b"ab", b"c"]) + request("/open/2", "PUT", body=b"xyz") + request("/no") +
                request("/open/../open/3") + request("/no", "POST", body=b"denied"))
        expected = [(200, echoed("POST", "/open/1", b"abc")), (200, echoed("PUT", "/open/2", b"xyz")), (403, b"Access denied\r\n"),
                    (200, echoed("GET", "/open/3")), (403, b"Access denied\r\n")]
        with self.proxy.connect() as client:
            for at in range(1, len(data)):
                client.send(data[:at])
                time.sleep(0.0005)
                client.send(data[at:])
                for status, body in expected:
                    response = client.read()
                    self.assertEqual((response.status, response.body), (status, body), at)

    def test_random_splits(self):
        source = random.Random(7)
        with self.proxy.connect() as client:
            for round_ in range(60):
                target = f"/open/{round_}/" + "x" * source.randrange(9000)
                body = blob(source.randrange(60000), round_)
                chunks = [body[at:at + 999] for at in range(0, len(body), 999)]
                data = source.choice([request(target, "POST", body=body), request(target, "POST", chunks=chunks)])
                while data:
                    size = source.choice([1, 2, 100, 5000, 40000])
                    client.send(data[:size])
                    data = data[size:]
                self.assertEqual(client.read().body, echoed("POST", target, body))

    def test_server_that_closes_every_so_often(self):
        with self.proxy.connect() as client:
            for i in range(300):
                target = f"/open/last/{i}" if i % 7 == 0 else f"/open/{i}"
                self.assertEqual(client.ask(request(target)).body, echoed("GET", target))

    def test_the_end_of_sending_is_not_the_end_of_reading(self):
        with self.proxy.connect() as client:
            client.send(request("/open/sleep/0.3") + request("/open/b"))
            client.socket.shutdown(socket.SHUT_WR)
            self.assertEqual([client.read().status, client.read().status, client.rest()], [200, 200, b""])


class Refusals(ProxyCase):
    HEAD = b"POST /open/a HTTP/1.1\r\nHost: h\r\n"

    def test_smuggling_shapes(self):
        smuggled = b"0\r\n\r\nGET /open/smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
        for lines in [b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", b"Content-Length: 0\r\nContent-Length: 0\r\n",
                      b"Content-Length: 5\r\nContent-Length: 0\r\n", b"Content-Length: +5\r\n", b"Content-Length: 0x5\r\n",
                      b"Content-Length: 5,5\r\n", b"Content-Length:\r\n", b"Content-Length: 5 5\r\n",
                      b"Content-Length: 99999999999999999999\r\n", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                      b"Transfer-Encoding: chunked, chunked\r\n", b"Transfer-Encoding: chunked, gzip\r\n",
                      b"Transfer-Encoding: xchunked\r\n",
                      b"Transfer-Encoding: \x0bchunked\r\n", b"Transfer-Encoding : chunked\r\n", b"Transfer_Encoding: chunked\r\n",
                      b"Transfer-Encoding:\r\n chunked\r\n", b"X: a\r\n folded\r\n", b"X: a\nTransfer-Encoding: chunked\r\n",
                      b"X: a\rTransfer-Encoding: chunked\r\n", b"X: \x00\r\n", b" X: a\r\n", b"X\r\n", b": a\r\n", b"X y: a\r\n",
                      b"Connection: Content-Length\r\nContent-Length: 50\r\n",
                      b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
                      b"Host: other\r\n"]:
            self.expect_refused(self.HEAD + lines + b"\r\n" + smuggled)
        self.expect_refused(b"POST /open/a HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + smuggled)

    def test_request_lines(self):
        for line in [b"GET  /open/a HTTP/1.1", b"GET /open/a  HTTP/1.1", b"GET /open/a HTTP/1.1 ", b"GET /open/a", b"GET\t/open/a HTTP/1.1",
                     b"GET /open/a HTTP/1.1x", b"GET open HTTP/1.1", b"GET * HTTP/1.1", b"GET http://other/open/a HTTP/1.1",
                     b"GET https://h/open/a HTTP/1.1", b"GET http://u@h/open/a HTTP/1.1", b"GET http:///open/a HTTP/1.1",
                     b"G(T /open/a HTTP/1.1"]:
            self.expect_refused(line + b"\r\nHost: h\r\n\r\n")
        self.expect_refused(b"GET /open/a HTTP/1.1\nHost: h\n\n")
        self.expect_refused(b"\nGET /open/a HTTP/1.1\r\nHost: h\r\n\r\n")
        self.expect_refused(b"GET /open/a HTTP/1.1\r\n\r\n")
        self.expect_refused(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40)
        self.expect_status(b"\r\nGET /open/a HTTP/1.1\r\nHost: h\r\n\r\n", 200)

    def test_ambiguous_paths(self):
        for target in ["/open/%2f", "/open%2Fx", "/open/%5c", "/open\\x", "/open/%00", "/open/%0d%0a", "/open/%zz", "/open/%4",
                       "/../open/x", "/open/..;/x", "/open/%2e%2e;x/y", "/open/..%3b/x", "/open/a#b", "/open/a?b#c", "/open/%7f"]:
            self.expect_refused(request(target))
        self.expect_refused("GET /open/é HTTP/1.1\r\nHost: h\r\n\r\n".encode())

    def test_what_is_not_supported_is_refused_by_name(self):
        self.expect_refused(b"CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", 501)
        self.expect_refused(request("/open/a", fields=[("Connection", "Upgrade"), ("Upgrade", "websocket")]), 501)
        upgrade = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMA")]
        self.expect_refused(request("/open/a", fields=upgrade), 501)
        self.expect_refused(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505)
        self.expect_refused(request("/open/a", "POST", fields=[("Transfer-Encoding", "gzip, chunked")]), 501)
        self.expect_refused(b"POST /open/a HTTP/1.0\r\n\r\n", 411)

    def test_long_heads(self):
        self.expect_status(request("/open/" + "a" * 7000, fields=[("X", "y" * 50000)]), 200)
        self.expect_refused(request("/open/a", fields=[("X", "y" * 65536)]), 431)
        self.expect_refused(request("/open/" + "a" * 70000), 431)
        self.expect_refused(request("/open/a", fields=[(f"X{i}", "y") for i in range(300)]), 431)

    def test_malformed_chunks_end_the_request(self):
        for body in [b"x\r\n", b"5\nhello\r\n0\r\n\r\n", b"5\r\nhelloX\r\n0\r\n\r\n", b"-5\r\nhello\r\n", b"0x5\r\nhello\r\n0\r\n\r\n",
                     b"5 \r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\n", b"\r\n", b"5;\x00\r\nhello\r\n0\r\n\r\n",
                     b"0\r\nContent-Length: 5\r\n\r\n", b"0\r\nX : a\r\n\r\n", b"0\r\n folded\r\n\r\n", b"0\r\nX: a\n\r\n\r\n"]:
            before = len(self.server.requests)
            with self.proxy.connect() as client:
                self.assertEqual(client.ask(self.HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body).status, 400, body)
                self.assertEqual(client.rest(), b"")
            self.assertEqual(len(self.server.requests), before, body)

    def test_requests_cut_short_never_look_whole(self):
        for message in (request("/open/cut", "POST", body=b"x" * 1000)[:-1], request("/open/cut", "POST", chunks=[b"x" * 1000])[:-3]):
            with self.proxy.connect() as client:
                client.send(message)
                client.socket.shutdown(socket.SHUT_WR)
                self.assertEqual(client.rest(), b"")
        self.assertEqual(self.server.requests, [])


class Verdicts(ProxyCase):
    def access_lines(self, count):
        self.proxy.wait_for(lambda: self.proxy.access.read_text().count("\n") >= count)
        return [json.loads(line) for line in self.proxy.access.read_text().splitlines()]

    def test_denials(self):
        with self.proxy.connect() as client:
            self.assertEqual(client.ask(request("/closed")).status, 403)
            self.assertEqual(client.ask(request("/closed", "HEAD"), "HEAD").status, 403)
            self.assertEqual(client.ask(request("/closed", "POST", chunks=[b"a" * 999])).status, 403)
            self.assertEqual(client.ask(request("/open/../closed")).status, 403)
            self.assertEqual(client.ask(request("/open/a")).status, 200)
            response = client.ask(request("/closed", "POST", body=b"x" * 70000))
            self.assertEqual((response.status, response.get("connection"), client.rest()), (403, "close", b""))
        self.assertEqual(len(self.server.requests), 1)
        denied = [line for line in self.access_lines(6) if line["verdict"] == "denied"]
        self.assertEqual(len(denied), 5)
        self.assertEqual((denied[0]["from"], denied[0]["to"], denied[0]["reason"]), ("default/web", "default/api", "no-matching-rule"))

    def test_headers_that_rules_look_at(self):
        def force(*values, **more):
            return request("/force", "PUT", body=b"", fields=[("X-Has-Force", value) for value in values], **more)

        for data, status in [(force("true"), 200), (force(), 403), (force("false"), 403), (force("true", "true"), 403),
                             (force("false", "true"), 403), (force("  true"), 200)]:
            self.expect_status(data, status)
        # What Connection takes away was not sent, as far as rules go.
        self.expect_status(request("/force", "PUT", body=b"", fields=[("X-Has-Force", "true"), ("Connection", "x-has-force")]), 403)
        # A trailer is no header.
        self.expect_status(b"PUT /force HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Has-Force: true\r\n\r\n", 403)

    def test_expressions_beyond_the_automaton(self):
        for target, status in [("/twice/aa", 200), ("/twice/bb", 200), ("/twice/ab", 403), ("/not/x", 200), ("/not/secret", 403),
                               ("/not/x/../secret", 403), ("/twice/%61a", 200), ("/open/%20" + "a" * 9000, 200),
                               ("/nope/" + "a" * 9000, 403)]:
            self.expect_status(request(target), status)

    def test_who_is_not_named_is_judged_by_address(self):
        self.proxy.write_config()
        text = self.proxy.config.read_text().replace("is: web", "is: world")
        self.proxy.config.write_text(text)
        self.proxy.process.send_signal(signal.SIGHUP)
        self.proxy.wait_for(lambda: "msg=reloaded" in self.proxy.log.read_text())
        self.expect_status(request("/open/a"), 403)
        line = self.access_lines(1)[-1]
        self.assertEqual((line["from"], line["reason"]), ("world", "default-deny"))


class Metrics(ProxyCase):
    sample = 1000  # of the access log: what is counted does not depend on it

    def setUp(self):
        self.metrics = f"127.0.0.1:{free_port()}"
        super().setUp()

    def text(self):
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=lab.WAIT_SECONDS) as response:
            return response.read().decode()

    def value(self, series):
        found = re.search(rf"^{re.escape(series)} (\S+)$", self.text(), re.M)
        self.assertIsNotNone(found, series)
        return float(found.group(1))

    def requests(self, outcome, code):
        return self.value(f'shunt_proxy_requests_total{{source="listener",outcome="{outcome}",code="{code}"}}')

    def test_every_request_is_counted_once(self):
        with self.proxy.connect() as client:
            for _ in range(7):
                client.ask(request("/open/a", "POST", body=b"12345"))
            for _ in range(3):
                client.ask(request("/closed"))
            self.assertEqual(self.value("shunt_proxy_connections"), 1)
        with self.proxy.connect() as client:  # behind one with a body, whose bytes are not its own
            client.ask(request("/open/a", "POST", body=b"12345"))
            client.ask(b"GET  /open/a HTTP/1.1\r\nHost: h\r\n\r\n")
        self.proxy.wait_for(lambda: self.value("shunt_proxy_connections") == 0)
        self.server.stop()
        self.expect_status(request("/open/a"), 502)
        self.assertEqual((self.requests("forwarded", "2xx"), self.requests("denied", "4xx"), self.requests("refused", "4xx"),
                          self.requests("failed", "5xx")), (8, 3, 1, 1))
        self.assertEqual(self.value('shunt_proxy_request_bytes_total{source="listener"}'), 40)
        self.assertEqual(self.value('shunt_proxy_response_bytes_total{source="listener"}'), 8 * len(echoed("POST", "/open/a", b"12345")))
        total = sum(float(value) for value in re.findall(r"^shunt_proxy_requests_total\S+ (\S+)$", self.text(), re.M))
        self.assertEqual(total, 13)
        self.proxy.wait_for(lambda: self.value("shunt_proxy_connections") == 0)

    def test_promtool_has_nothing_to_say(self):
        promtool = subprocess.run(["promtool", "check", "metrics"], input=self.text(), text=True, capture_output=True)
        self.assertEqual((promtool.returncode, promtool.stderr), (0, ""), promtool.stdout)

    def test_a_taken_port_costs_the_metrics_alone(self):
        other = Proxy(self.server.port, metrics=self.metrics)
        self.addCleanup(other.stop)
        self.assertIn("no metrics", other.log.read_text())
        with other.connect() as client:
            self.assertEqual(client.ask(request("/open/a")).status, 200)


class Failures(ProxyCase):
    def test_what_the_server_does_wrong(self):
        for target in ("/open/silent/", "/open/odd/"):
            with self.proxy.connect() as client:
                self.assertEqual(client.ask(request(target)).status, 502, target)
                self.assertEqual(client.ask(request("/open/a")).status, 200, target)
        # A request that the server may have seen is not sent again.
        self.assertEqual([record[1] for record in self.server.requests].count("/open/silent/"), 1)

    def test_truncated_responses_never_look_whole(self):
        for target, minor in [("/open/truncate/", 1), ("/open/truncate-chunks/", 1), ("/open/truncate/", 0)]:
            with self.proxy.connect() as client, self.assertRaises(Closed, msg=target):
                client.ask(request(target, minor=minor))
        with self.proxy.connect() as client, self.assertRaises(ConnectionResetError):
            client.ask(request("/open/truncate-chunks/", minor=0))

    def test_answers_before_the_request_is_whole(self):
        with self.proxy.connect() as client:
            client.send(b"POST /open/early HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1000)
            response = client.read()
            self.assertEqual((response.status, response.body, response.get("connection")), (413, b"large", "close"))
            self.assertEqual(client.rest(), b"")

    def test_clients_that_leave(self):
        for _ in range(50):
            with self.proxy.connect() as client:
                client.send(request("/open/big/5000000"))
                client.socket.recv(10)
            with self.proxy.connect() as client:
                client.send(request("/open/up", "POST", body=b"x" * 100000)[:50000])
        self.expect_status(request("/open/a"), 200)

    def test_no_server(self):
        self.server.stop()
        proxy = Proxy(free_port())
        try:
            with proxy.connect() as client:
                self.assertEqual(client.ask(request("/open/a")).status, 502)
                self.assertEqual(client.ask(request("/open/a", "POST", body=b"x")).status, 502)
        finally:
            proxy.stop()


class Timeouts(ProxyCase):
    top = "timeouts: {idle: 300ms, head: 500ms, exchange: 1s}\nlimits: {connections: 4}"

    def test_each_wait_has_an_end(self):
        with self.proxy.connect() as client:
            self.assertEqual(client.rest(), b"")
        with self.proxy.connect() as client:
            client.send(b"GET /open/a HTT")
            self.assertEqual((client.read().status, client.rest()), (408, b""))
        with self.proxy.connect() as client:
            self.assertEqual(client.ask(request("/open/sleep/30")).status, 504)

    def test_more_connections_than_allowed_are_turned_away(self):
        held = [self.proxy.connect() for _ in range(4)]
        for client in held:
            self.assertEqual(client.ask(request("/open/a")).status, 200)
        with self.proxy.connect() as client:
            self.assertEqual(client.read().status, 503)
        for client in held:
            client.socket.close()


class Rewriting(ProxyCase):
    listener = ("headers: {add: {X-Added: one}, set: {X-Set: mine}, remove: [X-Gone]}, "
                "routes: [{path: /open/r, headers: {set: {X-Added: two}, add: {X-Set: also}}}]")

    def fields_of(self, target):
        fields = [("x-set", "theirs"), ("x-gone", "1"), ("X-Stays", "1"), ("X-Added", "theirs")]
        self.expect_status(request(target, fields=fields), 200)
        return sorted((name.decode().lower(), value.decode()) for name, value in self.server.requests[-1][2] if name != b"Host")

    def test_headers_by_listener_and_route(self):
        self.assertEqual(self.fields_of("/open/x"), [("x-added", "one"), ("x-added", "theirs"), ("x-set", "mine"), ("x-stays", "1")])
        self.assertEqual(self.fields_of("/open/r/a"), [("x-added", "two"), ("x-set", "also"), ("x-set", "mine"), ("x-stays", "1")])
        self.assertEqual(self.fields_of("/open/ra"), self.fields_of("/open/x"))


class Mixture(ProxyCase):
    """Simple and complex requests, denials among them, 16 at a time on one connection."""

    REQUESTS = int(os.environ.get("SHUNT_PROXY_REQUESTS", "20000"))

    @staticmethod
    def one(i):
        body = blob(i % 300, i)
        kinds = [
            lambda: (request(f"/open/{i}"), 200, "GET", echoed("GET", f"/open/{i}")),
            lambda: (request(f"/open/{i}", "POST", chunks=[body[:7], body[7:]] if len(body) > 7 else [b"z"]), 200, "POST",
                     echoed("POST", f"/open/{i}", body if len(body) > 7 else b"z")),
            lambda: (request(f"/closed/{i}"), 403, "GET", b"Access denied\r\n"),
            lambda: (request(f"/open/./{i}//%61"), 200, "GET", echoed("GET", f"/open/{i}/a")),
            lambda: (request(f"/open/{i}", "PUT", body=body), 200, "PUT", echoed("PUT", f"/open/{i}", body)),
            lambda: (request(f"/closed/{i}", "POST", body=body), 403, "POST", b"Access denied\r\n"),
            lambda: (request(f"http://h/open/{i}", fields=[("X", "a\tb")]), 200, "GET", echoed("GET", f"/open/{i}")),
            lambda: (request(f"/closed/{i}", "HEAD"), 403, "HEAD", b""),
            lambda: (request(f"/open/chunked/{i % 500}?{i}"), 200, "GET", blob(i % 500)),
        ]
        return kinds[i % len(kinds)]()

    def test_every_response_belongs_to_its_request(self):
        self.server.keep_requests = False
        with self.proxy.connect() as client:
            for start in range(0, self.REQUESTS, 16):
                batch = [self.one(i) for i in range(start, min(start + 16, self.REQUESTS))]
                client.send(b"".join(data for data, *_ in batch))
                for data, status, method, body in batch:
                    response = client.read(method)
                    self.assertEqual((response.status, response.body), (status, body), data)

    def test_many_connections(self):
        self.server.keep_requests = False
        failures = []

        def run(offset):
            try:
                with self.proxy.connect() as client:
                    for i in range(offset, offset + 300):
                        data, status, method, body = self.one(i)
                        response = client.ask(data, method)
                        if (response.status, response.body) != (status, body):
                            failures.append((data, response.status, response.body))
            except Exception as error:  # noqa: a thread's own failures are told by the test
                failures.append(error)

        threads = [threading.Thread(target=run, args=(n * 1000,)) for n in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])


class Backpressure(ProxyCase):
    def test_slow_readers_hold_the_server_and_not_the_memory(self):
        size = 16 * MIB
        clients = [self.proxy.connect(receive_buffer=4096) for _ in range(8)]
        before = self.proxy.memory_kib()
        for client in clients:
            client.send(request(f"/open/big/{size}"))
        time.sleep(2)
        self.assertLess(self.proxy.memory_kib() - before, GROWTH_KIB_MAX)
        for client in clients[1:]:
            client.socket.close()
        self.assertEqual(digest(clients[0].read().body), digest(blob(size)))
        clients[0].socket.close()

    def test_slow_servers_hold_the_client(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            proxy = Proxy(server.getsockname()[1])
            try:
                before = proxy.memory_kib()
                with proxy.connect() as client:
                    client.send(b"POST /open/up HTTP/1.1\r\nHost: h\r\nContent-Length: 500000000\r\n\r\n")
                    client.socket.setblocking(False)
                    taken = self.fill(client.socket)
                self.assertLess(taken, 32 * MIB)
                self.assertLess(proxy.memory_kib() - before, GROWTH_KIB_MAX)
            finally:
                proxy.stop()

    @staticmethod
    def fill(sock):
        """What goes in until nothing has for a second."""
        taken, last = 0, time.monotonic()
        while time.monotonic() < last + 1:
            try:
                taken += sock.send(b"x" * 65536)
                last = time.monotonic()
            except BlockingIOError:
                time.sleep(0.01)
        return taken


class LifeOfTheProcess(ProxyCase):
    def test_sigterm_lets_requests_finish(self):
        with self.proxy.connect() as idle, self.proxy.connect() as busy:
            self.assertEqual(idle.ask(request("/open/a")).status, 200)
            busy.send(request("/open/sleep/1"))
            self.proxy.wait_for(lambda: any("/open/sleep" in record[1] for record in self.server.requests))
            self.proxy.process.send_signal(signal.SIGTERM)
            self.assertEqual(idle.rest(), b"")
            response = busy.read()
            self.assertEqual((response.status, response.get("connection"), busy.rest()), (200, "close", b""))
        self.assertEqual(self.proxy.process.wait(lab.WAIT_SECONDS), 0)

    def test_no_privileges_are_left(self):
        for task in pathlib.Path(f"/proc/{self.proxy.process.pid}/task").iterdir():
            status = (task / "status").read_text()
            for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                self.assertEqual(int(re.search(rf"{name}:\s+(\w+)", status).group(1), 16), 0, name)
            self.assertNotIn("0", re.search(r"Uid:\s+(.*)", status).group(1).split())
            self.assertEqual(re.search(r"NoNewPrivs:\s+(\d)", status).group(1), "1")

    def test_reload_changes_the_verdict_of_live_connections(self):
        with self.proxy.connect() as client:
            self.assertEqual(client.ask(request("/open/a")).status, 200)
            self.proxy.policy.write_text(lab.POLICY.replace("/open(", "/opened("))
            self.proxy.process.send_signal(signal.SIGHUP)
            self.proxy.wait_for(lambda: "msg=reloaded" in self.proxy.log.read_text())
            self.proxy.wait_for(lambda: client.ask(request("/open/a")).status == 403)
            self.proxy.policy.write_text("nonsense: true\n")
            self.proxy.process.send_signal(signal.SIGHUP)
            self.proxy.wait_for(lambda: "cannot reload" in self.proxy.log.read_text())
            self.assertEqual(client.ask(request("/opened/a")).status, 200)

    def test_policy_changes_under_load_give_old_or_new_verdicts(self):
        policies = [lab.POLICY, lab.POLICY.replace("/force", "/farce")]
        with self.proxy.connect() as client:
            for i in range(40):
                self.proxy.policy.write_text(policies[i % 2])
                self.proxy.process.send_signal(signal.SIGHUP)
                for _ in range(20):
                    self.assertEqual(client.ask(request("/open/a")).status, 200)
                    self.assertEqual(client.ask(request("/closed")).status, 403)

    def test_passed_descriptors(self):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            proxy = Proxy(self.server.port, "descriptors: [web]", start=False)
            proxy.port = listening.getsockname()[1]
            starter = ("import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', "
                       "LISTEN_FDNAMES=sys.argv[2]); os.execv(sys.argv[3], sys.argv[3:])")
            command = [sys.executable, "-c", starter, str(listening.fileno()), "web", lab.PROXY, "-c", str(proxy.config)]
            with proxy.log.open("a") as log:
                proxy.process = subprocess.Popen(command, pass_fds=[listening.fileno()], stdout=log, stderr=log)
            try:
                proxy.wait_for(lambda: "msg=ready" in proxy.log.read_text())
                with proxy.connect() as client:
                    self.assertEqual(client.ask(request("/open/a")).status, 200)
            finally:
                self.assertEqual(proxy.stop(), 0)
            command[4] = "other"
            wrong = Proxy(self.server.port, "descriptors: [web]", start=False)
            command[-1] = str(wrong.config)
            failed = subprocess.run(command, pass_fds=[listening.fileno()], capture_output=True, text=True, timeout=lab.WAIT_SECONDS)
            self.assertNotEqual(failed.returncode, 0)
            self.assertIn("no descriptor was passed under the name 'web'", failed.stderr)
            wrong.stop()


class OtherPrograms(ProxyCase):
    """Real clients in front, nginx behind."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="shunt-nginx-")
        base = pathlib.Path(cls.folder.name)
        os.chmod(base, 0o755)
        (base / "open").mkdir()
        (base / "open/file").write_bytes(blob(10 * MIB))
        (base / "open/small").write_bytes(b"small")
        cls.nginx_port = free_port()
        (base / "nginx.conf").write_text(
            f"daemon off; pid {base}/pid; error_log {base}/error.log; worker_processes 1; events {{ worker_connections 512; }}\n"
            f"http {{ access_log off; client_body_temp_path {base}/body; proxy_temp_path {base}/p; fastcgi_temp_path {base}/f;\n"
            f"uwsgi_temp_path {base}/u; scgi_temp_path {base}/s; keepalive_requests 37;\n"
            f"server {{ listen 127.0.0.1:{cls.nginx_port}; root {base}; location /open/echo {{ return 200 $request_uri; }} }} }}\n")
        cls.nginx = subprocess.Popen(["nginx", "-c", str(base / "nginx.conf"), "-e", str(base / "error.log")], stdin=subprocess.DEVNULL)
        end = time.monotonic() + lab.WAIT_SECONDS
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", cls.nginx_port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)

    @classmethod
    def tearDownClass(cls):
        cls.nginx.terminate()
        cls.nginx.wait()
        cls.folder.cleanup()

    def setUp(self):
        super().setUp()
        self.front = Proxy(self.nginx_port)
        self.addCleanup(lambda: self.assertEqual(self.front.stop(), 0))
        self.url = f"http://127.0.0.1:{self.front.port}"

    def run_program(self, *command, **options):
        return subprocess.run(command, capture_output=True, timeout=4 * lab.WAIT_SECONDS, **options)

    def test_curl(self):
        result = self.run_program("curl", "-sS", f"{self.url}/open/file", f"{self.url}/open/small", "--http1.1")
        self.assertEqual((digest(result.stdout), result.stderr), (digest(blob(10 * MIB) + b"small"), b""))
        result = self.run_program("curl", "-sS", "-0", f"{self.url}/open/small")
        self.assertEqual(result.stdout, b"small")
        result = self.run_program("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-X", "PUT", f"{self.url}/closed")
        self.assertEqual(result.stdout, b"403")
        url = f"http://127.0.0.1:{self.proxy.port}/open/upload"
        with tempfile.NamedTemporaryFile() as file:
            file.write(blob(10 * MIB))
            file.flush()
            for options in (["-H", "Expect: 100-continue"], ["-H", "Transfer-Encoding: chunked"], ["-H", "Expect:"]):
                result = self.run_program("curl", "-sS", *options, "--data-binary", f"@{file.name}", url)
                self.assertEqual(result.stdout, echoed("POST", "/open/upload", blob(10 * MIB)), options)

    def test_h2load(self):
        output = self.run_program("h2load", "--h1", "-n", "20000", "-c", "32", f"{self.url}/open/echo").stdout.decode()
        self.assertIn("20000 done, 20000 succeeded, 0 failed, 0 errored", output)
        self.assertIn("status codes: 20000 2xx", output)

    def test_wrk(self):
        output = self.run_program("wrk", "-t2", "-c32", "-d3", f"{self.url}/open/echo").stdout.decode()
        self.assertRegex(output, r"[1-9]\d* requests in")
        self.assertNotIn("Socket errors", output)
        self.assertNotIn("Non-2xx", output)

    def test_python(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.front.port)
        for i in range(200):
            connection.request("GET", f"/open/echo?{i}")
            self.assertEqual(connection.getresponse().read(), f"/open/echo?{i}".encode())
        connection.request("HEAD", "/open/file")
        response = connection.getresponse()
        self.assertEqual((response.getheader("Content-Length"), response.read()), (str(10 * MIB), b""))
        connection.request("GET", "/open/file", headers={"If-Modified-Since": response.getheader("Last-Modified")})
        self.assertEqual((connection.getresponse().status), 304)
        connection.close()


if __name__ == "__main__":
    unittest.main(verbosity=2)
