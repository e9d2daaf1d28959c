"""Copies of a model to try things on, so that the program's own is left alone."""

import copy
import pickle

from torch import nn

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
