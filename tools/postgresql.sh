#!/bin/bash
# Install Debian's PostgreSQL server, for the tests of a store that several coordinators share.
#
# Each test run starts a server of its own in a temporary directory. Debian's package would make and
# start one for the whole machine as well, which nobody asked for: that is switched off beforehand,
# unless this machine has a say of its own on it. Safe to repeat; nothing happens where a server is
# installed. Exit code 3: it cannot be had here, and why.

set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && exit 0
say "installing Debian's postgresql, without a server for this machine"
config=/etc/postgresql-common/createcluster.conf
if [ ! -e "$config" ]; then
    mkdir -p "${config%/*}"
    echo "create_main_cluster = false" >"$config"
fi
export DEBIAN_FRONTEND=noninteractive
options=(-q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -o Acquire::Retries=2)
# Where the package brings its own createcluster.conf, the one that is here stays.
options+=(-o Dpkg::Options::=--force-confold)
apt-get "${options[@]}" update >/dev/null 2>&1 || true
said=$(apt-get "${options[@]}" install --no-install-recommends postgresql 2>&1 </dev/null) || unfit \
    "apt-get cannot install postgresql: $(tail -n 1 <<<"$said")" \
    "check the network and /etc/apt/sources.list; its tests are skipped without it"
