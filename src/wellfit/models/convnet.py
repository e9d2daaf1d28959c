"""A plain convolutional network, after VGG (Simonyan & Zisserman 2015) with batch norm (Ioffe & Szegedy 2015).

A convolution slides one small set of weights over the image, so what is learnt in one place is known in all, and a 3x3
kernel needs 9 C weights per output channel instead of H W C. Two 3x3 layers see 5x5 pixels with fewer weights than one 5x5
layer and bend twice. Between blocks the resolution is halved and the channels grow: less about where, more about what.

Letters: N samples, C channels, H and W pixels.

    >>> model = convnet(ConvNet(channels=(32, 64)), channels=1, outputs=10)
    >>> model(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 10])
"""

import itertools
from collections import OrderedDict

from torch import Tensor, nn

from wellfit.models.layers import activation, head, initialize
from wellfit.recipe import ConvNet


def convnet(settings: ConvNet, channels: int, outputs: int) -> nn.Sequential:
    """[N, C, H, W] with `channels` channels and any size from 4 pixels up -> logits [N, outputs]."""
    widths = [channels, *settings.channels]
    pairs = itertools.pairwise(widths)
    blocks = nn.Sequential(*(block(settings, C_in, C_out, halve=i > 0) for i, (C_in, C_out) in enumerate(pairs)))
    return nn.Sequential(
        OrderedDict(
            blocks=initialize(blocks, settings.activation),
            pool=Quarters(),  # [N, C, 2, 2]: roughly where in the image, for a handful of weights
            flatten=nn.Flatten(),
            dropout=nn.Dropout(settings.dropout),
            head=head(4 * widths[-1], outputs),
        )
    )


def block(settings: ConvNet, C_in: int, C_out: int, halve: bool) -> nn.Sequential:
    """[N, C_in, H, W] -> [N, C_out, H, W], or [N, C_out, H // 2, W // 2] (an odd pixel is kept) if it halves."""
    layers: list[nn.Module] = [nn.MaxPool2d(2, ceil_mode=True)] if halve else []
    for C in (C_in, C_out):
        # Batch norm subtracts the mean, so a bias before it would be without effect.
        layers += [
            nn.Conv2d(C, C_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(C_out),
            activation(settings.activation),
        ]
    return nn.Sequential(*layers)


class Quarters(nn.Module):
    """[N, C, H, W] -> [N, C, 2, 2]: the mean of each quarter; a middle row or column counts in both halves.

    The same as `nn.AdaptiveAvgPool2d(2)`, whose backward pass on CUDA adds in a random order, so that torch refuses it
    where only deterministic kernels are allowed.
    """

    def forward(self, x: Tensor) -> Tensor:
        H, W = (max(2, side) for side in x.shape[-2:])
        x = x.expand(-1, -1, H, W)  # one pixel is all its quarters
        return nn.functional.avg_pool2d(x, kernel_size=((H + 1) // 2, (W + 1) // 2), stride=(H // 2, W // 2))


def output_size(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """How many places a kernel has along a side of `size` pixels: floor((size + 2 p - d (k - 1) - 1) / s) + 1."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
