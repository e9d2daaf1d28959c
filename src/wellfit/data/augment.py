"""Random changes to training images and texts whose randomness is a pure function of (seed, epoch, sample).

No generator is advanced, so it does not matter which worker, rank or resumed process makes a batch, how it is cut, or which
other samples are in it: a sample of an epoch always gets the same change. The numbers come from a counter-based generator:
splitmix64 (Steele et al. 2014) applied to the counter, which passes BigCrush. A sample's partner in MixUp and CutMix is
drawn from the whole training set by the same counters, not from the batch, and so is as much its own as its shift.

Letters: N images of a chunk, C channels, H and W pixels, K classes; B texts of T tokens.

    >>> x = augment(images, indices, Augment(shift=2), seed=0, epoch=3)
    >>> x, shares = mixed(inputs, targets, indices, Augment(mixup=0.2), classes=10, seed=0, epoch=3)
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wellfit.recipe import Augment

FOR_IMAGES = ("shift", "flip", "crop", "rotate", "colour", "mixup", "cutmix")
FOR_TEXTS = ("delete", "swap")
FOR_BOXES = ("flip", "crop")  # of those for images: what boxes can go along with
GREY = (0.299, 0.587, 0.114)  # what red, green and blue add to brightness (ITU-R BT.601, as in torchvision)
MOST_TOKENS = 1 << 24  # counters of a text's tokens, before those of the next text begin

_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, splitmix64's increment

# Which of a sample's draws decides what. Numbers are never used twice, nor changed: old runs go on with them.
DOWN, RIGHT, MIRROR, AREA, RATIO, TOP, LEFT, ANGLE, BRIGHTNESS, CONTRAST, SATURATION = range(11)
PARTNER, SHARE, WHICH, BOX_ROW, BOX_COLUMN, DELETED, KEPT, FIRST, SECOND = range(11, 20)
PROPOSED = 20


def uniform(seed: int, epoch: int, samples: NDArray[np.int64], draw: int) -> NDArray[np.float64]:
    """One number in [0, 1) for each sample of [N]; `draw` tells the several numbers of one sample apart."""
    key = _mixed(_mixed(_mixed(np.uint64(seed)) ^ np.uint64(epoch)) ^ np.uint64(draw))
    return (_mixed(samples.astype(np.uint64) ^ key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def turned_on(settings: Augment, among: tuple[str, ...]) -> list[str]:
    """Which of these settings are not off."""
    return [name for name in among if getattr(settings, name) != Augment.model_fields[name].default]


# ---- images


def augment(images: Tensor, samples: Tensor, settings: Augment, *, seed: int, epoch: int) -> Tensor:
    """Images [N, C, H, W] of the given sample numbers [N], each changed by its own random amount.

    In order: crop and rotation in one interpolation, shift, mirror, colour. Crop, rotation and colour give float32, which
    rounds nothing; whole pixels moved keep their type.
    """
    numbers = samples.numpy()
    if settings.crop < 1 or settings.rotate:
        images = _cut_and_turned(images, numbers, settings, seed, epoch)
    if settings.shift:
        reach = 2 * settings.shift + 1
        down = (uniform(seed, epoch, numbers, DOWN) * reach).astype(np.int64)
        right = (uniform(seed, epoch, numbers, RIGHT) * reach).astype(np.int64)
        images = _cut(images, torch.from_numpy(down), torch.from_numpy(right), settings.shift)
    if settings.flip:
        mirror = torch.from_numpy(uniform(seed, epoch, numbers, MIRROR) < 0.5)
        images = torch.where(mirror[:, None, None, None], images.flip(-1), images)
    if settings.colour:
        low = 1 - settings.colour
        factors = [
            torch.from_numpy(low + 2 * settings.colour * uniform(seed, epoch, numbers, draw)).float()
            for draw in (BRIGHTNESS, CONTRAST, SATURATION)
        ]
        images = coloured(images, *factors)
    return images


def _cut(images: Tensor, down_N: Tensor, right_N: Tensor, margin: int) -> Tensor:
    """The window of the original size at (down, right) of each image after padding it with `margin` zeros."""
    N, _, H, W = images.shape
    padded = torch.nn.functional.pad(images, (margin,) * 4).permute(0, 2, 3, 1)
    rows = (down_N[:, None] + torch.arange(H))[:, :, None]
    columns = (right_N[:, None] + torch.arange(W))[:, None, :]
    return padded[torch.arange(N)[:, None, None], rows, columns].permute(0, 3, 1, 2).contiguous()


def _cut_and_turned(images: Tensor, numbers: NDArray[np.int64], settings: Augment, seed: int, epoch: int) -> Tensor:
    """A box of a random area and form (sides from 3:4 to 4:3, as Szegedy et al. 2015), at a random place and angle.

    A box that would be longer than the image is cut to it.
    """
    _, _, H, W = images.shape
    u = {draw: uniform(seed, epoch, numbers, draw) for draw in (AREA, RATIO, TOP, LEFT, ANGLE)}
    area = settings.crop + (1 - settings.crop) * u[AREA]  # as a share of the image's
    ratio = np.exp((2 * u[RATIO] - 1) * math.log(4 / 3)) if settings.crop < 1 else np.ones(len(numbers))
    height, width = np.minimum(np.sqrt(area / ratio), 1) * H, np.minimum(np.sqrt(area * ratio), 1) * W
    angle = (2 * u[ANGLE] - 1) * math.radians(settings.rotate)
    parts = (u[TOP] * (H - height), u[LEFT] * (W - width), height, width, angle)
    return warped(images, *(torch.from_numpy(part) for part in parts))


def warped(images: Tensor, top_N: Tensor, left_N: Tensor, height_N: Tensor, width_N: Tensor, angle_N: Tensor) -> Tensor:
    """float32 [N, C, H, W]: of each image the box (in pixels), turned by the angle (radians), brought to H x W.

    Bilinear, with zeros outside the image.
    """
    _, _, H, W = images.shape
    # grid_sample's coordinates go from -1 to 1 over the image. A pixel (x, y) of the result, in -1 to 1 too, is turned as
    # pixels of the box turn, which for boxes that are not square needs the ratio of their sides.
    across, down = width_N / W, height_N / H
    middle_x, middle_y = (2 * left_N + width_N) / W - 1, (2 * top_N + height_N) / H - 1
    cos, sin = angle_N.cos(), angle_N.sin()
    theta = torch.stack([
        torch.stack([across * cos, -sin * height_N / W, middle_x], -1),
        torch.stack([sin * width_N / H, down * cos, middle_y], -1),
    ], 1).float()  # fmt: skip
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images.float(), grid, mode="bilinear", align_corners=False)


def coloured(images: Tensor, brightness_N: Tensor, contrast_N: Tensor, saturation_N: Tensor) -> Tensor:
    """float32 [N, C, H, W] in 0 to 255, blended as torchvision's `adjust_brightness`, `_contrast` and `_saturation` do.

    That is by factor times the image and the rest of black, of its mean grey, of its own grey. Grey images have no colour
    to saturate.
    """
    brightness, contrast, saturation = (f[:, None, None, None] for f in (brightness_N, contrast_N, saturation_N))
    x = (images.float() * brightness).clamp(0, 255)
    x = (x * contrast + _grey(x).mean((-3, -2, -1), keepdim=True) * (1 - contrast)).clamp(0, 255)
    if images.shape[1] == 3:
        x = (x * saturation + _grey(x) * (1 - saturation)).clamp(0, 255)
    return x


def _grey(x: Tensor) -> Tensor:
    """[N, 1, H, W]."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * torch.tensor(GREY)[:, None, None]).sum(1, keepdim=True)


