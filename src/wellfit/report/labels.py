"""What labels are worth, in numbers and words: scores against the number of training samples, with the spread over seeds.

`wellfit/curve.py` trains and fills these in; `report/pictures.py` draws them. Nothing here trains or reads.

Differences are taken seed by seed, because a seed draws the same samples and the same weights for every size, and their mean has
a 90 % interval by Student's t. The interval tells of what seeds change (which samples, which weights, which order), not of the
held-out samples, which are the same for all; but of a share of them it is never narrower than one sample more or less.

    >>> for sentence in curve.says: print(sentence)
    More labels still pay: from 640 to 1,293 samples the test accuracy improves by 1.1 points (90 % interval over 3 seeds: 0.4 to 1.8).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from wellfit.report.paired import Paired, finite
from wellfit.report.words import amount, count

FLAT = 0.1  # of the whole rise: a last step that surely brings less is said to bring hardly anything
APART = 0.7  # sizes nearer than this to the largest say little of a slope

RECIPE, SCRATCH = "recipe", "scratch"


@dataclass(frozen=True)
class Point:
    """All runs of one size. `scores`: seed -> score; runs that failed are not in it."""

    size: int
    scores: Mapping[int, float]
    seconds: float | None = None  # of a run, on average; None if all were interrupted on the way
    failed: tuple[str, ...] = ()  # folders of runs whose loss was not finite

    @property
    def mean(self) -> float:
        return fmean(self.scores.values()) if self.scores else math.nan

    @property
    def lowest(self) -> float:
        return min(self.scores.values(), default=math.nan)

    @property
    def highest(self) -> float:
        return max(self.scores.values(), default=math.nan)


@dataclass(frozen=True)
class Line:
    """One way to train: the recipe, or the same without trained weights. `points` rise in size."""

    name: str
    about: str  # as it stands in a legend
    length: str  # how long each run trains
    points: tuple[Point, ...]

    def at(self, size: int) -> Point | None:
        return next((point for point in self.points if point.size == size), None)


@dataclass(frozen=True)
class LearningCurve(Paired):
    """A score against the number of labelled training samples, with the spread over seeds. `str` is the table and the words."""

    name: str
    task: str
    metric: str
    better: str  # "max" or "min"
    split: str  # "test", or "valid" where nothing is held out to test on
    budget: str  # "steps" or "epochs": what is the same for all sizes
    samples: int  # training samples there are
    validated: int  # samples that choose the best weights
    scored: int  # samples of the split
    seeds: tuple[int, ...]
    lines: tuple[Line, ...]
    folder: str = ""
    missing: int = 0  # runs that are not trained yet
    notes: tuple[str, ...] = ()

    @property
    def says(self) -> list[str]:
        """What follows from it, a sentence or two each."""
        if self.missing:
            return [f"{count(self.missing, 'run')} of this curve are still to be trained, so nothing is concluded yet."]
        told = [self._pays(line) for line in self.lines]
        scratch = next((line for line in self.lines if line.name == SCRATCH), None)
        if scratch is not None:
            told += self._trained_weights(self.lines[0], scratch)
        if self.split == "valid":
            told.append(self.too_good)
        elif self.validated:
            told.append(
                f"Beside the training samples, {self.validated:,} labelled ones chose the best weights and {self.scored:,} scored them; they "
                "are the same for all sizes and seeds."
            )
        failed = [folder for line in self.lines for point in line.points for folder in point.failed]
        if failed:
            told.append(
                f"{count(len(failed), 'run')} failed, as the loss was not a finite number, and {'is' if len(failed) == 1 else 'are'} not "
                f"counted: {', '.join(failed[:3])}{' and more' if len(failed) > 3 else ''}."
            )
        return [*told, *self.notes]

    # ---- whether more labels pay

    def _pays(self, line: Line) -> str:
        """Of the last step, from the largest size that lies well below the last one."""
        points = [point for point in line.points if point.scores]
        about = "" if len(self.lines) == 1 else f"{line.about}, "
        before = next((p for p in reversed(points[:-1]) if p.size <= APART * points[-1].size), None)
        if before is None:
            return f"{about}whether more labels pay takes at least two sizes that lie well apart."
        last, first = points[-1], points[0]
        gains = self._gains(before, last)
        seen = f"from {before.size:,} to {last.size:,} samples the {self.what} {self._moves(fmean(gains))}"
        found = self.surely(gains)
        if found is None:
            return (
                f"{about}whether more labels still pay cannot be told with one seed; {seen}, and `--seeds 3` shows how much of that is "
                "chance."
            )
        low, high = found
        seen += f" ({self.told_interval(gains)})"
        noticed = FLAT * max(0.0, self.sign * (last.mean - first.mean))
        if high <= noticed:
            return f"{about}more labels hardly pay any more: {seen}."
        if low > 0:
            return f"{about}more labels still pay: {seen}."
        more = self.tells_more(gains, len(self.seeds))
        return f"{about}whether more labels still pay cannot be told with {count(len(gains), 'seed')}: {seen}. {more}"

    # ---- whether trained weights pay

    def _trained_weights(self, trained: Line, scratch: Line) -> list[str]:
        ours, theirs = ([point for point in line.points if point.scores] for line in (trained, scratch))
        if not ours or not theirs:
            return []
        goal = theirs[-1]
        best = f"what {goal.size:,} samples reach from scratch, {amount(self.metric, goal.mean)}"
        mean = self._from_where(ours, lambda point: point.mean, goal.mean)
        sure = self._from_where(ours, self._worst, self._best(goal))
        if mean is None:
            said = f"Trained weights do not reach {best}: with {ours[-1].size:,} they come to {amount(self.metric, ours[-1].mean)}."
        else:
            fewest = ", the fewest tried" if mean is ours[0] else ""
            said = f"Trained weights reach {best}, from {mean.size:,} samples on{fewest} ({amount(self.metric, mean.mean)} in the mean)"
            every = "with every seed" if len(self.seeds) > 1 else ""
            said += f"; {every} from {sure.size:,} on." if every and sure and sure is not mean else "."
        told, shared = [said], [point for point in ours if (there := scratch.at(point.size)) and there.scores]
        if shared:
            mine, other = shared[-1], scratch.at(shared[-1].size)
            assert other is not None
            gains = self._gains(other, mine)
            found = self.surely(gains)
            chance = ", which may be chance" if found is None or found[0] <= 0 <= found[1] else ""
            where = "ahead" if fmean(gains) >= 0 else "behind"
            told.append(
                f"With {mine.size:,} samples for both, the trained start is {where} by {self.size(fmean(gains))}{chance}"
                f" ({self.told_interval(gains)})."
            )
        return told

    def _from_where(self, points: Sequence[Point], of: Callable[[Point], float], goal: float) -> Point | None:
        """The smallest size at which what is asked of a point reaches the goal, and at every larger size too."""
        found = None
        for point in reversed(points):
            if self.sign * (of(point) - goal) < 0:
                break
            found = point
        return found

    # ---- numbers

    def _best(self, point: Point) -> float:
        return point.highest if self.better == "max" else point.lowest

    def _worst(self, point: Point) -> float:
        return point.lowest if self.better == "max" else point.highest

    def _gains(self, before: Point, after: Point) -> list[float]:
        """How much better, seed by seed, whichever way the metric goes."""
        return [self.sign * (score - before.scores[seed]) for seed, score in after.scores.items() if seed in before.scores]  # fmt: skip

    def _moves(self, gain: float) -> str:
        return "does not change" if gain == 0 else f"{'improves' if gain > 0 else 'worsens'} by {self.size(gain)}"

    # ---- as a table and as data

    def table(self) -> list[tuple[str, ...]]:
        """Rows of cells, the head first."""
        several = len(self.lines) > 1
        head = ("samples", self.what, "lowest to highest", "seconds a run")
        rows: list[tuple[str, ...]] = [(("start", *head) if several else head)]
        for line in self.lines:
            for point in line.points:
                cells = (
                    f"{point.size:,}",
                    amount(self.metric, point.mean) if point.scores else "none",
                    f"{amount(self.metric, point.lowest)} to {amount(self.metric, point.highest)}"
                    if point.scores
                    else "",
                    f"{point.seconds:,.1f}" if point.seconds is not None else "",
                )
                rows.append((line.about, *cells) if several else cells)
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Plain data. Scores by seed; sizes are numbers of training samples."""
        return {
            "name": self.name, "task": self.task, "metric": self.metric, "better": self.better, "split": self.split,
            "budget": self.budget, "training_samples": self.samples, "validation_samples": self.validated,
            "scored_samples": self.scored, "seeds": list(self.seeds), "folder": self.folder, "missing_runs": self.missing,
            "lines": [
                {
                    "name": line.name, "about": line.about, "length": line.length,
                    "points": [
                        {
                            "samples": point.size, "mean": finite(point.mean), "lowest": finite(point.lowest),
                            "highest": finite(point.highest), "seconds": point.seconds,
                            "scores": {str(seed): score for seed, score in point.scores.items()}, "failed": list(point.failed),
                        }
                        for point in line.points
                    ],
                }
                for line in self.lines
            ],
            "says": self.says,
        }  # fmt: skip

    def __str__(self) -> str:
        rows = self.table()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        left = len(rows[0]) - 4  # the name of a line stands to the left, numbers to the right
        lines = [
            "  ".join(
                cell.ljust(width) if i < left else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, "", *(f"{sentence[0].upper()}{sentence[1:]}" for sentence in self.says)])
