#!/usr/bin/env bash
# Random load by many clients of etcd's API on `eyot server --datastore-only`, which is killed, stopped and started
# again; what clients saw is judged by our own checkers (see pkg/etcd/tests/histories) and by Porcupine, the checker of
# etcd's robustness tests. Needs Go.
#   histories.sh EYOT [SECONDS] [SEED]      default 120 seconds and a seed by chance, which is printed
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
EYOT=$(readlink -f "${1:?the program to test}")
target=${CARGO_TARGET_DIR:-$PWD/target}
module=$target/upstream-histories
export EYOT EYOT_HISTORIES_SECONDS=${2:-120} EYOT_HISTORIES_OUT=$module/calls.json
[ -z "${3:-}" ] || export EYOT_HISTORIES_SEED=$3
mkdir -p "$module"
cp tests/upstream/histories/main.go "$module/"
(
	cd "$module"
	[ -f go.mod ] || go mod init eyot.invalid/histories 2>/dev/null
	go mod edit -require github.com/anishathalye/porcupine@v1.3.1
	go build -mod=mod -o histories .
)
cargo test --locked -p eyot-etcd --test histories -- --exact histories_under_kills_are_those_of_etcd --nocapture
"$module/histories" "$EYOT_HISTORIES_OUT"
