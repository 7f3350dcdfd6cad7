#!/usr/bin/env bash
# Unmodified kube-apiservers at three sites, each on an `eyot server --datastore-only` of its own, in network namespaces: all
# are written while each is cut off; then all show the same, and watches that began before tell of what was merged. With
# JSON values different fields of one object merge; protobuf values are opaque, so the later write wins.
#   sites.sh EYOT
# As root. UPSTREAM_BIN as in programs.sh. CUT (default 10): seconds that the cut lasts at least.
set -euo pipefail
eyot=$(readlink -f "${1:?the program to test}")
# shellcheck source=servers.sh
. "$(dirname "$(readlink -f "$0")")/servers.sh"
needs kube-apiserver kubectl etcdctl
name=eyotup
sites=(a b c)

undo() {
	for site in "${sites[@]}"; do ip netns delete "$name$site" 2>/dev/null || true; done
	ip link delete "$name" 2>/dev/null || true
}

at() { # SITE COMMAND...
	local site=$1
	shift
	ip netns exec "$name$site" "$@"
}

# The same for the background: the process itself, so that it can be ended.
become() {
	local site=$1
	shift
	exec ip netns exec "$name$site" "$@"
}

ka() { # SITE ARGUMENT... : kubectl there
	local site=$1
	shift
	at "$site" "$bin/kubectl" --kubeconfig "$dir/kubeconfig" --request-timeout=20s "$@"
}

ea() { # SITE ARGUMENT... : etcdctl there
	local site=$1
	shift
	at "$site" "$bin/etcdctl" --endpoints "http://127.0.0.1:$port" "$@"
}

wire() { # SITE ADDRESS
	ip netns add "$name$1"
	ip link add "$name$1" type veth peer name eth0 netns "$name$1"
	ip link set "$name$1" master "$name" up
	ip -n "$name$1" address add "$2/24" dev eth0
	ip -n "$name$1" link set lo up
	ip -n "$name$1" link set eth0 up
	ip -n "$name$1" route add default dev eth0
}

datastore_at() { # SITE ADDRESS FLAG...
	local site=$1 address=$2
	shift 2
	become "$site" "$eyot" server --config /dev/null --data-dir "$dir/$site" --instance "$name$site" --node-name "$site" --site "$site" \
		--datastore-only --etcd-listen "http://127.0.0.1:$port" --advertise-address "$address" "$@" >>"$dir/eyot-$site.log" 2>&1 &
	pid[datastore-$site]=$!
	until_true 60 ea "$site" endpoint health
}

apiserver_at() { # SITE
	# An API server's own lease has its host's name.
	# shellcheck disable=SC2016
	become "$1" unshare --uts sh -c 'hostname "$0" && exec "$@"' "$name$1" "$bin/kube-apiserver" --etcd-servers="http://127.0.0.1:$port" --storage-media-type="$media" --endpoint-reconciler-type=none \
		--secure-port="$api" --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --cert-dir="$dir/certificates-$1" \
		--client-ca-file="$dir/ca.crt" --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$dir/ca.key" \
		--service-account-signing-key-file="$dir/ca.key" --service-cluster-ip-range="$cidr" --authorization-mode=RBAC \
		--etcd-compaction-interval=20s >>"$dir/apiserver-$1.log" 2>&1 &
	pid[apiserver-$1]=$!
	until_true 120 ka "$1" get --raw /readyz
}

watch_at() { # SITE
	: >"$dir/watch-$1"
	become "$1" "$bin/kubectl" --kubeconfig "$dir/kubeconfig" get configmaps -w -o 'jsonpath={.metadata.name} {.data.color} {.metadata.labels}{"\n"}' \
		>>"$dir/watch-$1" 2>/dev/null &
	pid[watch-$1]=$!
	until_true 30 grep -q shared "$dir/watch-$1"
}

everything() { # SITE: keys and values, but what each server has for itself and what never rests; JSON means the same in any order
	ea "$1" get --prefix /registry/ -w json |
		jq -cS ".kvs[] | {key: (.key | @base64d), value: ((.value | @base64d | fromjson)? // .value)} | select(.key | test(\"^/registry/(masterleases|ranges|eyot.dev|leases|events)/|/default/kubernetes$|/extension-apiserver-authentication$\") | not)" |
		sort
}

