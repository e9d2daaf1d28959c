"""Runs that were never trained: folders with a recipe and a journal, as a training would have left them."""

import json
import math
from pathlib import Path

from wellfit.events import Ended, Evaluated, Event, Noted, Paced, Saved, Started, Stepped, Vitals
from wellfit.recipe import Recipe
from wellfit.run import FINDINGS, Journal, Run

BEGAN = 1_800_000_000.0
FINDING = {
    "id": "overfitting", "severity": "warning", "onset_step": 3, "confidence": 0.8, "says": "The gap grows: `valid` rises.",
    "evidence": {"gap": 0.5}, "remedies": [{"words": "Stop earlier.", "change": ["stop-early"]}],
}  # fmt: skip


def started(step: int = 0, steps: int = 6, **more: object) -> Started:
    return Started(step, steps, 3, 10, 10, 8, 2, 4, 4, 1, 1, "cpu", "fp32", BEGAN + 100 * step, **more)  # type: ignore[arg-type]


def stepped(*steps: int, loss: float = 1.0) -> list[Event]:
    """Steps as one flush tells them: half a second each, the loss of a step being `loss` / step."""
    last = steps[-1]
    paced = Paced(last, 0.5, 8.0, 0.1, 10**6)
    return [*(Stepped(step, loss / step, 2.0, 0.1 / step) for step in steps), paced]


def valid(step: int, loss: float, accuracy: float) -> Evaluated:
    return Evaluated(step, "valid", {"loss": loss, "accuracy": accuracy})


WHOLE: list[Event] = [
    Noted(0, "The set is small."),
    started(),
    *stepped(1, 2, 3),
    valid(3, 0.9, 0.6),
    Saved(3, 1000, 0.1, best=True),
    Noted(3, "Doctor, warning from step 3: overfitting. The gap grows."),
    Vitals(3, "layer", "0.weight", {"norm": 1.0}),
    *stepped(4, 5, 6),
    valid(6, math.nan, 0.5),
    Evaluated(3, "test", {"loss": 0.8, "accuracy": 0.7}, samples=10),
    Evaluated(3, "test", {"accuracy": 0.75}, of="logistic regression"),
    Ended(6, "finished", 3.0, 3, 0.9),
]
KILLED = WHOLE[:7]  # after its first evaluation


def made(
    root: Path, events: list[Event] = WHOLE, name: str = "toy", findings: tuple[dict, ...] = (), torn: str = ""
) -> Run:
    """A run of that name with these events."""
    environment = {"python": "3", "started": BEGAN, "name": name}
    run = Run.create(root, Recipe(name=name), environment, {"classes": ["a"]}, folder=root / name)
    journal = Journal(run)
    journal.write(events)
    journal.close()
    with run.folder.joinpath("events.jsonl").open("a") as file:
        file.write(torn)
    if findings:
        run.folder.joinpath(FINDINGS).write_text("".join(json.dumps(one) + "\n" for one in findings))
    return run
