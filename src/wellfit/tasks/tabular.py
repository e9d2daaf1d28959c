"""Rows of a table into a class or a number: standardised columns, an MLP, and classical baselines beside it.

For numbers, the network works on the standardised target and its last layer brings the output back into the target's
unit, so predictions need nothing else; the loss is taken in standard deviations, so that Huber's delta and the learning
rate do not depend on the unit.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wellfit import losses, models
from wellfit.data.arrays import Loaded
from wellfit.models.layers import Standardize, Unstandardize
from wellfit.recipe import Recipe
from wellfit.tasks.metrics import Classification, Regression
from wellfit.tasks.task import Built, Supervised


def classification(recipe: Recipe, loaded: Loaded) -> Built:
    rows, classes = loaded.train.inputs, len(loaded.classes)
    network = models.build(recipe.model, tuple(rows.shape[1:]), classes)
    model = nn.Sequential(OrderedDict(standardize=Standardize.of(rows), network=network))
    criterion = losses.build(recipe.loss, classes, torch.bincount(loaded.train.targets, minlength=classes))
    return Built(Supervised(criterion, Classification()), model, {"columns": loaded.columns})


def regression(recipe: Recipe, loaded: Loaded) -> Built:
    rows, targets = loaded.train.inputs, loaded.train.targets
    network = models.build(recipe.model, tuple(rows.shape[1:]), 1)
    scale = targets.std(correction=0).clamp(min=1e-12)
    back = Unstandardize(targets.mean(), scale)
    model = nn.Sequential(
        OrderedDict(standardize=Standardize.of(rows), network=network, squeeze=nn.Flatten(0), unstandardize=back)
    )
    criterion = InDeviations(losses.build(recipe.loss), float(scale))
    return Built(Supervised(criterion, Regression()), model, {"columns": loaded.columns})


@dataclass(frozen=True)
class InDeviations:
    """A loss of outputs and targets in units of `scale`, the standard deviation of the training targets."""

    loss: losses.Loss
    scale: float

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(outputs / self.scale, targets / self.scale)

    def weight(self, targets: Tensor) -> float | Tensor:
        return self.loss.weight(targets)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        losses.check(self.loss, outputs, targets)
