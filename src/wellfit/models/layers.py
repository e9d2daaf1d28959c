"""The small parts that networks are made of: standardisation, activations, normalisation, initialisation.

Everything here is torch's own wherever torch has it; what this file adds is the reasons, and the names by which a recipe
asks for them.

    >>> layer = nn.Sequential(nn.Linear(64, 128), norm("batch", 128), activation("relu"))
    >>> initialize(layer, "relu")
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Standardize(nn.Module):
    """(x - mean) / std, per column of [N, F] or per channel of [N, C, H, W]; takes integers too.

    The statistics are buffers, so they travel with the weights and whoever loads those needs nothing else. Inputs on one
    scale let one learning rate fit all weights of the first layer (LeCun et al. 1998b, 4.3).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    @classmethod
    def of(cls, inputs: Tensor) -> "Standardize":
        """With the statistics of these inputs; a column or channel that is constant is only centred.

        Constant is relative to the mean, as float32 itself is: columns in farads or metres may be small as a whole.
        """
        over = (0, 2, 3) if inputs.ndim == 4 else (0,)
        count = math.prod(inputs.shape[axis] for axis in over)
        zero = torch.zeros((), dtype=torch.float64, device=inputs.device)
        # Two passes in float64, part by part: a copy of everything at once would be eight times the bytes of the images.
        parts = torch.split(inputs, 256)
        mean = sum((part.to(torch.float64).sum(over, keepdim=True) for part in parts), zero) / count
        squares = ((part.to(torch.float64) - mean).square().sum(over, keepdim=True) for part in parts)
        std = (sum(squares, zero) / count).sqrt()
        return cls(mean.float(), torch.where(std <= 1e-7 * mean.abs(), 1.0, std).float())

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.mean.dtype) - self.mean) / self.std


class Unstandardize(nn.Module):
    """x * std + mean: brings a network's output back into the unit of its target."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.std + self.mean


# ---- activations: without one between them, two linear layers are one

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,  # max(0, x): cheap, does not saturate; a unit that is never positive stops learning
    "gelu": nn.GELU,  # x Phi(x), a smooth ReLU; usual in Transformers (Hendrycks & Gimpel 2016)
    "silu": nn.SiLU,  # x sigmoid(x), as smooth and cheaper; usual in EfficientNet (Ramachandran et al. 2017)
    "tanh": nn.Tanh,  # in (-1, 1) and centred; saturates, so gradients vanish through many layers
    "sigmoid": nn.Sigmoid,  # in (0, 1), for gates and probabilities; its slope is at most 1/4, so it vanishes sooner
}


def activation(name: str) -> nn.Module:
    """A new activation of that name, one of `ACTIVATIONS`."""
    return ACTIVATIONS[name]()


# ---- normalisation: keeps the scale of activations, so that depth and learning rate matter less

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda _: nn.Identity(),
    "batch": nn.BatchNorm1d,  # per feature over the batch (Ioffe & Szegedy 2015); needs batches that are not tiny
    "layer": nn.LayerNorm,  # per sample over the features (Ba et al. 2016); the batch does not matter
    "rms": nn.RMSNorm,  # the same without centring (Zhang & Sennrich 2019)
}


def norm(name: str, features: int) -> nn.Module:
    """A new normalisation of [N, features], one of `NORMS`."""
    return NORMS[name](features)


# ---- initialisation: signals and gradients should neither grow nor die from layer to layer


def kaiming(weight: Tensor) -> None:
    """Normal with variance 2 / fan_in: half of ReLU's inputs are cut off, so the rest counts double (He et al. 2015, eq. 10)."""
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def xavier(weight: Tensor) -> None:
    """Uniform with variance 2 / (fan_in + fan_out): for activations that are linear around 0 (Glorot & Bengio 2010, eq. 16)."""
    nn.init.xavier_uniform_(weight)


INITIALIZATIONS: dict[str, Callable[[Tensor], None]] = {
    "relu": kaiming,
    "gelu": kaiming,
    "silu": kaiming,
    "tanh": xavier,
    "sigmoid": xavier,
}


def initialize(module: nn.Module, activation: str) -> nn.Module:
    """Weights of every linear and convolutional layer to suit the activation that follows, biases zero.

    Draws from torch's global generator.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            INITIALIZATIONS[activation](layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def head(features: int, outputs: int) -> nn.Linear:
    """The last layer. Small weights, so that an untrained network prefers no class: its first loss is ln(classes)."""
    layer = nn.Linear(features, outputs)
    nn.init.normal_(layer.weight, std=0.1 / math.sqrt(features))
    nn.init.zeros_(layer.bias)
    return layer
