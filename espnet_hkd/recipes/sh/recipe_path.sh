# The environment of all recipes: sourced by their path.sh, and so by asr.sh, by its
# helper scripts and by ours; safe to source repeatedly.
hkd_root=$(realpath "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../..")

# ESPnet's scripts call plain python3, so --python alone would not be enough: the
# active environment if it has ESPnet, else the one that `make setup` made.
if ! python3 -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("espnet2"))' \
    2>/dev/null && [ -x "${hkd_root}/.venv/bin/python3" ]; then
    PATH=${hkd_root}/.venv/bin:${PATH}
fi
case :${PATH}: in
    *:${PWD}/utils:*) ;;
    *) PATH=${PWD}/utils:${hkd_root}/espnet_hkd/recipes/sh:${PATH} ;;
esac
# Debian's sctk keeps sclite out of PATH.
command -v sclite >/dev/null || PATH=${PATH}:${SCTK_BIN:-/usr/lib/sctk/bin}
export PATH

# The package beside this recipe, installed or not.
case :${PYTHONPATH:-}: in
    *:${hkd_root}:*) ;;
    *) export PYTHONPATH=${hkd_root}${PYTHONPATH:+:${PYTHONPATH}} ;;
esac
# Kaldi's tools need the C order of sorting, Python must still read UTF-8.
export LC_ALL=C PYTHONIOENCODING=UTF-8
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-^lo,docker,virbr,vmnet,vboxnet}

[ ! -e local/path.sh ] || . local/path.sh
