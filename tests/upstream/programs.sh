#!/usr/bin/env bash
# Builds unmodified upstream programs from their published Go modules; what is there already is kept.
#   programs.sh NAME...      names as in the table below
# They go to UPSTREAM_BIN (default /var/cache/eyot-upstream/bin). Needs Go.
set -euo pipefail
bin=${UPSTREAM_BIN:-/var/cache/eyot-upstream/bin}
kubernetes=v1.36.3 helm=v4.3.1
# The last release whose programs lie in the module that was published.
cert_manager=v1.11.5
modules=$bin/../modules

# A module that only names what it needs, so that every program is built with the versions that its makers chose.
module() { # NAME MODULE VERSION
	local dir=$modules/$1
	[ ! -f "$dir/ready" ] || return 0
	rm -rf "$dir" && mkdir -p "$dir" && cd "$dir"
	go mod init "eyot.invalid/$1" 2>/dev/null
	go mod edit -require "$2@$3"
	# Kubernetes' own modules lie within its tree; beside it they are published with a version of their own.
	local source
	source=$(go mod download -json "$2@$3" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
	sed -n "s|^\t\([^ ]*\) => ./staging/.*|-replace=\1=\1@${3/v1/v0}|p" "$source/go.mod" | xargs -r go mod edit
	touch ready
}

# With the version that programs say, and tests compare.
build() { # NAME MODULE-DIRECTORY GO-COMMAND... PACKAGE
	local component=k8s.io/component-base/version client=k8s.io/client-go/pkg/version minor=${kubernetes#v1.}
	local flags="-s -w"
	for part in $component $client; do
		flags+=" -X $part.gitVersion=$kubernetes -X $part.gitMajor=1 -X $part.gitMinor=${minor%.*}"
	done
	echo "building $1"
	(cd "$modules/$2" && CGO_ENABLED=0 nice "${@:3:$#-3}" -mod=mod -trimpath -ldflags "$flags" -o "$bin/$1" "${@: -1}")
}

command -v go >/dev/null || { echo "programs.sh: Go is needed: https://go.dev/dl" >&2; exit 1; }
mkdir -p "$bin" && bin=$(realpath "$bin") && modules=$(realpath -m "$modules")
for name; do
	[ ! -x "$bin/$name" ] || continue
	case $name in
	kube-* | kubectl | kubelet) package=k8s.io/kubernetes/cmd/$name go=build ;;
	agnhost) package=k8s.io/kubernetes/test/images/agnhost go=build ;;
	e2e.test) package=k8s.io/kubernetes/test/e2e go="test -c" ;;
	ginkgo) package=github.com/onsi/ginkgo/v2/ginkgo go=build ;;
	helm)
		(module helm helm.sh/helm/v4 $helm)
		build helm helm go build helm.sh/helm/v4/cmd/helm
		continue
		;;
	cert-manager-*)
		(module cert-manager github.com/cert-manager/cert-manager $cert_manager)
		build "$name" cert-manager go build github.com/cert-manager/cert-manager/cmd/"${name#cert-manager-}"
		continue
		;;
	*)
		echo "programs.sh: no program is called $name" >&2
		exit 2
		;;
	esac
	(module kubernetes k8s.io/kubernetes $kubernetes)
	# shellcheck disable=SC2086 # a command and its flag
	build "$name" kubernetes go $go $package
done
