#!/bin/bash
# Make this machine able to run ztlab: Debian packages, kernel headers for bcc, .venv.
#
#   tools/setup.sh [PACKAGE…]      with more Debian packages than every run needs
#
# Safe to repeat (nothing to do: well under a second), to interrupt (the stamp is written last) and
# to run twice at once (the second waits). Exit code 3: this machine cannot run it, and why.
# Nothing that is already there is changed: packages are only added, and the headers' links are made
# only where the running kernel has none.

set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

python=/usr/bin/python3 # Debian's: the only one that Debian's bcc is made for
bcc=/usr/lib/python3/dist-packages/bcc
venv="$root/.venv"
stamp="$venv/.setup-stamp"
log="$root/build/setup.log"

packages=(
    python3-venv python3-bpfcc                   # the interpreter's venv; bcc
    wireguard-go wireguard-tools                 # where the kernel has no WireGuard, and wg
    iproute2 nftables iputils-ping iperf3 procps # what labs and their steps run
    clang llvm libbpf-dev bpftool                # the data plane as a compiled object
    curl netcat-openbsd tcpdump                  # what a person wants on a node
    kmod make git shellcheck
)

main() {
    packages+=("$@")
    local start
    start=$(now_ms)
    require_root
    require_debian
    exec 9<"$root" # a lock on the folder itself: nothing to leave behind
    flock 9
    mkdir -p "$root/build"
    : >"$log"
    install_packages
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(wanted_stamp)" ] && headers_are_there; then
        compile_project
        compile_programs
        return 0
    fi
    require_kernel
    install_headers
    make_venv
    install_project
    compile_project
    compile_programs
    require_bcc
    wanted_stamp >"$stamp.new"
    mv "$stamp.new" "$stamp"
    say "ready after $(seconds_since "$start") s"
}

require_root() {
    [ "$(id -u)" = 0 ] || unfit \
        "only root can make network namespaces and load programs into the kernel; you are $(id -un)" \
        "run it again as root, for example: sudo make demo"
}

require_debian() {
    local ID="" VERSION_ID="" PRETTY_NAME="an unknown system"
    # shellcheck disable=SC1091
    [ ! -r /etc/os-release ] || . /etc/os-release
    [ "$ID/$VERSION_ID" = debian/12 ] && return
    command -v apt-get >/dev/null || unfit \
        "this is $PRETTY_NAME, which has no apt-get; the set-up knows Debian 12" \
        "use a Debian 12 machine, container (privileged) or virtual machine (see vagrant/)"
    say "this is $PRETTY_NAME, not Debian 12: trying with the same package names"
}

# missing_packages NAME...: those of them that dpkg does not know as installed, one a line.
missing_packages() {
    local there
    # dpkg-query fails if it does not know one of the names, and still prints all the others.
    there=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
    local name
    for name in "$@"; do
        grep -qx "installed $name" <<<"$there" || echo "$name"
    done
}

install_packages() {
    local missing
    mapfile -t missing < <(missing_packages "${packages[@]}")
    [ "${#missing[@]}" = 0 ] || apt_install "${missing[@]}"
}

apt_install() {
    local start
    start=$(now_ms)
    say "installing ${#*} Debian package(s): $*"
    export DEBIAN_FRONTEND=noninteractive
    local options=(-q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -o Acquire::Retries=2)
    # The lists may be old or (in an image) deleted. An update that fails is not yet the end: what
    # is already downloaded can still be installed, and the install says best what it lacks.
    run_logged apt-get "${options[@]}" update || true
    run_logged apt-get "${options[@]}" install --no-install-recommends "$@" || unfit \
        "apt-get cannot install $*: $(reason '^E:')" \
        "check the network and /etc/apt/sources.list, then run it again; all it said: $log"
    say "Debian packages: $(seconds_since "$start") s"
}

run_logged() {
    printf '\n$ %s\n' "$*" >>"$log"
    "$@" >>"$log" 2>&1 </dev/null
}

# reason PATTERN: why the last logged command failed, as one clause.
reason() {
    if grep -qE 'Temporary failure|[Cc]ould not resolve|unreachable|NewConnection|timed out' "$log"; then
        echo "no network, or the package servers do not answer"
    elif grep -q CERTIFICATE_VERIFY_FAILED "$log"; then
        echo "the package server's certificate is not trusted here"
    else
        { grep -E "$1" "$log" || tail -n 1 "$log"; } | tail -n 1
    fi
}

require_kernel() {
    say "probing the kernel"
    local lacks
    lacks=$(unshare --net --mount --pid --fork true 2>&1) || unfit \
        "this kernel does not let root make namespaces (${lacks##*: })" \
        "in a container, start it privileged; else use a virtual machine (see vagrant/)"
    lacks=$(unshare --net --mount --pid --fork "$python" "$root/tools/probe_kernel.py") || unfit \
        "the kernel $(uname -r) lacks what ztlab needs: ${lacks:-the probe itself failed}" \
        "use Debian 12's kernel (on the machine or in a virtual machine, see vagrant/)"
}

