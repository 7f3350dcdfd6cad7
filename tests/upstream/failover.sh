#!/usr/bin/env bash
# client-go's informers while their server is killed and they move to another one of the cluster, and back: no change is
# told out of order, and none is missed.
#   failover.sh EYOT
# As root.
set -euo pipefail
eyot=$(readlink -f "${1:?the program to test}")
here=$(dirname "$(readlink -f "$0")")
export dir eyot
dir=$(mktemp -d)
: "${port:=21880}"
trap 'for file in "$dir"/*.pid; do kill -9 "$(cat "$file")" 2>/dev/null || true; done; rm -rf "$dir"' EXIT

# start NAME PORT FLAG...
cat >"$dir/start" <<'END'
#!/usr/bin/env bash
set -euo pipefail
name=$1 port=$2
shift 2
setsid "$eyot" server --config /dev/null --data-dir "$dir/$name" --write-kubeconfig "$dir/$name.kubeconfig" --instance "eyotfail$name" \
	--node-name "$name" --site "$name" --disable-agent --https-listen-port "$port" --agent-port $((port + 100)) --advertise-address 127.0.0.1 "$@" \
	>>"$dir/$name.log" 2>&1 </dev/null &
echo $! >"$dir/$name.pid"
for _ in $(seq 600); do
	kubectl --kubeconfig "$dir/$name.kubeconfig" get --raw /readyz >/dev/null 2>&1 && exit 0
	sleep 0.1
done
tail -n 20 "$dir/$name.log" >&2
exit 1
END
chmod +x "$dir/start"
"$dir/start" a "$port"
"$dir/start" b $((port + 1)) --server "https://127.0.0.1:$port" --token "$(cat "$dir/a/server/token")"
"$here/informers/run.sh" "$dir/a.kubeconfig" --other "$dir/b.kubeconfig" \
	'kill -9 $(cat $dir/a.pid)' \
	"\$dir/start a $port" \
	'kill -9 $(cat $dir/b.pid)'
