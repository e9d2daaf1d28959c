"""Object detection on real data, bccd (blood cells), beside torchvision's reference recipe for the same network.

    python bench/detection.py                # 500 seconds of training for each, on one core
    python bench/detection.py --seconds 200 --seed 1

The yardstick is references/detection/train.py of torchvision, written out as a plain loop: SGD with momentum 0.9, a learning
rate of 0.02 for 16 pictures and in proportion for fewer, weight decay 1e-4, a linear warmup over the first epoch (at most
1,000 steps), drops to a tenth after 16/26 and 22/26 of the steps, mirrored pictures. Both train the same network from the
same kind of untrained weights on the same pictures of the same size, for as many steps as fit into the time; both are scored
on the same test pictures. Seconds are those of the processor, so that other work on the machine does not count; evaluation is
left out of them. Prints the scores, the seconds and whether the bar (mAP50 no worse) is met; exits with 1 if not.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from wellfit import api
from wellfit.data.batches import Held, OfSamples, Order, seed_everything
from wellfit.data.source import load
from wellfit.events import Evaluated, Event, Started
from wellfit.recipe import Augment, Recipe
from wellfit.tasks.object_detection import Detection, network
from wellfit.train.evaluate import evaluate

DATA = Path(os.environ.get("WELLFIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
BATCH = 4
PROBED = 6  # steps whose time is taken


def recipe(seed: int) -> Recipe:
    """What is changed of the defaults, for both."""
    return Recipe().override(
        {
            "data.source": str(DATA / "bccd"), "task": "object-detection", "model.kind": "faster-rcnn", "data.augment.flip": True,
            "training.batch_size": BATCH, "training.seed": seed, "hardware.device": "cpu",
        }
    )  # fmt: skip


def reference(chosen: Recipe, seconds: float, norm: str) -> tuple[dict[str, float], int, float]:
    """Scores on the test pictures, steps and seconds of the plain loop."""
    chosen = chosen.override({"model.norm": norm})
    loaded = load(chosen.data, chosen.task)
    seed = chosen.training.seed
    seed_everything(seed)
    model = network(chosen, {**loaded.columns, "classes": list(loaded.classes)}).train()
    batches = OfSamples(loaded.train.varied(Augment(flip=True), seed), Order(len(loaded.train), BATCH, seed))
    rate = 0.02 * BATCH / 16
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=1e-4)
    warmup, step, total, spent = min(1000, batches.steps_per_epoch - 1), 0, 10**9, 0.0
    while step < total:
        began = time.process_time()
        factor = 0.1 ** sum(step >= share * total for share in (16 / 26, 22 / 26))
        if step < warmup:
            factor *= 0.001 + 0.999 * step / warmup
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        [(images, targets)] = batches.take()
        loss = model(images, targets).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step, spent = step + 1, spent + time.process_time() - began
        if step == PROBED:
            total = max(PROBED + 1, int(seconds / (spent / step)))
    return evaluate(model, Detection(), Held.of_samples(loaded.test, BATCH)), step, spent


def ours(chosen: Recipe, steps: int, changes: dict[str, Any]) -> tuple[dict[str, float], float]:
    """Scores on the test pictures and the seconds of training."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as root:
        run = api.fit_recipe(
            chosen, set={"training.steps": steps, "evaluation.every": 0.2, **changes}, root=root, quiet=True,
            observers=[clock],
        )  # fmt: skip
        return run.scores("test"), clock.spent


class Clock:
    """Seconds of the processor from event to event, but for those that end with an evaluation."""

    def __init__(self) -> None:
        self.spent, self.mark = 0.0, time.process_time()

    def __call__(self, event: Event) -> None:
        now = time.process_time()
        if not isinstance(event, Started | Evaluated):
            self.spent += now - self.mark
        self.mark = now


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=500.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reference-norm", default="batch", choices=("batch", "group"))
    parser.add_argument("--only", choices=("ours", "reference"))
    parser.add_argument("--steps", type=int, default=0, help="for `--only ours`")
    parser.add_argument("--set", action="append", default=[], help="changes to ours")
    options = parser.parse_args()
    if not (DATA / "bccd").is_dir():
        print(f"skipped: there is no {DATA / 'bccd'}; set WELLFIT_DATA")
        return 0
    torch.set_num_threads(1)
    chosen, steps, theirs = recipe(options.seed), options.steps, {"map50": 0.0}
    if options.only != "ours":
        theirs, steps, spent = reference(chosen, options.seconds, options.reference_norm)
        print(f"reference: {told(theirs)}, {steps} steps, {spent:.0f} s", flush=True)
    if options.only == "reference":
        return 0
    changes = dict(one.split("=", 1) for one in options.set)
    scores, spent = ours(chosen, steps, changes)
    print(f"wellfit:   {told(scores)}, {steps} steps, {spent:.0f} s {changes or ''}")
    met = scores["map50"] >= theirs["map50"]
    print("met" if met else "MISSED")
    return 0 if met else 1


def told(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {scores[name]:.4f}" for name in ("map50", "map", "loss"))


if __name__ == "__main__":
    sys.exit(main())
