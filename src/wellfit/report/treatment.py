"""What a cure tried, kept and proved, in numbers and words. `trials/treatment.py` fills it in; nothing here trains or reads.

>>> print(cure)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wellfit.recipe import Change, Recipe
from wellfit.report.comparison import Comparison
from wellfit.report.words import amount, change_told, count, plain
from wellfit.run import Run

AGAIN = (
    "name",
    "training.seed",
    "hardware.device",
    "evaluation.batch_size",
)  # named, drawn, or derived anew on a machine


def differences(before: Recipe, after: Recipe) -> tuple[Change, ...]:
    """What decides something: neither names nor seeds, nor what is derived anew for a run on a machine."""
    return tuple(change for change in before.diff(after) if change.path not in AGAIN)


@dataclass(frozen=True)
class Tried:
    """One remedy, on the validation part: `before` and `after` with the run's own seed, and what further seeds say of it."""

    remedy: str
    finding: str
    changes: tuple[Change, ...]
    before: float | None  # None where the loss was not finite
    after: float | None  # None where it was not finite, or nothing was trained
    sentence: str = ""  # the paired verdict where it was judged; why, where it could not be trained
    trained: bool = True
    adopted: bool = False

    def told(self, metric: str) -> str:
        """`clip-gradients (training.max_grad_norm: not set -> 1): 2.31 -> 0.12`."""
        what = f"{self.remedy} ({', '.join(map(change_told, self.changes))})"
        if not self.trained:
            return f"{what}: not trained. {self.sentence}"
        before, after = (
            "not finite" if value is None else amount(metric, value) for value in (self.before, self.after)
        )
        return f"{what}: {before} -> {after}{', kept' if self.adopted else ''}"


@dataclass(frozen=True)
class Cure:
    """What was treated, with what, and whether it is proven to help."""

    run: Run
    findings: tuple[Mapping[str, Any], ...]  # causes at the beginning
    tried: tuple[Tried, ...]
    reason: str  # why it ended
    metric: str
    split: str  # on which the proof is scored
    steps: int  # optimizer steps of everything that was trained, the proof and measured rates included
    steps_of_a_run: int
    recipe: Recipe | None = None  # the cured one; None where nothing is proven to help
    comparison: Comparison | None = None  # the proof: before and after at full length, over seeds that chose nothing
    others: tuple[Comparison, ...] = ()  # the same runs by the metric that is usual to tell
    left: tuple[Mapping[str, Any], ...] = ()  # what the doctor finds now
    file: Path | None = None
    missing: bool = False  # it was stopped before its end

    @property
    def adopted(self) -> tuple[Tried, ...]:
        return tuple(one for one in self.tried if one.adopted)

    @property
    def changes(self) -> tuple[Change, ...]:
        """What is different in the cured recipe."""
        return differences(self.run.recipe, self.recipe) if self.recipe is not None else ()

    def __str__(self) -> str:
        lines = [f"{one['id']}: {one['says']}" for one in self.findings] or ["The doctor found nothing."]
        if self.tried:
            lines += ["", f"Tried ({plain(self.metric)} on the validation part, before -> after, with the run's seed):"]
            for one in self.tried:
                lines.append(f"  {one.told(self.metric)}")
                if one.sentence and one.trained:
                    lines.append(f"    {one.sentence}")
        if self.recipe is not None:
            lines += ["", "What helps:", *(f"  {change_told(change)}" for change in self.changes)]
        if self.comparison is not None:
            lines += ["", *map(_before_and_after, (self.comparison, *self.others)), "", *self.comparison.says]
        lines += ["", self.reason]
        if self.tried:
            runs = self.steps / self.steps_of_a_run
            lines.append(
                f"All of it took {self.steps:,} steps, as many as {count(round(runs, 1), 'run')} of this length."
            )
        useless = {one.remedy for one in self.tried if not one.adopted}
        for finding in self.left:
            lines.append(f"Left: {finding['id']}. {finding['says']} {_advice(finding, useless)}".rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from wellfit.report.notebook import html

        return html(self)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "run": str(self.run.folder), "findings": [one["id"] for one in self.findings], "metric": self.metric,
            "tried": [
                {
                    "remedy": one.remedy, "finding": one.finding, "changes": [list(change) for change in one.changes],
                    "before": one.before, "after": one.after, "trained": one.trained, "verdict": one.sentence, "adopted": one.adopted,
                }
                for one in self.tried
            ],
            "changes": [list(change) for change in self.changes], "reason": self.reason, "steps": self.steps,
            "steps_of_a_run": self.steps_of_a_run, "left": [one["id"] for one in self.left],
            "comparison": self.comparison.as_dict() if self.comparison is not None else None,
            "told": [_before_and_after(one) for one in (self.comparison, *self.others) if one is not None],
            "recipe": str(self.file) if self.file is not None else None,
        }  # fmt: skip


def _before_and_after(comparison: Comparison) -> str:
    before, after = ("not finite" if arm.failed else amount(comparison.metric, arm.mean) for arm in comparison.arms)
    over = count(len(comparison.seeds), "seed")
    return f"{comparison.what[0].upper()}{comparison.what[1:]}: {before} -> {after}, on average over {over} that chose nothing."


def _advice(finding: Mapping[str, Any], useless: set[str]) -> str:
    """The first remedy that was not tried without success."""
    for remedy in finding.get("remedies", ()):
        if not useless & set(remedy.get("change", ())):
            words = str(remedy["words"]).removeprefix("Or ")  # it stands alone here
            return words[:1].upper() + words[1:]
    return "What a recipe can change against it was tried." if finding.get("remedies") else ""
