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
cache=$PWD/.cache
# Lies in every .venv that this script began; holds the key of the one it finished.
stamp=$venv/.espnet_hkd
log=$cache/setup.log
gigabytes=8

say() { echo "set-up: $*"; }
warn() {
    echo "set-up: $1" >&2
    shift
    printf '  %s\n' "$@" >&2
}
fail() {
    warn "error: $1" "${@:2}"
    exit 1
}

# The folder belongs to the key: a virtual environment cannot be moved.
key() {
    { echo "$PWD"; cat pyproject.toml setup.py constraints.txt; } | sha256sum | cut -c1-64
}

can_apt() { [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; }

apt_install() {
    say "installing Debian packages: $*"
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        return 1
    fi
}

# The programs that recipes, demo and tests call, by their Debian packages.
install_programs() {
    local program missing=()
    for program in sox espeak-ng zip unzip perl; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    # Debian keeps sclite out of PATH, behind the command sctk.
    command -v sclite >/dev/null || command -v sctk >/dev/null || missing+=(sctk)
    # The tests open the page of `espnet-hkd demo` in a browser without a screen.
    command -v chromedriver >/dev/null || missing+=(chromium chromium-driver)
    [ ${#missing[@]} -eq 0 ] && return
    if can_apt; then
        apt_install "${missing[@]}" || fail "apt-get cannot install ${missing[*]}"
    else
        warn "recipes, demo and tests need programs that are missing: ${missing[*]}" \
            "on Debian or Ubuntu: sudo apt-get install ${missing[*]}"
    fi
}

# Each candidate is tried by running it: pyenv has shims for versions that it lacks.
usable() {
    "$1" -c '
import sys, venv, ensurepip
sys.exit(not (3, 12) <= sys.version_info < (3, 14))' >/dev/null 2>&1
}

find_python() {
    local candidate
    for candidate in python3.12 python3.13 python3 \
        "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.1[23]*/bin/python3 \
        "${UV_PYTHON_INSTALL_DIR:-${HOME:-}/.local/share/uv/python}"/*-3.1[23]*/bin/python3; do
        if usable "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

choose_python() {
    if [ -n "${PYTHON:-}" ]; then
        usable "$PYTHON" || fail "PYTHON=$PYTHON cannot be used" \
            "wanted: Python 3.12 or 3.13 with the modules venv and ensurepip"
        python=$(command -v "$PYTHON")
        return
    fi
    python=$(find_python) && return
    # Debian's own Python comes without ensurepip.
    if can_apt && [[ $(apt-cache policy python3) =~ Candidate:\ 3\.1[23]\. ]]; then
        apt_install python3 python3-venv && python=$(find_python) && return
    fi
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

# Begin .venv anew. Renaming keeps every moment in which a kill can come clean: either
# there is no .venv, or one with a stamp.
make_venv() {
    rm -rf "$cache/old-venv" "$cache/new-venv"
    if [ -e "$venv" ]; then
        mv "$venv" "$cache/old-venv"
        rm -rf "$cache/old-venv"
    fi
    check_space
    mkdir "$cache/new-venv"
    : >"$cache/new-venv/$(basename "$stamp")"
    mv "$cache/new-venv" "$venv"
    "$python" -m venv "$venv" >"$log" 2>&1 ||
        fail "$python cannot make a virtual environment" "log: $log"
}

install_packages() {
    local pip next=30
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input \
        --constraint constraints.txt --editable '.[dev]' >"$log" 2>&1 &
    pip=$!
    # A job in the background does not hear Ctrl-C.
    trap 'kill "$pip" 2>/dev/null; exit 130' INT TERM
    while kill -0 "$pip" 2>/dev/null; do
        sleep 1
        [ "$SECONDS" -ge "$next" ] || continue
        next=$((next + 30))
        say "$SECONDS s: $(last_action)"
    done
    if ! wait "$pip"; then
        tail -n 15 "$log" >&2
        fail "pip cannot install the packages" "log: $log" \
            "the next call of tools/setup.sh begins again"
    fi
    trap - INT TERM
}

last_action() {
    grep -oE '(Downloading|Installing collected|Building wheel|Collecting).*' "$log" |
        tail -n 1 | sed -E 's#[a-z]+://[^ ]*/##' | cut -c1-60
}

main() {
    local wanted python made=""
    install_programs
    wanted=$(key)
    if [ -f "$stamp" ]; then
        made=$(cat "$stamp")
    elif [ -e "$venv" ]; then
        fail "$venv exists and was not made by this script" "remedy: move it away"
    fi
    # A link to a Python that was removed since does not count as made.
    [ -x "$venv/bin/python" ] || made=""
    [ "$made" != "$wanted" ] || return 0

    if [ -n "$made" ]; then
        say "bringing .venv up to date"
        : >"$stamp"
    else
        choose_python
        say "making .venv with $("$python" --version): 8 GB, for PyTorch comes with CUDA;"
        say "two minutes when pip has the packages at hand, longer over a slow line"
        make_venv
    fi
    install_packages
    echo "$wanted" >"$stamp"
    say "done after $SECONDS s; log: .cache/setup.log"
}

mkdir -p "$cache"
# Two targets may be started side by side: one makes .venv, one waits. What a killed
# call leaves running holds the lock until it ends, too.
if command -v flock >/dev/null; then
    exec 9>"$cache/setup.lock"
    flock --nonblock 9 || {
        say "waiting for another set-up to end"
        flock 9
    }
fi
# The Python of .venv must not make .venv.
PATH=${PATH//"$venv/bin:"/}
main
