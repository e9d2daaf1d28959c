"""The public verbs of the memory plan: will this train, or serve, on that GPU, and what would make it fit?

`memory_plan` is for your own model and a batch, `memory_plan_recipe` for a recipe, `memory_plan_config` for a language model of
Hugging Face of which there need be no more than the configuration. No number is computed: what is counted is what a step, or the
reading of a prompt, would hold (`plan/trace.py`).

    >>> print(wellfit.memory_plan(model, (x, y), "cross-entropy", gpu="RTX 4090"))
    >>> wellfit.memory_plan_config("llama/", batch=4, tokens=2048, lora=16, bits=4).needed
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from wellfit import losses, optim, tasks
from wellfit.data.batches import Batch, InMemory, OfSamples, on_device
from wellfit.errors import RecipeError, WellfitError
from wellfit.events import Paced
from wellfit.models.keras import adopted
from wellfit.optim.optimizers import KINDS
from wellfit.plan.hardware import Gpu, gpu_called
from wellfit.plan.languages import Language, language_serving, language_training, told
from wellfit.plan.packed import EightBits
from wellfit.plan.sharding import sharded
from wellfit.plan.trace import Subject, Traced, training
from wellfit.precision import DTYPES
from wellfit.recipe import Optimizer, Recipe, nearest
from wellfit.report.memory import Measured, MemoryPlan, Way, needed
from wellfit.run import Run
from wellfit.train.recovery import least_samples
from wellfit.train.setup import Job, from_recipe, with_rates
from wellfit.train.switches import torch_settings

S = TypeVar("S", Subject, Language)
TOLD = (
    "optimizer.kind", "hardware.precision", "hardware.activation_checkpointing", "training.batch_size",
    "training.gradient_accumulation_steps",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Change:
    """One way to need less: what it is called, what it costs, and the plan with it, or None where it does not apply."""

    what: Callable[[Any], str]
    cost: str
    made: Callable[[Any], Any]


def memory_plan(
    model: nn.Module,
    batch: Any,
    loss: Any,
    *,
    optimizer: str = "adamw",
    precision: str = "fp32",
    checkpointing: int = 0,
    micro_batches: int = 1,
    devices: int = 1,
    gpu: str | None = None,
) -> MemoryPlan:
    """What training this model holds at its peak. The model may have been made under `torch.device("meta")`, and stays as it is.

    `batch`: one micro-batch: a tuple (inputs, ..., targets), a mapping with a key such as "labels", or a tensor that is its own
    target. `loss`: as for `fit`. `optimizer`: a kind of the recipe's. `precision`: fp32, bf16 or fp16, whose weights stay in fp32.
    `checkpointing`: every so many blocks recompute their activations. `micro_batches`: of that size, in a step. `devices`: that
    share weights, gradients and the optimizer's state (FSDP). `gpu`: of the table; ways to make it fit are then ranked.

    Raises ModelError where the model does not run without numbers, RecipeError and HardwareError for what cannot be.
    """
    if precision not in DTYPES:
        raise RecipeError(f"`precision` is {precision!r}; it can be {', '.join(DTYPES)}.")
    if optimizer not in KINDS:
        raise RecipeError(f"`optimizer` is {optimizer!r}; it can be {', '.join(KINDS)}.{nearest(optimizer, KINDS)}")
    for name, value, least in (
        ("checkpointing", checkpointing, 0),
        ("micro_batches", micro_batches, 1),
        ("devices", devices, 1),
    ):
        if value < least:
            raise RecipeError(f"`{name}` is {value}; it must be at least {least}.")
    module = adopted(model)
    task = tasks.Supervised(losses.adapt(loss))
    subject = Subject(
        module,
        task.loss,
        batch,
        _builder(optimizer),
        precision,
        micro_batches=micro_batches,
        checkpointing=checkpointing,
    )
    settings = {
        "optimizer": optimizer,
        "precision": precision,
        "checkpointing": checkpointing,
        "micro_batches": micro_batches,
    }
    return _planned(type(model).__name__, subject, settings, devices, gpu)


def memory_plan_recipe(
    recipe: Recipe | str | Path,
    *,
    set: Mapping[str, Any] | None = None,
    devices: int = 1,
    gpu: str | None = None,
    run: Run | None = None,
) -> MemoryPlan:
    """What training a recipe, a preset or a run's folder holds at its peak, its longest batch and an evaluation included.

    Beside a run's prediction stands what it measured; `run` names it where the recipe is not its folder. Raises a WellfitError for
    whatever does not fit, as `fit_recipe` does.
    """
    if devices < 1:
        raise RecipeError(f"`devices` is {devices}; it must be at least 1.")
    run = _run(recipe) if run is None else run
    chosen = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    chosen = chosen.unresolved() if isinstance(recipe, (str, Path)) and Path(recipe).exists() else chosen
    chosen = chosen.override(set) if set else chosen
    with torch_settings(chosen):
        return memory_plan_job(from_recipe(chosen), devices=devices, gpu=gpu, run=run)


def memory_plan_job(job: Job, *, devices: int = 1, gpu: str | None = None, run: Run | None = None) -> MemoryPlan:
    """What training a job that is made already holds at its peak; beside it what `run` measured. The job stays as it is."""
    flat = job.recipe.flat()
    settings = {name: flat[name] for name in TOLD}
    plan = _planned(job.recipe.name or "recipe", subject_of(job), settings, devices, gpu)
    return dataclasses.replace(plan, measured=_measured(run, job.device)) if run is not None else plan


def memory_plan_config(config: str | Path, *, gpu: str | None = None, **settings: Any) -> MemoryPlan:
    """What training, or serving, a language model of Hugging Face holds at its peak, by its configuration alone.

    `config`: a config.json, a folder with one, or a name on the hub, of which only the configuration is fetched. `settings`: the fields of
    `wellfit.plan.languages.Language`: batch, tokens, precision, optimizer, checkpointing, lora, bits, micro_batches, devices, serve.

    Raises RecipeError for settings that cannot be, ModelError for a configuration that is not there or not known.
    """
    asked = Language(str(config), **settings)
    name = Path(asked.config).parent.name if asked.config.endswith(".json") else Path(asked.config).name
    return _planned(name or "model", asked, told(asked), asked.devices, gpu)


def subject_of(job: Job) -> Subject:
    """What a job's steps hold: its model, task and optimizer, its largest micro-batch, and its first held-out one."""
    training_settings, batches = job.recipe.training, job.batches
    valid = next(iter(job.valid), None) if job.valid is not None else None
    return Subject(
        job.model, job.task.loss, largest(batches), lambda model: optim.build(model, with_rates(job.recipe, job.stages), EightBits),
        job.recipe.hardware.precision, micro_batches=training_settings.gradient_accumulation_steps,
        max_grad_norm=training_settings.max_grad_norm, evaluated=job.task.measure, valid=valid,
        data=batches.tensors if isinstance(batches, InMemory) else None,
        recomputing=bool(job.recipe.hardware.activation_checkpointing),
    )  # fmt: skip


