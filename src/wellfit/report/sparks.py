"""Curves as one line of text: a block for each stretch of steps, as high as its mean.

Not a plot: it shows the course, and the numbers beside it say the rest. A stretch with a value that is not finite is a cross, however
long the curve is. Where blocks cannot be spelt, signs of ASCII stand for them.

    >>> spark([(1, 4.0), (2, 2.0), (3, 1.0)], 3)
    '█▃▁'
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from wellfit.report.curves import SMALLEST, Point

BLOCKS, PLAIN = "▁▂▃▄▅▆▇█", "_.-~=+*#"
BROKEN = {BLOCKS: "×", PLAIN: "x"}


def spark(points: Sequence[Point], width: int, signs: str = BLOCKS, *, log: bool = False) -> str:
    """The curve in at most `width` signs; `log`: on a logarithmic scale, where all values are positive."""
    if not points:
        return ""
    count = min(width, len(points))
    cuts = [round(i * len(points) / count) for i in range(count + 1)]
    stretches = [[value for _, value in points[start:stop]] for start, stop in pairwise(cuts)]
    finite = [value for _, value in points if math.isfinite(value)]
    log = log and bool(finite) and min(finite) > SMALLEST
    means = [
        _mean([math.log(value) if log and math.isfinite(value) else value for value in values]) for values in stretches
    ]
    known = [mean for mean in means if math.isfinite(mean)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    return "".join(_sign(mean, low, high, signs) for mean in means)


def _mean(values: Sequence[float]) -> float:
    """Not a number, where one of them is not finite or the sum overflows."""
    return sum(value / len(values) for value in values) if all(map(math.isfinite, values)) else math.nan


def _sign(mean: float, low: float, high: float, signs: str) -> str:
    if not math.isfinite(mean):
        return BROKEN.get(signs, "x")
    if not high / 2 - low / 2 > 0:
        return signs[0]
    return signs[min(len(signs) - 1, int((mean / 2 - low / 2) / (high / 2 - low / 2) * len(signs)))]
