"""Data in memory, as a task gets it: tensors, the names in them, and what a person must be told about them."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Arrays:
    """Samples. `inputs`: uint8 [N, C, H, W] images or float32 [N, F] rows; `targets`: int64 [N] classes or float32 [N]."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, samples: Tensor) -> "Arrays":
        """The samples with these numbers, int64 [n], in that order."""
        return Arrays(self.inputs[samples], self.targets[samples])


@dataclass(frozen=True)
class Loaded:
    """A data set that has been read, checked and split. `valid` or `test` is None where there is none."""

    task: str
    name: str
    train: Arrays
    valid: Arrays | None
    test: Arrays | None
    fingerprint: str  # of the training samples
    classes: tuple[str, ...] = ()  # empty for numbers
    features: tuple[str, ...] = ()  # names of the columns of `inputs`, for tables
    columns: dict[str, Any] = field(default_factory=dict)  # plain data: how a new row is made into inputs
    notes: tuple[str, ...] = ()  # counts of what was deduced, filled in or scaled
