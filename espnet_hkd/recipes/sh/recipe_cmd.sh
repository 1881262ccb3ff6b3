# How the jobs of all recipes are started: sourced by their cmd.sh. run.pl runs them
# here; on a cluster queue.pl, slurm.pl, ... with their options (see cmd.sh in ESPnet's
# egs2/TEMPLATE/asr1), by the environment or in the recipe's cmd.sh.
export train_cmd=${train_cmd:-run.pl}
export cuda_cmd=${cuda_cmd:-run.pl}
export decode_cmd=${decode_cmd:-run.pl}
