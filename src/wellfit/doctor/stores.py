"""What the datasets of a program's loaders keep: how many of their samples are different, and whether two sets share some.

Random augmentation hides from batches that two images are one. The stored samples tell, where a dataset keeps them as an
array, a tensor or a list of files; a `Subset` also by its indices. Of a dataset's own code only `__len__` is run.

    >>> stores.opened(loader, emit); stores.passed(dataset, steps); stores.tell(emit)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellfit.doctor.measure import Fingerprints

MOST, LEAST, COLUMNS, ROWS = 50_000, 32, 512, 2048
LABELS = 64  # columns of zeros and ones up to which an array may be labels


@dataclass
class Store:
    """The samples of one dataset."""

    name: str
    dataset: Any  # weak reference
    marks: list[int]
    width: int
    whole: bool
    shared: bool  # the marks are those of what is stored, and not only of places in it
    steps: int = 0  # taken during passes over it
    passes: int = 0


class Stores:
    """The datasets of one training."""

    def __init__(self) -> None:
        self.known: dict[int, Store] = {}

    def opened(self, loader: Any, emit: Callable[..., None]) -> None:
        """A pass over a loader begins."""
        dataset = loader.dataset
        if id(dataset) in self.known or len(self.known) > 16:
            return
        found = _marks(dataset)
        if found is None or len(found[0]) < LEAST:
            return
        marks, width, whole, shared = found
        try:
            reference = weakref.ref(dataset)
        except TypeError:
            return
        store = self.known[id(dataset)] = Store(type(dataset).__name__, reference, marks, width, whole, shared)
        if shared and width >= 8 and not getattr(loader.sampler, "replacement", False):
            emit(None, "stored", store.name, {
                "samples": float(len(marks)), "distinct": float(len(set(marks))), "whole": float(whole), "width": float(width),
            })  # fmt: skip

    def passed(self, dataset: Any, steps: int) -> None:
        """A pass over a dataset has ended, during which so many steps were taken."""
        store = self.known.get(id(dataset))
        if store is not None and store.dataset() is dataset:
            store.passes += 1
            store.steps += steps

    def tell(self, emit: Callable[..., None]) -> None:
        """Which of the samples that were evaluated on are among those that were trained on."""
        trained = {mark for store in self.known.values() if store.steps >= 2 for mark in store.marks}
        if not trained:
            return
        for store in self.known.values():
            if store.steps or not store.passes or store.width < 8:
                continue
            own = set(store.marks)
            share = len(own & trained) / len(own)
            whole = share > 0.98
            emit(None, "overlap", f"loader of {store.name}", {
                "calls": float(store.passes), "clean": float(share < 0.02), "whole": float(whole), "partly": float(0.02 <= share <= 0.98),
                "share": share, "covers": len(own & trained) / len(trained), "samples": float(len(own)),
                "width": float(store.width), "whole_numbers": float(store.whole),
            }, {"place": f"the loader of {store.name}"})  # fmt: skip


def _marks(dataset: Any, depth: int = 0) -> tuple[list[int], int, bool, bool] | None:
    """(a mark for each sample, numbers in a sample, whether they are whole, whether equal samples have equal marks)."""
    try:
        count = len(dataset)
    except TypeError:
        return None
    if depth > 4 or not 0 < count <= MOST:
        return None
    kept = vars(dataset) if hasattr(dataset, "__dict__") else {}
    inner, indices, parts = kept.get("dataset"), kept.get("indices"), kept.get("datasets")
    if inner is not None and indices is not None and len(indices) == count:
        found = _marks(inner, depth + 1)
        places = [int(i) for i in indices]
        if found is None or max(places, default=0) >= len(found[0]):
            return [hash((id(inner), i)) for i in places], COLUMNS, False, False
        return [found[0][i] for i in places], *found[1:]
    if isinstance(parts, list) and parts:
        each = [_marks(part, depth + 1) for part in parts]
        known = [one for one in each if one is not None]
        if len(known) < len(each):
            return None
        return [mark for one in known for mark in one[0]], min(one[1] for one in known), known[0][2], all(one[3] for one in known)  # fmt: skip
    tensors = kept.get("tensors")
    for values in [*(tensors[:1] if isinstance(tensors, tuple) else ()), *kept.values()]:
        found = _of_values(values, count)
        if found is not None:
            return found
    return None


def _of_values(values: Any, count: int) -> tuple[list[int], int, bool, bool] | None:
    """As `_marks`, where these are the inputs of so many samples: no labels, one-hot or by name."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        values = torch.from_numpy(values)
    strided = isinstance(values, Tensor) and values.layout == torch.strided and values.device.type != "meta"
    if strided and values.ndim > 1 and len(values) == count and values[0].numel() >= 4:
        rows, fingerprints = values.detach().reshape(count, -1), Fingerprints()
        if rows.shape[1] <= LABELS and bool(((rows == 0) | (rows == 1)).all()):
            return None
        rows = rows[:, :: rows.shape[1] // COLUMNS + 1]
        marks = [mark for start in range(0, count, ROWS) for mark in fingerprints.of(rows[start : start + ROWS])]
        return marks, values[0].numel(), not values.is_floating_point(), True
    if isinstance(values, list) and len(values) == count and values:
        names = [v[0] if isinstance(v, tuple) and v else v for v in values]
        if all(isinstance(name, str) for name in names) and 2 * len(set(names)) > count:
            return [hash(name) for name in names], COLUMNS, False, True
    return None