def largest(batches: Any) -> Batch:
    """The micro-batch of the first epoch with the longest samples, or the next one where all are alike."""
    lengths = batches.order.lengths if isinstance(batches, OfSamples) else None
    if lengths is None:
        return batches.peek()
    order = batches.order
    samples, starts = order.epoch(0), order.starts
    cuts = [samples[first:end] for first, end in itertools.pairwise(starts)]
    micros = [micro for cut in cuts for micro in order.micro_batches(cut)]
    longest = max(micros, key=lambda micro: int(lengths[micro].max()) * len(micro))
    return on_device(batches.held.batch(longest, 0), batches.device)


def ways_to_fit(subject: Subject, card: Gpu) -> tuple[tuple[Way, ...], tuple[Way, ...]]:
    """Each change alone, ranked, and, where none suffices, the fewest that do together: what `MemoryPlan.ways` has."""
    return _ways(subject, _traced(subject), 1, card)


# ---- inside


def _builder(kind: str) -> Callable[[nn.Module], Any]:
    settings = Optimizer(
        kind=cast(Any, kind), learning_rate=1e-3, weight_decay=0.01, beta2=0.99 if "lion" in kind else 0.999
    )
    return functools.partial(optim.build, settings=settings, of_eight_bits=EightBits)


@functools.singledispatch
def _traced(subject: Any) -> Traced:
    raise TypeError(subject)


