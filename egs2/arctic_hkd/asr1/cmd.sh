# How jobs are started. Settings of one cluster go here, below the common ones.
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../../tools/recipe_cmd.sh"
