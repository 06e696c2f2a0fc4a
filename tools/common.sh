# shellcheck shell=bash
# What the scripts in tools/ share: where the project is, and how they talk.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export ZT_ROOT="$root"
umask 022 # the coordinator, an ordinary user, reads .venv and the programs in it

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*"; }

# unfit WHAT HINT: this machine cannot run it. Two lines and exit code 3.
unfit() {
    printf 'error: %s\n' "$1" >&2
    printf ' hint: %s\n' "$2" >&2
    exit 3
}

# now_ms: milliseconds on a clock that only goes forward.
now_ms() {
    local up
    read -r up _ </proc/uptime
    echo $((10#${up/./} * 10))
}

# seconds_since START_MS: "12.3"
seconds_since() {
    local ms=$(($(now_ms) - $1))
    printf '%d.%d' $((ms / 1000)) $((ms % 1000 / 100))
}
