# The environment of the recipe. Settings of one site go into a file local/path.sh.
# Python knows where the package is: beside this recipe in a clone, else where pip put
# it.
hkd_clone=$(realpath "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../..")
hkd_sh=$(PYTHONPATH=${hkd_clone}${PYTHONPATH:+:${PYTHONPATH}} python3 -c '
import importlib.util
print(importlib.util.find_spec("espnet_hkd").submodule_search_locations[0])
' 2>/dev/null)/recipes/sh || {
    echo "path.sh: $(command -v python3 || echo python3, which is missing,) has no" \
        "package espnet_hkd" >&2
    echo "  remedy: activate the environment that it is installed in" >&2
    return 1
}
. "${hkd_sh}/recipe_path.sh"