@_traced.register
def _(subject: Subject) -> Traced:
    return training(subject)


@_traced.register
@functools.lru_cache(maxsize=64)
def _(subject: Language) -> Traced:
    return language_serving(subject) if subject.serve else language_training(subject)


def _planned(
    name: str, subject: Subject | Language, settings: dict[str, Any], devices: int, gpu: str | None
) -> MemoryPlan:
    card = gpu_called(gpu) if gpu is not None else None
    traced = _traced(subject)
    serves = isinstance(subject, Language) and subject.serve
    peak = _on_each(traced, subject, devices)
    plan = MemoryPlan(
        name, serves, settings, traced.parameters, traced.trainable, peak.parts, peak.phase, devices, traced.notes, card
    )
    if card is None or plan.fits:
        return plan
    ways, together = _ways(subject, traced, devices, card)
    return dataclasses.replace(plan, ways=ways, together=together)


def _on_each(traced: Traced, subject: Subject | Language, devices: int) -> Any:
    serves = isinstance(subject, Language) and subject.serve
    width = 4 if subject.precision == "fp32" else 2
    return sharded(traced.peak, devices, traced.largest * width, serves=serves)


def _ways(
    subject: Subject | Language, traced: Traced, devices: int, card: Gpu
) -> tuple[tuple[Way, ...], tuple[Way, ...]]:
    """Each change alone, those that make it fit first, the cheaper the earlier; and the fewest in that order that do together."""
    changes = _OF_LANGUAGES if isinstance(subject, Language) else _OF_MODELS
    made = [(change, found) for change in changes if (found := _after(change, subject, devices, card)) is not None]
    ways, able = [way for _, (_, way) in made], [change for change, _ in made]
    for more in (2, 4, 8):
        many = devices * more
        peak = _on_each(traced, subject, many).bytes
        fits = needed(peak) <= card.bytes
        if fits or more == 8:
            cost = "so many GPUs, and half as much communication again as plain data parallelism"
            ways.append(Way(f"{many} GPUs that share it (FSDP)", peak, cost, fits))
            break
    base = _on_each(traced, subject, devices).bytes
    ranked = sorted((way for way in ways if way.peak < base), key=lambda way: not way.fits)
    if any(way.fits for way in ranked):
        return tuple(ranked), ()
    together: list[Way] = []
    now: Any = subject
    for change in able:
        found = _after(change, now, devices, card)
        if found is None or found[1].peak >= (together[-1].peak if together else base):
            continue
        now, way = found
        together.append(way)
        if way.fits:
            break
    return tuple(ranked), tuple(together)


def _after(change: Any, subject: Any, devices: int, card: Gpu) -> tuple[Any, Way] | None:
    """The subject with one thing changed, and what it then needs; None where that cannot be."""
    other = change.made(subject)
    if other is None:
        return None
    try:
        peak = _on_each(_traced(other), other, devices).bytes
    except WellfitError:  # a model without blocks to recompute, or without a matrix for Muon
        return None
    return other, Way(change.what(other), peak, change.cost, needed(peak) <= card.bytes)


# Changes in the order of what they cost: first those after which the same is learnt.


