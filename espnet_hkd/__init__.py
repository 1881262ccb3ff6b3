"""CIF speech recognition taught by pre-trained language models, inside ESPnet.

Importing this package makes its classes known to ESPnet's ASR task, whether that is
imported before or after. Neither torch nor ESPnet is imported here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from espnet_hkd import plugin
from espnet_hkd.version import __version__

if TYPE_CHECKING:
    from espnet_hkd.cif import (
        FiredTokens,
        integrate_and_fire,
        integrate_and_fire_reference,
    )
    from espnet_hkd.losses import (
        acoustic_contrastive_loss,
        linguistic_regression_loss,
        quantity_loss,
    )
    from espnet_hkd.recognize import Recognizer, TokenTime, Transcript, WordTime
    from espnet_hkd.teacher.store import TeacherEntry, TeacherStore

__all__ = [
    "FiredTokens",
    "Recognizer",
    "TeacherEntry",
    "TeacherStore",
    "TokenTime",
    "Transcript",
    "WordTime",
    "__version__",
    "acoustic_contrastive_loss",
    "from_pretrained",
    "integrate_and_fire",
    "integrate_and_fire_reference",
    "linguistic_regression_loss",
    "quantity_loss",
    "register",
]

# Imported when first asked for: they need torch or numpy.
_HOMES = {
    "espnet_hkd.cif": (
        "FiredTokens",
        "integrate_and_fire",
        "integrate_and_fire_reference",
    ),
    "espnet_hkd.losses": (
        "acoustic_contrastive_loss",
        "linguistic_regression_loss",
        "quantity_loss",
    ),
    "espnet_hkd.recognize": ("Recognizer", "TokenTime", "Transcript", "WordTime"),
    "espnet_hkd.teacher.store": ("TeacherEntry", "TeacherStore"),
}


def register() -> None:
    """Make our classes known to ESPnet's ASR task; importing the package calls it.

    What does not fit the ESPnet at hand is left out with a warning that names it.
    """
    plugin.register()


def from_pretrained(
    name: str, device: str = "cpu", *, allow_download: bool = False
) -> Recognizer:
    """Open a packed model for recognition.

    Args:
        name: A packed model (zip), its unpacked folder, or a name on the hub.
        device: A torch device: "cpu", "cuda", "cuda:1".
        allow_download: Allow a model with parts that download what they are made of.

    Example:
        >>> recognizer = espnet_hkd.from_pretrained("model.zip")
        >>> (transcript,) = recognizer("speech.wav")
    """
    from espnet_hkd.recognize import Recognizer

    return Recognizer.from_pretrained(
        name, device=device, allow_download=allow_download
    )


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register()
