"""CIF speech recognition taught by pre-trained language models, inside ESPnet."""

from espnet_hkd.version import __version__

__all__ = ["__version__"]
