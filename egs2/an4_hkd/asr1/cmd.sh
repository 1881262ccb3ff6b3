# How jobs are started. Settings of one cluster go here, below the common ones.
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../../espnet_hkd/recipes/sh/recipe_cmd.sh"
