"""How good the learning rate is that `wellfit find-lr` suggests, beside a full grid and the suggestions of Lightning and fastai.

    python bench/find_lr.py                        # all models, about 40 minutes on one core; --keep FILE goes on after a stop
    python bench/find_lr.py --only lenet,gru       # names that hold one of these

Eighteen small networks on embedded real data: with and without batch norm, SGD, AdamW, Lion and Muon; images, rows, texts, series.
For each, a grid of rates half a decade apart is trained in full with one seed, the best five of them with two more, and the rate
of the lowest mean is the best one. That rate, wellfit's suggestion, and the peers' are then trained in full with three *other*
seeds, the same for all, and these alone are compared: the winner of a grid looks better on the seeds that chose it than it is.
The search has seeds of its own too. "Loss" is the validation loss of the best of ten evaluations, which is what wellfit's runs
give back. Three seeds leave some 10 % of chance in a ratio on the smallest losses.

A suggestion is good if its loss is at most 5 % above the grid's best. wellfit may also refuse, with a reason. Lightning's
`Tuner.lr_find` and fastai's `lr_find` (valley) have their defaults, and train the same network on the same batches with the same
optimizer and clipping. Where one is not installed, that is said; fastai goes into an environment of its own, beside wellfit.

Exits with 1 unless wellfit is good on at least ten of each twelve models and refuses the rest with a reason.
"""

import argparse
import contextlib
import functools
import importlib.util
import io
import json
import logging
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

warnings.simplefilter("ignore")
os.environ.setdefault("OMP_NUM_THREADS", "1")
logging.disable(logging.WARNING)

import torch  # noqa: E402 - the environment comes first
from sklearn import datasets  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402

from wellfit.recipe import Recipe  # noqa: E402
from wellfit.report.rates import RateSearch  # noqa: E402
from wellfit.train.setup import Job, from_given, from_recipe  # noqa: E402
from wellfit.train.switches import torch_settings  # noqa: E402
from wellfit.trials.find_lr import find_lr  # noqa: E402
from wellfit.trials.short import ShortTraining  # noqa: E402

CHOOSING, COMPARING, SEARCHING = (0, 1, 2), (3, 4, 5), 10  # seeds
LIKELY = 5  # rates of the grid that are trained with all three seeds
EVALUATIONS = 10
GOOD, BAR = 1.05, 10 / 12
GRIDS = {  # exponents of ten
    "adamw": (-4.5, -4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5),
    "sgd": (-3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0, 0.5),
    "lion": (-5, -4.5, -4, -3.5, -3, -2.5, -2, -1.5),
    "muon": (-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5),
}


@dataclass(frozen=True)
class Model:
    """One training. `made`: a network of the caller's own on the digits; else a recipe makes it."""

    settings: dict[str, Any]
    made: Callable[[int], nn.Module] | None = None

    def job(self, seed: int) -> Job:
        recipe = Recipe().override({**self.settings, "training.seed": seed})
        if self.made is None:
            return from_recipe(recipe)
        train, valid = digits()
        return from_given(recipe, self.made(seed), train, valid, loss="cross-entropy")

    def search(self) -> RateSearch:
        settings = {**self.settings, "training.seed": SEARCHING}
        if self.made is None:
            return find_lr(Recipe(), set=settings)
        return find_lr(self.made(SEARCHING), *digits(), loss="cross-entropy", set=settings)


@functools.cache
def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    found = datasets.load_digits()
    rows = torch.tensor(found.data, dtype=torch.float32) / 16
    rows = (rows - rows.mean()) / rows.std()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    rows, targets = rows[order], torch.tensor(found.target)[order]
    return (rows[:1297], targets[:1297]), (rows[1297:], targets[1297:])


def deep(norm: bool, seed: int) -> nn.Module:
    """Nine linear layers, 64 wide."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Linear(64, 64)]
    for width in (*[64] * 7, 10):
        layers += [*([nn.BatchNorm1d(64)] if norm else []), nn.ReLU(), nn.Linear(64, width)]
    return nn.Sequential(*layers)


def of(source: str, kind: str, steps: int, /, **more: Any) -> Model:
    """A recipe's; in `more`, `optimizer`, `batch`, and settings of the model and, with `data_` before, of the data."""
    settings: dict[str, Any] = {"data.source": source, "model.kind": kind, "training.steps": steps}
    if "optimizer" in more:
        settings["optimizer.kind"] = more.pop("optimizer")
    if "batch" in more:
        settings["training.batch_size"] = more.pop("batch")
    for name, value in more.items():
        settings[f"data.{name.removeprefix('data_')}" if name.startswith("data_") else f"model.{name}"] = value
    return Model(settings)


def of_digits(kind: str, steps: int, /, **more: Any) -> Model:
    return of("digits", kind, steps, **{"data_valid_share": 0.3, "batch": 32, **more})


