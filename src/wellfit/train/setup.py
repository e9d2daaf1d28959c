"""From a recipe to a job: data, model, optimizer and all else that `fit.py` turns the handle of.

Everything that can be refused is refused here, before the first step. Two doors: `from_recipe` for data that wellfit
reads itself, `from_given` for the caller's own model and batches. What a resume needs is one dictionary of parts that
have `state_dict` (`Job.parts`), beside the model and the random generators.
"""

import dataclasses
import functools
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.memory_format import convert_conv2d_weight_memory_format

from wellfit import finetune, losses, optim, sharding, tasks, zero
from wellfit.data import given
from wellfit.data.arrays import Arrays, Loaded, Samples
from wellfit.data.augment import FOR_IMAGES, FOR_TEXTS, augment, mixed, turned_on
from wellfit.data.batches import (
    Batch,
    Batches,
    FromIterable,
    Held,
    InMemory,
    OfSamples,
    Order,
    seed_everything,
    untouched_randomness,
)
from wellfit.data.fingerprint import fingerprint as fingerprint_of
from wellfit.data.source import load
from wellfit.defaults import Facts, before_reading, goes_on, resolve
from wellfit.distributed import agreed, gathered, own, rank, world, wrap
from wellfit.environment import device as device_for
from wellfit.environment import fingerprint_of_code, multiplies_bf16
from wellfit.errors import DataError, ModelError, RecipeError, RunError, WellfitError
from wellfit.models.keras import adopted
from wellfit.models.recompute import recompute
from wellfit.optim.gradients import Gradients
from wellfit.precision import Precision
from wellfit.recipe import Optimizer, Recipe, nearest
from wellfit.tasks import Task
from wellfit.tasks.metrics import Averaged
from wellfit.train.recovery import Recovered, check, explaining, ran_out, until_it_fits
from wellfit.train.switches import first_line
from wellfit.zero import Zero, ZeroGradients


@dataclass
class Standing:
    """How far a run has come, and its best evaluation so far."""

    goal: str = "min"
    patience: int | None = None
    min_improvement: float = 0.0
    step: int = 0
    best_step: int | None = None
    best_value: float | None = None
    waited: int = 0  # evaluations since the best

    def consider(self, value: float | None) -> bool:
        """Takes an evaluation at the present step into account. True if it is the best so far; NaN never is."""
        if value is None:
            return False
        gain = (value - (self.best_value or 0.0)) * (1 if self.goal == "max" else -1)
        better = math.isfinite(value) and (self.best_value is None or gain > self.min_improvement)
        if better:
            self.best_step, self.best_value, self.waited = self.step, value, 0
        else:
            self.waited += 1
        return better

    @property
    def patience_is_over(self) -> bool:
        return self.patience is not None and self.waited >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("step", "best_step", "best_value", "waited")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


# Recovery may be asked for when a run goes on: what it has come to is in the checkpoint.
IDLE = (
    "name",
    "checkpoints.",
    "training.log_every",
    "training.doctor",
    "recovery.",
)  # what changes no bit of the training


