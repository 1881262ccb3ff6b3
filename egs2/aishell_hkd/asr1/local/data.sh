#!/usr/bin/env bash
# Prepare AISHELL-1 (stage 1) and build the teacher store (stage 3, called by asr.sh's
# stage 4 with --asr_data_dir). The corpus is the folder in $AISHELL that holds
# data_aishell; it is checked here, then ESPnet's own preparation makes the sets.
set -euo pipefail
. ./path.sh
. "${hkd_sh}/recipe_data.sh"

fs=16k                       # audio below this rate is refused
download=false               # true: fetch the corpus (15 GB) into $AISHELL, or downloads
valid_set=dev
plm=bert-base-chinese

log "$0 $*"
. utils/parse_options.sh

prepare_corpus() {
    local corpus
    if [ "${download}" = true ]; then
        AISHELL=${AISHELL:-${PWD}/downloads}
        log "Download: AISHELL-1 -> ${AISHELL}"
        mkdir -p "${AISHELL}"
        "$(get_espnet.sh)/egs2/aishell/asr1/local/download_and_untar.sh" \
            "${AISHELL}" www.openslr.org/resources/33 data_aishell
    fi
    corpus=$(python3 local/check_aishell.py "${AISHELL:-}" --fs "${fs/k/000}")
    log "Data: AISHELL-1 in ${corpus}"
    prepare_as_espnet aishell "AISHELL=${corpus}"
}

run_data_stages "$@"