def _finer(subject: Subject) -> Subject | None:
    rows = next((len(part) for part in _tensors(subject.batch) if part.ndim), 1)
    least = max(least_samples(subject.model), rows // 4)
    if least >= rows:
        return None
    return dataclasses.replace(
        subject, batch=_cut(subject.batch, rows, least), micro_batches=subject.micro_batches * -(-rows // least)
    )


def _finer_language(asked: Language) -> Language | None:
    rows = asked.batch // asked.micro_batches
    if asked.serve or rows < 2:
        return None
    return dataclasses.replace(asked, micro_batches=asked.batch)


def _recomputing(subject: S) -> S | None:
    if isinstance(subject, Language):
        return None if subject.serve or subject.checkpointing == 1 else dataclasses.replace(subject, checkpointing=1)
    return None if subject.recomputing or subject.checkpointing == 1 else dataclasses.replace(subject, checkpointing=1)


def _halved(subject: S) -> S | None:
    return dataclasses.replace(subject, precision="bf16") if subject.precision == "fp32" else None


def _language(**changed: Any) -> Callable[[Language], Language | None]:
    def made(asked: Language) -> Language | None:
        bits, lora = changed.get("bits", 16), changed.get("lora")
        if asked.serve != ("lora" not in changed and "optimizer" not in changed and "precision" not in changed):
            return None
        if (bits >= asked.bits and "bits" in changed) or (lora and asked.lora and bits == 16):
            return None
        if all(getattr(asked, name) == value for name, value in changed.items()):
            return None
        if "optimizer" in changed and (asked.lora or asked.optimizer not in ("adam", "adamw")):
            return None
        if "precision" in changed and (asked.lora or asked.precision == "fp32"):
            return None
        return dataclasses.replace(asked, **changed)

    return made


def _eight_bits(subject: Subject) -> Subject | None:
    return dataclasses.replace(subject, optimizer=_builder("adamw8bit"))


def _lighter(subject: Subject) -> Subject | None:
    return dataclasses.replace(subject, optimizer=_builder("adafactor"))


_FINER = "the same gradient (but for batch norm's statistics), each step slower"
_AGAIN = "the same gradient, about a third more time"
_BITS = "as good in most published tests; a package more (bitsandbytes)"
_BF16 = "two to three digits in products; faster on GPUs that multiply bf16"
_OF_MODELS = (
    _Change(lambda s: f"micro-batches: {s.micro_batches} a step, accumulated", _FINER, _finer),
    _Change(lambda _: "bf16 (autocast)", _BF16, _halved),
    _Change(lambda _: "activation checkpointing in every block", _AGAIN, _recomputing),
    _Change(lambda _: "AdamW with a state of 8 bits", _BITS, _eight_bits),
    _Change(lambda _: "adafactor in place of the optimizer", "another optimizer, with another learning rate", _lighter),
)
_OF_LANGUAGES = (
    _Change(lambda s: f"micro-batches: {s.micro_batches} a step, accumulated", _FINER, _finer_language),
    _Change(lambda _: "bf16 (autocast)", _BF16, _halved),
    _Change(lambda _: "activation checkpointing in every block", _AGAIN, _recomputing),
    _Change(lambda _: "AdamW with a state of 8 bits", _BITS, _language(optimizer="adamw8bit")),
    _Change(lambda _: "everything in bf16 (pure-bf16)", "small updates are rounded away", _language(precision="pure-bf16")),
    _Change(lambda _: "LoRA of rank 16", "only small matrices learn: less is learnt and less is forgotten than by full fine-tuning", _language(lora=16)),
    _Change(lambda _: "QLoRA: LoRA beside weights in 4 bits", "as LoRA, and each step slower: weights are made whole again", _language(lora=16, bits=4)),
    _Change(lambda _: "weights in 8 bits", "nearly the same answers; slower where kernels are missing", _language(bits=8)),
    _Change(lambda _: "weights in 4 bits", "answers that are a little worse; measure it", _language(bits=4)),
)  # fmt: skip


def _tensors(batch: Any) -> Sequence[Tensor]:
    parts = [batch] if isinstance(batch, Tensor) else batch.values() if isinstance(batch, Mapping) else batch
    return [part for part in parts if isinstance(part, Tensor)]


def _cut(batch: Any, rows: int, least: int) -> Any:
    def cut(part: Any) -> Any:
        return part[:least].clone() if isinstance(part, Tensor) and part.ndim and len(part) == rows else part

    if isinstance(batch, Tensor):
        return cut(batch)
    if isinstance(batch, Mapping):
        return {name: cut(part) for name, part in batch.items()}
    return tuple(cut(part) for part in batch)


def _run(recipe: Any) -> Run | None:
    folder = Path(recipe) if isinstance(recipe, (str, Path)) else None
    return Run.open(folder) if folder is not None and (folder / "events.jsonl").is_file() else None


def _measured(run: Run, device: str) -> Measured | None:
    paces = [event.memory_bytes for event in run.events() if isinstance(event, Paced)]
    if not paces or not max(paces):
        return None
    trained_on = str(run.environment.get("device") or device)
    if trained_on.startswith("cuda"):
        return Measured(max(paces), "the most that torch had allocated on the GPU", True)
    what = "the most that the whole process held on a CPU, Python and its libraries included, which is not the same"
    return Measured(max(paces), what, False)
