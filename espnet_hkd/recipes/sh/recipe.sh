# What the recipes share: sourced by their run.sh, which then calls run_recipe with the
# name of the variable that holds the corpus, its defaults, and the user's options last.
# For asr.sh, too, the last value of an option counts.

# What the user typed. Sourced without arguments, this file sees those of run.sh.
typed=$(printf '%q ' "$0" "$@")
typed=${typed% }

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Print the value that asr.sh will see: option NAME DEFAULT [--NAME VALUE]...
option() {
    local name=$1 value=$2 given
    shift 2
    while [ $# -gt 1 ]; do
        given=${1#--}
        [ "${given//-/_}" = "${name}" ] && value=$2
        shift 2
    done
    echo "${value}"
}

# Is one of the stages FIRST to LAST asked for?
within() {
    [ "${stage}" -le "$2" ] && [ "${stop_stage}" -ge "$1" ]
}

# Is an optional stage asked for? wanted STAGE SWITCH [--NAME VALUE]..., where the
# switch, true by default, skips it.
wanted() {
    local number=$1 switch=$2
    shift 2
    within "${number}" "${number}" && [ "$(option "${switch}" true "$@")" = false ] &&
        [[ " $(option skip_stages "" "$@") " != *" ${number} "* ]]
}

need_command() { # need_command COMMAND PACKAGE WHY
    command -v "$1" >/dev/null || fail "run.sh: $1 is missing: $3" \
        "  wanted: $1 on PATH" \
        "  remedy: apt-get install $2"
}

need_module() { # need_module MODULE WHY REMEDY
    python3 -c "import importlib.util as u, sys; sys.exit(not u.find_spec('$1'))" ||
        fail "run.sh: $(command -v python3) has no module $1: $2" "  remedy: $3"
}

# What asr.sh offers for other kinds of models fails late here and says little.
refuse_other_decoding() {
    local name
    for name in use_streaming use_k2 use_maskctc; do
        [ "$(option "${name}" false "$@")" = false ] || fail \
            "run.sh: --${name} true is for another kind of model" \
            "  wanted: ESPnet's label-synchronous search, which reads the utterance as a" \
            "          whole: the number of tokens follows from its firings" \
            "  remedy: leave out --${name}"
    done
    [ "$(option asr_task asr "$@")" = asr ] || fail \
        "run.sh: a CIF model is trained and decoded by ESPnet's task asr" \
        "  got:    --asr_task $(option asr_task asr "$@")" \
        "  remedy: leave out --asr_task"
}

# Stop now for what would otherwise stop the recipe after hours.
check_recipe() {
    refuse_other_decoding "$@"
    need_command perl perl "ESPnet's data scripts are written in it"
    if within 2 3 && [ -n "$(option speed_perturb_factors "" "$@")" ]; then
        need_command sox sox "it changes the speed of the speech (stages 2 and 3)"
    fi
    if within 1 3; then
        check_features "$(option feats_type raw "$@")"
    fi
    if within 1 10; then
        check_units "$@"
    fi
    check_room "$@"
    if within 4 4 && [ "${plm}" != none ]; then
        need_module transformers "it runs the teacher (stage 4)" \
            "pip install 'espnet_hkd[teacher]', or --plm none to train without teacher"
    fi
    if within 13 13 && [ "$(option skip_eval false "$@")" = false ]; then
        need_command sclite sctk "it counts the errors (stage 13)"
    fi
    if wanted 14 skip_packing "$@"; then
        check_expdir "$(option asr_exp "$(option expdir exp "$@")" "$@")"
    fi
    if wanted 15 skip_upload_hf "$@"; then
        check_upload "$(option hf_repo "" "$@")"
    fi
    check_pretrained "$(option pretrained_model "" "$@")"
}

# asr.sh finds out in stage 3 what Kaldi's features need.
check_features() { # check_features FEATS_TYPE
    local file
    case $1 in
        fbank) fail "run.sh: asr.sh has no --feats_type fbank yet" \
            "  wanted: raw: the model computes its features from audio" \
            "  remedy: leave out --feats_type" ;;
        fbank_pitch)
            for file in conf/fbank.conf conf/pitch.conf; do
                [ -e "${file}" ] || fail "run.sh: --feats_type $1 has no ${file}" \
                    "  wanted: Kaldi's options of these features" \
                    "  remedy: copy it from a Kaldi recipe, or leave out --feats_type"
            done
            need_command compute-fbank-feats kaldi "it makes the features (stage 3)"
            ;;
    esac
}

# A lexicon of words has no line for the pieces of another unit (stage 10).
check_units() { # check_units [--NAME VALUE]...
    python3 -m espnet_hkd.bin.units_fit --config "$(option asr_config "" "$@")" \
        --asr_args "$(option asr_args "" "$@")" \
        --token_type "$(option token_type bpe "$@")" || exit
}

