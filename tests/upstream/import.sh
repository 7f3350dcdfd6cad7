#!/usr/bin/env bash
# A cluster moves in: an unmodified kube-apiserver and kube-controller-manager on a real etcd get objects of many kinds, etcd
# takes a snapshot, Eyot restores it and serves it. Every object must be what upstream's API showed.
#   import.sh EYOT
# UPSTREAM_BIN as in programs.sh.
set -euo pipefail
eyot=$(readlink -f "${1:?the program to test}")
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=servers.sh
. "$here/servers.sh"
needs etcd etcdctl helm kube-apiserver kube-controller-manager kubectl
instance=im$(($$ % 100000)) native=21878
undo() { "$eyot" cleanup --instance "$instance" -d "$dir/eyot" >/dev/null 2>&1 || true; }
e() { "$bin/kubectl" --kubeconfig "$dir/eyot.kubeconfig" "$@"; }

objects() { # KUBECTL FILE: all objects but those that come and go by themselves
	local kinds
	kinds=$($1 api-resources --verbs=list -o name | grep -vE '^(events|leases|componentstatuses|nodes|pods.metrics|nodes.metrics|servers|conflicts)' | sort | paste -sd,)
	$1 get "$kinds" -A -o json --show-managed-fields >"$2"
}

certificates
etcd
apiserver --etcd-servers="http://127.0.0.1:$port"
controllers
"$bin/helm" template it "$here/chart" --include-crds --namespace default >"$dir/chart.yaml"
until_true 30 k get serviceaccount default
k apply -f "$here/chart/crds" >/dev/null
k wait --for condition=established --timeout 30s crd --all >/dev/null
until_true 20 k apply -f "$dir/chart.yaml"
k create secret generic hidden --from-literal=a=b >/dev/null
k create namespace later >/dev/null
k create configmap gone >/dev/null
k delete configmap gone >/dev/null
until_true 60 eval '[ "$(k get pods --no-headers 2>/dev/null | wc -l)" -ge 2 ]'
sleep 5
end controllers TERM
objects k "$dir/theirs.json"
"$bin/etcdctl" --endpoints "http://127.0.0.1:$port" snapshot save "$dir/snapshot.db" >/dev/null 2>&1
end apiserver TERM
c() { "$bin/etcdctl" --endpoints "http://127.0.0.1:$port" "$@"; }
c put /registry/secrets/default/locked 'k8s:enc:aescbc:v1:key1:x' >/dev/null
c snapshot save "$dir/encrypted.db" >/dev/null 2>&1
end etcd TERM

cp "$dir/snapshot.db" "$dir/cut.db"
printf x | dd of="$dir/cut.db" bs=1 seek=100000 conv=notrunc status=none
"$eyot" snapshot restore -d "$dir/eyot" "$dir/cut.db" 2>"$dir/refused.log" && fail "a damaged snapshot was restored"
cp "$dir/etcd/member/snap/db" "$dir/copied.db"
"$eyot" snapshot restore -d "$dir/eyot" "$dir/copied.db" 2>>"$dir/refused.log" && fail "a copied database was restored"
"$eyot" snapshot restore -d "$dir/eyot" "$dir/encrypted.db" 2>"$dir/encrypted.log" && fail "encrypted values were restored"
grep -q '1 values are encrypted.*/registry/secrets/default/locked' "$dir/encrypted.log" || fail "$(cat "$dir/encrypted.log")"
[ ! -e "$dir/eyot/server/store" ] || fail "what was refused left a store behind"
"$eyot" snapshot restore -d "$dir/eyot" "$dir/snapshot.db"

"$eyot" server --config /dev/null -d "$dir/eyot" -o "$dir/eyot.kubeconfig" --instance "$instance" --https-listen-port "$native" \
	--disable-agent --service-cidr "$cidr" >"$dir/eyot.log" 2>&1 &
pid[eyot]=$!
until_true 60 e get --raw /readyz
objects e "$dir/ours.json"
python3 "$here/import.py" "$dir/theirs.json" "$dir/ours.json" || fail "objects differ"
e create configmap new --from-literal=a=b >/dev/null
e patch deployment it -p '{"spec":{"replicas":3}}' >/dev/null
until_true 60 eval '[ "$(e get deployment it -o jsonpath={.status.observedGeneration})" = "$(e get deployment it -o jsonpath={.metadata.generation})" ]'
end eyot TERM
