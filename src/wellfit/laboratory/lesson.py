"""What came of a pathology: the runs with the fault and with the cure, what the doctor said of them, and both in numbers and words.

Nothing is judged here. A finding is told only if the doctor made it in one of these runs; where it did not, that is said.

    >>> lesson.named, lesson.accuracy("faulty").mean
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from wellfit.laboratory.experiment import Trial
from wellfit.laboratory.pathologies import Pathology
from wellfit.report.words import count, number

LAST = 20  # steps of which the mean is told as the loss at the end
WIDTH = 100


@dataclass(frozen=True)
class Spread:
    """A number over seeds; NaN where a seed's is not finite."""

    mean: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if not values or not all(map(math.isfinite, values)):
            return cls(math.nan, math.nan, math.nan)
        return cls(fmean(values), min(values), max(values))


@dataclass(frozen=True)
class Found:
    """What the doctor said of one faulty run. `told_at` is the step at which it spoke, `cause` the id that it stands under."""

    id: str
    severity: str
    says: str
    confidence: float
    evidence: Mapping[str, Any]
    seed: int
    told_at: int
    at_the_end: bool
    cause: str = ""


@dataclass(frozen=True)
class Lesson:
    """A pathology and its runs, one for each seed. `healthy` are the cured runs where the cure undoes the fault."""

    pathology: Pathology
    faulty: tuple[Trial, ...]
    cured: tuple[Trial, ...]
    healthy: tuple[Trial, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(trial.seed for trial in self.faulty)

    @cached_property
    def found(self) -> Found | None:
        """The finding that was expected, as the doctor made it in the first run in which it did; None if it never did."""
        wanted = self.pathology.finding
        return next((_found(trial, one, cause) for trial in self.faulty for one, cause in trial.told() if one["id"] == wanted), None)  # fmt: skip

    @property
    def named(self) -> int:
        """In how many of the faulty runs the doctor made the finding that was expected."""
        return sum(any(one["id"] == self.pathology.finding for one, _ in trial.told()) for trial in self.faulty)

    @property
    def first(self) -> int:
        """In how many it was the first cause that the doctor named."""
        return sum(bool(t.findings) and t.findings[0]["id"] == self.pathology.finding for t in self.faulty)

    @property
    def others(self) -> tuple[str, ...]:
        """Ids of what else it found in the faulty runs."""
        ids = [one["id"] for trial in self.faulty for one, _ in trial.told()]
        return tuple(dict.fromkeys(one for one in ids if one != self.pathology.finding))

    @property
    def left(self) -> tuple[str, ...]:
        """Ids of what the doctor still found in the cured runs."""
        return tuple(dict.fromkeys(one["id"] for trial in self.cured for one, _ in trial.told()))

    def trials(self, of: str) -> tuple[Trial, ...]:
        """The runs of a program: faulty, cured or healthy."""
        return {"faulty": self.faulty, "cured": self.cured, "healthy": self.healthy}[of]

    def accuracy(self, of: str) -> Spread:
        """The held-out accuracy at the end, a share of 1."""
        return Spread.of([trial.accuracy[-1] for trial in self.trials(of)])

    def loss(self, of: str) -> Spread:
        """The training loss at the end, the mean of the last steps."""
        return Spread.of([fmean(trial.loss[-LAST:]) for trial in self.trials(of)])

    # ---- in words

    def rows(self) -> list[tuple[str, str, str]]:
        """A table of what was trained, the loss and the accuracy at the end; the head first."""
        kinds = {"faulty": "with the fault", "cured": "cured"}
        if not self.pathology.undone:
            kinds["healthy"] = "without either"
        head = ("", "training loss at the end", "held-out accuracy")
        return [head, *((name, _told(self.loss(of), number), _told(self.accuracy(of), share)) for of, name in kinds.items())]  # fmt: skip

    @property
    def doctor_says(self) -> str:
        """What the doctor said of the fault, or that it did not name it."""
        if self.found is None:
            said = f"It found {', '.join(self.others)}." if self.others else "It found nothing at all."
            return f"The doctor did not name it ({self.pathology.finding}) in {count(len(self.seeds), 'run')}. {said}"
        return self.found.says

    @property
    def when(self) -> str:
        """When the doctor spoke, and in how many runs."""
        if self.found is None:
            return f"not named in {count(len(self.seeds), 'run')}"
        at = "at the end" if self.found.at_the_end else f"at step {self.found.told_at}"
        return f"{at}; in {self.named} of {count(len(self.seeds), 'run')}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data: what was done, what the doctor said, and the numbers by seed."""
        one = self.pathology
        return {
            "name": one.name, "title": one.title, "explains": list(one.explains), "source": one.source, "scene": one.scene_is,
            "fault": list(one.fault_diff), "cure": list(one.cure_diff), "remedy": one.words.words, "expected": one.finding,
            "named": self.named, "named_first": self.first, "runs": len(self.seeds),
            "found": None if self.found is None else {
                "id": self.found.id, "severity": self.found.severity, "says": self.found.says, "seed": self.found.seed,
                "told_at": self.found.told_at, "under": self.found.cause, "evidence": dict(self.found.evidence),
            },
            "others": list(self.others), "left_after_the_cure": list(self.left),
            "results": {
                of: {
                    "accuracy": {str(t.seed): _plain(t.accuracy[-1]) for t in self.trials(of)},
                    "loss": {str(t.seed): _plain(fmean(t.loss[-LAST:])) for t in self.trials(of)},
                    "seconds": {str(t.seed): round(t.seconds, 2) for t in self.trials(of)},
                }
                for of in ("faulty", "cured", *(() if one.undone else ("healthy",)))
            },
        }  # fmt: skip

    def __str__(self) -> str:
        one = self.pathology
        parts = [one.title, _wrapped(f"{' '.join(one.explains)} [{one.source}]")]
        parts.append(f"\nThe fault{f', in {one.scene_is}' if one.scene_is else ''}:")
        parts += [f"    {line}" for line in one.fault_diff]
        if self.found is None:
            parts += ["\nThe doctor:", _wrapped(self.doctor_says)]
        else:
            under = f", as a symptom of {self.found.cause}" if self.found.cause else ""
            sure = "" if self.found.confidence >= 0.9 else f", {self.found.confidence:.0%} sure"
            parts.append(f"\nThe doctor, {self.when}:")
            parts.append(_wrapped(f"{self.found.severity}: {self.found.id}{under}{sure}. {self.found.says}"))
            if self.found.evidence:
                parts.append(_wrapped(f"Evidence: {evidence(self.found.evidence)}."))
            if self.others:
                parts.append(_wrapped(f"It also found {', '.join(self.others)}."))
        parts += ["\nThe cure:", _wrapped(one.words.words), *(f"    {line}" for line in one.cure_diff)]
        if self.left:
            parts.append(_wrapped(f"Of the cured runs the doctor still says: {', '.join(self.left)}."))
        rows = self.rows()
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        parts += [
            "",
            *(f"  {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}".rstrip() for row in rows),
        ]
        parts.append(f"  ({'one seed' if len(self.seeds) == 1 else f'the mean of {len(self.seeds)} seeds, and lowest to highest'})")  # fmt: skip
        return "\n".join(parts)


def evidence(numbers: Mapping[str, Any]) -> str:
    """What was measured, as words."""
    told = []
    for name, value in numbers.items():
        words = name.replace("_", " ")
        told.append(f"{words} {number(float(value)) if isinstance(value, int | float) else value}")
    return ", ".join(told)


def share(value: float) -> str:
    """A share of 1 in percent."""
    return f"{100 * value:.1f} %"


def _found(trial: Trial, one: Mapping[str, Any], cause: str) -> Found:
    step = max(trial.told_at.get(one["id"], 1), one["onset_step"])  # what it sees in a step it may say before its end
    return Found(
        one["id"], one["severity"], one["says"], one["confidence"], one["evidence"], trial.seed, max(step, 1),
        step >= trial.steps[-1], cause,
    )  # fmt: skip


def _told(spread: Spread, told: Any) -> str:
    if not math.isfinite(spread.mean):
        return "NaN"
    if spread.lowest == spread.highest:
        return str(told(spread.mean))
    return f"{told(spread.mean)} ({told(spread.lowest)} to {told(spread.highest)})"


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _wrapped(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
