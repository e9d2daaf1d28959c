"""The counterfactual: a run again from one of its steps, with something changed, and all else as it was.

Order of the data, random draws, weights and the optimizer's averages at step k are those of the run; so what differs afterwards
is the change's doing. With nothing changed, every step is the same bits, which `Rerun.identical` checks. The state at a
step is that of the last checkpoint before it, trained on to there; where no checkpoint is left, from the start.

    >>> again = rerun("runs/digits", from_step=120, set={"optimizer.learning_rate": 1e-3})
    >>> print(again)
"""

import math
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from wellfit import api, distributed
from wellfit.checkpoint import Checkpoint, Checkpoints
from wellfit.environment import device as device_for
from wellfit.environment import environment
from wellfit.errors import RecipeError, RunError
from wellfit.events import Ended, Evaluated, Event, Noted, Saved, Started, Stepped
from wellfit.recipe import Change, Recipe
from wellfit.report.words import amount, change_told, chosen_scores, plain, setting, told
from wellfit.run import CHECKPOINTS, Journal, Run
from wellfit.train.setup import Job, from_recipe
from wellfit.train.switches import torch_settings

RERUNS = "reruns"  # below the run's folder


@dataclass(frozen=True)
class Rerun:
    """A run beside the one that it repeats. `str` is the comparison in words."""

    run: Run
    parent: Run
    from_step: int
    changes: tuple[Change, ...]
    steps: int  # compared with the parent's
    differs_at: int | None  # the first step whose loss, gradient norm, rate or scores are other bits
    weights_differ: bool | None  # of the last checkpoint that both have; None if they have none in common

    @property
    def identical(self) -> bool:
        """Whether all steps that both took, and the last weights that both kept, are the same bits."""
        return self.differs_at is None and self.steps > 0 and self.weights_differ is not True

    def __str__(self) -> str:
        lines = [change_told(change) for change in self.changes]
        since = f"from step {self.from_step:,}" if self.from_step else "from the start"
        if not self.changes:
            lines.append(f"Nothing was changed, {since}.")
        if self.identical:
            weights = " and the last weights" if self.weights_differ is False else ""
            lines.append(f"All {self.steps:,} steps{weights} are the same bits as the run's.")
        elif not self.changes:
            where = f"step {self.differs_at:,} is the first" if self.differs_at else "the weights differ"
            lines.append(f"It is not the same: {where}. Data, library versions or machine are not what they were.")
        if self.changes and self.other_data:
            lines.append("The training data is not what it was, so what differs is not the change's doing alone.")
        return "\n".join([*lines, *self._scores()])

    @property
    def other_data(self) -> bool:
        """Whether the two were trained on data that differ, though the change is not of the data."""
        if any(change.path.startswith("data.") for change in self.changes):
            return False
        then, now = (run.environment.get("data_fingerprint") for run in (self.parent, self.run))
        return bool(then and now and then != now)

    def _scores(self) -> list[str]:
        if not self.changes:
            return []
        stopped = self.run.ended()
        if stopped is None or stopped.reason == "interrupted":
            return ["It was stopped, so there is no score yet."]
        pairs = [(chosen_scores(one.recipe, one.events()), one.ended()) for one in (self.parent, self.run)]
        (before, ended_before), (after, ended) = pairs
        lines = []
        for which, reached in (("before", ended_before), ("now", ended)):
            if reached is not None and reached.reason == "loss-not-finite":
                lines.append(f"The run {which} failed at step {reached.step:,}: the loss was not a finite number.")
        if before is not None and after is not None:
            name = told(after.metrics, self.parent.recipe.evaluation.metric)
            if name in before.metrics:
                then, now = (amount(name, scores.metrics[name]) for scores in (before, after))
                lines.append(f"The {plain(name)} ({after.split}) was {then} and is {now}, with this one seed.")
        kept = ended.best_step if ended is not None and self.run.recipe.evaluation.restore_best else None
        if kept is not None and self.from_step and kept <= self.from_step:
            lines.append(
                f"The weights that were kept are those of step {kept:,}, before the change: nothing after it was better on the validation part."
            )
        return lines


