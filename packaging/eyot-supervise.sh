#!/usr/bin/env bash
# Keeps eyot running on a machine without systemd. Written by install.sh; ended by eyot-uninstall.sh, or by a TERM,
# which it passes on.
set -u
ulimit -n 1048576 2>/dev/null || ulimit -n "$(ulimit -Hn)"
echo $$ >@PID@
child=
# As the unit for systemd has it.
set -a
for settings in /etc/default/eyot /etc/eyot/eyot.env; do
	# shellcheck source=/dev/null
	[ ! -r "$settings" ] || . "$settings"
done
set +a
trap 'trap - TERM; [ -n "$child" ] && kill "$child" && wait "$child"; rm -f @PID@; exit 0' TERM INT
while true; do
	@BIN@/eyot @FLAGS@ >>@LOG@ 2>&1 </dev/null &
	child=$!
	wait "$child"
	# Past 50 MB the log starts again; the one before is kept.
	[ "$(stat -c %s @LOG@ 2>/dev/null || echo 0)" -gt 50000000 ] && mv -f @LOG@ @LOG@.1
	sleep 2 &
	wait $!
done
