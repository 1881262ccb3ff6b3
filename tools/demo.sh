#!/usr/bin/env bash
# From speech to a scored, packed recogniser, distilled from a language model:
#
#   make demo            on speech that espeak-ng makes, and ESPnet's real mini AN4
#   make demo AN4=DIR    on AN4 (CMU's layout or Kaldi-style sets); if that is only a
#                        part of it, with the made speech too
#
# A second call goes on where the first was stopped, or says that all is there.
set -euo pipefail

root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/..")
recipe=${root}/egs2/an4_hkd/asr1
config=conf/train_asr_demo.yaml
exp=exp/asr_demo
# Real training utterances below this number are too few to learn from: speech made by
# espeak-ng is added to them.
enough=300
# The process of show_epochs.
shower=""

# Other data or other settings get another folder: results are never mixed.
open_workplace() {
    local digest each
    [ -z "${AN4:-}" ] || AN4=$(realpath -m "${AN4}")
    digest=$({
        echo "${AN4:-}"
        cat "${recipe}/${config}" "${recipe}"/conf/{decode_asr.yaml,lexicon.txt} "${recipe}"/local/*.py
    } | sha256sum | cut -c 1-6)
    work=demo/$(basename "${AN4:-spoken}")-${digest}
    mkdir -p "${root}/${work}/log"
    cd "${root}/${work}"
    for each in run.sh path.sh cmd.sh local conf; do
        ln -sfn "${recipe}/${each}" "${each}"
    done
    # ESPnet's helpers sort and print in the C locale.
    . ./path.sh
    link_recipe.sh .
}

# step NAME "WHAT, HOW LONG" COMMAND...: once; a finished step is not repeated.
step() {
    local log=log/$1.log started=${SECONDS}
    if [ -e "log/$1.done" ]; then
        echo "done before: $2"
        return
    fi
    echo "$2 ..."
    if ! "${@:3}" >"${log}" 2>&1; then
        tail -n 25 "${log}" >&2
        echo "demo: this step failed; its whole output is in ${work}/${log}" >&2
        exit 1
    fi
    touch "log/$1.done"
    echo "    $((SECONDS - started)) s, log: ${work}/${log}"
}

recipe_stages() { # recipe_stages FIRST LAST [--NAME VALUE]...
    ./run.sh --asr_config "${config}" --asr_tag demo --inference_tag decode \
        --test_sets "${test_sets}" --stage "$1" --stop_stage "$2" "${@:3}"
}

# The real utterances, in a folder of their own.
read_real() {
    local/data.sh --data_dir downloads/real
}

speak() {
    [ -d downloads/spoken ] ||
        python3 local/speak_an4.py downloads/spoken --real downloads/real
}

data() {
    recipe_stages 1 5 --local_data_opts "--sets train_nodev,train_dev,${test_sets// /,}"
}

# Every half minute, the last epoch that has ended since.
show_epochs() {
    local shown="" line
    # A closed output: a sleep that outlives this script must not hold its pipe open.
    while sleep 30 >&-; do
        line=$(grep -so '[0-9]*epoch results.*' "${exp}/train.log" | tail -n 1 |
            sed 's/epoch results.*\[valid\] loss=\([^,]*\),.* acc=\([^,]*\),.*/: loss on dev \1, accuracy \2/') || true
        [ "${line}" = "${shown}" ] || echo "    epoch ${line}"
        shown=${line}
    done
}

stop_showing() {
    # Called by the exit trap too, when there may be nothing to stop.
    [ -z "${shower}" ] || { kill "${shower}" && wait "${shower}"; } 2>/dev/null || true
    shower=""
}

plot() {
    python3 -m espnet_hkd.bin.recognize "$(packed_model)" \
        "$(awk 'NR == 1 { print $2 }' dump/raw/${test_sets%% *}/wav.scp)" --plot firing.png
}

packed_model() {
    echo "${exp}"/asr_demo_*.zip
}

# Error rates, and some references with what was recognised below them.
report() {
    local name score
    for name in ${test_sets}; do
        score=${exp}/decode/${name}/score_wer
        echo
        python3 -m espnet_hkd.bin.compare_systems "${name}=${score}"
        echo
        # Not head: it ends before paste does, now and then, which would be an error.
        paste -d '\n' "${score}/ref.trn" "${score}/hyp.trn" | sed -n 1,6p
    done
    echo
}

main() {
    local real test_sets=test
    open_workplace
    echo "Work: ${work}"
    step real "Reading ${AN4:+AN4 in }${AN4:-the mini AN4 of ESPnet}: 5 s" read_real
    real=$(wc -l <downloads/real/train_nodev/text)
    echo "Data: real speech, ${real} utterances to train with"
    if [ "${real}" -lt ${enough} ]; then
        test_sets="test_real test_spoken"
        echo "      and, as fewer than ${enough} are too few, 400 made by a machine (espeak-ng)"
        echo "      test_real:   the real test set"
        echo "      test_spoken: spoken by espeak-ng, half of it in voices never trained on"
        step speak "Speaking 470 AN4-like utterances: 10 s" speak
        AN4=${PWD}/downloads/spoken
    fi
    export AN4
    step data "Stages 1 to 5: data, teacher store, token list: half a minute" data
    show_epochs &
    shower=$!
    trap stop_showing EXIT
    step train "Stages 10, 11: statistics; training with distillation: 8 minutes" \
        recipe_stages 10 11
    stop_showing
    step score "Stages 12, 13: beam search, sclite: a minute and a half" \
        recipe_stages 12 13
    step pack "Stage 14: packing the model: 10 s" recipe_stages 14 14
    step plot "Transcribing a file with the packed model: 15 s" plot
    report
    echo "Model:    ${work}/$(packed_model)"
    echo "Firing:   ${work}/firing.png"
    echo "Training: ${work}/${exp}/images, a plot of each loss term"
    echo "Logs:     ${work}/log, ${work}/${exp}/train.log"
}

main
