# The environment of the recipe. Settings of one site go into a file local/path.sh.
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../../espnet_hkd/recipes/sh/recipe_path.sh"
