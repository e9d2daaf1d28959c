"""How many labels a task needs, and whether trained weights pay: the same recipe on growing numbers of training samples.

Each training is a run of its own below the curve's folder, `runs/curve-NAME/recipe-n200-seed0`, with a recipe that repeats it
alone; so a curve that was stopped goes on with the same call, sizes and seeds can be added later, and nothing is trained twice.
What is held out is the same for all. A seed decides weights, order and which samples are drawn; fewer are always among more.

Everything that is derived from the data (model, rates, batch, length) is derived once, with all samples, and kept for fewer.
`budget` says what of the length is kept. `steps`, the default: as many optimizer steps for all, with as many evaluations to choose
the best weights from. With equal epochs a tenth of the samples gets a tenth of the updates, and the curve tells of a training that
was cut short rather than of labels; few samples in particular want more passes (Mosbach et al. 2021, for BERT). `epochs` costs
less, and is what somebody sees who leaves the recipe as it is.

    >>> curve = wellfit.learning_curve("digits", sizes=[100, 200, "all"], seeds=3)
    >>> print(curve)
    >>> curve.lines[0].points[0].mean
"""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wellfit import api, distributed
from wellfit.data import series, texts
from wellfit.data.batches import Order
from wellfit.data.source import READERS
from wellfit.defaults import goes_on
from wellfit.environment import device as device_for
from wellfit.errors import RecipeError, RunError
from wellfit.recipe import Finetune, Origin, Recipe
from wellfit.report.labels import RECIPE, SCRATCH, LearningCurve, Line, Point
from wellfit.report.words import amount, better, count, plain, told
from wellfit.run import RECIPE as RECIPE_FILE
from wellfit.train.setup import Job, from_recipe
from wellfit.train.switches import torch_settings
from wellfit.trials import trial as trials
from wellfit.trials.trial import Outcome, Trial

SUMMARY = "curve.json"
MOST_SIZES, FEWEST = 6, 20  # of a row that is not given
EACH_EPOCH = ("evaluation.every", "checkpoints.every")  # derived from how many steps an epoch has


def learning_curve(
    recipe: Recipe | str | Path,
    *,
    sizes: Iterable[int | str] | None = None,
    seeds: int = 3,
    budget: Literal["steps", "epochs"] = "steps",
    beside: Literal["scratch"] | None = None,
    weights: bool = False,
    set: Mapping[str, Any] | None = None,
    root: str | Path = api.RUNS,
    folder: str | Path | None = None,
    quiet: bool = False,
) -> LearningCurve:
    """Trains a recipe on growing numbers of its training samples and tells the score against the number.

    `sizes`: numbers of training samples, and "all"; None for a row that doubles up to all. `seeds`: how many trainings of each
    size, with the recipe's seed and those after it. `budget`: what is the same for all sizes, optimizer "steps" or "epochs".
    `beside="scratch"` trains the same network without its trained weights too. `weights` keeps each run's best checkpoint, which
    is else deleted when the run is over. `set` holds dotted overrides. The curve is kept in `folder`, or below `root` by its
    name, and goes on with what is there. Scores are of the test part, or of validation where none is held out.

    Ctrl-C and SIGTERM save the run that is going on, and give back the curve so far, with `missing` runs.
    Raises RecipeError for sizes, seeds and tasks that cannot be, RunError for a folder that holds another curve, and any
    WellfitError that `fit_recipe` raises.
    """
    chosen = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    chosen = chosen.override(set) if set else chosen
    _can_be(chosen, seeds, budget, beside)
    plans = [_planned(RECIPE, chosen)]
    if beside == SCRATCH:
        plans.append(_planned(SCRATCH, _untrained(chosen)))
    first = plans[0]
    numbers = _sizes(sizes, first)
    place = Path(folder) if folder is not None else Path(root) / f"curve-{first.recipe.name}"
    _same_as_before(place, first)
    todo = [
        _Training(plan, size, seed, place / f"{plan.name}-n{size}-seed{seed}")
        for seed in range(first.recipe.training.seed, first.recipe.training.seed + seeds)
        for size in numbers
        for plan in plans
    ]
    over = [_over(training, budget) for training in todo]
    found: dict[Path, Outcome] = {}
    curve = _drawn_up(first, plans, todo, found, budget, place, beside)
    _write(place, curve, first)
    for number, (training, done) in enumerate(zip(todo, over, strict=True), start=1):
        if not trials.finished(Trial(training.recipe(budget), training.folder), weights):
            break
        curve = _drawn_up(first, plans, todo, found, budget, place, beside)
        _write(place, curve, first)
        if not quiet:
            _tell(training, number, len(todo), done, curve)
    return curve


