"""The multi-layer perceptron, from the neuron up (Rumelhart, Hinton & Williams 1986).

A *neuron* weighs its F inputs, adds a bias, and bends the sum: y = f(w . x + b). A *layer* is K neurons on the same
inputs: Y = f(X W^T + b), with X [N, F], W [K, F], b [K], Y [N, K]; that is one matrix product for a whole batch. A
*network* feeds each layer's outputs to the next. With one hidden layer and enough neurons it can come as close as one
likes to any continuous function (Cybenko 1989); more layers need fewer neurons for it.

Letters: N samples, F inputs, K outputs of a layer.

    >>> model = mlp(MLP(widths=(128, 128)), inputs=30, outputs=2)
    >>> model(torch.zeros(5, 30)).shape
    torch.Size([5, 2])
"""

import itertools
from collections import OrderedDict

from torch import nn

from wellfit.models.layers import activation, head, initialize, norm
from wellfit.recipe import MLP


def mlp(settings: MLP, inputs: int, outputs: int) -> nn.Sequential:
    """[N, ...] with `inputs` values a sample -> [N, outputs], logits or numbers."""
    widths = [inputs, *settings.widths]
    blocks = [layer(settings, F, K) for F, K in itertools.pairwise(widths)]
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            blocks=initialize(nn.Sequential(*blocks), settings.activation),
            head=head(widths[-1], outputs),
        )
    )


def layer(settings: MLP, F: int, K: int) -> nn.Sequential:
    """[N, F] -> [N, K]: weigh, normalise, bend, and silence a share of the units while training."""
    return nn.Sequential(
        nn.Linear(F, K),
        norm(settings.norm, K),
        activation(settings.activation),
        nn.Dropout(settings.dropout),
    )
