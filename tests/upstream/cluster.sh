#!/usr/bin/env bash
# An unmodified upstream Kubernetes with one node on this machine, to compare Eyot with.
#   cluster.sh up [DIR]      starts etcd, kube-apiserver, kube-controller-manager, kube-scheduler, containerd, kubelet, kube-proxy
#   cluster.sh restart NAME [DIR]    kills one of these programs (not asks it to end) and starts it again
#   cluster.sh down [DIR]    ends them and what they left on the host
# DIR (default /var/tmp/eyot-rival) gets admin.kubeconfig, pids, ready (seconds from start to node Ready), logs.
# No other Kubernetes may run meanwhile: the programs have ports of their own.
# UPSTREAM_BIN names the directory with the programs of one Kubernetes release, and etcd.
# ETCD_SERVERS names another store, which runs already, instead of etcd; for https ETCD_CA, ETCD_CERT and ETCD_KEY name files.
# APISERVER_FLAGS are more flags of kube-apiserver.
set -euo pipefail
bin=${UPSTREAM_BIN:-/var/cache/eyot-upstream/bin}
verb=${1:-}
[ "$verb" != restart ] || { name=${2:?which program} && shift; }
dir=${2:-/var/tmp/eyot-rival}
port=7543 etcd=127.0.0.1:23990 node=$(hostname)
address=$(ip -4 route get 192.0.2.1 | sed -n 's/.* src \([0-9.]*\).*/\1/p' | head -1)
kubectl=(kubectl --kubeconfig "$dir/admin.kubeconfig")

run() { # PROGRAM ARGUMENTS...: in the background, known by its pid
	local name
	name=$(basename "$1")
	setsid "$@" >>"$dir/$name.log" 2>&1 </dev/null &
	echo "$!" >"$dir/pid.$name"
}

fail() { echo "cluster.sh: $*; logs are in $dir" >&2; exit 1; }
# shellcheck source=wait.bash
. "$(dirname "$(readlink -f "$0")")/wait.bash"

# A certificate signed by the cluster's CA, and a kubeconfig that uses it.
identity() { # NAME SUBJECT [ALTERNATIVE NAMES]
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$dir/$1.key" -subj "$2" -out "$dir/$1.csr" 2>/dev/null
	openssl x509 -req -in "$dir/$1.csr" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -days 30 -out "$dir/$1.crt" \
		-extfile <(echo "extendedKeyUsage=clientAuth,serverAuth"; echo "subjectAltName=${3:-DNS:$1}") 2>/dev/null
	local config=(kubectl config --kubeconfig "$dir/$1.kubeconfig")
	"${config[@]}" set-cluster it --server "https://127.0.0.1:$port" --certificate-authority "$dir/ca.crt" >/dev/null
	"${config[@]}" set-credentials me --client-certificate "$dir/$1.crt" --client-key "$dir/$1.key" >/dev/null
	"${config[@]}" set-context it --cluster it --user me >/dev/null
	"${config[@]}" use-context it >/dev/null
}

keys() {
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$dir/ca.key" -out "$dir/ca.crt" -subj /CN=ca -days 30 2>/dev/null
	openssl ecparam -genkey -name prime256v1 -noout -out "$dir/accounts.key"
	identity admin /O=system:masters/CN=admin
	identity apiserver /CN=kube-apiserver "IP:127.0.0.1,IP:$address,IP:10.97.0.1,DNS:kubernetes.default.svc"
	identity controllers /CN=system:kube-controller-manager
	identity scheduler /CN=system:kube-scheduler
	identity kubelet "/O=system:nodes/CN=system:node:$node" "DNS:$node,IP:$address"
}

configuration() {
	cat >"$dir/containerd.toml" <<-EOF
		version = 2
		root = "$dir/containerd"
		state = "$dir/containerd-state"
		grpc.address = "$dir/containerd.sock"
		[plugins."io.containerd.grpc.v1.cri"]
		sandbox_image = "${PAUSE_IMAGE:-registry.k8s.io/pause:3.10.2}"
		restrict_oom_score_adj = true
		cni.bin_dir = "/usr/lib/cni"
		cni.conf_dir = "$dir/cni"
	EOF
	mkdir -p "$dir/cni"
	cat >"$dir/cni/10-rival.conflist" <<-EOF
		{"cniVersion": "1.0.0", "name": "rival", "plugins": [{"type": "bridge", "bridge": "rival0", "isGateway": true, "ipMasq": true,
		"hairpinMode": true, "ipam": {"type": "host-local", "dataDir": "$dir/addresses", "ranges": [[{"subnet": "10.245.0.0/24"}]],
		"routes": [{"dst": "0.0.0.0/0"}]}}]}
	EOF
	cat >"$dir/kubelet.yaml" <<-EOF
		kind: KubeletConfiguration
		apiVersion: kubelet.config.k8s.io/v1beta1
		authentication: {x509: {clientCAFile: $dir/ca.crt}}
		tlsCertFile: $dir/kubelet.crt
		tlsPrivateKeyFile: $dir/kubelet.key
		containerRuntimeEndpoint: unix://$dir/containerd.sock
		cgroupDriver: cgroupfs
		failCgroupV1: false
		failSwapOn: false
		serializeImagePulls: false
		evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
	EOF
}

ready() { "${kubectl[@]}" wait --for=condition=ready "node/$node" --timeout=1s; }

