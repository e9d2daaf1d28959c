"""Experiments beside the program: on a copy of its model, or in a forked child. Each is made once and changes nothing.

Does one sample's output depend on another's input? Does position t see position t + 1? Do two workers of a loader draw
the same random numbers? These cannot be read from a run; they can be tried.
"""

from __future__ import annotations

import os
import random
import select
import signal
import struct
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from torch.utils.data._utils import worker as workers

from wellfit.data.batches import untouched_randomness
from wellfit.doctor import copies
from wellfit.doctor.measure import Fingerprints, tensors

PATIENCE = 5.0  # seconds for a forked child


class Checks:
    """The experiments of one program."""

    def __init__(self) -> None:
        self.tried: set[Any] = set()
        self.loaders: weakref.WeakSet[Any] = weakref.WeakSet()
        self.peeked = 0
        self.count = 0

    @property
    def wanted(self) -> bool:
        """Whether experiments on models are still to be made: a few per program."""
        return self.count < 6

    # ---- on a copy of the model

    def independence(
        self, model: nn.Module, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], target: Tensor | None,
        emit: Callable[..., None], place: str, late: bool = False,
    ) -> None:  # fmt: skip
        """Swaps one sample, and the later half of a sequence, and looks whose outputs change.

        Once at the start and once `late`, as branches that start at zero let nothing through at first.
        """
        given = tensors(args) or tensors(kwargs)
        if (id(model), late) in self.tried or not given or given[0].ndim < 1 or len(given[0]) < 3:
            return
        self.tried.add((id(model), late))
        self.count += 1
        if len(given) > 6:
            return
        if any(type(part).__module__.startswith("keras") for part in model.modules()):
            return  # its layers are told of training in each call, and not by `eval()`
        batch = len(given[0])
        if any(t.ndim == 2 and t.shape[0] == t.shape[1] and t is not given[0] for t in given) or any(
            t.ndim == 2 and t.shape[0] == 2 and batch != 2 and not t.is_floating_point() for t in given
        ):
            return  # an adjacency matrix or a list of edges: samples of a graph are meant to mix
        twin = copies.twin(model)
        if twin is None:
            return
        twin.eval()
        try:
            with untouched_randomness(), torch.no_grad():
                if self._mixed(_Again(twin, args, kwargs), name, given, target, emit, place):
                    self.tried.add((id(model), True))
                    return  # and so every answer about what comes later would be of other samples
                self._ahead(_Again(twin, args, kwargs), name, given, target, emit, place)
        except Exception:  # a model that cannot be called again like this: nothing is known then
            return

    def _mixed(
        self,
        model: _Again,
        name: str,
        given: list[Tensor],
        target: Tensor | None,
        emit: Callable[..., None],
        place: str,
    ) -> bool:
        first, along = given[0], 0
        if target is not None and time_first(first, target):
            along = 1  # what follows along the first dimension is what is to be predicted: samples lie along the second
        batch = first.shape[along]
        out, again = model(along, batch), model(along, batch)
        if out is None or again is None or batch < 3:
            return False
        if target is not None and target.ndim and len(target) != len(first) and target.numel() % batch:
            return False
        noise, rows = float((out - again).abs().max()), first.transpose(0, along)
        other = next((i for i in range(1, batch) if not torch.equal(rows[i], rows[0])), None)
        if other is None:
            return False

        def swap(t: Tensor) -> Tensor:
            if t.ndim > along and t.shape[along] == batch and t.shape[:along] == first.shape[:along]:
                t = t.clone()
                t.transpose(0, along)[0] = t.transpose(0, along)[other].clone()
            return t

        changed = model(along, batch, swap)
        if changed is None:
            return False
        scale = float(out.abs().max()) + 1e-12
        moved = float((changed[1:] - out[1:]).abs().max())
        mixing = moved > 1e-4 * scale and moved > 100 * noise
        unclear = not along and (target is None or target.ndim != out.ndim - 1 or len(target) != batch)
        if any((told := _relation(sequence, target)) is not None and told["shifted"] for sequence in given):
            unclear = False  # what follows in a row is what is to be predicted there: samples are rows
        if mixing and unclear and out.ndim > 2 and first.ndim > 1 and out.shape[1] == first.shape[1] > 1:
            # Time may come first: then samples lie along the second dimension, and mixing along the first is what is meant.
            second = model(0, batch, self._swap_second(first))
            if second is not None and float((second[:, 2:] - out[:, 2:]).abs().max()) <= 1e-4 * scale:
                mixing = self._unordered(model, batch, out, scale)
        values = {"mixing": float(mixing), "moved": moved / scale, "samples": float(batch)}
        emit(None, "independence", name, values, {"place": place})
        return mixing

    @staticmethod
    def _swap_second(like: Tensor) -> Callable[[Tensor], Tensor]:
        def swap(t: Tensor) -> Tensor:
            if t.ndim > 1 and t.shape[1] == like.shape[1]:
                t = t.clone()
                t[:, 0] = t[:, 1]
            return t

        return swap

    @staticmethod
    def _unordered(model: _Again, batch: int, out: Tensor, scale: float) -> bool:
        """Whether turning the first dimension round only turns the outputs round: then it is no time, but samples that mix."""
        turned = model(0, batch, lambda t: t.flip(0) if t.ndim and len(t) == batch else t)
        return turned is not None and float((turned.flip(0) - out).abs().max()) <= 1e-4 * scale

    def _ahead(
        self,
        model: _Again,
        name: str,
        given: list[Tensor],
        target: Tensor | None,
        emit: Callable[..., None],
        place: str,
    ) -> None:
        if target is None:
            return
        for sequence in given:
            along = int(time_first(sequence, target))
            rows = sequence.transpose(0, along)
            told = _relation(rows, _in_rows(sequence, target) if along else target)
            if told is None:
                continue
            half = rows.shape[1] // 2
            changed = rows.clone()
            changed[:, half:] = rows[:, half:].flip(0).roll(1, dims=1)
            if torch.equal(changed, rows):
                continue
            changed = changed.transpose(0, along)

            def swap(t: Tensor, sequence: Tensor = sequence, changed: Tensor = changed) -> Tensor:
                return changed if t is sequence else t

            out, again, moved = model(along, len(rows)), model(along, len(rows)), model(along, len(rows), swap)
            if out is None or again is None or moved is None or out.ndim < 2 or out.shape[:2] != rows.shape[:2]:
                continue
            if not torch.equal(out, again):
                return  # something is random in evaluation mode too
            scale = float(out.abs().max()) + 1e-12
            told["moved"] = float((moved[:, :half] - out[:, :half]).abs().max()) / scale
            emit(None, "ahead", name, told, {"place": place})
            return

    def peeking(self, inputs: Tensor, target: Any, name: str, emit: Callable[..., None]) -> None:
        """Whether a number to be predicted stands among the inputs, at the same place in every sample."""
        if (
            self.peeked > 4
            or not isinstance(target, Tensor)
            or not target.is_floating_point()
            or not inputs.is_floating_point()
        ):
            return
        self.peeked += 1
        count = len(target) if target.ndim else 0
        if count < 8 or inputs.numel() % count or inputs.numel() <= target.numel() or inputs.numel() > 1 << 22:
            return
        wanted, table = target.reshape(count, -1), inputs.reshape(count, -1)
        if wanted.shape[1] > 64 or table.shape[1] < 2 or float(wanted[:, 0].std()) == 0 or len(inputs) != count:
            return
        if wanted.shape[1] > 2 and _continues(table, wanted):
            return  # the same series, some places further: whether a model sees ahead is tried, not guessed
        for column in (0, wanted.shape[1] - 1):
            equal = (table == wanted[:, column : column + 1]).all(dim=0)
            if bool(equal.any()):
                emit(None, "peek", name, {"column": float(equal.nonzero()[0]), "samples": float(count)})
                return

    # ---- in a forked child

    def loader(self, loader: Any, emit: Callable[..., None]) -> None:
        """Two children start as the loader's workers would; are they alike?"""
        if loader.num_workers < 2 or loader in self.loaders or len(self.loaders) > 4 or not hasattr(os, "fork"):
            return
        self.loaders.add(loader)
        context = getattr(loader.multiprocessing_context, "get_start_method", lambda: None)()
        if isinstance(loader.dataset, IterableDataset) or context not in (None, "fork") or torch.cuda._initialized:
            return
        told = [_as_worker(loader, number) for number in (0, 1)]
        if None in told:
            return
        (first, second), (other, _) = told[0], told[1]  # type: ignore[misc]
        emit(None, "workers", type(loader.dataset).__name__, {
            "random": float(first != second), "alike": float(first == other), "workers": float(loader.num_workers),
        })  # fmt: skip