def rerun(
    run: Run | str | Path,
    *,
    set: Mapping[str, Any] | None = None,
    from_step: int = 0,
    folder: str | Path | None = None,
    quiet: bool = False,
) -> Rerun:
    """Trains a run again from one of its optimizer steps, with dotted overrides `set`, and says what came of it.

    `from_step`: the last step that is kept; 0 begins anew. The new run lies in `folder`, or below the run's own folder, in
    `reruns/`; up to `from_step` its record is the old one's, and it can be resumed like any other.

    Raises RunError for a run whose data or model is not in its recipe, or a step that it does not have; RecipeError for a
    change that cannot be made in the middle (of the weights' shapes: begin at 0) or not at all; KeyboardInterrupt if somebody
    asked to stop before the step was reached again. After that a stop is saved, and the rerun's run has ended as interrupted.
    """
    parent = run if isinstance(run, Run) else Run.open(run)
    recipe = parent.recipe
    changed = recipe.override(set) if set else recipe
    changes = tuple(change for change in recipe.diff(changed) if change.path != "name")
    _can_be(parent, recipe, from_step)
    place = Path(folder) if folder is not None else _place(parent, from_step, changes)
    if from_step:
        _begin_in_the_middle(parent, changed, from_step, place)
        new = api.resume(place, quiet=quiet, yardsticks=False)
    else:
        new = api.fit_recipe(changed, folder=place, quiet=quiet, yardsticks=False)
    steps, differs = _compared(parent.events(), new.events(), from_step)
    resolved = tuple(c for c in recipe.diff(new.recipe) if c.path != "name" and not c.path.startswith("hardware."))
    return Rerun(new, parent, from_step, resolved if changes else (), steps, differs, _weights_differ(parent, new))


def state_at(run: Run, step: int) -> Checkpoint:
    """Weights and state of a run at one of its steps, trained there on from the last checkpoint before it.

    Raises RunError if the run does not come to the step this time, KeyboardInterrupt if somebody asked to stop before it.
    """
    recipe = run.recipe
    found = [name for name in Checkpoints(run.folder / CHECKPOINTS).names() if _step(name) <= step]
    hidden = run.folder / f".until-{step}-{secrets.token_hex(4)}"
    scratch, reason = Run(hidden), ""
    try:
        (hidden / CHECKPOINTS).mkdir(parents=True)
        for name in ("recipe.yaml", "environment.json", "task.json"):
            shutil.copyfile(run.folder / name, hidden / name)
        if found:  # the others may be damaged, in which case the one before is used
            for name in found:
                shutil.copytree(run.folder / CHECKPOINTS / name, hidden / CHECKPOINTS / name)
        place = Checkpoints(hidden / CHECKPOINTS)
        at = place.latest()
        if at is None or at.step != step:
            with distributed.joined(device_for(recipe.hardware.device)), torch_settings(recipe):
                job = from_recipe(recipe)
                job.until = step
                reason = api.turned(job, scratch)
            at = Checkpoints(hidden / CHECKPOINTS).latest()
        if at is None or at.step != step:
            if reason == "interrupted":
                raise KeyboardInterrupt(f"stopped on the way to step {step:,}, so there is no new run.")
            raise RunError(
                f"Step {step:,} of {run.folder} cannot be reached again: the run ended before it this time ({reason})."
            )
        return at
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


# ---- inside


def _can_be(run: Run, recipe: Recipe, step: int) -> None:
    if recipe.task == "given":
        raise RunError(
            f"The run {run.folder} trained a model and data that were passed to `wellfit.fit` in Python, and a run folder holds "
            "neither. Make that call again with another `set`."
        )
    distributed.alone("Repeating a run")
    taken = max((event.step for event in run.events() if isinstance(event, Stepped)), default=0)
    if not 0 <= step <= taken:
        raise RunError(f"Step {step} was asked for, and {run.folder} has steps 0 to {taken:,}.")
    total = next((event.steps for event in run.events() if isinstance(event, Started)), None)
    if total is None:
        raise RunError(
            f"The record of {run.folder} does not say how it began, so it is damaged and cannot be repeated."
        )
    if step and step >= total:
        raise RunError(f"Step {step:,} is the last of {run.folder}: nothing comes after it. Name an earlier one.")


