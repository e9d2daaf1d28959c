"""Kill training at random instants with SIGKILL, resume, and compare every bit with a run that was never stopped.

    python bench/resume.py --kills 100

Each trial trains one of the recipes below in a process of its own and kills it at a random instant: one in five over the
whole length of the process, start-up included, the others while it trains, evaluates and saves. It is resumed, killed once
more in a third of the trials, and resumed to the end. Then the weights, the optimizer's state, the random generators, the
best checkpoint, and every recorded loss, gradient norm and score must equal the uninterrupted run's, bit for bit. Exits
with 1 if one does not.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wellfit import api
from wellfit.checkpoint import Checkpoints
from wellfit.events import Ended, Evaluated, Stepped
from wellfit.recipe import Recipe
from wellfit.run import Run

SHARED = {
    "model.kind": "convnet", "model.channels": [8, 16], "training.steps": 90, "training.log_every": 7,
    "evaluation.every": 9, "checkpoints.every": 2, "data.augment.shift": 1,
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "adamw": {},
    "accumulating sgd": {
        "optimizer.kind": "sgd",
        "training.gradient_accumulation_steps": 4,
        "optimizer.nesterov": True,
    },
    "muon in bf16": {
        "optimizer.kind": "muon", "hardware.precision": "bf16",
        "model": {"kind": "mlp", "widths": [64, 64], "norm": "layer", "dropout": 0.3},
    },
    "lion, early stopping": {"optimizer.kind": "lion", "evaluation.patience": 2, "optimizer.learning_rate": 3e-3},
    "adafactor, recomputing": {"optimizer.kind": "adafactor", "hardware.activation_checkpointing": 1},
    "fp16 with loss scaling": {"hardware.precision": "fp16"},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="trials (default 100)")
    parser.add_argument("--seed", type=int, default=None, help="of the instants; drawn anew if not given")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(10**6)
    draw = random.Random(seed)
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="wellfit-resume-"))
    print(f"{asked.kills} kills, instants from seed {seed}, torch {torch.__version__}", flush=True)

    references: dict[str, Any] = {}
    lengths: dict[str, float] = {}
    trainings: dict[str, float] = {}
    for name, settings in RECIPES.items():
        began = time.perf_counter()
        finish(start(lambda name=name, settings=settings: train(settings, folder / name)), name)
        lengths[name], references[name] = time.perf_counter() - began, contents(folder / name)
        trainings[name] = Run(folder / name).ended().seconds

    failures, where = [], Counter()
    for trial in range(asked.kills):
        name = list(RECIPES)[trial % len(RECIPES)]
        target = folder / f"{trial}"
        process = start(lambda name=name, target=target: train(RECIPES[name], target))
        if draw.random() < 0.2:  # anywhere, start-up included
            landed = kill(process, draw.uniform(0, lengths[name]), target)
        else:  # while it trains, which is much shorter
            wait_for(target)
            landed = kill(process, draw.uniform(0, trainings[name]), target)
        where[landed] += 1
        again = (lambda target=target: api.resume(target, quiet=True, yardsticks=False)) if (target / "recipe.yaml").exists() else (
            lambda name=name, target=target: train(RECIPES[name], target))  # fmt: skip
        if draw.random() < 1 / 3 and landed != "after the end":
            where[f"again {kill(start(again), draw.uniform(0, lengths[name]), target)}"] += 1
            if (target / "recipe.yaml").exists():
                again = lambda target=target: api.resume(target, quiet=True, yardsticks=False)  # noqa: E731
        finish(start(again), name)
        differences = compare(references[name], contents(target))
        if differences:
            failures.append(f"trial {trial} ({name}, killed {landed}): {'; '.join(differences)}")
            print(failures[-1], flush=True)
        shutil.rmtree(target)
    for landed, count in sorted(where.items()):
        print(f"  {count:4d} killed {landed}")
    print(f"{asked.kills - len(failures)} of {asked.kills} bit-identical")
    shutil.rmtree(folder)
    sys.exit(1 if failures else 0)


def train(settings: dict[str, Any], folder: Path) -> None:
    api.fit_recipe(Recipe().override({**SHARED, **settings}), folder=folder, quiet=True, yardsticks=False)


def start(work: Callable[[], Any]) -> int:
    """The work in a process of its own, forked so that torch need not be loaded again; returns its process id."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    try:
        work()
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def kill(process: int, after: float, folder: Path) -> str:
    """SIGKILL after so many seconds; says what the process was doing."""
    time.sleep(after)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    checkpoints = Checkpoints(folder / "checkpoints")
    if not (folder / "recipe.yaml").exists():
        return "before the run had a folder"
    if any(isinstance(event, Ended) for event in Run(folder).events()):
        return "after the end"
    if list(checkpoints.folder.glob(".*.unfinished")):
        return "while saving"
    return "between saves" if checkpoints.names() else "before the first checkpoint"


def wait_for(folder: Path) -> None:
    while not (folder / "recipe.yaml").exists():
        time.sleep(0.001)


def finish(process: int, name: str) -> None:
    _, status = os.waitpid(process, 0)
    if status:
        sys.exit(f"{name}: the process that should have trained to the end failed")


def contents(folder: Path) -> dict[str, Any]:
    """Everything in a run that must not depend on having been stopped."""
    checkpoints, events = Checkpoints(folder / "checkpoints"), Run(folder).events()
    latest, best = checkpoints.latest(), checkpoints.best()
    return {
        "latest weights": latest and latest.weights,
        "latest state": latest and latest.state,
        "best weights": best and best.weights,
        "steps": [event for event in events if isinstance(event, Stepped)],
        "scores": [event for event in events if isinstance(event, Evaluated)],
        "end": [(e.step, e.reason, e.best_step, e.best_value) for e in events if isinstance(e, Ended)],
    }


def compare(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [f"{part} differ" for part in expected if not same(expected[part], found[part])]


def same(a: Any, b: Any) -> bool:
    """Equality to the last bit, through containers."""
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and a.numpy().tobytes() == b.numpy().tobytes()
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


if __name__ == "__main__":
    main()
