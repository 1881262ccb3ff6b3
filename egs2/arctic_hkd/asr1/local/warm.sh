#!/usr/bin/env bash
# Teach the encoder by CTC alone, phones first and then the units of the recipe: what every
# system of the study starts from, exp/asr_ctc/train.total_count.ave.pth. Run it after
# stages 1 to 10. It goes on where it was stopped; options are run.sh's.
set -euo pipefail

cd "$(dirname "$0")/.."
. ./path.sh

dump=dump_phones/raw
for set in train dev; do
    if [ ! -e "${dump}/${set}/text" ]; then
        mkdir -p "${dump}/${set}"
        cp dump/raw/"${set}"/{feats_type,spk2utt,utt2spk,wav.scp} "${dump}/${set}"
        python3 local/phones.py "dump/raw/${set}/text" "${dump}/${set}/text"
    fi
done
cp "${dump}/train/text" "${dump}/lm_train.txt"

warm() { # warm TAG CONFIG [--NAME VALUE]...
    ./run.sh --plm none --dumpdir dump_phones --expdir exp_phones --asr_tag "$1" \
        --token_type word --lm_train_text "${dump}/train/text" --asr_config "$2" "${@:3}"
}
first="begun conf/warm_ctc.yaml"
begun=exp_phones/asr_begun/train.total_count.ave.pth
# shellcheck disable=SC2086
{
    [ -e data/en_token_list/word/tokens.txt ] ||
        warm ${first} --stage 5 --stop_stage 5 "$@"
    [ -e exp_phones/asr_stats_raw_en_word/train/feats_stats.npz ] ||
        warm ${first} --stage 10 --stop_stage 10 "$@"
    [ -e "${begun}" ] || warm ${first} --stage 11 --stop_stage 11 "$@"
}
warm warm conf/warm_ctc_on.yaml --stage 11 --stop_stage 11 --pretrained_model "${begun}" "$@"
./run.sh --plm none --asr_tag ctc --asr_config conf/warm_ctc_bpe.yaml \
    --stage 11 --stop_stage 11 "$@" \
    --pretrained_model exp_phones/asr_warm/train.total_count.ave.pth:encoder:encoder