def _continues(table: Tensor, wanted: Tensor) -> bool:
    """Whether the first and the second target stand next to each other among the inputs."""
    first = (table == wanted[:, :1]).all(dim=0)
    second = (table == wanted[:, 1:2]).all(dim=0)
    return bool((first[:-1] & second[1:]).any())


class _Again:
    """A model that can be called again with changed arguments; its outputs come with the samples along the first dimension."""

    def __init__(self, twin: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]):
        self.twin, self.args, self.kwargs = twin, args, kwargs

    def __call__(self, along: int, batch: int, change: Callable[[Tensor], Tensor] = lambda t: t) -> Tensor | None:
        """The first output; None where no dimension of it is surely that of the samples."""
        out = _first(self.twin(*_mapped(self.args, change), **_mapped(self.kwargs, change)))
        if out is None or not out.ndim or not out.is_floating_point():
            return None
        if along < out.ndim and out.shape[along] == batch:
            return out.transpose(0, along)
        if along and len(out) % batch == 0:  # time and samples in one
            return out.reshape(-1, batch, *out.shape[1:]).transpose(0, 1)
        fits = [i for i, size in enumerate(out.shape) if size == batch]
        return out.transpose(0, fits[0]) if len(fits) == 1 and out.ndim > 2 else None


def time_first(sequence: Tensor, target: Tensor) -> bool:
    """Whether targets follow in the inputs along the first dimension: samples lie along the second one."""
    if sequence.ndim != 2 or _relation(sequence, target) is not None:
        return False
    labels = _in_rows(sequence, target)
    return labels is not None and _relation(sequence.t(), labels) is not None


