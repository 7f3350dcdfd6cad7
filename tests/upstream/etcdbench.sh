#!/usr/bin/env bash
# Eyot's etcd API beside etcd 3.7, Debian's etcd 3.4 and kine on SQLite, one after the other on this machine, each on an
# empty directory on the same disk and each write durable (fsync) before it is acknowledged, loaded by etcd's own client.
#   etcdbench.sh EYOT [OUT]      figures go to OUT (default target/etcdbench), a file a server, and the table to OUT/table.md
# CHURN=10000000 writes so often to 10,000 keys instead, with history compacted, and fails if memory or disk grow with that;
# the curve goes to OUT/NAME.csv.
# SECONDS_EACH is the length of each load (default 4; all of it then takes some ten minutes), ONLY a pattern of loads, SERVERS some of "eyot etcd-3.7 etcd-3.4 kine",
# UPSTREAM_BIN as with programs.sh, which builds what is missing. Needs Go.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
eyot=$(readlink -f "${1:?the program to measure}")
target=${CARGO_TARGET_DIR:-$PWD/target}
out=$(realpath -m "${2:-$target/etcdbench}")
export UPSTREAM_BIN=${UPSTREAM_BIN:-/var/cache/eyot-upstream/bin}
module=$target/upstream-etcdbench
work=$(mktemp -d)
port=22202 server=
servers=(${SERVERS:-eyot etcd-3.7 etcd-3.4 kine})
trap 'end; rm -rf "$work"' EXIT

end() {
	[ -z "$server" ] || { kill "$server" && wait "$server" || true; } 2>/dev/null
	server=
}

# Debian's package, unpacked beside the others: installing it would start a service.
debian_etcd() {
	[ ! -x "$UPSTREAM_BIN/etcd-3.4" ] || return 0
	(cd "$work" && apt-get download -qq etcd-server >/dev/null 2>&1 && dpkg -x etcd-server_*.deb etcd && cp etcd/usr/bin/etcd "$UPSTREAM_BIN/etcd-3.4")
}

start() { # NAME: the server in the background
	local urls=(--listen-client-urls "http://127.0.0.1:$port" --advertise-client-urls "http://127.0.0.1:$port"
		--listen-peer-urls http://127.0.0.1:0 --data-dir "$work/data" --quota-backend-bytes 8589934592 --log-level error)
	mkdir "$work/data"
	case $1 in
	eyot) exec "$eyot" server --config /dev/null --data-dir "$work/data" --datastore-only --etcd-listen "http://127.0.0.1:$port" ;;
	etcd-3.7) exec "$UPSTREAM_BIN/etcd" "${urls[@]}" ;;
	etcd-3.4) exec "$UPSTREAM_BIN/etcd-3.4" "${urls[@]}" --logger zap ;;
	kine) exec "$UPSTREAM_BIN/kine" --listen-address "127.0.0.1:$port" --metrics-bind-address 0 \
		--endpoint "sqlite://$work/data/state.db?_journal=WAL&cache=shared&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate" ;;
	esac >"$work/$1.log" 2>&1 &
	server=$!
	for _ in $(seq 100); do
		"$UPSTREAM_BIN/etcdctl" --endpoints "127.0.0.1:$port" get /none >/dev/null 2>&1 && return
		sleep 0.1
	done
	tail -n 5 "$work/$1.log" >&2
	return 1
}

tests/upstream/programs.sh etcd etcdctl kine
debian_etcd
mkdir -p "$module" "$out"
cp tests/upstream/etcdbench/*.go "$module/"
(
	cd "$module"
	[ -f go.mod ] || go mod init eyot.invalid/etcdbench 2>/dev/null
	go mod edit -require go.etcd.io/etcd/client/v3@v3.7.3
	CGO_ENABLED=0 go build -mod=mod -o etcdbench .
)
for name in "${servers[@]}"; do
	echo "== $name" >&2
	start "$name"
	if [ -n "${CHURN:-}" ]; then
		"$module/etcdbench" -endpoint "http://127.0.0.1:$port" -pid "$server" -churn "$CHURN" -dir "$work/data" -csv "$out/$name.csv"
	else
		"$module/etcdbench" -endpoint "http://127.0.0.1:$port" -pid "$server" -seconds "${SECONDS_EACH:-4}" -only "${ONLY:-}" -json "$out/$name.json"
	fi
	end
	rm -rf "$work/data"
	# What the one before has left to the disk is not the next one's to wait for.
	sync
done
[ -z "${CHURN:-}" ] || exit 0
(cd "$out" && "$module/etcdbench" -table "${servers[@]/%/.json}" >table.md)
cat "$out/table.md"
