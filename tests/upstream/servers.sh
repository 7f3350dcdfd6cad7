# Sourced by scripts that run upstream's control plane: its programs as processes of the script, in a directory of their
# own, ended with it. Sets bin, dir, pid, api (the API server's port); the script may set media, cidr and port before.
export UPSTREAM_BIN=${UPSTREAM_BIN:-/var/cache/eyot-upstream/bin}
bin=$UPSTREAM_BIN
dir=$(mktemp -d)
: "${port:=21876}" "${api:=21877}" "${controllers:=21875}" "${media:=application/vnd.kubernetes.protobuf}" "${cidr:=10.99.0.0/16}"
declare -A pid=()
# What the script itself has to undo.
undo() { :; }
trap 'kill -9 "${pid[@]}" 2>/dev/null || true; wait 2>/dev/null || true; undo; rm -rf "$dir"' EXIT

fail() {
	echo "$(basename "$0"): $*" >&2
	tail -n 5 "$dir"/*.log >&2
	exit 1
}

# Builds what is not there yet.
needs() { "$(dirname "${BASH_SOURCE[0]}")/programs.sh" "$@"; }

# shellcheck source=wait.bash
. "$(dirname "${BASH_SOURCE[0]}")/wait.bash"

end() { # NAME SIGNAL
	kill "-$2" "${pid[$1]}"
	wait "${pid[$1]}" 2>/dev/null || true
	unset "pid[$1]"
}

# kubectl at upstream's API server.
k() { "$bin/kubectl" --kubeconfig "$dir/kubeconfig" "$@"; }

etcd() {
	"$bin/etcd" --data-dir "$dir/etcd" --listen-client-urls "http://127.0.0.1:$port" --advertise-client-urls "http://127.0.0.1:$port" \
		--listen-peer-urls "http://127.0.0.1:$((port + 100))" --initial-advertise-peer-urls "http://127.0.0.1:$((port + 100))" \
		--initial-cluster "default=http://127.0.0.1:$((port + 100))" >>"$dir/etcd.log" 2>&1 &
	pid[etcd]=$!
	until_true 60 "$bin/etcdctl" --endpoints "http://127.0.0.1:$port" endpoint health
}

# A CA, an administrator, and a kubeconfig for the API server.
certificates() {
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
}

apiserver() { # FLAG... where its store is
	"$bin/kube-apiserver" "$@" --storage-media-type="$media" \
		--secure-port="$api" --bind-address=127.0.0.1 --advertise-address=127.0.0.1 --cert-dir="$dir" \
		--client-ca-file="$dir/ca.crt" --service-account-issuer=https://kubernetes.default.svc --service-account-key-file="$dir/ca.key" \
		--service-account-signing-key-file="$dir/ca.key" --service-cluster-ip-range="$cidr" --authorization-mode=RBAC \
		--etcd-compaction-interval=20s >>"$dir/apiserver.log" 2>&1 &
	pid[apiserver]=$!
	until_true 120 k get --raw /readyz
}

controllers() {
	"$bin/kube-controller-manager" --kubeconfig="$dir/kubeconfig" --leader-elect=false --secure-port="$controllers" --cert-dir="$dir" \
		--kube-api-qps=1000 --kube-api-burst=1000 --service-account-private-key-file="$dir/ca.key" >>"$dir/controllers.log" 2>&1 &
	pid[controllers]=$!
}
