"""What `espnet_hkd_autoload.pth` loads at interpreter start: a finder, no more.

It uses nothing but `sys`, for every Python of the environment pays for it. The package
itself is imported when, and only when, ESPnet's ASR task is.
"""

import sys

_TASKS = ("espnet2.tasks.asr", "espnet3.systems.esp2_asr.task")


class _Autoload:
    is_hkd_autoload = True

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in _TASKS:
            return None
        try:
            from espnet_hkd.border.hook import TaskFinder
        except Exception as error:
            # ESPnet itself must go on, whatever has become of this package.
            print(
                "espnet_hkd is installed beside ESPnet but cannot be imported, so its "
                f"models are unknown ({type(error).__name__}: {error}). Install it "
                "again, or uninstall it; ESPNET_HKD_AUTOLOAD=0 silences this.",
                file=sys.stderr,
            )
            return None
        return TaskFinder().find_spec(name, path, target)


# `site` has imported os by the time it reads .pth files.
if sys.modules["os"].environ.get("ESPNET_HKD_AUTOLOAD") != "0":
    sys.meta_path.insert(0, _Autoload)
