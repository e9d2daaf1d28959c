"""Images into classes: standardised per channel, a ConvNet unless the recipe says otherwise, cross entropy, accuracy.

Images are uint8 [N, C, H, W]; the model takes them as they are, because its first layer carries the training set's mean and
standard deviation with the weights.
"""

from collections import OrderedDict

import torch
from torch import nn

from wellfit import losses, models
from wellfit.data.arrays import Loaded
from wellfit.models.layers import Standardize
from wellfit.recipe import Recipe
from wellfit.tasks.metrics import Classification
from wellfit.tasks.task import Built, Supervised


def build(recipe: Recipe, loaded: Loaded) -> Built:
    """The model is initialised from torch's global generator, which the caller has seeded."""
    images, classes = loaded.train.inputs, len(loaded.classes)
    shape = tuple(images.shape[1:])
    network = models.build(recipe.model, shape, classes)
    model = nn.Sequential(OrderedDict(standardize=Standardize.of(images), network=network))
    criterion = losses.build(recipe.loss, classes, torch.bincount(loaded.train.targets, minlength=classes))
    return Built(Supervised(criterion, Classification()), model, {"input": list(shape)})
