"""Runs whose folder need not exist: what a report reads of them is given. And what comparisons and cures leave in a folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from journals import made, started, stepped, valid
from wellfit.events import Ended, Event
from wellfit.recipe import Recipe
from wellfit.report.comparison import Arm, Comparison
from wellfit.run import Run

EVIL = "<script>window.taken = 1</script>"


class Told(Run):
    """A run of which everything that a report reads is said here."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        events: Sequence[Event],
        environment: Mapping[str, Any] | None = None,
        task: Mapping[str, Any] | None = None,
        findings: Sequence[dict[str, Any]] = (),
        review: Mapping[str, Any] | None = None,
        memory: Mapping[str, Any] | None = None,
    ):
        super().__init__(folder)
        self._recipe, self._events = recipe, list(events)
        self._environment, self._task = dict(environment or {}), dict(task or {})
        self._findings, self._review, self._memory = list(findings), dict(review or {}), dict(memory or {})

    recipe = property(lambda self: self._recipe)
    environment = property(lambda self: self._environment)
    task = property(lambda self: self._task)

    def events(self) -> list[Event]:
        return self._events

    def findings(self) -> list[dict[str, Any]]:
        return self._findings

    def review(self) -> dict[str, Any]:
        return self._review

    def memory(self) -> dict[str, Any]:
        return self._memory


def trained(place: Path, name: str, loss: float, accuracy: float) -> str:
    """A run of six steps on disk; its folder."""
    course = [*stepped(1, 2, 3), valid(3, loss, accuracy), *stepped(4, 5, 6, loss=loss), valid(6, loss / 2, accuracy)]
    return str(made(place, [started(), *course, Ended(6, "finished", 1.0)], name).folder)


def compared(place: Path) -> Comparison:
    """Two ways over two seeds, the runs of which are there."""
    arms = []
    for name, loss, accuracy in (("before", 2.0, 0.5), ("after", 0.5, 0.9)):
        folders = {seed: trained(place, f"{name}-seed{seed}", loss + seed / 10, accuracy) for seed in (0, 1)}
        scores = {seed: accuracy + seed / 100 for seed in (0, 1)}
        arms.append(Arm(name, f"{name} {EVIL}", scores, {}, folders, 1.5, 6))
    return Comparison("digits", "accuracy", "max", "test", 1000, (0, 1), tuple(arms), str(place), notes=("a note",))


def treated(folder: Path) -> None:
    """Puts into a run's folder what a cure leaves there."""
    place = folder / "cure"
    place.mkdir(parents=True)
    change = ["training.max_grad_norm", None, 1.0]
    tried = {
        "remedy": EVIL, "finding": "exploding-gradients", "changes": [change], "before": None, "after": 0.2, "trained": True,
        "verdict": EVIL, "adopted": True,
    }  # fmt: skip
    failed = tried | {"remedy": "no-momentum", "changes": [], "trained": False, "adopted": False, "verdict": ""}
    kept = {
        "run": "elsewhere", "findings": ["exploding-gradients"], "metric": "loss", "tried": [tried, failed], "changes": [change],
        "reason": f"Nothing is found any more. {EVIL}", "steps": 24, "steps_of_a_run": 6, "left": [],
        "comparison": compared(place).as_dict(), "recipe": None,
    }  # fmt: skip
    (place / "cure.json").write_text(json.dumps(kept), encoding="utf-8")
