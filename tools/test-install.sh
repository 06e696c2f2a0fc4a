#!/bin/bash
# Install ztlab on a whole Debian 12 as docs/INSTALL.md says, and see it hold: systemd as init, the
# wheel, the units, traffic through an enforced policy, across a restart, an upgrade and a reboot.
#
#   tools/test-install.sh [--keep]        --keep: leave the disk image and everything in its folder
#
# The machine is User Mode Linux on an image made here: no root file system of this machine is in
# it, and nothing runs on this machine but its processes. The kernel is $ZTLAB_UML_KERNEL, else the
# one that `ztlab vm build-uml` left in the cache. Debian's packages are kept in the cache as well.
# What was said is in build/install/: log (the steps), console (the machine's).

set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

BOOT_S=900 # for everything inside; it takes 3 minutes
MEMORY=2G
cache="${XDG_CACHE_HOME:-$HOME/.cache}/ztlab"
out="$root/build/install"
keep=${1:-}
machine=""
follower=""

main() {
    [ "$(id -u)" = 0 ] || unfit "only root can make a root file system; you are $(id -un)" \
        "run it as root, for example: sudo make test-install"
    require_tools
    local kernel start
    start=$(now_ms)
    kernel=$(find_kernel)
    rm -rf "$out"
    mkdir -p "$out" "$cache"
    scratch=$(mktemp -d /var/tmp/ztlab-install.XXXXXX)
    trap clean_up EXIT
    make_debian
    make_release "$out/release" ""
    make_release "$out/next" .post1
    make_image
    say "booting $("$kernel" --version) after $(seconds_since "$start") s"
    run_machine "$kernel"
    local code
    code=$(cat "$out/code" 2>/dev/null || echo none)
    say "$(seconds_since "$start") s, exit code $code"
    [ "$code" = 0 ] || {
        [ "$code" != none ] || tail -n 20 "$out/console" >&2
        say "it failed: see $out/log and $out/console" >&2
        exit 1
    }
}

require_tools() {
    local missing=()
    command -v mmdebstrap >/dev/null || missing+=(mmdebstrap)
    command -v mkfs.ext4 >/dev/null || missing+=(e2fsprogs)
    command -v clang >/dev/null || missing+=(clang)
    [ "${#missing[@]}" = 0 ] || unfit "${missing[*]}: not installed" "apt-get install ${missing[*]}"
}

# The newest that runs here.
find_kernel() {
    local candidate
    if [ -n "${ZTLAB_UML_KERNEL:-}" ]; then
        "$ZTLAB_UML_KERNEL" --version >/dev/null 2>&1 || unfit \
            "ZTLAB_UML_KERNEL=$ZTLAB_UML_KERNEL is no User Mode Linux that runs here" \
            "unset it, or build one: ztlab vm build-uml"
        realpath "$ZTLAB_UML_KERNEL"
        return
    fi
    while read -r candidate; do
        if "$candidate" --version >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done < <(find "$cache" -path '*/uml-*/linux' -type f | sort -rV)
    unfit "there is no User Mode Linux" "build one: ztlab vm build-uml, or set ZTLAB_UML_KERNEL"
}

# documented_packages: those of docs/INSTALL.md, so that a run shows that they suffice.
documented_packages() {
    awk '/^```sh packages$/ { on = 1; next } /^```$/ { on = 0 } on' "$root/docs/INSTALL.md" |
        sed -n 's/^apt-get install --no-install-recommends //p' | tr ' ' ,
}

# Debian 12 with systemd as a tar, and of ztlab's needs what the document names; curl, ping and
# wireguard-go are the test's own.
make_debian() {
    local packages sources new start
    start=$(now_ms)
    packages="systemd,systemd-sysv,dbus,udev,curl,iputils-ping,wireguard-go,$(documented_packages)"
    debian="$cache/debian-12-$(sha256sum <<<"$packages" | cut -c 1-12).tar"
    if [ -f "$debian" ]; then return; fi
    sources=/etc/apt/sources.list.d/debian.sources
    [ -f "$sources" ] || sources=/etc/apt/sources.list
    say "making $debian"
    new="${debian%.tar}.new.tar" # mmdebstrap goes by how a name ends
    mmdebstrap --quiet --variant=minbase --components=main --include="$packages" \
        --aptopt='Acquire::Languages "none"' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        bookworm "$new" "$sources" >"$out/mmdebstrap.log" 2>&1 || unfit \
        "mmdebstrap failed: $(tail -n 1 "$out/mmdebstrap.log")" "all it said: $out/mmdebstrap.log"
    mv "$new" "$debian"
    say "Debian: $(seconds_since "$start") s"
}

