#!/bin/sh
# Runs in the guest, as a unit of its systemd: the life of the package. Ends with the counts that tools/dev test sums up.
passed=0
failed=0
# Bytes of checked traffic under each event, and how many a second at most: the rest of the machine wants to run, too.
total=$(($(cat /root/megabytes) * 1000000))
rate=$((total / 20 > 4000000 ? total / 20 : 4000000))

up() { cut -d. -f1 /proc/uptime; }

check() { # DESCRIPTION COMMAND...
  description=$1
  shift
  began=$(up)
  "$@" > /tmp/out 2>&1
  status=$?
  took="$(($(up) - began)) s"
  if [ "$status" = 0 ]; then
    passed=$((passed + 1))
    echo "ok   $description ($took)"
  else
    failed=$((failed + 1))
    echo "FAIL $description ($took)"
    tail -n 30 /tmp/out
  fi
}

# Under emulation the clients take all of the machine that they get, and what is tested has to run as well.
behind() { exec nice -n 10 "$@"; }

# wrk against nginx in the background, its answer in /tmp/wrk; no request may fail.
traffic() { # SECONDS
  behind wrk -t1 -c4 -d "$1" http://127.0.0.1:80/ > /tmp/wrk 2>&1 &
  wrk_pid=$!
  sleep 2
}

traffic_was_whole() {
  wait "$wrk_pid"
  cat /tmp/wrk
  grep -q 'requests in' /tmp/wrk && ! grep -qE 'Socket errors|Non-2xx' /tmp/wrk
}

# What has moved on the live connections of shunt-traffic, in bytes.
moved() { tail -n 2 /tmp/live 2> /dev/null | grep -o '"live_bytes":[0-9]*' | tail -n 1 | cut -d: -f2 | grep . || echo 0; }

wait_until_moved() { # BYTES
  while [ "$(moved)" -lt "$1" ]; do
    kill -0 "$live_pid" || return 1
    sleep 0.3
  done
}

# Checked traffic on live connections and new ones in the background, until a quarter of the bytes has moved.
live_traffic() {
  rm -f /tmp/live
  behind /root/shunt-traffic --live 100 --live-rate "$rate" --until-told --per-second 10 --at-once 8 --threads 4 --processes 2 \
    --stall-seconds 60 --progress -o json > /tmp/live 2>&1 &
  live_pid=$!
  wait_until_moved $((total / 4))
}

live_connections_are_fast() {
  shunt list -o json --program shunt-traffic > /tmp/live_list
  fast=$(grep -c '"redirected_bytes": [1-9]' /tmp/live_list)
  echo "$fast ends of connections have sent over the shortcut"
  [ "$fast" -ge 190 ] || { head -n 60 /tmp/live_list; shunt status; return 1; }
}

# Nothing lost, and the events between `first` and `last` in the middle of it: a quarter of the bytes before, a quarter after.
live_traffic_was_whole() {
  wait_until_moved "$total" && wait_until_moved $((last + total / 4)) || { tail -n 3 /tmp/live; return 1; }
  kill -TERM "$live_pid"
  wait "$live_pid"
  ended=$?
  all=$(moved_in_all)
  tail -n 1 /tmp/live
  echo "event from $first to $last of $all bytes"
  [ "$ended" = 0 ] && tail -n 1 /tmp/live | grep '"errors":0' | grep -q '"live":100' && [ "$first" -ge $((total / 4)) ]
}

moved_in_all() { grep -o '"live_bytes":[0-9]*' /tmp/live | tail -n 1 | cut -d: -f2; }

counted() { shunt status -o json | grep -o "\"$1\": [0-9]*" | grep -o '[0-9]*$'; }
pairs_are_made() {
  before=$(counted pairs_made)
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    sleep 1
    [ "$(counted pairs_made)" -gt "$before" ] && return
  done
  shunt status
  return 1
}

as_nobody() { runuser -u nobody -- "$@"; }
refused_to_nobody() { as_nobody "$@"; [ $? = 6 ]; }
is_hardened() { # UNIT LEVEL
  systemd-analyze security --no-pager "$1" > /tmp/security
  tail -n 2 /tmp/security
  level=$(grep -o "$1.service: [0-9]*" /tmp/security | grep -o '[0-9]*$')
  [ -n "$level" ] && [ "$level" -lt "$2" ]
}
reloads() {
  echo 'spill: {messages: 400}' > /etc/shunt/conf.d/reload.yaml
  systemctl reload shuntd && [ -z "$(config_error)" ]
}
config_error() { shunt status -o json | sed -n 's/.*"config_error": "\(.*\)",*/\1/p'; }
broken_reload_fails() {
  echo 'spill: {messages: many}' > /etc/shunt/conf.d/reload.yaml
  ! systemctl reload shuntd && [ -n "$(config_error)" ] && active shuntd
  failed_as_wanted=$?
  rm /etc/shunt/conf.d/reload.yaml
  systemctl reload shuntd
  return $failed_as_wanted
}

