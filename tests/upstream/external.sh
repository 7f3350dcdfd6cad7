#!/usr/bin/env bash
# A whole Eyot, API and node, on a real etcd: the tour's essentials, the server and etcd killed and started again under
# way, and a kube-apiserver beside it on the same etcd that sees the same.
#   external.sh EYOT
# UPSTREAM_BIN as in programs.sh. Needs root, as every node does.
set -euo pipefail
eyot=$(readlink -f "${1:?the program to test}")
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=servers.sh
. "$here/servers.sh"
needs etcd etcdctl kube-apiserver kubectl
instance=ex$(($$ % 100000)) native=21878
undo() {
	e delete pods --all --grace-period=0 --force >/dev/null 2>&1 || true
	"$eyot" cleanup --instance "$instance" -d "$dir/eyot" >/dev/null 2>&1 || true
}
e() { "$bin/kubectl" --kubeconfig "$dir/eyot.kubeconfig" "$@"; }

signed() { # NAME: a certificate of the CA for this machine
	openssl req -newkey rsa:2048 -nodes -keyout "$dir/$1.key" -subj "/CN=$1" -out "$dir/$1.csr" 2>/dev/null
	openssl x509 -req -in "$dir/$1.csr" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -CAcreateserial -days 2 -out "$dir/$1.crt" \
		-extfile <(echo 'subjectAltName=IP:127.0.0.1') 2>/dev/null
}

secured() { # etcd, over TLS alone
	"$bin/etcd" --data-dir "$dir/etcd" --listen-client-urls "https://127.0.0.1:$port" --advertise-client-urls "https://127.0.0.1:$port" \
		--listen-peer-urls "http://127.0.0.1:$((port + 100))" --initial-advertise-peer-urls "http://127.0.0.1:$((port + 100))" \
		--initial-cluster "default=http://127.0.0.1:$((port + 100))" --client-cert-auth --trusted-ca-file "$dir/ca.crt" \
		--cert-file "$dir/member.crt" --key-file "$dir/member.key" >>"$dir/etcd.log" 2>&1 &
	pid[etcd]=$!
}

server() { # the first member is never there
	"$eyot" server --config /dev/null -d "$dir/eyot" -o "$dir/eyot.kubeconfig" --instance "$instance" --https-listen-port "$native" \
		--agent-port 21879 --service-cidr "$cidr" --cluster-cidr 10.63.0.0/16 --eviction-hard '' \
		--datastore-endpoint "https://127.0.0.1:$((port + 1)),https://127.0.0.1:$port" --datastore-cafile "$dir/ca.crt" \
		--datastore-certfile "$dir/client.crt" --datastore-keyfile "$dir/client.key" >>"$dir/eyot.log" 2>&1 &
	pid[eyot]=$!
}

ready() { # NUMBER of pods of the deployment
	until_true 90 eval '[ "$(e get deployment hello -o jsonpath={.status.readyReplicas})" = '"$1"' ]'
}

certificates
signed member
signed client
mkdir -p "$dir/eyot/agent/images"
"$here/../../embedded/demo-image/build.sh" "$dir/eyot/agent/images/demo.tar" >/dev/null
secured
server
until_true 90 eval 'e get nodes | grep -q " Ready"'
[ ! -e "$dir/eyot/server/store" ] || fail "there is a store of its own beside"
e create deployment hello --image=eyot.dev/demo:1 --replicas=3 >/dev/null
e expose deployment hello --port=80 --target-port=8080 >/dev/null
ready 3
ip=$(e get service hello -o jsonpath='{.spec.clusterIP}')
until_true 30 eval 'curl -sf "http://'"$ip"'/" | grep -q hello'
e run client --image=eyot.dev/demo:1 >/dev/null
e wait --for=condition=Ready --timeout 60s pod/client >/dev/null
until_true 30 eval 'e exec client -- wget -qO- http://hello | grep -q hello'
e logs deployment/hello >/dev/null
echo "a deployment runs, its Service answers"
before=$(e get pods -o 'jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].restartCount}{"\n"}{end}' | sort)

end etcd KILL
sleep 3
e get pods --request-timeout=15s >/dev/null 2>"$dir/away" && fail "pods were listed without etcd"
secured
until_true 60 e get pods
e scale deployment hello --replicas=4 >/dev/null
ready 4
end eyot KILL
server
until_true 60 e get --raw /readyz
e scale deployment hello --replicas=3 >/dev/null
ready 3
until_true 60 eval '[ "$(e get pods -o name | wc -l)" = 4 ]'
after=$(e get pods -o 'jsonpath={range .items[*]}{.metadata.uid} {.status.containerStatuses[0].restartCount}{"\n"}{end}' | sort)
[ "$(comm -12 <(echo "$before") <(echo "$after") | wc -l)" -ge 3 ] || fail "pods did not live on: $before; $after"
echo "etcd and the server were killed: pods lived on, and what was asked was done"

apiserver --etcd-servers="https://127.0.0.1:$port" --etcd-cafile="$dir/ca.crt" --etcd-certfile="$dir/client.crt" \
	--etcd-keyfile="$dir/client.key" --endpoint-reconciler-type=none
[ "$(k get pods -A -o name | sort)" = "$(e get pods -A -o name | sort)" ] || fail "the API servers show different pods"
k create deployment theirs --image=eyot.dev/demo:1 >/dev/null
until_true 60 eval '[ "$(e get deployment theirs -o jsonpath={.status.readyReplicas})" = 1 ]'
until_true 20 eval '[ "$(k get deployment theirs -o jsonpath={.status.readyReplicas})" = 1 ]'
echo "a kube-apiserver beside it serves the same"
began=$(date +%s%N)
for n in $(seq 50); do printf -- '---\n{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c-%s"}}\n' "$n"; done | e create -f - >/dev/null
echo "50 objects created one after the other in $((($(date +%s%N) - began) / 1000000)) ms"
end apiserver TERM
e delete deployment hello theirs >/dev/null
e delete pod client --grace-period=1 >/dev/null
until_true 90 eval '[ -z "$(e get pods -o name)" ]'
end eyot TERM
