"""One deep network four ways, to see what residual connections and normalisation are for.

A plain stack multiplies: each layer scales the signal by some factor on the way up and the gradient on the way down, and
thirty factors below one leave nothing (Glorot & Bengio 2010; He et al. 2015, section 2.2). Torch's own start of a linear
layer has weights of variance 1 / (3 fan_in), and ReLU drops half of the signal's energy, so each layer keeps about a sixth:
the inputs are lost among the biases on the way up, the gradient dies on the way down, and nothing is learnt. Two cures:

- *Normalisation* (Ioffe & Szegedy 2015) sets the scale of every layer's output anew, whatever the weights. On the way down
  each batch norm after ReLU stretches the gradient a little, so that without the next cure depth hurts again, from the
  other side (Yang et al. 2019).
- *Residual connections* (He et al. 2016) let a block add to its input instead of replacing it: f(x + F(x)). The gradient
  has a way down through the `+` that no weight scales.

The start chosen here is deliberately the fragile one, so that the difference is seen; `initialize` of `layers.py` (variance
2 / fan_in) is the third cure, for the first step. A block has two linear layers: with one and nothing bent inside,
W x + x would be linear once more. All four ways have the same linear layers, in the same order.

Letters: N samples, F inputs, D = `width`, K classes.

    >>> model = deep(depth=30, residual=True, norm="batch")
    >>> model(torch.zeros(5, 64)).shape
    torch.Size([5, 10])
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from wellfit.errors import ModelError
from wellfit.models.layers import ACTIVATIONS, NORMS, head
from wellfit.models.layers import activation as bend
from wellfit.models.layers import norm as normalisation


def deep(
    *,
    depth: int = 30,
    width: int = 64,
    residual: bool = False,
    norm: str = "none",
    inputs: int = 64,
    outputs: int = 10,
    activation: str = "relu",
) -> nn.Sequential:
    """[N, ...] with `inputs` values a sample -> logits [N, K] with K = `outputs`, through `depth` linear layers.

    `depth` = 2 n + 2: one layer in, n blocks of two, one layer out. `norm` is one of `NORMS`, `activation` one of
    `ACTIVATIONS` in `layers.py`. Weights are drawn from torch's global generator.
    Raises ModelError for a depth that is odd or below 4, sizes below 1 and unknown names.
    """
    if depth < 4 or depth % 2:
        raise ModelError(
            f"`depth` is {depth}; it must be even and at least 4 (one layer in, blocks of two, one out). "
            f"Try {max(4, depth + 1)}."
        )
    if min(width, inputs, outputs) < 1:
        raise ModelError(
            f"`width` is {width}, `inputs` {inputs} and `outputs` {outputs}; all must be at least 1. Raise it."
        )
    if norm not in NORMS:
        raise ModelError(f"`norm` is {norm!r}; it can be {', '.join(NORMS)}. Choose one of those.")
    if activation not in ACTIVATIONS:
        raise ModelError(f"`activation` is {activation!r}; it can be {', '.join(ACTIVATIONS)}. Choose one of those.")

    def layer(F: int) -> list[nn.Module]:
        return [nn.Linear(F, width), normalisation(norm, width)]

    blocks = [
        Block(
            nn.Sequential(*layer(width), bend(activation), *layer(width)),
            bend(activation),
            residual,
        )
        for _ in range((depth - 2) // 2)
    ]
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            first=nn.Sequential(*layer(inputs), bend(activation)),
            blocks=nn.Sequential(*blocks),
            head=head(width, outputs),
        )
    )


class Block(nn.Module):
    """f(F(x)), or f(x + F(x)) if `residual`: [N, D] -> [N, D]."""

    def __init__(self, branch: nn.Sequential, bend: nn.Module, residual: bool):
        super().__init__()
        self.branch = branch
        self.bend = bend
        self.residual = residual

    def forward(self, x_ND: Tensor) -> Tensor:
        y_ND: Tensor = self.branch(x_ND)
        bent: Tensor = self.bend(x_ND + y_ND if self.residual else y_ND)
        return bent


def gradient_norms(model: nn.Module, x: Tensor, target_N: Tensor) -> list[float]:
    """The norm of the cross entropy's gradient by each linear layer's weight, first layer first; `.grad` is not touched.

    Weights [K, F] of one size compare as they are. Batch norm's running statistics move, as in any forward pass in training.
    """
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]
    loss = nn.functional.cross_entropy(model(x), target_N)
    return torch.stack([gradient.norm() for gradient in torch.autograd.grad(loss, weights)]).tolist()
