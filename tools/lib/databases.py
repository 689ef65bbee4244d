"""PostgreSQL and Redis for a test, asked by their own clients: a file goes there and comes back."""

import os
import shutil

from postgres import bin_dir
from scenarios import expect

CARGO_LINES, LINE_CHARACTERS = 80_000, 128  # 10 MB


def write_cargo(path, marker=""):
    """Lines that no other file has, each of which begins with the marker."""
    path.write_text("".join((marker + os.urandom(64).hex())[:LINE_CHARACTERS] + "\n" for _ in range(CARGO_LINES)))


def start_redis(lab, port, cgroup, command=()):
    log = lab.folder / "redis.log"
    server = lab.serve([*command, shutil.which("redis-server"), "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", lab.folder],
                       cgroup=cgroup, log=log)
    lab.wait_for(lambda: "Ready to accept" in log.read_text(), server, log, "redis-server")


def through_postgres(run, address, port, cargo):
    """Four connections. `run` runs a command that has to succeed, and returns what it printed."""
    landed = cargo.with_name("landed")
    psql = [bin_dir() / "psql", "-h", address, "-p", port, "-U", "postgres", "-Atq", "-v", "ON_ERROR_STOP=1", "-c"]
    run(*psql, "drop table if exists cargo; create table cargo (line serial, text text)")
    run(*psql, f"\\copy cargo (text) from '{cargo}'")
    run(*psql, f"\\copy (select text from cargo order by line) to '{landed}'")
    expect(landed.read_bytes() == cargo.read_bytes(), f"PostgreSQL gave back {landed.stat().st_size} bytes, or others than it got")
    return run(*psql, "select inet_server_port(), inet_client_addr()").strip()


def through_redis(run, address, port, cargo):
    """Two connections."""
    landed = cargo.with_name("landed")
    cli = f"{shutil.which('redis-cli')} -h {address} -p {port}"
    expect(run("sh", "-c", f"{cli} -x set cargo < {cargo}").strip() == "OK", "redis-cli set")
    run("sh", "-c", f"{cli} --raw get cargo > {landed}")  # which adds a line's end
    expect(landed.read_bytes() == cargo.read_bytes() + b"\n", f"Redis gave back {landed.stat().st_size} bytes, or others than it got")
