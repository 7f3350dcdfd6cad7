#!/usr/bin/env bash
# The same session of etcdctl on a real etcd and on Eyot, side by side: prints where their words differ.
#   etcdctl.sh ETCD EYOT
# ETCD is etcd's server program; etcdctl is Debian's (package etcd-client). Revisions, ids, sizes, addresses and times
# are left out of the comparison.
set -euo pipefail
etcd=${1:?etcd\'s server} eyot=${2:?eyot}
command -v etcdctl >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends --no-remove etcd-client >/dev/null; }
export ETCDCTL_API=3
dir=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$dir"' EXIT

"$etcd" --data-dir "$dir/etcd" --listen-client-urls http://127.0.0.1:21879 --advertise-client-urls http://127.0.0.1:21879 \
	--listen-peer-urls http://127.0.0.1:21880 --initial-advertise-peer-urls http://127.0.0.1:21880 \
	--initial-cluster default=http://127.0.0.1:21880 --log-level error >"$dir/etcd.log" 2>&1 &
pids+=($!)
"$eyot" server --config /dev/null --data-dir "$dir/eyot" --datastore-only --etcd-listen http://127.0.0.1:21878 >"$dir/eyot.log" 2>&1 &
pids+=($!)

session() { # PORT: prints each command, what it said and how it ended
	local port=$1 rev id
	e() {
		echo "\$ etcdctl $*"
		local ended=0
		timeout 20 etcdctl --endpoints "127.0.0.1:$port" "$@" 2>&1 || ended=$?
		echo "= $ended"
	}
	revision() { etcdctl --endpoints "127.0.0.1:$port" get / -w json | sed 's/.*"revision":\([0-9]*\).*/\1/'; }
	e put /a/1 one; e put /a/2 two; e put /a/3 three; e put /b b; e put --prev-kv /a/2 zwei
	e get /a/2; e get --prefix /a; e get --prefix --keys-only /; e get --prefix --limit 2 /a; e get --from-key /a/3
	e get /a/1 /a/3; e get --prefix --sort-by VALUE --order DESCEND /a; e get --prefix --sort-by CREATE /a
	e get --prefix --sort-by VERSION --order DESCEND --limit 1 /a; e get --print-value-only /b; e get --hex /b; e get --consistency s /b
	e get ''; e get /none; e get /a/2 -w fields; e get /a/2 -w json
	e put /e ''; e get /e; e put --ignore-value /none; e put --ignore-value /b; e put --ignore-lease /b c; e put --lease 1234 /b x
	rev=$(revision); e put /b later; e get --rev "$rev" /b; e get --rev 9223372036854775807 /b
	printf 'value("/b") = "later"\nmod("/none") = "0"\n\nput /t 1\nget /t\ndel /e\n\nget /b\n\n' | e txn
	printf 'value("/b") = "later"\ncreate("/b") = "0"\n\nput /t 1\n\nget /b\nget --prefix /a\n\n' | e txn
	printf 'lease("/b") = "0"\nversion("/b") < "100"\n\nput /t 1\nput /t 2\n\n\n' | e txn
	e watch --rev "$((rev + 1))" --prev-kv --prefix /b -- false
	e del /none; e del --prev-kv /t; e del --prefix /a/; e del --from-key /zzz
	e compaction "$rev"; e compaction "$rev"; e compaction 9223372036854775807; e get --rev 1 /b; e watch --rev 1 /b
	e compaction --physical "$(revision)"
	e lease grant 100; e lease list
	id=$(etcdctl --endpoints "127.0.0.1:$port" lease list | tail -1)
	e put --lease "$id" /l x; e lease timetolive --keys "$id"; e lease keep-alive --once "$id"; e lease revoke "$id"; e get /l
	e lease timetolive "$id"; e lease revoke "$id"; e lease keep-alive --once "$id"; e lease grant 99999999999; e lease grant 0
	e lock mutex echo held; e endpoint health; e endpoint status; e endpoint hashkv; e member list; e alarm list; e alarm disarm; e defrag
	e snapshot save "$dir/$port.db"; e snapshot status "$dir/$port.db"; e snapshot restore "$dir/$port.db" --data-dir "$dir/$port.restored"
	e move-leader 1; e auth enable; e user list; e role list; e user add a:b; e role get x; e auth disable
	e member add x --peer-urls http://127.0.0.1:1; e member remove 1; e member update 1 --peer-urls http://127.0.0.1:1; e member promote 1
}

same() { # what two servers can't have in common
	sed -E -e 's/"(cluster_id|member_id|revision|raft_term|create_revision|mod_revision|ID)":[0-9]+/"\1":N/g' \
		-e 's/"(ClusterID|MemberID|Revision|RaftTerm|CreateRevision|ModRevision)" : [0-9]+/"\1" : N/' \
		-e 's/\b[0-9a-f]{15,16}\b/ID/g; s/2187[89]/PORT/g; s/took = [0-9.]+[a-zµ]+/took = T/; s/[0-9.]+ [kM]?B/SIZE/g' \
		-e 's/remaining\([0-9]+s\)/remaining(Ns)/; s/[0-9]{19}/N/g; s/^\{"level".*//; s/^(\{|\s*").*"(ts|caller)":.*//' \
		-e 's/(--rev |compaction |compacted revision |--physical )[0-9]+/\1N/'
}

for port in 21879 21878; do
	for ((i = 0; i < 100; i++)); do etcdctl --endpoints 127.0.0.1:$port endpoint health >/dev/null 2>&1 && break; sleep 0.2; done
	session $port >"$dir/$port.raw" 2>&1
	same <"$dir/$port.raw" >"$dir/$port.out"
done
grep -c '^\$' "$dir/21878.out" | sed 's/$/ commands; lines with < are etcd'"'"'s, with > Eyot'"'"'s/'
diff "$dir/21879.out" "$dir/21878.out" && echo "no difference"
