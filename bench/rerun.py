"""A run again from random steps with nothing changed: every step, score and weight is compared.

    python bench/rerun.py                # 20 steps of a ConvNet with dropout and augmentation, on digits
    python bench/rerun.py --steps 5 --set model.kind=vit

Exits with 1 if one of them differs by a bit.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

import torch

import wellfit
from wellfit.environment import environment
from wellfit.recipe import assignment


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="how many random steps")
    parser.add_argument("--set", nargs="*", default=[], help="overrides of the preset digits")
    asked = parser.parse_args()
    here = environment()
    print(f"{here['processor']}, {here['cores']} cores, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as root:
        chosen = {"training.epochs": 4, **dict(map(assignment, asked.set))}
        run = wellfit.fit_recipe("digits", set=chosen, folder=Path(root) / "run", quiet=True, yardsticks=False)
        ended = run.ended()
        assert ended is not None
        same = 0
        for step in random.Random(0).sample(range(ended.step), asked.steps):
            found = wellfit.rerun(run, from_step=step, quiet=True)
            equal = found.identical and found.run.scores("test") == run.scores("test")
            same += equal
            print(
                f"from step {step:3}: {found.steps} steps {'and the weights are the same bits' if equal else 'DIFFER'}",
                flush=True,
            )
    print(f"{same} of {asked.steps} bit-identical")
    return 0 if same == asked.steps else 1


if __name__ == "__main__":
    sys.exit(main())
