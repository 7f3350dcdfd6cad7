# Makes archives of container images from programs of this machine, in the format of `docker save`; to be sourced by who has
# `work`, a directory that may be filled: its directories are the layers.
image=$work/image tags=()
mkdir -p "$image"

# put LAYER PATH SOURCE: a program with the libraries that it loads.
put() {
	local file
	install -D -m 755 "$3" "$work/$1/$2"
	for file in $(ldd "$3" 2>/dev/null | grep -o '/[^ ]*' || true); do
		[ -e "$work/$1$file" ] || install -D -m 755 "$file" "$work/$1$file"
	done
}

sum() { sha256sum "$1" | cut -d' ' -f1; }

# pack NAME ENTRYPOINT CMD LAYER...: an image of these layers, the lists as JSON. Every name has an id of its own, by which
# CRI finds it. `user` is who its process is.
pack() {
	local name=$1 entrypoint=$2 cmd=$3 layer config ids=() files=()
	shift 3
	for layer; do
		[ -f "$image/$layer.tar" ] || tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$work/$layer" -cf "$image/$layer.tar" .
		ids+=("\"sha256:$(sum "$image/$layer.tar")\"") files+=("\"$layer.tar\"")
	done
	cat >"$work/config" <<-JSON
		{"architecture": "$(dpkg --print-architecture)", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [$(IFS=,; echo "${ids[*]}")]},
		"config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Entrypoint": $entrypoint, "Cmd": $cmd, "User": "${user:-}",
		"WorkingDir": "/", "Labels": {"org.opencontainers.image.title": "$name"}}}
	JSON
	config=$(sum "$work/config").json
	mv "$work/config" "$image/$config"
	tags+=("{\"Config\": \"$config\", \"RepoTags\": [\"$name\"], \"Layers\": [$(IFS=,; echo "${files[*]}")]}")
}

# seal OUT.tar: what was packed.
seal() {
	(IFS=,; echo "[${tags[*]}]") >"$image/manifest.json"
	mkdir -p "$(dirname "$1")"
	tar -C "$image" -cf "$1.new" .
	mv "$1.new" "$1"
}
