#!/bin/bash
# Build scenarios/3node.yaml, run its steps against it, and leave it standing. Exit code: the first
# that was not 0 of what it ran.

set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"

lab=3node
file=scenarios/$lab.yaml
ztlab=.venv/bin/ztlab
start=$(now_ms)

# A lab of that name may have been changed by hand, or be half of one: it is built anew, so that what
# is proved is what the file says.
if "$ztlab" list --json | grep -q "\"name\": \"$lab\""; then
    say "a lab called $lab stands; taking it down to build it anew"
    "$ztlab" down "$lab"
fi
"$ztlab" up "$file" --name "$lab"
"$ztlab" test --lab "$lab" "$file"

# Where other labs stand too, a node's name alone is not enough (`list`: a header, and one line each).
option=" --lab $lab"
[ "$("$ztlab" list | wc -l)" != 2 ] || option=""

printf '\nThe lab %s stands after %s s. Worth trying next:\n\n' "$lab" "$(seconds_since "$start")"
while IFS='|' read -r command meaning; do
    printf '  %s %-44s %s\n' "$ztlab" "$command" "$meaning"
done <<END
shell$option alice|a shell on alice
exec$option carol -- nc -vw2 bob 8080|carol is a guest: dropped in bob's kernel
observe$option|flows and drops live, with identities
logs$option bob -f|what bob's agent says
down $lab|take it all down
END
