#!/usr/bin/env bash
# Runs a command in the distribution, the virtual environment and the built package.
set -e
here="$(cd "$(dirname "$0")/.." && pwd)"
source "/opt/ros/$ROS_DISTRO/setup.bash"
source "$here/.venv-$ROS_DISTRO/bin/activate"
source "$here/install/setup.bash"
exec "$@"