# ---- two images in one


def mixed(
    inputs: Tensor, targets: Tensor, samples: Tensor, settings: Augment, *, classes: int, seed: int, epoch: int
) -> tuple[Tensor, Tensor]:
    """The samples [N] of a whole set, augmented and each mixed with its partner: float32 [N, C, H, W], shares [N, K].

    `inputs` [M, C, H, W] and `targets` [M] are the whole training set: a partner can be any sample of it, and comes
    augmented as it is when its own turn comes in this epoch. `shares` are probabilities of the classes.
    """
    numbers = samples.numpy()
    partners = torch.from_numpy((uniform(seed, epoch, numbers, PARTNER) * len(inputs)).astype(np.int64))
    x, y = (augment(inputs[n], n, settings, seed=seed, epoch=epoch).float() for n in (samples, partners))
    share = uniform(seed, epoch, numbers, SHARE)
    both = bool(settings.mixup and settings.cutmix)
    pasting = uniform(seed, epoch, numbers, WHICH) < 0.5 if both else np.full(len(numbers), bool(settings.cutmix))
    kept_N = torch.zeros(len(numbers))
    for chosen, alpha, way in ((~pasting, settings.mixup, blended), (pasting, settings.cutmix, pasted)):
        if not chosen.any():
            continue
        rows = torch.from_numpy(chosen)
        kept = torch.from_numpy(_beta(alpha, share[chosen])).float()
        row, column = (
            torch.from_numpy(uniform(seed, epoch, numbers[chosen], draw)).float() for draw in (BOX_ROW, BOX_COLUMN)
        )
        x[rows], kept_N[rows] = way(x[rows], y[rows], kept, row, column)
    own, other = (torch.nn.functional.one_hot(targets[n], classes).float() for n in (samples, partners))
    return x, torch.lerp(other, own, kept_N[:, None])