# Of the fallback proxy: it has its channels, and nothing that it does not need.
proxy_has_channels() {
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    journalctl -u shunt-proxy --no-pager -o cat -b _PID="$(proxy_pid)" | grep 'channels are here' && return
    sleep 1
  done
  journalctl -u shunt-proxy -u shuntd --no-pager -n 30
  return 1
}
proxy_pid() { systemctl show -p MainPID --value shunt-proxy; }
proxy_is_unprivileged() {
  grep -E '^(Uid|Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs)' "/proc/$(proxy_pid)/status"
  [ "$(stat -c %U "/proc/$(proxy_pid)")" = shunt-proxy ] && ! grep '^Cap' "/proc/$(proxy_pid)/status" | grep -v ':.0*$'
}
proxy_is_another_than() { active shunt-proxy && [ "$(proxy_pid)" != "$1" ]; }
proxy_is_off() { [ "$(systemctl is-enabled shunt-proxy)" = disabled ] && ! active shunt-proxy; }

# With rules on requests: a program that is no receiver goes to the proxy, which reads who it is.
policy() {
  cat > /etc/shunt/policy/guest.yaml << 'END'
apiVersion: shunt.dev/v1
kind: Workload
metadata: {name: nginx, labels: {app: nginx}}
spec: {match: {unit: nginx.service}}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: guest}
spec:
  endpointSelector: {matchLabels: {app: nginx}}
  ingress:
  - fromEntities: [host]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{method: GET, path: /}]}
END
  cp /usr/bin/curl /root/unknown-client
  shunt reload
}
unknown_client_gets() { # PATH STATUS
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    status=$(/root/unknown-client -sS -o /dev/null -w '%{http_code}' "http://127.0.0.1$1")
    [ "$status" = "$2" ] && return
    sleep 1
  done
  echo "got $status"
  shunt why :80
  journalctl -u shunt-proxy --no-pager -n 20
  return 1
}
no_policy() { rm /etc/shunt/policy/guest.yaml && shunt reload; }

