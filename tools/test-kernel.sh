#!/bin/bash
# What the running kernel may not have: the tests and scenarios once more, on the kernel's own WireGuard.
#
#   tools/test-kernel.sh [uml] [rest] [stock] [matrix]      default: uml stock
#
#   uml     User Mode Linux, two guests side by side: every scenario, every kernel test, and the
#           end-to-end tests; one that does not get the kernel's WireGuard fails
#   rest    as `uml`: the end-to-end tests of what lies above the tunnel (logs, dashboard, the judging
#           of scenarios, plain hosts, how a lab comes up and goes), which another WireGuard under them
#           can hardly change
#   stock   Debian's 6.12 cloud kernel, by KVM where it works and else emulated (slow): the verifier,
#           WireGuard, and the three nodes; and the verifier on Debian's 6.1
#   matrix  everything that `uml` and `rest` run, on Debian's 6.12 and 6.1: hours where they are emulated
#
# JUnit files and each guest's output: build/. The kernel of a User Mode Linux is $ZTLAB_UML_KERNEL,
# else the one in the cache, else it is built now (ten minutes on two cores). Exit code 1 if a test
# failed, 2 for a tier that nobody knows, 3 if all that failed is that this machine cannot run a tier.

set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"

bin="$root/.venv/bin"
needs=root,bpf,wireguard,lab,kernel-wireguard
side_by_side=2
failed=()
unfit=0 # of these: tiers that cannot run here
summary=()

# What lies above the tunnel. Every other end-to-end test goes with those that judge packets, so that
# none is left out for being new; in two guests, since it is a lot.
above=()
for name in dashboard flow_records loaders local_switches log_account log_account_kill otlp quotas revocation scenarios_judge secrets; do
    above+=("tests/e2e/test_$name.py")
done
others=() more=()
for file in tests/e2e/test_*.py; do
    case " ${above[*]} " in *" $file "*) continue ;; esac
    case $file in
    */test_agent_* | */test_wireguard_* | */test_lab_*) ;; # guests of their own, below
    */test_vm_run.py) ;;                                   # starts guests itself
    */test_scenarios_shipped.py) ;;                        # runs the scenarios, as below
    *) if [ "${#others[@]}" -gt "${#more[@]}" ]; then more+=("$file"); else others+=("$file"); fi ;;
    esac
done

