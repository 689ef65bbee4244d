#!/usr/bin/env python3
"""shunt ca, with OpenSSL's command line as the judge of what it makes.

usage: SHUNT=PROGRAM ca_test.py [unittest's arguments]
"""

import json
import os
import pathlib
import re
import stat
import subprocess
import tempfile
import time
import unittest

SHUNT = os.environ.get("SHUNT", "build/control/shunt")
DAY_SECONDS = 86400


def openssl(*arguments):
    return subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)


class Ca(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="shunt-ca-test-")
        self.addCleanup(folder.cleanup)
        self.base = pathlib.Path(folder.name)
        self.ca = self.base / "ca"

    def shunt(self, *arguments, status=0):
        done = subprocess.run([SHUNT, "ca", *map(str, arguments), "--ca", self.ca], capture_output=True, text=True, cwd=self.base,
                              check=False)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done

    def issued(self, identity, folder, *arguments):
        return json.loads(self.shunt("issue", identity, "--out", folder, "-o", "json", *arguments).stdout)

    def test_openssl_verifies_what_is_issued(self):
        self.shunt("init", "mesh.example")
        files = self.issued("spiffe://mesh.example/host/a", "a")
        self.assertEqual(files["spiffe_id"], "spiffe://mesh.example/host/a")
        for purpose in ("sslclient", "sslserver"):
            verified = openssl("verify", "-x509_strict", "-purpose", purpose, "-CAfile", self.base / files["bundle"],
                               self.base / files["certificate"])
            self.assertEqual(verified.returncode, 0, verified.stderr)
        # and not with another CA of the same name
        self.ca = self.base / "other"
        self.shunt("init", "mesh.example")
        self.assertNotEqual(openssl("verify", "-CAfile", self.ca / "ca.pem", self.base / files["certificate"]).returncode, 0)

    def test_certificates_say_what_an_svid_says(self):
        self.shunt("init", "mesh.example")
        files = self.issued("spiffe://mesh.example/host/a", "a", "--days", "3")
        text = openssl("x509", "-noout", "-text", "-in", self.base / files["certificate"]).stdout
        self.assertRegex(text, r"X509v3 Subject Alternative Name: ?\n +URI:spiffe://mesh.example/host/a\n")
        self.assertRegex(text, r"X509v3 Basic Constraints: critical\n +CA:FALSE\n")
        self.assertRegex(text, r"X509v3 Key Usage: critical\n +Digital Signature\n")
        self.assertRegex(text, r"X509v3 Extended Key Usage: ?\n +TLS Web Server Authentication, TLS Web Client Authentication\n")
        self.assertRegex(text, "ASN1 OID: prime256v1")
        text = openssl("x509", "-noout", "-text", "-in", self.ca / "ca.pem").stdout
        self.assertRegex(text, r"X509v3 Subject Alternative Name: ?\n +URI:spiffe://mesh.example\n")
        self.assertRegex(text, r"X509v3 Basic Constraints: critical\n +CA:TRUE, pathlen:0\n")
        self.assertRegex(text, r"X509v3 Key Usage: critical\n +Certificate Sign, CRL Sign\n")
        for days, expired in ((3, False), (4, True)):
            checked = openssl("x509", "-noout", "-checkend", days * DAY_SECONDS - 60, "-in", self.base / files["certificate"])
            self.assertEqual(checked.returncode != 0, expired)

    def test_serial_numbers_differ_and_keys_belong_to_their_certificates(self):
        self.shunt("init", "mesh.example")
        serials = set()
        for name in "abc":
            files = self.issued(f"spiffe://mesh.example/{name}", name)
            serials.add(openssl("x509", "-noout", "-serial", "-in", self.base / files["certificate"]).stdout)
            of_key = openssl("pkey", "-pubout", "-in", self.base / files["key"]).stdout
            self.assertEqual(of_key, openssl("x509", "-noout", "-pubkey", "-in", self.base / files["certificate"]).stdout)
        self.assertEqual(len(serials), 3)

    def test_keys_are_for_their_owner_and_nothing_is_written_over(self):
        self.shunt("init", "mesh.example")
        files = self.issued("spiffe://mesh.example/a", "a")
        for key in (self.ca / "ca.key", self.base / files["key"]):
            self.assertEqual(stat.S_IMODE(key.stat().st_mode), 0o600)
        before = {path: path.read_bytes() for path in self.base.rglob("*.*")}
        self.assertRegex(self.shunt("init", "mesh.example", status=1).stderr, "not written over")
        self.assertRegex(self.shunt("issue", "spiffe://mesh.example/a", "--out", "a", status=1).stderr, "not written over")
        self.assertEqual({path: path.read_bytes() for path in self.base.rglob("*.*")}, before)

    def test_openssl_refuses_what_is_revoked(self):
        self.shunt("init", "mesh.example")
        files = {name: self.issued(f"spiffe://mesh.example/{name}", name) for name in "ab"}
        revoked = json.loads(self.shunt("revoke", files["a"]["certificate"], "--days", "3", "-o", "json").stdout)
        self.assertEqual(revoked["certificates"], 1)
        for name, words in (("a", "certificate revoked"), ("b", "")):
            verified = openssl("verify", "-x509_strict", "-crl_check", "-CAfile", self.ca / "ca.pem", "-CRLfile", revoked["list"],
                               self.base / files[name]["certificate"])
            self.assertEqual(verified.returncode == 0, not words, verified.stderr)
            self.assertIn(words, verified.stderr)
        for days, current in ((2, True), (4, False)):
            self.assertEqual(openssl("verify", "-crl_check", "-CAfile", self.ca / "ca.pem", "-CRLfile", revoked["list"], "-attime",
                                     int(time.time()) + days * DAY_SECONDS, self.base / files["b"]["certificate"]).returncode == 0,
                             current)
        for file in ("ca.key", "ca.pem"):
            self.assertRegex(self.shunt("revoke", self.ca / file, status=2).stderr, file)
        self.assertRegex(self.shunt("revoke", "nowhere.pem", status=1).stderr, "nowhere.pem")

    def test_what_is_wrong_is_named(self):
        self.assertRegex(self.shunt("issue", "spiffe://mesh.example/a", status=1).stderr, "shunt ca init")
        self.shunt("init", "mesh.example")
        for identity in ("spiffe://mesh.example", "spiffe://other.example/a", "mesh.example/a", "spiffe://mesh.example/a/"):
            shown = json.loads(self.shunt("issue", identity, "-o", "json", status=2).stdout)
            self.assertTrue(re.search("SPIFFE|trust domain|slash", shown["error"]), shown)
        self.shunt("issue", "spiffe://mesh.example/a", "--days", "0", status=2)


if __name__ == "__main__":
    unittest.main()
