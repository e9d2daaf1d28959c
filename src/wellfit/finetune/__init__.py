"""Training goes on from weights that were learnt before: taken over, frozen, thawed, given rates of their own, adapted.

What a strategy does to a model is done before the loop (`begin`), and what learns when is a function of the step (`Stages`);
the loop knows of neither. `shaped` brings an untrained model into the form that a run's weights have, for who loads them.

>>> start = begin(model, recipe)
>>> start.notes
['From a.pt: 97 tensors were taken over; new: head.weight, head.bias.']
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wellfit.data.batches import Batch
from wellfit.errors import ModelError, RecipeError
from wellfit.finetune import adapters, prompts, quantize
from wellfit.finetune.blocks import blocks, ending
from wellfit.finetune.memory import OldTask, Rehearsing, WithOld
from wellfit.finetune.stages import LAID_IN, NEVER, Stages, plan
from wellfit.finetune.weights import Laid, laid_into, read
from wellfit.recipe import Recipe
from wellfit.settings.finetune import BEFORE, BESIDE
from wellfit.tasks import Task

__all__ = [
    "BEFORE",
    "BESIDE",
    "NEVER",
    "Laid",
    "OldTask",
    "Rehearsing",
    "Stages",
    "Start",
    "TowardsStart",
    "WithOld",
    "adapters",
    "begin",
    "blocks",
    "laid_into",
    "plan",
    "read",
    "shaped",
]


COMPUTE = {"bf16": torch.bfloat16, "fp16": torch.float16}  # by `hardware.precision`


@dataclass
class Start:
    """How a network begins: what was taken over, what is new in it, what is adapted."""

    fresh: list[str] = field(default_factory=list)  # parameters that were drawn, where others were not
    known: bool = False  # whether it is certain that nothing else is new
    kept: list[str] = field(default_factory=list)  # parameters that came frozen, and stay so
    notes: list[str] = field(default_factory=list)


def begin(model: nn.Module, recipe: Recipe, fresh: list[str] | None = None) -> Start:
    """Lays weights in, and adapters, as `recipe.finetune` says. `fresh`: what is new in a model that comes with weights,
    None if that is not known.

    Raises DataError and ModelError for weights that cannot be read or do not fit.
    """
    settings, start = recipe.finetune, Start(list(fresh or ()), known=fresh is not None)
    start.kept = [name for name, p in model.named_parameters() if not p.requires_grad]
    if settings.weights is not None:
        weights = read(settings.weights)
        if settings.channels == "bgr":
            weights = _turned(weights)
    elif settings.channels == "bgr":
        raise RecipeError(
            "`finetune.channels` is 'bgr', which turns the weights of a file; name one with `finetune.weights`."
        )
    if settings.weights is not None:
        laid = laid_into(model, weights)
        names = {name for name, _ in model.named_parameters()}
        start.fresh, start.known = [name for name in laid.fresh if name in names], True
        start.notes.append(f"From {settings.weights}: {laid}")
    start.notes += _laid_beside(model, recipe, start.fresh)
    return start


def shaped(model: nn.Module, recipe: Recipe, record: Mapping[str, Any]) -> nn.Module:
    """The untrained model with adapters where a run of this recipe and record has them, so that its weights can be loaded."""
    _laid_beside(model, recipe, record.get("fresh") or ())
    return model


def _laid_beside(model: nn.Module, recipe: Recipe, fresh: Sequence[str]) -> list[str]:
    """Puts in what learns beside frozen weights, where the strategy has such and the model has none; what is to be told of it."""
    settings, notes = recipe.finetune, []
    if settings.strategy in BESIDE and not adapters.learnt(model):
        head = [*ending(model), *fresh]
        if settings.strategy == "qlora":
            packed = quantize.quantize(model, head, COMPUTE.get(recipe.hardware.precision, torch.float32))
            notes.append(f"The weights of {len(packed)} layers are in four bits.")
        chosen = adapters.lay_in(model, settings, head)
        ends = sorted({name.rpartition(".")[2] for name in chosen})
        notes.append(
            f"LoRA of rank {settings.rank} beside {len(chosen)} layers, those whose names end in {', '.join(ends)}."
        )
    elif settings.strategy in BEFORE and prompts.prompted(model) is None:
        prompts.lay_in(model, settings, recipe.data.context or 1)
        of = "the tokens" if settings.strategy == "prompt" else "the keys and values of each layer"
        notes.append(f"{settings.virtual_tokens} learnt vectors before {of}.")
    return notes


def _turned(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The first convolution of three channels reads them in the other order, which is the same as turning every image."""
    first = next((name for name, value in weights.items() if value.ndim == 4 and value.shape[1] == 3), None)
    if first is None:
        raise ModelError(
            "`finetune.channels` is 'bgr', and no convolution of the file reads three channels. Set it to rgb."
        )
    return {name: value.flip(1) if name == first else value for name, value in weights.items()}


class TowardsStart:
    """A task whose loss also pulls trained weights back to where they started (L2-SP, Li et al. 2018).

    To the mean loss of a batch comes strength / 2 times the squared distance, summed over all parameters that were taken over and learn.
    """

    def __init__(self, task: Task, model: nn.Module, strength: float, fresh: list[str]):
        self.task, self.strength = task, strength
        self.starts = {
            name: p.detach().clone()
            for name, p in model.named_parameters()
            if p.requires_grad and name not in fresh and not any(mark in name for mark in LAID_IN)
        }

    def weight(self, batch: Batch) -> float | Tensor:
        return self.task.weight(batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.task.loss(model, batch) + self.weight(batch) * self.strength / 2 * self.distance(model)

    def distance(self, model: nn.Module) -> Tensor:
        """The squared distance of what learns from its start, a scalar."""
        moved = [
            (p - self.starts[name]).square().sum()
            for name, p in getattr(model, "module", model).named_parameters()
            if name in self.starts and p.requires_grad
        ]
        return torch.stack(moved).sum() if moved else torch.zeros(())

    def measure(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        return self.task.measure(model, batch)

    def summarize(self, sums: Mapping[str, Any]) -> dict[str, float]:
        return self.task.summarize(sums)

    def check(self, model: nn.Module, batch: Batch) -> None:
        self.task.check(model, batch)