# Is there room for what the stages write? recipe_disk has GB for the audio of stage 3,
# at one speed, for the teacher store and for an experiment: docs/recipes.md, "Disk".
check_room() { # check_room [--NAME VALUE]...
    local audio store exp need=0 free speeds
    read -r audio store exp <<<"${recipe_disk:-0 0 0}"
    speeds=$(option speed_perturb_factors "" "$@" | wc -w)
    if within 2 4; then
        need=$((need + audio * (speeds > 1 ? speeds : 1)))
    fi
    if within 4 4 && [ "${plm}" != none ]; then
        need=$((need + store))
    fi
    if within 11 11; then
        need=$((need + exp))
    fi
    [ -z "${disk_gb}" ] || need=${disk_gb}
    # The recipe's folder; a dump or an experiment elsewhere is the user's to look after.
    free=$(df --output=avail -B 1G . | tail -n 1)
    [ "${free}" -ge "${need}" ] || fail "run.sh: there is too little room in $(pwd)" \
        "  got:    $((free)) GB free" \
        "  wanted: about ${need} GB for stages ${stage} to ${stop_stage} (docs/recipes.md)" \
        "  remedy: make room, or work on a larger disk; --disk_gb 0 goes on all the same"
}

# Every file that training will go on from, before GPUs are taken.
check_resume() { # check_resume [--NAME VALUE]...
    local exp
    # In asr.sh's own words: the stages that it is given here do nothing.
    exp=$(
        . ./asr.sh "$@" --stage 10000 --stop_stage 10000 >/dev/null
        echo "${asr_exp}"
    )
    python3 -m espnet_hkd.bin.resume "${exp}" --command "${typed}"
}

check_upload() { # check_upload USER/MODEL
    [[ $1 == ?*/?* ]] || fail "run.sh: stage 15 does not know where to upload the model" \
        "  got:    --hf_repo ${1:-(nothing)}" \
        "  wanted: --hf_repo USER/MODEL, a repository of yours on the Hugging Face hub" \
        "  remedy: make one at https://huggingface.co/new, or leave out --skip_upload_hf"
    need_command git git "it uploads the model (stage 15)"
    need_command git-lfs git-lfs "the hub keeps large files with it (stage 15)"
}

# Say what training will start from, if it is whole. ESPnet's own way of loading is
# left for a part of a checkpoint (FILE:encoder:encoder) and one without config.yaml.
check_pretrained() { # check_pretrained MODEL
    local file=${1%%:*}
    if [ -z "$1" ] || ! within 11 11; then
        return
    fi
    if [[ $1 == *:* || $1 == *.pth && ! -e $(dirname "${file}")/config.yaml ]]; then
        [ -e "${file}" ] || fail "run.sh: there is no ${file} to start from" \
            "  wanted: --pretrained_model MODEL.zip, an experiment or a checkpoint" \
            "  remedy: correct the path; it counts from $(pwd)"
    else
        python3 -m espnet_hkd.bin.inspect_model "$1"
    fi
}

