#!/usr/bin/env bash
# Makes an archive of stand-ins for the images of upstream's conformance suite, for machines that reach no registry.
#   images.sh OUT.tar
# They have the suite's own agnhost, Debian's busybox, and bash, curl, dig, getent and nc as this machine has them.
# The nginx is busybox's web server: tests only start it. UPSTREAM_BIN as in programs.sh.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
out=$(realpath -m "${1:?usage: images.sh OUT.tar}")
export UPSTREAM_BIN=${UPSTREAM_BIN:-/var/cache/eyot-upstream/bin}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
suite=registry.k8s.io/e2e-test-images
. "$here/archive.bash"

requirements() {
	local missing=() need
	for need in busybox:busybox-static curl:curl dig:bind9-dnsutils nc.openbsd:netcat-openbsd; do
		command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
	done
	if [ ${#missing[@]} -gt 0 ]; then
		apt-get update -qq
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove "${missing[@]}" >/dev/null
	fi
	"$here/programs.sh" agnhost
}

layers() {
	local applet
	mkdir -p "$work/base"/{bin,etc,home,root,tmp,usr,var,run,sbin} "$work/tools" "$work/agnhost" "$work/web/bin"
	chmod 1777 "$work/base/tmp"
	ln -s ../bin "$work/base/usr/bin"
	put base bin/busybox "$(command -v busybox)"
	for applet in $("$work/base/bin/busybox" --list); do [ "$applet" = busybox ] || ln -sf busybox "$work/base/bin/$applet"; done
	printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n' >"$work/base/etc/passwd"
	printf 'root:x:0:\nnogroup:x:65534:\n' >"$work/base/etc/group"
	# Tests look for this name.
	printf 'NAME="Alpine Linux"\nID=alpine\n' >"$work/base/etc/os-release"
	put tools bin/bash "$(command -v bash)"
	ln -s bash "$work/tools/bin/sh"
	put tools bin/curl "$(command -v curl)"
	put tools bin/dig "$(command -v dig)"
	put tools bin/nc "$(command -v nc.openbsd)"
	put tools bin/getent "$(command -v getent)"
	install -D -m 644 /dev/stdin "$work/tools/etc/nsswitch.conf" <<<'hosts: files dns'
	put agnhost agnhost "$UPSTREAM_BIN/agnhost"
	ln -s agnhost "$work/agnhost/agnhost-2"
	local source
	source=$("$here/programs.sh" source kubernetes)
	install -m 644 "$source"/test/images/agnhost/porter/localhost.{crt,key} "$work/agnhost"
	printf '#!/bin/sh\nmkdir -p /tmp/www && echo "Welcome to nginx!" >/tmp/www/index.html\nexec httpd -f -p 80 -h /tmp/www\n' >"$work/web/bin/nginx"
	chmod 755 "$work/web/bin/nginx"
}

requirements
layers
pack registry.k8s.io/pause:3.10.2 '["/agnhost"]' '["pause"]' base agnhost
pack $suite/agnhost:2.63.0 '["/agnhost"]' '["pause"]' base tools agnhost
pack $suite/agnhost:2.55 '["/agnhost"]' '["pause"]' base tools agnhost
pack $suite/busybox:1.37.0-1 null '["sh"]' base
pack $suite/glibc-dns-testing:2.0.0 null '["bash"]' base tools
pack $suite/nginx:1.15-4 null '["nginx"]' base web
seal "$out"