def blended(x: Tensor, y: Tensor, kept_N: Tensor, _row: Tensor, _column: Tensor) -> tuple[Tensor, Tensor]:
    """MixUp (Zhang et al. 2018, equation 2): kept x + (1 - kept) y, and the share that was kept."""
    return torch.lerp(y, x, kept_N[:, None, None, None]), kept_N


def pasted(x: Tensor, y: Tensor, kept_N: Tensor, row_N: Tensor, column_N: Tensor) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al. 2019, equations 1 and 2): a box of 1 - kept of the area is y's, and the share that stayed x's.

    The box's middle is at (row, column), in shares of the sides; what would stick out is cut off, so more may stay.
    """
    _, _, H, W = x.shape
    side_N = (1 - kept_N).sqrt()
    inside = []
    for size, middle in ((H, row_N), (W, column_N)):
        middle, half = (middle * size).floor(), (side_N * size).floor() / 2
        low, high = (middle - half).floor().clamp(0, size), (middle + half).floor().clamp(0, size)
        place = torch.arange(size)
        inside.append((place >= low[:, None]) & (place < high[:, None]))
    box = inside[0][:, :, None] & inside[1][:, None, :]
    return torch.where(box[:, None], y, x), 1 - box.float().mean((1, 2))


def _beta(alpha: float, share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) -> numbers by Beta(alpha, alpha), through the inverse of its distribution function."""
    from scipy.special import betaincinv

    return np.asarray(betaincinv(alpha, alpha, share), dtype=np.float64)


# ---- texts


def shortened(sequences: list[Tensor], samples: Tensor, settings: Augment, *, seed: int, epoch: int) -> list[Tensor]:
    """Token sequences int64 [T] of the given sample numbers [B], with tokens swapped and left out at random.

    As Wei & Zou 2019 do with words: round(`swap` x T) times two places change their tokens, then each token goes with
    probability `delete`; if none would stay, one does.
    """
    out = []
    for sequence, sample in zip(sequences, samples.tolist(), strict=True):
        T = len(sequence)
        counters = sample * MOST_TOKENS + np.arange(max(T, 1))
        if settings.swap and T > 1:
            swaps = round(settings.swap * T)
            pairs = [(uniform(seed, epoch, counters[:swaps], draw) * T).astype(np.int64) for draw in (FIRST, SECOND)]
            sequence = sequence.clone()
            for i, j in zip(*(p.tolist() for p in pairs), strict=True):
                sequence[[i, j]] = sequence[[j, i]]
        if settings.delete and T > 1:
            stays = torch.from_numpy(uniform(seed, epoch, counters, DELETED) >= settings.delete)
            if not stays.any():
                stays[int(uniform(seed, epoch, counters[:1], KEPT)[0] * T)] = True
            sequence = sequence[stays]
        out.append(sequence)
    return out


def _mixed(value: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """splitmix64's output function; arithmetic is modulo 2**64."""
    z = np.asarray(value, dtype=np.uint64) + np.asarray(_GOLDEN, dtype=np.uint64)
    z = (z ^ (z >> np.uint64(30))) * np.asarray(0xBF58476D1CE4E5B9, dtype=np.uint64)
    z = (z ^ (z >> np.uint64(27))) * np.asarray(0x94D049BB133111EB, dtype=np.uint64)
    return z ^ (z >> np.uint64(31))