check_expdir() {
    local recipe expdir
    recipe=$(realpath .)
    expdir=$(realpath -m "$1")
    [[ ${expdir} == "${recipe}"/* ]] || fail \
        "run.sh: an experiment outside the recipe cannot be packed (stage 14)" \
        "  got:    ${expdir}" \
        "  wanted: a folder inside ${recipe}, not a link: ESPnet would write" \
        "          absolute paths into the archive, which no other machine has" \
        "  remedy: leave out --expdir, or --skip_packing true"
}

# Training that has begun goes on from its own checkpoint, whatever it is given.
check_fresh_start() { # check_fresh_start [--NAME VALUE]...
    local model exp
    model=$(option pretrained_model "" "$@")
    if [ -n "${model}" ]; then
        exp=$(packed_names "$@")
        exp=$(dirname "${exp% *}")
        [ ! -e "${exp}/checkpoint.pth" ] ||
            grep -qxF -e "- ${model}" -e "- '${model}'" "${exp}/config.yaml" ||
            fail "run.sh: ${exp} was begun without --pretrained_model ${model}" \
                "  wanted: an experiment of its own for what starts from another model" \
                "  remedy: --asr_tag NAME"
    fi
}

# The command of stage 14, in asr.sh's own words: it names the experiment's files.
packing_command() {
    ./asr.sh "$@" --stage 14 --stop_stage 14 --skip_packing false --python echo |
        grep '^-m espnet2.bin.pack '
}

# asr_stages FIRST LAST [--NAME VALUE]...: those of them that are asked for
asr_stages() {
    local first=$(($1 > stage ? $1 : stage)) last=$(($2 < stop_stage ? $2 : stop_stage))
    shift 2
    [ "${first}" -gt "${last}" ] ||
        ./asr.sh "$@" --stage "${first}" --stop_stage "${last}"
}

# Read all of the teacher store that the training will use, before it does.
check_teacher() {
    local store
    store=$(python3 - "$(option asr_config "" "$@")" <<'PYTHON'
import sys
import yaml

with open(sys.argv[1], encoding="utf-8") as config:
    print((yaml.safe_load(config).get("preprocessor_conf") or {}).get("store") or "")
PYTHON
    )
    [ -z "${store}" ] || python3 -m espnet_hkd.bin.inspect_teacher "${store}"
}

# How many tokens a frame holds, which is what initial_weight should begin with, and
# which texts are too long for their audio.
check_lengths() { # check_lengths stop|skip|keep [--NAME VALUE]...
    local long_texts=$1 stats
    shift
    # In asr.sh's own words: the stages that it is given here do nothing.
    stats=$(
        . ./asr.sh "$@" --stage 10000 --stop_stage 10000 >/dev/null
        echo "${asr_stats_dir}/train"
    )
    if within 10 10; then
        rm -f "${stats}"/*_shape*.all
    fi
    python3 -m espnet_hkd.bin.lengths "${stats}" \
        --config "$(option asr_config "" "$@")" --long_texts "${long_texts}" \
        --asr_args "$(option asr_args "" "$@")"
}

# Paths of the checkpoint that decodes and of its archive, with a space between.
packed_names() {
    packing_command "$@" |
        sed 's/.*--asr_model_file \([^ ]*\) .*--outpath \([^ ]*\).*/\1 \2/'
}

# Pack the model without what only training needs: distillation heads and teacher.
# The archive lies where asr.sh would have put it, with a model card in it.
pack_slim() { # pack_slim DTYPE [--NAME VALUE]...
    local pack_dtype=$1 names exp checkpoint archive
    shift
    names=$(packed_names "$@")
    archive=${names#* }
    exp=$(dirname "${names% *}")
    checkpoint=$(basename "${names% *}")
    if ! grep -qx "model: hkd_cif" "${exp}/config.yaml"; then
        # One of ESPnet's own models, trained for comparison: there is nothing to drop.
        asr_stages 14 14 "$@"
        return
    fi
    python3 -m espnet_hkd.bin.slim "${exp}" --checkpoint "${checkpoint}" \
        --inference_config "$(option inference_config "" "$@")" --dtype "${pack_dtype}"
    asr_stages 14 14 "$@" --asr_exp "${exp}/slim"
    mv "${exp}/slim/slim_${checkpoint%.*}.zip" "${archive}"
    write_card "${archive}"
    echo "Packed model: ${archive}"
}

# conf/card.yaml says what the experiment does not know.
write_card() { # write_card ARCHIVE [--name USER/MODEL]
    local facts=conf/card.yaml
    [ -e "${facts}" ] || facts=
    python3 -m espnet_hkd.bin.card "$@" ${facts:+--facts "${facts}"}
}

# Upload the packed model. asr.sh's stage 15 would replace the card by one that tells
# people to install ESPnet only, which does not know this model.
upload() {
    local repo names archive folder
    repo=$(option hf_repo "" "$@")
    names=$(packed_names "$@")
    archive=${names#* }
    [ -e "${archive}" ] || fail "run.sh: there is no packed model to upload" \
        "  wanted: ${archive}" \
        "  remedy: run stage 14 with --skip_packing false"
    folder=$(option expdir exp "$@")/hf_${repo//\//_}
    if [ -d "${folder}" ]; then
        git -C "${folder}" pull --quiet --ff-only
    else
        git clone "https://huggingface.co/${repo}" "${folder}" || fail \
            "run.sh: https://huggingface.co/${repo} cannot be cloned (stage 15)" \
            "  remedy: make it at https://huggingface.co/new, and give git your access" \
            "          token (hf auth login --add-to-git-credential)"
    fi
    write_card "${archive}" --name "${repo}"
    git -C "${folder}" lfs install --local
    git -C "${folder}" lfs track "*.pth"
    # What an earlier upload left there.
    git -C "${folder}" rm -rq --ignore-unmatch exp
    python3 -m zipfile -e "${archive}" "${folder}"
    git -C "${folder}" add --all
    git -C "${folder}" diff --cached --quiet ||
        git -C "${folder}" commit -q -m "Upload $(basename "${archive}" .zip)"
    git -C "${folder}" push origin HEAD || fail \
        "run.sh: the model could not be pushed to https://huggingface.co/${repo}" \
        "  got:    ${folder}, ready to be pushed" \
        "  remedy: give git an access token that may write" \
        "          (hf auth login --add-to-git-credential), then --stage 15"
    echo "Published model: https://huggingface.co/${repo}"
}

show_help() {
    cat <<HELP
Options of this recipe:
    --plm           # The teacher: a folder, a hub name or an installed package;
                    # none for training without (default="${plm}").
    --teacher_opts  # More options of espnet-hkd extract-teacher, e.g. "--layer 5".
    --long_texts    # If training texts have more tokens than encoder frames: stop, train
                    # without them (skip) or with them (keep) (default="stop").
    --disk_gb       # Free space without which nothing is begun (default=what
                    # docs/recipes.md estimates for the stages; 0: do not look).
    --pack_dtype    # Of the packed weights: float32, or for half the size float16 or
                    # bfloat16 (default="float32").
${recipe_help:+${recipe_help}
}All other options are those of ESPnet's asr.sh:
HELP
}

# run_recipe VARIABLE [--NAME VALUE]...
# Options of one recipe that asr.sh does not know: their names in recipe_options, what
# they do in recipe_help.
run_recipe() {
    local args=() stage stop_stage plm teacher_opts long_texts pack_dtype disk_gb
    local hook text name
    local corpus=$1 own="plm teacher_opts long_texts pack_dtype disk_gb ${recipe_options:-}"
    local threads=${OMP_NUM_THREADS:-}
    shift
    # valid.acc, asr.sh's choice, is teacher-forced and blind to the number of tokens
    # that fire: the last checkpoints are averaged instead (best_model_criterion).
    set -- --python "python3 -m espnet_hkd.run" --skip_packing false \
        --inference_asr_model train.total_count.ave.pth "$@"
    plm=$(option plm none "$@")
    teacher_opts=$(option teacher_opts "" "$@")
    long_texts=$(option long_texts stop "$@")
    pack_dtype=$(option pack_dtype float32 "$@")
    disk_gb=$(option disk_gb "" "$@")
    stage=$(option stage 1 "$@")
    stop_stage=$(option stop_stage 10000 "$@")
    [[ ${long_texts} =~ ^(stop|skip|keep)$ ]] || fail \
        "run.sh: --long_texts has no such value" "  got:    ${long_texts}" \
        "  wanted: stop, skip or keep"
    [[ ${disk_gb} =~ ^[0-9]*$ ]] || fail \
        "run.sh: --disk_gb is a whole number" "  got:    ${disk_gb}" \
        "  wanted: GB, or 0 for not to look"
    [[ ${pack_dtype} =~ ^(float32|float16|bfloat16)$ ]] || fail \
        "run.sh: --pack_dtype has no such value" "  got:    ${pack_dtype}" \
        "  wanted: float32, float16 or bfloat16"
    while [ $# -gt 0 ]; do
        name=${1//-/_}
        case ${name} in
            __help | _h) show_help && args=(--help) && break ;;
        esac
        case " ${own} " in
            *" ${name#__} "*) ;;
            *) args+=("$1" ${2+"$2"}) ;;
        esac
        shift $(($# > 1 ? 2 : 1))
    done
    set -- "${args[@]}"

    # The caller's folder counts for AN4=../data, the recipe's for all else.
    [ -z "${!corpus:-}" ] || export "${corpus}=$(realpath -m "${!corpus}")"
    cd "$(dirname "$0")" || exit
    . ./path.sh
    need_module espnet2 "it is ESPnet itself" "make setup, or activate its environment"
    "${hkd_sh}/link_recipe.sh" .
    if [ "$1" = --help ]; then
        ./asr.sh --help
        return
    fi
    check_recipe "$@"
    if [ "${plm}" != none ]; then
        hook="--stage 3 --stop_stage 3 --plm ${plm}"
        hook+=" --valid_set $(option valid_set "" "$@") --cleaner $(option cleaner none "$@")"
        # asr.sh splits this string at spaces, so data.sh wants commas inside a value.
        [ -z "${teacher_opts}" ] || hook+=" --teacher_opts ${teacher_opts// /,}"
        set -- --post_process_local_data_opts "${hook}" "$@"
    fi

    # asr.sh would look for these texts where speed perturbation does not put them.
    text=data/$(option train_set "" "$@")/text
    set -- --bpe_train_text "${text}" --lm_train_text "${text}" "$@"

    asr_stages 1 9 "$@"
    if within 10 11; then
        check_teacher "$@"
    fi
    asr_stages 10 10 "$@"
    if within 10 11; then
        check_lengths "${long_texts}" "$@"
    fi
    if within 11 11; then
        check_fresh_start "$@"
        check_resume "$@"
    fi
    # Stages run several processes of one thread each, but training runs alone.
    OMP_NUM_THREADS=${threads:-$(nproc)} asr_stages 11 11 "$@"
    asr_stages 12 13 "$@"
    if wanted 14 skip_packing "$@"; then
        pack_slim "${pack_dtype}" "$@"
    fi
    if wanted 15 skip_upload_hf "$@"; then
        upload "$@"
    fi
}