@dataclass
class Job:
    """A training made ready. `recipe` is resolved."""

    recipe: Recipe
    task: Task
    model: nn.Module
    optimizer: Any
    gradients: Gradients | ZeroGradients
    precision: Precision
    batches: Batches
    valid: Held | None
    test: Held | None
    device: str
    fingerprint: str  # of the training data
    valid_fingerprint: str = "none"
    loss: str = "the recipe's"  # what a caller's own loss is called
    record: dict[str, Any] = field(default_factory=dict)  # for task.json
    notes: list[str] = field(default_factory=list)  # what a person must be told before the first step
    loaded: Loaded | None = None
    standing: Standing = field(default_factory=Standing)
    old: finetune.OldTask | None = None  # what is not to be forgotten
    began_with: str = ""  # a fingerprint of the starting weights, where they still count later
    stages: finetune.Stages | None = None  # what learns when, where that is not everything always
    recovered: Recovered = field(default_factory=Recovered)  # what recovery has come to
    until: int | None = None  # a step to stop at as if interrupted, before the end

    def __post_init__(self) -> None:
        evaluation, checkpoints = self.recipe.evaluation, self.recipe.checkpoints
        self.steps = _total(self.recipe, self.batches)
        self.evaluate_every = _steps(evaluation.every, self.steps)
        self.save_every = _steps(checkpoints.every, self.steps)
        self.metric = evaluation.metric or "loss"
        self.standing = Standing(evaluation.goal or "min", evaluation.patience, evaluation.min_improvement)
        self.schedule: Callable[[int, int], float] = functools.partial(optim.share, settings=self.recipe.schedule)
        self._share: tuple[float, Tensor] | None = None

    @property
    def parts(self) -> dict[str, Any]:
        """What must be put back for a resume to go on as if nothing had happened, besides weights and generators."""
        return {
            "batches": self.batches,
            "optimizer": self.optimizer,
            "precision": self.precision,
            "gradients": self.gradients,
            "standing": self.standing,
            "recovered": self.recovered,
        }

    @property
    def shares(self) -> bool:
        """Whether each rank has only a share of the optimizer's state, so that all of them must come to put it together."""
        return isinstance(self.optimizer, Zero) or sharding.is_sharded(self.model)

    def replica(self) -> nn.Module:
        """The model whose backward pass exchanges gradients over the ranks; the model itself where there is one rank, or it is cut."""
        return self.optimizer.engine if isinstance(self.optimizer, Zero) else wrap(self.model, self.device)

    def set_learning_rate(self, step: int) -> float:
        """Sets the rate of every parameter group for the step after `step`, and lets learn what learns then.

        Returns the first group's rate.
        """
        if self.stages is not None:
            self.stages.at(step)
            factor = self.stages.share(step, self.steps, self.schedule)
        else:
            factor = self.schedule(step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor * self.recovered.factor
        return float(self.optimizer.param_groups[0]["lr"])

    def share(self, weight: float | Tensor) -> Tensor:
        """ranks / weight as a scalar on the device: DDP averages gradients over ranks where a sum is wanted."""
        if isinstance(weight, Tensor):
            return world() / weight.to(self.device).clamp(min=1e-12)
        if self._share is None or self._share[0] != weight:
            self._share = (weight, torch.tensor(world() / max(weight, 1e-12), device=self.device))
        return self._share[1]

    def made_of(self) -> dict[str, str]:
        """All that decides how training goes on, by name, so that a resume notices a change and says which."""
        modules = {f"module {name}": sharding.kind_of(part) for name, part in self.model.named_modules() if name}
        moving = self.stages.starts if self.stages is not None else {}  # what is frozen now may learn later
        frozen = [n for n, p in self.model.named_parameters() if not p.requires_grad and moving.get(n, 0) <= 0]
        recipe = {f"`{path}`": repr(value) for path, value in self.recipe.flat().items() if not path.startswith(IDLE)}
        data = {"the training data": self.fingerprint, "the validation data": self.valid_fingerprint}
        if self.began_with:
            data["the weights that it began with"] = self.began_with
        return signature(self.model) | modules | {"what is frozen": repr(frozen), "the loss": self.loss} | data | recipe

    def agree(self) -> None:
        """Raises RankError where ranks do not train the same: data, recipe, model, code. Raises DataError where they share batches."""
        if world() == 1:
            return
        ready_made = isinstance(self.batches, FromIterable)
        made_of = self.made_of()
        data = {name: made_of.pop(name) for name in ("the training data", "the validation data")}
        agreed(
            the_code=fingerprint_of_code(self.model),
            the_version_of_torch=torch.__version__,
            **({} if ready_made else {name.replace(" ", "_"): value for name, value in data.items()}),
            **{name.replace(" ", "_"): value for name, value in made_of.items()},
        )
        if ready_made and len(set(gathered(fingerprint_of(*_parts(self.batches.peek()))))) < world():
            raise DataError(
                f"{world()} ranks begin with the same ready-made batch, so each would learn all of the data. Give each rank its own "
                "(`torch.utils.data.DistributedSampler`), or pass tensors, a Dataset or a plain DataLoader, which are shared out."
            )

    def state(self) -> dict[str, Any]:
        """The state of all parts, and what the run was made of."""
        return {name: part.state_dict() for name, part in self.parts.items()} | {"made_of": self.made_of()}

    def restore(self, weights: Mapping[str, Any], state: Mapping[str, Any], besides: tuple[str, ...] = ()) -> None:
        """Puts everything back, but for the parts `besides`. Raises RunError if model or data are not those of the checkpoint, saying what changed."""
        changes = _changes(state["made_of"], self.made_of())
        if changes:
            raise RunError(
                f"This run cannot go on, because it was made with something else: {'; '.join(changes)}. "
                "Bring back what it was made with, or start a new run."
            )
        self.put(weights)
        cut = sharding.is_sharded(self.model)
        for name, part in self.parts.items():
            if name not in besides:
                kept = state.get(name, {}) if part is self.recovered else state[name]
                part.load_state_dict(sharding.placed_state(kept, part) if cut and part is self.optimizer else kept)
        states = state["random"]
        if len(states) == world():
            _set_random_state(states[rank()])
            return
        seed_everything((self.recipe.training.seed + rank() + 1_000_003 * self.standing.step) % 2**32)
        self.notes.append(
            f"This run was trained by {_ranks(len(states))} and goes on with {_ranks(world())}: the same batches in the same order, but "
            "sums are rounded in another order and what is drawn at random differs, so not bit for bit."
        )

    def put(self, weights: Mapping[str, Any]) -> None:
        """Gives the model these weights, whole or cut as its own are."""
        self.model.load_state_dict(sharding.placed(weights, self.model.state_dict()))
        if isinstance(self.optimizer, Zero):
            self.optimizer.weights_were_set()

    def go_on_from(self, weights: Mapping[str, Any], state: Mapping[str, Any], steps_per_epoch: int) -> list[str]:
        """Takes over where another recipe's run stood, and goes on by this one: a counterfactual.

        `steps_per_epoch` is that run's. Returns what could not be taken over, a sentence each. Raises RecipeError where
        the change is one of the weights themselves.
        """
        made_of = state["made_of"]
        changes = _changes({name: of for name, of in made_of.items() if name in weights}, signature(self.model))
        if changes:
            raise RecipeError(
                f"The change is one of the weights themselves ({'; '.join(changes)}), so a run cannot go on from its middle "
                "with it. Begin at the start: `--from-step 0`."
            )
        self.model.load_state_dict(weights)
        notes = []
        hyper = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        same_kind = made_of.get("`optimizer.kind`") == repr(self.recipe.optimizer.kind)
        if same_kind and _grouped(state["optimizer"]) == _grouped(self.optimizer.state_dict()):
            self.optimizer.load_state_dict(state["optimizer"])
            for group, own in zip(self.optimizer.param_groups, hyper, strict=True):
                group.update(own)
        else:
            notes.append("The optimizer begins without its averages, because what they average has changed.")
        if made_of.get("`hardware.precision`") == repr(self.recipe.hardware.precision):
            self.precision.load_state_dict(state["precision"])
        self.gradients.load_state_dict(state["gradients"])
        self.recovered.load_state_dict(state.get("recovered", {}))
        position = state["batches"]
        if self.batches.steps_per_epoch != steps_per_epoch and "position" in position:
            epoch, step = divmod(position["position"], steps_per_epoch)
            step = step * self.batches.steps_per_epoch // steps_per_epoch
            position = {**position, "position": epoch * self.batches.steps_per_epoch + step}
            notes.append("Batches are of another size, so the data goes on from the nearest batch of the same epoch.")
        self.batches.load_state_dict(position)
        same_metric = made_of.get("`evaluation.metric`") == repr(self.recipe.evaluation.metric)
        standing = state["standing"] if same_metric else {"step": state["standing"]["step"]}
        self.standing.load_state_dict(standing)
        return notes

    @staticmethod
    def random_state() -> dict[str, Any]:
        """This rank's global generators, as plain data and byte tensors."""
        kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
        version, words, gauss = random.getstate()
        return {
            "torch": torch.get_rng_state(),
            "cuda": cuda,
            "python": [version, list(words), gauss],
            "numpy": [
                str(kind),
                torch.from_numpy(np.asarray(keys).astype(np.int64)),
                int(position),
                int(has_gauss),
                float(cached),
            ],
        }


# ---- the two doors


def from_recipe(recipe: Recipe, loaded: Loaded | None = None) -> Job:
    """A job on data that wellfit reads: embedded, or the user's files. Raises a WellfitError for whatever does not fit.

    `loaded`: what has been read for a recipe with the same data, so that it is not read again.
    """
    told, device = device_for(recipe.hardware.device), own(device_for(recipe.hardware.device))
    recipe = before_reading(recipe)
    loaded = load(recipe.data, recipe.task) if loaded is None else loaded
    valid_samples = len(loaded.valid) if loaded.valid is not None else 0
    facts = Facts(
        task=recipe.task or loaded.task,
        train_samples=len(loaded.train),
        valid_samples=valid_samples,
        name=loaded.name,
        shape=tuple(loaded.train.inputs.shape[1:]) if isinstance(loaded.train, Arrays) else (),
        derived=loaded.derived,
        world=world(),
        device=told,
        bf16=multiplies_bf16(device),
    )
    recipe = resolve(recipe, facts)
    _agrees(recipe, bool(valid_samples))
    if recipe.finetune.strategy is not None and not goes_on(recipe):
        raise RecipeError(
            f"`finetune.strategy` is {recipe.finetune.strategy!r}, but the network begins with weights drawn at random, of which there is "
            "nothing to keep. Name trained ones (`finetune.weights=PATH`, `model.pretrained=true`, `model.kind=pretrained`), or set "
            "`finetune.strategy=null`."
        )
    seed_everything(recipe.training.seed)
    built = tasks.KINDS[facts.task].build(recipe, loaded)
    start = finetune.begin(built.model, recipe, built.fresh)
    training = recipe.training
    order = Order(
        len(loaded.train),
        training.batch_size or 1,
        training.seed,
        recipe.data.shuffle,
        training.gradient_accumulation_steps,
        loaded.train.lengths(),
    )
    train, change, without_effect = _varied(recipe, loaded)
    size = recipe.evaluation.batch_size or 1024
    last = recipe.hardware.channels_last is True
    held = [_held(part, size, device, last) for part in (loaded.valid, loaded.test)]
    batches: Batches = OfSamples(train, order, device, last)
    if isinstance(train, Arrays):
        batches = InMemory((train.inputs, train.targets), order, device, change, last)
    task, old = built.task, _old_task(recipe, built.model, start, device)
    if old is not None and recipe.finetune.rehearsal:
        batches = finetune.WithOld(batches, old.batches(recipe, device))
        task = finetune.Rehearsing(task, old, recipe.finetune.rehearsal)
    job = _assembled(recipe, task, built.model, batches, held[0], held[1], device, loaded.fingerprint, start)
    job.old = old
    if loaded.valid is not None:
        job.valid_fingerprint = loaded.valid.fingerprint()
    job.record, job.loaded = {"task": facts.task, "classes": list(loaded.classes), **built.record}, loaded
    if recipe.finetune.strategy is not None:
        job.record["fresh"] = (
            start.fresh if start.known else None
        )  # by which an export knows what learnt besides adapters
    job.notes += [*loaded.notes, *without_effect]
    if loaded.test is None and tasks.KINDS[facts.task].yardsticks is not None:
        job.notes.append(
            "Nothing is held out to test on, so no classical model stands beside the network; `data.test_share=0.1` adds one."
        )
    return job


def _old_task(recipe: Recipe, model: nn.Module, start: finetune.Start, device: str) -> finetune.OldTask | None:
    """The task that is not to be forgotten, sharing the model's modules; with a note of what it shares."""
    settings = recipe.finetune
    if settings.remember is None:
        if settings.rehearsal:
            raise RecipeError(
                f"`finetune.rehearsal` is {settings.rehearsal:g}, and no old task is named; set `finetune.remember` to its run."
            )
        return None
    if settings.strategy == "qlora":
        raise RecipeError(
            "`finetune.remember` does not go with `finetune.strategy=qlora`, whose packed weights the old network cannot share. Use lora."
        )
    if settings.strategy in finetune.BEFORE:
        raise RecipeError(
            f"`finetune.strategy` is {settings.strategy!r}, which changes no old weight, so nothing can be forgotten. Set "
            "`finetune.remember=null`."
        )
    if settings.rehearsal and world() > 1:
        raise RecipeError("`finetune.rehearsal` does not work with several ranks. Train with one, or set it to 0.")
    old = finetune.OldTask.of(settings.remember, model, start.fresh, device)
    own = f", and has {', '.join(old.left)} of its own" if old.left else ""
    start.notes.append(f"The old task, {settings.remember}, shares {', '.join(old.shared)}{own}.")
    return old


def _total(recipe: Recipe, batches: Batches) -> int:
    """Optimizer steps of the whole training."""
    return recipe.training.steps or math.ceil((recipe.training.epochs or 1) * batches.steps_per_epoch)


def _held(part: Samples | None, size: int, device: str, channels_last: bool) -> Held | None:
    if part is None or not len(part):
        return None
    if isinstance(part, Arrays):
        return Held.of_tensors((part.inputs, part.targets), size, device, channels_last)
    return Held.of_samples(part, size, device, channels_last)


def from_given(
    recipe: Recipe,
    model: nn.Module,
    train: Any,
    valid: Any = None,
    *,
    loss: Any = None,
    metrics: Mapping[str, Callable[[Any, Any], Any]] | None = None,
) -> Job:
    """A job on the caller's own model, data and loss."""
    told, device = device_for(recipe.hardware.device), own(device_for(recipe.hardware.device))
    if recipe.finetune.remember is not None or recipe.finetune.rehearsal:
        raise RecipeError(
            "`finetune.remember` and `finetune.rehearsal` want a model that a recipe makes, and one was passed. Use `wellfit train` or "
            "`wellfit.fit_recipe`."
        )
    recipe = _with_loss(recipe, loss)
    module = adopted(model)
    floating = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    source = given.read(train, floating)
    accumulation = recipe.training.gradient_accumulation_steps
    facts = Facts(
        task="given",
        train_samples=source.samples,
        valid_samples=1 if valid is not None else 0,
        model=type(model).__name__,
        transformer=any("attention" in type(part).__name__.lower() for part in module.modules()),
        world=world(),
        device=told,
        bf16=multiplies_bf16(device),
        steps_per_epoch=source.steps_per_epoch(accumulation),
        batch_size=source.batch_size * accumulation if source.batch_size is not None else None,
        workers=source.workers_wanted() if recipe.data.workers == "auto" else (0, ""),
    )
    recipe = resolve(recipe, facts)
    _agrees(recipe, valid is not None)
    watched = given.read(valid, floating) if valid is not None else None
    held = watched.held(recipe, device) if watched is not None else None
    criterion = losses.build(recipe.loss) if loss is None or isinstance(loss, str) else losses.adapt(loss)
    if isinstance(criterion, losses.OfClasses) and not any(
        part.may_hold(criterion.ignore_index) for part in (source, watched) if part is not None
    ):
        criterion = dataclasses.replace(criterion, masked=False)  # the weight is then known without the device
    task = tasks.Supervised(
        criterion, *tasks.suited(criterion), *(Averaged(*named) for named in (metrics or {}).items())
    )
    start = finetune.begin(module, recipe)
    job = _assembled(
        recipe, task, module, source.batches(recipe, device), held, None, device, source.fingerprint(), start
    )
    job.valid_fingerprint = watched.fingerprint() if watched is not None else "none"
    job.loss = _called(loss)
    job.notes += source.notes
    return job


def _assembled(
    recipe: Recipe,
    task: Task,
    model: nn.Module,
    batches: Batches,
    valid: Held | None,
    test: Held | None,
    device: str,
    fingerprint: str,
    start: finetune.Start,
) -> Job:
    cut = sharding.wanted(recipe)
    with explaining(recipe, f"while the model was moved to {device}"):
        model = model if cut else model.to(device)
        if recipe.hardware.activation_checkpointing:
            recompute(model, recipe.hardware.activation_checkpointing)
        if cut:
            sharding.shard(model, device, recipe.hardware.offload)
    notes, recovered, metric = [*start.notes], Recovered(), recipe.evaluation.metric
    check(recipe, task, batches)
    with sharding.passes(model, getattr(task, "one_pass", True)):
        names = until_it_fits(_look, task, model, batches, recipe, recovered, notes.append)
    if recipe.hardware.channels_last:
        convert_conv2d_weight_memory_format(model, torch.channels_last)
        if not any(isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)) for part in model.modules()):
            notes.append("Without effect on a network without convolutions of images: `hardware.channels_last`.")
    if metric not in names:
        raise RecipeError(
            f"`evaluation.metric` is {metric!r}, but the scores are {', '.join(names)}.{nearest(str(metric), names)}"
        )
    total, stages = _total(recipe, batches), None
    if recipe.finetune.strategy is not None:
        stages = finetune.plan(
            model,
            recipe.finetune,
            total=total,
            per_epoch=batches.steps_per_epoch,
            fresh=start.fresh if start.known else None,
            kept=start.kept,
        )
        notes.append(str(stages))
        if world() > 1 and stages.moves:
            raise RecipeError(
                f"`finetune.strategy` is {recipe.finetune.strategy!r}, by which parameters begin to learn on the way, and several ranks "
                "cannot agree on that. Train with one, or choose one by which all begins at once."
            )
        stages.freeze()
    if recipe.finetune.towards_start:
        task = finetune.TowardsStart(task, model, recipe.finetune.towards_start, start.fresh)
    began_with = ""
    if recipe.finetune.towards_start or recipe.finetune.remember:
        began_with = fingerprint_of(*(value for value in model.state_dict().values() if isinstance(value, Tensor)))
    if valid is None:
        notes.append(
            "There is no validation set: nothing will tell how well this generalises, nor which weights are best. "
            "Hold out a share with `data.valid_share=0.1`, or name one with `data.valid=PATH` (in the library: pass `valid`)."
        )
    model.train()
    optimizer: Any = optim.build(model, with_rates(recipe, stages))
    gradients: Gradients | ZeroGradients = Gradients(model)
    if zero.wanted(recipe):
        optimizer, gradients = zero.shared(model, optimizer, recipe, device)
    seed_everything((recipe.training.seed + rank()) % 2**32)
    return Job(
        recipe=recipe,
        task=task,
        model=model,
        optimizer=optimizer,
        gradients=gradients,
        precision=Precision(recipe.hardware.precision, device),
        batches=batches,
        valid=valid,
        test=test,
        device=device,
        fingerprint=fingerprint,
        notes=notes,
        stages=stages,
        began_with=began_with,
        recovered=recovered,
    )


