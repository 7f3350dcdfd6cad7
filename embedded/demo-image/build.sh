#!/bin/sh
# Builds the demo image eyot.dev/demo:1 from Debian's busybox-static: a web server that says its pod's name, a shell,
# wget, nslookup and the rest of busybox, in the archive format of `docker save`, which is also the air-gap format.
#   build.sh OUT.tar [BUSYBOX]      same input, same bytes
set -eu
out=${1:?usage: build.sh OUT.tar [BUSYBOX]}
busybox=${2:-$(command -v busybox || true)}
[ -n "$busybox" ] || { echo "build.sh: busybox is not installed (Debian package: busybox-static)" >&2; exit 1; }
case $(uname -m) in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
*) arch=$(uname -m) ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root/bin" "$root/etc" "$root/home" "$root/root" "$root/tmp" "$root/usr" "$root/var" "$root/www"
ln -s ../bin "$root/usr/bin"
chmod 1777 "$root/tmp"
cp "$busybox" "$root/bin/busybox"
chmod 755 "$root/bin/busybox"
"$root/bin/busybox" true 2>/dev/null || { echo "build.sh: $busybox does not run" >&2; exit 1; }
for applet in $("$root/bin/busybox" --list); do
	[ "$applet" = busybox ] || ln -sf busybox "$root/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n' >"$root/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
printf 'hosts: files dns\n' >"$root/etc/nsswitch.conf"
cat >"$root/bin/serve" <<'SERVE'
#!/bin/sh
# serve [PORT]: says the pod's name on a port (8080) until told to end.
trap exit TERM INT
hostname >/www/index.html
httpd -f -p "${1:-8080}" -h /www &
wait
SERVE
chmod 755 "$root/bin/serve"

pack() { # directory, archive, members...
	dir=$1 archive=$2
	shift 2
	tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=ustar -C "$dir" -cf "$archive" "$@"
}
sum() { sha256sum "$1" | cut -d' ' -f1; }

image=$work/image
mkdir "$image"
pack "$root" "$image/layer.tar" .
cat >"$work/config.json" <<JSON
{"architecture":"$arch","os":"linux","config":{"Env":["PATH=/bin"],"Cmd":["/bin/serve"],"WorkingDir":"/"},"rootfs":{"type":"layers","diff_ids":["sha256:$(sum "$image/layer.tar")"]}}
JSON
config=$(sum "$work/config.json").json
mv "$work/config.json" "$image/$config"
printf '[{"Config":"%s","RepoTags":["eyot.dev/demo:1"],"Layers":["layer.tar"]}]' "$config" >"$image/manifest.json"
pack "$image" "$work/out.tar" "$config" layer.tar manifest.json
mkdir -p "$(dirname "$out")"
mv "$work/out.tar" "$out.new"
mv "$out.new" "$out"
