"""AlexNet, which began the deep years of vision, for images of many sizes (Krizhevsky, Sutskever & Hinton 2012).

LeNet's plan at the scale of ImageNet: five convolutions and three dense layers, made trainable by a handful of choices
that outlived it:

- ReLU instead of tanh: its slope does not fade for large inputs, so it trained six times faster (section 3.1, figure 1).
- Dropout in the first two dense layers, where most weights are: units cannot rely on each other (section 4.2).
- Pools of 3 x 3 pixels every 2, which overlap, and so lose a little less of where things are (section 3.4).
- Local response normalisation (section 3.3): a unit is damped by strong neighbours in the 5 nearest channels. Later nets
  found no use for it (Simonyan & Zisserman 2015), so it is off here unless asked.
- Two GPUs of 3 GB, hence channels in two halves that met only now and then (section 3.5). Gone: one device holds all.

What is scaled: the paper's first layer (11 x 11 every 4 pixels) makes 55 x 55 places of 224 x 224 pixels; the same on
32 x 32 would leave 7 x 7 and nothing after two pools. So the first kernel and stride shrink with the image (`stem`): 32
and 64 pixels alike come to 32 x 32 places, and to 3 x 3 before the dense layers. The defaults have the channels of
Krizhevsky 2014 and 1,024 dense units; the paper's own are channels=(96, 256, 384, 384, 256) and hidden=4096.
Weights start by He et al. 2015 (variance 2 / fan_in), not with the paper's std of 0.01, which shrinks the signal three- to
sevenfold a convolution (by sqrt(fan_in / 2) / 100).

Letters: N samples, C channels, H and W pixels, K classes.

    >>> model = alexnet(shape=(3, 32, 32), outputs=10)
    >>> model(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 10])
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from wellfit.errors import ModelError
from wellfit.models.convnet import output_size
from wellfit.models.layers import head, initialize

SMALLEST = 15  # pixels a side: three pools of 3 every 2 leave one


def alexnet(
    *,
    shape: Sequence[int] = (3, 32, 32),
    outputs: int = 10,
    channels: Sequence[int] = (64, 192, 384, 256, 256),
    hidden: int = 1024,
    dropout: float = 0.5,
    response_norm: bool = False,
) -> nn.Sequential:
    """[N, C, H, W] with `shape` = (C, H, W), both sides from 15 pixels up -> logits [N, K] with K = `outputs`.

    `channels` are those of the five convolutions, `hidden` the units of either dense layer, `dropout` the share of their
    inputs that is silenced in training. Weights are drawn from torch's global generator.
    Raises ModelError for a shape that is not an image's or too small, and for sizes or shares out of range.
    """
    if len(shape) != 3 or min(shape) < 1 or min(shape[1:]) < SMALLEST:
        raise ModelError(
            f"`shape` is {list(shape)}; AlexNet takes images as (channels, height, width) of at least {SMALLEST} x {SMALLEST} "
            "pixels. Enlarge the images, or use LeNet, which takes smaller ones."
        )
    if len(channels) != 5 or min(channels) < 1:
        raise ModelError(
            f"`channels` is {list(channels)}; it must be five numbers of at least 1. Give one for each convolution."
        )
    if outputs < 1 or hidden < 1:
        raise ModelError(f"`outputs` is {outputs} and `hidden` {hidden}; both must be at least 1. Raise what is not.")
    if not 0 <= dropout < 1:
        raise ModelError(f"`dropout` is {dropout}; it must be at least 0 and below 1. The paper has 0.5.")

    C, *sides = shape
    C1, C2, C3, C4, C5 = channels
    kernel, stride, padding = stem(min(sides))
    features = nn.Sequential(
        OrderedDict(
            stage1=stage(nn.Conv2d(C, C1, kernel, stride, padding), response_norm, pool=True),
            stage2=stage(nn.Conv2d(C1, C2, 5, padding=2), response_norm, pool=True),
            stage3=stage(nn.Conv2d(C2, C3, 3, padding=1), norm=False, pool=False),
            stage4=stage(nn.Conv2d(C3, C4, 3, padding=1), norm=False, pool=False),
            stage5=stage(nn.Conv2d(C4, C5, 3, padding=1), norm=False, pool=True),
        )
    )
    H, W = (output_size(side, kernel, stride, padding) for side in sides)
    for _ in range(3):
        H, W = output_size(H, 3, 2), output_size(W, 3, 2)
    dense = nn.Sequential(
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(C5 * H * W, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
    )
    return nn.Sequential(
        OrderedDict(
            features=initialize(features, "relu"),
            dense=initialize(dense, "relu"),
            head=head(hidden, outputs),
        )
    )


def stem(side: int) -> tuple[int, int, int]:
    """Kernel, stride and padding of the first convolution for images whose shorter side has `side` pixels.

    The paper's 11 and 4 from 128 pixels on; below, what leaves about 32 places a side for the three pools to come.
    """
    if side >= 128:
        return 11, 4, 2
    return (7, 2, 3) if side >= 48 else (5, 1, 2)


def stage(convolution: nn.Conv2d, norm: bool, pool: bool) -> nn.Sequential:
    """[N, C_in, H, W] -> [N, C_out, H', W'], with H' = floor((H - 3) / 2) + 1 after a pool: convolve, bend, damp, shrink."""
    layers: list[nn.Module] = [convolution, nn.ReLU()]
    if norm:
        # b = a / (k + alpha' sum a^2)^beta over n channels (section 3.3: k 2, alpha' 1e-4, beta 0.75, n 5). Torch divides its
        # alpha by n, the paper does not.
        layers.append(nn.LocalResponseNorm(size=5, alpha=5e-4, beta=0.75, k=2.0))
    if pool:
        layers.append(nn.MaxPool2d(3, stride=2))
    return nn.Sequential(*layers)
