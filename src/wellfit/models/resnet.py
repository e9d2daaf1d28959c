"""Residual networks (He, Zhang, Ren & Sun 2016, "Deep residual learning for image recognition").

The paper begins with a riddle: a plain net of 56 layers has a higher *training* error than one of 20, although it could
copy the 20 and let the rest do nothing (figure 1). Doing nothing, it turns out, is hard to learn for a stack of weights.
So make it the default: a block outputs f(x + F(x)), and its weights learn only the difference F from the identity
(equation 1). Where nothing is to be done, F goes to zero; and in the backward pass the `+` hands the gradient to earlier
layers undiminished.

- *Basic* block: F is two 3 x 3 convolutions (18 and 34 layers, and all of CIFAR's).
- *Bottleneck* block: 1 x 1 down to a quarter of the channels, 3 x 3 there, 1 x 1 up again; as costly as a basic block with
  four times the channels (50 layers and more). The stride sits in the 3 x 3, not in the first 1 x 1 as in the paper, which
  would skip three of four pixels unseen; so do torchvision and Goyal et al. 2017.
- Where the resolution halves and the channels grow, x needs a new shape: *padding* takes every second pixel and fills up
  with channels of zeros (the paper's option A, no weights), *projection* is a learnt 1 x 1 convolution (option B).

Two families, as in the paper: `resnet` for large images (table 1) starts with a 7 x 7 convolution and a pool, which leave a
quarter of the side; `cifar_resnet` (section 4.2) for images of about 32 x 32 starts with one 3 x 3 convolution, has 16, 32
and 64 channels and 6 n + 2 layers.

Letters: N samples, C channels, H and W pixels, K classes.

    >>> model = cifar_resnet(depth=20, outputs=10)
    >>> model(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 10])
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from wellfit.errors import ModelError
from wellfit.models.layers import head, initialize

# ---- the two families


def resnet(
    *,
    depth: int = 18,
    channels: int = 3,
    outputs: int = 1000,
    shortcut: str = "projection",
    zero_init: bool = False,
) -> nn.Sequential:
    """[N, C, H, W] with C = `channels`, about 224 x 224 pixels (any size runs) -> logits [N, K] with K = `outputs`.

    `depth` is one of the paper's: 18, 34, 50, 101, 152 (table 1). `shortcut` is "projection" or "padding". `zero_init` lets
    every block begin as the identity: the gain of its last norm starts at 0 (Goyal et al. 2017, 5.1), which steadies the
    first steps of large batches. Weights are drawn from torch's global generator.
    Raises ModelError for an unknown depth or shortcut and for sizes below 1.
    """
    if depth not in DEPTHS:
        raise ModelError(
            f"`depth` is {depth}; a ResNet for large images has {', '.join(map(str, DEPTHS))} layers. Choose one of those, or "
            "`cifar_resnet` for images of about 32 x 32 pixels."
        )
    check_sizes(channels, outputs)
    branch, counts = DEPTHS[depth]
    stem = nn.Sequential(
        nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    blocks = stack(branch, counts, C_in=64, width=64, shortcut=shortcut)
    return assemble(stem, blocks, 512 * GROWTH[branch], outputs, zero_init)


def cifar_resnet(
    *,
    depth: int = 20,
    channels: int = 3,
    outputs: int = 10,
    shortcut: str = "padding",
    zero_init: bool = False,
) -> nn.Sequential:
    """[N, C, H, W] with C = `channels`, about 32 x 32 pixels and any size from 1 up -> logits [N, K] with K = `outputs`.

    `depth` = 6 n + 2: three stages of n basic blocks; the paper has 20, 32, 44, 56, 110. The rest as in `resnet`, but that
    shortcuts are "padding" unless asked, as in the paper, so that they cost no weights.
    Raises ModelError for a depth that is not 6 n + 2, an unknown shortcut and sizes below 1.
    """
    n, rest = divmod(depth - 2, 6)
    if n < 1 or rest:
        lower = 6 * max(1, n) + 2
        raise ModelError(
            f"`depth` is {depth}; a ResNet for small images has 6 n + 2 layers (8, 14, 20, 26, 32, 38, 44, 50, 56, ...). "
            f"Try {lower} or {lower + 6}."
        )
    check_sizes(channels, outputs)
    stem = nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
    )
    return assemble(stem, stack(basic, (n, n, n), C_in=16, width=16, shortcut=shortcut), 64, outputs, zero_init)


def check_sizes(channels: int, outputs: int) -> None:
    """Raises ModelError for sizes below 1."""
    if channels < 1 or outputs < 1:
        raise ModelError(
            f"`channels` is {channels} and `outputs` {outputs}; both must be at least 1. Give the channels of the images "
            "(3 for colour) and the number of classes."
        )


# ---- what they are made of


class Residual(nn.Module):
    """x -> ReLU(shortcut(x) + branch(x)): [N, C_in, H, W] -> [N, C_out, H / stride, W / stride]."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Module):
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.shortcut(x) + self.branch(x))


