#!/bin/bash
# Prove vagrant/ for real: make a box from Debian's packages, bring both sets of machines up on a
# libvirtd of its own, run what they are for, take everything down. Works without KVM, slowly.
#
#   tools/test-vagrant.sh [lab] [production]        default: both, one after the other
#
#   lab          vagrant up lab, then pytest scenarios/ in it, on the kernel's WireGuard
#   production   coordinator, gateway, client, server: installed as in production, enrolled, and
#                scenarios/gateway.yaml's own steps and expectations, run from outside
#
#   ZT_VAGRANT_DIR        box, wheels, machines' disks (default: build/vagrant)
#   ZT_VAGRANT_SCENARIOS  what pytest runs in the lab (default: scenarios/)
#   ZTLAB_TIME_SCALE      how slow the machines are (default: 6, which suits emulation)

set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"

work=$(realpath -m "${ZT_VAGRANT_DIR:-build/vagrant}")
packages=(vagrant vagrant-libvirt libvirt-daemon-system libvirt-clients dnsmasq-base iptables rsync
    slirp4netns mmdebstrap e2fsprogs qemu-system-x86 qemu-utils zstd openssh-client)
scenarios=${ZT_VAGRANT_SCENARIOS:-scenarios/}
# Emulation is slow: what a scenario calls a second (ztlab/lab/pace.py).
export ZTLAB_TIME_SCALE="${ZTLAB_TIME_SCALE:-6}"
production=(coordinator gateway client server)

main() {
    if [ "${1:-}" = --inside ]; then
        shift
        local set code=0
        for set in "$@"; do stage "$set" "set_$set" || code=1; done
        exit $code
    fi
    [ $# -gt 0 ] || set -- lab production
    local set
    for set in "$@"; do
        [[ $set =~ ^(lab|production)$ ]] || { echo "error: nobody knows the set $set" >&2; exit 2; }
    done
    require
    mkdir -p "$work"
    [ -s "$work/zt.box" ] || stage box vagrant/box/make.sh "$work/zt.box"
    stage offline vagrant/offline.sh "$work/offline"
    export VAGRANT_HOME="$work/home" VAGRANT_DOTFILE_PATH="$work/machines" VAGRANT_CWD="$root/vagrant"
    export VAGRANT_DEFAULT_PROVIDER=libvirt ZT_BOX=ztlab/debian ZT_OFFLINE="$work/offline"
    export VAGRANT_CHECKPOINT_DISABLE=1
    ZT_NO_INTERNET=1 vagrant/box/private-libvirt.sh "$work/libvirt" tools/test-vagrant.sh --inside "$@"
}

require() {
    [ "$(id -u)" = 0 ] || unfit "only root can start a libvirtd of its own" "sudo make test-vagrant"
    local name missing=()
    for name in "${packages[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] ||
            missing+=("$name")
    done
    [ ${#missing[@]} = 0 ] || unfit "not installed: ${missing[*]}" \
        "apt-get install --no-install-recommends ${missing[*]}"
}

# stage NAME COMMAND...: run it and say how long it took and what came of it.
stage() {
    local name=$1 start code=0
    shift
    start=$(now_ms)
    ( "$@" ) || code=$?
    say "$name: $(seconds_since "$start") s, exit code $code"
    return $code
}

# Each step only after the one before it: `set -e` does not hold in what `stage` runs.
begin() {
    trap 'vagrant destroy -f >/dev/null' EXIT
    vagrant box list | grep -q '^ztlab/debian ' ||
        vagrant box add --name ztlab/debian "$work/zt.box" >/dev/null || return 1
    vagrant destroy -f >/dev/null # what a run that was killed left behind
    local name # and what vagrant has forgotten: the libvirtd is ours alone
    for name in $(virsh --connect qemu:///system list --all --name); do
        virsh --connect qemu:///system undefine --remove-all-storage "$name" >/dev/null || return 1
    done
}

# up MACHINE...: without the hundreds of lines of a progress bar.
up() {
    vagrant up --no-color "$@" | stdbuf -oL tr '\r' '\n' | { grep --line-buffered -v Progress: || true; }
}

set_lab() {
    begin && stage "lab up" up lab &&
        stage "lab scenarios" vagrant ssh lab -c "cd /ztlab &&
            sudo ZT_REQUIRE=root,bpf,kernel-wireguard,lab ZTLAB_TIME_SCALE=$ZTLAB_TIME_SCALE \
            .venv/bin/pytest -q -o faulthandler_timeout=1800 $scenarios"
}

set_production() {
    begin && stage "production up" up "${production[@]}" &&
        stage "production enrol" .venv/bin/python -m vagrant.enrol &&
        stage "production gateway" .venv/bin/pytest -q -o faulthandler_timeout=1800 vagrant/test_gateway.py
}

main "$@"
