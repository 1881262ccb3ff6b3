# How jobs are started: run.pl runs them here. On a cluster queue.pl, slurm.pl, ... with
# their options (see cmd.sh in ESPnet's egs2/TEMPLATE/asr1), here or by the environment.
export train_cmd=${train_cmd:-run.pl}
export cuda_cmd=${cuda_cmd:-run.pl}
export decode_cmd=${decode_cmd:-run.pl}