# Starts one program.
start() { # NAME
	case $1 in
	containerd) run containerd --config "$dir/containerd.toml" ;;
	etcd) run "$bin/etcd" --data-dir "$dir/etcd" --listen-client-urls "http://$etcd" --advertise-client-urls "http://$etcd" --listen-peer-urls http://127.0.0.1:23991 ;;
	kube-apiserver)
		local store=(--etcd-servers "${ETCD_SERVERS:-http://$etcd}")
		[ -z "${ETCD_CA:-}" ] || store+=(--etcd-cafile "$ETCD_CA" --etcd-certfile "$ETCD_CERT" --etcd-keyfile "$ETCD_KEY")
		# shellcheck disable=SC2086 # several flags
		run "$bin/kube-apiserver" "${store[@]}" --secure-port $port --advertise-address "$address" --client-ca-file "$dir/ca.crt" \
			--tls-cert-file "$dir/apiserver.crt" --tls-private-key-file "$dir/apiserver.key" --kubelet-client-certificate "$dir/admin.crt" \
			--kubelet-client-key "$dir/admin.key" --service-account-issuer https://kubernetes.default.svc --service-account-key-file "$dir/accounts.key" \
			--service-account-signing-key-file "$dir/accounts.key" --service-cluster-ip-range 10.97.0.0/16 --authorization-mode Node,RBAC \
			--enable-admission-plugins NodeRestriction --allow-privileged ${APISERVER_FLAGS:-}
		;;
	kube-controller-manager) run "$bin/kube-controller-manager" --kubeconfig "$dir/controllers.kubeconfig" --leader-elect=false --kube-api-qps 5000 --kube-api-burst 5000 \
		--root-ca-file "$dir/ca.crt" --service-account-private-key-file "$dir/accounts.key" --use-service-account-credentials --cluster-cidr 10.245.0.0/16 ;;
	kube-scheduler) run "$bin/kube-scheduler" --kubeconfig "$dir/scheduler.kubeconfig" --leader-elect=false --kube-api-qps 5000 --kube-api-burst 5000 ;;
	kubelet) run "$bin/kubelet" --config "$dir/kubelet.yaml" --kubeconfig "$dir/kubelet.kubeconfig" --root-dir "$dir/kubelet" --node-ip "$address" ;;
	kube-proxy) run "$bin/kube-proxy" --kubeconfig "$dir/admin.kubeconfig" --proxy-mode nftables --cluster-cidr 10.245.0.0/16 --hostname-override "$node" ;;
	*) echo "cluster.sh: no program is called $1" >&2; exit 2 ;;
	esac
}

up() {
	local name programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)
	[ -n "${ETCD_SERVERS:-}" ] || programs=(etcd "${programs[@]}")
	mkdir -p "$dir"
	[ -f "$dir/kubelet.crt" ] || keys
	configuration
	local begun=$EPOCHREALTIME
	start containerd
	for name in "${programs[@]}"; do
		start "$name"
		[ "$name" != kube-apiserver ] || until_true 60 "${kubectl[@]}" get --raw /readyz
	done
	until_true 120 ready
	awk -v from="$begun" -v to="$EPOCHREALTIME" 'BEGIN {printf "%.2f\n", to - from}' >"$dir/ready"
	# Without containerd, as Eyot's figure is without it.
	for name in "${programs[@]}"; do cat "$dir/pid.$name"; done | paste -sd, >"$dir/pids"
	until_true 60 "${kubectl[@]}" get serviceaccount default
	echo "upstream is Ready after $(cat "$dir/ready") s: $dir/admin.kubeconfig"
}

restart() {
	local pid
	pid=$(cat "$dir/pid.$name")
	kill -9 "$pid"
	# Its ports are free when it is gone.
	while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
	start "$name"
}

# Ends a program that up started; a server that drains its connections for long is not waited for.
end() { # NAME
	local pid
	[ -f "$dir/pid.$1" ] && pid=$(cat "$dir/pid.$1") || return 0
	kill "$pid" 2>/dev/null || return 0
	for _ in $(seq 50); do
		kill -0 "$pid" 2>/dev/null || return 0
		sleep 0.1
	done
	kill -9 "$pid" 2>/dev/null || true
}

down() {
	local name task ctr=(ctr --address "$dir/containerd.sock" --namespace k8s.io)
	[ -d "$dir" ] || return 0
	"${kubectl[@]}" delete pods --all-namespaces --all --grace-period=0 --force >/dev/null 2>&1 || true
	for name in kubelet kube-proxy kube-scheduler kube-controller-manager kube-apiserver etcd; do end "$name"; done
	for task in $("${ctr[@]}" tasks list -q 2>/dev/null); do "${ctr[@]}" tasks kill --signal 9 --all "$task" >/dev/null 2>&1 || true; done
	sleep 1
	for task in $("${ctr[@]}" containers list -q 2>/dev/null); do
		"${ctr[@]}" tasks delete --force "$task" >/dev/null 2>&1 || true
		"${ctr[@]}" containers delete "$task" >/dev/null 2>&1 || true
	done
	end containerd
	awk -v dir="$dir/" 'index($2, dir) == 1 {print $2}' /proc/mounts | sort -r | xargs -r -n1 umount -l
	ip link delete rival0 2>/dev/null || true
	nft delete table ip kube-proxy 2>/dev/null || true
	nft delete table ip6 kube-proxy 2>/dev/null || true
	rm -rf "$dir"
}

case $verb in
up | restart | down) "$verb" ;;
*)
	sed -n '2,10p' "$0" | sed 's/^# \{0,1\}//'
	exit 2
	;;
esac
