#!/usr/bin/env bash
# Builds unmodified upstream programs from their published Go modules; what is there already is kept.
#   programs.sh NAME...              names as in the table below
#   programs.sh source MODULE        says where the sources of kubernetes, helm or cert-manager are
# They go to UPSTREAM_BIN (default /var/cache/eyot-upstream/bin). The exit code is 75 where Go or modules can't be had.
set -euo pipefail
bin=${UPSTREAM_BIN:-/var/cache/eyot-upstream/bin}
kubernetes=v1.36.3 helm=v4.3.1 etcd=v3.7.3 kine=v0.16.4
# The last release whose programs lie in the module that was published.
cert_manager=v1.11.5
modules=$bin/../modules
# What they are built with where the machine's Go is older than they need, or missing.
needed=go1.26 toolchain=go1.26.8

unavailable() { echo "programs.sh: $*" >&2; exit 75; }

# An older Go, such as Debian's, fetches a newer one as the module that it is published as.
golang() {
	command -v go >/dev/null || {
		echo "installing Go"
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove golang-go >/dev/null
	} || unavailable "Go can't be installed"
	[ "$(printf '%s\n' $needed "$(go env GOVERSION)" | sort -V | head -1)" != $needed ] || return 0
	local dir
	dir=$(downloaded "golang.org/toolchain@v0.0.1-$toolchain.linux-$(go env GOARCH)")
	chmod -R u+x "$dir/bin" "$dir/pkg/tool"
	PATH=$dir/bin:$PATH
}

# downloaded MODULE@VERSION: where it is.
downloaded() {
	local said
	said=$(go mod download -json "$1") || unavailable "$1 can't be had: $(sed -n 's/^\t"Error": "\(.*\)",*$/\1/p' <<<"$said")"
	sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p' <<<"$said"
}

# A module that only names what it needs, so that every program is built with the versions that its makers chose.
module() { # NAME; its file `source` says where the sources are
	local dir=$modules/$1 path version source
	[ ! -f "$dir/source" ] || return 0
	case $1 in
	kubernetes) path=k8s.io/kubernetes version=$kubernetes ;;
	helm) path=helm.sh/helm/v4 version=$helm ;;
	etcd | etcdctl) version=$etcd path=go.etcd.io/etcd/${1/%etcd/server}/v3 ;;
	kine) path=github.com/k3s-io/kine version=$kine ;;
	cert-manager) path=github.com/cert-manager/cert-manager version=$cert_manager ;;
	esac
	rm -rf "$dir" && mkdir -p "$dir" && cd "$dir"
	go mod init "eyot.invalid/$1" 2>/dev/null
	go mod edit -require "$path@$version"
	source=$(downloaded "$path@$version")
	# Kubernetes' own modules lie within its tree; beside it they are published with a version of their own.
	sed -n "s|^\t\([^ ]*\) => ./staging/.*|-replace=\1=\1@${version/v1/v0}|p" "$source/go.mod" | xargs -r go mod edit
	echo "$source" >source
}

# With the version that programs say, and tests compare.
build() { # NAME MODULE-DIRECTORY GO-COMMAND... PACKAGE
	local component=k8s.io/component-base/version client=k8s.io/client-go/pkg/version minor=${kubernetes#v1.}
	local flags="-s -w"
	for part in $component $client; do
		flags+=" -X $part.gitVersion=$kubernetes -X $part.gitMajor=1 -X $part.gitMinor=${minor%.*}"
	done
	echo "building $1"
	cd "$modules/$2"
	# What can't be had is told from what can't be built.
	go list -mod=mod -deps "${@: -1}" >/dev/null || unavailable "modules of $1 can't be had"
	CGO_ENABLED=$cgo nice "${@:3:$#-3}" -mod=mod -trimpath -ldflags "$flags" -o "$bin/$1" "${@: -1}"
}

mkdir -p "$bin" && bin=$(realpath "$bin") && modules=$(realpath -m "$modules")
if [ "${1:-}" = source ]; then
	golang >&2
	(module "$2")
	cat "$modules/$2/source"
	exit
fi
for name; do
	[ ! -x "$bin/$name" ] || continue
	golang
	module=kubernetes go=build cgo=0
	case $name in
	kube-* | kubectl | kubelet) package=k8s.io/kubernetes/cmd/$name ;;
	agnhost) package=k8s.io/kubernetes/test/images/agnhost ;;
	e2e.test) package=k8s.io/kubernetes/test/e2e go="test -c" ;;
	ginkgo) package=github.com/onsi/ginkgo/v2/ginkgo ;;
	helm) module=helm package=helm.sh/helm/v4/cmd/helm ;;
	cert-manager-*) module=cert-manager package=github.com/cert-manager/cert-manager/cmd/${name#cert-manager-} ;;
	etcd) module=etcd package=go.etcd.io/etcd/server/v3 ;;
	etcdctl) module=etcdctl package=go.etcd.io/etcd/etcdctl/v3 ;;
	# Its SQLite is C.
	kine) module=kine package=github.com/k3s-io/kine cgo=1 ;;
	*)
		echo "programs.sh: no program is called $name" >&2
		exit 2
		;;
	esac
	(module "$module")
	# shellcheck disable=SC2086 # a command and its flag
	build "$name" "$module" go $go "$package"
done
