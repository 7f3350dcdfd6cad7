#!/usr/bin/env bash
# Builds Eyot from this checkout, installs it, starts it and waits until the node is Ready.
#   ./install.sh [FLAGS OF eyot server]
#   ./install.sh agent [FLAGS OF eyot agent]     a node in the cluster of other servers
# EYOT_URL, EYOT_TOKEN       the same as --server and --token, kept in /etc/eyot/config.yaml; with `agent`, or alone for one:
#                            the token is what `eyot token show --agent` prints on a server
# HTTPS_PROXY, NO_PROXY      a proxy on the way to other servers and to registries, kept in /etc/eyot/eyot.env
# INSTALL_EYOT_BIN_DIR       where the binary goes (default /usr/local/bin)
# INSTALL_EYOT_SKIP_BUILD    true: take the binary that is built already
# INSTALL_EYOT_SKIP_START    true: install only
# INSTALL_EYOT_EXEC          more flags of eyot server or eyot agent
# Safe to run again: what is there already is kept, and a running server is restarted only when it changed.
set -euo pipefail

here=$(dirname "$(readlink -f "$0")")
if [ "$(id -u)" != 0 ]; then
	exec sudo --preserve-env=PATH,HTTPS_PROXY,HTTP_PROXY,NO_PROXY,https_proxy,http_proxy,no_proxy,EYOT_URL,EYOT_TOKEN,INSTALL_EYOT_BIN_DIR,INSTALL_EYOT_SKIP_BUILD,INSTALL_EYOT_SKIP_START,INSTALL_EYOT_EXEC \
		env CARGO_HOME="${CARGO_HOME:-$HOME/.cargo}" RUSTUP_HOME="${RUSTUP_HOME:-$HOME/.rustup}" "$0" "$@"
fi

command=server
[ -z "${EYOT_URL:-}" ] || command=agent
case ${1:-} in server | agent)
	command=$1
	shift
	;;
esac
bin_dir=${INSTALL_EYOT_BIN_DIR:-/usr/local/bin}
data_dir=/var/lib/eyot
config_dir=/etc/eyot
kubeconfig=$config_dir/kubeconfig
log=/var/log/eyot.log
pid_file=/run/eyot.pid
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin:/usr/sbin:/sbin

say() { printf '%s\n' "$*"; }
die() {
	printf 'install.sh: %s\n' "$*" >&2
	exit 1
}

# --- what the system must have -------------------------------------------------------------------

