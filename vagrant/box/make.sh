#!/bin/bash
# Make a Vagrant box for the provider libvirt out of Debian 12's packages, for machines without KVM
# or without a download of one: a minute or two, no root file system is mounted.
#
#   vagrant/box/make.sh OUT.box
#
#   ZT_BOX_KERNEL   the kernel's package (default: Debian 12's newest cloud kernel, 6.12), of which
#                   linux-headers-… is installed as well
#   ZT_APT_SOURCES  where packages come from (default: this machine's own sources)
#
# Needs root and the packages mmdebstrap, e2fsprogs, qemu-utils, zstd, vagrant. The box holds what
# everybody knows: user vagrant, the gem's insecure key, no password for sudo. It is for tests.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
[ $# = 1 ] || { echo "usage: make.sh OUT.box" >&2; exit 2; }
out=$(realpath -m "$1")
kernel=${ZT_BOX_KERNEL:-linux-image-6.12-cloud-amd64}
sources=${ZT_APT_SOURCES:-/etc/apt/sources.list.d/debian.sources}
[ -e "$sources" ] || sources=/etc/apt/sources.list
gem=$(dpkg -L vagrant | grep '/keys/vagrant.pub$')

mkdir -p "$(dirname "$out")"
scratch=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
root=$scratch/root

# What the first login and the first boot need. Runs on the unpacked root, outside it.
cat >"$scratch/customise" <<'END'
set -eu
r=$1
user=vagrant
echo debian >"$r/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 debian\n' >"$r/etc/hosts"
: >"$r/etc/fstab"
: >"$r/etc/machine-id"
# The first interface is Vagrant's own; the others it writes itself.
printf '[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n' \
    >"$r/etc/systemd/network/20-eth0.network"
printf 'UseDNS no\n' >"$r/etc/ssh/sshd_config.d/vagrant.conf"
chroot "$r" useradd --create-home --shell /bin/bash vagrant
printf 'vagrant ALL=(ALL) NOPASSWD: ALL\n' >"$r/etc/sudoers.d/vagrant"
install -d -m 700 "$r/home/$user/.ssh"
install -m 600 "$GEM_KEY" "$r/home/$user/.ssh/authorized_keys"
chroot "$r" chown -R vagrant: /home/$user/.ssh
systemctl --root="$r" -q enable systemd-networkd ssh serial-getty@ttyS0
systemctl --root="$r" -q mask systemd-networkd-wait-online \
    apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap fstrim.timer \
    dpkg-db-backup.timer
# Only what this machine has: a small initrd unpacks fast in software emulation.
echo MODULES=list >"$r/etc/initramfs-tools/conf.d/box"
printf '%s\n' virtio_pci virtio_blk virtio_net ext4 >>"$r/etc/initramfs-tools/modules"
chroot "$r" update-initramfs -u
END

mapfile -t packages < <(sed 's/#.*//' "$here/packages" | tr -s ' ' '\n' | grep .)
include=$(IFS=,; echo "${packages[*]},$kernel,${kernel/image/headers}")
GEM_KEY=$gem mmdebstrap --quiet --variant=minbase --components=main --include="$include" \
    --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook="sh $scratch/customise \"\$1\"" \
    bookworm "$scratch/root.tar" "$sources"
mkdir "$root"
tar -C "$root" -xf "$scratch/root.tar"
rm "$scratch/root.tar"

# QEMU boots the ELF inside the bzImage (PVH); the guest then does not unpack it in emulation.
/usr/bin/python3 - "$(echo "$root"/boot/vmlinuz-*)" "$scratch/vmlinux" <<'END'
import subprocess
import sys

image = open(sys.argv[1], "rb").read()
packed = image[image.index(b"\x28\xb5\x2f\xfd") :]  # zstd
done = subprocess.run(["zstd", "-dcq"], input=packed, capture_output=True)
if not done.stdout.startswith(b"\x7fELF"):
    sys.exit("error: this kernel is not packed with zstd\n hint: choose another: ZT_BOX_KERNEL")
open(sys.argv[2], "wb").write(done.stdout)
END
cp "$root"/boot/initrd.img-* "$scratch/initrd.img"

size_gb=$(sed -n 's/.*"virtual_size": \([0-9]*\).*/\1/p' "$here/metadata.json")
truncate -s "${size_gb}G" "$scratch/disk.raw"
mkfs.ext4 -q -F -L root -d "$root" "$scratch/disk.raw"
qemu-img convert -f raw -O qcow2 "$scratch/disk.raw" "$scratch/box.img"
cp "$here/Vagrantfile" "$here/metadata.json" "$scratch/"
tar -C "$scratch" -cf "$out.new" metadata.json Vagrantfile box.img vmlinux initrd.img
mv "$out.new" "$out"
echo "make.sh: $out, $(du -h "$out" | cut -f 1)"
