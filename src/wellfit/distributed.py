"""Ranks as verbs, so that the loop reads the same on one process and on many.

A rank is one process of a job launched by `torchrun`, which sets `RANK`, `WORLD_SIZE` and `LOCAL_RANK`. With one process
every verb here is free. This file starts torch's own process group and wraps the model in torch's own DDP; it knows
nothing of data, checkpoints or recipes. Who is missing where ranks wait in vain is told by `presence.py`.

    >>> with joined("cpu"):
    ...     replica = wrap(model, "cpu")
"""

import atexit
import contextlib
import datetime
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wellfit.errors import HardwareError, RankError, RecipeError, WellfitError
from wellfit.presence import Presence

PATIENCE = 600.0  # seconds that ranks wait for one another, if nothing is said
_here: list[Presence] = []  # of the process group that this process is in


def world() -> int:
    """How many ranks train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 writes the files and speaks."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def launched() -> int:
    """How many ranks torchrun's environment speaks of, before they have joined."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launch() -> str | None:
    """What tells this launch from others, and stays when its ranks are started again; None where there is one process.

    The id that torchrun was given, or else its host and process.
    """
    if launched() == 1:
        return None
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return name if name != "none" else f"{socket.gethostname()}:{os.getppid()}"


def own(device: str) -> str:
    """The device of this rank, where `device` is what all of them were told: `cuda` is the GPU with the rank's number on its machine."""
    if launched() == 1 or not device.startswith("cuda"):
        return device
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if ":" in device:
        raise HardwareError(
            f"`hardware.device` is {device!r}, and {launched()} ranks were started, which would all sit on that one. Set it to `cuda`."
        )
    if number >= count:
        raise HardwareError(
            f"Rank {number} of this machine has no GPU of its own: it has {count}. Start at most {count} processes on it "
            "(`--nproc-per-node`), or set `hardware.device=cpu`."
        )
    return f"cuda:{number}"


@contextlib.contextmanager
def joined(device: str, patience: float = PATIENCE) -> Iterator[None]:
    """The block runs in the process group that torchrun's environment describes, which stays for later blocks, to the end of the process.

    A group that is there already is used as it is. `patience`: seconds that a rank waits for the others. Raises RankError, which names
    the ranks that are missing, where one of them is lost, hangs, or never comes.
    """
    if launched() > 1 and not dist.is_initialized():
        _join(device, patience)
    if not _here:
        yield
        return
    here = _here[0]
    here.begin()
    try:
        yield
    except BaseException as error:
        if _is_of_ranks(error):
            with _deaf():  # torchrun ends the others as soon as one is gone, and this is worth some seconds
                said = here.told(str(error))
            _part()
            raise RankError(said) from error
        here.leave(f"{type(error).__name__}: {error}")
        if isinstance(error, WellfitError):
            error.told = here.says_the_first()
        raise


def _join(device: str, patience: float) -> None:
    _named()
    wait = datetime.timedelta(seconds=patience)
    if device.startswith("cuda"):
        torch.cuda.set_device(own(device))
        backend, limit = "cpu:gloo,cuda:nccl", wait + datetime.timedelta(seconds=60)  # NCCL's own end is an abort
    else:
        backend, limit = "gloo", wait
    try:
        dist.init_process_group(backend, timeout=limit, **_meeting(limit))
    except (RuntimeError, ValueError, OSError) as error:
        raise RankError(_did_not_meet(error, patience)) from error
    _here[:] = [Presence(rank(), world(), patience, watching=device.startswith("cuda"))]
    atexit.register(_part)


def _meeting(limit: datetime.timedelta) -> dict[str, Any]:
    """Where ranks meet whose launcher keeps the store, which outlives a restart: in a part of it that belongs to this start.

    torch (2.14) lets them meet in the whole of it, where they find the addresses of those who are gone.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=limit)  # type: ignore[attr-defined]
    part = f"wellfit/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    return {"store": dist.PrefixStore(part, store), "rank": int(os.environ["RANK"]), "world_size": launched()}  # type: ignore[attr-defined]


def _part() -> None:
    """Leaves the group, which may be broken. It is not left between two trainings: its store would still hold what the first one said."""
    for here in _here:
        here.close()
    if _here and dist.is_initialized():
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
    _here.clear()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """SIGTERM waits in the block. Outside of the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _named() -> None:
    """Raises RankError where the environment does not say all that a rank must know."""
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise RankError(
            f"WORLD_SIZE is {launched()}, but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set, so the ranks cannot "
            "find each other. Start them by `torchrun`, or by `wellfit train --gpus N`; or unset WORLD_SIZE to train with one process."
        )


