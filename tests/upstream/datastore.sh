#!/usr/bin/env bash
# A whole unmodified upstream Kubernetes (API server, controllers, scheduler, kubelet, proxy) on `eyot server
# --datastore-only`, with protobuf values and with JSON: pods that run, a Service that answers, PODS pods of one deployment
# bound to nodes that are only objects, scaled and deleted while each program, the datastore first, is killed and started
# again; events that expire, history that is compacted. Needs root, containerd and what cluster.sh needs.
#   datastore.sh EYOT
# PODS (default 1000), UPSTREAM_BIN, IMAGES (an archive with upstream's pause image), MEDIA (protobuf and json by default).
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
eyot=$(readlink -f "${1:?the program to test}")
bin=${UPSTREAM_BIN:-/var/cache/eyot-upstream/bin}
images=${IMAGES:-$bin/../images.tar}
pods=${PODS:-1000}
work=$(mktemp -d)
port=22201 store=
tls=$work/data/server/tls
export UPSTREAM_BIN=$bin ETCD_SERVERS=https://127.0.0.1:$port ETCD_CA=$tls/etcd-ca.crt ETCD_CERT=$tls/client-etcd.crt ETCD_KEY=$tls/client-etcd.key
trap 'finish' EXIT

finish() {
	tests/upstream/cluster.sh down "$work/upstream" >/dev/null 2>&1 || true
	[ -z "$store" ] || { kill -9 "$store" && wait "$store"; } 2>/dev/null || true
	rm -rf "$work"
}

