"""Which memory lives when: a mode that follows every tensor's storage from its birth to its death.

Under torch's fake tensors, which have shapes and types and no numbers, a step of training costs no memory and little time, and
its storages are born and die as they would with numbers. So what is counted is what the code does, not what a formula says of
it. What a kernel takes for itself and gives back within one operation is not seen.

Fake tensors cannot answer questions about values. A number that is asked for is told to be 1, and a mask is taken as True
everywhere, which is the most that it can choose; `Meter.asked` counts how often.

    >>> with FakeTensorMode(allow_non_fake_inputs=True), Meter() as meter: ...
    >>> meter.peak().parts
"""

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
ALIGNED = {"cuda": 512}  # bytes to which an allocator rounds up: c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize
OTHERWISE = 64  # c10/core/alignment.h, gAlignment


@dataclass(slots=True)
class Block:
    """A storage: its bytes, what it is for, and when it was there, in a count of births and deaths."""

    bytes: int
    part: str
    born: int
    died: int | None = None
    fixed: bool = False  # it is known what it is for


@dataclass(frozen=True)
class Peak:
    """The most that was in use at once, in bytes, what it was for, and what was being done."""

    bytes: int
    parts: Mapping[str, int]
    phase: str


@dataclass
class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows storages while it is entered, and takes note of what each is for as it is told."""

    blocks: list[Block] = field(default_factory=list)
    asked: int = 0  # times that values were asked for

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.part, self._clock = "temporary", 0
        self._living: dict[int, Block] = {}
        self._phases: list[tuple[int, str]] = [(0, "before")]

    def phase(self, name: str, part: str = "temporary") -> None:
        """What is done from here on, and what storages that are born then are for, until something else is known."""
        self._phases.append((self._clock, name))
        self.part = part

    def hold(self, tensors: Any, part: str) -> None:
        """These are for `part`, whether they are known already or not."""
        for tensor in leaves(tensors):
            block = self._block(tensor)
            if block is not None:
                block.part, block.fixed = part, True

    def settle(self, part: str, since: int = 0) -> None:
        """What was born since then, is alive and not known to be for anything is for `part`."""
        for block in self._living.values():
            if block.born >= since and not block.fixed:
                block.part, block.fixed = part, True

    def forget(self, tensors: Any) -> None:
        """As if these had never been."""
        for tensor in leaves(tensors):
            block = self._living.get(_address(tensor) or 0)
            if block is not None:
                block.bytes = 0

    @property
    def now(self) -> int:
        """The count of births and deaths so far."""
        return self._clock

    def part_of(self, tensor: Tensor) -> str | None:
        """What a tensor's storage is for, if that is known."""
        block = self._living.get(_address(tensor) or 0)
        return block.part if block is not None else None

    def peak(self) -> Peak:
        """The most that was alive at once."""
        return max(self.peaks().values(), key=lambda peak: peak.bytes)

    def peaks(self) -> dict[str, Peak]:
        """The most that was alive at once in each phase, by its name."""
        changes: list[tuple[int, int, str]] = []
        for block in self.blocks:
            changes.append((block.born, block.bytes, block.part))
            if block.died is not None:
                changes.append((block.died, -block.bytes, block.part))
        changes.sort(key=lambda change: change[0])
        found: dict[str, Peak] = {}
        parts: dict[str, int] = {}
        total = phase = 0
        for when, size, part in changes:
            total += size
            parts[part] = parts.get(part, 0) + size
            while phase + 1 < len(self._phases) and self._phases[phase + 1][0] < when:
                phase += 1
            name = self._phases[phase][1]
            if name not in found or total > found[name].bytes:
                found[name] = Peak(total, {part: size for part, size in parts.items() if size}, name)
        return found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = self._answered(func, args, kwargs or {})
        copied = func is aten._to_copy.default and self.part_of(args[0]) == "weights"
        for tensor in leaves(out):
            block = self._block(tensor)
            if copied and block is not None and not block.fixed and tensor.is_floating_point():
                block.part, block.fixed = "copies", True
        return out

    def _answered(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The operation, or the most that it could give where that depends on values."""
        if func is aten._local_scalar_dense.default:
            self.asked += args[0].dtype is torch.bool
            return bool(1) if args[0].dtype is torch.bool else 1.0 if args[0].is_floating_point() else 1
        if func is aten.nonzero.default:
            self.asked += 1
            return args[0].new_empty((args[0].numel(), args[0].ndim), dtype=torch.long)
        if func is aten.bincount.default:
            least = kwargs.get("minlength", args[2] if len(args) > 2 else 0)
            return args[0].new_empty((max(1, int(least)),), dtype=torch.long)
        if func is aten.masked_select.default:
            self.asked += 1
            shape = torch.broadcast_shapes(args[0].shape, args[1].shape)  # type: ignore[no-untyped-call]
            return args[0].new_empty((shape.numel(),))
        if func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default) and _masks(args[1]):
            self.asked += 1
            args = (args[0], _all_of(args[1]), *args[2:])
        return func(*args, **kwargs)

    def _block(self, tensor: Tensor) -> Block | None:
        """The tensor's storage, which is new where it was not seen before."""
        address = _address(tensor)
        if address is None:
            return None
        if address not in self._living:
            storage = tensor.untyped_storage()
            step = ALIGNED.get(tensor.device.type, OTHERWISE)
            block = Block(-(-storage.nbytes() // step) * step, self.part, self._tick())
            self.blocks.append(block)
            self._living[address] = block
            weakref.finalize(storage, self._died, address).atexit = False
        return self._living[address]

    def _died(self, address: int) -> None:
        block = self._living.pop(address, None)
        if block is not None:
            block.died = self._tick()

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


def leaves(value: Any) -> Iterator[Tensor]:
    """All tensors in lists, dictionaries and the like, whatever they are called."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from leaves(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from leaves(one)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from leaves(getattr(value, name, None))


def _address(tensor: Tensor) -> int | None:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse tensors have none
        return None


def _masks(indices: Any) -> bool:
    return any(isinstance(index, Tensor) and index.dtype is torch.bool for index in indices)


def _all_of(indices: Any) -> list[Any]:
    """Indices in which each mask has become the numbers of all its places."""
    made: list[Any] = []
    for index in indices:
        if isinstance(index, Tensor) and index.dtype is torch.bool:
            made += [index.new_empty((index.numel(),), dtype=torch.long) for _ in range(max(1, index.ndim))]
        else:
            made.append(index)
    return made
