# Settings of one site: sourced last by path.sh, empty as it comes.
