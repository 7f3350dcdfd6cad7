#!/usr/bin/env bash
# An unmodified kube-apiserver and kube-controller-manager on `eyot server --datastore-only`, with protobuf values and with
# JSON: makes, watches, patches and deletes objects, lets upstream's controllers make PODS pods of a deployment, scale it
# and delete it, restarts the datastore (killed, not asked) and the API server under way, and checks that nothing is lost.
#   apiserver.sh EYOT
# UPSTREAM_BIN as in programs.sh. PODS (default 300).
set -euo pipefail
eyot=$(readlink -f "${1:?the program to test}")
pods=${PODS:-300}
# shellcheck source=servers.sh
. "$(dirname "$(readlink -f "$0")")/servers.sh"
needs kube-apiserver kube-controller-manager kubectl

datastore() {
	"$eyot" server --config /dev/null --data-dir "$dir/data" --datastore-only --etcd-listen "https://127.0.0.1:$port" >>"$dir/eyot.log" 2>&1 &
	pid[datastore]=$!
	until_true 30 test -e "$tls/client-etcd.crt"
}

on_it() {
	apiserver --etcd-servers="https://127.0.0.1:$port" --etcd-cafile="$tls/etcd-ca.crt" \
		--etcd-certfile="$tls/client-etcd.crt" --etcd-keyfile="$tls/client-etcd.key"
}

count() { # NUMBER: so many pods
	[ "$(k get pods --no-headers 2>/dev/null | wc -l)" = "$1" ]
}

certificates
tls=$dir/data/server/tls

for media in application/vnd.kubernetes.protobuf application/json; do
	rm -rf "$dir/data" "$dir"/*.log
	datastore
	on_it
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
	on_it
	until_true 180 count $((pods / 2))
	k delete deployment web >/dev/null
	until_true 180 count 0
	sleep 25
	grep -q 'etcdserver: mvcc: required revision is a future revision' "$dir/apiserver.log" && fail "a revision went back"
	k get --raw /metrics | grep -E '^apiserver_watch_cache_consistent_read_total.*fallback="true".*[1-9]$' && fail "reads fell back to the store"
	for name in controllers apiserver datastore; do end $name TERM; done
	echo "$media: $pods pods made, scaled and deleted; datastore and API server killed under way: nothing lost"
done
