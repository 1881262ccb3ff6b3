"""CTC's prefix scores: what CTC thinks of a hypothesis while it grows."""

from espnet_hkd.ctc.prefix import Prefixes, PrefixScorer

__all__ = ["PrefixScorer", "Prefixes"]
