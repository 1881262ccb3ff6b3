# Sourced by asr.sh, by its helper scripts and by ours; safe to source repeatedly.
hkd_root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../..
hkd_root=$(realpath "${hkd_root}")

# ESPnet's scripts call plain python3, so --python alone would not be enough.
if [ -n "${VIRTUAL_ENV:-${CONDA_PREFIX:-}}" ]; then
    PATH=${VIRTUAL_ENV:-${CONDA_PREFIX}}/bin:${PATH}
elif [ -x "${hkd_root}/.venv/bin/python3" ]; then
    PATH=${hkd_root}/.venv/bin:${PATH}
fi
PATH=${PWD}/utils:${hkd_root}/tools:${PATH}
# Debian's sctk keeps sclite out of PATH.
command -v sclite >/dev/null || PATH=/usr/lib/sctk/bin:${PATH}
export PATH

# The package beside this recipe, installed or not.
export PYTHONPATH=${hkd_root}${PYTHONPATH:+:${PYTHONPATH#"${hkd_root}"}}
# Kaldi's tools need the C order of sorting, Python must still read UTF-8.
export LC_ALL=C PYTHONIOENCODING=UTF-8
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-^lo,docker,virbr,vmnet,vboxnet}

. local/path.sh