# bcc compiles against the running kernel's headers: its own, those inside it, or linked ones.
headers_are_there() {
    [ -e "/lib/modules/$(uname -r)/build" ] || [ -e /sys/kernel/kheaders.tar.xz ]
}

install_headers() {
    headers_are_there && return
    local kernel arch package folder
    kernel=$(uname -r)
    arch=$(dpkg --print-architecture)
    package="linux-headers-$kernel"
    [ -z "$(missing_packages "linux-headers-$arch")" ] || run_logged apt-get -q update || true
    if apt-cache show "$package" >/dev/null 2>&1; then
        apt_install "$package"
        headers_are_there && return
    fi
    # A kernel that Debian does not have: TC programs need only types that Debian's headers share
    # with it. They come in two folders, which Kbuild calls build and source; bcc wants both.
    package="linux-headers-$arch"
    [ -z "$(missing_packages "$package")" ] || apt_install "$package"
    folder=$(dpkg-query -W -f '${Depends}\n' "$package" | grep -o 'linux-headers-[^ ,]*' | head -n 1)
    folder="/lib/modules/${folder#linux-headers-}"
    [ -e "$folder/build" ] || unfit "the package $package left no headers in $folder" \
        "install the headers of the running kernel so that /lib/modules/$kernel/build exists"
    say "linking $folder as the headers of $kernel"
    mkdir -p "/lib/modules/$kernel" || unfit "cannot write /lib/modules/$kernel" \
        "make /lib/modules writable, or put headers for $kernel there"
    ln -sfnT "$(readlink -f "$folder/source")" "/lib/modules/$kernel/source"
    ln -sfnT "$(readlink -f "$folder/build")" "/lib/modules/$kernel/build"
}

# What the environment must have been made from. First line: .venv itself; second: the project in it.
wanted_stamp() {
    echo "venv 1 $("$python" -V) $(sum_of requirements.lock) $root"
    echo "project $(sum_of pyproject.toml) $(uname -r)"
}

# sum_of FILE: of what it says, its comments left out.
sum_of() { grep -v '^ *#' "$root/$1" | sha256sum | cut -d ' ' -f 1; }

make_venv() {
    if [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" = "$(wanted_stamp | head -n 1)" ]; then
        return
    fi
    local start
    start=$(now_ms)
    say "making .venv from requirements.lock"
    rm -rf "$venv"
    run_logged "$python" -m venv "$venv" || unfit \
        "cannot make a virtual environment in $venv: $(tail -n 1 "$log")" "all it said: $log"
    # Only files with the hashes in the lock are taken, wherever pip is configured to look; and
    # only wheels, so nothing of theirs runs during the set-up.
    pip_install --require-hashes --only-binary :all: -r "$root/requirements.lock"
    ln -sfnT "$bcc" "$(site_packages)/bcc"
    say "Python packages: $(seconds_since "$start") s"
}

pip_install() {
    run_logged "$venv/bin/python" -m pip --disable-pip-version-check --no-input \
        --retries 2 install --progress-bar off "$@" || unfit \
        "pip cannot install the Python packages: $(reason '^ERROR:')" \
        "check the network and pip's configuration, then run it again; all it said: $log"
}

site_packages() {
    "$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
}

install_project() {
    pip_install --no-deps --no-build-isolation --editable "$root"
}

# A lab starts a program per node: where PYTHONDONTWRITEBYTECODE is set, each would be compiled
# anew each time. What does not compile is for the programs themselves to say.
compile_project() {
    "$venv/bin/python" -I -m compileall -q "$root"/{ztlab,agent,coordinator} >>"$log" 2>&1 || true
}

# The TC programs as the wheel carries them: compiled anew where a C file has changed.
compile_programs() {
    local code=0
    (cd "$root" && run_logged "$venv/bin/python" -m agent.datapath.build) || code=$?
    case "$code" in
    0) ;;
    3) unfit "$(sed -n 's/^error: //p' "$log" | tail -n 1)" "$(sed -n 's/^ hint: //p' "$log" | tail -n 1)" ;;
    *) say "the TC programs do not compile: .venv/bin/python -m agent.datapath.build" ;; # the tests tell
    esac
}

require_bcc() {
    local said
    said=$("$venv/bin/python" "$root/tools/probe_bcc.py" 2>&1) || unfit \
        "bcc cannot compile and load a program here: $(tail -n 1 <<<"$said")" \
        "look at the headers in /lib/modules/$(uname -r)/build and at: $venv/bin/python tools/probe_bcc.py"
}

main "$@"
