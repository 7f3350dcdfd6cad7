# Sourced from the root of the checkout: builds the Go program beside this file, and says in SITES where it is.
export SITES UPSTREAM_BIN=${UPSTREAM_BIN:-/var/cache/eyot-upstream/bin} PYTHONDONTWRITEBYTECODE=1
SITES=${CARGO_TARGET_DIR:-$PWD/target}/upstream-sites/sites

# Installs a Debian package where a command fails without it.
needs() { # PACKAGE COMMAND...
	"${@:2}" 2>/dev/null && return
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove "$1" >/dev/null
}

(
	mkdir -p "$(dirname "$SITES")"
	cp tests/upstream/sites/*.go "$(dirname "$SITES")"
	cd "$(dirname "$SITES")"
	[ -f go.mod ] || go mod init eyot.invalid/sites 2>/dev/null
	go mod edit -require go.etcd.io/etcd/client/v3@v3.7.3
	CGO_ENABLED=0 go build -mod=mod -o sites .
)
# build_follow: the client-go program as well, and says in FOLLOW where it is.
build_follow() {
	export FOLLOW=${SITES%/*/*}/upstream-follow/follow
	mkdir -p "${FOLLOW%/*}"
	cp tests/upstream/sites/follow/*.go "${FOLLOW%/*}"
	(
		cd "${FOLLOW%/*}"
		[ -f go.mod ] || go mod init eyot.invalid/follow 2>/dev/null
		go mod edit -require k8s.io/client-go@v0.36.3 -require k8s.io/api@v0.36.3 -require k8s.io/apimachinery@v0.36.3
		CGO_ENABLED=0 nice go build -mod=mod -o follow .
	)
}
needs iproute2 ip -V >/dev/null
needs kubernetes-client kubectl version --client >/dev/null
