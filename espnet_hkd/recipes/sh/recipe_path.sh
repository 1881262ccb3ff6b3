# The environment of all recipes: sourced by their path.sh, and so by asr.sh, by its
# helper scripts and by ours; safe to source repeatedly.
hkd_root=$(realpath "${hkd_sh}/../../..")
hkd_recipe=$(cd "$(dirname "${BASH_SOURCE[1]}")" && pwd)

# ESPnet's scripts call plain python3, so --python alone would not be enough: the
# active environment if it has ESPnet, else the one that `make setup` made.
if ! python3 -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("espnet2"))' \
    2>/dev/null && [ -x "${hkd_root}/.venv/bin/python3" ]; then
    PATH=${hkd_root}/.venv/bin:${PATH}
fi
case :${PATH}: in
    *:${hkd_recipe}/utils:*) ;;
    *) PATH=${hkd_recipe}/utils:${hkd_sh}:${PATH} ;;
esac
# Debian's sctk keeps sclite out of PATH.
command -v sclite >/dev/null || PATH=${PATH}:${SCTK_BIN:-/usr/lib/sctk/bin}
export PATH

# In a clone the package beside this recipe counts, installed or not.
if [ -e "${hkd_root}/setup.py" ]; then
    case :${PYTHONPATH:-}: in
        *:${hkd_root}:*) ;;
        *) export PYTHONPATH=${hkd_root}${PYTHONPATH:+:${PYTHONPATH}} ;;
    esac
fi
# Kaldi's tools need the C order of sorting, Python must still read UTF-8.
export LC_ALL=C PYTHONIOENCODING=UTF-8
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-^lo,docker,virbr,vmnet,vboxnet}

[ ! -e "${hkd_recipe}/local/path.sh" ] || . "${hkd_recipe}/local/path.sh"
