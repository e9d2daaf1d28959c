"""The caller's own data: tensors, arrays, a `Dataset`, a `DataLoader`, or anything that yields batches.

`read` looks at what it was given and says what it is; the source then makes training batches and held-out batches.

- a tuple of tensors or arrays, or a `TensorDataset`, is the whole data: (inputs, targets);
- a map-style `Dataset` is read by torch's DataLoader in wellfit's own order;
- a `DataLoader` over a map-style dataset is taken apart, because its position could not be put back: its dataset, batch
  size, collate function and workers are used, and its shuffling where it has any;
- anything else that can be iterated yields batches, one item a micro-batch.

    >>> source = read((x, y))
    >>> source.samples
    1437
"""

import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, TensorDataset

from wellfit.data.batches import (
    Batch,
    Batches,
    FromDataset,
    FromIterable,
    Held,
    InMemory,
    Order,
    seed_everything,
    untouched_randomness,
)
from wellfit.data.fingerprint import fingerprint
from wellfit.errors import DataError
from wellfit.recipe import Recipe

LOOKED_AT = 8  # samples, by which the time to load one is measured
WORTH_A_WORKER = 100e-6  # seconds a sample: a batch of 64 then takes 6 ms, as long as a small step
MOST_WORKERS = 8


class Source(Protocol):
    """Data as the caller gave it. `samples` is 0 and `batch_size` None where they are not known beforehand."""

    samples: int
    batch_size: int | None  # samples per micro-batch, where the caller's data decides it
    notes: tuple[str, ...]

    def steps_per_epoch(self, accumulation: int) -> int | None:
        """Where the caller's data decides it, else None."""

    def batches(self, recipe: Recipe, device: str) -> Batches: ...
    def held(self, recipe: Recipe, device: str) -> Held: ...
    def fingerprint(self) -> str: ...

    def may_hold(self, label: int) -> bool:
        """Whether that label may be among the targets; True where nobody has looked at all of them."""

    def workers_wanted(self) -> tuple[int, str]:
        """How many processes should load it, and why."""


@dataclass(frozen=True)
class Whole:
    """Tensors that share their first dimension."""

    tensors: tuple[Tensor, ...]
    shuffle: bool | None = None
    batch_size: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        return len(self.tensors[0])

    def may_hold(self, label: int) -> bool:
        return bool((self.tensors[-1] == label).any())

    def workers_wanted(self) -> tuple[int, str]:
        return 0, "the data lies in memory"

    def steps_per_epoch(self, accumulation: int) -> None:  # noqa: ARG002 - the order decides it
        return None

    def batches(self, recipe: Recipe, device: str) -> Batches:
        return InMemory(self.tensors, _order(self, recipe), device, channels_last=recipe.hardware.channels_last is True)

    def held(self, recipe: Recipe, device: str) -> Held:
        if not self.samples:
            raise DataError("The validation data is empty. Pass some, or none at all.")
        size, last = recipe.evaluation.batch_size or 1024, recipe.hardware.channels_last is True
        return Held.of_tensors(self.tensors, size, device, last)

    def fingerprint(self) -> str:
        return fingerprint(*self.tensors)


