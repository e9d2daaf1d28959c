"""What fine-tuning forgets, measured; and rehearsal against it.

A network that learns a new task from the weights of an old one loses the old one (McCloskey & Cohen 1989), by how much nobody sees who
does not measure. The old task is told by its run: its network is made again and shares, from the first step on, every module with the
network that is trained now but those that are new in it, as a head for other classes is. So its score on its own held-out data,
before and after, is what is left of it. *Rehearsal* (Robins 1995) learns a few old samples beside each batch of new ones.

    >>> old = OldTask.of("runs/first", model, fresh=["head.weight", "head.bias"], device="cpu")
    >>> old.shared, old.left
    (['stem', 'blocks'], ['head'])
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wellfit import tasks
from wellfit.data.arrays import Arrays, Samples
from wellfit.data.batches import Batch, Batches, Held, InMemory, OfSamples, Order, untouched_randomness
from wellfit.data.source import load
from wellfit.errors import DataError, RecipeError, WellfitError
from wellfit.finetune.weights import read
from wellfit.recipe import Recipe
from wellfit.run import Run
from wellfit.settings.finetune import BEFORE
from wellfit.tasks import Task


@dataclass
class OldTask:
    """A task that was learnt before, with a network that shares its modules with one that goes on learning."""

    task: Task
    model: nn.Module  # what is its own in it does not learn
    train: Samples
    held: Held
    metric: str  # the one that stands for all
    shared: list[str]  # names of the modules and parameters that are also the new network's
    left: list[str]  # those that are its own

    @classmethod
    def of(cls, path: str | Path, model: nn.Module, fresh: Sequence[str], device: str) -> "OldTask":
        """From a run's folder. `model` is the new network, in which the parameters `fresh` are new.

        Raises RecipeError where the run's task, data or network cannot be had again or have nothing in common with `model`.
        """
        run = Run.open(path)
        recipe, kind = run.recipe, tasks.KINDS.get(str(run.task.get("task")))
        if kind is None or kind.network is None:
            raise RecipeError(
                f"`finetune.remember` is {str(path)!r}, a run of a model that was passed in Python; only what a recipe made can be made "
                "again and measured."
            )
        try:
            loaded = load(recipe.data, recipe.task)
        except WellfitError as error:
            raise RecipeError(
                f"`finetune.remember` is {str(path)!r}, whose data cannot be read again: {error}"
            ) from None
        part = loaded.valid if loaded.valid is not None and len(loaded.valid) else loaded.test
        if part is None or not len(part):
            raise RecipeError(f"`finetune.remember` is {str(path)!r}, which has no held-out data to be measured on.")
        if recipe.finetune.strategy in BEFORE:
            raise RecipeError(
                f"`finetune.remember` is {str(path)!r}, which learnt vectors before frozen weights; what it learnt is not in the weights that "
                "go on learning, so it cannot be forgotten."
            )
        try:
            with untouched_randomness():
                old = kind.network(recipe, run.task)
                built = kind.build(recipe, loaded)
        except WellfitError as error:
            raise RecipeError(f"`finetune.remember` is {str(path)!r}, which cannot be made again: {error}") from None
        old.load_state_dict(read(path))
        old.requires_grad_(False)
        shared, left = share(old, model, fresh)
        if not any("." in name or name in dict(model.named_children()) for name in shared):
            raise RecipeError(
                f"`finetune.remember` is {str(path)!r}, whose weights are nowhere in the network that is trained here. Begin with them: "
                f"`finetune.weights={path}`."
            )
        size = recipe.evaluation.batch_size or 1024
        held = Held.of_tensors((part.inputs, part.targets), size, device) if isinstance(part, Arrays) else Held.of_samples(part, size, device)  # fmt: skip
        return cls(built.task, old.to(device), loaded.train, held, recipe.evaluation.metric or "loss", shared, left)

    def batches(self, recipe: Recipe, device: str) -> Batches:
        """Old samples for rehearsal, a share of a batch's size at a time."""
        accumulation = recipe.training.gradient_accumulation_steps
        wanted = round(recipe.finetune.rehearsal * (recipe.training.batch_size or 1))
        size = max(accumulation, wanted // accumulation * accumulation)
        if size > len(self.train):
            raise DataError(f"Rehearsal wants {size} old samples a step, and there are {len(self.train)}.")
        order = Order(len(self.train), size, recipe.training.seed, True, accumulation, self.train.lengths())
        if isinstance(self.train, Arrays):
            return InMemory((self.train.inputs, self.train.targets), order, device)
        return OfSamples(self.train, order, device)


def share(old: nn.Module, new: nn.Module, fresh: Sequence[str], prefix: str = "") -> tuple[list[str], list[str]]:
    """Puts the modules of `new` in the place of those of `old`, but for what is `fresh` in `new` or is not there.

    Only what has the same values in both is shared: the new network must begin with the old one's weights. Returns the names of what
    is shared and of what is `old`'s own. Adapters in `new` come with its modules.
    """
    shared: list[str] = []
    left: list[str] = []
    for store in ("_parameters", "_buffers"):
        mine, theirs = getattr(old, store), getattr(new, store)
        for name, value in mine.items():
            other = theirs.get(name)
            if value is None:
                continue
            if other is not None and prefix + name not in fresh and _same(value, other):
                mine[name] = other
                shared.append(prefix + name)
            else:
                left.append(prefix + name)
    for name, child in old.named_children():
        path, other = f"{prefix}{name}", getattr(new, name, None)
        if not isinstance(other, nn.Module):
            left.append(path)
        elif not any(one.startswith(f"{path}.") for one in fresh) and _fits(child, other):
            setattr(old, name, other)
            shared += [path] if any(True for _ in child.parameters()) else []
        else:
            below = share(child, other, fresh, f"{path}.")
            shared, left = shared + below[0], left + below[1]
    return shared, left


def _fits(old: nn.Module, new: nn.Module) -> bool:
    """Whether the new module can stand in the old one's place: all that it holds is there, with or without adapters beside it."""
    there = {name.replace(".base_layer", ""): value for name, value in new.state_dict().items() if "lora_" not in name}
    there = {name.removeprefix("base_layer."): value for name, value in there.items()}
    return all(_same(value, there.get(name)) for name, value in old.state_dict().items())


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape:
        return False
    return torch.equal(one.detach().cpu(), other.detach().cpu())


@dataclass(frozen=True)
class Both:
    """A batch of the new task and one of the old."""

    new: Batch
    old: Batch | None


class WithOld:
    """New batches with old ones beside them, both at a position that a resume knows."""

    def __init__(self, new: Batches, old: Batches):
        self.new, self.old = new, old
        self.samples, self.steps_per_epoch = new.samples, new.steps_per_epoch

    def peek(self) -> Batch:
        """A new batch alone, by which shapes and labels are looked at."""
        return self.new.peek()

    def take(self) -> list[Batch]:
        new = self.new.take()
        return [Both(one, other) for one, other in zip_longest(new, self.old.take()[: len(new)])]

    def state_dict(self) -> dict[str, Any]:
        return {"new": self.new.state_dict(), "old": self.old.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.new.load_state_dict(state["new"])
        self.old.load_state_dict(state["old"])


class Rehearsing:
    """A task whose loss has `strength` times the mean loss of old samples beside the mean loss of new ones. Scores are the new one's."""

    def __init__(self, task: Task, old: OldTask, strength: float):
        self.task, self.old, self.strength = task, old, strength

    def weight(self, batch: Batch) -> float | Tensor:
        return self.task.weight(_new(batch))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss = self.task.loss(model, _new(batch))
        if isinstance(batch, Both) and batch.old is not None:
            mean = self.old.task.loss(self.old.model, batch.old) / self.old.task.weight(batch.old)
            loss = loss + self.strength * self.task.weight(batch.new) * mean
        return loss

    def measure(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        return self.task.measure(model, _new(batch))

    def summarize(self, sums: Mapping[str, Any]) -> dict[str, float]:
        return self.task.summarize(sums)

    def check(self, model: nn.Module, batch: Batch) -> None:
        self.task.check(model, _new(batch))


def _new(batch: Batch) -> Batch:
    return batch.new if isinstance(batch, Both) else batch
