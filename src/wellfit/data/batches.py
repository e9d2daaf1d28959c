"""Training batches whose position is a number, so that a resume starts where it stopped without skipping anything.

A *batch* is what one optimizer step learns from, over all ranks; it is handed out as a list of *micro-batches*, tuples of
tensors on the device. The order of epoch e is a permutation drawn from (seed, e) alone. Every sample comes once an epoch:
the last, partial batch is kept, and joins the one before it only where it is too small to be shared out (fewer than two
samples a micro-batch, with which batch norm cannot work).

Four sources, one protocol (`Batches`):
`InMemory` for tensors (no per-sample work), `OfSamples` for samples in memory that differ in size, `FromDataset` for a
map-style `Dataset` (torch's DataLoader does the loading), `FromIterable` for anything that only yields batches.

    >>> batches = InMemory((x, y), Order(samples=len(x), batch_size=32, seed=0))
    >>> [(inputs, targets)] = batches.take()
"""

import functools
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from wellfit import distributed
from wellfit.data.arrays import Samples
from wellfit.errors import DataError

Batch = Any  # a tuple of tensors, or a mapping of names to tensors

POOL = 64  # batches whose samples are sorted by length together
CHUNK_BYTES = 512 << 10  # tensors are gathered for many batches at once, as long as they stay in the processor's cache


