"""How well the presets do, over several seeds, beside the bars and the classical yardsticks.

    python bench/accuracy.py                 # all presets whose data is here
    python bench/accuracy.py digits --seeds 10

MNIST is read from `$WELLFIT_DATA/mnist` (default: ../shared/data beside the project). The split is fixed; seeds change
weights, order, augmentation and dropout. Exits with 1 if a bar is missed.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from wellfit import api
from wellfit.environment import environment
from wellfit.events import Evaluated, Stepped

DATA = Path(os.environ.get("WELLFIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
METRICS = {
    "digits": "accuracy",
    "mnist": "accuracy",
    "wine": "accuracy",
    "breast-cancer": "accuracy",
    "diabetes": "rmse",
}
BARS = {"digits": 0.985, "mnist": 0.992}
SEEDS = {"mnist": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=list(METRICS))
    parser.add_argument("--seeds", type=int, default=None, help="how many (default 5; 1 for mnist)")
    asked = parser.parse_args()
    here = environment()
    print(f"{here['processor']}, {here['cores']} cores, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    missed = [name for name in asked.presets if not measure(name, asked.seeds or SEEDS.get(name, 5))]
    sys.exit(1 if missed else 0)


def measure(name: str, seeds: int) -> bool:
    metric, scores, seconds, yardsticks = METRICS[name], [], [], {}
    settings = {}
    if name == "mnist":
        if not (DATA / "mnist").is_dir():
            print(f"mnist          skipped: no data at {DATA / 'mnist'}; set WELLFIT_DATA")
            return True
        settings["data.source"] = str(DATA / "mnist")
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as root:
            began = time.perf_counter()
            run = api.fit_recipe(name, set={**settings, "training.seed": seed}, root=root, quiet=True)
            events = run.events()
            tests = [event for event in events if isinstance(event, Evaluated) and event.split == "test"]
            scores += [event.metrics[metric] for event in tests if event.of == "model"]
            yardsticks |= {event.of: event.metrics[metric] for event in tests if event.of != "model"}
            seconds.append(run.ended().seconds if not yardsticks else time.perf_counter() - began)
            steps = max(event.step for event in events if isinstance(event, Stepped))
    spread = f"{min(scores):.4f} to {max(scores):.4f}" if seeds > 1 else ""
    print(
        f"{name:14} {metric} {statistics.mean(scores):.4f}  {spread}  {seeds} seed(s), {steps} steps, {statistics.mean(seconds):.1f} s",
        flush=True,
    )
    for of, score in yardsticks.items():
        print(f"{'':14} {metric} {score:.4f}  {of}")
    if yardsticks:
        better = max if metric == "accuracy" else min
        best = better(yardsticks.values())
        mean = statistics.mean(scores)
        beaten = better(mean, best) != mean
        print(f"{'':14} {'is beaten by' if beaten else 'is at least as good as'} the better yardstick on average")
    bar = BARS.get(name)
    if bar is not None:
        print(f"{'':14} bar {bar}: {'met by every seed' if min(scores) >= bar else 'MISSED'}")
    return bar is None or min(scores) >= bar


if __name__ == "__main__":
    main()