def _ranks(number: int) -> str:
    return f"{number} rank{'' if number == 1 else 's'}"


def with_rates(recipe: Recipe, stages: finetune.Stages | None) -> Optimizer:
    """The optimizer's settings with its rates scaled to the batch, and those that a strategy of fine-tuning gives parameters."""
    settings = recipe.optimizer
    if settings.reference_batch_size is not None:
        batch, reference, rule = recipe.training.batch_size or 1, settings.reference_batch_size, settings.batch_scaling
        rates = {name: optim.scaled(rate, batch, reference, rule) for name, rate in settings.learning_rates.items()}
        rate = optim.scaled(settings.learning_rate, batch, reference, rule)
        settings = settings.model_copy(update={"learning_rate": rate, "learning_rates": rates})
    return settings if stages is None else settings.model_copy(update={"learning_rates": stages.rates(settings)})


def _look(task: Task, model: nn.Module, batches: Batches) -> list[str]:
    """One batch through the model, changing nothing: shapes, label ranges and lazy layers are settled before step 1.

    Returns the names of the scores. Raises a WellfitError for what does not fit together.
    """
    modes = [(module, module.training) for module in model.modules()]
    with untouched_randomness():
        batch = batches.peek()
        model.eval()
        try:
            with torch.no_grad():
                task.check(model, batch)
                measured = task.measure(model, batch)
                scores = task.summarize({k: v.cpu() if isinstance(v, Tensor) else v for k, v in measured.items()})
            loss = task.loss(model, batch)
        except WellfitError:
            raise
        except (RuntimeError, TypeError, IndexError, KeyError, ValueError) as error:
            if ran_out(error):
                raise
            raise ModelError(f"The model cannot take a batch of {_described(batch)}: {first_line(error)}.") from error
        finally:
            for module, training in modes:
                module.training = training
    samples = next((len(part) for part in _parts(batch) if part.ndim), 2)
    if samples < 2 and any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise ModelError(
            "The model has batch norm, which needs at least two samples, and a micro-batch here has one. Raise "
            "`training.batch_size`, lower `training.gradient_accumulation_steps`, or use group or layer norm."
        )
    if not loss.requires_grad:
        raise ModelError(
            "The loss does not depend on any trainable parameter, so there is nothing to learn: the model has none, all of them "
            "are frozen, or the outputs are detached (`.detach()`, `.item()`, NumPy) on their way to the loss."
        )
    return list(scores)


