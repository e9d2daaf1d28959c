"""What labels are worth, in numbers and words: scores against the number of training samples, with the spread over seeds.

`wellfit/curve.py` trains and fills these in; `report/pictures.py` draws them. Nothing here trains or reads.

Differences are taken seed by seed, because a seed draws the same samples and the same weights for every size, and are judged as
those of a comparison are (`report/comparison.py`): by the 90 % interval of their mean, and by their order. A seed whose loss was
finite with one of two sizes only is won or lost. The interval tells of what seeds change (which samples, which weights, which
order), not of the held-out samples, which are the same for all; but of a share of them it is never narrower than one sample
more or less.

    >>> for sentence in curve.says: print(sentence)
    More labels still pay: from 640 to 1,293 samples the test accuracy improves by 1.1 points (90 % interval over 3 seeds: 0.4 to 1.8).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from wellfit.report.comparison import Arm, Comparison, Verdict
from wellfit.report.paired import Paired, finite
from wellfit.report.words import amount, count

FLAT = 0.1  # of the whole rise: a last step that surely brings less is said to bring hardly anything
APART = 0.7  # sizes nearer than this to the largest say little of a slope

RECIPE, SCRATCH = "recipe", "scratch"


@dataclass(frozen=True)
class Point:
    """All runs of one size. `scores`: seed -> score; a seed whose loss was not finite is in `failed` instead."""

    size: int
    scores: Mapping[int, float]
    seconds: float | None = None  # of a run, on average; None if all were interrupted on the way
    failed: Mapping[int, str] = field(default_factory=dict)  # seed -> the run's folder

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
        failed = [folder for line in self.lines for point in line.points for folder in point.failed.values()]
        if failed:
            told.append(
                f"In {count(len(failed), 'run')} the loss was not a finite number, which counts as worse than any score: "
                f"{', '.join(failed[:3])}{' and more' if len(failed) > 3 else ''}."
            )
        return [*told, *self.notes]

    # ---- whether more labels pay

    def _pays(self, line: Line) -> str:
        """Of the last step, from the largest size that lies well below the last one."""
        points = [point for point in line.points if point.scores or point.failed]
        about = "" if len(self.lines) == 1 else f"{line.about}, "
        before = next((p for p in reversed(points[:-1]) if p.size <= APART * points[-1].size), None)
        if before is None:
            return f"{about}whether more labels pay takes at least two sizes that lie well apart."
        last = points[-1]
        found = self._verdict(last, before)
        pairs = len(found.gains) + found.rescued + found.lost
        if not pairs:
            return (
                f"{about}whether more labels still pay cannot be told: no seed has a score with {before.size:,} and with {last.size:,} "
                "samples."
            )
        seen = f"from {before.size:,} to {last.size:,} samples {', and '.join(self._seen(found))}"
        if found.says == "unknown":
            return (
                f"{about}whether more labels still pay cannot be told with one seed; {seen}, and `--seeds {max(3, 2 * len(self.seeds))}` shows "
                "how much of that is chance."
            )
        scored = [point.mean for point in points if point.scores]
        noticed = FLAT * max(0.0, self.sign * (scored[-1] - scored[0]))
        if pairs == len(found.gains) and found.interval is not None and found.interval[1] <= noticed:
            return f"{about}more labels hardly pay any more: {seen}."
        if found.says == "better":
            return f"{about}more labels still pay: {seen}."
        if found.says == "worse":
            return f"{about}with this recipe more labels do not pay: {seen}."
        more = self.tells_more(found.gains, len(self.seeds))
        return f"{about}whether more labels still pay cannot be told with {count(pairs, 'seed')}: {seen}. {more}"

    def _seen(self, found: Verdict) -> list[str]:
        """What changes from fewer samples to more."""
        told = []
        if found.gains:
            gain = fmean(found.gains)
            moves = "does not change" if gain == 0 else f"{'improves' if gain > 0 else 'worsens'} by {self.size(gain)}"
            told.append(f"the {self.what} {moves}")
            if found.interval is not None:
                told[-1] += f" ({self.told_interval(found.gains)})"
                if found.says in ("better", "worse") and found.interval[0] <= 0 <= found.interval[1]:
                    told.append(f"it is {found.says} with every seed")
        if found.rescued:
            told.append(f"{count(found.rescued, 'seed')} that diverged before {_verb(found.rescued, 'trains')}")
        if found.lost:
            told.append(f"{count(found.lost, 'seed')} {_verb(found.lost, 'diverges')} that did not before")
        return told

    # ---- whether trained weights pay

    def _trained_weights(self, trained: Line, scratch: Line) -> list[str]:
        ours, theirs = ([point for point in line.points if point.scores] for line in (trained, scratch))
        told = [self._reached(ours, theirs[-1])] if ours and theirs else []
        for mine in reversed(trained.points):
            other = scratch.at(mine.size)
            found = self._verdict(mine, other) if other is not None else None
            if found is not None and (found.gains or found.rescued or found.lost):
                return [*told, self._ahead(mine, found)]
        return told

    def _reached(self, ours: Sequence[Point], goal: Point) -> str:
        """With how many samples the trained start is as good as the other with all of its."""
        best = f"what {goal.size:,} samples reach from scratch, {amount(self.metric, goal.mean)}"
        mean = self._from_where(ours, lambda point: point.mean, goal.mean)
        sure = self._from_where(ours, self._worst, self._best(goal))
        if mean is None:
            return f"Trained weights do not reach {best}: with {ours[-1].size:,} they come to {amount(self.metric, ours[-1].mean)}."
        fewest = ", the fewest tried" if mean is ours[0] else ""
        over = f" of {count(len(mean.scores), 'seed')}, as others failed" if mean.failed else ""
        said = f"Trained weights reach {best}, from {mean.size:,} samples on{fewest} ({amount(self.metric, mean.mean)} in the mean{over})"
        return (
            f"{said}; with every seed from {sure.size:,} on."
            if len(self.seeds) > 1 and sure and sure is not mean
            else f"{said}."
        )

    def _ahead(self, mine: Point, found: Verdict) -> str:
        """How the trained start stands to the other, with as many samples."""
        parts = []
        if found.gains:
            chance = ", which may be chance" if found.says in ("level", "unknown") else ""
            where = "ahead" if fmean(found.gains) >= 0 else "behind"
            parts.append(f"is {where} by {self.size(fmean(found.gains))}{chance} ({self.told_interval(found.gains)})")
        if found.rescued:
            parts.append(f"stays finite in {count(found.rescued, 'seed')} in which the other diverges")
        if found.lost:
            parts.append(f"diverges in {count(found.lost, 'seed')} in which the other does not")
        return f"With {mine.size:,} samples for both, the trained start {', and '.join(parts)}."

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
        if point.failed:
            return -math.inf * self.sign
        return point.lowest if self.better == "max" else point.highest

    def _verdict(self, after: Point, before: Point) -> Verdict:
        """How one size, or one start, stands to another, as a comparison says it."""
        arms = [
            Arm("", "", point.scores, point.failed, dict.fromkeys([*point.scores, *point.failed], ""))
            for point in (before, after)
        ]
        pair = Comparison(self.name, self.metric, self.better, self.split, self.scored, self.seeds, tuple(arms))
        return pair.verdict(arms[1])

    # ---- as a table and as data

    def table(self) -> list[tuple[str, ...]]:
        """Rows of cells, the head first."""
        several = len(self.lines) > 1
        head = ("samples", self.what, "lowest to highest", "seconds a run")
        rows: list[tuple[str, ...]] = [(("start", *head) if several else head)]
        for line in self.lines:
            for point in line.points:
                ends = amount(self.metric, point.lowest), amount(self.metric, point.highest)
                spread = [" to ".join(ends)] if point.scores else []
                failed = [f"{len(point.failed)} failed"] if point.failed else []
                cells = (
                    f"{point.size:,}",
                    amount(self.metric, point.mean) if point.scores else "none",
                    ", ".join([*spread, *failed]),
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
                            "scores": {str(seed): score for seed, score in point.scores.items()},
                            "failed": {str(seed): folder for seed, folder in point.failed.items()},
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


def _verb(number: int, verb: str) -> str:
    """A verb in its third person, or in the plural."""
    return verb if number == 1 else verb.removesuffix("s")