# Of the gateway: without TLS in this kernel, OpenSSL encrypts.
gateway_is_configured() {
  shunt ca init mesh.example --ca /root/ca && shunt ca issue spiffe://mesh.example/host/a --ca /root/ca --out /etc/shunt/tls &&
    chown -R shunt-gateway: /etc/shunt/tls
}
gateway_is_off() { [ "$(systemctl is-enabled shunt-gateway)" = disabled ] && ! active shunt-gateway; }
gateway_says() { shunt-gateway --status && shunt-gateway --status | grep -q "$1"; }
gateway_has_metrics() { curl -sS --fail http://127.0.0.1:9617/metrics | grep '^shunt_gateway_certificate_expiry_seconds [1-9]'; }
gateway_refuses() {
  echo 'ktls: preferred' >> /etc/shunt/gateway.yaml
  ! systemctl start shunt-gateway || return 1
  # Of a process that ended at once the journal may not know the unit.
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    journalctl -b --no-pager | grep 'shunt-gateway.*/etc/shunt/tls/.*No such file' && return
    sleep 1
  done
  return 1
}
gateway_goes_on() { active shunt-gateway && [ "$(systemctl show -p MainPID --value shunt-gateway)" = "$1" ]; }

active() { systemctl is-active --quiet "$1"; }
# By what has been counted, not by what is open: under emulation each command takes a second or more, and the traffic ends.
has_pairs() { [ "$(counted pairs_made)" -gt 0 ] && [ "$(counted redirected_messages)" -gt 0 ] || { shunt status; shunt why :80; return 1; }; }
nothing_pinned() { ! [ -e /sys/fs/bpf/shunt ] || { find /sys/fs/bpf/shunt; return 1; }; }
nothing_loaded() { ! bpftool prog list | grep -E 'name (shunt_|sh_)'; }
nothing_runs() { ! pgrep -x 'shuntd|shunt-proxy|shunt-gateway'; }
no_files() {
  ! ls -d /usr/bin/shunt /usr/sbin/shuntd /usr/sbin/shunt-proxy /usr/sbin/shunt-gateway /run/shunt /run/shunt-gateway \
    /lib/systemd/system/shuntd.service /lib/systemd/system/shunt-proxy.service /lib/systemd/system/shunt-gateway.service /usr/lib/sysusers.d/shunt.conf 2> /dev/null
}
no_configuration() { ! ls -d /etc/shunt 2> /dev/null; }

echo "shunt-guest: start"
check "nginx runs" systemctl start nginx
mkdir -p /etc/shunt/conf.d
echo 'receivers: {add: [shunt-traffic]}' > /etc/shunt/conf.d/test.yaml
check "the package installs" dpkg -i /root/shunt.deb
check "the daemon runs" active shuntd
systemctl status shuntd --no-pager -l | head -n 30
check "shunt status" shunt status
check "shunt check" shunt check
check "the unit is hardened" is_hardened shuntd 6
tail -n 1 /tmp/security
check "the proxy is not started by itself" proxy_is_off
check "the proxy starts" systemctl start shunt-proxy
check "and gets its channels" proxy_has_channels
check "it has no privileges" proxy_is_unprivileged
check "its unit is hardened" is_hardened shunt-proxy 3
tail -n 1 /tmp/security
check "it is reloaded" systemctl reload shunt-proxy
check "a policy comes" policy
check "a program that is no receiver gets what is allowed" unknown_client_gets / 200
check "and nothing else" unknown_client_gets /secret 403
check "the policy goes" no_policy
check "the gateway is not started by itself" gateway_is_off
check "without certificates it says so" gateway_refuses
check "certificates are made" gateway_is_configured
check "the gateway starts" systemctl start shunt-gateway
check "it is who it should be" gateway_says '"identity": "spiffe://mesh.example/host/a"'
check "it has metrics" gateway_has_metrics
check "its unit is hardened" is_hardened shunt-gateway 3
tail -n 1 /tmp/security
check "it is reloaded" systemctl reload shunt-gateway
check "others than root get answers" as_nobody shunt status
check "a list, too" as_nobody shunt list
for command in off on reload cleanup; do
  check "others than root may not: $command" refused_to_nobody shunt $command
done
check "systemctl reload" reloads
check "systemctl reload of a broken configuration fails, and the old one stays" broken_reload_fails
traffic 10
check "nginx's connections are accelerated" has_pairs
check "traffic is whole" traffic_was_whole
check "checked traffic runs" live_traffic
check "its connections are accelerated" live_connections_are_fast
traffic 12
first=$(moved)
proxy_before=$(proxy_pid)
gateway_before=$(systemctl show -p MainPID --value shunt-gateway)
check "the daemon restarts under traffic" systemctl restart shuntd
check "and runs" active shuntd
check "the package is installed anew under traffic" dpkg -i /root/shunt.deb
check "and the daemon runs" active shuntd
check "and another proxy" proxy_is_another_than "$proxy_before"
check "which has its channels" proxy_has_channels
check "and the same gateway" gateway_goes_on "$gateway_before"
last=$(moved)
check "new connections are accelerated" pairs_are_made
check "requests were answered through restart and installation" traffic_was_whole
check "checked traffic was whole through restart and installation" live_traffic_was_whole
tail -n 3 /tmp/out | cut -c 1-300
check "checked traffic runs again" live_traffic
check "its connections are accelerated" live_connections_are_fast
traffic 12
first=$(moved)
rm -r /etc/shunt/conf.d/test.yaml /etc/shunt/tls # the folder is the package's to remove
check "the package is removed under traffic" dpkg -r shunt
last=$(moved)
check "requests were answered through the removal" traffic_was_whole
check "checked traffic was whole through the removal" live_traffic_was_whole
tail -n 3 /tmp/out | cut -c 1-300
check "no process is left" nothing_runs
check "no pin is left" nothing_pinned
check "no program is left" nothing_loaded
check "no file is left" no_files
check "the package is purged" dpkg -P shunt
check "no configuration is left" no_configuration
[ "$failed" = 0 ] || journalctl -u shuntd -u shunt-proxy --no-pager -p warning -n 40
echo "the guest has been up for $(up) s"
echo "package: $passed passed, $failed failed"
[ "$failed" = 0 ]