def _described(batch: Batch) -> str:
    """Shapes and types of what is in a batch."""
    return " and ".join(f"{list(part.shape)} {str(part.dtype).removeprefix('torch.')}" for part in _parts(batch))


def _parts(batch: Batch) -> list[Tensor]:
    parts = (
        [batch] if isinstance(batch, Tensor) else list(batch.values()) if isinstance(batch, Mapping) else list(batch)
    )
    return [part for part in parts if isinstance(part, Tensor)]


def _with_loss(recipe: Recipe, loss: Any) -> Recipe:
    """The recipe with the loss that was passed: by its name, where it has one, so that the settings beside it count."""
    chosen = recipe.loss.kind
    if loss is None:
        return recipe
    if isinstance(loss, str):
        losses.adapt(loss)  # an unknown name is told here
        if chosen not in (None, loss):
            raise RecipeError(
                f"The loss passed is {loss!r}, but `loss.kind` of the recipe is {chosen!r}. Keep one of them."
            )
        return (
            recipe.override({"loss.kind": loss}, by="user", why="passed to wellfit.fit") if chosen is None else recipe
        )
    if chosen not in (None, "given") or recipe.loss.model_copy(update={"kind": None}) != type(recipe.loss)():
        raise RecipeError(
            "A loss was passed, and the recipe sets `loss` too, which only goes with a loss that is named. Keep one of them."
        )
    return recipe


