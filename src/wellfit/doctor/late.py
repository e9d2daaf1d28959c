"""Losses on their way from an accelerator: copied beside the computing and read once they are there, so that nothing waits.

>>> late.put(step, [loss], rate, seconds, waited, inputs)
>>> for owed in late.arrived(): ...          # those that can be read by now, oldest first
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

HELD_BYTES = 4 << 20  # an input larger than this is not held until its loss is known


@dataclass
class Owed:
    """A step whose loss is not known yet."""

    step: int
    loss: Tensor
    rate: float
    seconds: float
    waited: float
    inputs: list[Tensor]
    copied: Any  # the event that is done when the loss has arrived

    def value(self) -> float:
        """The loss, once it has arrived."""
        return float(torch._C.TensorBase.item(self.loss))  # torch's own, past our replacement

    def broken_input(self) -> int | None:
        """Which of the inputs is not finite."""
        for i, given in enumerate(self.inputs):
            if given.is_floating_point() and not bool(torch.isfinite(given).all()):
                return i
        return None


class Late:
    """The losses of one training that are still reckoned, oldest first."""

    def __init__(self) -> None:
        self.owed: deque[Owed] = deque()

    def __len__(self) -> int:
        return len(self.owed)

    def put(
        self, step: int, losses: list[Tensor], rate: float, seconds: float, waited: float, inputs: list[Tensor]
    ) -> None:
        """Takes up a step; its loss is the mean of `losses`, CUDA tensors of one element. Enqueues a copy and returns at once."""
        loss = losses[0] if len(losses) == 1 else torch.stack([x.reshape(()).float() for x in losses]).mean()
        held = [t for t in inputs[:3] if t.numel() * t.element_size() <= HELD_BYTES]
        with torch.cuda.device(loss.device):
            copy, copied = loss.detach().to("cpu", non_blocking=True), torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        self.owed.append(Owed(step, copy, rate, seconds, waited, held, copied))

    def arrived(self, wait: bool = False) -> Iterator[Owed]:
        """Those whose loss can be read without waiting; all of them when `wait`."""
        while self.owed:
            if wait:
                self.owed[0].copied.synchronize()
            elif not self.owed[0].copied.query():
                return
            yield self.owed.popleft()
