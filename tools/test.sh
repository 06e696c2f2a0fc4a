#!/bin/bash
# Run the stages of `make test` named on the command line, one after the other, and print what each
# took. All of them run, whatever an earlier one said; exit code 1 if one of them failed.
#
#   tools/test.sh [format] [lint] [types] [unit] [control] [ui] [proof] [programs] [e2e]     default: all
#
#   ZT_REQUIRE   what this machine must have (root,bpf,wireguard,lab): a test that is skipped for
#                want of it fails
#   ZT_PROOF_PACKETS  how many packets the stage `proof` plays; 100000 unless given
#   PYTEST_ARGS  more arguments for pytest, for example "-k policy"

set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"

bin="$root/.venv/bin"
read -ra more <<<"${PYTEST_ARGS:-}"

stage_format() { "$bin/ruff" format --check --quiet .; }
stage_lint() {
    "$bin/ruff" check --quiet . && shellcheck -x tools/*.sh vagrant/*.sh .ci/run
}

stage_types() { "$bin/mypy" --no-error-summary; }

# No root, no kernel: as many workers as there are cores.
stage_unit() {
    pytest_into unit -n auto --dist worksteal -m "not postgres" tests/unit tests/contract
}

# Coordinators as processes: killed, in replicas, rolled over; and what touches a store, on PostgreSQL.
# A third worker has the cores while the others wait for somebody to start, to end or to notice.
stage_control() {
    pytest_into control -n 3 --dist worksteal -m "control or postgres" tests/control tests/unit tests/contract
}

# A real browser against a real coordinator, one after the other.
stage_ui() { pytest_into ui tests/ui; }

# The shipped programs against the model of them. The stage `programs` plays some under both loaders.
stage_proof() {
    local proof=test_the_programs_do_with_every_packet_what_policy_and_truth_table_say
    ZT_PROOF_PACKETS=${ZT_PROOF_PACKETS:-100000} \
        pytest_into proof "tests/kernel/test_agreement.py::${proof}[libbpf]"
}

# The TC programs in the running kernel, packet by packet.
stage_programs() { pytest_into programs -n auto --dist loadfile tests/kernel; }

# Whole labs. A file stays with one worker, since its tests share one lab; a third worker has the two
# cores that CI has while the others wait for their labs.
stage_e2e() { pytest_into e2e -n 3 --dist loadfile tests/e2e scenarios; }

pytest_into() {
    local name=$1
    shift
    "$bin/pytest" -q --junit-xml="build/junit-$name.xml" "$@" "${more[@]}"
}

trap 'exit 130' INT # pytest ends by itself on Ctrl-C; the next stage must not begin
mkdir -p build
[ $# -gt 0 ] || set -- format lint types unit control ui proof programs e2e
begin=$(now_ms)
failed=()
summary=()
for stage in "$@"; do
    printf '\n== %s\n' "$stage"
    start=$(now_ms)
    outcome=ok
    code=0
    "stage_$stage" || code=$?
    if [ "$code" != 0 ]; then
        outcome="FAILED ($code)"
        failed+=("$stage")
    fi
    summary+=("$(printf '%-8s %7s s  %s' "$stage" "$(seconds_since "$start")" "$outcome")")
done

printf '\n'
printf '%s\n' "${summary[@]}"
printf '%-8s %7s s\n' total "$(seconds_since "$begin")"
[ "${#failed[@]}" = 0 ] || {
    say "failed: ${failed[*]}" >&2
    exit 1
}