def _called(loss: Any) -> str:
    """A name for a caller's loss that another one would not have."""
    if loss is None or isinstance(loss, str):
        return "the recipe's"
    return repr(loss) if isinstance(loss, nn.Module) else str(getattr(loss, "__qualname__", type(loss).__qualname__))


def _agrees(recipe: Recipe, validated: bool) -> None:
    """What only shows once the data is known."""
    if recipe.evaluation.patience is not None and not validated:
        raise RecipeError(
            f"`evaluation.patience` is {recipe.evaluation.patience}, but there is no validation set to be patient about. "
            "Hold out a share with `data.valid_share=0.1`, or set `evaluation.patience=null`."
        )


def _varied(recipe: Recipe, loaded: Loaded) -> tuple[Samples, Any, list[str]]:
    """The training samples, what changes a chunk of them at random, and which of `data.augment` has no effect here."""
    settings, images = recipe.data.augment, loaded.task == "image-classification"
    used = FOR_IMAGES if images else loaded.train.augments
    left = turned_on(settings, tuple(name for name in (*FOR_IMAGES, *FOR_TEXTS) if name not in used))
    named = ", ".join(f"`data.augment.{name}`" for name in left)
    notes = [f"Without effect on data for {loaded.task}: {named}."] if left else []
    change = functools.partial(_augmented, recipe, loaded) if images and turned_on(settings, FOR_IMAGES) else None
    return loaded.train.varied(settings, recipe.training.seed), change, notes


