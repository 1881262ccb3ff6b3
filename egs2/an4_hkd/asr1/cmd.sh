# How jobs are started: run.pl runs them here. On a cluster: queue.pl, slurm.pl, ...
# (see cmd.sh in ESPnet's egs2/TEMPLATE/asr1).
export train_cmd="run.pl"
export cuda_cmd="run.pl"
export decode_cmd="run.pl"
