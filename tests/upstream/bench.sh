#!/usr/bin/env bash
# The figures of a whole server with its node, Eyot's beside unmodified upstream's, one after the other on this machine.
#   bench.sh [OUT.json]      default target/bench.json
# EYOT names the binary (default: a dist build is made), IDLE the seconds of rest before memory and CPU are read (300),
# UPSTREAM_BIN the directory with upstream's programs, IMAGES an archive with upstream's pause image.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
target=${CARGO_TARGET_DIR:-$PWD/target}
out=${1:-$target/bench.json}
bin=${UPSTREAM_BIN:-/var/cache/eyot-upstream/bin}
images=${IMAGES:-$bin/../images.tar}
work=$(mktemp -d)
idle=${IDLE:-300}
cluster=(env UPSTREAM_BIN="$bin" tests/upstream/cluster.sh)
trap 'finish' EXIT

finish() {
	[ -z "${server:-}" ] || { kill "$server" && wait "$server" || true; }
	"$eyot" cleanup --instance bench -d "$work/data" || true
	"${cluster[@]}" down "$work/upstream" || true
	rm -rf "$work"
}

cargo build --quiet --locked --profile dist -p eyot-bench
bench=$target/dist/eyot-bench
eyot=${EYOT:-}
[ -n "$eyot" ] || { cargo build --quiet --locked --profile dist -p eyot && eyot=$target/dist/eyot; }
embedded/demo-image/build.sh "$work/data/agent/images/demo.tar"

tour() { # KUBECONFIG: the workload of the README's tour
	kubectl --kubeconfig "$1" create deployment hello --image=eyot.dev/demo:1 --replicas=3
	kubectl --kubeconfig "$1" expose deployment hello --port=80 --target-port=8080
	kubectl --kubeconfig "$1" apply -f docs/tour/stateful.yaml
	kubectl --kubeconfig "$1" rollout status deployment hello --timeout=120s
	kubectl --kubeconfig "$1" rollout status statefulset web --timeout=120s
}

measure() { # NAME KUBECONFIG PIDS READY MORE...
	tour "$2" >/dev/null
	"$bench" --target "$1=$2" --pids "$1=$3" --figure "start to node Ready s=$4" --idle "$idle" --memory-pods 10000 --nodes 1000 --scheduled 5000 --image eyot.dev/demo:1 "${@:5}"
}

"${cluster[@]}" up "$work/upstream"
for archive in "$images" "$work/data/agent/images/demo.tar"; do
	ctr --address "$work/upstream/containerd.sock" --namespace k8s.io images import "$archive" >/dev/null
done
measure upstream "$work/upstream/admin.kubeconfig" "$(cat "$work/upstream/pids")" "$(cat "$work/upstream/ready")" --json "$work/upstream.json" >/dev/null
"${cluster[@]}" down "$work/upstream"

begun=$EPOCHREALTIME
"$eyot" server -d "$work/data" -o "$work/kubeconfig" --instance bench --https-listen-port 16643 --eviction-hard '' >"$work/log" 2>&1 &
server=$!
until "$eyot" status -d "$work/data" --kubeconfig "$work/kubeconfig" >/dev/null 2>&1; do sleep 0.02; done
ready=$(awk -v from="$begun" -v to="$EPOCHREALTIME" 'BEGIN {printf "%.2f", to - from}')
size=$(awk -v bytes="$(stat -c %s "$eyot")" 'BEGIN {printf "%.1f", bytes / 1048576}')
measure eyot "$work/kubeconfig" "$server" "$ready" --figure "binary MiB=$size" --beside "$work/upstream.json" --json "$out"
echo "written to $out"