def _augmented(
    recipe: Recipe, loaded: Loaded, chunk: tuple[Tensor, ...], samples: Tensor, epoch: int
) -> tuple[Tensor, ...]:
    (images, targets), settings = chunk, recipe.data.augment
    how: dict[str, Any] = dict(seed=recipe.training.seed, epoch=epoch)
    if settings.mixup or settings.cutmix:
        whole = loaded.train
        return mixed(whole.inputs, whole.targets, samples, settings, classes=len(loaded.classes), **how)
    return augment(images, samples, settings, **how), targets


def signature(model: nn.Module) -> dict[str, str]:
    """Name -> shape and type of everything the model's state holds."""
    state = model.state_dict()
    return {
        name: f"{list(v.shape)} {str(v.dtype).removeprefix('torch.')}"
        for name, v in state.items()
        if isinstance(v, Tensor)
    }


def _changes(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    changes = [f"{name} is {now[name]}, not {then[name]}" for name in then if name in now and then[name] != now[name]]
    changes += [f"{name} is gone" for name in then if name not in now]
    changes += [f"{name} is new" for name in now if name not in then]
    return changes if len(changes) <= 4 else [*changes[:4], f"and {len(changes) - 4} more"]


def _grouped(state: Mapping[str, Any]) -> list[Any]:
    """How many parameters each group of an optimizer's state has."""
    if "param_groups" in state:
        return [len(group["params"]) for group in state["param_groups"]]
    return [_grouped(part) for part in state.values()]


def _set_random_state(state: Mapping[str, Any]) -> None:
    kind, keys, position, has_gauss, cached = state["numpy"]
    version, words, gauss = state["python"]
    torch.set_rng_state(state["torch"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    random.setstate((version, tuple(words), gauss))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _steps(every: float | None, total: int) -> int:
    """Steps between things that happen now and then; a share of all steps below 1."""
    if every is None:
        return total
    return max(1, round(every * total) if every < 1 else round(every))
