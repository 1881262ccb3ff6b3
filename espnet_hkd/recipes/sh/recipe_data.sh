# What the recipes' local/data.sh share: sourced by them first, for the options of all
# of them. Then they set their own, parse, source path.sh, define prepare_corpus
# (stage 1) and call run_data_stages.

log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo -e "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}
SECONDS=0

# Options that utils/parse_options.sh may change.
# shellcheck disable=SC2034
{
    stage=1
    stop_stage=1
    data_dir=data            # where the sets go
    asr_data_dir=            # stage 3: the training set in dump/
    valid_set=               # stage 3: the set beside it that has a teacher, too
    plm=                     # stage 3: folder, hub name or installed package
    teacher_dir=data/teacher # stage 3: where the store goes
    teacher_opts=            # stage 3: more options of extract-teacher, with commas for spaces
    cleaner=none             # stage 3: the text cleaner of the recipe
}

# Store the teacher's states for every transcript of the training and the dev set.
store_teacher() {
    log "Teacher: the states of ${plm} for every transcript -> ${teacher_dir}"
    # shellcheck disable=SC2086
    python3 -m espnet_hkd.bin.extract_teacher \
        --text "${asr_data_dir}/text" "$(dirname "${asr_data_dir}")/${valid_set}/text" \
        --cleaner "${cleaner}" --plm "${plm}" --out "${teacher_dir}" ${teacher_opts//,/ }
}

# prepare_as_espnet RECIPE NAME=DIR [--OPTION VALUE]...: run the data preparation of
# ESPnet's egs2/RECIPE on the corpus that its db.sh would name, which is all there. It
# works in a folder of its own, whose sets come here when all are made and checked, their
# audio included, which must have the rate of ${fs} or more. Nothing is downloaded: a
# corpus unpacked by hand would look incomplete to its scripts.
prepare_as_espnet() {
    local recipe=$1 db=$2 work each
    local -a made
    shift 2
    work=$(realpath -m "${data_dir}")/local/${recipe}
    rm -rf "${work}"
    mkdir -p "${work}/local"
    ln -s "$(get_espnet.sh)/egs2/${recipe}/asr1/local"/*.sh "${work}/local"
    ln -s "$(realpath utils)" "${work}/utils"
    rm "${work}/local/download_and_untar.sh"
    printf '#!/bin/sh\n' >"${work}/local/download_and_untar.sh"
    chmod +x "${work}/local/download_and_untar.sh"
    echo "${db}" >"${work}/db.sh"
    # Programs are on PATH already.
    touch "${work}/path.sh" "${work}/cmd.sh"
    (cd "${work}" && local/data.sh "$@")
    log "Check: every table and every recording of ${recipe}, read to its end"
    made=("${work}"/data/*/wav.scp)
    python3 -m espnet_hkd.bin.check_sets "${made[@]%/wav.scp}" --fs "${fs/k/000}"
    for each in "${made[@]%/wav.scp}"; do
        rm -rf "${data_dir:?}/$(basename "${each}")"
        mv "${each}" "${data_dir}"
    done
    rm -rf "${work}"
}

run_data_stages() {
    if [ $# -ne 0 ]; then
        log "Error: No positional arguments are required."
        exit 2
    fi
    if [ "${stage}" -le 1 ] && [ "${stop_stage}" -ge 1 ]; then
        prepare_corpus
    fi
    if [ "${stage}" -le 3 ] && [ "${stop_stage}" -ge 3 ]; then
        store_teacher
    fi
    log "Successfully finished. [elapsed=${SECONDS}s]"
}
