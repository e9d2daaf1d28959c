"""The public verbs for before a run: `check` whether a training can work at all, `trace` one step of it.

Both work on copies: the model, the optimizer and the random generators that were passed stay as they are.

    >>> found = wellfit.check(model, (x, y), "cross-entropy", optimizer=optimizer)
    >>> [check.name for check in found.failed]
    >>> print(wellfit.trace(model, (x, y), "cross-entropy"))
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wellfit import losses, tasks
from wellfit.data import given
from wellfit.data.arrays import Samples
from wellfit.data.batches import Held, on_device
from wellfit.doctor.preflight import Checkup, Subject, preflight
from wellfit.doctor.trace import Trace
from wellfit.doctor.trace import trace as traced
from wellfit.environment import device as device_for
from wellfit.models.keras import adopted
from wellfit.recipe import Recipe
from wellfit.tasks import Task
from wellfit.train.setup import Job, from_recipe
from wellfit.train.switches import torch_settings

AT_ONCE = 256  # samples of a data set that are read together


def check(
    model: nn.Module, batch: Any, loss: Any, *, optimizer: Any = None, train: Any = None, valid: Any = None
) -> Checkup:
    """Examines, before any training, whether model, batch and loss fit together and can learn. Prints as a list.

    `batch`: a tuple (inputs, ..., targets), a mapping with a key such as "labels", or a tensor that is its own target;
    a `DataLoader` or `Dataset` stands for its first batch, and is read as `train` too. `loss`: as for `fit`: a name, a
    torch loss, or a callable (outputs, targets) -> mean over the batch. `optimizer`: it is then checked that it holds
    the model's parameters. `train`, `valid`: the whole data, as `fit` takes it, for duplicates, leakage and balance.

    Raises ModelError where the model cannot be copied, RecipeError for an unknown loss, DataError for data that
    cannot be read. Everything else that goes wrong is a failed check.
    """
    module, task = adopted(model), _task(loss)
    if isinstance(batch, torch.utils.data.DataLoader | torch.utils.data.Dataset):
        train = batch if train is None else train
        batch = next(iter(_batches(batch, module)()))
    return preflight(
        Subject(
            module, on_device(batch, _device(module)), _mean(task), optimizer,
            _batches(train, module) if train is not None else None, _batches(valid, module) if valid is not None else None,
        )
    )  # fmt: skip


def check_recipe(recipe: Recipe | str | Path, *, set: Mapping[str, Any] | None = None) -> Checkup:
    """Examines a recipe's data, model, loss and optimizer before it is run; arguments as for `fit_recipe`."""
    chosen = _chosen(recipe, set)
    with torch_settings(chosen):
        job = from_recipe(chosen)
        loaded = job.loaded
        return preflight(
            Subject(
                job.model, job.batches.peek(), _of_job(job), job.optimizer,
                train=_cut(loaded.train, job.device) if loaded is not None else None,
                valid=_cut(loaded.valid, job.device) if loaded is not None and loaded.valid is not None else None,
                weighted=chosen.loss.class_weights is not None or chosen.loss.kind == "focal",
            )
        )  # fmt: skip


def trace(model: nn.Module, batch: Any, loss: Any, *, optimizer: Any = None) -> Trace:
    """Takes one training step on copies and tells of each layer what it made, its gradient, weights and update.

    `batch` and `loss` as for `check`. Without an optimizer AdamW with a rate of 0.001 stands in. Prints as a table;
    `shapes()` is the table of shapes alone. Raises ModelError where the model cannot be copied or take the batch.
    """
    module = adopted(model)
    return traced(module, on_device(batch, _device(module)), _mean(_task(loss)), optimizer)


def trace_recipe(recipe: Recipe | str | Path, *, set: Mapping[str, Any] | None = None) -> Trace:
    """Traces the first step of a recipe, at the learning rate that its schedule begins with."""
    chosen = _chosen(recipe, set)
    with torch_settings(chosen):
        job = from_recipe(chosen)
        job.set_learning_rate(0)
        return traced(job.model, job.batches.peek(), _of_job(job), job.optimizer)


# ---- inside


def _chosen(recipe: Recipe | str | Path, changes: Mapping[str, Any] | None) -> Recipe:
    chosen = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    return chosen.override(changes) if changes else chosen


def _task(loss: Any) -> Task:
    return tasks.Supervised(losses.adapt(loss))


def _mean(task: Task) -> Callable[[nn.Module, Any], Tensor]:
    """The task's loss as a mean over the batch."""

    def mean(model: nn.Module, batch: Any) -> Tensor:
        return task.loss(model, batch) / task.weight(batch)

    return mean


def _of_job(job: Job) -> Callable[[nn.Module, Any], Tensor]:
    mean = _mean(job.task)

    def in_its_precision(model: nn.Module, batch: Any) -> Tensor:
        with job.precision.autocast():
            return mean(model, batch)

    return in_its_precision


def _device(model: nn.Module) -> str:
    return str(next((p.device for p in model.parameters()), torch.device(device_for("cpu"))))


def _batches(data: Any, model: nn.Module) -> Callable[[], Iterable[Any]]:
    """Reads the caller's data in the order in which it lies."""
    floating = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    source = given.read(data, floating)
    held = source.held(Recipe().override({"evaluation.batch_size": AT_ONCE}), _device(model))
    return lambda: held


def _cut(part: Samples, device: str) -> Callable[[], Iterable[Any]]:
    lengths = part.lengths()
    if lengths is not None:  # padded as in training: to the longest of those of like length
        held = Held.of_samples(part, max(1, AT_ONCE // 16), device)
        return lambda: held

    def batches() -> Iterable[Any]:
        for first in range(0, len(part), AT_ONCE):
            yield on_device(part.batch(torch.arange(first, min(first + AT_ONCE, len(part)))), device)

    return batches
