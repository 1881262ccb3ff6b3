#!/usr/bin/env bash
# Teach the encoder to hear phones by CTC alone: what every system of the study starts
# from, as `--pretrained_model exp_phones/asr_warm/train.total_count.ave.pth:encoder:encoder`.
# Run it after stages 1 to 4. It goes on where it was stopped; options are run.sh's.
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

warm() {
    ./run.sh --plm none --dumpdir dump_phones --expdir exp_phones --asr_tag warm \
        --token_type word --lm_train_text "${dump}/train/text" \
        --asr_config conf/warm_ctc.yaml "$@"
}
[ -e data/en_token_list/word/tokens.txt ] || warm --stage 5 --stop_stage 5 "$@"
[ -e exp_phones/asr_stats_raw_en_word/train/feats_stats.npz ] ||
    warm --stage 10 --stop_stage 10 "$@"
warm --stage 11 --stop_stage 11 "$@"
