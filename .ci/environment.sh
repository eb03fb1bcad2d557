#!/usr/bin/env bash
# Create or update the virtual environment FOLDER with these packages.
#
#   PYTHON=python3 TORCH=torch==2.13.0 .ci/environment.sh FOLDER PIP-INSTALL-ARGUMENTS...
#
# TORCH, if set, is installed first, as a CPU build; otherwise other packages would pull PyPI's CUDA build.
# If an earlier installation was interrupted, the environment is created again; if one fails, no folder is left.
set -euo pipefail

PYTHON=${PYTHON:-python3}
TORCH=${TORCH:-}
TORCH_INDEX=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}

refuse() {
    echo "$folder: $*" >&2
    exit 2
}

check_python() {
    local version
    version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
        refuse "$PYTHON does not run; name a Python 3.10 or newer: PYTHON=/path/of/python3"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        refuse "$PYTHON is Python $version, and 3.10 or newer is needed: PYTHON=python3.12, for example"
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        refuse "$PYTHON cannot make environments; install python$version-venv, or name another by PYTHON="
}

pip() {
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile "$@"
}

# On all cores, while pip uses one. Some packages have files that no Python 3 can read.
compile_modules() {
    "$folder/bin/python" -m compileall -qq -j 0 "$folder/lib" || true
}

# A CPU build that pip is configured to find, else PyTorch's own index, else PyPI's build with CUDA.
install_torch() {
    has_torch || pip "$TORCH+cpu" 2>/dev/null || pip --index-url "$TORCH_INDEX" "$TORCH+cpu" 2>/dev/null || {
        echo "$folder: no CPU build of $TORCH can be had, neither from pip's indexes nor from $TORCH_INDEX."
        echo "$folder: taking PyPI's, which brings CUDA: about 5 GB. Ctrl-C, then TORCH_INDEX=URL, for another index."
        pip "$TORCH"
    }
}

has_torch() {
    "$folder/bin/python" - "$TORCH" 2>/dev/null <<'END'
import sys
from importlib.metadata import version
sys.exit("torch==" + version("torch").partition("+")[0] != sys.argv[1])
END
}

# If a signal ends pip, it may leave half a package, so the mark stays; otherwise it has changed nothing or everything.
unmark() {
    [ $? -gt 128 ] || rm -f "$mark"
}

folder=$1
shift
mark=$folder/.unfinished
if [ ! -x "$folder/bin/python" ] || [ -e "$mark" ]; then
    check_python
    trap 'rm -rf "$folder"' EXIT
    rm -rf "$folder"
    mkdir -p "$folder"
    touch "$mark"
    "$PYTHON" -m venv "$folder"
else
    trap unmark EXIT
    touch "$mark"
fi
[ -z "$TORCH" ] || install_torch
pip "$@"
compile_modules
trap - EXIT
rm "$mark"
