# What the recipes share: sourced by their run.sh, which then calls run_recipe with the
# name of the variable that holds the corpus, its defaults, and the user's options last.
# For asr.sh, too, the last value of an option counts.

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

need_command() { # need_command COMMAND PACKAGE WHY
    command -v "$1" >/dev/null || fail "run.sh: $1 is missing: $3" \
        "  wanted: $1 on PATH" \
        "  remedy: apt-get install $2"
}

need_module() { # need_module MODULE WHY REMEDY
    python3 -c "import importlib.util as u, sys; sys.exit(not u.find_spec('$1'))" ||
        fail "run.sh: $(command -v python3) has no module $1: $2" "  remedy: $3"
}

# Stop now for what would otherwise stop the recipe after hours.
check_recipe() {
    need_command perl perl "ESPnet's data scripts are written in it"
    if within 2 3 && [ -n "$(option speed_perturb_factors "" "$@")" ]; then
        need_command sox sox "it changes the speed of the speech (stages 2 and 3)"
    fi
    if within 4 4 && [ "${plm}" != none ]; then
        need_module transformers "it runs the teacher (stage 4)" \
            "pip install 'espnet_hkd[teacher]', or --plm none to train without teacher"
    fi
    if within 13 13 && [ "$(option skip_eval false "$@")" = false ]; then
        need_command sclite sctk "it counts the errors (stage 13)"
    fi
    if within 14 14 && [ "$(option skip_packing true "$@")" = false ]; then
        check_expdir "$(option asr_exp "$(option expdir exp "$@")" "$@")"
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
    store=$(sed -n 's/^ *store: *//p' "$(option asr_config "" "$@")")
    [ -z "${store}" ] || python3 -m espnet_hkd.bin.inspect_teacher "${store}"
}

# How many tokens a frame holds, which is what initial_weight should begin with.
show_tokens_per_frame() {
    local stats
    # Statistics are packed only with global_mvn, but they always lie there.
    stats=$(packing_command "$@" --feats_normalize global_mvn | sed -n 's:.* \([^ ]*\)/feats_stats.npz.*:\1:p')
    [ -z "${stats}" ] || python3 "${hkd_root}/tools/tokens_per_frame.py" "${stats}" \
        --config "$(option asr_config "" "$@")"
}

# Pack the model without what only training needs: distillation heads and teacher.
# The archive lies where asr.sh would have put it, so stage 15 finds it, too.
pack_slim() {
    local checkpoint exp archive
    checkpoint=$(packing_command "$@" | sed 's/.*--asr_model_file \([^ ]*\).*/\1/')
    exp=$(dirname "${checkpoint}")
    checkpoint=$(basename "${checkpoint}")
    if within 14 14 && [ "$(option skip_packing true "$@")" = false ]; then
        python3 -m espnet_hkd.bin.slim "${exp}" --checkpoint "${checkpoint}" \
            --inference_config "$(option inference_config "" "$@")"
        asr_stages 14 14 "$@" --asr_exp "${exp}/slim"
        archive=${exp}/$(basename "${exp}")_${checkpoint%.pth}.zip
        mv "${exp}/slim/slim_${checkpoint%.pth}.zip" "${archive}"
        echo "Packed model: ${archive}"
    fi
    asr_stages 15 10000 "$@"
}

show_help() {
    cat <<HELP
Options of this recipe:
    --plm           # The teacher: a folder, a hub name or an installed package;
                    # none for training without (default="${plm}").
    --teacher_opts  # More options of espnet_hkd.bin.extract_teacher, e.g. "--layer 5".
${recipe_help:+${recipe_help}
}All other options are those of ESPnet's asr.sh:
HELP
}

# run_recipe VARIABLE [--NAME VALUE]...
# Options of one recipe that asr.sh does not know: their names in recipe_options, what
# they do in recipe_help.
run_recipe() {
    local args=() stage stop_stage plm teacher_opts hook text threads=${OMP_NUM_THREADS:-}
    local corpus=$1 name
    shift
    # valid.acc, asr.sh's choice, is teacher-forced and blind to the number of tokens
    # that fire: the last checkpoints are averaged instead (best_model_criterion).
    set -- --python "python3 -m espnet_hkd.run" --skip_packing false \
        --inference_asr_model train.total_count.ave.pth "$@"
    plm=$(option plm none "$@")
    teacher_opts=$(option teacher_opts "" "$@")
    stage=$(option stage 1 "$@")
    stop_stage=$(option stop_stage 10000 "$@")
    while [ $# -gt 0 ]; do
        name=${1//-/_}
        case ${name} in
            __help | _h) show_help && args=(--help) && break ;;
        esac
        case " plm teacher_opts${recipe_options:+ ${recipe_options}} " in
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
    "${hkd_root}/tools/link_recipe.sh" .
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
        show_tokens_per_frame "$@"
    fi
    # Stages run several processes of one thread each, but training runs alone.
    OMP_NUM_THREADS=${threads:-$(nproc)} asr_stages 11 11 "$@"
    asr_stages 12 13 "$@"
    if within 14 10000; then
        pack_slim "$@"
    fi
}
