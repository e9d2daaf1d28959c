"""Whose gradient lies in `.grad`: left from the step before, lent by another optimizer's pass, or thrown away unused.

A gradient is known by where it lies and by torch's count of writes to it, so nothing is copied and no value is read
but to tell zeros from the rest.

    >>> slots.arriving(place)      # a backward pass begins
    >>> slots.arrived(parameters)  # it is over
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

GAINED, LEFT, LENT = 8, 64, 64  # parameters whose gradients are followed


class Mark(NamedTuple):
    """A gradient as it lay at some moment."""

    parameter: Tensor
    pointer: int
    version: int

    def same(self) -> bool:
        """Nobody has written to it or replaced it."""
        gradient = self.parameter.grad
        return gradient is not None and _pointer(gradient) == self.pointer and gradient._version == self.version

    def cleared(self) -> bool:
        """It is gone, or was overwritten with zeros."""
        gradient = self.parameter.grad
        return gradient is None or (gradient._version != self.version and not bool(gradient.any()))


class Slots:
    """The gradients of one training's parameters."""

    def __init__(self) -> None:
        self.left: list[Mark] = []  # still there from the step before
        self.lent: list[Mark] = []  # came with another optimizer's step
        self.lent_by = ""  # the place of the backward pass that made them
        self.added_to = ""  # the place of the backward pass that was added to them
        self.gained: list[Mark] = []  # of the last backward pass
        self.in_vain: Counter[str] = Counter()  # places of passes whose gradients were cleared before a step
        self.emptied = False  # they were cleared between the backward pass and the step that comes

    def arriving(self, place: str) -> None:
        """A backward pass at `place` begins: what is there that it will be added to?"""
        if self.lent:
            self.lent = [mark for mark in self.lent if mark.same()]
            self.added_to = place if self.lent and place != self.lent_by else ""
        if self.left:
            self.left = [mark for mark in self.left if mark.same()]

    def arrived(self, parameters: list[Tensor]) -> None:
        """The backward pass is over."""
        self.left = [mark for old in self.left for mark in marks([old.parameter])]
        self.gained = marks(parameters[:256])[:GAINED]

    def thrown_away(self, place: str) -> int:
        """How often the gradients of passes at `place` were cleared before a step; 0 where the last ones were not."""
        if not all(mark.cleared() for mark in self.gained):
            return 0
        self.in_vain[place] += 1
        return self.in_vain[place]

    def stepping(self) -> None:
        """The optimizer is about to use them."""
        self.emptied = bool(self.gained) and all(mark.cleared() for mark in self.gained)

    def stepped(self) -> None:
        """They were used."""
        self.left, self.lent, self.added_to, self.gained = [], [], "", []

    def keep(self, parameters: list[Tensor], holding: bool) -> None:
        """Marks what is there after a step, so that the next backward pass shows whether it was cleared.

        `holding` asks for gradients that are not zero: those of a loop without an optimizer, which clears them itself.
        """
        self.left = [
            mark for mark in marks(p for p in parameters[:512] if p.requires_grad)
            if not holding or bool(mark.parameter.grad.any())  # type: ignore[union-attr]
        ][:LEFT]  # fmt: skip

    def lend(self, parameters: list[Tensor], reached: set[int], place: str) -> None:
        """Another optimizer's backward pass, at `place`, reached some of these parameters too."""
        self.lent = [
            mark for mark in marks(p for p in parameters[:LENT] if id(p) in reached) if bool(mark.parameter.grad.any())  # type: ignore[union-attr]
        ]  # fmt: skip
        self.lent_by, self.added_to = place, ""


def marks(parameters: Iterable[Tensor]) -> list[Mark]:
    """The gradients that are there."""
    return [Mark(p, _pointer(g), g._version) for p in parameters if (g := p.grad) is not None]


def _pointer(gradient: Tensor) -> int:
    """Where it lies; of a sparse one, which has no place of its own, where its values do."""
    return gradient._values().data_ptr() if gradient.is_sparse else gradient.data_ptr()
