#!/usr/bin/env bash
# Runs upstream's conformance suite on a fresh Eyot server.
#   conformance.sh [-p WORKERS] [-o DIR] core      some of each area, none that takes long: the names in conformance-core.txt (2 minutes)
#   conformance.sh [-p WORKERS] [-o DIR] quick     what takes moments each: the names in conformance.txt (under 10 minutes)
#   conformance.sh [-p WORKERS] [-o DIR] full      everything marked [Conformance], serial ones last (30 minutes)
#   conformance.sh [-p WORKERS] [-o DIR] REGEX     the tests that match
# DIR (default target/conformance) gets passed.txt, failed.txt, JUnit files and logs. The exit code is 1 when a test fails.
# EYOT names the binary (default: a debug build is made), IMAGES an archive of the suite's images (default: made by images.sh,
# which lacks some that only the full suite uses), UPSTREAM_BIN as in programs.sh.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
repository=$here/../..
target=${CARGO_TARGET_DIR:-$repository/target}
export UPSTREAM_BIN=${UPSTREAM_BIN:-/var/cache/eyot-upstream/bin}
workers=8 out=$target/conformance limit=3h
while getopts p:o: option; do
	case $option in p) workers=$OPTARG ;; o) out=$OPTARG ;; *) exit 2 ;; esac
done
shift $((OPTIND - 1))
[ $# -eq 1 ] || { sed -n '2,10p' "$0" | sed 's/^# \{0,1\}//'; exit 2; }

work=$(mktemp -d)
trap finish EXIT
finish() {
	[ -z "${server:-}" ] || { kill "$server" && wait "$server" || true; }
	[ -z "${eyot:-}" ] || "$eyot" cleanup --instance conf -d "$work/data" || true
	rm -rf "$work"
}

prepare() {
	"$here/programs.sh" e2e.test ginkgo kubectl
	local images=${IMAGES:-$target/upstream-images.tar}
	[ -f "$images" ] || "$here/images.sh" "$images"
	eyot=${EYOT:-}
	[ -n "$eyot" ] || { (cd "$repository" && cargo build --quiet --locked -p eyot) && eyot=$target/debug/eyot; }
	mkdir -p "$work/data/agent/images" "$out"
	out=$(realpath "$out")
	rm -f "$out"/*.txt "$out"/*.xml "$out"/*.log
	ln "$images" "$work/data/agent/images/suite.tar" 2>/dev/null || cp "$images" "$work/data/agent/images/suite.tar"
}

start() {
	"$eyot" server -d "$work/data" -o "$work/kubeconfig" --instance conf --https-listen-port 16743 --agent-port 16843 \
		--cluster-cidr 10.148.0.0/16 --service-cidr 10.149.0.0/16 --eviction-hard '' >"$out/eyot.log" 2>&1 &
	server=$!
	for _ in $(seq 600); do
		kill -0 "$server" 2>/dev/null || break
		"$eyot" status -d "$work/data" --kubeconfig "$work/kubeconfig" >/dev/null 2>&1 && return
		sleep 0.1
	done
	echo "conformance.sh: the node was not Ready within a minute; its log ends:" >&2
	tail -20 "$out/eyot.log" >&2
	exit 1
}

# A test that fails is tried once more: the suite's own waits are short for a machine that does much at once.
run() { # NAME WORKERS FOCUS SKIP
	PATH=$UPSTREAM_BIN:$PATH "$UPSTREAM_BIN/ginkgo" --procs="$2" --silence-skips --no-color --timeout="$limit" --flake-attempts=2 \
		--keep-going --junit-report="$1.xml" --output-dir="$out" --focus="$3" ${4:+--skip="$4"} "$UPSTREAM_BIN/e2e.test" -- \
		--kubeconfig="$work/kubeconfig" --kube-api-content-type=application/json --provider=skeleton --num-nodes=1 \
		--disable-log-dump=true --report-complete-junit=false --allowed-not-ready-nodes=0 >"$out/$1.log" 2>&1 || true
}

names() { # STATUS
	sed -n "s/.*<testcase name=\"\[It\] \(.*\)\" classname=.* status=\"$1\".*/\1/p" "$out"/*.xml | sed 's/ \[sig-[^]]*\]$//; s/&#39;/'"'"'/g; s/&#34;/"/g; s/&gt;/>/g; s/&amp;/\&/g' | sort -u
}

listed() { sed 's/[][().*+?^${}|\\]/\\&/g' "$here/$1" | paste -sd'|'; } # FILE

prepare
start
case $1 in
core) limit=15m && run parallel "$workers" "$(listed conformance-core.txt)" ;;
quick) run parallel "$workers" "$(listed conformance.txt)" ;;
full)
	run parallel "$workers" '\[Conformance\]' '\[Serial\]'
	run serial 1 '\[Serial\].*\[Conformance\]'
	;;
*) run parallel "$workers" "$1" ;;
esac
names passed >"$out/passed.txt"
names failed >"$out/failed.txt"
names timedout >>"$out/failed.txt"
passed=$(wc -l <"$out/passed.txt") failed=$(wc -l <"$out/failed.txt")
sed 's/^/failed: /' "$out/failed.txt"
# What the suite says of them, or why it did not run.
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ] || grep -hE -A12 '^\s+\[FAILED\]|^Ginkgo ran|Failed to' "$out"/*.log | tail -n 120
echo "$passed passed, $failed failed; reports are in $out"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
