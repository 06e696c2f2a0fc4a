#!/bin/bash
# Make a release: the wheel and the two lock files, in DIR (default: dist/).
#
#   tools/dist.sh [DIR [PYTHON]]        PYTHON has setuptools (default: .venv's)

set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

out=${1:-$root/dist}
python=${2:-$root/.venv/bin/python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$out"
# A build leaves folders behind: not here.
cp -r "$root"/{agent,bpf,coordinator,docs,ztlab} "$root"/{pyproject.toml,setup.py,README.md,LICENSE,LICENSES} "$scratch/"
"$python" -m pip --disable-pip-version-check --no-input --quiet wheel --no-deps --no-build-isolation \
    --wheel-dir "$out" "$scratch"
cp "$root/agent/deploy/agent.lock" "$root/coordinator/deploy/coordinator.lock" "$out/"
say "$(ls "$out"/*.whl)"