same() {
	local site
	everything a >"$dir/everything"
	for site in "${sites[@]:1}"; do cmp -s "$dir/everything" <(everything "$site") || return 1; done
}

run() { # MEDIA
	media=$1
	rm -rf "${dir:?}"/{a,b,c} "$dir"/*.log
	datastore_at a 10.98.7.1
	datastore_at b 10.98.7.2 --server https://10.98.7.1:6443 --token "$(cat "$dir/a/server/token")"
	datastore_at c 10.98.7.3 --server https://10.98.7.1:6443 --token "$(cat "$dir/a/server/token")"
	for key in compact_rev_key /registry/masterleases/10.0.0.1 /registry/ranges/serviceips /registry/told; do ea a put "$key" a >/dev/null; done
	until_true 30 eval 'ea b get /registry/told | grep -q told'
	[ -z "$(ea b get compact_rev_key)$(ea b get --prefix /registry/masterleases)$(ea b get --prefix /registry/ranges)" ] || fail "what is each server's own was replicated"
	for key in compact_rev_key /registry/masterleases/10.0.0.1 /registry/ranges/serviceips /registry/told; do ea a del "$key" >/dev/null; done
	for site in "${sites[@]}"; do apiserver_at "$site"; done
	ka a create configmap shared --from-literal=color=none --from-literal=size=none >/dev/null
	until_true 30 ka b get configmap shared
	ka b create configmap gone --from-literal=x=1 >/dev/null
	for site in a c; do until_true 30 ka "$site" get configmap gone; done
	until_true 30 ka c get configmap shared
	for site in "${sites[@]}"; do watch_at "$site"; done

	for site in "${sites[@]}"; do ip link set "$name$site" down; done
	ka a create configmap from-a --from-literal=color=a >/dev/null
	ka b create configmap from-b --from-literal=color=b >/dev/null
	ka c create configmap from-c --from-literal=color=c >/dev/null
	ka a label configmap shared left=yes >/dev/null
	ka a delete configmap gone >/dev/null
	sleep "${CUT:-10}"
	ka b label configmap shared right=yes >/dev/null
	ka b patch configmap shared -p '{"data":{"color":"blue"}}' >/dev/null
	ka a get configmap from-b >/dev/null 2>&1 && fail "the cut is none"
	for site in "${sites[@]}"; do ip link set "$name$site" up; done

	for site in "${sites[@]}"; do
		until_true 60 eval "[ \$(ka $site get configmap shared -o 'jsonpath={.data.color}') = blue ]"
		until_true 60 eval "! ka $site get configmap gone"
		until_true 60 grep -q 'shared blue' "$dir/watch-$site"
		for other in "${sites[@]}"; do
			until_true 60 ka "$site" get configmap "from-$other"
			until_true 60 grep -q "from-$other" "$dir/watch-$site"
		done
	done
	if [ "$media" = application/json ]; then
		for site in "${sites[@]}"; do
			until_true 30 grep -q 'shared blue.*left.*right' "$dir/watch-$site"
		done
	fi
	until_true 60 same
	grep -q 'required revision is a future revision' "$dir"/apiserver-*.log && fail "a revision went back"
	# Each has compacted by its own record of it.
	sleep 25
	for site in "${sites[@]}"; do [ -n "$(ea "$site" get compact_rev_key)" ] || fail "$site keeps no record of compaction"; done
	until_true 60 same
	for site in "${sites[@]}"; do
		end "watch-$site" TERM
		end "apiserver-$site" TERM
		end "datastore-$site" TERM
	done
	echo "$media: three sides were written during a cut of ${CUT:-10} s; all have the same, and the watches told"
}

certificates
ip link add "$name" type bridge
ip link set "$name" up
wire a 10.98.7.1
wire b 10.98.7.2
wire c 10.98.7.3
for media in application/json application/vnd.kubernetes.protobuf; do run $media; done
