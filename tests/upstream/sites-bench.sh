#!/usr/bin/env bash
# Several Eyot servers beside an etcd of as many members, each server in a network namespace, on links that are slow, lossy,
# narrow and cut: latency over the number of servers and the round trip, writes that fail, how fast all are equal again.
#   sites-bench.sh EYOT [OUT [PAGE]]      figures.json, tables.md, servers.png and servers.svg go to OUT (default
#                                         target/sites-bench), the tables between their marks in PAGE as well
# SIZES are numbers of servers ("1 3 5 7 9 15"), RATE the writes a second in all (15), SECONDS_EACH the length of a load.
# Takes about ten minutes. Needs root, Go and Python with matplotlib; UPSTREAM_BIN as with programs.sh, which builds what is missing.
set -euo pipefail
export EYOT
EYOT=$(readlink -f "${1:?the program to measure}")
cd "$(dirname "$(readlink -f "$0")")/../.."
out=$(realpath -m "${2:-${CARGO_TARGET_DIR:-$PWD/target}/sites-bench}")
# shellcheck source=sites/build.sh
. tests/upstream/sites/build.sh
tests/upstream/programs.sh etcd etcdctl kube-apiserver kube-scheduler
needs python3-matplotlib /usr/bin/python3 -c 'import matplotlib'
mkdir -p "$out"
/usr/bin/python3 tests/upstream/sites/bench.py "$out/figures.json"
/usr/bin/python3 tests/upstream/sites/tables.py "$out/figures.json" "$out/servers" "${@:3}" >"$out/tables.md"
cat "$out/tables.md"
