#!/bin/sh
# Runs in the guest, as a unit of its systemd: the life of the package. Ends with the counts that tools/dev test sums up.
passed=0
failed=0

check() { # DESCRIPTION COMMAND...
  description=$1
  shift
  if "$@" > /tmp/out 2>&1; then
    passed=$((passed + 1))
    echo "ok   $description"
  else
    failed=$((failed + 1))
    echo "FAIL $description"
    tail -n 30 /tmp/out
  fi
}

# wrk against nginx in the background, its answer in /tmp/wrk; no request may fail.
traffic() { # SECONDS
  wrk -t1 -c4 -d "$1" http://127.0.0.1:80/ > /tmp/wrk 2>&1 &
  wrk_pid=$!
  sleep 2
}

traffic_was_whole() {
  wait "$wrk_pid"
  cat /tmp/wrk
  grep -q 'requests in' /tmp/wrk && ! grep -qE 'Socket errors|Non-2xx' /tmp/wrk
}

active() { systemctl is-active --quiet "$1"; }
# Looks first and explains afterwards: under emulation each command takes a second, and the traffic ends.
has_pairs() { shunt list -o json > /tmp/pairs; grep -q '"fast' /tmp/pairs || { cat /tmp/pairs; shunt status; shunt why :80; return 1; }; }
nothing_pinned() { ! [ -e /sys/fs/bpf/shunt ] || { find /sys/fs/bpf/shunt; return 1; }; }
nothing_loaded() { ! bpftool prog list | grep -E 'name (shunt_|sh_)'; }
nothing_runs() { ! pgrep -x shuntd; }
no_files() { ! ls -d /usr/bin/shunt /usr/sbin/shuntd /run/shunt /lib/systemd/system/shuntd.service 2> /dev/null; }
no_configuration() { ! ls -d /etc/shunt 2> /dev/null; }

echo "shunt-guest: start"
check "nginx runs" systemctl start nginx
check "the package installs" dpkg -i /root/shunt.deb
check "the daemon runs" active shuntd
systemctl status shuntd --no-pager -l | head -n 30
check "shunt status" shunt status
check "shunt check" shunt check
traffic 10
check "nginx's connections are accelerated" has_pairs
check "traffic is whole" traffic_was_whole
traffic 12
check "the daemon restarts under traffic" systemctl restart shuntd
check "and runs" active shuntd
check "the package is installed anew under traffic" dpkg -i /root/shunt.deb
check "and the daemon runs" active shuntd
check "traffic was whole through restart and installation" traffic_was_whole
traffic 12
check "the package is removed under traffic" dpkg -r shunt
check "traffic was whole through the removal" traffic_was_whole
check "no process is left" nothing_runs
check "no pin is left" nothing_pinned
check "no program is left" nothing_loaded
check "no file is left" no_files
check "the package is purged" dpkg -P shunt
check "no configuration is left" no_configuration
[ "$failed" = 0 ] || journalctl -u shuntd --no-pager -p warning -n 20
echo "package: $passed passed, $failed failed"
[ "$failed" = 0 ]
