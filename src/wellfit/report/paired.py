"""How scores of one metric are told beside each other: what curves of labels and comparisons share.

Differences are taken seed by seed, and their mean has a 90 % interval by Student's t (Student 1908). The interval tells of what
seeds change, not of the held-out samples, which are the same for all; but of a share of them it is never narrower than one
sample more or less.

    >>> interval([0.010, 0.012, 0.011])
    (0.0093..., 0.0126...)
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from wellfit.report.words import METRICS, SPLITS, count, number, plain

SURE = 0.9  # of the intervals


def interval(values: Sequence[float], least: float = 0.0) -> tuple[float, float] | None:
    """The 90 % interval of the mean by Student's t, at least `least` to either side; None for less than two values."""
    if len(values) < 2:
        return None
    from scipy.stats import t  # scikit-learn brings it

    mean = fmean(values)
    half = float(t.ppf((1 + SURE) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    half = max(half, least)
    return mean - half, mean + half


def finite(value: float) -> float | None:
    """The value, for JSON; None where it is none."""
    return value if math.isfinite(value) else None


class Paired:
    """Results that are scored by one metric on one split; the frozen data that inherits this declares the fields."""

    metric: str
    better: str  # "max" or "min"
    split: str  # "test", or "valid" where nothing is held out to test on
    scored: int  # samples of the split

    @property
    def sign(self) -> int:
        return 1 if self.better == "max" else -1

    @property
    def is_share(self) -> bool:
        """Whether the metric is told in percent, and its differences in points of percent."""
        return self.metric in METRICS and METRICS[self.metric].share

    @property
    def what(self) -> str:
        return f"{SPLITS.get(self.split, self.split)} {plain(self.metric)}"

    @property
    def least(self) -> float:
        """What one of the scored samples makes, where the metric is a share of them."""
        return 1 / self.scored if self.is_share and self.scored else 0.0

    def number(self, value: float) -> str:
        return f"{100 * value:.1f}" if self.is_share else number(value)

    def size(self, gain: float) -> str:
        return f"{self.number(abs(gain))}{' points' if self.is_share else ''}"

    def surely(self, gains: Sequence[float]) -> tuple[float, float] | None:
        return interval(gains, self.least)

    def told_interval(self, gains: Sequence[float]) -> str:
        found = self.surely(gains)
        if found is None:
            return "one seed"
        told = " to ".join(self.number(end) for end in found).replace("-", "−")
        return f"90 % interval over {count(len(gains), 'seed')}: {told}"

    def tells_more(self, gains: Sequence[float], seeds: int) -> str:
        """What would tell a difference that these gains do not show."""
        found = self.surely(gains)
        if found is not None and self.least and found[1] - found[0] <= 2.001 * self.least:
            samples = f"{self.scored:,} {SPLITS.get(self.split, self.split)} samples"
            return f"One of the {samples} is {self.size(self.least)}, so it takes more of those."
        return f"`--seeds {2 * seeds}` tells more."

    @property
    def too_good(self) -> str:
        """What is to be known of scores on the samples that chose the weights."""
        return (
            f"Nothing is held out to test on, so these are scores of the {self.scored:,} validation samples, which also chose the best "
            "weights: a little too good. `data.test_share=0.2` holds some out."
        )
