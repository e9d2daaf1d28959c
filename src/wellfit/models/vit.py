"""The Vision Transformer: an image is a text of patches (Dosovitskiy et al. 2021).

Cut the image into squares of P x P pixels, project each to D numbers, add where it was, and let a Transformer's encoder do
the rest. Nothing but the cut knows about images: what a convolution is given (near pixels belong together, a cat is a cat
anywhere) must be learnt here. So it takes more data than a ConvNet, and keeps gaining from more.

The answer is read from an extra *class token* that looks at all patches, as in the paper, or from their mean, which does as
well (appendix D.3; Beyer et al. 2022).

Letters: B images, C channels, H and W pixels, T patches (and the class token), D width.

    >>> model = ViT(image=32, patch=4, outputs=10, dim=64, layers=2, heads=4)
    >>> model(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 10])
"""

import math

import torch
from torch import Tensor, nn

from wellfit.errors import ModelError
from wellfit.models.layers import head
from wellfit.models.transformer import Stack, choose

POOLS = ("class", "mean")


class ViT(nn.Module):
    """Images [B, C, H, W] -> logits or numbers [B, outputs].

    `image` is the side in pixels, or (H, W); `patch` the side of a patch, which divides both. `pool` is "class" or "mean".
    The other options are `Stack`'s; the paper's are the defaults, but for its sizes: ViT-B/16 is image=224, patch=16,
    dim=768, layers=12, heads=12.

    Raises ModelError for a patch that does not divide the image, images of another shape, and what `Stack` refuses.
    """

    def __init__(
        self,
        image: int | tuple[int, int] = 32,
        patch: int = 4,
        channels: int = 3,
        outputs: int = 10,
        dim: int = 128,
        layers: int = 4,
        heads: int = 4,
        *,
        hidden: int | None = None,
        pool: str = "class",
        norm: str = "layer",
        mlp: str = "gelu",
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        self.image = (image, image) if isinstance(image, int) else image
        H, W = self.image
        if patch < 1 or H % patch or W % patch:
            divisors = [side for side in range(1, min(H, W) + 1) if H % side == 0 and W % side == 0]
            raise ModelError(f"`patch={patch}` does not divide the image of {H} x {W} pixels; it can be {divisors}.")
        self.pool = choose("pool", pool, POOLS)
        self.patches = nn.Conv2d(channels, dim, patch, stride=patch)  # kernel = stride: one projection of each patch
        # Normal with variance 1 / fan_in, so that patches of standardised pixels come out of unit variance.
        nn.init.normal_(self.patches.weight, std=1 / math.sqrt(channels * patch * patch))
        assert self.patches.bias is not None
        nn.init.zeros_(self.patches.bias)
        self.token = nn.Parameter(torch.zeros(dim)) if pool == "class" else None
        T = (H // patch) * (W // patch) + (pool == "class")
        self.stack = Stack(
            dim, layers, heads, hidden=hidden, max_length=T, norm=norm, mlp=mlp, dropout=dropout, bias=bias
        )
        self.head = head(dim, outputs)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if x_BCHW.shape[1:] != (self.patches.in_channels, *self.image):
            H, W = self.image
            raise ModelError(
                f"The images are {list(x_BCHW.shape)}, but this ViT was built for [B, {self.patches.in_channels}, {H}, {W}]; "
                "resize them, or build it with their `channels` and `image`."
            )
        x_BTD = self.patches(x_BCHW).flatten(2).mT
        if self.token is not None:
            x_BTD = torch.cat((self.token.expand(x_BTD.shape[0], 1, -1), x_BTD), 1)
        x_BTD = self.stack(x_BTD)
        out: Tensor = self.head(x_BTD[:, 0] if self.token is not None else x_BTD.mean(1))
        return out
