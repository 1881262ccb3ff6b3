#!/usr/bin/env bash
# LibriSpeech: read English, 100 or 960 hours of it, recognised in subwords by CIF with
# hierarchical distillation from a pre-trained language model (arXiv 2301.13003).
#
#   LIBRISPEECH=DIR ./run.sh                        100 hours, one GPU
#   LIBRISPEECH=DIR ./run.sh --data 960             all of it, four GPUs
#   ./run.sh --stage 10 --asr_config conf/train_asr_cif.yaml         another system
set -euo pipefail

. "$(dirname "$0")/path.sh"
. "${hkd_sh}/recipe.sh"

recipe_options="data lm_text"
# GB: audio at one speed, teacher store, experiment (docs/recipes.md).
recipe_disk="6 2 4"
recipe_help=$(cat <<'HELP'
    --data          # Hours to train on: 100 (train-clean-100) or 960 (default="100").
    --lm_text       # Text for the language model beside the transcripts, plain or .gz,
                    # e.g. librispeech-lm-norm.txt.gz (openslr.org/11); with it --use_lm
                    # is true (default=none).
HELP
)

data=$(option data 100 "$@")
case ${data} in
    100)
        train_set=train_clean_100 ngpu=1 asr_config=conf/train_asr_cif_hkd.yaml
        ;;
    960)
        recipe_disk="60 16 4"
        train_set=train_960 ngpu=4 asr_config=conf/tuning/train_asr_cif_hkd_960.yaml
        ;;
    *)
        fail "run.sh: --data has no such value" "  got:    ${data}" \
            "  wanted: 100 (train-clean-100) or 960 (all of the training data)"
        ;;
esac

use_lm=false
lm_config=conf/train_lm_transformer_small.yaml
lm_options=()
data_options="--data ${data} $(option local_data_opts "" "$@")"
lm_text=$(option lm_text "" "$@")
if [ -n "${lm_text}" ]; then
    use_lm=true
    lm_config=conf/train_lm_transformer.yaml
    lm_options=(--lm_train_text "data/${train_set}/text data/local/other_text/text")
    # The caller's folder counts, as for the corpus.
    data_options+=" --lm_text $(realpath -m "${lm_text}")"
fi
inference_config=conf/decode_asr.yaml
if [ "$(option use_lm "${use_lm}" "$@")" = true ]; then
    inference_config=conf/decode_asr_lm.yaml
fi

run_recipe LIBRISPEECH \
    --plm bert-base-uncased \
    --lang en \
    --ngpu "${ngpu}" \
    --nj 16 \
    --inference_nj 16 \
    --batch_size 8 \
    --audio_format flac.ark \
    --feats_type raw \
    --max_wav_duration 30 \
    --speed_perturb_factors "0.9 1.0 1.1" \
    --token_type bpe \
    --nbpe 5000 \
    --use_lm "${use_lm}" \
    --lm_config "${lm_config}" \
    --asr_config "${asr_config}" \
    --inference_config "${inference_config}" \
    --train_set "${train_set}" \
    --valid_set dev \
    --test_sets "test_clean test_other dev_clean dev_other" \
    "${lm_options[@]}" "$@" --local_data_opts "${data_options}"