class Batches(Protocol):
    """What the loop asks of a source of training batches. `peek` shows one and leaves the position as it is."""

    samples: int  # in an epoch, over all ranks; 0 if unknown
    steps_per_epoch: int

    def peek(self) -> Batch: ...
    def take(self) -> list[Batch]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Order:
    """Which samples the k-th batch of a run holds: a pure function of k."""

    samples: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    accumulation: int = 1
    lengths: Tensor | None = None  # int64 [samples]: batches are then of like length, which leaves little to pad
    finer: int = 1  # each micro-batch is cut into so many more, where memory ran out; no sample changes its batch
    least: int = 1  # samples that such a smaller one has

    def __post_init__(self) -> None:
        if self.samples == 0:
            raise DataError(
                "The training data is empty: there is nothing to learn from. Check the path and the filters on it."
            )
        if self.batch_size > self.samples:
            raise DataError(
                f"`training.batch_size` is {self.batch_size}, but there are only {self.samples} training samples; "
                f"it can be at most that. Try {max(1, self.samples // 8)}, which gives about eight steps per epoch."
            )
        ways = distributed.world() * self.accumulation
        if self.batch_size % ways:
            near = sorted({max(ways, self.batch_size // ways * ways), (self.batch_size // ways + 1) * ways})
            raise DataError(
                f"`training.batch_size` is {self.batch_size}, which cannot be shared out evenly among {distributed.world()} "
                f"rank(s) x {self.accumulation} accumulation step(s) = {ways}; try {' or '.join(map(str, near))}."
            )

    @property
    def starts(self) -> list[int]:
        """Where in the epoch each batch begins, and the end."""
        cuts = list(range(0, self.samples, self.batch_size))
        rest = self.samples - cuts[-1]
        if len(cuts) > 1 and rest < min(self.batch_size, 2 * distributed.world() * self.accumulation):
            cuts.pop()
        return [*cuts, self.samples]

    def epoch(self, number: int) -> Tensor:
        """The sample numbers of an epoch, in order, int64 [samples]."""
        if not self.shuffle:
            return torch.arange(self.samples)
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence((self.seed, number)).generate_state(1, np.uint64)[0] >> 1)
        )
        mixed = torch.randperm(self.samples, generator=generator)
        return mixed if self.lengths is None else self._alike(mixed, self.lengths, generator)

    def _alike(self, mixed: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
        """Sorted by length within pools of a random order, and the batches mixed again; a partial batch stays last."""
        whole = self.samples // self.batch_size * self.batch_size
        pools = [
            pool[lengths[pool].argsort(stable=True)] for pool in torch.split(mixed[:whole], POOL * self.batch_size)
        ]
        batches = torch.cat(pools).reshape(-1, self.batch_size) if pools else mixed[:0].reshape(0, self.batch_size)
        batches = batches[torch.randperm(len(batches), generator=generator)]
        return torch.cat([batches.flatten(), mixed[whole:]])

    def micro_batches(self, batch: Sequence[Any] | Tensor) -> list[Any]:
        """This rank's share of a batch's samples, cut into micro-batches of nearly equal size."""
        mine = _share(batch, distributed.world(), distributed.rank())
        parts = min(self.accumulation, len(mine))
        if self.finer > 1:
            parts = max(parts, min(self.accumulation * self.finer, len(mine) // self.least))
        return [mine] if parts == 1 else [_share(mine, parts, i) for i in range(parts)]


class Cut:
    """What the sources share that can cut a batch anew at any time: those that know which samples it holds."""

    order: Order
    position: int

    @property
    def micro_batch_size(self) -> int:
        """Samples in the largest micro-batch on this rank."""
        starts = self.order.starts
        largest = max(end - start for start, end in itertools.pairwise(starts))
        return max(map(len, self.order.micro_batches(range(largest))))

    def cut(self, finer: int, least: int = 1) -> None:
        """From the present position on, cuts each micro-batch of the recipe into `finer` of at least `least` samples."""
        self.order = replace(self.order, finer=finer, least=least)
        self.load_state_dict(self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class InMemory(Cut):
    """Batches of tensors that share their first dimension, e.g. (inputs [N, ...], targets [N]).

    `change(tensors, samples [n], epoch)` may replace a gathered chunk before it is used: augmentation.
    """

    def __init__(
        self,
        tensors: tuple[Tensor, ...],
        order: Order,
        device: str = "cpu",
        change: Callable[[tuple[Tensor, ...], Tensor, int], tuple[Tensor, ...]] | None = None,
        channels_last: bool = False,
    ):
        self.tensors, self.order, self.device, self.change = tensors, order, device, change
        self.channels_last = channels_last
        self.samples, self.position = order.samples, 0
        self._starts = order.starts
        self.steps_per_epoch = len(self._starts) - 1
        sample_bytes = sum(t[:1].numel() * t.element_size() for t in tensors)
        self._batches_at_once = max(1, min(256, CHUNK_BYTES // max(1, sample_bytes * order.batch_size)))
        self._epoch: tuple[int, Tensor] | None = None
        self._ready: list[list[Batch]] = []  # the micro-batches of the next batches, nearest last

    @property
    def ahead(self) -> int:
        """Batches that are gathered and not yet taken."""
        return len(self._ready)

    def peek(self) -> Batch:
        if not self._ready:
            self._gather()
        return self._ready[-1][0]

    def take(self) -> list[Batch]:
        if not self._ready:
            self._gather()
        self.position += 1
        return self._ready.pop()

    def _gather(self) -> None:
        """Fetches the samples of the next few batches of this epoch in one operation."""
        epoch, first = divmod(self.position, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self.order.epoch(epoch))
        cuts = self._starts[first : first + self._batches_at_once + 1]
        samples = self._epoch[1][cuts[0] : cuts[-1]]
        chunk = tuple(tensor.index_select(0, samples) for tensor in self.tensors)
        if self.change is not None:
            chunk = self.change(chunk, samples, epoch)
        chunk = on_device(chunk, self.device, self.channels_last)
        sizes = [end - start for start, end in itertools.pairwise(cuts)]
        columns = [torch.split(tensor, sizes) for tensor in chunk]
        whole = list(zip(*columns, strict=True))
        if self.order.accumulation * self.order.finer == 1 and distributed.world() == 1:
            self._ready = [[batch] for batch in reversed(whole)]
            return
        cut = [zip(*(self.order.micro_batches(column) for column in batch), strict=True) for batch in whole]
        self._ready = [list(micros) for micros in reversed(cut)]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self._ready = state["position"], []


class OfSamples(Cut):
    """Batches of samples in memory that differ in size: sentences to be padded, pictures with boxes."""

    def __init__(self, held: Samples, order: Order, device: str = "cpu", channels_last: bool = False):
        self.held, self.order, self.device, self.channels_last = held, order, device, channels_last
        self.samples, self.position = order.samples, 0
        self._starts = order.starts
        self.steps_per_epoch = len(self._starts) - 1
        self._epoch: tuple[int, Tensor] | None = None

    def peek(self) -> Batch:
        return self._made()[0]

    def take(self) -> list[Batch]:
        micros = self._made()
        self.position += 1
        return micros

    def _made(self) -> list[Batch]:
        epoch, step = divmod(self.position, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self.order.epoch(epoch))
        samples = self._epoch[1][self._starts[step] : self._starts[step + 1]]
        micros = self.order.micro_batches(samples)
        return [on_device(self.held.batch(micro, epoch), self.device, self.channels_last) for micro in micros]


class FromDataset(Cut):
    """Batches of a map-style dataset, loaded by torch's DataLoader in `workers` processes (0: in this one).

    Before a sample is made, every global generator is seeded from (seed, epoch, sample), so random augmentation in the
    user's `__getitem__` is the same whatever the workers, the rank or a resume.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        order: Order,
        device: str = "cpu",
        workers: int = 0,
        collate: Callable[[list[Any]], Any] | None = None,
        channels_last: bool = False,
    ):
        self.dataset, self.order, self.device, self.workers, self.collate = dataset, order, device, workers, collate
        self.channels_last = channels_last
        self.samples, self.position = order.samples, 0
        self._starts = order.starts
        self.steps_per_epoch = len(self._starts) - 1
        self._loader: Iterator[Any] | None = None

    def peek(self) -> Batch:
        samples = next(iter(_From(self.order, self.position)))
        collate = self.collate or torch.utils.data.default_collate
        batch = collate([_Seeded(self.dataset, self.order.seed)[key] for key in samples])
        return on_device(batch, self.device, self.channels_last)

    def take(self) -> list[Batch]:
        if self._loader is None:
            self._loader = self._start()
        step = self.position % self.steps_per_epoch
        size = self._starts[step + 1] - self._starts[step]
        parts = len(self.order.micro_batches(range(size)))
        self.position += 1
        return [on_device(next(self._loader), self.device, self.channels_last) for _ in range(parts)]

    def _start(self) -> Iterator[Any]:
        loader: DataLoader[Any] = DataLoader(
            _Seeded(self.dataset, self.order.seed),
            batch_sampler=_From(self.order, self.position),
            num_workers=self.workers,
            collate_fn=self.collate,
            pin_memory=self.device.startswith("cuda"),  # in a thread of its own, ahead of time
            generator=torch.Generator().manual_seed(self.order.seed),  # else it would draw from the global one
        )
        return iter(loader)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position, self._loader = state["position"], None


class FromIterable:
    """Batches from anything that yields them: one item is one micro-batch.

    A position in it can only be reached by taking what comes before, so a resume does that (and nothing else can). Each
    pass begins with the global generators seeded from (seed, epoch), so that a shuffling iterable repeats its order.
    """

    def __init__(
        self,
        items: Iterable[Batch],
        seed: int,
        device: str = "cpu",
        accumulation: int = 1,
        steps: int | None = None,
        channels_last: bool = False,
    ):
        self.items, self.seed, self.device, self.accumulation = items, seed, device, accumulation
        self.channels_last = channels_last
        try:
            length = len(items) if isinstance(items, Sized) else None
        except TypeError:  # a DataLoader over a stream
            length = None
        if length == 0:
            raise DataError("The training data is empty: the iterable has length 0.")
        if length is None and steps is None:
            raise DataError(
                f"The training data is a {type(items).__name__} without a length, so an epoch has no end that could be "
                "planned for; set `training.steps`, or pass something with `len()`."
            )
        self.samples = 0
        self.steps_per_epoch = -(-length // accumulation) if length is not None else int(steps or 1)
        self.length, self.position, self.taken = length, 0, 0
        self._passes: Iterator[Batch] | None = None

    def peek(self) -> Batch:
        once = iter(self.items)
        first = next(once, None)
        if first is None:
            raise DataError("The training data is empty: it yields no batch.")
        if once is self.items:  # it cannot be started again, so what was looked at is put back
            self.items = itertools.chain([first], once)
        return on_device(first, self.device, self.channels_last)

    def take(self) -> list[Batch]:
        """The next micro-batches; the last step of a pass has those that are left over."""
        if self._passes is None:
            self._passes = self._all(0)
        count = self.accumulation
        if self.length is not None:
            count = min(count, self.length - self.taken % self.length)
        try:
            micros = [on_device(next(self._passes), self.device, self.channels_last) for _ in range(count)]
        except StopIteration:
            raise DataError(
                f"The training data ended after {self.taken} batches and cannot be started again, but more steps are planned. "
                "Pass something that can be iterated more than once (a list, a DataLoader), or set a smaller `training.steps`."
            ) from None
        self.position, self.taken = self.position + 1, self.taken + count
        return micros

    def _all(self, first: int) -> Iterator[Batch]:
        """Pass after pass, from pass number `first` on."""
        for epoch in itertools.count(first):
            seed_everything(int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0]))
            empty = True
            for item in self.items:
                empty = False
                yield item
            if empty:
                return

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position, "taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes and drops what comes before. Passes that are over need not be made: each is seeded by its number."""
        self.position, self.taken = state["position"], state["taken"]
        epoch, within = divmod(self.taken, self.length) if self.length is not None else (0, self.taken)
        self._passes = self._all(epoch)
        for _ in range(within):
            next(self._passes)


class Held:
    """Held-out batches in a fixed order, each rank its own share; iterated once per evaluation.

    `batches(n)` gives them with `n` samples each; `batch_size` is 0 where they come as they are.
    """

    def __init__(
        self,
        batches: Callable[[int], Iterable[Batch]],
        samples: int,
        device: str = "cpu",
        batch_size: int = 0,
        channels_last: bool = False,
    ):
        self._batches, self.samples, self.device, self.channels_last = batches, samples, device, channels_last
        self.batch_size = self._whole = batch_size

    def __iter__(self) -> Iterator[Batch]:
        return (on_device(batch, self.device, self.channels_last) for batch in self._batches(self.batch_size))

    def cut(self, parts: int) -> None:
        """From here on each batch is cut into `parts`. Scores are sums, so they stay what they are, but for rounding."""
        self.batch_size = max(1, -(-self._whole // parts)) if self._whole else 0

    def thinned(self, every: int) -> "Held":
        """Every n-th batch of them, where all are more than a short training is worth."""
        return Held(
            lambda size: itertools.islice(self._batches(size), 0, None, every),
            self.samples, self.device, self._whole, self.channels_last,
        )  # fmt: skip

    @classmethod
    def of_tensors(
        cls, tensors: tuple[Tensor, ...], batch_size: int, device: str = "cpu", channels_last: bool = False
    ) -> "Held":
        mine = [_share(tensor, distributed.world(), distributed.rank()) for tensor in tensors]

        def cut(size: int) -> Iterable[Batch]:
            return zip(*(torch.split(tensor, size) for tensor in mine), strict=True)

        return cls(cut, len(tensors[0]), device, batch_size, channels_last)

    @classmethod
    def of_samples(cls, held: Samples, batch_size: int, device: str = "cpu", channels_last: bool = False) -> "Held":
        """Samples that differ in size, the shortest first, so that little is padded."""
        lengths = held.lengths()
        order = torch.arange(len(held)) if lengths is None else lengths.argsort(stable=True)
        mine = _share(order, distributed.world(), distributed.rank())
        return cls(lambda size: map(held.batch, torch.split(mine, size)), len(held), device, batch_size, channels_last)

    @classmethod
    def of_dataset(
        cls,
        dataset: Dataset[Any],
        samples: int,
        batch_size: int,
        device: str,
        workers: int,
        collate: Any = None,
        seed: int = 0,
        channels_last: bool = False,
    ) -> "Held":
        mine = [(0, i) for i in _share(range(samples), distributed.world(), distributed.rank())]

        @functools.cache
        def loader(size: int) -> DataLoader[Any]:
            chunks = [mine[i : i + size] for i in range(0, len(mine), size)]
            return DataLoader(
                _Seeded(dataset, seed), batch_sampler=chunks, num_workers=workers, collate_fn=collate,
                generator=torch.Generator().manual_seed(seed),
            )  # fmt: skip

        return cls(loader, samples, device, batch_size, channels_last)


def on_device(batch: Batch, device: str, channels_last: bool = False) -> Batch:
    """The same batch with its tensors on the device; lists become tuples.

    With `channels_last`, tensors of four dimensions [N, C, H, W] lie in memory pixel by pixel, as `hardware.channels_last` wants.
    """
    if isinstance(batch, Tensor):
        if device.startswith("cuda") and batch.device.type == "cpu":
            batch = _ahead(batch, device)
        elif device != "cpu" or batch.device.type != "cpu":
            batch = batch.to(device, non_blocking=True)
        return batch.to(memory_format=torch.channels_last) if channels_last and batch.ndim == 4 else batch
    if isinstance(batch, dict):
        return {key: on_device(value, device, channels_last) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return tuple(on_device(value, device, channels_last) for value in batch)
    return batch


def _ahead(tensor: Tensor, device: str) -> Tensor:
    """A copy on the GPU that begins at once, beside the step that is still computing there, and for which nobody here waits.

    Only from memory that cannot be paged out is a copy left to the GPU; from any other, the program waits until all that was asked
    of the GPU before is done. The copy has a stream of its own. What uses the tensor comes after it (`wait_stream`), and its memory is
    not given to anything else before that is done (`record_stream`); torch's pool of pinned memory watches over the source likewise.
    """
    source = tensor if tensor.is_pinned() else tensor.pin_memory()
    using = torch.cuda.current_stream(device)
    with torch.cuda.stream(_copying(device)):
        copy = source.to(device, non_blocking=True)
    using.wait_stream(_copying(device))
    copy.record_stream(using)
    return copy


@functools.cache
def _copying(device: str) -> Any:
    """The stream on which batches are copied to a GPU."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def seed_everything(seed: int) -> None:
    """Seeds torch's, NumPy's and Python's global generators. `seed` is below 2**32."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


class untouched_randomness:
    """Around code that may draw from the global generators and must not change what is drawn afterwards."""

    def __enter__(self) -> None:
        self.states = torch.get_rng_state(), np.random.get_state(), random.getstate()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]

    def __exit__(self, *_: object) -> None:
        torch.set_rng_state(self.states[0])
        np.random.set_state(self.states[1])
        random.setstate(self.states[2])
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)


class _Seeded(Dataset[Any]):
    """The dataset by (epoch, sample), with its randomness decided by them."""

    def __init__(self, dataset: Dataset[Any], seed: int):
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, sample = key
        with untouched_randomness():
            _seed_sample(int(np.random.SeedSequence((self.seed, epoch, sample)).generate_state(1)[0]))
            return self.dataset[sample]


def _seed_sample(seed: int) -> None:
    """As `seed_everything`, but for a CUDA that has not begun: to note a seed for that takes torch longer than many a sample takes."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed)
    random.seed(seed)


class _From:
    """A batch sampler without end: (epoch, sample) pairs of each micro-batch from a position on."""

    def __init__(self, order: Order, position: int):
        self.order, self.position = order, position

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        starts = self.order.starts
        epoch, first = divmod(self.position, len(starts) - 1)
        while True:
            samples = self.order.epoch(epoch).tolist()
            for start, end in itertools.pairwise(starts[first:]):
                for micro in self.order.micro_batches(samples[start:end]):
                    yield [(epoch, sample) for sample in micro]
            epoch, first = epoch + 1, 0


def _share(things: Any, ways: int, number: int) -> Any:
    """The number-th of `ways` nearly equal contiguous parts of a sequence or tensor; earlier parts take the excess."""
    size, excess = divmod(len(things), ways)
    start = number * size + min(number, excess)
    return things[start : start + size + (number < excess)]