def basic(C_in: int, C: int, stride: int) -> nn.Sequential:
    """F of the basic block: [N, C_in, H, W] -> [N, C, H / stride, W / stride]."""
    return nn.Sequential(
        # Batch norm subtracts the mean, so a bias before it would be without effect.
        nn.Conv2d(C_in, C, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(C),
        nn.ReLU(),
        nn.Conv2d(C, C, 3, padding=1, bias=False),
        nn.BatchNorm2d(C),  # no ReLU here: F must be able to be negative
    )


def bottleneck(C_in: int, C: int, stride: int) -> nn.Sequential:
    """F of the bottleneck block: [N, C_in, H, W] -> [N, 4 C, H / stride, W / stride]."""
    return nn.Sequential(
        nn.Conv2d(C_in, C, 1, bias=False),
        nn.BatchNorm2d(C),
        nn.ReLU(),
        nn.Conv2d(C, C, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(C),
        nn.ReLU(),
        nn.Conv2d(C, 4 * C, 1, bias=False),
        nn.BatchNorm2d(4 * C),
    )


Branch = Callable[[int, int, int], nn.Sequential]
GROWTH: dict[Branch, int] = {basic: 1, bottleneck: 4}  # channels that leave a block, over those it is named by
DEPTHS: dict[int, tuple[Branch, tuple[int, ...]]] = {
    18: (basic, (2, 2, 2, 2)),
    34: (basic, (3, 4, 6, 3)),
    50: (bottleneck, (3, 4, 6, 3)),
    101: (bottleneck, (3, 4, 23, 3)),
    152: (bottleneck, (3, 8, 36, 3)),
}


class PadChannels(nn.Module):
    """[N, C_in, H, W] -> [N, C_out, H / stride, W / stride]: every `stride`-th pixel, and zeros for the new channels.

    The new channels lie half before and half after the old ones; the paper does not say where.
    """

    def __init__(self, C_in: int, C_out: int, stride: int):
        super().__init__()
        self.stride = stride
        self.before = (C_out - C_in) // 2
        self.after = C_out - C_in - self.before

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return nn.functional.pad(x, (0, 0, 0, 0, self.before, self.after))


def project(C_in: int, C_out: int, stride: int) -> nn.Sequential:
    """[N, C_in, H, W] -> [N, C_out, H / stride, W / stride] by learnt weights (equation 2)."""
    return nn.Sequential(nn.Conv2d(C_in, C_out, 1, stride, bias=False), nn.BatchNorm2d(C_out))


SHORTCUTS: dict[str, Callable[[int, int, int], nn.Module]] = {"projection": project, "padding": PadChannels}


def stack(branch: Branch, counts: Sequence[int], *, C_in: int, width: int, shortcut: str) -> nn.Sequential:
    """All blocks, stage after stage; each stage but the first begins by halving the sides and doubles the channels."""
    if shortcut not in SHORTCUTS:
        raise ModelError(f"`shortcut` is {shortcut!r}; it can be {', '.join(SHORTCUTS)}. Choose one of those.")
    blocks: list[nn.Module] = []
    for stage, count in enumerate(counts):
        C = width * 2**stage
        C_out = C * GROWTH[branch]
        for position in range(count):
            stride = 2 if stage > 0 and position == 0 else 1
            same = stride == 1 and C_in == C_out
            way = nn.Identity() if same else SHORTCUTS[shortcut](C_in, C_out, stride)
            blocks.append(Residual(branch(C_in, C, stride), way))
            C_in = C_out
    return nn.Sequential(*blocks)


class Mean(nn.Module):
    """[N, C, H, W] -> [N, C]: each channel's mean, so that any image size fits the head (Lin et al. 2014)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1))


def assemble(stem: nn.Module, blocks: nn.Sequential, features: int, outputs: int, zero_init: bool) -> nn.Sequential:
    """Stem, blocks, mean and head, with weights by He et al. 2015."""
    initialize(stem, "relu")
    initialize(blocks, "relu")
    if zero_init:
        for block in blocks:
            assert isinstance(block, Residual)
            last = block.branch[-1]
            assert isinstance(last, nn.BatchNorm2d)
            nn.init.zeros_(last.weight)
    return nn.Sequential(OrderedDict(stem=stem, blocks=blocks, pool=Mean(), head=head(features, outputs)))
