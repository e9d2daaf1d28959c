"""Data in memory, as a task gets it: samples, the names in them, and what a person must be told about them.

`Arrays` are samples that are all of one shape, so that tensors hold them. A task whose samples differ in size (sentences,
pictures with boxes) brings its own `Samples`, which make a batch of any of them when it is asked for.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor

from wellfit.data.fingerprint import fingerprint
from wellfit.settings import Augment


class Samples(Protocol):
    """Numbered samples, any of which make a batch. What is in them never changes."""

    augments: ClassVar[tuple[str, ...]] = ()  # the settings of `data.augment` that `varied` heeds

    def varied(self, settings: Augment, seed: int) -> "Samples":  # noqa: ARG002 - for those that have something to vary
        """The same, of which training batches are changed at random, by settings and seed."""
        return self

    def __len__(self) -> int: ...

    def take(self, samples: Tensor) -> "Samples":
        """Those with these numbers, int64 [n], in that order."""

    def batch(self, samples: Tensor, epoch: int | None = None, /) -> Any:
        """A batch of these. `epoch` is None where nothing is to be changed at random."""

    def lengths(self) -> Tensor | None:
        """How long each is, int64 [N], if batches are better made of samples of like length; else None."""

    def fingerprint(self) -> str:
        """A short name for the content."""


@dataclass(frozen=True)
class Arrays(Samples):
    """Samples. `inputs`: uint8 [N, C, H, W] images or float32 [N, F] rows; `targets`: int64 [N] classes or float32 [N]."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, samples: Tensor) -> "Arrays":
        """The samples with these numbers, int64 [n], in that order."""
        return Arrays(self.inputs[samples], self.targets[samples])

    def batch(self, samples: Tensor, _: int | None = None, /) -> tuple[Tensor, Tensor]:
        """(inputs, targets) of the samples with these numbers."""
        return self.inputs[samples], self.targets[samples]

    def lengths(self) -> None:
        """They are all of one size."""

    def fingerprint(self) -> str:
        return fingerprint(self.inputs, self.targets)


@dataclass(frozen=True)
class Loaded:
    """A data set that has been read, checked and split. `valid` or `test` is None where there is none."""

    task: str
    name: str
    train: Any  # `Samples`, of the kind that the task takes
    valid: Any
    test: Any
    fingerprint: str  # of the training samples
    classes: tuple[str, ...] = ()  # empty for numbers
    features: tuple[str, ...] = ()  # names of the columns of `inputs`, for tables
    columns: dict[str, Any] = field(default_factory=dict)  # plain data: how a new row or text is made into inputs
    derived: dict[str, tuple[Any, str]] = field(
        default_factory=dict
    )  # settings that reading decided: path -> value, why
    notes: tuple[str, ...] = ()  # counts of what was deduced, filled in or scaled
    texts: dict[str, tuple[Any, ...]] = field(default_factory=dict)  # part -> columns as they were read, for yardsticks