fail() {
	echo "datastore.sh: $*" >&2
	tail -n 5 "$work"/eyot.log "$work"/upstream/*.log >&2
	exit 1
}

# shellcheck source=wait.bash
. tests/upstream/wait.bash

k() { "$bin/kubectl" --kubeconfig "$work/upstream/admin.kubeconfig" "$@"; }

datastore() {
	"$eyot" server --config /dev/null --data-dir "$work/data" --datastore-only --etcd-listen "$ETCD_SERVERS" >>"$work/eyot.log" 2>&1 &
	store=$!
	until_true 30 test -e "$ETCD_CERT"
}

restart() { # NAME
	if [ "$1" = datastore ]; then
		kill -9 "$store"
		wait "$store" 2>/dev/null || true
		datastore
	else
		tests/upstream/cluster.sh restart "$1" "$work/upstream"
	fi
}

# Nodes without anybody behind them; what runs there tolerates that.
nodes() { # NUMBER
	local n list=
	for n in $(seq "$1"); do
		list+='{"apiVersion":"v1","kind":"Node","metadata":{"name":"object-'$n'","labels":{"only":"object"}},"status":{
			"capacity":{"cpu":"64","memory":"256Gi","pods":"500"},"allocatable":{"cpu":"64","memory":"256Gi","pods":"500"},
			"conditions":[{"type":"Ready","status":"True","reason":"Object","lastHeartbeatTime":"2020-01-01T00:00:00Z"}]}},'
	done
	echo "{\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[${list%,}]}" | k create -f - >/dev/null
}

many() { # NUMBER: a deployment of so many pods for these nodes
	k create -f - >/dev/null <<-EOF
		{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"}, "spec": {"replicas": $1,
		 "selector": {"matchLabels": {"app": "many"}}, "template": {"metadata": {"labels": {"app": "many"}}, "spec": {
		 "nodeSelector": {"only": "object"}, "tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 0,
		 "containers": [{"name": "none", "image": "none"}]}}}}
	EOF
}

# A deletion that was under way when its caller was killed is for a node's kubelet to finish, and here is none.
bound() { # NUMBER: exactly so many pods of it that are to stay, all bound
	local each='jsonpath={range .items[*]}{.spec.nodeName},{.metadata.deletionTimestamp}{"\n"}{end}'
	[ "$(k get pods -l app=many -o "$each" | awk -F, '$2 == "" {print ($1 == "") ? "free" : "bound"}' | sort | uniq -c | tr -d '\n ')" = "${1}bound" ]
}

none() {
	k delete pods -l app=many --grace-period=0 --force --wait=false >/dev/null 2>&1 || true
	[ -z "$(k get pods -l app=many -o name)" ]
}

answers() { curl -sf -m 2 "http://$(k get service web -o 'jsonpath={.spec.clusterIP}')"; }

# What must not change when any part is killed: the containers that run.
running() { k get pods -l app=web -o 'jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}{"\n"}{end}' | sort; }

ended() { [ -z "$(k get pods -l app=web -o name)" ]; }

gone() { ! k get "$@"; }

forgotten() { # REVISION: it can't be read any more
	[[ $(k get --raw "/api/v1/configmaps?limit=1&resourceVersionMatch=Exact&resourceVersion=$1" 2>&1) = *"too old"* ]]
}

embedded/demo-image/build.sh "$work/demo.tar"
for media in ${MEDIA:-protobuf json}; do
	[ "$media" = json ] && type=application/json || type=application/vnd.kubernetes.protobuf
	export APISERVER_FLAGS="--storage-media-type=$type --event-ttl=20s --etcd-compaction-interval=20s"
	rm -rf "$work/data"
	datastore
	tests/upstream/cluster.sh up "$work/upstream"
	for archive in "$images" "$work/demo.tar"; do
		ctr --address "$work/upstream/containerd.sock" --namespace k8s.io images import "$archive" >/dev/null
	done
	old=$(k get --raw '/api/v1/configmaps?limit=1' | sed 's/.*"metadata":{"resourceVersion":"\([0-9]*\)".*/\1/')
	[ -n "$old" ] || fail "a list has no resourceVersion"
	k create deployment web --image=eyot.dev/demo:1 --replicas=3 >/dev/null
	k expose deployment web --port=80 --target-port=8080 >/dev/null
	k rollout status deployment web --timeout=120s >/dev/null || fail "pods do not run"
	until_true 60 answers
	before=$(running)
	nodes 10
	begun=$EPOCHREALTIME
	many "$pods"
	until_true 300 bound "$pods"
	size=$pods
	made=$(awk -v from="$begun" -v to="$EPOCHREALTIME" 'BEGIN {printf "%.1f", to - from}')
	for part in datastore kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy; do
		[ "$size" = $((pods / 2)) ] && size=$pods || size=$((pods / 2))
		until_true 60 k scale deployment many --replicas="$size"
		sleep 0.5
		restart "$part"
		until_true 300 bound "$size"
		until_true 60 answers
	done
	until_true 60 k get --raw /readyz
	[ "$(running)" = "$before" ] || fail "containers changed: $before, and then $(running)"
	until_true 60 k delete deployment many
	until_true 300 none
	k delete nodes -l only=object >/dev/null
	k create -f - >/dev/null <<-EOF
		{"apiVersion": "v1", "kind": "Event", "metadata": {"name": "short", "namespace": "default"}, "type": "Normal", "reason": "Test",
		 "involvedObject": {"kind": "Pod", "namespace": "default", "name": "none"}}
	EOF
	k get event short >/dev/null || fail "no event"
	until_true 60 gone event short
	# Compaction forgets a revision at the interval after the one in which it was noted.
	until_true 60 forgotten "$old"
	k delete deployment web >/dev/null
	k delete service web >/dev/null
	until_true 120 ended
	disk=$(du -m "$work/data" | tail -1 | cut -f1) memory=$(awk '/VmHWM/ {print int($2 / 1024)}' "/proc/$store/status")
	tests/upstream/cluster.sh down "$work/upstream"
	kill "$store" && wait "$store" || fail "the datastore did not end in order"
	store=
	echo "$media: $pods pods made and bound in $made s, scaled and deleted; datastore and each of upstream's programs killed under way: containers went on, nothing lost; events expired, history compacted; datastore $disk MB on disk, at most $memory MiB resident"
done
