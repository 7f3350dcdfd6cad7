#!/usr/bin/env bash
# Servers at sites with slow, lossy and narrow links, three of them with nodes and real containers; edits everywhere; one site is
# cut off, walks through the README's tour, loses its power, starts cold, and comes back. In the end all stores are equal, every
# acknowledged edit is there, each pod runs once, and a client-go informer that changed servers has missed nothing.
#   sites-soak.sh EYOT [SERVERS...]      default 3 7 15; CUT_SECONDS is how long the cut lasts at least (60)
# Needs root and Go.
set -euo pipefail
seconds=${CUT_SECONDS:-60}
export EYOT
EYOT=$(readlink -f "${1:?the program to test}")
shift
cd "$(dirname "$(readlink -f "$0")")/../.."
# shellcheck source=sites/build.sh
. tests/upstream/sites/build.sh
build_follow
tests/upstream/programs.sh etcdctl
for count in ${*:-3 7 15}; do
	echo "== $count servers"
	python3 tests/upstream/sites/soak.py "$count" "$seconds"
done
