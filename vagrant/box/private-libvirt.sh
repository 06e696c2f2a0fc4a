#!/bin/bash
# Run a command beside a libvirtd of its own, in mount, network and process namespaces of its own:
# no service is installed or started on this machine, no bridge, route or firewall rule of it
# changes, and with the command everything ends: daemons, guests, networks.
#
#   vagrant/box/private-libvirt.sh STATE COMMAND...
#
#   ZT_NO_INTERNET   set: no way out for the guests (else user-mode networking, by slirp4netns)
#
# STATE holds what libvirt keeps (images, definitions), for the next time. Needs root and the
# packages libvirt-daemon-system, libvirt-clients, dnsmasq-base, iptables, slirp4netns.

set -euo pipefail
[ $# -ge 2 ] || { echo "usage: private-libvirt.sh STATE COMMAND..." >&2; exit 2; }

if [ "${1:-}" = --inside ]; then
    state=$2
    shift 2
    ip link set lo up
    mount --make-rprivate /
    mount --bind "$state/etc" /etc/libvirt
    mount --bind "$state/lib" /var/lib/libvirt
    mount --bind "$state/cache" /var/cache/libvirt
    mount --bind "$state/log" /var/log/libvirt
    mount -t tmpfs run /run
    mkdir -p /run/libvirt /run/lock
    sysctl -qw net.ipv4.ip_forward=1
    virtlogd --daemon
    libvirtd --daemon --config /etc/libvirt/libvirtd.conf
    for _ in $(seq 100); do
        virsh --connect qemu:///system list >/dev/null 2>&1 && break
        sleep 0.1
    done
    code=0
    "$@" || code=$?
    exit $code
fi

mkdir -p "$1"
state=$(realpath "$1")
shift
mkdir -p "$state"/{cache,log}
[ -d "$state/etc" ] || cp -a /etc/libvirt "$state/etc"
[ -d "$state/lib" ] || cp -a /var/lib/libvirt "$state/lib"
mkdir -p "$state/lib/images"
# What needs services or cgroups of the whole machine is left out.
cat >"$state/etc/qemu.conf" <<'END'
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
END

unshare --mount --net --pid --fork --mount-proc --kill-child \
    "$(realpath "${BASH_SOURCE[0]}")" --inside "$state" "$@" <&0 &
inside=$!
slirp=
# shellcheck disable=SC2317 # called by the trap
end() {
    [ -z "$slirp" ] || kill "$slirp" 2>/dev/null || true
    kill -KILL "$inside" 2>/dev/null || true
}
trap end EXIT
trap 'exit 143' TERM
trap 'exit 130' INT
if [ -z "${ZT_NO_INTERNET:-}" ]; then
    until [ "$(readlink "/proc/$inside/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do
        kill -0 "$inside"
        sleep 0.05
    done
    slirp4netns --configure --disable-host-loopback --netns-type=path \
        "/proc/$inside/ns/net" tap0 >"$state/slirp.log" 2>&1 &
    slirp=$!
fi
code=0
wait "$inside" || code=$?
exit "$code"
