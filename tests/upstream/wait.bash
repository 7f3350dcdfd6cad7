# Sourced by scripts that wait for something to come true; `fail MESSAGE` is theirs.
until_true() { # SECONDS COMMAND...
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$end" ] || fail "in vain: $*"
		sleep 0.1
	done
}
