#!/bin/bash
# What the running kernel may not have: the tests and scenarios once more, on the kernel's own WireGuard.
#
#   tools/test-kernel.sh [uml] [stock]      default: both
#
#   uml    User Mode Linux, two guests side by side: every scenario, and the tests that speak to the
#          kernel; one that does not get the kernel's WireGuard fails
#   stock  Debian's 6.12 cloud kernel, by KVM where it works and else emulated (slow): the verifier,
#          WireGuard, and the three nodes
#
# JUnit files and each guest's output: build/. The kernel of a User Mode Linux is $ZTLAB_UML_KERNEL,
# else the one in the cache, else it is built now (ten minutes on two cores). Exit code 1 if a test
# failed, 3 if this machine cannot run a tier.

set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"

bin="$root/.venv/bin"
needs=root,bpf,wireguard,lab,kernel-wireguard
side_by_side=2
failed=()
summary=()

# NAME=PYTEST'S ARGUMENTS; the longest first, so that the last two end at about the same time.
uml_jobs=(
    "agents=tests/e2e/test_agent_standalone.py tests/e2e/test_wireguard_backends.py"
    "programs=tests/kernel"
    "3node=scenarios/3node.yaml"
    "policy-change=scenarios/policy-change.yaml"
    "gateway=scenarios/gateway.yaml"
    "ipv6=scenarios/ipv6.yaml"
)
# Without what compiles: bcc needs a minute there.
some="libbpf and (mark or closed) or auto_takes or constants_are_seen"
some+=" or kernel and (read_back or shake_hands or more_prefixes)"
stock_jobs=(
    "verifier=tests/kernel/test_loaders.py tests/e2e/test_wireguard_backends.py -k '$some'"
    "3node=scenarios/3node.yaml"
)

tier_uml() {
    if "$bin/ztlab" vm kernels | grep -q ' uml .*not here'; then
        tools/setup.sh linux-source-6.12 build-essential bc bison flex libelf-dev pahole patch xz-utils
        "$bin/ztlab" vm build-uml
    fi
    header uml
    run_all uml "$side_by_side" 600 "${uml_jobs[@]}"
}

tier_stock() {
    tools/setup.sh zstd qemu-system-x86 qemu-system-common linux-image-6.12-cloud-amd64
    local engine=tcg
    "$bin/ztlab" vm run --kernel 6.12 --engine kvm --timeout 30 -- true 2>/dev/null && engine=kvm
    header "$engine"
    # One at a time: an emulated machine has two processors, and each wants one of ours.
    run_all "$engine" 1 900 "${stock_jobs[@]}"
}

# header ENGINE: which kernel, and whose WireGuard. Not the kernel's: then nothing here is worth running.
header() {
    local said
    # shellcheck disable=SC2016 # for the guest's shell
    said=$("$bin/ztlab" vm run --kernel 6.12 --engine "$1" --timeout 300 -- sh -c \
        'ip link add ztwg type wireguard && echo "kernel $(uname -r), WireGuard: the kernel'"'"'s"') ||
        { say "no kernel WireGuard in a guest by $1"; return 1; }
    say "$said, by $1"
}

# run_all ENGINE COUNT SECONDS JOB…: COUNT guests side by side; their output as they end.
run_all() {
    local engine=$1 count=$2 limit=$3 job name code running=0
    shift 3
    for job in "$@"; do
        if [ "$running" -ge "$count" ]; then
            wait -n || true
            running=$((running - 1))
        fi
        run_one "$engine" "${job%%=*}" "$limit" "${job#*=}" &
        running=$((running + 1))
    done
    wait
    for job in "$@"; do
        name=$engine-${job%%=*}
        code=$(cat "build/kernel-$name.code" 2>/dev/null || echo 1)
        [ "$code" = 0 ] || failed+=("$name")
    done
}

# run_one ENGINE NAME SECONDS ARGUMENTS: pytest in a guest of its own.
run_one() {
    local engine=$1 name=$2 limit=$3 start code=0 base words
    base="build/kernel-$engine-$name"
    rm -f "$base".{code,log}
    start=$(now_ms)
    eval "words=($4)" # as a shell reads them: ours, from above
    ZT_REQUIRE=$needs "$bin/ztlab" vm run --kernel 6.12 --engine "$engine" --timeout "$limit" \
        --out "build/kernel-$engine-$name.out" -- \
        "$bin/pytest" -q -p no:cacheprovider -o faulthandler_timeout="$limit" --junit-xml=/run/out/junit.xml "${words[@]}" \
        >"$base.log" 2>&1 || code=$?
    mv "$base.out/junit.xml" "build/junit-kernel-$engine-$name.xml" 2>/dev/null || true
    rm -rf "$base.out"
    echo "$code" >"$base.code"
    { # in one piece: another may be writing too
        printf '\n== %s %s: %s s, exit code %s\n' "$engine" "$name" "$(seconds_since "$start")" "$code"
        cat "$base.log"
    } >"$base.log.new"
    mv "$base.log.new" "$base.log"
    flock build/kernel.lock cat "$base.log"
}

trap 'exit 130' INT # the guests end by themselves on Ctrl-C
trap 'exit 143' TERM
mkdir -p build
[ $# -gt 0 ] || set -- uml stock
begin=$(now_ms)
for tier in "$@"; do
    start=$(now_ms)
    before=${#failed[@]}
    outcome=ok
    printf '\n== tier %s\n' "$tier"
    "tier_$tier" || failed+=("$tier")
    [ "${#failed[@]}" = "$before" ] || outcome=FAILED
    summary+=("$(printf '%-8s %7s s  %s' "$tier" "$(seconds_since "$start")" "$outcome")")
done
rm -f build/kernel.lock
printf '\n'
printf '%s\n' "${summary[@]}"
printf '%-8s %7s s\n' total "$(seconds_since "$begin")"
[ "${#failed[@]}" = 0 ] || {
    say "failed: ${failed[*]}" >&2
    exit 1
}