CO2 = {"data_horizon": 26, "data_history": 52, "data_valid_share": 0.2, "data_missing": "mean"}
MODELS = {
    "mlp-digits-adamw": of_digits("mlp", 800, widths=[64, 64]),
    "mlp-digits-sgd": of_digits("mlp", 800, widths=[64, 64], optimizer="sgd"),
    "deepmlp-digits-adamw": Model({"training.steps": 800, "training.batch_size": 32}, functools.partial(deep, False)),
    "convnet-digits-adamw": of_digits("convnet", 500, channels=[8, 16]),
    "lenet-digits-sgd": of_digits("lenet", 500, optimizer="sgd"),
    "gru-sunspots-adamw": of("sunspots", "recurrent", 252, data_season=11, data_horizon=11, data_history=44, data_valid_share=0.2),
    "mlp-diabetes-adamw": of("diabetes", "mlp", 540, widths=[32, 32], batch=32, data_valid_share=0.2),
    "decoder-stdlib-adamw": of("stdlib", "decoder", 240, width=32, layers=2, batch=8, data_context=32, data_valid_share=0.02, data_test_share=0.02),
    "deepmlp-bn-digits-sgd": Model({"training.steps": 600, "training.batch_size": 32, "optimizer.kind": "sgd"}, functools.partial(deep, True)),
    "mlp-bn-cancer-adamw": of("breast-cancer", "mlp", 480, widths=[64, 64], norm="batch", batch=32, data_valid_share=0.2),
    "resnet-digits-sgd": of_digits("resnet", 200, depth=8, optimizer="sgd", batch=64),
    "vit-digits-adamw": of_digits("vit", 300, patch=2, width=32, layers=2),
    "lstm-co2-adamw": of("co2", "recurrent", 400, cell="lstm", **CO2),
    "bag-stdlib-kinds-adamw": of("stdlib-kinds", "bag", 500, width=32, batch=32),
    "encoder-names-adamw": of("python-names", "encoder", 400, width=32, layers=1, batch=16),
    "dlinear-co2-sgd": of("co2", "dlinear", 500, optimizer="sgd", **CO2),
    "mlp-digits-lion": of_digits("mlp", 800, widths=[64, 64], optimizer="lion"),
    "mlp-digits-muon": of_digits("mlp", 250, widths=[64, 64], optimizer="muon"),
}  # fmt: skip


# ---- full trainings, kept


@dataclass
class Kept:
    """What was measured, in a file if one is named, so that nothing is trained twice."""

    path: Path | None
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path is not None and self.path.exists():
            self.values = json.loads(self.path.read_text(encoding="utf-8"))

    def get(self, key: str, measure: Callable[[], Any]) -> Any:
        if key not in self.values:
            self.values[key] = measure()
            if self.path is not None:
                self.path.write_text(json.dumps(self.values, indent=0), encoding="utf-8")
        return self.values[key]


class Full:
    """Full trainings of one model: the loss by rate and seed, infinite where it was not finite."""

    def __init__(self, name: str, kept: Kept):
        self.name, self.model, self.kept, self.starts = name, MODELS[name], kept, {}

    def loss(self, rate: float, seed: int) -> float:
        found = self.kept.get(f"{self.name}|{rate:.6g}|{seed}", lambda: self._train(rate, seed))
        return math.inf if found is None else float(found)

    def best(self, rates: list[float]) -> float:
        """Of the rates with the five lowest losses with the first seed, the one of the lowest mean over all that choose."""
        likely = sorted(rates, key=lambda rate: self.loss(rate, CHOOSING[0]))[:LIKELY]
        return min(likely, key=lambda rate: self.mean(rate, CHOOSING))

    def mean(self, rate: float, seeds: tuple[int, ...]) -> float:
        return statistics.fmean(self.loss(rate, seed) for seed in seeds)

    def _train(self, rate: float, seed: int) -> float | None:
        if seed not in self.starts:
            job = self.model.job(seed)
            self.starts[seed] = ShortTraining(job), job.steps
        start, steps = self.starts[seed]
        with torch_settings(start.job.recipe):
            outcome = start.run(rate, steps, evaluations=EVALUATIONS)
        losses = [loss for loss in outcome.valid if math.isfinite(loss)]
        return min(losses) if outcome.finite and losses else None


# ---- the peers, on the same network, batches, loss, optimizer and clipping


class Numbers(Dataset[tuple[Tensor, Tensor]]):
    """As many items as there are batches; the batch itself is taken from the job."""

    def __init__(self, length: int):
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return torch.tensor([float(i)]), torch.tensor([0.0])


class Losing(nn.Module):
    """Answers each call with the loss of the job's next batch."""

    def __init__(self, job: Job):
        super().__init__()
        self.job, self.model = job, job.model

    def forward(self, _: Tensor) -> Tensor:
        batches = self.job.batches.take()
        losses = [self.job.task.loss(self.model, batch) for batch in batches]
        return sum(losses) / sum(self.job.task.weight(batch) for batch in batches)


def optimizer_at(job: Job, rate: float) -> Any:
    return ShortTraining(job)._optimizer(rate)


