#!/bin/sh
# Install the runtime into a virtual environment of its own: install.sh cpu|gpu DIRECTORY
#
# What the Dockerfile runs, and what the tests run without one.
set -eu

build=$1
target=$2
source=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)

case $build in
cpu) set -- ;;
gpu) set -- 'onnxruntime-gpu[cuda,cudnn]' ;;
*)
    echo "unknown build '$build'; expected cpu or gpu" >&2
    exit 2
    ;;
esac

python3 -m venv "$target"
"$target/bin/python" -m pip install --no-cache-dir --disable-pip-version-check --quiet "$source[$build,serve]" "$@"
"$target/bin/hysac" doctor
