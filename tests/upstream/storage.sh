#!/usr/bin/env bash
# Upstream's own tests of its storage layer (k8s.io/apiserver/pkg/storage/etcd3) against `eyot server --datastore-only`.
#   storage.sh EYOT [go test arguments, for example -run 'TestList|TestWatch']
# Fails when a test fails that storage/explained.txt does not explain. Needs Go, which fetches the module; the copy that is changed is in target/upstream-storage.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
version=v0.36.3
EYOT=$(readlink -f "${1:?the program to test}")
export EYOT
shift
copy=$here/../../target/upstream-storage
if [ ! -d "$copy" ]; then
	module=$(go mod download -json "k8s.io/apiserver@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
	mkdir -p "$(dirname "$copy")"
	cp -r "$module" "$copy"
	chmod -R u+w "$copy"
fi
rm -f "$copy"/pkg/storage/etcd3/testserver/*.go
cp "$here/storage/test_server.go" "$copy/pkg/storage/etcd3/testserver/"
cd "$copy"
# Module mode is read-only: what is tested is exactly what upstream released.
go test -mod=readonly ./pkg/storage/etcd3/ ./pkg/storage/etcd3/preflight/ -v -count=1 -timeout 20m "$@" >storage.log 2>&1 || true
echo "$(grep -c '^--- PASS' storage.log) passed, $(grep -c '^--- FAIL' storage.log || true) failed, $(grep -c '^--- SKIP' storage.log || true) skipped; log: $PWD/storage.log"
grep -q '^\(ok\|FAIL\).*pkg/storage/etcd3' storage.log || { tail -20 storage.log >&2; exit 1; }
unexplained=$(sed -n 's/^--- FAIL: \([^ ]*\) .*/\1/p' storage.log | grep -vxF -f <(sed -n 's/^\(Test[^ ]*\) .*/\1/p' "$here/storage/explained.txt") || true)
[ -z "$unexplained" ] || { echo "failed without an explanation: $unexplained" >&2; exit 1; }