def _place(run: Run, step: int, changes: tuple[Change, ...]) -> Path:
    """A new folder below the run's own, named by what is changed."""
    words = [f"from-{step}", *(f"{change.path.rpartition('.')[2]}={setting(change.after)}" for change in changes)]
    name = "".join(c if c.isalnum() or c in "-_=." else "-" for c in "-".join(words))[:80].strip("-.")
    place = run.folder / RERUNS / name
    number = 1
    while place.exists():
        number += 1
        place = place.with_name(f"{name}-{number}")
    return place


def _begin_in_the_middle(parent: Run, recipe: Recipe, step: int, place: Path) -> None:
    """A run folder that stands at `step`, of the changed recipe, with the parent's record up to there."""
    at = state_at(parent, step)
    per_epoch = next(event.steps_per_epoch for event in parent.events() if isinstance(event, Started))
    with distributed.joined(device_for(recipe.hardware.device)), torch_settings(recipe):
        job = from_recipe(recipe)
        _trains_on(job, step)
        notes = job.go_on_from(at.weights, at.state, per_epoch)
        best, kept = job.standing.best_step, None
        if best is not None and best != step:
            kept = Checkpoints(parent.folder / CHECKPOINTS).best()
            kept = kept if kept is not None and kept.step == best else state_at(parent, best)
        facts = environment() | {"data_fingerprint": job.fingerprint}
        run = Run.create(place.parent, job.recipe, facts, job.record, place)
        journal = Journal(run)
        before = [event for event in parent.events() if event.step <= step and not isinstance(event, Ended | Saved)]
        journal.write([*before, *(Noted(step, note) for note in notes)])
        journal.close()
        checkpoints = Checkpoints(run.folder / CHECKPOINTS, recipe.checkpoints.keep)
        if kept is not None:
            checkpoints.save(kept.step, kept.weights, kept.state, best=True)
        state = {**job.state(), "random": at.state["random"]}
        checkpoints.save(step, job.model.state_dict(), state, best=best == step)
        checkpoints.wait()


def _trains_on(job: Job, step: int) -> None:
    if step >= job.steps:
        raise RecipeError(
            f"The changed recipe has {job.steps:,} steps, so nothing comes after step {step:,}. Name an earlier one."
        )


def _step(name: str) -> int:
    return int(name.removeprefix("step-"))


def _compared(before: list[Event], after: list[Event], since: int) -> tuple[int, int | None]:
    """How many steps both took after `since`, and the first at which they are other bits."""
    found: list[dict[tuple[Any, ...], Event]] = []
    for events in (before, after):
        told: dict[tuple[Any, ...], Event] = {}
        for event in events:
            if event.step > since and isinstance(event, Stepped):
                told[event.step, "step"] = event
            if event.step > since and isinstance(event, Evaluated) and event.of == "model" and event.split == "valid":
                told[event.step, "valid"] = event
        found.append(told)
    one, other = found
    common = sorted(one.keys() & other.keys())
    differs = next((key[0] for key in common if not _same(one[key], other[key])), None)
    return len([key for key in common if key[1] == "step"]), differs


def _same(one: Event, other: Event) -> bool:
    """Whether two events of a kind tell the same. A NaN is the same as another."""
    if isinstance(one, Stepped) and isinstance(other, Stepped):
        pairs = [(one.loss, other.loss), (one.grad_norm, other.grad_norm), (one.learning_rate, other.learning_rate)]
        return all(_equal(a, b) for a, b in pairs)
    if isinstance(one, Evaluated) and isinstance(other, Evaluated):
        named = replace(one, metrics={}) == replace(other, metrics={})
        names, others = one.metrics.keys(), other.metrics.keys()
        return named and names == others and all(_equal(one.metrics[name], other.metrics[name]) for name in names)
    return one == other


def _equal(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def _weights_differ(parent: Run, new: Run) -> bool | None:
    """Of the last step of which both have a checkpoint."""
    mine, theirs = Checkpoints(parent.folder / CHECKPOINTS), Checkpoints(new.folder / CHECKPOINTS)
    for name in theirs.names():
        if name not in mine.names():
            continue
        one, other = mine.read(name), theirs.read(name)
        return one.weights.keys() != other.weights.keys() or any(
            not torch.equal(value, other.weights[key])
            if isinstance(value, torch.Tensor)
            else value != other.weights[key]
            for key, value in one.weights.items()
        )
    return None
