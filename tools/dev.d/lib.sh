# shellcheck shell=bash
# Shared by the commands of tools/dev. Sourced, not run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Where the other commands build; a relative path is taken from the top of the clone.
build=${SHUNT_BUILD:-build}
[[ $build == /* ]] || build=$root/$build
export PYTHONDONTWRITEBYTECODE=1
# bpftool, nginx, ip and others are there, also where sudo leaves them out.
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

die() {
  echo "tools/dev: $*" >&2
  exit 1
}

say() {
  echo "== $*"
}

need_root() {
  [[ $EUID == 0 ]] || die "needs root: sudo tools/dev $1"
}

# The text between the summary line and the first line of code, for --help.
print_help() {
  sed -n '2,/^[^#]/{s/^# \{0,1\}//p}' "$0"
  exit 0
}

wants_help() {
  [[ ${1:-} == -h || ${1:-} == --help ]]
}
