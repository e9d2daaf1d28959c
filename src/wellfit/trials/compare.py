"""Comparisons of recipes, paired by seed: any one change beside what it changes, and one regularizer at a time.

Each training is a run of its own below the comparison's folder, `runs/compare-NAME/adam-seed0`, so a comparison that was stopped
goes on with the same call and seeds can be added later. All ways of a seed train one after the other, seeds outermost, and
what is held out is the same for all of them.

    >>> print(compare("digits", "optimizer.kind=adam", "optimizer.kind=sgd,optimizer.learning_rate=0.05"))
    >>> print(ablate("digits"))
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wellfit import api, distributed, whole
from wellfit.environment import device as device_for
from wellfit.errors import RecipeError, RunError
from wellfit.recipe import MODELS, Recipe
from wellfit.report.comparison import Arm, Comparison
from wellfit.report.together import COMPARISON
from wellfit.report.words import amount, better, plain, told
from wellfit.run import RECIPE as RECIPE_FILE
from wellfit.train.setup import Job, from_recipe
from wellfit.train.switches import torch_settings
from wellfit.trials.trial import Outcome, Trial, finished, outcome, over, same_data

SAME = (  # what must be equal, or scores are of different things
    "task", "data.source", "data.target", "data.valid", "data.test", "data.valid_share", "data.test_share", "data.split_seed",
    "data.parts", "data.horizon",
)  # fmt: skip
AS_IT_IS, NONE, ALL = "as-it-is", "none", "all"


@dataclass(frozen=True)
class Way:
    """One way to train that is compared with others. `there`: seed -> folder of a run that exists already."""

    name: str  # part of a folder's name
    about: str
    recipe: Recipe
    there: Mapping[int, Path] = field(default_factory=dict)


def compare(
    recipe: Recipe | str | Path,
    *changes: Recipe | str | Path | Mapping[str, Any],
    seeds: int = 3,
    set: Mapping[str, Any] | None = None,
    root: str | Path = api.RUNS,
    folder: str | Path | None = None,
    quiet: bool = False,
) -> Comparison:
    """Trains a recipe beside changes of it, over several seeds, and says which is better, or that so many seeds do not show it.

    Each of `changes` is dotted overrides of the first recipe (a mapping, or text such as "optimizer.kind=adam,training.epochs=5"),
    or a recipe of its own: a preset, a file, a run's folder. `set` holds overrides of all of them. `seeds`: how many, from
    `training.seed` on. Scores are of the test part, or of validation where nothing is held out to test on.

    Ctrl-C and SIGTERM save the run that is going on, and give back the comparison so far, with `missing` runs.
    Raises RecipeError for changes that cannot be compared, RunError for a folder that holds other runs.
    """
    first = _loaded(recipe).override(set or {})
    if not changes:
        raise RecipeError(
            "Nothing was named to compare the recipe with. Name a change, `optimizer.kind=sgd`, or another recipe."
        )
    ways = [Way(AS_IT_IS if isinstance(recipe, Recipe) else _slug(str(recipe)), _called(recipe, first), first)]
    for change in changes:
        own = _own(change, first, set or {})
        if own.training.seed != first.training.seed:
            raise RecipeError(
                "`training.seed` is what a comparison varies, for all ways alike; `seeds` says how many, and `--set training.seed=100` from where on."
            )
        about = _called(change, own)
        name = _slug(about)
        if any(way.name == name for way in ways):
            name = f"{name}-{len(ways)}"
        ways.append(Way(name, about, own))
    place = (
        Path(folder) if folder is not None else Path(root) / f"compare-{_slug('-'.join(w.about for w in ways))[:80]}"
    )
    return side_by_side(ways, _seeds(first, seeds), place, name=first.name or ways[0].about, quiet=quiet)


def ablate(
    recipe: Recipe | str | Path,
    *,
    only: Iterable[str] | None = None,
    seeds: int = 3,
    set: Mapping[str, Any] | None = None,
    root: str | Path = api.RUNS,
    folder: str | Path | None = None,
    quiet: bool = False,
) -> Comparison:
    """Trains a recipe without any regularizer, then with one at a time, then with all, and says what each bought.

    `only`: which of `REGULARIZERS`; None for those that the recipe has, and the usual ones of its network and task. Strengths
    are the recipe's, or the usual ones where it has none. The rest is as for `compare`.
    """
    job = _looked_at(_loaded(recipe).override(set or {}))
    chosen = _kept_open(job)
    named = [*only] if only is not None else None
    unknown = [name for name in named or () if name not in REGULARIZERS]
    if unknown:
        raise RecipeError(
            f"`{unknown[0]}` is no regularizer that is known here; choose from {', '.join(REGULARIZERS)}."
        )
    on = {
        name: found
        for name in named or REGULARIZERS
        if (found := REGULARIZERS[name](job.recipe, name in (named or ())))
    }
    absent = [name for name in named or () if name not in on]
    if absent:
        raise RecipeError(
            f"`{absent[0]}` does not apply to {job.recipe.model.kind if job.recipe.model else 'this'}: it has no such setting."
        )
    if not on:
        raise RecipeError("This recipe has no regularizer that could be taken away or added one at a time.")
    without = {path: off for pairs in on.values() for path, (off, _) in pairs.items()}
    ways = [Way(NONE, "no regularizer", chosen.override(without))]
    for name, pairs in on.items():
        strength = {path: value for path, (_, value) in pairs.items()}
        ways.append(Way(name, _assigned(strength), chosen.override(without | strength)))
    if len(on) > 1:
        everything = {path: value for pairs in on.values() for path, (_, value) in pairs.items()}
        ways.append(Way(ALL, "all of them", chosen.override(everything)))
    place = Path(folder) if folder is not None else Path(root) / f"ablate-{_slug(job.recipe.name)}"
    return side_by_side(ways, _seeds(chosen, seeds), place, name=job.recipe.name, quiet=quiet)


def side_by_side(
    ways: Sequence[Way],
    seeds: Sequence[int],
    folder: Path,
    *,
    name: str,
    quiet: bool = False,
    metric: str | None = None,
    split: str | None = None,
    samples: int | None = None,
) -> Comparison:
    """Trains every way with every seed, as far as it is not there yet, and draws up the comparison.

    `metric` and `split`: by what they are compared; None for what stands for the run, on the test part where there is one. `samples`
    of the split: where the caller knows them, and that all ways have the same data, that is not looked at again.
    """
    distributed.alone("A comparison")
    if (folder / RECIPE_FILE).is_file():
        raise RunError(f"{folder} is a run; a comparison needs a folder of its own. Name another one.")
    marks: dict[str, str] = {}
    if split is not None and samples is not None:
        scored = split, samples
    else:
        jobs = [_looked_at(way.recipe) for way in ways]
        _same_data(ways, [job.recipe for job in jobs])
        scored = _scored(jobs[0], split)
        marks = {way.name: job.fingerprint for way, job in zip(ways, jobs, strict=True)}
    trials = {
        (way.name, seed): Trial(
            way.recipe.override({"training.seed": seed}, by="measured", why="a seed of the comparison"),
            folder / f"{way.name}-seed{seed}",
        )
        for seed in seeds
        for way in ways
        if seed not in way.there
    }
    for (named, _), trial in trials.items():  # a folder that holds something else is refused before anything is trained
        if over(trial) and named in marks:
            same_data(trial, marks[named])
    found: dict[tuple[str, int], Outcome] = {}
    for way in ways:
        for seed, there in way.there.items():
            reached = outcome(there, scored[0])
            if reached is not None and seed in seeds:
                found[way.name, seed] = reached
    comparison = _drawn_up(ways, seeds, found, trials, folder, name, scored, metric)
    for number, ((named, seed), trial) in enumerate(trials.items(), start=1):
        if not finished(trial):
            break
        reached = outcome(trial.folder, scored[0])
        assert reached is not None
        found[named, seed] = reached
        comparison = _drawn_up(ways, seeds, found, trials, folder, name, scored, metric)
        _write(folder, comparison)
        if not quiet:
            _tell(number, len(trials), next(way for way in ways if way.name == named), seed, comparison)
    return comparison


# ---- what is compared


def _loaded(recipe: Recipe | str | Path) -> Recipe:
    """Open again where it was derived for a run."""
    if isinstance(recipe, Recipe):
        return recipe
    found = Recipe.load(recipe)
    return found.unresolved() if Path(recipe).is_dir() else found


def _own(change: Recipe | str | Path | Mapping[str, Any], first: Recipe, everywhere: Mapping[str, Any]) -> Recipe:
    if isinstance(change, Mapping):
        return first.override(change)
    if isinstance(change, str) and "=" in change and not Path(change).exists():
        return first.override(assignments(change))
    return _loaded(change).override(everywhere)


def _called(what: Recipe | str | Path | Mapping[str, Any], recipe: Recipe) -> str:
    if isinstance(what, Mapping):
        return _assigned(what)
    return (recipe.name or AS_IT_IS) if isinstance(what, Recipe) else str(what)


def assignments(text: str) -> list[str]:
    """`a.b=c,d.e=[1,2]` cut at the commas that are in no bracket and stand before another assignment."""
    return [
        part.strip() for part in re.split(r",(?=\s*[a-z_]+(?:\.[a-z0-9_]+)*\s*=)(?![^\[{]*[\]}])", text) if part.strip()
    ]


def _assigned(changes: Mapping[str, Any]) -> str:
    return ",".join(f"{path}={_short(value)}" for path, value in changes.items())


def _short(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "[" + ",".join(map(_short, value)) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _slug(text: str) -> str:
    return re.sub(r"[^\w=.-]+", "-", text).strip("-.")[:80] or AS_IT_IS


def _seeds(recipe: Recipe, seeds: int) -> list[int]:
    if seeds < 1:
        raise RecipeError(f"{seeds} seeds were asked for; it takes at least 1, and 3 to see chance.")
    return [*range(recipe.training.seed, recipe.training.seed + seeds)]


def _same_data(ways: Sequence[Way], resolved: Sequence[Recipe]) -> None:
    first = resolved[0].flat()
    for way, recipe in zip(ways[1:], resolved[1:], strict=True):
        other = recipe.flat()
        differ = next((path for path in SAME if first.get(path) != other.get(path)), None)
        if differ is not None:
            raise RecipeError(
                f"`{differ}` is {first.get(differ)!r} in {ways[0].about} and {other.get(differ)!r} in {way.about}, so their scores would be "
                "of different data. Compare recipes that are scored on the same."
            )


def _looked_at(recipe: Recipe) -> Job:
    if recipe.task == "given":
        raise RecipeError(
            "This recipe is of a model and data that were passed to `wellfit.fit` in Python, and a recipe holds neither. A comparison takes "
            "recipes whose `data.source` names the data."
        )
    with distributed.joined(device_for(recipe.hardware.device)), torch_settings(recipe):
        return from_recipe(recipe)


def _scored(job: Job, split: str | None) -> tuple[str, int]:
    """On which part, and how many samples that has."""
    loaded = job.loaded
    assert loaded is not None
    parts = {"test": loaded.test, "valid": loaded.valid}
    chosen = split or ("test" if loaded.test is not None and len(loaded.test) else "valid")
    part = parts[chosen]
    if part is None or not len(part):
        raise RecipeError(
            "Nothing is held out, so there is no score to compare by. Set `data.test_share=0.2`, or name a set with `data.test=PATH`."
        )
    return chosen, len(part)


def _kept_open(job: Job) -> Recipe:
    """The resolved recipe, so that taking a regularizer away changes nothing else."""
    opened = {
        path: None for path in ("evaluation.every", "checkpoints.every") if job.recipe.origin(path).by == "derived"
    }
    return job.recipe.override(opened, by="derived")


# ---- regularizers: name -> path -> (off, on)

Strengths = dict[str, tuple[Any, Any]]


def _weight_decay(recipe: Recipe, _: bool) -> Strengths:
    return {"optimizer.weight_decay": (0.0, recipe.optimizer.weight_decay or 0.01)}


def _dropout(recipe: Recipe, _: bool) -> Strengths:
    if recipe.model is None or not hasattr(recipe.model, "dropout"):
        return {}
    usual = MODELS[recipe.model.kind].model_fields["dropout"].default
    return {"model.dropout": (0.0, recipe.model.dropout or usual or 0.2)}


def _label_smoothing(recipe: Recipe, _: bool) -> Strengths:
    return (
        {"loss.label_smoothing": (0.0, recipe.loss.label_smoothing or 0.1)}
        if recipe.loss.kind == "cross-entropy"
        else {}
    )


def _augmentation(recipe: Recipe, _: bool) -> Strengths:
    """What the recipe turns on: only who knows the data can say which changes keep a label."""
    usual, now = Recipe().data.augment.model_dump(), recipe.data.augment.model_dump()
    return {
        f"data.augment.{name}": (off, now[name])
        for name, off in usual.items()
        if now[name] != off and name not in ("mixup", "cutmix")
    }


def _mixing(name: str) -> Callable[[Recipe, bool], Strengths]:
    def strength(recipe: Recipe, asked: bool) -> Strengths:
        now = getattr(recipe.data.augment, name)
        return {f"data.augment.{name}": (0.0, now or 0.2)} if now or asked else {}

    return strength


def _early_stopping(_recipe: Recipe, _: bool) -> Strengths:
    """The best weights in place of the last ones."""
    return {"evaluation.restore_best": (False, True)}


def _towards_start(recipe: Recipe, asked: bool) -> Strengths:
    now = recipe.finetune.towards_start
    fits = recipe.finetune.strategy is not None and (now or asked)
    return {"finetune.towards_start": (0.0, now or 0.01)} if fits else {}


REGULARIZERS: Mapping[str, Callable[[Recipe, bool], Strengths]] = {
    "weight-decay": _weight_decay,
    "dropout": _dropout,
    "label-smoothing": _label_smoothing,
    "augmentation": _augmentation,
    "mixup": _mixing("mixup"),
    "cutmix": _mixing("cutmix"),
    "early-stopping": _early_stopping,
    "towards-start": _towards_start,
}


# ---- what came of it


def _drawn_up(
    ways: Sequence[Way],
    seeds: Sequence[int],
    found: Mapping[tuple[str, int], Outcome],
    trials: Mapping[tuple[str, int], Trial],
    folder: Path,
    name: str,
    scored: tuple[str, int],
    metric: str | None,
) -> Comparison:
    first = ways[0].recipe
    scores = next((one.scores for one in found.values() if one.scores), {})
    chosen = metric or told(scores, first.evaluation.metric)
    arms = []
    for way in ways:
        mine = {seed: found[way.name, seed] for seed in seeds if (way.name, seed) in found}
        times = [one.seconds for one in mine.values() if one.seconds is not None]
        folders = {s: str(way.there.get(s) or trials[way.name, s].folder) for s in mine}
        arms.append(
            Arm(
                way.name,
                way.about,
                {seed: one.scores[chosen] for seed, one in mine.items() if not one.failed and chosen in one.scores},
                {seed: folders[seed] for seed, one in mine.items() if one.failed},
                folders,
                sum(times) / len(times) if times else None,
                max((one.steps for one in mine.values()), default=0),
            )
        )
    return Comparison(
        name=name, metric=chosen, better=better(first, chosen) or "max", split=scored[0], scored=scored[1], seeds=tuple(seeds),
        arms=tuple(arms), folder=str(folder), missing=len(ways) * len(seeds) - len(found), notes=_notes(ways, chosen),
    )  # fmt: skip


def _notes(ways: Sequence[Way], metric: str) -> tuple[str, ...]:
    changed = {change.path for way in ways[1:] for change in ways[0].recipe.diff(way.recipe)}
    notes = []
    if metric == "loss" and any(path.startswith("loss.") for path in changed):
        notes.append(
            "The ways differ in the loss itself, so these losses are not on one scale; compare by another `evaluation.metric`."
        )
    if (
        "optimizer.kind" in changed
        and "optimizer.learning_rate" not in changed
        and ways[0].recipe.optimizer.learning_rate
    ):
        notes.append(
            "The ways differ in the optimizer and share one learning rate, which suits one of them; "
            "`--set optimizer.learning_rate=null` takes each one's usual rate."
        )
    return tuple(notes)


def _tell(number: int, total: int, way: Way, seed: int, comparison: Comparison) -> None:
    """One line for a run."""
    arm = next(arm for arm in comparison.arms if arm.name == way.name)
    score = arm.scores.get(seed)
    what = "failed" if score is None else f"{plain(comparison.metric)} {amount(comparison.metric, score)}"
    print(f"[{number}/{total}] {way.about}, seed {seed}: {what}", file=sys.stderr, flush=True)


def _write(folder: Path, comparison: Comparison) -> None:
    """The comparison so far, whole or not at all."""
    text = json.dumps(comparison.as_dict(), indent=1, ensure_ascii=False)
    remedy = "Choose another place, or mend the permissions or the free space there."
    whole.write(folder / COMPARISON, text, remedy, folder_too=True)
