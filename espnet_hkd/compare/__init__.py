"""Systems compared by their errors: sclite's counting, with intervals.

>>> from espnet_hkd.compare import compare, markdown, read_eval_set
>>> folders = {"CIF": "exp/asr_cif/decode/test", "HKD": "exp/asr_hkd/decode/test"}
>>> print(markdown(compare(read_eval_set(folders))))  # doctest: +SKIP
"""

from espnet_hkd.compare.comparison import Comparison, Result, compare
from espnet_hkd.compare.read import EvalSet, read_eval_set
from espnet_hkd.compare.report import markdown, plot

__all__ = [
    "Comparison",
    "EvalSet",
    "Result",
    "compare",
    "markdown",
    "plot",
    "read_eval_set",
]
