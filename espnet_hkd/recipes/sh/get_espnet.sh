#!/usr/bin/env bash
# Print the path of an ESPnet source tree of exactly the installed version.
#
# The wheel of ESPnet carries no recipes: asr.sh, scripts, pyscripts, steps and
# utils exist only in the source distribution and in the git repository.
#
#   ESPNET_ROOT=DIR   use this tree; it must be of the installed version
#   otherwise         the source distribution, downloaded once into
#                     ${XDG_CACHE_HOME:-~/.cache}/espnet_hkd/espnet-VERSION
set -euo pipefail

fail() { printf 'get_espnet.sh: %s\n' "$@" >&2; exit 1; }

tree_version() { tr -d '[:space:]' <"$1/version.txt" 2>/dev/null || true; }

version=$(python3 -c 'from importlib.metadata import version as v; print(v("espnet"))' \
    2>/dev/null) ||
    fail "ESPnet is not installed for $(command -v python3 || echo 'python3, which is missing')" \
        "  wanted: a python3 on PATH that has espnet" \
        "  remedy: make setup, or pip install 'espnet[train]'"

if [ -n "${ESPNET_ROOT:-}" ]; then
    [ -f "${ESPNET_ROOT}/egs2/TEMPLATE/asr1/asr.sh" ] ||
        fail "ESPNET_ROOT is not an ESPnet source tree" \
            "  got:    ${ESPNET_ROOT}" \
            "  wanted: a folder with egs2/TEMPLATE/asr1/asr.sh" \
            "  remedy: point ESPNET_ROOT at a source tree of ESPnet ${version}, or unset it"
    found=$(tree_version "${ESPNET_ROOT}")
    [ "${found}" = "${version}" ] ||
        fail "ESPNET_ROOT holds another version of ESPnet than the installed one" \
            "  got:    ${found:-no version.txt} in ${ESPNET_ROOT}" \
            "  wanted: ${version}, as installed" \
            "  remedy: check out v.${version} there, or unset ESPNET_ROOT to download it"
    realpath "${ESPNET_ROOT}"
    exit
fi

cache=${XDG_CACHE_HOME:-${HOME}/.cache}/espnet_hkd
tree=${cache}/espnet-${version}
if [ -d "${tree}" ]; then
    echo "${tree}"
    exit
fi

mkdir -p "${cache}"
# Beside its final place, so that the rename at the end is one step.
work=$(mktemp -d "${cache}/.espnet-${version}.XXXXXX")
trap 'rm -rf "${work}"' EXIT

echo "get_espnet.sh: downloading the source of ESPnet ${version} into ${tree}" >&2
python3 -m pip download --quiet --disable-pip-version-check --no-deps \
    --no-binary :all: --no-build-isolation --dest "${work}" \
    "espnet==${version}" >"${work}/pip.log" 2>&1 ||
    fail "the source of ESPnet ${version} could not be downloaded" \
        "  got:    $(grep -v '^ *$' "${work}/pip.log" | tail -n 1)" \
        "  wanted: network access once, or a source tree at hand" \
        "  remedy: ESPNET_ROOT=DIR, a source tree of ESPnet ${version}"
mkdir "${work}/tree"
tar -xzf "${work}"/espnet-*.tar.gz -C "${work}/tree" --strip-components 1
found=$(tree_version "${work}/tree")
[ "${found}" = "${version}" ] ||
    fail "the downloaded source is not of the installed version" \
        "  got:    ${found:-no version.txt}" "  wanted: ${version}"
# Another call may have been faster: its tree is as good as this one.
mv -T "${work}/tree" "${tree}" 2>/dev/null || [ -d "${tree}" ] ||
    fail "cannot write ${tree}"
echo "${tree}"
