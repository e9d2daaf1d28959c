"""Copies of a model to try things on, so that the program's own is left alone."""

import copy
import pickle
from typing import Any

from torch import nn

from wellfit.doctor.words import said
from wellfit.errors import ModelError

LARGEST = 30_000_000  # parameters of a model that is still copied


def twin(model: nn.Module) -> nn.Module | None:
    """A deep copy; None where the model is too large, or holds what cannot be copied (a tensor with a graph, a file, a lock).

    Nothing is then tried on it, and no finding rests on it: that is no fault of the program's, and not told.
    """
    if sum(p.numel() for p in model.parameters()) > LARGEST:
        return None
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError, NotImplementedError, ValueError, AttributeError, pickle.PicklingError):
        return None


def copied(model: nn.Module, optimizer: Any = None) -> tuple[nn.Module, Any]:
    """A copy of both, the optimizer's holding the model's parameters. Raises ModelError where they cannot be copied."""
    try:
        twin, own = copy.deepcopy((model, optimizer))
    except Exception as error:
        raise ModelError(
            f"The model cannot be copied, and nothing is tried on the model itself ({said(error)}). Pass a model that "
            "`copy.deepcopy` can copy: without tensors of an earlier step, open files or locks in it."
        ) from error
    return twin, own
