#!/usr/bin/env bash
# The study: train, decode and tabulate its systems, one after the other. A second call
# goes on where the first was stopped; what is there is not made again.
#
#   local/study.sh                                     seed 1 of all systems, on dev
#   local/study.sh --systems "cif cif_hkd" --seeds "2 3"
#   local/study.sh --sets "dev test"                   once, when all is chosen
#
# Wanted before: stages 1 to 10 of run.sh, and local/warm.sh. From its encoder and CTC one
# model without distillation is trained, cif_start, and for hybrid its like, hybrid_start;
# every system goes on from there for as many epochs as every other, so that what is
# compared is what the teacher adds to a model that recognises speech.
# Hypotheses go to results/SYSTEM/seedK/SET/text.
set -euo pipefail

systems="cif cif_acd cif_lrd cif_hkd cif_hkd_tuned cif_hkd_llm cif_text cif_hkd_text cif_lm
    hybrid"
seeds=1
sets=dev
python="python3 -m espnet_hkd.run"
stop_after=decode       # train: no decoding
epochs=4                # of each system after its start; the start has its configuration's

cd "$(dirname "$0")/.."
. ./path.sh
. utils/parse_options.sh

average=train.total_count.ave.pth

# The convolutions under the encoder stay as local/warm.sh left them: a third of the time.
common="--freeze_param encoder.embed"
# One cycle over the systems' epochs, of 318 updates, from two thirds of the start's rate.
schedule="--scheduler_conf first_cycle_steps=$((325 * epochs)) --scheduler_conf warmup_steps=100
    --scheduler_conf max_lr=0.001 --keep_nbest_models 2"

# What a system is: its configuration and what it changes in it, how it is decoded, and
# whose training it shares.
describe() { # describe SYSTEM: sets config, changes, decoding, lm, trained, start
    decoding=conf/decode_asr.yaml changes="" lm=() trained=$1 start=cif_start
    case $1 in
        cif | cif_start) config=conf/train_asr_cif.yaml ;;
        cif_acd) config=conf/train_asr_cif_hkd.yaml changes="--model_conf lrd_weight=0.0" ;;
        cif_lrd) config=conf/train_asr_cif_hkd.yaml changes="--model_conf acd_weight=0.0" ;;
        cif_hkd) config=conf/train_asr_cif_hkd.yaml ;;
        cif_lm) config=conf/train_asr_cif.yaml trained=cif
            lm=(--use_lm true --lm_exp exp/lm_extra) ;;
        hybrid | hybrid_start) config=conf/train_asr_hybrid.yaml start=hybrid_start
            decoding=conf/decode_asr_hybrid.yaml ;;
        *)
            if [ ! -e "conf/tuning/train_asr_$1.yaml" ]; then
                echo "study.sh: there is no system $1" >&2
                echo "  wanted: cif, cif_acd, cif_lrd, cif_hkd, cif_lm, hybrid, or NAME of" >&2
                echo "          a conf/tuning/train_asr_NAME.yaml" >&2
                exit 1
            fi
            config=conf/tuning/train_asr_$1.yaml
            ;;
    esac
}

run() { # run TAG [--NAME VALUE]...
    ./run.sh --plm none --python "${python}" --asr_config "${config}" --asr_tag "$1" \
        --inference_config "${decoding}" --inference_nj 1 "${@:2}"
}

# Train to so many epochs, from a model.
train() { # train TAG EPOCHS MODEL OPTIONS
    [ "$(epochs_of "exp/asr_$1")" -lt "$2" ] || return 0
    echo "$(date '+%F %T') training $1"
    run "$1" --stage 11 --stop_stage 11 --pretrained_model "$3" --ignore_init_mismatch true \
        --asr_args "--max_epoch $2 ${common} $4"
}

# What systems go on from: once, whatever their seeds.
train_start() { # train_start SYSTEM
    describe "$1"
    train "$1" "$(sed -n 's/^max_epoch: //p' "${config}")" "exp/asr_ctc/${average}" "--seed 1"
}

# A language model of the transcripts and the extra text, for cif_lm.
train_lm() {
    local dump=dump_lm/raw
    [ ! -e exp/lm_extra/valid.loss.ave.pth ] || return 0
    mkdir -p "${dump}"
    {
        cat dump/raw/train/text
        awk '{printf "extra%06d %s\n", NR, $0}' data/extra/text
    } >"${dump}/lm_train.txt"
    run cif --dumpdir dump_lm --use_lm true --lm_dev_text dump/raw/dev/text \
        --lm_exp exp/lm_extra --lm_stats_dir exp/lm_stats_extra --stage 6 --stop_stage 7
}

# Whole epochs that an experiment has behind it.
epochs_of() { # epochs_of EXP
    local latest
    latest=$(readlink "$1/latest.pth" || true)
    [ -e "$1/train.total_count.ave.pth" ] && echo "${latest%epoch.pth}" || echo 0
}

for seed in ${seeds}; do
    for system in ${systems}; do
        describe "${system}"
        tag=${trained}_seed${seed}
        # In a shell of its own: it describes another system.
        (train_start "${start}")
        train "${tag}" "${epochs}" "exp/asr_${start}/${average}" \
            "--seed ${seed} ${schedule} ${changes}"
        [ "${stop_after}" != train ] || continue
        for set in ${sets}; do
            out=results/${system}/seed${seed}/${set}
            [ ! -e "${out}/text" ] || continue
            echo "$(date '+%F %T') decoding ${system}, seed ${seed}, ${set}"
            [ ${#lm[@]} -eq 0 ] || train_lm
            run "${tag}" --stage 12 --stop_stage 12 --test_sets "${set}" "${lm[@]}" \
                --inference_tag "${system}"
            mkdir -p "${out}"
            # ESPnet puts the set that validates training under org.
            cp "exp/asr_${tag}/${system}/${set}/text" "${out}/text" 2>/dev/null ||
                cp "exp/asr_${tag}/${system}/org/${set}/text" "${out}/text"
        done
    done
done

[ "${stop_after}" != train ] || exit 0
for set in ${sets}; do
    ref=dump/raw/${set}/text
    [ -e "${ref}" ] || ref=dump/raw/org/${set}/text
    # Seeds are pooled; a system with less of them than were asked for is left out.
    compared=()
    for each in results/*; do
        folders=()
        for seed in ${seeds}; do
            [ ! -e "${each}/seed${seed}/${set}/text" ] || folders+=("${each}/seed${seed}/${set}")
        done
        [ ${#folders[@]} -lt "$(wc -w <<<"${seeds}")" ] ||
            compared+=("$(basename "${each}")=$(IFS=, && echo "${folders[*]}")")
    done
    echo "${set}, seeds ${seeds}"
    python3 -m espnet_hkd.bin.compare_systems "${compared[@]}" --ref "${ref}" \
        --train_text data/train/text
done