# Programs by the Debian package that brings them; only what is missing is asked of apt.
requirements() {
	local missing=() need
	local needs=(containerd:containerd runc:runc nft:nftables ip:iproute2 conntrack:conntrack)
	if [ "${INSTALL_EYOT_SKIP_BUILD:-}" != true ]; then
		needs+=(cc:gcc)
		[ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
	fi
	for need in "${needs[@]}"; do
		command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
	done
	[ -x /usr/lib/cni/bridge ] || [ -x /opt/cni/bin/bridge ] || missing+=(containernetworking-plugins)
	[ -x /bin/busybox ] || command -v busybox >/dev/null || missing+=(busybox-static)
	[ ${#missing[@]} = 0 ] && return
	command -v apt-get >/dev/null || die "please install: ${missing[*]}"
	say "installing Debian packages: ${missing[*]}"
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove "${missing[@]}" >/dev/null ||
		die "apt could not install ${missing[*]} without removing something (Docker's containerd.io conflicts with containerd: keep it, it serves as well)"
	mkdir -p "$data_dir"
	printf '%s\n' "${missing[@]}" >>"$data_dir/installed-packages"
}

build() {
	if [ "${INSTALL_EYOT_SKIP_BUILD:-}" != true ]; then
		command -v cargo >/dev/null || die "Rust is needed: curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
		say "building eyot (a few minutes the first time)"
		(cd "$here" && cargo build --quiet --locked --profile dist -p eyot)
	fi
	binary=${CARGO_TARGET_DIR:-$here/target}/dist/eyot
	[ -x "$binary" ] || die "$binary is not there: run without INSTALL_EYOT_SKIP_BUILD"
}

# --- installing ----------------------------------------------------------------------------------

changed=false

# place SOURCE TARGET MODE: replaces the target only when it differs.
place() {
	cmp -s "$1" "$2" && return
	install -D -m "$3" "$1" "$2.new"
	mv -f "$2.new" "$2"
	changed=true
}

files() {
	place "$binary" "$bin_dir/eyot" 755
	place "$here/packaging/eyot-uninstall.sh" "$bin_dir/eyot-uninstall.sh" 755
	[ -d "$config_dir" ] || install -d -m 700 "$config_dir"
	settings
	proxies
	mkdir -p "$data_dir/agent/images"
	"$here/embedded/demo-image/build.sh" "$data_dir/agent/images/demo.tar"
}

# What joining needs stays off command lines, which everybody can read.
settings() {
	local lines=() line
	[ -z "${EYOT_URL:-}" ] || lines+=("server: $EYOT_URL")
	[ -z "${EYOT_TOKEN:-}" ] || lines+=("token: $EYOT_TOKEN")
	[ ${#lines[@]} != 0 ] || return 0
	if [ -e "$config_dir/config.yaml" ]; then
		for line in "${lines[@]}"; do
			grep -qxF -- "$line" "$config_dir/config.yaml" ||
				die "$config_dir/config.yaml is there already and says otherwise: put EYOT_URL (server:) and EYOT_TOKEN (token:) into it"
		done
		return
	fi
	printf '%s\n' "${lines[@]}" | install -m 600 /dev/stdin "$config_dir/config.yaml"
	changed=true
}

# The proxies of whoever installs are the service's, too, unless its environment is written already.
proxies() {
	local lines
	lines=$(env | grep -iE '^(https?|no)_proxy=.' | sed "s/=\\(.*\\)/='\\1'/" || true)
	if [ -z "$lines" ] || [ -e "$config_dir/eyot.env" ]; then return 0; fi
	printf '%s\n' "$lines" | install -m 600 /dev/stdin "$config_dir/eyot.env"
	changed=true
}

with_systemd() { [ -d /run/systemd/system ]; }

start_with_systemd() {
	local unit
	unit=$(mktemp)
	sed "s|@BIN@|$bin_dir|g; s|@FLAGS@|$flags|g" "$here/packaging/eyot.service" >"$unit"
	place "$unit" /etc/systemd/system/eyot.service 644
	rm -f "$unit"
	systemctl daemon-reload
	systemctl enable --quiet eyot
	if $changed; then systemctl restart eyot; else systemctl start eyot; fi
}

# Without systemd a small loop keeps the server running; its own pid file says who it is.
start_by_hand() {
	local unit
	unit=$(mktemp)
	sed "s|@BIN@|$bin_dir|g; s|@FLAGS@|$flags|g; s|@LOG@|$log|g; s|@PID@|$pid_file|g" "$here/packaging/eyot-supervise.sh" >"$unit"
	place "$unit" "$data_dir/supervise.sh" 755
	rm -f "$unit"
	if [ -f "$pid_file" ] && kill -0 "$(cat "$pid_file")" 2>/dev/null; then
		$changed || return 0
		kill "$(cat "$pid_file")"
		for _ in $(seq 100); do kill -0 "$(cat "$pid_file" 2>/dev/null)" 2>/dev/null || break; sleep 0.1; done
	fi
	setsid "$data_dir/supervise.sh" </dev/null >/dev/null 2>&1 &
}

# The last lines of the log.
log_end() {
	if with_systemd; then
		journalctl --unit eyot --lines "$1" --no-pager --output cat
	else
		tail -n "$1" "$log"
	fi 2>/dev/null || true
}

wait_until_ready() {
	local seconds=90 failed=0 i
	printf 'waiting for the node'
	for ((i = 0; i < seconds * 5; i++)); do
		if "$bin_dir/eyot" status >/dev/null 2>&1; then
			printf ' Ready\n'
			return
		fi
		if ! ((i % 5)); then
			printf '.'
			# It ends with such a line, is started again, and ends again: waiting longer is of no use.
			if [[ $(log_end 1) == "eyot: "* ]]; then ((failed += 1)); else failed=0; fi
			((failed < 5)) || break
		fi
		sleep 0.2
	done
	printf '\n'
	"$bin_dir/eyot" status || true
	log_end 5
	die "the node is not Ready after $((i / 5)) s; see $(with_systemd && echo 'journalctl -u eyot' || echo "$log")"
}

requirements
build
flags="$command $* ${INSTALL_EYOT_EXEC:-}"
files
if [ "${INSTALL_EYOT_SKIP_START:-}" = true ]; then
	say "installed $bin_dir/eyot; start it with: eyot $command"
	exit
fi
if with_systemd; then start_with_systemd; else start_by_hand; fi
[[ " $flags " == *" --disable-agent "* ]] || wait_until_ready
if [ "$command" = agent ]; then
	say "Eyot runs this node. On a server: sudo eyot kubectl get nodes; here: sudo eyot status"
	exit
fi
cat <<-EOF
	Eyot runs. The admin's kubeconfig is $kubeconfig (readable by root alone). Next:
	  sudo eyot kubectl get nodes
	  sudo eyot kubectl create deployment hello --image=eyot.dev/demo:1 --replicas=3
	  sudo eyot status
EOF
