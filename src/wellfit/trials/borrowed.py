"""A caller's own model, data and optimizer, for short trainings that must leave all of them as they were, bit for bit.

What is tried is tried on a copy of the model, and an optimizer is copied with it. The data is read where it is; its generators, and
the global ones, are put back. What cannot be borrowed so (data that comes once, a model that cannot be copied) is refused.

    >>> with untouched(train):
    ...     job, twins = on_a_copy(recipe, model, train, None, "cross-entropy")
"""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from wellfit.data.batches import untouched_randomness
from wellfit.doctor.copies import copied
from wellfit.errors import DataError, ModelError, RecipeError
from wellfit.recipe import Recipe
from wellfit.train.setup import Job, from_given


def check_data(train: Any, valid: Any = None) -> None:
    """Raises DataError for data that is missing, or that comes only once."""
    if train is None:
        raise DataError(
            "A model was passed without data. Pass what it learns from as `train`: (inputs, targets), a DataLoader ..."
        )
    for data in (train, valid):
        if hasattr(data, "__next__"):
            raise DataError(
                f"The data is a {type(data).__name__}, which can be iterated only once, and each short training begins anew. Pass a list of "
                "batches, a DataLoader, a Dataset, or a tuple of tensors."
            )


def on_a_copy(recipe: Recipe, model: nn.Module, train: Any, valid: Any, loss: Any) -> tuple[Job, dict[int, Any]]:
    """A job on a copy of the model, and by the id of each parameter of the model the copy's."""
    twin, _ = copied(model)
    twins = {id(own): other for own, other in zip(model.parameters(), twin.parameters(), strict=True)}
    return from_given(recipe, twin, train, valid, loss=loss), twins


def as_in_a_plain_loop(recipe: Recipe, model: nn.Module, optimizer: Any) -> Recipe:
    """Without what a loop of the caller's own does not do, unless the caller named it.

    Raises RecipeError or ModelError for an optimizer that the loop cannot turn.
    """
    kind, groups = type(optimizer).__name__, getattr(optimizer, "param_groups", [])
    if not groups or any("lr" not in group for group in groups):
        raise RecipeError(
            f"The optimizer is a {kind}, whose groups have no `lr` that could be set. Pass one that has, such as torch's."
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise RecipeError(
            f"{kind} evaluates the loss several times a step and searches the length of its steps itself, which this loop does not do. "
            "Pass another optimizer."
        )
    if not float(groups[0]["lr"]) > 0:
        raise RecipeError(
            f"The optimizer's first rate is {float(groups[0]['lr']):g}; the rates of its groups keep their proportion, so it must be above 0."
        )
    own = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in own and parameter.requires_grad for group in groups for parameter in group["params"]):
        raise ModelError("The optimizer holds no trainable parameter of this model. Make it from `model.parameters()`.")
    usual = {"schedule.kind": "constant", "schedule.warmup_steps": 0, "training.max_grad_norm": None}
    device = next(model.parameters()).device
    usual["hardware.device"] = str(device)
    return recipe.override(
        {path: value for path, value in usual.items() if path not in recipe.origins}, why="as in a plain loop"
    )


@contextlib.contextmanager
def untouched(*loaders: Any) -> Iterator[None]:
    """Around code that draws from all generators: the global ones, and those that the caller's loaders hold, are put back."""
    held = [getattr(part, "generator", None) for one in loaders for part in (one, getattr(one, "sampler", None))]
    own = [generator for generator in held if isinstance(generator, torch.Generator)]
    states = [generator.get_state() for generator in own]
    if torch.cuda.is_available():
        torch.cuda.init()  # type: ignore[no-untyped-call]  # else nobody would know the state to put back
    try:
        with untouched_randomness():
            yield
    finally:
        for generator, state in zip(own, states, strict=True):
            generator.set_state(state)
