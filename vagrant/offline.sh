#!/bin/bash
# What guests need of Python's packages, made on the host: /offline in the machines (provision.sh).
#
#   vagrant/offline.sh OUT      OUT/lab/wheels: every package in requirements.lock, by its hash
#                               OUT/production: a release, as `make dist` makes it, and its wheels
#
# Needs .venv (make setup). Safe to repeat: what is there is not fetched again.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# = 1 ] || { echo "usage: offline.sh OUT" >&2; exit 2; }
out=$(realpath -m "$1")
mkdir -p "$out"/{lab,production}/wheels

# fetch LOCK WHEELS
fetch() {
    .venv/bin/python -m pip --disable-pip-version-check --quiet download --require-hashes \
        --only-binary :all: --no-deps --dest "$2" -r "$1"
}

fetch requirements.lock "$out/lab/wheels"
rm -rf "$out/production/release"
tools/dist.sh "$out/production/release" >/dev/null
for program in agent coordinator; do
    fetch "$out/production/release/$program.lock" "$out/production/wheels"
done
echo "offline.sh: $(du -sh "$out/lab" | cut -f 1) for a lab, $(du -sh "$out/production" | cut -f 1) for production"
