#!/usr/bin/env bash
# An unmodified kube-apiserver and kube-controller-manager on `eyot server --datastore-only`, with protobuf values and with
# JSON: makes, watches, patches and deletes objects, lets upstream's controllers make PODS pods of a deployment, scale it
# and delete it, restarts the datastore (killed, not asked) and the API server under way, and checks that nothing is lost.
#   apiserver.sh EYOT
# UPSTREAM_BIN names the directory with the programs of one Kubernetes release. PODS (default 300).
set -euo pipefail
eyot=$(readlink -f "${1:?the program to test}")
bin=${UPSTREAM_BIN:-/var/cache/eyot-upstream/bin}
pods=${PODS:-300}
dir=$(mktemp -d)
port=21876 api=21877 controllers=21875
declare -A pid=()
trap 'kill -9 "${pid[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT

fail() {
	echo "apiserver.sh: $*" >&2
	tail -n 5 "$dir"/*.log >&2
	exit 1
}

until_true() { # SECONDS COMMAND...
	local tries=$(($1 * 5))
	shift
	until "$@" >/dev/null 2>&1; do
		((tries-- > 0)) || fail "in vain: $*"
		sleep 0.2
	done
}

k() { "$bin/kubectl" --kubeconfig "$dir/kubeconfig" "$@"; }

datastore() {
	"$eyot" server --config /dev/null --data-dir "$dir/data" --datastore-only --etcd-listen "https://127.0.0.1:$port" >>"$dir/eyot.log" 2>&1 &
	pid[datastore]=$!
	until_true 30 test -e "$tls/client-etcd.crt"
}

apiserver() {
	"$bin/kube-apiserver" --etcd-servers="https://127.0.0.1:$port" --etcd-cafile="$tls/etcd-ca.crt" \
		--etcd-certfile="$tls/client-etcd.crt" --etcd-keyfile="$tls/client-etcd.key" --storage-media-type="$media" \
		--secure-port=$api --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --cert-dir="$dir" \
		--client-ca-file="$dir/ca.crt" --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$dir/ca.key" \
		--service-account-signing-key-file="$dir/ca.key" --service-cluster-ip-range=10.99.0.0/16 --authorization-mode=RBAC \
		--etcd-compaction-interval=20s >>"$dir/apiserver.log" 2>&1 &
	pid[apiserver]=$!
	until_true 120 k get --raw /readyz
}

controllers() {
	"$bin/kube-controller-manager" --kubeconfig="$dir/kubeconfig" --leader-elect=false --secure-port=$controllers --cert-dir="$dir" \
		--kube-api-qps=1000 --kube-api-burst=1000 --service-account-private-key-file="$dir/ca.key" >>"$dir/controllers.log" 2>&1 &
	pid[controllers]=$!
}

end() { # NAME SIGNAL
	kill "-$2" "${pid[$1]}"
	wait "${pid[$1]}" 2>/dev/null || true
	unset "pid[$1]"
}

count() { # NUMBER: so many pods
	[ "$(k get pods --no-headers 2>/dev/null | wc -l)" = "$1" ]
}

openssl req -x509 -newkey rsa:2048 -nodes -keyout "$dir/ca.key" -out "$dir/ca.crt" -subj /CN=ca -days 2 2>/dev/null
openssl req -newkey rsa:2048 -nodes -keyout "$dir/admin.key" -subj /O=system:masters/CN=admin -out "$dir/admin.csr" 2>/dev/null
openssl x509 -req -in "$dir/admin.csr" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -CAcreateserial -days 2 -out "$dir/admin.crt" 2>/dev/null
cat >"$dir/kubeconfig" <<-EOF
	apiVersion: v1
	kind: Config
	clusters: [{name: it, cluster: {server: "https://127.0.0.1:$api", insecure-skip-tls-verify: true}}]
	users: [{name: me, user: {client-certificate: $dir/admin.crt, client-key: $dir/admin.key}}]
	contexts: [{name: it, context: {cluster: it, user: me}}]
	current-context: it
EOF
tls=$dir/data/server/tls

for media in application/vnd.kubernetes.protobuf application/json; do
	rm -rf "$dir/data" "$dir"/*.log
	datastore
	apiserver
	controllers
	k get --raw '/readyz?verbose' | grep -q 'etcd ok' || fail "readyz does not see its store"
	k create configmap one --from-literal=a=1 >/dev/null
	: >"$dir/watch"
	"$bin/kubectl" --kubeconfig "$dir/kubeconfig" get configmaps -w -o name >>"$dir/watch" 2>/dev/null &
	pid[watch]=$!
	until_true 20 grep -q configmap/one "$dir/watch"
	k label configmap one x=y >/dev/null
	k patch configmap one -p '{"data":{"a":"2"}}' >/dev/null
	until_true 20 eval '[ $(grep -c configmap/one "$dir/watch") -ge 3 ]'
	end watch TERM
	[ "$(k get configmap one -o 'jsonpath={.data.a}{.metadata.labels.x}')" = 2y ] || fail "what was patched is not there"
	pages=$(k get configmaps -A --chunk-size=2 --no-headers | awk '{print $1 "/" $2}' | sort)
	[ "$pages" = "$(k get configmaps -A --no-headers | awk '{print $1 "/" $2}' | sort)" ] || fail "pages are not the list"
	k create deployment web --image=none --replicas="$pods" >/dev/null
	until_true 180 count "$pods"
	before=$(k get pods -o name | sort)
	end datastore KILL
	datastore
	until_true 60 k get --raw /readyz
	[ "$(k get pods -o name | sort)" = "$before" ] || fail "pods differ after the datastore was killed"
	k scale deployment web --replicas=$((pods / 2)) >/dev/null
	end apiserver KILL
	apiserver
	until_true 180 count $((pods / 2))
	k delete deployment web >/dev/null
	until_true 180 count 0
	sleep 25
	grep -q 'etcdserver: mvcc: required revision is a future revision' "$dir/apiserver.log" && fail "a revision went back"
	k get --raw /metrics | grep -E '^apiserver_watch_cache_consistent_read_total.*fallback="true".*[1-9]$' && fail "reads fell back to the store"
	for name in controllers apiserver datastore; do end $name TERM; done
	echo "$media: $pods pods made, scaled and deleted; datastore and API server killed under way: nothing lost"
done
