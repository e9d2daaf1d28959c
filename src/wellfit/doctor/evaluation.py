"""Forward passes from which nothing is learned: what was evaluated, in which mode, on what, and with which loss.

>>> held_out.called(call, trained); held_out.scored("cross_entropy", logits, target, loss)
>>> for span in held_out.ended(): ...
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wellfit.doctor import facts, places
from wellfit.doctor.account import Call, Root

SPANS = 32  # kinds of evaluation between two steps that are told apart


@dataclass
class Span:
    """Forward passes of one kind between two training steps, from which nothing is learned."""

    place: str
    root: Root | None
    calls: int = 0
    samples: int = 0
    mixing: int = 0
    grad: int = 0
    repeated: int = 0
    trained_on: int = 0
    within: int = 0  # scored on some of the samples of a batch whose every sample is trained on
    losses: float | Tensor = 0.0  # these sums stay on their device until the span is over
    scored: int = 0
    right: float | Tensor = 0.0
    judged: int = 0
    errors: float | Tensor = 0.0
    total: float | Tensor = 0.0
    squares: float | Tensor = 0.0
    last: Any = None
    heard: dict[str, tuple[float, int]] = field(default_factory=dict)

    def values(self) -> dict[str, float]:
        """The numbers of the span; `loss`, `accuracy` and `squared_error` where they are known."""
        values = {
            "calls": float(self.calls), "samples": float(self.samples), "mixing": self.mixing / max(1, self.calls),
            "grad": self.grad / max(1, self.calls), "repeated": float(self.repeated), "scored": float(self.scored),
            "trained_on": float(self.trained_on), "within": float(self.within), "feeds": float(self.root is not None and self.root.feeds),
            "trained": float(self.root is not None and self.root.trained),
        }  # fmt: skip
        if self.scored:
            values["loss"] = float(self.losses) / self.scored
        if self.scored and self.judged and self.right:
            values["accuracy"] = float(self.right) / self.judged
        if self.scored and self.judged and self.errors:
            values["squared_error"] = float(self.errors) / self.judged
            middle = float(self.total) / self.judged
            values["target_variance"] = max(0.0, float(self.squares) / self.judged - middle**2)
        return values

    def held_out(self) -> dict[str, float]:
        """Losses on data that was not just trained on, by where they come from."""
        if self.calls and self.trained_on == self.calls:
            return {}
        if self.scored:
            return {self.place: float(self.losses) / self.scored}
        return {line: total / count for line, (total, count) in list(self.heard.items())[:2]}

    def parts(self) -> str:
        """The dropout and batch norm layers that it went through."""
        return facts.classes(list(self.root.switches)) or "dropout" if self.root is not None else ""


class HeldOut:
    """The evaluations between two training steps."""

    def __init__(self) -> None:
        self.spans: dict[Any, Span] = {}
        self.span: Span | None = None  # the one that goes on
        self.seen = False  # whether there was one, ever
        self.lines: dict[str, str] = {}  # where loss-like numbers were read -> the place of that evaluation

    def called(self, call: Call, trained: Call | None) -> Span | None:
        """A call from which nothing is learned. `trained` is the last one from which something was."""
        span = self.spans.get(call.key)
        if span is None:
            if len(self.spans) > SPANS:
                return None
            place = places.shown(call.key[-1]) if call.key else ""
            span = self.spans[call.key] = Span(place, call.root)
        self.span = span
        first = call.inputs[0] if call.inputs else None
        identity = (first.data_ptr(), tuple(first.shape)) if first is not None else None
        span.calls += 1
        span.samples += len(first) if first is not None and first.ndim else 1
        span.mixing += int(call.mixing)
        span.grad += int(call.grad)
        span.repeated += int(span.calls > 1 and identity == span.last)
        span.last = identity
        if first is not None and trained is not None and trained.inputs:
            same = trained.inputs[0]
            span.trained_on += int(same is first or (same.data_ptr() == first.data_ptr() and same.shape == first.shape))
        return span

    def scored(self, function: str, given: Tensor, target: Tensor, loss: Any, taught: Tensor | None = None) -> None:
        """A loss of an evaluation. `taught` are the targets last trained on: other ones of the same batch are held out, as with nodes of a graph."""
        span = self.span
        if span is None:
            key = places.key()
            span = self.span = self.spans.setdefault(key, Span(places.shown(key[-1]) if key else "", None))
        if not isinstance(loss, Tensor):
            return
        if span.trained_on and taught is not None and (taught.shape != target.shape or not torch.equal(taught, target)):
            span.trained_on -= 1
            whole = taught.ndim > 0 and len(taught) == span.last[1][0] and not bool((taught < 0).any())
            span.within += int(whole and target.ndim > 0 and len(target) < len(taught))
        count = max(1, len(target)) if target.ndim else 1
        span.losses = span.losses + _total(loss) * (count / max(1, loss.numel()))
        span.scored += count
        if function == "cross_entropy" and given.ndim == 2 and target.ndim == 1:
            span.right = span.right + (given.detach().argmax(dim=1) == target).sum()
            span.judged += count
        elif function == "mse_loss" and given.shape == target.shape:
            span.errors = span.errors + _total((given.detach() - target.detach()).square())
            span.judged += target.numel()
            span.total = span.total + _total(target)
            span.squares = span.squares + _total(target.detach().square())

    def heard(self, line: str, value: float) -> None:
        """A number with a loss-like name that the program read while evaluating."""
        if (
            self.span is None and line in self.lines
        ):  # while calm, no module is seen; but it was, from this line, before
            self.span = self.spans.setdefault(line, Span(self.lines[line], None))
        if self.span is not None and not self.span.scored:
            self.lines.setdefault(line, self.span.place)
            total, count = self.span.heard.get(line, (0.0, 0))
            self.span.heard[line] = (total + value, count + 1)

    def ended(self) -> list[Span]:
        """Training goes on: the evaluations since the last step."""
        spans, self.spans, self.span = list(self.spans.values()), {}, None
        self.seen = self.seen or bool(spans)
        return spans


def _total(values: Tensor) -> Tensor:
    """The sum, on its device, in double precision where there is one."""
    return values.detach().sum(dtype=torch.float32 if values.device.type == "mps" else torch.float64)
