"""Every preset as ONNX and as PyTorch's exported program: how far what was written is from the run's own network.

    python bench/export.py                       # all presets, 20 steps each
    python bench/export.py digits wine --steps 200

Each is trained for a few steps, exported, and compared on samples of its own data, in batches of several sizes of which one was
traced. `mnist` needs its files: `--mnist FOLDER`. Leaves with 1 where a preset exports with a difference above 1e-4, or one that is
not known to be no graph does not export.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

import wellfit
from wellfit.deliver.graph import BAR, NOT_A_GRAPH
from wellfit.recipe import presets

FORMATS = ("onnx", "torch-export")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("presets", nargs="*", help="names of presets; all of them, if none is named")
    arguments.add_argument("--steps", type=int, default=20)
    arguments.add_argument("--mnist", help="the folder of MNIST's files")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    missed = 0
    print("| preset | task | network | format | difference | batches | seconds |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for name in chosen.presets or sorted(presets()):
            if name == "mnist" and chosen.mnist is None:
                print("| mnist | image-classification | | | its files were not named (`--mnist FOLDER`) | | |")
                continue
            settings = {"training.steps": chosen.steps, "training.doctor": False}
            settings |= {"data.source": chosen.mnist} if name == "mnist" else {}
            run = wellfit.fit_recipe(name, set=settings, folder=Path(place) / name, quiet=True, yardsticks=False)
            task, kind = run.task["task"], run.recipe.model.kind
            for format in FORMATS:
                began = time.perf_counter()
                try:
                    done = wellfit.export(run, Path(place) / f"{name}-{format}", format)
                except wellfit.WellfitError as error:
                    told, sizes = str(error), ""
                    missed += task not in NOT_A_GRAPH
                else:
                    told, sizes = f"{done.apart:.1e}, {done.measured.on}", ", ".join(map(str, done.measured.sizes))
                    missed += not done.apart <= BAR
                spent = time.perf_counter() - began
                print(f"| {name} | {task} | {kind} | {format} | {told} | {sizes} | {spent:.1f} |", flush=True)
    print(
        f"\n{'pass' if not missed else 'FAIL'}: {missed} missed the bar of {BAR:g} or did not export (torch {torch.__version__})"
    )
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