# ---- what is to be trained


@dataclass(frozen=True)
class _Plan:
    """One way to train, resolved with all samples."""

    name: str  # RECIPE or SCRATCH
    recipe: Recipe
    samples: int  # training samples that can be drawn from
    classes: int  # 0 where there are none
    steps: int
    per_epoch: int
    validated: int
    tested: int
    data: Mapping[str, str]  # part -> fingerprint


@dataclass(frozen=True)
class _Training:
    plan: _Plan
    size: int
    seed: int
    folder: Path

    def recipe(self, budget: str) -> Recipe:
        """All that decides this run; its own recipe file repeats it."""
        plan, full = self.plan, self.plan.recipe
        batch, accumulation = full.training.batch_size or 1, full.training.gradient_accumulation_steps
        if batch > self.size:
            batch = max(1, self.size // accumulation) * accumulation
        changes: dict[str, Any] = {
            "name": f"{full.name}-{self.folder.name}",
            "training.seed": self.seed,
            "data.draw_seed": full.data.draw_seed + self.seed - full.training.seed,
            "training.batch_size": batch,
        }
        if self.size < plan.samples:
            changes["data.train_samples"] = self.size
        if budget == "steps":
            changes |= {"training.steps": plan.steps, "training.epochs": None}
            changes |= {"evaluation.every": full.evaluation.every, "checkpoints.every": full.checkpoints.every}
            if full.finetune.strategy == "recipe":  # the head, too, gets as many steps for all sizes
                order = Order(self.size, batch, accumulation=accumulation)
                changes["finetune.head_epochs"] = full.finetune.head_epochs * plan.per_epoch / (len(order.starts) - 1)
        else:
            if full.training.epochs is None:
                changes |= {"training.epochs": plan.steps / plan.per_epoch, "training.steps": None}
            changes |= {field: None for field in EACH_EPOCH if full.origin(field).by == "derived"}
        return full.override(changes, why=f"the learning curve's, of {self.size:,} samples and equal {budget}")


def _can_be(recipe: Recipe, seeds: int, budget: str, beside: str | None) -> None:
    if seeds < 1:
        raise RecipeError(
            f"A learning curve was asked for with {seeds} seeds; it takes at least 1, and 3 to see chance."
        )
    if budget not in ("steps", "epochs"):
        raise RecipeError(f"The budget of a learning curve is {budget!r}; it can be steps or epochs.")
    if beside not in (None, SCRATCH):
        raise RecipeError(f"What is to stand beside a learning curve is {beside!r}; it can be {SCRATCH}, or nothing.")
    if beside == SCRATCH and not goes_on(recipe):
        raise RecipeError(
            "Scratch was to stand beside the recipe, but the recipe begins without trained weights itself. Name some "
            "(`finetune.weights=PATH`, `model.pretrained=true`, `model.kind=pretrained`), or leave it out."
        )
    if recipe.optimizer.learning_rate == "auto":
        raise RecipeError(
            "`optimizer.learning_rate` is auto, and a learning curve trains with one rate for all sizes. Measure it once, with "
            "`wellfit find-lr`, and set it to what that says."
        )
    if recipe.task == "given":
        raise RecipeError(
            "This recipe is of a model and data that were passed to `wellfit.fit` in Python, and a recipe holds neither. A learning "
            "curve takes a recipe whose `data.source` names the data."
        )
    distributed.alone("A learning curve")


def _planned(name: str, recipe: Recipe) -> _Plan:
    """Reads the data once with all samples, and keeps what was derived from it."""
    with distributed.joined(device_for(recipe.hardware.device)), torch_settings(recipe):
        job = from_recipe(recipe)
    loaded = job.loaded
    assert loaded is not None
    unlabelled = READERS[loaded.task].unlabelled if loaded.task in READERS else ""
    if unlabelled and not isinstance(loaded.train, texts.Windows | series.Windows):
        raise RecipeError(
            f"{recipe.data.source} holds conversations, several of which may share a sample, so batches and steps do not follow from their "
            "number, and there is no curve of them. `data.train_samples` trains on fewer of them."
        )
    if unlabelled:
        raise RecipeError(
            f"{recipe.data.source} is data for {loaded.task}, whose samples are {unlabelled}: nobody labels them one by one, so there is no "
            "curve of labels. Compare runs on shorter data instead."
        )
    if loaded.valid is None and loaded.test is None:
        raise RecipeError(
            "Nothing is held out, so there is no score to set against the number of samples. Set `data.test_share=0.2`, or name a "
            "set with `data.test=PATH`."
        )
    own = loaded.task in ("image-classification", "tabular-classification", "text-classification")
    return _Plan(
        name=name,
        recipe=_kept(job),
        # A long sentence may be cut into several samples, but is drawn and labelled as one.
        samples=len(loaded.texts["train"][0]) if loaded.texts else len(loaded.train),
        classes=len(loaded.classes) if own else 0,
        steps=job.steps,
        per_epoch=job.batches.steps_per_epoch,
        validated=len(loaded.valid) if loaded.valid is not None else 0,
        tested=len(loaded.test) if loaded.test is not None else 0,
        data={
            part: getattr(loaded, part).fingerprint()
            for part in ("train", "valid", "test")
            if getattr(loaded, part) is not None
        },
    )


def _kept(job: Job) -> Recipe:
    """The resolved recipe with what was derived from all samples as it is chosen for fewer, too."""
    recipe = job.recipe
    origins = {
        path: Origin(by="user", why=f"as with all samples of the learning curve: {origin.why}")
        if origin.by == "derived" and not path.startswith(("hardware.", "name", *EACH_EPOCH))
        else origin
        for path, origin in recipe.origins.items()
    }
    return recipe.model_copy(update={"origins": origins})


def _untrained(recipe: Recipe) -> Recipe:
    """The same without trained weights and what goes with them."""
    usual = Finetune().model_dump()
    changes: dict[str, Any] = {
        f"finetune.{name}": value for name, value in usual.items() if value != getattr(recipe.finetune, name)
    }
    if getattr(recipe.model, "pretrained", False):
        changes["model.pretrained"] = False
    return recipe.override(changes, why="beside the trained weights: the same without them")


def _sizes(wanted: Iterable[int | str] | None, plan: _Plan) -> list[int]:
    """Rising numbers of samples. Raises RecipeError for one that cannot be."""
    everything, fewest = plan.samples, max(1, plan.classes)
    if wanted is None:
        row = [everything / 2**i for i in range(MOST_SIZES)]
        return sorted({everything, *(_round(one) for one in row[1:] if one >= max(FEWEST, fewest))})
    found = []
    for one in wanted:
        if one == "all":
            found.append(everything)
            continue
        try:
            number = int(one)
        except ValueError:
            raise RecipeError(
                f"`{one}` is no number of samples; sizes are whole numbers and `all`, such as 100,200,all."
            ) from None
        if not fewest <= number <= everything:
            least = f"one of each of the {plan.classes} classes" if plan.classes else "one"
            raise RecipeError(
                f"A size of the learning curve is {number:,}, but there are {everything:,} training samples, and the least is {fewest}, "
                f"{least}. Choose from {fewest} to {everything:,}, or `all`."
            )
        found.append(number)
    if not found:
        raise RecipeError("No size was given; sizes are numbers of samples and `all`, such as 100,200,all.")
    return sorted({*found})


def _round(number: float) -> int:
    """To two digits."""
    scale: int = 10 ** max(0, len(str(int(number))) - 2)
    return round(number / scale) * scale


# ---- what is there already


def _same_as_before(place: Path, plan: _Plan) -> None:
    """Raises RunError if the folder is something else, or its curve was made of other data."""
    if (place / RECIPE_FILE).is_file():
        raise RunError(f"{place} is a run; a learning curve needs a folder of its own. Name another one.")
    try:
        before = json.loads((place / SUMMARY).read_text(encoding="utf-8"))["data"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    changed = [part for part in before if before[part] != plan.data.get(part)]
    if changed:
        raise RunError(
            f"The learning curve in {place} was begun with other data: its {' and '.join(changed)} part is not what it was. Bring the data "
            "back, or name another folder for a new curve."
        )


def _over(training: _Training, budget: str) -> bool:
    return trials.over(Trial(training.recipe(budget), training.folder))


# ---- what came of it


def _drawn_up(
    first: _Plan,
    plans: list[_Plan],
    todo: list[_Training],
    found: dict[Path, Outcome],
    budget: str,
    place: Path,
    beside: str | None,
) -> LearningCurve:
    """The curve as far as it is trained; `found` keeps what was read of each run that is over."""
    split = "test" if first.tested else "valid"
    for training in todo:
        reached = found.get(training.folder) or trials.outcome(training.folder, split)
        if reached is not None:
            found[training.folder] = reached
    metric = told(next((one.scores for one in found.values() if one.scores), {}), first.recipe.evaluation.metric)
    lines = []
    for plan in plans:
        points = []
        mine = [training for training in todo if training.plan is plan]
        for size in sorted({training.size for training in mine}):
            over = [(t, found[t.folder]) for t in mine if t.size == size and t.folder in found]
            times = [outcome.seconds for _, outcome in over if outcome.seconds is not None]
            points.append(
                Point(
                    size,
                    {t.seed: o.scores[metric] for t, o in over if not o.failed and metric in o.scores},
                    sum(times) / len(times) if times else None,
                    {t.seed: str(t.folder) for t, o in over if o.failed},
                )
            )
        about = {RECIPE: "with trained weights" if beside else "the recipe", SCRATCH: "from scratch"}[plan.name]
        epochs = plan.recipe.training.epochs or plan.steps / plan.per_epoch
        length = count(plan.steps, "step") if budget == "steps" else count(epochs, "epoch")
        lines.append(Line(plan.name, about, length, tuple(points)))
    return LearningCurve(
        name=first.recipe.name, task=str(first.recipe.task), metric=metric, better=better(first.recipe, metric) or "max",
        split=split, budget=budget, samples=first.samples, validated=first.validated,
        scored=first.tested or first.validated, seeds=tuple(sorted({training.seed for training in todo})),
        lines=tuple(lines), folder=str(place), missing=len(todo) - len(found),
        notes=_notes(first, beside),
    )  # fmt: skip


def _notes(plan: _Plan, beside: str | None) -> tuple[str, ...]:
    chosen = [
        f"`optimizer.{name}`"
        for name in ("learning_rate", "learning_rates")
        if plan.recipe.origin(f"optimizer.{name}").by in ("user", "preset")
        and not plan.recipe.origin(f"optimizer.{name}").why.startswith("as with all samples")
    ]
    if beside is None or not chosen:
        return ()
    return (
        f"{' and '.join(chosen)} is as the recipe has it for both; what suits trained weights may be too small from scratch.",
    )


def _tell(training: _Training, number: int, total: int, done: bool, curve: LearningCurve) -> None:
    """One line for a run."""
    line = next(line for line in curve.lines if line.name == training.plan.name)
    point = line.at(training.size)
    assert point is not None
    score = point.scores.get(training.seed)
    split = "test" if curve.split == "test" else "validation"
    what = "failed" if score is None else f"{split} {plain(curve.metric)} {amount(curve.metric, score)}"
    start = f"{line.about}, " if len(curve.lines) > 1 else ""
    told_before = ", trained before" if done else ""
    print(
        f"[{number}/{total}] {start}{training.size:,} samples, seed {training.seed}: {what}{told_before}",
        file=sys.stderr,
        flush=True,
    )


def _write(place: Path, curve: LearningCurve, plan: _Plan) -> None:
    """The curve so far, whole or not at all."""
    part = place / f".{SUMMARY}.part"
    try:
        place.mkdir(parents=True, exist_ok=True)
        part.write_text(
            json.dumps({**curve.as_dict(), "data": plan.data}, indent=1, ensure_ascii=False), encoding="utf-8"
        )
        part.replace(place / SUMMARY)
    except OSError as error:
        raise RunError(
            f"{place / SUMMARY} cannot be written: {error.strerror}. Choose another place, or mend the permissions or the free space there."
        ) from None
