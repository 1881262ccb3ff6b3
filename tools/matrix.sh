#!/usr/bin/env bash
# `make test-fast` at two corners of what the package allows:
#
#   tools/matrix.sh               Python 3.12 with the oldest torch, 3.13 with the newest
#   tools/matrix.sh 3.12 2.11.0   one corner
#
# Each corner has an environment of its own in .cache/matrix (7 GB), kept for the next
# call; what pyproject.toml leaves open is as in constraints.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "matrix: $*"; }

find_python() {
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python3; do
        if "$candidate" -c "import sys, venv, ensurepip
sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "matrix: error: no Python $1 with the modules venv and ensurepip" >&2
    return 1
}

# corner PYTHON TORCH: install, then test.
corner() {
    local venv=$PWD/.cache/matrix/py$1-torch$2 log python
    log=$venv.log
    python=$(find_python "$1")
    if [ ! -e "$venv/.complete" ]; then
        say "installing Python $1 with torch $2"
        rm -rf "$venv"
        mkdir -p "$(dirname "$venv")"
        "$python" -m venv "$venv"
        grep -vE '^(torch|numpy)==' constraints.txt >"$venv/constraints.txt"
        echo "torch==$2" >>"$venv/constraints.txt"
        # The interpreter of the Triton that comes with torch 2.11 makes numbers of arrays
        # with one value, which NumPy forbids from 2.4 on; a GPU does not need it.
        case $2 in
        2.11.*) echo "numpy<2.4" ;;
        *) grep '^numpy==' constraints.txt ;;
        esac >>"$venv/constraints.txt"
        "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --quiet \
            --constraint "$venv/constraints.txt" --editable '.[dev]' >"$log" 2>&1 || {
            tail -n 15 "$log" >&2
            return 1
        }
        touch "$venv/.complete"
    fi
    say "$("$venv/bin/python" -c '
import platform, torch
print("Python", platform.python_version(), "torch", torch.__version__)')"
    make test-fast VENV="$venv" SETUP=
}

if [ $# -eq 2 ]; then
    corner "$1" "$2"
else
    # The bounds of pyproject.toml; the newest is the one of constraints.txt.
    corner 3.12 2.11.0
    corner 3.13 "$(sed -n 's/^torch==//p' constraints.txt)"
fi
say "all corners passed"