# NAME=PYTEST'S ARGUMENTS; the longest first, so that the last two end at about the same time.
uml_jobs=(
    "more=${more[*]}"
    "agents=tests/e2e/test_agent_*.py tests/e2e/test_wireguard_*.py"
    "judging=${others[*]}"
    "programs=tests/kernel"
)
rest_jobs=(
    "above=${above[*]}"
    "hosts=tests/e2e/test_lab_hosts.py"
    "labs=tests/e2e/test_lab_ready.py tests/e2e/test_lab_leaves_nothing.py"
)
for file in scenarios/*.yaml; do uml_jobs+=("$(basename "$file" .yaml)=$file"); done
all_jobs=("${uml_jobs[@]}" "${rest_jobs[@]}")
# Without what compiles: bcc needs a minute there.
some="libbpf and (mark or closed) or auto_takes or constants_are_seen"
some+=" or kernel and (read_back or shake_hands or more_prefixes)"
verifier="verifier=tests/kernel/test_loaders.py tests/e2e/test_wireguard_backends.py -k '$some'"

# A tier's failures are in $failed; it returns non-zero if it could not begin, and then `set -e` is off.

tier_uml() { on_uml "${uml_jobs[@]}"; }
tier_rest() { on_uml "${rest_jobs[@]}"; }

# on_uml JOB…: on User Mode Linux, which is built if it is nowhere.
on_uml() {
    if "$bin/ztlab" vm kernels | grep -q ' uml .*not here'; then
        tools/setup.sh linux-source-6.12 build-essential bc bison flex libelf-dev pahole patch xz-utils ||
            return
        "$bin/ztlab" vm build-uml || return
    fi
    header 6.12 uml || return
    run_all 6.12 uml "$side_by_side" 1500 "$@"
}

tier_stock() {
    local engine
    debian_kernels || return
    header 6.12 "$engine" || return
    # One at a time: an emulated machine has two processors, and each wants one of ours.
    run_all 6.12 "$engine" 1 900 "$verifier" "3node=scenarios/3node.yaml"
    header 6.1 "$engine" || return
    run_all 6.1 "$engine" 1 900 "$verifier"
}

tier_matrix() {
    local engine kernel
    debian_kernels || return
    for kernel in 6.12 6.1; do
        header "$kernel" "$engine" || return
        run_all "$kernel" "$engine" 1 7200 "${all_jobs[@]}"
    done
}

# debian_kernels: have them, and set $engine to what runs them here.
debian_kernels() {
    tools/setup.sh zstd lz4 busybox-static qemu-system-x86 qemu-system-common \
        linux-image-6.12-cloud-amd64 linux-image-cloud-amd64 || return
    engine=tcg
    "$bin/ztlab" vm run --kernel 6.12 --engine kvm --timeout 30 -- true 2>/dev/null && engine=kvm
    return 0
}

# header KERNEL ENGINE: which kernel, and whose WireGuard. Not the kernel's: then nothing here is worth running.
header() {
    local said code=0
    # shellcheck disable=SC2016 # for the guest's shell
    said=$("$bin/ztlab" vm run --kernel "$1" --engine "$2" --timeout 300 -- sh -c \
        'ip link add ztwg type wireguard && echo "kernel $(uname -r), WireGuard: the kernel'"'"'s"') ||
        code=$?
    if [ "$code" = 0 ]; then
        say "$said, by $2"
    else
        say "no kernel WireGuard on $1 in a guest by $2" >&2
    fi
    return "$code"
}

# run_all KERNEL ENGINE COUNT SECONDS JOB…: COUNT guests side by side; their output as they end.
run_all() {
    local kernel=$1 engine=$2 count=$3 limit=$4 job name code running=0
    shift 4
    for job in "$@"; do
        if [ "$running" -ge "$count" ]; then
            wait -n || true
            running=$((running - 1))
        fi
        set -m # a process group of its own, which a signal to us is passed on to
        run_one "$kernel" "$engine" "${job%%=*}" "$limit" "${job#*=}" </dev/null &
        set +m
        running=$((running + 1))
    done
    wait
    for job in "$@"; do
        name=$engine-$kernel-${job%%=*}
        code=$(cat "build/kernel-$name.code" 2>/dev/null || echo 1)
        [ "$code" = 0 ] || failed+=("$name")
    done
}

# run_one KERNEL ENGINE NAME SECONDS ARGUMENTS: pytest in a guest of its own.
run_one() {
    local kernel=$1 engine=$2 name=$3 limit=$4 start code=0 base words
    base="build/kernel-$engine-$kernel-$name"
    rm -f "$base".{code,log}
    start=$(now_ms)
    eval "words=($5)" # as a shell reads them: ours, from above
    ZT_REQUIRE=$needs "$bin/ztlab" vm run --kernel "$kernel" --engine "$engine" --timeout "$limit" \
        --out "$base.out" -- \
        "$bin/pytest" -q -p no:cacheprovider -o faulthandler_timeout="$limit" --junit-xml=/run/out/junit.xml "${words[@]}" \
        >"$base.log" 2>&1 || code=$?
    mv "$base.out/junit.xml" "build/junit-kernel-$engine-$kernel-$name.xml" 2>/dev/null || true
    rm -rf "$base.out"
    echo "$code" >"$base.code"
    { # in one piece: another may be writing too
        printf '\n== %s %s %s: %s s, exit code %s\n' "$engine" "$kernel" "$name" "$(seconds_since "$start")" "$code"
        cat "$base.log"
    } >"$base.log.new"
    mv "$base.log.new" "$base.log"
    flock build/kernel.lock cat "$base.log"
}

# end_guests CODE: none of ours outlives us.
end_guests() {
    local job
    trap '' INT TERM
    for job in $(jobs -p); do kill -TERM -- "-$job" 2>/dev/null || true; done
    wait
    exit "$1"
}

trap 'end_guests 130' INT
trap 'end_guests 143' TERM
mkdir -p build
[ $# -gt 0 ] || set -- uml stock
for tier in "$@"; do
    declare -F "tier_$tier" >/dev/null || { say "no tier $tier: uml, rest, stock, matrix" >&2; exit 2; }
done
begin=$(now_ms)
for tier in "$@"; do
    start=$(now_ms)
    before=${#failed[@]}
    outcome=ok
    printf '\n== tier %s\n' "$tier"
    code=0
    "tier_$tier" || code=$?
    [ "$code" = 0 ] || failed+=("$tier")
    [ "$code" != 3 ] || unfit=$((unfit + 1))
    [ "${#failed[@]}" = "$before" ] || outcome=FAILED
    summary+=("$(printf '%-8s %7s s  %s' "$tier" "$(seconds_since "$start")" "$outcome")")
done
rm -f build/kernel.lock
printf '\n'
printf '%s\n' "${summary[@]}"
printf '%-8s %7s s\n' total "$(seconds_since "$begin")"
[ "${#failed[@]}" = 0 ] || {
    say "failed: ${failed[*]}" >&2
    [ "${#failed[@]}" != "$unfit" ] || exit 3
    exit 1
}
