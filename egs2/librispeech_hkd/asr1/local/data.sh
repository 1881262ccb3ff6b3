#!/usr/bin/env bash
# Prepare LibriSpeech (stage 1) and build the teacher store (stage 3, called by asr.sh's
# stage 4 with --asr_data_dir). The corpus is the folder in $LIBRISPEECH that holds
# LibriSpeech; it is checked here, then ESPnet's own preparation makes the sets.
set -euo pipefail
. ./path.sh
. "${hkd_sh}/recipe_data.sh"

data=100                     # hours to train on: 100 or 960
lm_text=                     # more text for the language model, plain or .gz
fs=16k                       # audio below this rate is refused
download=false               # true: fetch what is missing into $LIBRISPEECH, or downloads
valid_set=dev
plm=bert-base-uncased

log "$0 $*"
. utils/parse_options.sh

# LibriSpeech is in capitals throughout, which say nothing, and which a PLM that tells
# cases apart would take for abbreviations. One that does not reads the same either way.
teacher_opts="--lower${teacher_opts:+,${teacher_opts}}"

parts="dev-clean dev-other test-clean test-other train-clean-100"
recipe=librispeech_100
if [ "${data}" = 960 ]; then
    parts+=" train-clean-360 train-other-500"
    recipe=librispeech
fi

prepare_corpus() {
    local corpus part
    if [ "${download}" = true ]; then
        LIBRISPEECH=${LIBRISPEECH:-${PWD}/downloads}
        log "Download: ${parts} -> ${LIBRISPEECH}"
        mkdir -p "${LIBRISPEECH}"
        for part in ${parts}; do
            "$(get_espnet.sh)/egs2/${recipe}/asr1/local/download_and_untar.sh" \
                "${LIBRISPEECH}" www.openslr.org/resources/12 "${part}"
        done
    fi
    # shellcheck disable=SC2086
    corpus=$(python3 local/check_librispeech.py "${LIBRISPEECH:-}" \
        --parts ${parts} --fs "${fs/k/000}")
    if [ -n "${lm_text}" ]; then
        log "Text for the language model: ${lm_text}"
        python3 local/number_lines.py "${lm_text}" "${data_dir}/local/other_text/text"
    fi
    log "Data: LibriSpeech in ${corpus}"
    # ESPnet's script asks for the program flac, which nothing runs: libsndfile and sox
    # read the files themselves.
    shim=$(mktemp -d)
    trap 'rm -rf "${shim}"' EXIT
    ln -s "$(type -P false)" "${shim}/flac"
    PATH=${PATH}:${shim} \
        prepare_as_espnet "${recipe}" "LIBRISPEECH=${corpus}" --stage 2 --stop_stage 3
}

run_data_stages "$@"
