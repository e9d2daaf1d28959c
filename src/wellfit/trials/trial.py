"""Trials: runs that are compared. Each is a whole run in a folder of its own with a recipe that repeats it alone.

So a comparison that was stopped goes on with the same call, seeds can be added later, and nothing is trained twice. What a
trial reached is read from its folder, whoever trained it.

    >>> trial = Trial(recipe.override({"training.seed": 1}), folder / "clip-seed1")
    >>> run = trained(trial)
    >>> outcome(trial.folder, "valid").scores["loss"]
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wellfit import api
from wellfit.errors import RunError
from wellfit.events import Ended, Started
from wellfit.recipe import Recipe
from wellfit.run import CHECKPOINTS, Run
from wellfit.run import RECIPE as RECIPE_FILE

IDLE = ("name", "checkpoints.", "training.log_every", "hardware.device")  # what changes nothing that is compared
OVER = ("finished", "early-stopping", "loss-not-finite")


@dataclass(frozen=True)
class Trial:
    """One training: what decides it, and where it is kept."""

    recipe: Recipe
    folder: Path

    @property
    def begun(self) -> bool:
        return (self.folder / RECIPE_FILE).is_file()


@dataclass(frozen=True)
class Outcome:
    """Of a run that is over."""

    scores: Mapping[str, float]
    failed: bool  # the loss was not finite
    steps: int
    seconds: float | None  # None if a part of it was not clocked


def mark(recipe: Recipe) -> str:
    """Six hexadecimal digits that tell what a recipe trains: two that train the same, but for the seed, have the same."""
    idle = (*IDLE, "training.seed")
    decides = {path: repr(value) for path, value in recipe.flat().items() if not path.startswith(idle)}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:6]


def over(trial: Trial) -> bool:
    """Whether this trial is over. Raises RunError if another recipe was trained in its place.

    What the trial leaves open and the run derived or measured does not count, nor what only names.
    """
    if not trial.begun:
        return False
    run = Run.open(trial.folder)
    trained = run.recipe
    changes = [
        change
        for change in trial.recipe.diff(trained)
        if not change.path.startswith(IDLE)
        and not (change.before in (None, "auto") and not _chosen(trained, change.path))
    ]
    if changes:
        first = changes[0]
        raise RunError(
            f"The run {trial.folder} is of another recipe: its `{first.path}` is {first.after!r}, and now {first.before!r} is asked for"
            f"{f' ({len(changes) - 1} more)' if len(changes) > 1 else ''}. Name another folder, or delete that one."
        )
    ended = run.ended()
    return ended is not None and ended.reason in OVER


def same_data(trial: Trial, fingerprint: str) -> None:
    """Raises RunError for a trial that is over and was trained on data with another fingerprint."""
    then = Run(trial.folder).environment.get("data_fingerprint")
    if then and then != fingerprint:
        raise RunError(
            f"The run {trial.folder} was trained on other data than `data.source` holds now, so it cannot stand beside new runs. Name another "
            "folder, or delete that one."
        )


def _chosen(recipe: Recipe, path: str) -> bool:
    return recipe.origin(path).by not in ("derived", "default", "measured")


def trained(trial: Trial) -> Run:
    """The trial's run, from the start, or on from where it stopped."""
    if trial.begun:
        return api.resume(trial.folder, quiet=True, yardsticks=False)
    return api.fit_recipe(trial.recipe, folder=trial.folder, quiet=True, yardsticks=False)


def finished(trial: Trial, weights: bool = False) -> bool:
    """Trains the trial if it is not over; whether it is now. What only a run that goes on needs is deleted then."""
    if not over(trial):
        ended = trained(trial).ended()
        if ended is None or ended.reason not in OVER:
            return False
    let_go(trial.folder, weights)
    return True


def let_go(folder: Path, weights: bool) -> None:
    """Deletes what only a run that goes on needs: all checkpoints, or all but the best."""
    place = folder / CHECKPOINTS
    kept = None
    if weights:
        with contextlib.suppress(OSError):
            kept = (place / ("best" if (place / "best").is_file() else "latest")).read_text(encoding="utf-8").strip()
    for checkpoint in place.glob("step-*"):
        if checkpoint.name != kept:
            shutil.rmtree(checkpoint, ignore_errors=True)
    if kept is None:
        for pointer in ("best", "latest"):
            (place / pointer).unlink(missing_ok=True)


def outcome(folder: Path, split: str) -> Outcome | None:
    """What a run that is over reached; None if there is none, or it is not over."""
    if not (folder / RECIPE_FILE).is_file():
        return None
    run = Run(folder)
    events = run.events()
    ended = next((event for event in reversed(events) if isinstance(event, Ended)), None)
    if ended is None or ended.reason not in OVER:
        return None
    whole = all(event.step == 0 for event in events if isinstance(event, Started))
    return Outcome(
        run.scores(split),
        ended.reason == "loss-not-finite",
        ended.step,
        ended.seconds if whole and ended.seconds else None,
    )
