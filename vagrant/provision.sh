#!/bin/bash
# Provision one of the Vagrantfile's machines from the tree in /ztlab. Safe to repeat.
#
#   provision.sh lab                                          the set-up every machine gets
#   provision.sh coordinator ADDRESS NETWORK                  zt-coordinator, as in production
#   provision.sh agent NODE ADDRESS MODE COORDINATOR --listen [ADDRESS:PORT…]
#                                                             zt-agent, likewise, not enrolled yet
#   provision.sh host GATEWAY ADDRESS… --listen [ADDRESS:PORT…]
#                                                             a plain machine behind the gateway
#
# Where there is a folder /offline (made by vagrant/offline.sh) Python packages come from it and
# from nowhere else, and the wheel is taken from it instead of being built here.

set -euo pipefail
tree=/ztlab
offline=/offline
release=/var/tmp/ztlab-release
export DEBIAN_FRONTEND=noninteractive

main() {
    local role=${1:?which role}
    shift
    ! [ -d $offline/wheels ] || pip_from_offline
    case $role in
    lab) lab ;;
    coordinator) coordinator "$@" ;;
    agent) agent "$@" ;;
    host) host "$@" ;;
    *) echo "provision.sh: nobody knows the role $role" >&2 && exit 2 ;;
    esac
}

pip_from_offline() {
    printf '[global]\nno-index = true\nfind-links = %s/wheels\n' $offline >/etc/pip.conf
}

# packages NAME...: install those that are missing; where none is, no server is asked.
packages() {
    local name missing=()
    for name in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] ||
            missing+=("$name")
    done
    [ ${#missing[@]} != 0 ] || return 0
    apt-get -q update
    apt-get -q -y install --no-install-recommends "${missing[@]}"
}

lab() {
    packages make
    make -C $tree setup
}

# install_program PROGRAM: by the commands of docs/INSTALL.md, as they stand there, in a folder with
# the release. (curl and nc: what test_gateway.py looks in with.)
install_program() {
    export program=$1 version
    local wheel
    packages python3-venv iproute2 libbpf1 nftables curl netcat-openbsd
    make_release
    wheel=$(basename $release/ztlab-*.whl)
    version=$(cut -d - -f 2 <<<"$wheel")
    (cd $release && bash -eux <(block install))
}

make_release() {
    rm -rf $release
    if [ -d $offline/release ]; then
        cp -r $offline/release $release
        return
    fi
    packages python3-venv clang llvm libbpf-dev
    /usr/bin/python3 -m venv --clear /var/tmp/ztlab-build
    /var/tmp/ztlab-build/bin/pip install -q setuptools
    $tree/tools/dist.sh $release /var/tmp/ztlab-build/bin/python
}

# block NAME: the commands of the ```sh NAME block in docs/INSTALL.md.
block() {
    local text
    text=$(sed -n "/^\`\`\`sh $1\$/,/^\`\`\`\$/p" $tree/docs/INSTALL.md | sed '1d;$d')
    [ -n "$text" ] || { echo "docs/INSTALL.md has no block '$1'" >&2 && exit 1; }
    printf '%s\n' "$text"
}

coordinator() {
    local address=$1 network=$2
    install_program coordinator
    mkdir -p /etc/zt-coordinator
    cat >/etc/zt-coordinator/coordinator.toml <<END
state_dir = "/var/lib/zt-coordinator"
listen = "$address:8443"
names = ["$address"]
network = "$network"
pools = ["10.77.0.0/16", "fd77::/64"]
END
    systemctl enable zt-coordinator
    systemctl restart zt-coordinator
    if ! [ -e /root/owner-token ]; then
        (umask 077 && /opt/ztlab/current/bin/zt-coordinator token create --json --name vagrant \
            --role owner --config /etc/zt-coordinator/coordinator.toml >/root/owner-token)
    fi
}

agent() {
    local node=$1 address=$2 mode=$3 coordinator=$4
    shift 4
    install_program agent
    packages wireguard-tools
    mkdir -p /etc/zt-agent
    cat >/etc/zt-agent/agent.toml <<END
name = "$node"
authz_mode = "$mode"
logging_enabled = true

[wireguard]
backend = "kernel"
endpoint = "$address:51820"

[coordinator]
url = "https://$coordinator:8443"
setup_key_file = "/etc/zt-agent/setup-key"
END
    systemctl enable zt-agent
    # Not waited for: it is ready once enrolled, and its setup key comes from outside (enrol.py).
    systemctl restart --no-block zt-agent
    listen "$@"
}

# Runs at each start of the machine: what it sets does not outlive one.
host() {
    local gateway=$1 link
    shift
    link=$(ip -o -4 address show to "$1/32" | cut -d ' ' -f 2)
    while [ "$1" != --listen ]; do
        ip address replace "$1/24" dev "$link"
        shift
    done
    ip route replace 10.77.0.0/16 via "$gateway"
    listen "$@"
}

# listen --listen [ADDRESS:PORT…]: somebody who says back what he is told, as a lab's listeners do.
listen() {
    local each unit=/etc/systemd/system/say-back.socket
    shift
    if [ -e "$unit" ]; then systemctl disable -q --now say-back.socket; fi
    if [ $# = 0 ]; then # a socket unit that listens nowhere is an error
        rm -f "$unit"
        return
    fi
    {
        printf '[Unit]\nDescription=Says back what it is told\n[Socket]\nAccept=yes\nFreeBind=yes\n'
        for each in "$@"; do printf 'ListenStream=%s\n' "$each"; done
        printf '[Install]\nWantedBy=sockets.target\n'
    } >"$unit"
    printf '[Service]\nExecStart=/bin/cat\nStandardInput=socket\n' \
        >/etc/systemd/system/say-back@.service
    systemctl daemon-reload
    systemctl enable --now say-back.socket
}

main "$@"