def _in_rows(sequence: Tensor, target: Tensor) -> Tensor | None:
    """Targets of a sequence whose first dimension is time, one row for each sample."""
    samples = sequence.shape[1]
    return target.reshape(-1, samples).t() if samples and target.numel() % samples == 0 else None


def _relation(sequence: Tensor, target: Tensor | None) -> dict[str, float] | None:
    """Whether targets are a sequence moved by one ("shifted"), or itself ("same"); None where they are neither."""
    if target is None or sequence.ndim not in (2, 3) or sequence.shape[1] < 4 or sequence.dtype == torch.bool:
        return None
    rows, length = sequence.shape[:2]
    numbers = sequence.is_floating_point()
    if numbers != target.is_floating_point() or (sequence.ndim == 3) > numbers or target.numel() % rows:
        return None
    labels = target.reshape(rows, -1)
    if labels.shape[1] not in (length, length - 1):
        return None
    used = torch.ones_like(labels, dtype=torch.bool) if numbers else labels >= 0
    inner = used[:, : length - 1].clone()  # positions after which there is another one
    inner[:, : used.shape[1] - 1] &= used[:, 1 : inner.shape[1] + 1][:, : used.shape[1] - 1]
    for one in [sequence] if sequence.ndim == 2 else sequence.unbind(2)[:16]:
        ahead = labels[:, : length - 1] == one[:, 1:]
        shifted = bool(inner.any()) and float(ahead[inner].float().mean()) > 0.98
        same = not numbers and labels.shape[1] == length and bool(used.any())
        same = same and float((labels == one)[used].float().mean()) > 0.98
        if (shifted or same) and len(torch.unique(one[:64])) > 2:
            return {"shifted": float(shifted), "same": float(same), "used": float(used.float().mean())}
    return None


def _as_worker(loader: Any, number: int) -> tuple[int, int] | None:
    """Fingerprints of the dataset's first sample, taken twice, in a child that is set up as this worker."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            quiet = os.open(os.devnull, os.O_RDWR)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            torch.set_num_threads(1)
            seed = 1234 + number
            random.seed(seed)
            torch.manual_seed(seed)
            np.random.seed(seed)
            workers._worker_info = workers.WorkerInfo(
                id=number, num_workers=loader.num_workers, seed=seed, dataset=loader.dataset
            )
            if loader.worker_init_fn is not None:
                loader.worker_init_fn(number)
            os.write(writer, struct.pack("qq", _mark(loader.dataset[0]), _mark(loader.dataset[0])))
        finally:
            os._exit(0)
    os.close(writer)
    told = b""
    try:
        ready, _, _ = select.select([reader], [], [], PATIENCE)
        while ready:
            part = os.read(reader, 4096)
            if not part:
                break
            told += part
        if not ready:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    except (OSError, ChildProcessError):
        return None
    finally:
        os.close(reader)
    return struct.unpack("qq", told) if len(told) == 16 else None


def _mark(sample: Any) -> int:
    parts = tensors(sample)
    if not parts and isinstance(sample, tuple | list):
        parts = [torch.as_tensor(np.asarray(p)) for p in sample if isinstance(p, np.ndarray | float | int)]
    elif isinstance(sample, np.ndarray):
        parts = [torch.as_tensor(sample)]
    prints = Fingerprints()
    return hash(tuple(prints.of(part.reshape(1, -1))[0] for part in parts if part.numel()))


def _first(output: Any) -> Tensor | None:
    found = tensors(output)
    return next((t for t in found if t.is_floating_point() and t.ndim), None)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(_mapped(part, change) for part in value)
    if isinstance(value, list):
        return [_mapped(part, change) for part in value]
    if isinstance(value, dict):
        return {key: _mapped(part, change) for key, part in value.items()}
    return value
