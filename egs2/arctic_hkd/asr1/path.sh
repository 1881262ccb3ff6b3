# The environment of the recipe. Settings of one site go into a file local/path.sh.
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../../tools/recipe_path.sh"
