"""A PostgreSQL cluster for a test, of its own."""

import pathlib
import pwd
import shutil
import subprocess


def bin_dir():
    return max(pathlib.Path("/usr/lib/postgresql").glob("*/bin"))


def start_postgres(lab, port, cgroup, command=()):
    """(server, folder of the cluster and of its Unix socket); `command` runs it elsewhere. The server refuses root: the cluster is owned by
    the user that the package made, or by nobody."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = "postgres" if "postgres" in names else "nobody"
    data = lab.folder / "postgres"
    data.mkdir()
    shutil.chown(data, user)
    as_user = ["setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--clear-groups"]
    subprocess.run([*as_user, bin_dir() / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"], check=True,
                   capture_output=True, cwd="/")
    log = lab.folder / "postgres.log"
    server = lab.serve([*command, *as_user, bin_dir() / "postgres", "-D", data, "-p", port, "-h", "127.0.0.1", "-k", data, "-F"],
                       cgroup=cgroup, log=log)
    lab.wait_for(lambda: "ready to accept connections" in log.read_text(), server, log, "postgres")
    return server, data
