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
image=$work/image tags=()

requirements() {
	local missing=() need
	for need in busybox:busybox-static curl:curl dig:bind9-dnsutils nc.openbsd:netcat-openbsd; do
		command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
	done
	[ ${#missing[@]} -eq 0 ] ||
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove "${missing[@]}" >/dev/null
	"$here/programs.sh" agnhost
}

# put LAYER PATH SOURCE: a program with the libraries that it loads.
put() {
	local file
	install -D -m 755 "$3" "$work/$1/$2"
	for file in $(ldd "$3" 2>/dev/null | grep -o '/[^ ]*' || true); do
		[ -e "$work/$1$file" ] || install -D -m 755 "$file" "$work/$1$file"
	done
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
	source=$(cd "$UPSTREAM_BIN/../modules/kubernetes" && go list -mod=mod -m -f '{{.Dir}}' k8s.io/kubernetes)
	install -m 644 "$source"/test/images/agnhost/porter/localhost.{crt,key} "$work/agnhost"
	printf '#!/bin/sh\nmkdir -p /tmp/www && echo "Welcome to nginx!" >/tmp/www/index.html\nexec httpd -f -p 80 -h /tmp/www\n' >"$work/web/bin/nginx"
	chmod 755 "$work/web/bin/nginx"
}

sum() { sha256sum "$1" | cut -d' ' -f1; }

# pack NAME ENTRYPOINT CMD LAYER...: the lists as JSON. Every name has an id of its own, by which CRI finds it.
pack() {
	local name=$1 entrypoint=$2 cmd=$3 layer config ids=() files=()
	shift 3
	for layer; do
		[ -f "$image/$layer.tar" ] || tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$work/$layer" -cf "$image/$layer.tar" .
		ids+=("\"sha256:$(sum "$image/$layer.tar")\"") files+=("\"$layer.tar\"")
	done
	cat >"$work/config" <<-JSON
		{"architecture": "$(dpkg --print-architecture)", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [$(IFS=,; echo "${ids[*]}")]},
		"config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Entrypoint": $entrypoint, "Cmd": $cmd,
		"WorkingDir": "/", "Labels": {"org.opencontainers.image.title": "$name"}}}
	JSON
	config=$(sum "$work/config").json
	mv "$work/config" "$image/$config"
	tags+=("{\"Config\": \"$config\", \"RepoTags\": [\"$name\"], \"Layers\": [$(IFS=,; echo "${files[*]}")]}")
}

requirements
mkdir -p "$image"
layers
pack registry.k8s.io/pause:3.10.2 '["/agnhost"]' '["pause"]' base agnhost
pack $suite/agnhost:2.63.0 '["/agnhost"]' '["pause"]' base tools agnhost
pack $suite/agnhost:2.55 '["/agnhost"]' '["pause"]' base tools agnhost
pack $suite/busybox:1.37.0-1 null '["sh"]' base
pack $suite/glibc-dns-testing:2.0.0 null '["bash"]' base tools
pack $suite/nginx:1.15-4 null '["nginx"]' base web
(IFS=,; echo "[${tags[*]}]") >"$image/manifest.json"
mkdir -p "$(dirname "$out")"
tar -C "$image" -cf "$out.new" .
mv "$out.new" "$out"
