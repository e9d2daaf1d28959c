"""LeNet-5, the network that read cheques (LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to
document recognition", section II).

The idea: an image is local and a stroke is the same stroke wherever it lies. So a unit looks at 5 x 5 pixels only (local
receptive fields), all units of a map share their weights (which makes a convolution), and maps are shrunk on the way, so
that what was found matters more than exactly where. Edges, then parts, then digits, all learnt from pixels by gradients.

What the paper had and this file reads in today's way:

- S2 and S4 were not plain pools: each map summed four pixels, times one learnt coefficient, plus one learnt bias, through
  a sigmoid. The next convolution has weights and biases anyway, so a pool without any is left here.
- C3 joined each of its 16 maps with only some of the 6 before (a table that broke symmetry and saved multiplications);
  here with all, as hardware now prefers.
- Units bent by 1.7159 tanh(2 x / 3), chosen so that f(1) = 1; here by ReLU, or by tanh if asked.
- The outputs were radial basis functions: the squared distance of the 84 units of F6 to a 7 x 12 drawing of each
  character, small for the right class. Here they are logits of a softmax, whose loss pushes wrong classes away too.

With 28 x 28 pixels (C1 pads them to the paper's 32 x 32) the maps are the paper's: 6 of 28 x 28, 6 of 14 x 14, 16 of
10 x 10, 16 of 5 x 5, then 120, 84 and the classes. It had 60,000 weights; this one has 61,706.

Letters: N samples, C channels, H and W pixels, K classes.

    >>> model = lenet(shape=(1, 28, 28), outputs=10)
    >>> model(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from wellfit.errors import ModelError
from wellfit.models.convnet import output_size
from wellfit.models.layers import ACTIVATIONS, head, initialize
from wellfit.models.layers import activation as bend

POOLS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d}
SMALLEST = 4  # pixels a side: two pools leave one


def lenet(
    *, shape: Sequence[int] = (1, 28, 28), outputs: int = 10, activation: str = "relu", pool: str = "max"
) -> nn.Sequential:
    """[N, C, H, W] with `shape` = (C, H, W), both sides from 4 pixels up -> logits [N, K] with K = `outputs`.

    `activation="tanh", pool="average"` comes closer to 1998. Weights are drawn from torch's global generator.
    Raises ModelError for a shape that is not an image's or too small, fewer than one output, or an unknown name.
    """
    if len(shape) != 3 or min(shape) < 1 or min(shape[1:]) < SMALLEST:
        raise ModelError(
            f"`shape` is {list(shape)}; LeNet takes images as (channels, height, width) of at least {SMALLEST} x {SMALLEST} "
            "pixels. Enlarge the images, or use an MLP."
        )
    if outputs < 1:
        raise ModelError(f"`outputs` is {outputs}; it must be at least 1. Give the number of classes.")
    if activation not in ACTIVATIONS:
        raise ModelError(f"`activation` is {activation!r}; it can be {', '.join(ACTIVATIONS)}. Choose one of those.")
    if pool not in POOLS:
        raise ModelError(f"`pool` is {pool!r}; it can be {', '.join(POOLS)}. Choose one of those.")

    C, *sides = shape
    # Under 12 pixels C3 would eat the whole map (5 x 5 on less than 6 x 6 leaves no 2 x 2 to pool), so it pads as well.
    padding = 0 if min(sides) >= 12 else 2
    H, W = (output_size(side // 2, kernel=5, padding=padding) // 2 for side in sides)
    features = nn.Sequential(
        OrderedDict(
            c1=nn.Conv2d(C, 6, 5, padding=2),  # [N, 6, H, W]
            f1=bend(activation),
            s2=POOLS[pool](2),  # [N, 6, H/2, W/2]
            c3=nn.Conv2d(6, 16, 5, padding=padding),
            f3=bend(activation),
            s4=POOLS[pool](2),
            flatten=nn.Flatten(),
            c5=nn.Linear(16 * H * W, 120),  # in the paper a convolution whose kernel covers the whole map: the same
            f5=bend(activation),
            f6=nn.Linear(120, 84),
            bend6=bend(activation),
        )
    )
    return nn.Sequential(OrderedDict(features=initialize(features, activation), head=head(84, outputs)))
