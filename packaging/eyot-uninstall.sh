#!/usr/bin/env bash
# Removes Eyot: processes, containers, mounts, links, nftables, cgroups, files. System packages stay; those that the
# installer brought are listed.
set -u
[ "$(id -u)" = 0 ] || exec sudo "$0" "$@"
bin_dir=$(dirname "$(readlink -f "$0")")
data_dir=/var/lib/eyot

if [ -d /run/systemd/system ]; then
	systemctl disable --now --quiet eyot 2>/dev/null
	rm -f /etc/systemd/system/eyot.service
	systemctl daemon-reload
fi
if [ -f /run/eyot.pid ]; then
	pid=$(cat /run/eyot.pid)
	kill "$pid" 2>/dev/null
	for _ in $(seq 300); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
	rm -f /run/eyot.pid
fi
"$bin_dir/eyot" cleanup || {
	echo "eyot-uninstall.sh: not everything could be removed; mend the above and run it again" >&2
	exit 1
}
packages=$(cat "$data_dir/installed-packages" 2>/dev/null)
rm -rf "$data_dir" /run/eyot /etc/eyot /var/log/eyot.log /var/log/eyot.log.1
rm -f "$bin_dir/eyot"
[ -n "$packages" ] && echo "kept, though the installer brought them: $(echo "$packages" | sort -u | xargs)"
rm -f "$bin_dir/eyot-uninstall.sh"
echo "Eyot is removed"
