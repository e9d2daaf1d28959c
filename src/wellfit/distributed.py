"""Ranks as verbs, so that the loop reads the same on one process and on many.

A rank is one process of a job launched by `torchrun`, which sets `RANK`, `WORLD_SIZE` and `LOCAL_RANK`. With one process
every verb here is free. This file starts torch's own process group and wraps the model in torch's own DDP; it knows
nothing of data, checkpoints or recipes.

    >>> with joined("cpu"):
    ...     replica = wrap(model, "cpu")
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wellfit.errors import RecipeError


def world() -> int:
    """How many ranks train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 writes the files and speaks."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Joins the process group that torchrun's environment describes, for as long as the block runs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def alone(what: str, instead: str = "Start it without torchrun.") -> None:
    """Raises RecipeError where torchrun started several processes, and `what`, such as "A comparison", takes one."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        raise RecipeError(f"{what} takes one process, and torchrun started {ranks}. {instead}")


def wrap(model: nn.Module, device: str) -> nn.Module:
    """The model whose backward pass averages gradients over the ranks; the model itself where there is one rank."""
    if world() == 1:
        return model
    ids = [torch.device(device).index or 0] if device.startswith("cuda") else None
    return DistributedDataParallel(model, device_ids=ids)


def syncing(replica: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Around one micro-batch: gradients are exchanged only in the last one of a step."""
    if isinstance(replica, DistributedDataParallel) and not last:
        return replica.no_sync()
    return _HERE


_HERE = contextlib.nullcontext()


def total(value: float | Tensor) -> Any:
    """The sum over all ranks. With several ranks it is a tensor that stays on its device: reading it would wait."""
    if world() == 1:
        return value
    summed = value.detach().clone() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(summed)
    return summed


def any_rank(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is up on any rank. Exchanged between the CPUs, so no accelerator waits for it."""
    if world() == 1:
        return flags
    votes = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return tuple(bool(vote) for vote in votes.tolist())


def gathered(thing: Any) -> list[Any]:
    """Every rank's thing, in rank order, on every rank."""
    if world() == 1:
        return [thing]
    everything: list[Any] = [None] * world()
    dist.all_gather_object(everything, thing)
    return everything


def from_first(thing: Any) -> Any:
    """Rank 0's thing, on every rank."""
    return gathered(thing)[0]
