#!/usr/bin/env bash
# All checks and tests of the project, from formatting to real containers: what CI runs.
#   tests/run.sh            everything
#   tests/run.sh static     formatting, lints, layering
#   tests/run.sh unit       tests of all crates
#   tests/run.sh e2e        a real server with real containers
#   tests/run.sh conformance    some of upstream's own tests of each area; builds them the first time (6 minutes)
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
export CARGO_TERM_COLOR=never
# From nothing to all tests needs half the disk without what would only serve the next build.
export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}

# What the tests need from the system; apt is asked only when something is missing.
requirements() {
	local missing=() need
	for need in cc:gcc containerd:containerd runc:runc nft:nftables ip:iproute2 conntrack:conntrack curl:curl etcdctl:etcd-client; do
		command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
	done
	[ -x /usr/lib/cni/bridge ] || [ -x /opt/cni/bin/bridge ] || missing+=(containernetworking-plugins)
	command -v kubectl >/dev/null || missing+=(kubernetes-client)
	[ -x /bin/busybox ] || missing+=(busybox-static)
	if [ ${#missing[@]} -gt 0 ]; then
		echo "installing ${missing[*]}"
		apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove "${missing[@]}" >/dev/null
	fi
	rustup component list --installed 2>/dev/null | grep -q clippy || rustup component add clippy rustfmt
}

static() {
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
}

unit() { cargo test --workspace --exclude eyot-e2e --locked --no-fail-fast; }

e2e() {
	cargo build --locked -p eyot
	cargo test --locked -p eyot-e2e --no-fail-fast
}

conformance() {
	local code=0
	tests/upstream/programs.sh ginkgo e2e.test agnhost kubectl || code=$?
	# 75: what they are made of can't be had, as it said, which is no fault of ours.
	if [ $code -eq 75 ]; then
		echo "SKIPPED: upstream's conformance tests"
		return 0
	fi
	[ $code -eq 0 ] || exit $code
	tests/upstream/conformance.sh core
}

requirements
case ${1:-all} in
static | unit | e2e | conformance) "$1" ;;
# One after the other: within && and || the shell would pass over a step's first failure.
all)
	static
	unit
	e2e
	conformance
	;;
*)
	sed -n '2,7p' "$0" | sed 's/^# \{0,1\}//'
	exit 2
	;;
esac
