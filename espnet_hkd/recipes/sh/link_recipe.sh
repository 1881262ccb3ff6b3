#!/usr/bin/env bash
# Link ESPnet's recipe scripts into a recipe folder: asr.sh, scripts, pyscripts,
# steps, utils. Stale links are replaced, real files are left alone.
#
#   espnet_hkd/recipes/sh/link_recipe.sh egs2/an4_hkd/asr1
set -euo pipefail

if [ $# -ne 1 ] || [ ! -d "$1" ]; then
    echo "Usage: $0 RECIPE_FOLDER, for example $0 egs2/an4_hkd/asr1" >&2
    [ $# -eq 1 ] && echo "$0: there is no folder $1" >&2
    exit 2
fi

template=$("$(dirname "${BASH_SOURCE[0]}")"/get_espnet.sh)/egs2/TEMPLATE/asr1
for name in asr.sh scripts pyscripts steps utils; do
    link=$1/${name}
    if [ -e "${link}" ] && [ ! -L "${link}" ]; then
        echo "$0: ${link} is no link and stays as it is" >&2
    elif [ "$(readlink "${link}" || true)" != "${template}/${name}" ]; then
        ln -sfn "${template}/${name}" "${link}"
    fi
done
