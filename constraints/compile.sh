#!/usr/bin/env bash
# Resolves setup.py anew, for each supported Python, into exact pins. Needs uv on the PATH.
#
#   constraints/compile.sh             keeps what still fits
#   constraints/compile.sh --upgrade   takes the newest of everything that setup.py allows
set -euo pipefail
cd "$(dirname "$0")/.."

extras=(nuscenes training video teacher ros interfaces dev)
for version in 3.10 3.11 3.12; do
  pins="constraints/py${version/./}.txt"
  echo "resolving for Python $version -> $pins"
  uv pip compile setup.py "${extras[@]/#/--extra=}" --python-version "$version" --python-platform x86_64-manylinux_2_28 \
    --constraint constraints/held.txt --no-annotate --no-header --emit-build-options --quiet --output-file "$pins" "$@"
done
