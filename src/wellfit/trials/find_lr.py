"""Which learning rate this training wants, measured on the training itself.

Two measurements. A *range test* (Smith 2017, section 3.3) raises the rate a thousandfold and more, step by step, with the job's own
batches, optimizer, clipping and loss, once a seed; it is cheap and coarse, for it asks what one step does at each rate, and
momentum and Adam's averages answer late. It only says where to begin. What decides are *short trainings* with the real schedule,
shrunk: at that rate, a third of it and three times it, on in the better direction as long as it gets better. All of them have the
same weights, batches and random numbers for each seed, so they differ in nothing but the rate.

The best rate of a short training is a little above that of a long one, so the vertex of a parabola through the three best is
brought down by (short / whole) ** 0.4 (0.8 for Lion; measured, see docs/lab-notes.md). Where seeds contradict each other, no rate
helps, or there is no end to the improvement, nothing is suggested, and the reason is said.

    >>> found = wellfit.find_lr("digits")
    >>> found.suggestion, found.reason
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from torch import nn

from wellfit.data.arrays import Loaded
from wellfit.defaults import LEARNING_RATES
from wellfit.distributed import alone
from wellfit.errors import OutOfMemory, RecipeError
from wellfit.models.keras import adopted
from wellfit.recipe import Recipe
from wellfit.report.paired import interval
from wellfit.report.rates import RateSearch, Swept, rounded
from wellfit.report.words import count, number
from wellfit.train.setup import Job, from_recipe
from wellfit.train.switches import torch_settings
from wellfit.trials.borrowed import as_in_a_plain_loop, check_data, on_a_copy, untouched
from wellfit.trials.climb import FALLS, FALLS_OF_SIGNS, Trials, Verdict, judged
from wellfit.trials.short import FEWEST, ShortTraining

SEEDS = 3
SHARE = 1 / 8  # of the whole training that a short one takes
SHORTEST, LONGEST = 50, 2000  # steps of a short one
SWEPT = (60, 300)  # steps of a range test, at least and at most
DECADES = 3  # that it goes below and above the usual rate
BANDWIDTH = 0.15  # decades: the deviation of the weights that smooth it
LARGEST = 100.0  # rate
FEWEST_STEPS = 20  # of a whole training
LATE = 0.2  # of a short training's steps: their losses tell whether it learnt at all
ONE_PROCESS = (
    "Measuring a learning rate",
    "Measure it with `wellfit find-lr` without torchrun, and set `optimizer.learning_rate` to what it says.",
)
READ_EVERY = 10  # steps between looks at the losses: a training that broke is soon left, and a device seldom waits


def find_lr(
    recipe: Recipe | str | Path | nn.Module,
    train: Any = None,
    valid: Any = None,
    *,
    loss: Any = None,
    optimizer: torch.optim.Optimizer | None = None,
    set: Mapping[str, Any] | None = None,
    seeds: int = SEEDS,
    share: float = SHARE,
    tell: Callable[[str], object] | None = None,
) -> RateSearch:
    """Measures which learning rate a training wants: of a recipe, or of any model with its data and loss.

    `recipe`: a recipe, a preset's name or a file; or an `nn.Module`, with `train`, `valid` and `loss` as for `wellfit.fit`. `set`:
    dotted overrides. `optimizer`: a torch optimizer of a loop of your own, whose groups keep the proportion of their rates; the
    rate is then measured without clipping, warmup and decay, unless `set` names them. `seeds`: of weights and order, at least 3;
    a model that is passed keeps its weights, so its seeds are those of order and dropout. `share`: of the whole training's
    steps that a short one takes. `tell` is called with a line for each short training.

    Model, optimizer, their state and all global random generators are bit for bit as they were afterwards. The suggestion is
    what `optimizer.learning_rate` takes: for batches of `optimizer.reference_batch_size`, if that is set.

    Raises RecipeError, DataError and ModelError for what cannot be trained at all, OutOfMemory where memory runs out (`recovery`
    of the recipe is off while rates are measured, so that they differ in nothing else; where the first batch alone needs smaller
    micro-batches, all have them). What can be trained and has no stable answer is no error: `suggestion` is then None, and
    `reason` says why.
    """
    if seeds < 3:
        raise RecipeError(
            f"The learning rate was to be measured with {seeds} seeds; it takes at least 3 to tell a rate from chance."
        )
    if not 0 < share <= 1:
        raise RecipeError(f"`share` is {share:g}; it is a share of the whole training's steps, above 0 and at most 1.")
    with untouched(train, valid):
        if isinstance(recipe, nn.Module) or not isinstance(recipe, Recipe | str | Path):
            chosen = Recipe().override(set or {})
            return _of_model(recipe, train, valid, loss, optimizer, chosen, seeds, share, tell)
        if train is not None or valid is not None or loss is not None or optimizer is not None:
            raise RecipeError(
                "A recipe names its own data, loss and optimizer. Change it with `set`, or pass a model instead of a recipe."
            )
        chosen = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
        return _of_recipe(chosen.override(set) if set else chosen, seeds, share, tell)


def measured(
    recipe: Recipe,
    model: nn.Module | None = None,
    train: Any = None,
    valid: Any = None,
    *,
    loss: Any = None,
    loaded: Loaded | None = None,
) -> tuple[Recipe, list[str]]:
    """A recipe whose learning rate is `auto` with the rate that `find_lr` finds, and what a person must be told of it.

    `loaded`: the recipe's data, where that has been read already.

    The recipe's origin of the rate is then "measured", with the reason. Where there is no stable answer the rate is left open, so
    that it is derived, and that is told. Any other recipe comes back as it is.
    """
    if recipe.optimizer.learning_rate != "auto":
        return recipe, []
    with untouched(train, valid):
        found = (
            _of_recipe(recipe, loaded=loaded) if model is None else _of_model(model, train, valid, loss, None, recipe)
        )
    if found.suggestion is None:
        told = f"The learning rate was to be measured, and has no stable answer: {found.reason} So it is derived."
        return recipe.override({"optimizer.learning_rate": None}, by="default"), [told]
    why = f"{found.reason} {found.spent}"
    return recipe.override({"optimizer.learning_rate": found.suggestion}, by="measured", why=why), [
        f"The learning rate is measured: {rounded(found.suggestion)}. {found.spent}"
    ]


# ---- the two doors


def _of_recipe(
    recipe: Recipe,
    seeds: int = SEEDS,
    share: float = SHARE,
    tell: Callable[[str], object] | None = None,
    loaded: Loaded | None = None,
) -> RateSearch:
    alone(*ONE_PROCESS)
    if recipe.task == "given":
        raise RecipeError(
            "This recipe is of a model and data that were passed to `wellfit.fit` in Python, and a recipe holds neither. Pass the "
            "model and its data to `wellfit.find_lr`."
        )
    with torch_settings(recipe):
        plan = _Plan.of(from_recipe(recipe, loaded), seeds, share)
        starts = [ShortTraining(_steady(from_recipe(plan.recipe(seed), loaded))) for seed in plan.seeds]
        return _searched(plan, starts, tell)


def _of_model(
    model: Any,
    train: Any,
    valid: Any,
    loss: Any,
    optimizer: Any,
    recipe: Recipe,
    seeds: int = SEEDS,
    share: float = SHARE,
    tell: Callable[[str], object] | None = None,
) -> RateSearch:
    alone(*ONE_PROCESS)
    check_data(train, valid)
    module = adopted(model)
    if optimizer is not None:
        recipe = as_in_a_plain_loop(recipe, module, optimizer)
    with torch_settings(recipe):
        plan = _Plan.of(on_a_copy(recipe, module, train, valid, loss)[0], seeds, share, optimizer)
        made = [on_a_copy(plan.recipe(seed), module, train, valid, loss) for seed in plan.seeds]
        starts = [ShortTraining(_steady(one), optimizer, twins) for one, twins in made]
        return _searched(plan, starts, tell)


# ---- what is measured


@dataclass(frozen=True)
class _Plan:
    """How long a short training is, and with which seeds."""

    whole: Recipe  # resolved
    steps: int
    short: int
    seeds: tuple[int, ...]
    present: float
    around: float  # the range test's middle
    optimizer: str

    @classmethod
    def of(cls, job: Job, seeds: int, share: float, optimizer: Any = None) -> "_Plan":
        recipe, steps = job.recipe, job.steps
        kind = type(optimizer).__name__.lower() if optimizer is not None else recipe.optimizer.kind
        kind = kind.removesuffix("8bit")
        present = float(optimizer.param_groups[0]["lr"]) if optimizer is not None else recipe.optimizer.learning_rate
        assert isinstance(present, float)
        short = min(steps, max(SHORTEST, min(LONGEST, round(share * steps))))
        first = recipe.training.seed
        around = LEARNING_RATES[kind][0] if kind in LEARNING_RATES else present
        return cls(recipe, steps, short, tuple(range(first, first + seeds)), present, around, kind)

    def recipe(self, seed: int) -> Recipe:
        """A short training's: what is counted in steps or epochs shrinks with it."""
        whole = self.whole
        changes: dict[str, Any] = {
            "training.steps": self.short, "training.seed": seed % 2**32, "training.log_every": READ_EVERY,
            "evaluation.patience": None, "hardware.compile": False, "recovery.not_finite": 0,
        }  # fmt: skip
        if (warmup := whole.schedule.warmup_steps or 0) >= 1:
            changes["schedule.warmup_steps"] = min(0.9, warmup / self.steps)
        if whole.finetune.strategy == "recipe":
            changes["finetune.head_epochs"] = whole.finetune.head_epochs * self.short / self.steps
        return whole.override(changes, why="a short training's")


