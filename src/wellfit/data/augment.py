"""Random changes to a batch of images whose randomness is a pure function of (seed, epoch, sample).

No generator is advanced, so it does not matter which worker, rank or resumed process makes a batch, or which other samples
are in it: a sample of an epoch always gets the same change. The numbers come from a counter-based generator: splitmix64
(Steele et al. 2014) applied to the counter, which passes BigCrush.

    >>> x = augment(images, indices, Augment(shift=2), seed=0, epoch=3)
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wellfit.recipe import Augment

_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, splitmix64's increment


def uniform(seed: int, epoch: int, samples: NDArray[np.int64], draw: int) -> NDArray[np.float64]:
    """One number in [0, 1) for each sample of [N]; `draw` tells the several numbers of one sample apart."""
    key = _mixed(_mixed(_mixed(np.uint64(seed)) ^ np.uint64(epoch)) ^ np.uint64(draw))
    return (_mixed(samples.astype(np.uint64) ^ key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def augment(images: Tensor, samples: Tensor, settings: Augment, *, seed: int, epoch: int) -> Tensor:
    """Images [N, C, H, W] of the given sample numbers [N], each shifted and flipped by its own random amount."""
    numbers = samples.numpy()
    if settings.shift:
        reach = 2 * settings.shift + 1
        down = (uniform(seed, epoch, numbers, 0) * reach).astype(np.int64)
        right = (uniform(seed, epoch, numbers, 1) * reach).astype(np.int64)
        images = _cut(images, torch.from_numpy(down), torch.from_numpy(right), settings.shift)
    if settings.flip:
        mirror = torch.from_numpy(uniform(seed, epoch, numbers, 2) < 0.5)
        images = torch.where(mirror[:, None, None, None], images.flip(-1), images)
    return images


def _cut(images: Tensor, down_N: Tensor, right_N: Tensor, margin: int) -> Tensor:
    """The window of the original size at (down, right) of each image after padding it with `margin` zeros."""
    N, _, H, W = images.shape
    padded = torch.nn.functional.pad(images, (margin,) * 4).permute(0, 2, 3, 1)
    rows = (down_N[:, None] + torch.arange(H))[:, :, None]
    columns = (right_N[:, None] + torch.arange(W))[:, None, :]
    return padded[torch.arange(N)[:, None, None], rows, columns].permute(0, 3, 1, 2).contiguous()


def _mixed(value: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """splitmix64's output function; arithmetic is modulo 2**64."""
    z = np.asarray(value, dtype=np.uint64) + np.asarray(_GOLDEN, dtype=np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.asarray(0xBF58476D1CE4E5B9, dtype=np.uint64)
    z = (z ^ (z >> np.uint64(27))) * np.asarray(0x94D049BB133111EB, dtype=np.uint64)
    return z ^ (z >> np.uint64(31))
