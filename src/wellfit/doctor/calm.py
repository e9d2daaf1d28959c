"""Steps in which nothing but the loss is read: those between two looks, once a training is known to be well.

The numbers wait in a list until the next look, or until one of them is odd, and are told together then. On an accelerator
even the loss is not waited for (`late.py`). All of this runs at every step of somebody's training, so it does little.

    >>> calm = Calm(training)
    >>> calm.takes(loss)        # at each backward pass; False where it deserves a look
    >>> calm.steps()            # at each step; True when it is time to look again
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from wellfit.doctor.account import Training

WAITING = 255  # numbers that wait at most

_item = torch._C.TensorBase.item  # torch's own, past our replacement


class Calm:
    """The steps of one training since the last look."""

    def __init__(self, training: Training):
        self.training = training
        self.values: list[float] = []  # losses since the last step
        self.late: list[Tensor] = []  # and those on an accelerator
        self.quiet: list[tuple[int, float, float]] = []  # step, loss, rate of the steps that are not told yet
        self.odd: float | None = None  # the loss that ended it

    def takes(self, loss: Any) -> bool:
        """The loss of a backward pass is kept. False, and nothing is kept, where it is no finite number."""
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            return False
        if loss.is_cuda:
            self.late.append(loss.detach())
            return True
        value = _item(loss)
        if not math.isfinite(value):
            return False
        self.values.append(value)
        return True

    def steps(self) -> bool:
        """The optimizer has stepped. True when it is time to look again."""
        training, values = self.training, self.values
        training.step += 1
        if self.late:
            training.backwards += len(self.late)
            training.late.put(training.step, self.late, training.rate(), math.nan, 0.0, [])
            self.late = []
            return training.step + 1 >= training.next_look or len(training.late) > WAITING
        value = sum(values) / len(values) if values else training.level
        training.backwards += len(values)
        values.clear()
        self.quiet.append((training.step, value, training.rate()))
        away = abs(value - training.level)
        if away > 6 * training.swing and abs(value) > 3 * abs(training.level) + 1e-3:
            self.odd = value
        training.level += 0.1 * (value - training.level)
        training.swing += 0.1 * (away - training.swing)
        return self.odd is not None or training.step + 1 >= training.next_look

    def waiting(self) -> list[tuple[int, float, float]]:
        """The numbers that wait, once there are many; they are no longer kept here."""
        if len(self.quiet) <= WAITING:
            return []
        told, self.quiet = self.quiet, []
        return told
