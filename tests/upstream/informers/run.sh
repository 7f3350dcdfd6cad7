#!/usr/bin/env bash
# Builds and runs the client-go program beside this script.
#   run.sh KUBECONFIG
#   run.sh KUBECONFIG --other KUBECONFIG KILL_FIRST RESTORE_FIRST KILL_SECOND   (two servers; the last three are commands)
set -euo pipefail
kubeconfig=$(realpath "${1:?usage: run.sh KUBECONFIG}")
shift
here=$(dirname "$(readlink -f "$0")")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$here"/*.go "$work"
cd "$work"
go mod init eyot.invalid/informers 2>/dev/null
go mod edit -require k8s.io/client-go@v0.36.3 -require k8s.io/api@v0.36.3 -require k8s.io/apimachinery@v0.36.3
CGO_ENABLED=0 nice go build -mod=mod -o informers . 2>log || { cat log >&2; exit 1; }
./informers --kubeconfig "$kubeconfig" "$@"
