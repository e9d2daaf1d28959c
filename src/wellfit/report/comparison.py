"""Ways of training beside each other, in numbers and words: paired by seed, with the spread, and a plain verdict.

`wellfit/trials/` trains and fills these in; `beside.py` and `together.py` draw them. Nothing here trains or reads.

Differences are taken seed by seed, because a seed draws the same weights, order and samples for every arm, and their mean has a
90 % interval by Student's t (Student 1908). Differences can be too wild for an interval: a loss that exploded is a thousand in one seed
and ten in the next. So what also counts is order alone: all of three or more scores better than all of the other's (the rank-sum test,
Wilcoxon 1945), or five or more differences that all point one way (the sign test). Without any effect, one side is called better in 5.0
to 7.5 % of comparisons. Otherwise what is said is that so many seeds can show no difference, which is not that there is none. A seed
whose loss stopped being a finite number is the worst there is.

    >>> for sentence in comparison.says: print(sentence)
    optimizer.kind=sgd is worse: the test accuracy by 1.4 points (90 % interval over 3 seeds: 0.9 to 1.9).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from wellfit.report.paired import Paired, finite
from wellfit.report.words import amount, count
from wellfit.run import EVENTS

APART = 3  # scores of each that are all apart: by chance 1 / 20 to one side
SIGNS = 5  # differences of one sign: by chance 1 / 32 to one side
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
        """How `arm` stands to `beside`, or to the first one, over the seeds that both have."""
        other = beside or self.arms[0]
        gains = tuple(self.sign * (score - other.scores[s]) for s, score in arm.scores.items() if s in other.scores)
        rescued, lost = len(other.failed.keys() & arm.scores.keys()), len(arm.failed.keys() & other.scores.keys())
        found = self.surely(gains)
        says: Says = "unknown"
        if len(gains) + rescued + lost > 1:
            says = self._by_order(arm, other)
        if found is not None and not rescued and not lost and (found[0] > 0 or found[1] < 0):
            says = "better" if found[0] > 0 else "worse"
        return Verdict(says, gains, found, rescued, lost)

    def _by_order(self, arm: Arm, other: Arm) -> Says:
        """What the order of the scores shows, however large their differences are."""
        seeds = sorted((arm.scores.keys() | arm.failed.keys()) & (other.scores.keys() | other.failed.keys()))
        mine, theirs = ([self._rank(one, seed) for seed in seeds] for one in (arm, other))
        if self._above(mine, theirs):
            return "better"
        return "worse" if self._above(theirs, mine) else "level"

    def _above(self, good: Sequence[float], bad: Sequence[float]) -> bool:
        """Whether all of one side are above the other, each with its partner or, where they are few, all with all.

        By more than one of the samples makes, where the metric is a share of them.
        """
        if not good:
            return False
        saved = min(good) > -math.inf and max(bad) == -math.inf
        apart = len(good) >= APART and min(good) - self.least > max(bad)
        return saved or apart or (len(good) >= SIGNS and all(a > b for a, b in zip(good, bad, strict=True)))

    def _rank(self, arm: Arm, seed: int) -> float:
        """The score of a seed, more is better; a seed that failed is below all."""
        return self.sign * arm.scores[seed] if seed in arm.scores else -math.inf

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
            pairs = len(found.gains) + found.rescued + found.lost
            return f"{arm.about}: no difference that {count(pairs, 'seed')} can show{seen}. {more}"
        return f"{arm.about} is {found.says}{seen}."

    def _seen(self, found: Verdict) -> str:
        parts = []
        if found.gains:
            mean = fmean(found.gains)
            direction = "better" if mean >= 0 else "worse"
            of = f"the {self.what} is {direction} by {self.size(mean)} on average"
            if not mean:
                of = f"the {self.what} is the same on average"
            if found.interval is not None:
                of += f" ({self.told_interval(found.gains)})"
            if (
                found.says in ("better", "worse")
                and found.interval is not None
                and found.interval[0] <= 0 <= found.interval[1]
            ):
                of += f", and it is {found.says} in every seed"
            parts.append(of)
        if found.rescued:
            parts.append(
                f"{count(found.rescued, 'seed')} that diverged before now {'trains' if found.rescued == 1 else 'train'}"
            )
        if found.lost:
            parts.append(
                f"{count(found.lost, 'seed')} {'diverges' if found.lost == 1 else 'diverge'} that did not before"
            )
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

    def _repr_html_(self) -> str:
        from wellfit.report.notebook import html

        return html(self)

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
            "seeds": list(self.seeds), "arms": arms, "missing": self.missing, "notes": list(self.notes), "says": self.says,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any], place: Path) -> "Comparison":
        """The comparison of which `kept` is `as_dict`. Its runs are those directly below `place`, wherever they were then.

        Raises ValueError for what is no comparison.
        """
        try:
            arms = tuple(_arm(arm, place) for arm in kept["arms"])
            found = cls(
                str(kept["name"]), str(kept["metric"]), str(kept["better"]), str(kept["split"]), int(kept["scored"]),
                tuple(map(int, kept["seeds"])), arms, str(place), int(kept["missing"]), tuple(map(str, kept.get("notes", ()))),
            )  # fmt: skip
        except (AttributeError, KeyError, OSError, OverflowError, RuntimeError, TypeError) as error:
            raise ValueError(f"no comparison: {type(error).__name__}: {error}") from None
        if not arms:
            raise ValueError("no comparison: nothing is compared")
        return found


def _arm(kept: Mapping[str, Any], place: Path) -> Arm:
    named = {int(seed): place / Path(folder).name for seed, folder in kept["folders"].items()}
    folders = {seed: str(folder) for seed, folder in named.items() if _is_run_in(folder, place)}
    return Arm(
        str(kept["name"]), str(kept["about"]), {int(seed): float(score) for seed, score in kept["scores"].items()},
        {int(seed): str(folder) for seed, folder in kept["failed"].items()},
        folders, None if kept["seconds"] is None else float(kept["seconds"]), int(kept["steps"]),
    )  # fmt: skip


def _is_run_in(folder: Path, place: Path) -> bool:
    """Whether there is a run whose journal lies in that place, and is not led to from there."""
    inside = (folder / EVENTS).resolve().is_relative_to(place.resolve()) and folder.resolve() != place.resolve()
    return inside and (folder / EVENTS).is_file()
