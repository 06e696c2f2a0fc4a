#!/bin/bash
# Write requirements.lock anew from pyproject.toml: every package with the hashes of its files on
# PyPI; and out of it agent/deploy/agent.lock and coordinator/deploy/coordinator.lock.
#
#   tools/lock.sh [--upgrade]
#
# Versions that are locked stay where they still fit; --upgrade takes the newest. The configuration
# of pip and uv on this machine is not read: a lock names no other index, folder or mirror.

set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

/usr/bin/python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check 'uv>=0.5,<1'
for name in $(compgen -v | grep -E '^(PIP|UV)_' || true); do
    unset "$name"
done
cd "$root"
"$scratch/venv/bin/uv" --no-config --quiet pip compile pyproject.toml --all-extras \
    --python /usr/bin/python3 --only-binary :all: --generate-hashes --no-header "$@" \
    --output-file requirements.lock
sed -i "1i # Written by 'make lock' from pyproject.toml: CPython 3.11 on Linux, wheels only." \
    requirements.lock
/usr/bin/python3 tools/split_lock.py
say "$(grep -c '==' requirements.lock) packages in requirements.lock"
