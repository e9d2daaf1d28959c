"""Scores as sums, so that batches and ranks add up exactly.

`sums(outputs, targets)` gives tensors that may be added over any cut of the data; `scores(sums)` makes numbers of the
totals. Metrics that are not sums (ranking, detection) belong to torchmetrics and to the tasks that need them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class Metrics(Protocol):
    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Any]: ...
    def scores(self, sums: Mapping[str, Any]) -> dict[str, float]: ...


@dataclass(frozen=True)
class Classification:
    """Accuracy and macro F1 from the confusion matrix; logits [N, C, ...], class ids [N, ...], -100 ignored.

    Of targets that are probabilities [N, C, ...] the likeliest class counts.
    F1 is the unweighted mean over the classes that occur as target or prediction (scikit-learn's `f1_score(average="macro")`).
    """

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        classes = outputs.shape[1]
        if targets.is_floating_point() and targets.shape == outputs.shape:
            targets = targets.argmax(1)
        predicted, actual = outputs.argmax(1).flatten(), targets.flatten().long()
        counted = (actual >= 0) & (actual < classes)
        pairs = (actual * classes + predicted)[counted]
        counts = torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
        return {"confusion": counts.to(torch.float64)}

    def scores(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        confusion = sums["confusion"]
        right, actual, predicted = confusion.diag(), confusion.sum(1), confusion.sum(0)
        occurs = (actual + predicted) > 0
        f1 = 2 * right[occurs] / (actual + predicted)[occurs]
        return {
            "accuracy": float(right.sum() / actual.sum()),  # NaN where nothing counts
            "f1": float(f1.mean()),
        }


@dataclass(frozen=True)
class Regression:
    """Mean absolute error, root mean square error (both in the target's unit) and the coefficient of determination."""

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        y, error = targets.to(torch.float64), outputs.to(torch.float64) - targets.to(torch.float64)
        return {
            "absolute_error": error.abs().sum(),
            "squared_error": error.square().sum(),
            "targets": y.sum(),
            "squared_targets": y.square().sum(),
            "count": torch.tensor(float(y.numel()), dtype=torch.float64, device=y.device),
        }

    def scores(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        count = max(float(sums["count"]), 1.0)
        spread = float(sums["squared_targets"]) - float(sums["targets"]) ** 2 / count
        squared = float(sums["squared_error"])
        return {
            "mae": float(sums["absolute_error"]) / count,
            "rmse": (squared / count) ** 0.5,
            "r2": 1 - squared / spread if spread > 0 else float("nan"),
        }


@dataclass(frozen=True)
class Averaged:
    """A user's function (outputs, targets) -> the mean over a batch, averaged over all samples."""

    name: str
    function: Callable[[Any, Any], Any]

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        count = len(targets)
        value = torch.as_tensor(self.function(outputs, targets), dtype=torch.float64)
        return {
            f"{self.name}_sum": value * count,
            f"{self.name}_count": torch.tensor(float(count), dtype=torch.float64),
        }

    def scores(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        return {self.name: float(sums[f"{self.name}_sum"]) / max(float(sums[f"{self.name}_count"]), 1.0)}
