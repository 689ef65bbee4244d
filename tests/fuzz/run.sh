#!/bin/sh
# Runs a fuzzer for some seconds: run.sh FUZZER CORPUS FOUND SECONDS. New inputs and crashes go to FOUND, never into the corpus.
set -eu
mkdir -p "$3"
exec "$1" -max_total_time="$4" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$3/" "$3" "$2"