def _did_not_meet(error: BaseException, patience: float) -> str:
    said, place = str(error), f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if "EADDRINUSE" in said or "address already in use" in said.lower():
        return (
            f"The ranks cannot meet at {place}, because another program has that port. Choose another one "
            "(`torchrun --master-port=PORT`, or `--rdzv-endpoint=HOST:PORT`), or `--standalone` on one machine."
        )
    return (
        f"Rank {os.environ['RANK']} waited {patience:g} s at {place} for {launched()} ranks, and not all of them came. See whether each "
        f"node was started with the same address and number of nodes, and can reach it (`hardware.rank_timeout` says how long it waits). "
        f"torch says: {said.strip().splitlines()[0] if said.strip() else type(error).__name__}"
    )


def _is_of_ranks(error: BaseException) -> bool:
    """Whether an error is one of ranks that lost each other: gloo's and NCCL's have few types of their own."""
    if isinstance(error, WellfitError) or not isinstance(error, RuntimeError):
        return False
    if isinstance(error, (dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError)):
        return True
    said = str(error)
    return any(
        words in said for words in ("gloo", "Gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    )


def _enters() -> None:
    if _here:
        _here[0].exchanges += 1


def passed(step: int) -> None:
    """Says how far this rank is, for those who may wait for it."""
    if _here:
        _here[0].step = step


def alone(what: str, instead: str = "Start it without torchrun.") -> None:
    """Raises RecipeError where torchrun started several processes, and `what`, such as "A comparison", takes one."""
    if launched() > 1:
        raise RecipeError(f"{what} takes one process, and torchrun started {launched()}. {instead}")


def wrap(model: nn.Module, device: str) -> nn.Module:
    """The model whose backward pass averages gradients over the ranks; the model itself where there is one rank, or it is cut."""
    if world() == 1 or _cut(model):
        return model
    ids = [torch.device(device).index or 0] if device.startswith("cuda") else None
    return DistributedDataParallel(model, device_ids=ids)


def syncing(replica: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Around one micro-batch: gradients are exchanged only in the last one of a step."""
    if _cut(replica):
        replica.set_requires_gradient_sync(last)  # type: ignore[operator]
    elif hasattr(replica, "set_gradient_accumulation_boundary"):
        replica.set_gradient_accumulation_boundary(last)  # type: ignore[operator]
    elif isinstance(replica, DistributedDataParallel) and not last:
        return replica.no_sync()
    return _HERE


_HERE = contextlib.nullcontext()


def _cut(model: nn.Module) -> bool:
    return hasattr(model, "set_requires_gradient_sync")


def total(value: float | Tensor) -> Any:
    """The sum over all ranks. With several ranks it is a tensor that stays on its device: reading it would wait."""
    if world() == 1:
        return value
    _enters()
    summed = value.detach().clone() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(summed)
    return summed


def any_rank(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is up on any rank. Exchanged between the CPUs, so no accelerator waits for it."""
    if world() == 1:
        return flags
    _enters()
    votes = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return tuple(bool(vote) for vote in votes.tolist())


class Vote:
    """Whether any rank has raised a flag, without waiting for the others: what is asked in one step is answered in the next."""

    def __init__(self) -> None:
        self._asked: tuple[Tensor, Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._answer()

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it was up on any rank a step ago; with one rank, whether it is up."""
        if world() == 1:
            return flags
        answer = self._answer() or (False,) * len(flags)
        _enters()
        votes = torch.tensor(flags, dtype=torch.int32)
        self._asked = votes, dist.all_reduce(votes, dist.ReduceOp.MAX, async_op=True)
        return answer

    def _answer(self) -> tuple[bool, ...]:
        if self._asked is None:
            return ()
        votes, work = self._asked
        work.wait()
        self._asked = None
        return tuple(bool(vote) for vote in votes.tolist())


def gathered(thing: Any) -> list[Any]:
    """Every rank's thing, in rank order, on every rank."""
    if world() == 1:
        return [thing]
    _enters()
    everything: list[Any] = [None] * world()
    dist.all_gather_object(everything, thing)
    return everything


def from_first(thing: Any) -> Any:
    """Rank 0's thing, on every rank."""
    return gathered(thing)[0]


def agreed(**what: str) -> None:
    """Raises RankError where ranks do not have the same of something, saying which rank has which."""
    everyone = gathered(what)
    for name in dict.fromkeys(name for theirs in everyone for name in theirs):
        differ = [number for number, theirs in enumerate(everyone) if theirs.get(name) != everyone[0].get(name)]
        if differ:
            number = differ[0]
            there, here = (everyone[i].get(name, "not there") for i in (number, 0))
            raise RankError(
                f"The ranks do not train the same: {name.replace('_', ' ')} of rank {number} is {there}, and of rank 0 it is {here}"
                + (f" (and {len(differ) - 1} more ranks differ)" if len(differ) > 1 else "")
                + ". Give every machine the same files and the same environment."
            )
