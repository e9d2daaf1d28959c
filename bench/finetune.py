"""Fine-tuning on real data with real weights, each strategy beside the others and beside training from scratch.

    python bench/finetune.py                     # all rows whose data is here
    python bench/finetune.py resnet --seeds 3    # one of them

Data and weights are read from `$WELLFIT_DATA` (default: ../shared/data beside the project). Each row prints what every
strategy reached, the share of parameters that learnt, and seconds, and whether its bar is met. Exits with 1 if one is missed.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pixels import unpacked
from wellfit import api
from wellfit.environment import environment

DATA = Path(os.environ.get("WELLFIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
Said = tuple[bool, str]


def scores(settings: Mapping[str, Any], metric: str, seeds: int, split: str = "test") -> tuple[list[float], float]:
    """The metric for each seed, and the mean seconds."""
    found, began = [], time.perf_counter()
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as root:
            run = api.fit_recipe(api.Recipe(), set={**settings, "training.seed": seed}, root=root, quiet=True)
            found.append(run.scores(split)[metric])
    return found, (time.perf_counter() - began) / seeds


def line(name: str, found: list[float], seconds: float) -> str:
    spread = f", {min(found):.4f} to {max(found):.4f}" if len(found) > 1 else ""
    return f"    {name:14} {statistics.mean(found):.4f}{spread}, {seconds:.0f} s"


def resnet(seeds: int) -> Said:
    """ResNet-20 of CIFAR-10 on its JPEGs, which cost it ten points: at least 6 of them back; 150 steps of 64 images each."""
    with tempfile.TemporaryDirectory() as folder:
        weights = {"finetune.weights": str(DATA / "w_cifar_resnet" / "resnet20-12fca82f.th")}
        base = {
            "data.source": str(unpacked(DATA / "cifar10_jpg", Path(folder))),
            "task": "image-classification", "model": {"kind": "resnet", "depth": 20, "stem": "cifar"},
            "data.augment.shift": 4, "data.augment.flip": True, "training.steps": 150, "training.batch_size": 64, "evaluation.every": 0.5,
        }  # fmt: skip
        before, _ = scores({**base, **weights, "training.steps": 1, "optimizer.learning_rate": 1e-12}, "accuracy", 1)
        told, best = [line("as it comes", before, 0)], 0.0
        for strategy in ("scratch", "frozen", "full", "differential", "progressive", "recipe"):
            changes = {} if strategy == "scratch" else {**weights, "finetune.strategy": strategy}
            if strategy == "recipe":
                changes["finetune.head_epochs"] = 0.05  # 35 of the 150 steps
            found, seconds = scores({**base, **changes}, "accuracy", seeds)
            told.append(line(strategy, found, seconds))
            print(told[-1], flush=True)
            best = best if strategy == "scratch" else max(best, statistics.mean(found))
    won = 100 * (best - before[0])
    return won >= 6, f"{won:.1f} points won back of {100 * before[0]:.1f} %; bar 6"


ROWS: dict[str, tuple[tuple[str, ...], Callable[[int], Said]]] = {
    "resnet": (("cifar10_jpg", "w_cifar_resnet"), resnet),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    here = environment()
    print(f"{here['processor']}, {here['cores']} cores, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    missed = 0
    for name in asked.rows:
        needed, run = ROWS[name]
        absent = [folder for folder in needed if not (DATA / folder).is_dir()]
        if absent:
            print(f"{name:10} skipped: there is no {', '.join(absent)} in {DATA}; set WELLFIT_DATA")
            continue
        met, says = run(asked.seeds)
        missed += not met
        print(f"{name:10} {'ok    ' if met else 'MISSED'} {says}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
