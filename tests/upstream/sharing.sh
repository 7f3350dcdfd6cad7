#!/usr/bin/env bash
# Eyot's API and an unmodified kube-apiserver serve one store at once: what one creates the other lists, watches, updates and
# deletes, with protobuf values and with JSON; addresses and node ports that both give away at the same time differ.
#   sharing.sh EYOT
# UPSTREAM_BIN as in programs.sh. SERVICES that each side makes (default 40).
set -euo pipefail
eyot=$(readlink -f "${1:?the program to test}")
services=${SERVICES:-40}
# shellcheck source=servers.sh
. "$(dirname "$(readlink -f "$0")")/servers.sh"
needs kube-apiserver kubectl
instance=sh$(($$ % 100000)) native=21878
undo() { "$eyot" cleanup --instance "$instance" -d "$dir/eyot" >/dev/null 2>&1 || true; }
e() { "$bin/kubectl" --kubeconfig "$dir/eyot.kubeconfig" "$@"; }
tls=$dir/eyot/server/tls

both() { # the same everywhere
	"$eyot" server --config /dev/null -d "$dir/eyot" -o "$dir/eyot.kubeconfig" --instance "$instance" --https-listen-port "$native" \
		--disable-agent --service-cidr "$cidr" --etcd-listen "https://127.0.0.1:$port" >>"$dir/eyot.log" 2>&1 &
	pid[eyot]=$!
	until_true 60 e get --raw /readyz
	apiserver --etcd-servers="https://127.0.0.1:$port" --etcd-cafile="$tls/etcd-ca.crt" --etcd-certfile="$tls/client-etcd.crt" \
		--etcd-keyfile="$tls/client-etcd.key" --endpoint-reconciler-type=none
}

same() { # WHAT: both show it, alike but for what kubectl adds
	until_true 20 eval '[ "$(k get '"$1"' -o json | jq -S "del(.metadata.managedFields)")" = "$(e get '"$1"' -o json | jq -S "del(.metadata.managedFields)")" ]'
}

watcher() { # NAME KUBECTL...
	local name=$1
	shift
	: >"$dir/watch.$name"
	"$@" get configmaps -w --output-watch-events -o custom-columns=E:.type,N:.object.metadata.name,A:.object.data.a --no-headers >>"$dir/watch.$name" 2>/dev/null &
	pid[watch.$name]=$!
}

seen() { # NAME EVENT OBJECT VALUE
	until_true 20 grep -qE "^$2 +$3 +$4" "$dir/watch.$1"
}

# MAKER, OTHER: an object's life, made by one and changed by the other, as both watch.
life() {
	local maker=$1 other=$2 name=$1-made-${media##*[./]}
	$maker create configmap "$name" --from-literal=a=1 >/dev/null
	seen k ADDED "$name" 1
	seen e ADDED "$name" 1
	same "configmap $name"
	$other patch configmap "$name" -p '{"data":{"a":"2"}}' >/dev/null
	seen k MODIFIED "$name" 2
	seen e MODIFIED "$name" 2
	$maker label configmap "$name" x=y >/dev/null
	[ "$($other get configmaps -l x=y -o name)" = "configmap/$name" ] || fail "a label of $maker's is not selected by $other"
	$other replace -f <($other get configmap "$name" -o json | jq '.data.a="3"') >/dev/null
	seen k MODIFIED "$name" 3
	same "configmap $name"
	$other delete configmap "$name" >/dev/null
	seen k DELETED "$name" 3
	seen e DELETED "$name" 3

	# A conflict is one, whoever made the change.
	$maker create configmap "$name" --from-literal=a=1 >/dev/null
	$maker get configmap "$name" -o json >"$dir/old.json"
	$other patch configmap "$name" -p '{"data":{"a":"2"}}' >/dev/null
	$maker replace -f "$dir/old.json" 2>"$dir/conflict" && fail "$maker wrote over what $other had changed"
	grep -q 'the object has been modified' "$dir/conflict" || fail "$(cat "$dir/conflict")"

	# Eyot's controllers act on what either made, and both see what they do.
	$maker create deployment "$name" --image=none --replicas=3 >/dev/null
	until_true 60 eval '[ "$(k get pods -l app='"$name"' --no-headers 2>/dev/null | wc -l)" = 3 ]'
	[ "$(e get pods -l "app=$name" -o name | sort)" = "$(k get pods -l "app=$name" -o name | sort)" ] || fail "pods of $name differ"
	$other scale deployment "$name" --replicas=1 >/dev/null
	until_true 60 eval '[ "$(k get pods -l app='"$name"' --no-headers 2>/dev/null | wc -l)" = 1 ]'
	$other delete deployment "$name" >/dev/null
	until_true 60 eval '[ -z "$(e get pods -l app='"$name"' -o name)" ]'

	# Custom resources: the definition of one is served by both.
	sed "s/harbour.example.com/$maker.example.com/" "$here/chart/crds/boats.yaml" | $maker apply -f - >/dev/null
	until_true 30 $other get ferries.$maker.example.com
	until_true 30 $maker get ferries.$maker.example.com
	until_true 20 $other create -f - <<-EOF
		{"apiVersion": "$maker.example.com/v1", "kind": "Ferry", "metadata": {"name": "one"}, "spec": {"color": "red"}}
	EOF
	same "ferries.$maker.example.com one"
	$maker delete crd "ferries.$maker.example.com" >/dev/null
	until_true 30 eval '! '"$other"' get ferries.'"$maker"'.example.com'
}

# Services by both at once.
addresses() {
	local side n
	for side in k e; do
		for n in $(seq "$services"); do
			printf -- '---\n{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "%s-%s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}], "selector": {"a": "b"}}}\n' $side "$n"
		done >"$dir/services.$side"
	done
	k create -f "$dir/services.k" >/dev/null 2>"$dir/made.k" &
	local theirs=$!
	e create -f "$dir/services.e" >/dev/null || fail "services were refused"
	wait $theirs || fail "services were refused: $(head -n 3 "$dir/made.k")"
	local path all
	for path in '{.spec.clusterIP}' '{.spec.ports[0].nodePort}'; do
		all=$(k get services -o "jsonpath={range .items[?(@.spec.type=='NodePort')]}$path{'\\n'}{end}" | sort)
		[ "$(wc -l <<<"$all")" = $((2 * services)) ] || fail "$(wc -l <<<"$all") services of $((2 * services))"
		[ -z "$(uniq -d <<<"$all")" ] || fail "given away twice: $(uniq -d <<<"$all")"
	done
	k delete -f "$dir/services.e" >/dev/null
	e delete -f "$dir/services.k" >/dev/null
}

here=$(dirname "$(readlink -f "$0")")
certificates
for media in application/vnd.kubernetes.protobuf application/json; do
	both
	watcher k "$bin/kubectl" --kubeconfig "$dir/kubeconfig"
	watcher e "$bin/kubectl" --kubeconfig "$dir/eyot.kubeconfig"
	life k e
	life e k
	addresses
	[ -z "$(k get apiservices -o 'jsonpath={range .items[?(@.status.conditions[0].status!="True")]}{.metadata.name} {end}')" ] || fail "APIServices are not available: $(k get apiservices)"
	for name in watch.k watch.e apiserver eyot; do end $name TERM; done
	"$eyot" cleanup --instance "$instance" -d "$dir/eyot" >/dev/null
	rm -rf "$dir/eyot" "$dir"/*.log
	echo "$media: objects made, changed and deleted by either API are the other's; $((2 * services)) services have addresses and ports of their own"
done
