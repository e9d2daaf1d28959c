"""Digits to be found: scikit-learn's handwritten digits, enlarged and laid out on black canvases. No download.

A canvas has one to four digits of 14 to 28 pixels; a digit's box is that of its ink. Each part of the data draws from digits
of its own, so that no digit is trained on and asked for. Where a digit goes is a pure function of (split seed, part,
canvas, try): a place is tried again until no box overlaps another by more than `MOST_OVERLAP`, and given up after 20 tries.

    >>> images, boxes, labels = draw(digits, labels, count=10, seed=0)
"""

import itertools

import numpy as np
import torch
from torch import Tensor

from wellfit.data import embedded
from wellfit.data.augment import uniform
from wellfit.data.split import split
from wellfit.recipe import Data

NAME = "digits-on-canvas"
CLASSES = tuple(map(str, range(10)))
SIDE = 64  # pixels of a canvas
CANVASES = 1000  # in all parts together
MOST, SMALLEST, LARGEST = 4, 16, 30  # digits on a canvas, and pixels of a digit's square
MOST_OVERLAP = 0.1  # intersection over union of two boxes
TRIES = 20

Drawn = tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]


def parts(data: Data) -> dict[str, Drawn]:
    """(images uint8 [1, 64, 64], boxes float32 [n, 4], labels int64 [n]) of each part, drawn from digits of its own."""
    whole = embedded.digits().arrays
    numbers, counts, pools = torch.arange(len(whole)), {"train": CANVASES}, {}
    test_share = embedded.TEST_SHARE if data.test_share is None else data.test_share
    for part, share in (("test", test_share), ("valid", data.valid_share)):
        if share:
            what = "validation" if part == "valid" else part
            numbers, pools[part] = split(
                numbers, whole.targets, share, seed=data.split_seed, what=what, stratify=True, names=CLASSES
            )  # fmt: skip
            counts[part] = max(1, round(share * counts["train"]))
            counts["train"] -= counts[part]
    pools["train"] = numbers
    made = {}
    for salt, part in enumerate(("train", "valid", "test")):
        if part in pools:
            chosen = whole.take(pools[part])
            made[part] = draw(chosen.inputs[:, 0], chosen.targets, counts[part], 3 * data.split_seed + salt)
    return made


def draw(digits: Tensor, labels: Tensor, count: int, seed: int) -> Drawn:
    """`count` canvases from digits uint8 [N, 8, 8] of 0 to 16 and their labels [N]."""
    draws = itertools.count()

    def numbers() -> np.ndarray:
        return uniform(seed, 0, np.arange(count), next(draws))

    ink = digits.double() * (255 / 16)
    many = 1 + (numbers() * MOST).astype(int)
    # One row of numbers for every digit and try, whether it is needed or not: a canvas depends on its own number alone.
    rolls = np.stack([[[numbers() for _ in range(4)] for _ in range(TRIES)] for _ in range(MOST)])
    images, boxes, names = [], [], []
    for canvas in range(count):
        image, found, told = torch.zeros(SIDE, SIDE, dtype=torch.uint8), torch.zeros(0, 4), []
        for digit in range(many[canvas]):
            for which, large, down, right in rolls[digit, :, :, canvas]:
                one = int(which * len(digits))
                size = SMALLEST + int(large * (LARGEST - SMALLEST + 1))
                tile = torch.nn.functional.interpolate(ink[one][None, None], (size, size), mode="bilinear")[0, 0]
                tile = tile.round().to(torch.uint8)
                top, left = int(down * (SIDE - size + 1)), int(right * (SIDE - size + 1))
                box = _extent(tile) + torch.tensor([left, top, left, top])
                if len(found) and float(_overlaps(box, found).max()) > MOST_OVERLAP:
                    continue
                patch = image[top : top + size, left : left + size]
                torch.maximum(patch, tile, out=patch)
                found = torch.cat([found, box[None]])
                told.append(int(labels[one]))
                break
        images.append(image[None])
        boxes.append(found)
        names.append(torch.tensor(told, dtype=torch.int64))
    return tuple(images), tuple(boxes), tuple(names)


def _extent(tile: Tensor) -> Tensor:
    """The box of what is brighter than a quarter, float32 [4]."""
    rows, columns = torch.where(tile > 64)
    return torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()


def _overlaps(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of a box [4] with others [n, 4]."""
    corner = torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])
    shared = corner.clamp(min=0).prod(1)
    return shared / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared)
