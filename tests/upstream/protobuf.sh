#!/usr/bin/env bash
# Upstream's corpus of objects, each in three forms: what Eyot reads of the protobuf one must be the JSON one.
#   protobuf.sh [VERSION]      of k8s.io/api and k8s.io/apiextensions-apiserver (default v0.36.3)
set -euo pipefail
version=${1:-v0.36.3}
root=$(cd "$(dirname "$0")/../.." && pwd)
for part in api/testdata apiextensions-apiserver/pkg/apis/testdata; do
	module=${part%%/*}
	dir=$(go mod download -json "k8s.io/$module@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
	EYOT_PROTOBUF_CORPUS=$dir/${part#*/}/HEAD cargo test --quiet --manifest-path "$root/Cargo.toml" -p eyot-api \
		--test protobuf_upstream -- --ignored --nocapture corpus | grep 'same in all three forms'
done
