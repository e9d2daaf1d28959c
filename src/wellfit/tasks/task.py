"""What the loop asks of a task, and the one implementation that serves every (inputs, targets) task.

The loss of a micro-batch is a *sum* over its targets, beside a *weight*: how much that sum counts (its unmasked
targets). Dividing by the weight of the whole batch, over all micro-batches and ranks, gives exactly the gradient of the
mean over the batch, however it was cut. Scores are sums too (`measure`), made into numbers at the end (`summarize`), so
they do not depend on how the held-out data was cut, and no predictions pile up in memory. Scores that no sums give
(rankings, boxes, texts) are made from lists, which are strung together.

    >>> task = Supervised(MSE(), Regression())
    >>> task.loss(model, (x, y)) / task.weight((x, y))
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wellfit import losses
from wellfit.data.batches import Batch
from wellfit.errors import DataError, RecipeError
from wellfit.tasks.metrics import Classification, Metrics, Regression

TARGETS = ("labels", "label", "targets", "target", "y")  # how a mapping names what is to be predicted


class Task(Protocol):
    """Loss and scores of one kind of learning.

    `one_pass = False` on a task says that `measure` does not pass through the model exactly once for each batch (it writes texts,
    token by token), so that ranks which share a model cannot keep step in it.
    """

    def weight(self, batch: Batch) -> float | Tensor:
        """How many targets count in this batch: a number, or a scalar tensor where counting needs the device."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss summed over those targets: a scalar tensor."""

    def measure(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        """Sums over the batch, tensors or lists of plain data, from which the scores follow.

        Called without gradients, in evaluation mode.
        """

    def summarize(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """The scores of everything that was measured, given the total of each sum and the whole of each list."""

    def check(self, model: nn.Module, batch: Batch) -> None:
        """Raises ModelError or DataError if model, batch and loss do not fit together."""


@dataclass(frozen=True)
class Built:
    """A task made ready from data: what to train, on what, and what to remember of it."""

    task: Task
    model: nn.Module
    record: dict[str, Any] = field(default_factory=dict)  # plain data for task.json: classes, columns, vocabulary
    fresh: list[str] | None = None  # parameters that are new beside trained weights; None: not known


class Supervised:
    """Batches of inputs and targets, a loss on (outputs, targets), and metrics of them.

    A batch is a tuple (x, y) or (x1, x2, ..., y), called as model(x1, x2, ...); a mapping with one of the keys `TARGETS`,
    called as model(**rest); or a single tensor, which is its own target (an autoencoder).
    """

    def __init__(self, loss: losses.Loss, *metrics: Metrics):
        self.criterion, self.metrics = loss, metrics

    def weight(self, batch: Batch) -> float | Tensor:
        return self.criterion.weight(_targets(batch))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.criterion(_outputs(model, batch), _targets(batch))

    def measure(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        outputs, targets = _outputs(model, batch), _targets(batch)
        device = outputs.device if isinstance(outputs, Tensor) else "cpu"
        sums = {
            "loss": self.criterion(outputs, targets),
            "weight": torch.as_tensor(self.criterion.weight(targets), dtype=torch.float64, device=device),
        }
        for metric in self.metrics:
            sums |= metric.sums(outputs, targets)
        return sums

    def summarize(self, sums: Mapping[str, Any]) -> dict[str, float]:
        weight = float(sums["weight"])
        scores = {"loss": float(sums["loss"]) / weight if weight else float("nan")}  # all targets were masked
        for metric in self.metrics:
            found = metric.scores(sums)
            twice = [name for name in found if name in scores]
            if twice:
                raise RecipeError(
                    f"A metric is called {twice[0]!r}, as another score is already. Give it another name."
                )
            scores |= found
        return scores

    def check(self, model: nn.Module, batch: Batch) -> None:
        losses.check(self.criterion, _outputs(model, batch), _targets(batch))


def suited(loss: losses.Loss) -> tuple[Metrics, ...]:
    """The metrics that go with a loss, for a model of which nothing else is known."""
    if isinstance(loss, (losses.CrossEntropy, losses.Focal)):
        return (Classification(),)
    return (Regression(),) if isinstance(loss, (losses.MSE, losses.Huber, losses.SmoothL1)) else ()


def _targets(batch: Batch) -> Any:
    if isinstance(batch, tuple):
        return batch[-1]
    if isinstance(batch, Mapping):
        return batch[_target_key(batch)]
    return batch


def _outputs(model: nn.Module, batch: Batch) -> Any:
    if isinstance(batch, tuple):
        return model(*(batch[:-1] or batch))
    if isinstance(batch, Mapping):
        target = _target_key(batch)
        return model(**{key: value for key, value in batch.items() if key != target})
    return model(batch)


def _target_key(batch: Mapping[str, Any]) -> str:
    for key in TARGETS:
        if key in batch:
            return key
    raise DataError(
        f"A batch is a mapping with the keys {', '.join(map(repr, batch))}, and none of them is a target; "
        f"name it one of {', '.join(map(repr, TARGETS))}."
    )