def _steady(job: Job) -> Job:
    """The same without recovery, which would make rates differ in more. Micro-batches that its first look cut stay cut."""
    job.recipe = job.recipe.override({"recovery.out_of_memory": False}, why="a short training's")
    return job


def _searched(plan: _Plan, starts: Sequence[ShortTraining], tell: Callable[[str], object] | None) -> RateSearch:
    try:
        return _measured(plan, starts, tell)
    except OutOfMemory as error:
        raise OutOfMemory(f"{error} (`recovery` is off while rates are measured.)") from error.__cause__


def _measured(plan: _Plan, starts: Sequence[ShortTraining], tell: Callable[[str], object] | None) -> RateSearch:
    seeded = dict(zip(plan.seeds, starts, strict=True))
    rates = _ramp(plan)
    swept = (
        {seed: start.ramp(rates, _diverged).losses for seed, start in seeded.items()}
        if plan.steps >= FEWEST_STEPS
        else {}
    )
    before = {seed: losses[: len(rates) // 4] for seed, losses in swept.items()}  # at rates that hardly move anything
    begins = fmean(fmean(losses) for losses in before.values()) if before else math.nan
    sweep, begin = _curve(rates, list(swept.values())) if swept else ([], None)

    scored = "validation" if all(start.job.valid is not None for start in starts) else "training"
    for start in starts:
        held, trained = start.job.valid, plan.short * (plan.whole.training.batch_size or 1)
        if held is not None and held.samples > 2 * trained:
            start.job.valid = held.thinned(held.samples // trained)
    finals: dict[tuple[float, int], float] = {}  # of the training loss

    def measure(rate: float, seed: int) -> float:
        outcome = seeded[seed].run(rate, plan.short, evaluations=1 if scored == "validation" else 0)
        final, finals[rate, seed] = outcome.final(), outcome.final(LATE)
        if outcome.valid and math.isfinite(final):
            final = outcome.valid[-1] if math.isfinite(outcome.valid[-1]) else math.inf
        if tell is not None:
            said = f"loss {number(final)}" if math.isfinite(final) else "not finite"
            tell(f"{plan.short:,} steps at {rounded(rate)}, seed {seed}: {said}")
        return final

    def falls(rate: float, seeds: Sequence[int]) -> bool:
        """Whether the training loss ends surely below its beginning: by more than twice the noise of what is compared."""
        if not all(map(math.isfinite, (finals[rate, seed] for seed in seeds))):
            return False
        noise = fmean(stdev(before[seed]) for seed in seeds)
        counts = [len(before[seeds[0]]) * len(seeds), max(FEWEST, round(LATE * plan.short)) * len(seeds)]
        fallen = fmean(fmean(before[seed]) - finals[rate, seed] for seed in seeds)
        return fallen > 2 * noise * math.sqrt(sum(1 / n for n in counts))

    trials = Trials(begin or plan.around, plan.seeds, measure, falls)
    verdict = Verdict(None, "", None)
    if plan.steps < FEWEST_STEPS:
        verdict = Verdict(
            None,
            f"The whole training has {count(plan.steps, 'step')}, too few to measure a rate on; it takes {FEWEST_STEPS}.",
            None,
        )
    else:
        trials.search()
        verdict = judged(trials, plan.short, plan.steps, scored, FALLS_OF_SIGNS if plan.optimizer == "lion" else FALLS)
    return RateSearch(
        name=plan.whole.name, optimizer=plan.optimizer, steps=plan.steps, short=plan.short, scored=scored, seeds=plan.seeds, present=plan.present,
        points=trials.points(), sweep=tuple(sweep), suggestion=verdict.rate, reason=verdict.reason, interval=verdict.interval,
        begins=begins, taken=sum(start.steps for start in starts),
    )  # fmt: skip


def _ramp(plan: _Plan) -> list[float]:
    """The rates of a range test, evenly spaced in their logarithm."""
    steps = max(SWEPT[0], min(SWEPT[1], plan.short))
    low, high = plan.around / 10**DECADES, min(LARGEST, plan.around * 10**DECADES)
    return [float(rate) for rate in np.geomspace(low, high, steps)]


def _diverged(losses: list[float]) -> bool:
    """Whether a range test need not go on: the loss is far above where it began."""
    if len(losses) < 4 * FEWEST:
        return False
    means = np.convolve(losses, np.ones(FEWEST) / FEWEST, mode="valid")
    start, best = float(np.mean(losses[: 2 * FEWEST])), float(np.min(means))
    return not means[-1] <= start + 2 * (start - best) + 0.5 * abs(start)


def _curve(rates: Sequence[float], swept: Sequence[Sequence[float]]) -> tuple[list[Swept], float | None]:
    """The smoothed losses of all seeds over the rates that all of them reached, and the rate at which their mean
    has fallen half of its way, or None if it does not fall by more than its noise.

    Smoothed by straight lines fitted locally with Gaussian weights to both sides, so that nothing lags (Fan 1992).
    """
    shared = min(next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), len(losses)) for losses in swept)
    if shared < 2 * FEWEST:
        return [], None
    places = np.log10(np.asarray(rates[:shared]))
    weights = np.exp(-0.5 * ((places[:, None] - places[None]) / BANDWIDTH) ** 2)
    apart = places[None] - places[:, None]  # [at, from]
    first, second = (weights * apart).sum(1, keepdims=True), (weights * apart**2).sum(1, keepdims=True)
    total = weights.sum(1, keepdims=True)
    lines = weights * (second - first * apart) / (total * second - first**2)  # the intercept at each place
    losses = np.stack([np.asarray(one[:shared]) for one in swept])  # [seed, rate]
    smooth = losses @ lines.T
    table = []
    for rate, column in zip(rates, smooth.T, strict=False):
        found = interval([float(loss) for loss in column])
        low, high = found if found is not None else (float(column[0]), float(column[0]))
        table.append(Swept(rate, float(column.mean()), low, high))
    mean = smooth.mean(0)
    lowest = int(mean.argmin())
    flat = losses[:, : max(FEWEST, len(rates) // 12)]
    if flat.mean() - mean[lowest] < 2 * flat.std() / math.sqrt(flat.shape[0] * FEWEST):
        return table, None
    half = [i for i in range(lowest + 1) if mean[i] >= (flat.mean() + mean[lowest]) / 2]
    return table, rates[half[-1]]