@dataclass(frozen=True)
class Samples:
    """A map-style dataset."""

    dataset: Dataset[Any]
    shuffle: bool | None = None
    batch_size: int | None = None
    collate: Callable[[list[Any]], Any] | None = None
    workers: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def steps_per_epoch(self, accumulation: int) -> None:  # noqa: ARG002 - the order decides it
        return None

    def batches(self, recipe: Recipe, device: str) -> Batches:
        last = recipe.hardware.channels_last is True
        return FromDataset(self.dataset, _order(self, recipe), device, self._workers(recipe), self.collate, last)

    def held(self, recipe: Recipe, device: str) -> Held:
        size = self.batch_size or recipe.evaluation.batch_size or 256
        seed, last = recipe.training.seed, recipe.hardware.channels_last is True
        return Held.of_dataset(
            self.dataset, self.samples, size, device, self._workers(recipe), self.collate, seed, last
        )

    def fingerprint(self) -> str:
        """Of the kind, the length and the first and last sample: reading all of them could take hours."""
        with untouched_randomness():
            seed_everything(0)
            ends = [self.dataset[i] for i in {0, self.samples - 1}] if self.samples else []
        return fingerprint(torch.tensor(self.samples), *(tensor for end in ends for tensor in _tensors(end)))

    def may_hold(self, label: int) -> bool:  # noqa: ARG002
        return True

    def workers_wanted(self) -> tuple[int, str]:
        """Measured on samples that are spread over the data; their randomness is put back."""
        if not self.samples:
            return 0, "there is no sample"
        spread = [i * (self.samples - 1) // LOOKED_AT for i in range(LOOKED_AT + 1)]
        with untouched_randomness():
            seed_everything(0)
            self.dataset[spread[0]]  # what is opened once is opened now
            times = []
            for i in spread[1:]:
                began = time.perf_counter()
                self.dataset[i]
                times.append(time.perf_counter() - began)
        seconds = statistics.median(times)
        told = f"a sample takes {1e6 * seconds:.0f} us to load"
        if seconds < WORTH_A_WORKER:
            return 0, f"{told}, which is less than to send it between processes and much less than a step"
        return max(
            1, min(MOST_WORKERS, len(cores()) - 1)
        ), f"{told}, so that batches are loaded ahead, on all processors but one"

    def _workers(self, recipe: Recipe) -> int:
        if self.workers is not None:
            return self.workers
        return recipe.data.workers if isinstance(recipe.data.workers, int) else 0


@dataclass
class Items:
    """Something that yields batches."""

    items: Iterable[Batch]
    notes: tuple[str, ...] = ()
    samples = 0

    @property
    def batch_size(self) -> int:
        """Of the first batch, where looking at it takes nothing away; 1 where it is not known."""
        if iter(self.items) is self.items:
            return 1
        with untouched_randomness():
            first = next(iter(self.items), ())
        return next((len(tensor) for tensor in _tensors(first) if tensor.ndim), 1)

    def steps_per_epoch(self, accumulation: int) -> int | None:
        length = _length(self.items)
        return -(-length // accumulation) if length is not None else None

    def batches(self, recipe: Recipe, device: str) -> Batches:
        training, last = recipe.training, recipe.hardware.channels_last is True
        return FromIterable(
            self.items, training.seed, device, training.gradient_accumulation_steps, training.steps, last
        )

    def held(self, recipe: Recipe, device: str) -> Held:
        if iter(self.items) is self.items:
            raise DataError(
                f"The validation data is a {type(self.items).__name__}, which can be iterated only once, but it is needed at "
                "each evaluation. Pass a list of batches, a DataLoader, a Dataset, or a tuple of tensors."
            )
        if _length(self.items) == 0:
            raise DataError("The validation data is empty. Pass some, or none at all.")
        return Held(lambda _: self.items, 0, device, channels_last=recipe.hardware.channels_last is True)

    def fingerprint(self) -> str:
        """Of everything in a list; of anything else the length, for what comes out is not known before it is taken."""
        if isinstance(self.items, (list, tuple)):
            return fingerprint(*_tensors(self.items))
        length = _length(self.items)
        return fingerprint(torch.tensor(-1 if length is None else length))

    def may_hold(self, label: int) -> bool:  # noqa: ARG002
        return True

    def workers_wanted(self) -> tuple[int, str]:
        return 0, "the batches come ready-made"


def cores() -> set[int]:
    """The processors that this process may use."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {*range(os.cpu_count() or 1)}


def read(data: Any, floating: torch.dtype = torch.float32) -> Whole | Samples | Items:
    """What the caller's data is. Arrays of floats (not tensors) become `floating`, the model's type.

    Raises DataError for what is none of the kinds above, or for tensors of different lengths.
    """
    if type(data) is TensorDataset:  # a subclass may change what comes out of it
        data = data.tensors
    if isinstance(data, (Tensor, np.ndarray)):
        data = (data,)
    if isinstance(data, tuple) and data and all(isinstance(part, (Tensor, np.ndarray)) for part in data):
        tensors = tuple(_tensor(part, floating) for part in data)
        if not all(tensor.ndim for tensor in tensors):
            raise DataError(
                "A tensor given as data is a single number; inputs and targets need one row per sample each."
            )
        lengths = [len(tensor) for tensor in tensors]
        if len(set(lengths)) > 1:
            raise DataError(
                f"The tensors given as data have {' and '.join(map(str, lengths))} rows; inputs and targets need one row per "
                "sample each, in the same order."
            )
        return Whole(tensors)
    if type(data) is DataLoader:
        return _loader(data)
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset) and hasattr(data, "__len__"):
        return Samples(data)
    if isinstance(data, list) and len(data) > 1 and all(isinstance(part, (Tensor, np.ndarray)) for part in data):
        raise DataError(
            f"The data is a list of {len(data)} tensors, which could be inputs and targets or batches. Pass inputs and targets "
            "as a tuple, and batches without targets as a list of tuples (x, x)."
        )
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes, dict)):
        return Items(data)
    raise DataError(
        f"The data is a {type(data).__name__}; it can be a tuple of tensors (inputs, targets), a Dataset, a DataLoader, or "
        "anything that yields batches."
    )


def _loader(loader: DataLoader[Any]) -> Whole | Samples | Items:
    if not _is_plain(loader):
        return Items(loader)
    shuffle = isinstance(loader.sampler, RandomSampler)
    notes: tuple[str, ...] = ()
    if loader.drop_last:
        notes = (
            "The DataLoader's `drop_last` is not followed: the last, smaller batch is trained on too, with its own weight.",
        )
    if type(loader.dataset) is TensorDataset and loader.collate_fn is torch.utils.data.default_collate:
        return Whole(tuple(loader.dataset.tensors), shuffle, loader.batch_size, notes)
    return Samples(loader.dataset, shuffle, loader.batch_size, loader.collate_fn, loader.num_workers, notes)


def _is_plain(loader: DataLoader[Any]) -> bool:
    """Whether the loader takes each sample of a map-style dataset once a pass, so that wellfit's own order can stand in."""
    sampler: Any = loader.sampler
    if isinstance(loader.dataset, IterableDataset) or loader.batch_size is None or loader.worker_init_fn is not None:
        return False
    if type(sampler) is RandomSampler:
        whole = not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    else:
        whole = type(sampler) is SequentialSampler
    return whole and sampler.data_source is loader.dataset


def _length(items: Any) -> int | None:
    """How many batches come in a pass; None where it is not known (a DataLoader has `len` even where its data has none)."""
    try:
        return len(items)
    except TypeError:
        return None


def _order(source: Whole | Samples, recipe: Recipe) -> Order:
    training = recipe.training
    shuffle = recipe.data.shuffle if source.shuffle is None else source.shuffle
    return Order(
        source.samples,
        training.batch_size or source.samples,
        training.seed,
        shuffle,
        training.gradient_accumulation_steps,
    )


def _tensor(part: Tensor | np.ndarray, floating: torch.dtype) -> Tensor:
    if isinstance(part, Tensor):
        return part
    tensor = torch.from_numpy(np.ascontiguousarray(part) if part.flags.writeable else part.copy())
    return tensor.to(floating) if tensor.is_floating_point() else tensor


def _tensors(thing: Any) -> Iterator[Tensor]:
    if isinstance(thing, (Tensor, np.ndarray)):
        yield _tensor(thing, torch.float32)
    elif isinstance(thing, (int, float)):
        yield torch.tensor(thing)
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from _tensors(value)
    elif isinstance(thing, (tuple, list)):
        for value in thing:
            yield from _tensors(value)
