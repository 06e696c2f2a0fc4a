#!/bin/bash
# Put Debian's prometheus and promtool into build/prometheus, for the tests of the dashboard.
#
# Unpacked, not installed: the package would start a service, which nobody asked for. Safe to repeat;
# nothing happens where both are on the PATH. Exit code 3: it cannot be had here, and why.

set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

folder="$root/build/prometheus"
if { command -v prometheus && command -v promtool; } >/dev/null || [ -x "$folder/usr/bin/promtool" ]; then
    exit 0
fi
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
chmod 755 "$fresh"
say "unpacking Debian's prometheus into build/prometheus"
if ! said=$(cd "$fresh" && apt-get -q download prometheus 2>&1); then
    apt-get -q update >/dev/null 2>&1 || true
    said=$(cd "$fresh" && apt-get -q download prometheus 2>&1) || unfit \
        "apt-get cannot download prometheus: $(tail -n 1 <<<"$said")" \
        "check the network and /etc/apt/sources.list; its tests are skipped without it"
fi
dpkg-deb -x "$fresh"/prometheus_*.deb "$fresh/unpacked"
mkdir -p "$root/build"
rm -rf "$folder"
mv "$fresh/unpacked" "$folder"
