#!/bin/bash
# Install Debian's chromium and its driver, for the tests of the pages (tests/ui).
#
# Safe to repeat; nothing happens where both are on the PATH. Exit code 3: they cannot be had here,
# and why.

set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

if { command -v chromium && command -v chromedriver; } >/dev/null; then
    exit 0
fi
[ "$(id -u)" = 0 ] || unfit "only root can install chromium" "its tests are skipped without it"
say "installing Debian's chromium and chromium-driver"
export DEBIAN_FRONTEND=noninteractive
options=(-q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -o Acquire::Retries=2)
apt-get "${options[@]}" update >/dev/null 2>&1 || true
if ! said=$(apt-get "${options[@]}" install --no-install-recommends \
    chromium chromium-driver fonts-dejavu-core 2>&1 </dev/null); then
    unfit "apt-get cannot install chromium: $(tail -n 1 <<<"$said")" \
        "check the network and /etc/apt/sources.list; its tests are skipped without it"
fi
