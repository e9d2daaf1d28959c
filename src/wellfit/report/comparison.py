"""Ways of training beside each other, in numbers and words: paired by seed, with the spread, and a plain verdict.

`wellfit/trials/` trains and fills these in; `report/pictures.py` draws them. Nothing here trains or reads.

Differences are taken seed by seed, because a seed draws the same weights, order and samples for every arm, and their mean has a
90 % interval by Student's t (Student 1908). Where the interval holds 0, and fewer than five seeds or not all of them point one way,
what is said is that so many seeds can show no difference, which is not that there is none. An arm whose loss stopped being a
finite number where the other's did not has lost that seed, whatever its score was before.

    >>> for sentence in comparison.says: print(sentence)
    optimizer.kind=sgd is worse: the test accuracy by 1.4 points (90 % interval over 3 seeds: 0.9 to 1.9).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from wellfit.report.paired import Paired, finite
from wellfit.report.words import amount, count

SIGNS = 5  # differences of one sign, by chance with 2 / 2^5 = 6 % (the sign test, Arbuthnot 1710)
MANY = 4  # comparisons of which one may well miss by chance

Says = Literal["better", "worse", "level", "unknown"]


@dataclass(frozen=True)
class Arm:
    """One way to train. `scores`: seed -> score of what the run kept; a seed whose loss was not finite is in `failed` instead."""

    name: str
    about: str  # what it changes, as one would type it
    scores: Mapping[int, float] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)  # seed -> the run's folder
    folders: Mapping[int, str] = field(default_factory=dict)  # of all runs that are over
    seconds: float | None = None  # of a run, on average
    steps: int = 0

    @property
    def mean(self) -> float:
        return fmean(self.scores.values()) if self.scores else math.nan


@dataclass(frozen=True)
class Verdict:
    """How an arm stands to the one it is compared with."""

    says: Says
    gains: tuple[float, ...]  # seed by seed, positive where it is better
    interval: tuple[float, float] | None
    rescued: int = 0  # seeds in which the other failed and it did not
    lost: int = 0  # the other way round


@dataclass(frozen=True)
class Comparison(Paired):
    """Several ways of training, over the same seeds. The first arm is what the others are compared with. `str`: table and words."""

    name: str
    metric: str
    better: str  # "max" or "min"
    split: str  # "test", or "valid" where nothing is held out to test on
    scored: int  # samples of the split
    seeds: tuple[int, ...]
    arms: tuple[Arm, ...]
    folder: str = ""
    missing: int = 0  # runs that are not over
    notes: tuple[str, ...] = ()

    def verdict(self, arm: Arm, beside: Arm | None = None) -> Verdict:
        """How `arm` stands to `beside`, or to the first one."""
        other = beside or self.arms[0]
        gains = tuple(self.sign * (score - other.scores[s]) for s, score in arm.scores.items() if s in other.scores)
        rescued, lost = len(other.failed.keys() & arm.scores.keys()), len(arm.failed.keys() & other.scores.keys())
        found = self.surely(gains)
        says: Says = "unknown"
        if found is not None and not rescued and not lost:
            says = "better" if found[0] > 0 else "worse" if found[1] < 0 else self._by_signs(gains)
        elif (rescued or lost) and len(gains) + rescued + lost > 1:
            clean = not any(gain < 0 for gain in gains) if rescued else not any(gain > 0 for gain in gains)
            says = "level" if (rescued and lost) or not clean else "better" if rescued else "worse"
        return Verdict(says, gains, found, rescued, lost)

    @staticmethod
    def _by_signs(gains: Sequence[float]) -> Says:
        """The sign test, for differences too wild for an interval: five that point one way are rarer than one in ten."""
        if len(gains) < SIGNS or not (all(gain > 0 for gain in gains) or all(gain < 0 for gain in gains)):
            return "level"
        return "better" if gains[0] > 0 else "worse"

    @property
    def says(self) -> list[str]:
        """What follows, a sentence or two each."""
        if self.missing:
            return [
                f"{count(self.missing, 'run')} of this comparison are still to be trained, so nothing is concluded yet."
            ]
        told = [self.sentence(arm) for arm in self.arms[1:]]
        if len(self.arms) > MANY:
            told.append(
                f"{len(self.arms) - 1} ways stand beside the first one here, and about one in ten intervals misses by chance: try what looks "
                "good again with other seeds, `--set training.seed=100`."
            )
        if self.split == "valid":
            told.append(self.too_good)
        failed = [folder for arm in self.arms for folder in arm.failed.values()]
        if failed:
            told.append(
                f"In {count(len(failed), 'run')} the loss was not a finite number: {', '.join(failed[:3])}{' and more' if len(failed) > 3 else ''}."
            )
        return [*told, *self.notes]

    def sentence(self, arm: Arm, beside: Arm | None = None) -> str:
        """The verdict on one arm."""
        found = self.verdict(arm, beside)
        seen = self._seen(found)
        if found.says == "unknown":
            return f"{arm.about}: one seed shows no spread, so nothing can be said{seen}. `--seeds 3` shows how much of it is chance."
        if found.says == "level":
            more = self.tells_more(found.gains, max(2, len(self.seeds)))
            return f"{arm.about}: no difference that {count(len(found.gains), 'seed')} can show{seen}. {more}"
        return f"{arm.about} is {found.says}{seen}."

    def _seen(self, found: Verdict) -> str:
        parts = []
        if found.gains:
            mean = fmean(found.gains)
            direction = "better" if mean >= 0 else "worse"
            of = f"the {self.what} is {direction} by {self.size(mean)} on average"
            if found.interval is not None:
                of += f" ({self.told_interval(found.gains)})"
            parts.append(of)
        if found.rescued:
            parts.append(f"{count(found.rescued, 'seed')} ended well whose loss was not finite before")
        if found.lost:
            parts.append(f"the loss of {count(found.lost, 'seed')} was not finite")
        return f"; {', and '.join(parts)}" if parts else ""

    # ---- as a table and as data

    def table(self) -> list[tuple[str, ...]]:
        """Rows of cells, the head first."""
        rows: list[tuple[str, ...]] = [("", self.what, "lowest to highest", "seconds a run")]
        for arm in self.arms:
            scores = sorted(arm.scores.values())
            spread = f"{self.number(scores[0])} to {self.number(scores[-1])}" if len(scores) > 1 else ""
            mean = amount(self.metric, arm.mean) if scores else "failed" if arm.failed else ""
            rows.append((arm.about, mean, spread, f"{arm.seconds:.1f}" if arm.seconds is not None else ""))
        return rows

    def __str__(self) -> str:
        rows = self.table()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, "", *self.says])

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        arms = []
        for arm in self.arms:
            found = self.verdict(arm)
            arms.append({
                "name": arm.name, "about": arm.about, "scores": {str(s): v for s, v in arm.scores.items()},
                "failed": {str(s): f for s, f in arm.failed.items()}, "folders": {str(s): f for s, f in arm.folders.items()},
                "mean": finite(arm.mean), "seconds": arm.seconds, "steps": arm.steps,
                "verdict": found.says if arm is not self.arms[0] else None,
                "interval": list(found.interval) if found.interval and arm is not self.arms[0] else None,
            })  # fmt: skip
        return {
            "name": self.name, "metric": self.metric, "better": self.better, "split": self.split, "scored": self.scored,
            "seeds": list(self.seeds), "arms": arms, "missing": self.missing, "says": self.says,
        }  # fmt: skip
