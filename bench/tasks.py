"""Each task on real data, beside a fair yardstick on the same split in the same run.

    python bench/tasks.py                    # all whose data is here, one after another
    python bench/tasks.py generation text    # some
    python bench/tasks.py --list

Data is read from `$WELLFIT_DATA` (default: ../shared/data beside the project); a row whose data is absent is skipped aloud.
Each row prints the settings that differ from the defaults, the scores and seconds of the network and of its yardstick, and
whether its bar is met. Exits with 1 if one is missed.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wellfit import api
from wellfit.environment import environment
from wellfit.events import Evaluated

DATA = Path(os.environ.get("WELLFIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
Said = tuple[bool, str]  # whether the bar is met, and the numbers


def trained(
    settings: dict[str, Any], split: str = "test"
) -> tuple[dict[str, float], dict[str, dict[str, float]], float]:
    """Scores of the network on a split, of its yardsticks there, and the seconds of training."""
    with tempfile.TemporaryDirectory() as root:
        began = time.perf_counter()
        run = api.fit_recipe(api.Recipe(), set=settings, root=root, quiet=True)
        seconds = time.perf_counter() - began
        others = {e.of: dict(e.metrics) for e in run.events() if isinstance(e, Evaluated) and e.of != "model"}
        return run.scores(split), others, seconds


def shown(settings: dict[str, Any]) -> str:
    return " ".join(f"{path}={value}" for path, value in settings.items() if not path.startswith("data.source"))


def text() -> Said:
    """sst2: from scratch, beside TF-IDF and logistic regression on the same split."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline

    folder = DATA / "sst2"
    settings = {"data.source": str(folder / "train.tsv"), "data.valid": str(folder / "dev.tsv"), "data.test": str(folder / "test.tsv"),
                "task": "text-classification"}  # fmt: skip
    scores, _, seconds = trained(settings)
    read = {
        part: [line.rsplit("\t", 1) for line in (folder / f"{part}.tsv").read_text().splitlines()]
        for part in ("train", "dev", "test")
    }
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True),
        LogisticRegressionCV(np.logspace(-1, 3, 9), cv=5, max_iter=2000),
    )
    pairs = read["train"]
    model.fit([a for a, _ in pairs], [b for _, b in pairs])
    classical = model.score([a for a, _ in read["test"]], [b for _, b in read["test"]])
    met = scores["accuracy"] >= classical
    return met, f"accuracy {scores['accuracy']:.4f} in {seconds:.0f} s; TF-IDF + logistic regression {classical:.4f}"


def generation() -> Said:
    """tinyshakespeare by characters, in the steps and about the parameters of nanoGPT's CPU setting, whose validation loss is 1.88."""
    settings = {
        "data.source": str(DATA / "tinyshakespeare" / "input.txt"), "data.context": 64, "data.valid_share": 0.1,
        "model": {"kind": "decoder", "width": 128, "layers": 4, "heads": 4, "dropout": 0.0},
        "training.steps": 2000, "training.batch_size": 12, "optimizer.learning_rate": 3e-3, "optimizer.weight_decay": 0.1,
        "optimizer.beta2": 0.99, "schedule.warmup_steps": 100, "evaluation.every": 500,
    }  # fmt: skip
    scores, _, seconds = trained(settings, "valid")
    return (
        scores["loss"] <= 1.80,
        f"validation loss {scores['loss']:.4f} ({scores['bits_per_byte']:.3f} bits per byte) in {seconds:.0f} s; bar 1.80; [{shown(settings)}]",
    )


def mnist() -> Said:
    """mnist with the preset."""
    with tempfile.TemporaryDirectory() as root:
        began = time.perf_counter()
        run = api.fit_recipe("mnist", set={"data.source": str(DATA / "mnist")}, root=root, quiet=True)
        accuracy, seconds = run.scores("test")["accuracy"], time.perf_counter() - began
    return accuracy >= 0.993, f"accuracy {accuracy:.4f} in {seconds:.0f} s; bar 0.993"


ROWS: dict[str, tuple[str, Callable[[], Said]]] = {  # name -> (folder of its data, what is run)
    "text": ("sst2", text),
    "generation": ("tinyshakespeare", generation),
    "mnist": ("mnist", mnist),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", default=list(ROWS))
    parser.add_argument("--list", action="store_true")
    asked = parser.parse_args()
    if asked.list:
        for name, (folder, run) in ROWS.items():
            print(f"{name:12} {folder:22} {(run.__doc__ or '').splitlines()[0]}")
        return
    here = environment()
    print(f"{here['processor']}, {here['cores']} cores, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    missed = 0
    for name in asked.rows:
        folder, run = ROWS[name]
        if not (DATA / folder).is_dir():
            print(f"{name:12} skipped: no data at {DATA / folder}; set WELLFIT_DATA", flush=True)
            continue
        met, says = run()
        missed += not met
        print(f"{name:12} {'ok    ' if met else 'MISSED'} {says}", flush=True)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