def of_lightning(model: Model) -> float | None:
    import lightning
    from lightning.pytorch.tuner import Tuner

    class Module(lightning.LightningModule):
        def __init__(self, job: Job):
            super().__init__()
            self.inner, self.lr = Losing(job), 1e-3

        def training_step(self, batch: Any, _: int) -> Tensor:
            return self.inner(batch[0])

        def configure_optimizers(self) -> Any:
            return optimizer_at(self.inner.job, self.lr)

    job = model.job(SEARCHING)
    trainer = lightning.Trainer(
        max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        gradient_clip_val=job.recipe.training.max_grad_norm,
    )  # fmt: skip
    found = Tuner(trainer).lr_find(Module(job), train_dataloaders=DataLoader(Numbers(job.batches.steps_per_epoch)))
    return None if found is None else found.suggestion()


def of_fastai(model: Model) -> float | None:
    from fastai.callback.schedule import valley
    from fastai.callback.training import GradientClip
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    job = model.job(SEARCHING)
    numbers = DataLoader(Numbers(job.batches.steps_per_epoch))
    learner = Learner(
        DataLoaders(numbers, numbers), Losing(job), loss_func=lambda loss, _: loss, opt_func=lambda _, lr: OptimWrapper(opt=optimizer_at(job, lr)),
        cbs=[GradientClip(job.recipe.training.max_grad_norm)],
    )  # fmt: skip
    with learner.no_bar():
        return float(learner.lr_find(suggest_funcs=valley, show_plot=False).valley)


PEERS = {"lightning": of_lightning, "fastai": of_fastai}


def suggested(peer: str, model: Model) -> float | str | None:
    """A peer's suggestion; words where there is none."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return PEERS[peer](model)
    except Exception as error:  # a row of the table, not the end of it
        return f"{type(error).__name__}: {error}".splitlines()[0][:80]


# ---- the table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="names that hold one of these, with commas between")
    parser.add_argument("--keep", type=Path, default=None, help="a file for what was measured")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    wanted = [part for part in asked.only.split(",") if part]
    names = [name for name in MODELS if not wanted or any(part in name for part in wanted)]
    here = {peer: importlib.util.find_spec(peer) is not None for peer in PEERS}
    kept, began = Kept(asked.keep), time.time()
    good: dict[str, int] = dict.fromkeys(("wellfit", *PEERS), 0)
    refused, costs = 0, []
    print("learning rate, and its loss over that of the grid's best rate (three seeds of their own; 1.00 is as good)\n")
    print(f"{'model':24}{'grid best':>19}{'wellfit':>19}{'cost':>6}{'lightning':>19}{'fastai':>19}")
    for name in names:
        full, model = Full(name, kept), MODELS[name]
        rates = [10.0**exponent for exponent in GRIDS[model.settings.get("optimizer.kind", "adamw")]]
        best = full.best(rates)
        goal = full.mean(best, COMPARING)
        found = kept.get(f"{name}|wellfit", lambda: model.search().as_dict())  # noqa: B023
        costs.append(found["whole_trainings"])
        cells = [f"{best:9.2g} {goal:9.4f}"]
        row = {"wellfit": found["suggestion"]}
        row |= {
            peer: kept.get(f"{name}|{peer}", lambda: suggested(peer, model)) if there else "not installed"  # noqa: B023
            for peer, there in here.items()
        }
        for who, rate in row.items():
            if isinstance(rate, float) and rate > 0:
                ratio = full.mean(rate, COMPARING) / goal
                good[who] += ratio <= GOOD
                cells.append(f"{rate:9.2g}{ratio:8.2f}{' ' if ratio <= GOOD else '!'}")
            else:
                refused += who == "wellfit"
                cells.append("refused" if who == "wellfit" else str(rate or "none")[:18])
            if who == "wellfit":
                cells.append(f"{found['whole_trainings']:.1f}")
        print(f"{name:24}{cells[0]:>19}{cells[1]:>19}{cells[2]:>6}{cells[3]:>19}{cells[4]:>19}", flush=True)
        if row["wellfit"] is None:
            print(f"    {found['reason']}")
    total = len(names)
    print(f"\nwithin 5 %: wellfit {good['wellfit']} of {total}, {refused} refused; " + ", ".join(
        f"{peer} {good[peer]} of {total}" if there else f"{peer} not installed" for peer, there in here.items()
    ))  # fmt: skip
    print(f"wellfit's search cost {statistics.fmean(costs):.1f} whole trainings on average, {max(costs):.1f} at most")
    print(f"{time.time() - began:.0f} s here and now; torch {torch.__version__}, one thread")
    strayed = total - good["wellfit"] - refused
    if strayed:
        print(f"{strayed} neither within 5 % nor refused")
    missed = good["wellfit"] < BAR * total or strayed > 0
    print(
        "MISSED" if missed else "met", f"the bar: within 5 % on {math.ceil(BAR * total)} of {total}, the rest refused"
    )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
