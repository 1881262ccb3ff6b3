#!/usr/bin/env bash
# Make .venv with all that recipes, demo and tests need; at once where it is made.
#
#   tools/setup.sh
#
# PYTHON names the interpreter to use, else one is looked for. A call that is killed
# is repaired by the next; a change of pyproject.toml or constraints.txt brings .venv
# up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=$PWD/.venv
# Lies in every .venv that this script began; holds the key of the one it finished.
stamp=$venv/.espnet_hkd
log=$venv/setup.log
gigabytes=8

say() { echo "set-up: $*"; }
fail() {
    echo "set-up: error: $1" >&2
    shift
    printf '  %s\n' "$@" >&2
    exit 1
}

# The folder belongs to the key: a virtual environment cannot be moved.
key() {
    { echo "$PWD"; cat pyproject.toml setup.py constraints.txt; } | sha256sum | cut -c1-64
}

# Commands the recipes call, and the Debian packages they come in.
install_tools() {
    local pair missing=()
    for pair in sox:sox sctk:sctk espeak-ng:espeak-ng zip:zip unzip:unzip perl:perl; do
        # sclite alone will do: sctk is Debian's name for the collection.
        if [ "$pair" = sctk:sctk ] && command -v sclite >/dev/null; then continue; fi
        command -v "${pair%:*}" >/dev/null || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
        fail "programs are missing: ${missing[*]}" \
            "on Debian or Ubuntu: sudo apt-get install ${missing[*]}"
    fi
    say "installing Debian packages: ${missing[*]}"
    if ! apt_install "${missing[@]}"; then
        cat "$apt_log" >&2
        fail "apt-get could not install: ${missing[*]}" "its output stands above"
    fi
}

apt_log=$(mktemp)
trap 'rm -f "$apt_log"' EXIT

apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends "$@"; } \
        >"$apt_log" 2>&1
}

# Each candidate is tried by running it: pyenv's shims exist for versions that do not.
usable() {
    "$1" -c '
import sys, venv, ensurepip
sys.exit(not (3, 12) <= sys.version_info < (3, 14))' >/dev/null 2>&1
}

find_python() {
    local candidate root
    if [ -n "${PYTHON:-}" ]; then
        usable "$PYTHON" || fail "PYTHON=$PYTHON cannot be used" \
            "wanted: Python 3.12 or 3.13 with the modules venv and ensurepip"
        command -v "$PYTHON"
        return
    fi
    for candidate in python3.12 python3.13 python3; do
        if usable "$candidate"; then command -v "$candidate"; return; fi
    done
    for root in "${PYENV_ROOT:-$HOME/.pyenv}/versions" \
        "${UV_PYTHON_INSTALL_DIR:-$HOME/.local/share/uv/python}" /opt /usr/local; do
        for candidate in "$root"/*3.1[23]*/bin/python3; do
            if usable "$candidate"; then echo "$candidate"; return; fi
        done
    done
    fail "no Python 3.12 or 3.13 with the modules venv and ensurepip was found" \
        "Debian 13 or Ubuntu 24.04: apt-get install python3 python3-venv" \
        "elsewhere: pyenv install 3.12, or uv python install 3.12" \
        "one in an unusual place: PYTHON=/path/to/python3.12 make setup"
}

check_space() {
    local free
    free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1048576) }')
    [ "$free" -ge "$gigabytes" ] || fail "not enough disk space" \
        "got: $free GB free in $PWD" "wanted: $gigabytes GB"
}

# Every 30 seconds, a sign of life: how long so far, and what pip does.
report_progress() {
    local doing
    while sleep 30; do
        doing=$(grep -oE '(Downloading|Installing collected|Building wheel|Collecting).*' \
            "$log" | tail -n 1 | sed -E 's#[a-z]+://[^ ]*/##' | cut -c1-70)
        say "$SECONDS s: $doing"
    done
}

install_packages() {
    report_progress &
    local reporter=$! code=0
    # The download cache is pip's own; a second set-up takes far less.
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input \
        --constraint constraints.txt --editable '.[dev]' >>"$log" 2>&1 || code=$?
    kill "$reporter" 2>/dev/null || true
    wait "$reporter" 2>/dev/null || true
    [ "$code" -eq 0 ] && return
    tail -n 15 "$log" >&2
    fail "pip could not install the packages" "full log: $log" \
        "the next call of tools/setup.sh begins again"
}

main() {
    local wanted python made=""
    wanted=$(key)
    if [ -f "$stamp" ]; then made=$(cat "$stamp"); fi
    install_tools
    [ "$made" != "$wanted" ] || return 0

    if [ -e "$venv" ] && [ ! -f "$stamp" ]; then
        fail "$venv exists and was not made by this script" "move it away"
    fi
    if [ -z "$made" ]; then
        # New, or left half-made: pip does not mend what was half installed.
        python=$(find_python)
        rm -rf "$venv"
        check_space
        mkdir "$venv"
        : >"$stamp"
        say "making .venv with $("$python" --version): about 7 GB, PyTorch with CUDA among"
        say "it; two minutes from a near mirror or pip's cache, longer over a slow line"
        "$python" -m venv "$venv" >>"$log" 2>&1 ||
            fail "$python could not make a virtual environment" "full log: $log"
    else
        say "bringing .venv up to date"
        : >"$stamp"
    fi
    install_packages
    echo "$wanted" >"$stamp"
    say "done after $SECONDS s; log in .venv/setup.log"
}

# `make test` and `make demo` may be started side by side: one makes, one waits.
if command -v flock >/dev/null; then
    exec 9>.setup.lock
    flock --nonblock 9 || { say "waiting for another set-up"; flock 9; }
fi
# No Python of .venv itself may make .venv.
PATH=${PATH//"$venv/bin:"/}
main