# make_release FOLDER SUFFIX: the release as an operator gets it, of this tree, its version ending
# with SUFFIX.
make_release() {
    local tree="$scratch/tree$2"
    mkdir -p "$1" "$tree"
    # The tree as it is, committed or not; what is ignored is built.
    (cd "$root" && git ls-files -z --cached --others --exclude-standard |
        while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
        tar -cf - --null -T -) | tar -xf - -C "$tree"
    sed -i "s/^version = \"\(.*\)\"$/version = \"\1$2\"/" "$tree/pyproject.toml"
    "$tree/tools/dist.sh" "$1" "$root/.venv/bin/python" >"$out/dist$2.log" 2>&1 || {
        cat "$out/dist$2.log" >&2
        exit 1
    }
}

# The image has the packages of both programs too: it has no network.
make_image() {
    local tree="$scratch/root" here start
    start=$(now_ms)
    mkdir "$tree"
    tar -C "$tree" --exclude='./dev/*' -xf "$debian"
    here="$tree/root/install"
    mkdir -p "$here/packages"
    "$root/.venv/bin/pip" --disable-pip-version-check --no-input -qq download --no-deps --dest "$here/packages" \
        --require-hashes --only-binary :all: -r "$out/release/agent.lock" -r "$out/release/coordinator.lock"
    cp -r "$out/release" "$out/next" "$here/"
    mkdir -p "$here/tests/install"
    cp "$root"/tests/install/*.py "$here/tests/install/"
    cp "$root/docs/INSTALL.md" "$here/"
    cp "$root/tests/install/ztlab-test.service" "$tree/etc/systemd/system/"
    printf '[install]\nno-index = true\nfind-links = /root/install/packages\n' >"$tree/etc/pip.conf"
    echo node >"$tree/etc/hostname"
    printf '127.0.0.1 localhost node\n' >"$tree/etc/hosts"
    : >"$tree/etc/fstab"
    : >"$tree/etc/machine-id"
    systemctl --quiet --root="$tree" enable ztlab-test.service
    systemctl --quiet --root="$tree" mask apt-daily.timer apt-daily-upgrade.timer \
        e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer getty.target
    systemctl --quiet --root="$tree" set-default multi-user.target
    truncate -s 3G "$scratch/disk"
    mkfs.ext4 -q -F -d "$tree" "$scratch/disk"
    rm -rf "$tree"
    say "image: $(seconds_since "$start") s"
}

# The machine's steps appear as they are done. It ends by itself, or is ended.
run_machine() {
    : >"$out/log"
    tail -n +1 -f "$out/log" &
    follower=$!
    # A session of its own: a panicking UML ends its whole process group.
    TMPDIR=/dev/shm setsid --wait timeout --kill-after=5 "$BOOT_S" "$1" "mem=$MEMORY" \
        "ubd0=$scratch/disk" root=/dev/ubda rw quiet panic=-1 con=null con0=null,fd:1 ssl=null \
        random.trust_cpu=on umid=ztlab-install "uml_dir=$scratch/" "ztlab.out=$out" \
        </dev/null >"$out/console" 2>&1 &
    machine=$!
    wait "$machine" || say "the machine ended with $?" >&2
    machine=""
    sync
    kill "$follower"
    wait "$follower" 2>/dev/null || true
    follower=""
}

# shellcheck disable=SC2317 # called by the trap
clean_up() {
    # The machine is in a session of its own, so in a group of its own.
    [ -z "$machine" ] || kill -- "$machine" 2>/dev/null || true
    [ -z "$follower" ] || kill "$follower" 2>/dev/null || true
    [ -z "$machine" ] || wait "$machine" 2>/dev/null || true
    if [ "$keep" = --keep ]; then say "kept: $scratch"; else rm -rf "$scratch"; fi
}

main
