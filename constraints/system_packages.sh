#!/usr/bin/env bash
# Checks what pip cannot install. Root on Debian or Ubuntu: installs it. Anyone else: prints the one command, exit code 2.
#
#   constraints/system_packages.sh PYTHON [interfaces]
#
# With "interfaces" also what builds the ROS 2 interface packages: a C++ compiler, CMake, Ninja and Python's headers.
set -euo pipefail

python="$1"
purpose="${2:-}"
missing=()

if ! command -v "$python" > /dev/null; then
  echo "error: no $python on the PATH; install Python 3.10, 3.11 or 3.12 and name it: make setup PYTHON=..." >&2
  exit 2
fi
version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"

# Debian's interpreter comes in parts; any other is complete.
"$python" -c 'import ensurepip, venv' 2> /dev/null || missing+=("python$version-venv")

if [ "$purpose" = interfaces ]; then
  command -v g++ > /dev/null || missing+=(g++)
  command -v ninja > /dev/null || missing+=(ninja-build)
  cmake_version="$(cmake --version 2> /dev/null | sed -n 's/^cmake version //p')" || true
  printf '3.21\n%s\n' "${cmake_version:-0}" | sort --check=quiet --version-sort || missing+=(cmake)
  "$python" -c '
import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' || missing+=("python$version-dev")
fi

[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -eq 0 ] && command -v apt-get > /dev/null; then
  echo "installing system packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update --quiet || echo "apt-get update failed; trying with the lists at hand" >&2
  apt-get install --yes --no-install-recommends "${missing[@]}"
else
  echo "error: system packages are missing; run this once, then make again:" >&2
  echo "  sudo apt-get install --no-install-recommends ${missing[*]}" >&2
  exit 2
fi
