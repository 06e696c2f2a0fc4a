#!/bin/bash
# What guests need of Python's packages, made on the host: /offline in the machines (provision.sh).
#
#   vagrant/offline.sh OUT      OUT/wheels: every package in requirements.lock, by its hash
#                               OUT/release: this tree's programs, as `make dist` makes them
#
# Needs .venv (make setup). Safe to repeat: what is there is not fetched again.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# = 1 ] || { echo "usage: offline.sh OUT" >&2; exit 2; }
out=$1
pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet)
mkdir -p "$out/wheels"
"${pip[@]}" download --require-hashes --only-binary :all: --no-deps --dest "$out/wheels" \
    -r requirements.lock
rm -rf "$out/release"
tools/dist.sh "$(realpath "$out")/release" >/dev/null
echo "offline.sh: $(find "$out/wheels" -name '*.whl' | wc -l) wheels, $(basename "$out"/release/*.whl)"
