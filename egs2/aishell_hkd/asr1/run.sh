#!/usr/bin/env bash
# AISHELL-1: 150 hours of read Mandarin, recognised character by character by CIF with
# hierarchical distillation from a pre-trained language model (arXiv 2301.13003).
#
#   AISHELL=DIR ./run.sh                          the published system, one GPU
#   AISHELL=DIR ./run.sh --ngpu 2                 on two, as it was published
#   ./run.sh --stage 10 --asr_config conf/train_asr_cif.yaml         another system
set -euo pipefail

. "$(dirname "$0")/path.sh"
. "${hkd_sh}/recipe.sh"

# utterance_mvn, as published: the YAML says how, and no statistics are packed.
# GB: audio at one speed, teacher store, experiment (docs/recipes.md).
recipe_disk="8 4 4"

run_recipe AISHELL \
    --plm bert-base-chinese \
    --lang zh \
    --ngpu 1 \
    --nj 32 \
    --inference_nj 32 \
    --batch_size 8 \
    --audio_format flac.ark \
    --feats_type raw \
    --feats_normalize utterance_mvn \
    --token_type char \
    --use_lm false \
    --asr_config conf/train_asr_cif_hkd.yaml \
    --inference_config conf/decode_asr.yaml \
    --lm_config conf/train_lm_transformer.yaml \
    --train_set train \
    --valid_set dev \
    --test_sets "dev test" "$@"
