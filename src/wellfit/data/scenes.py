"""Samples that are pictures with boxes: batches of differing sizes, mirrored and cut with their boxes, brought back by a seed.

>>> scenes = Scenes(images=(image,), boxes=(torch.tensor([[30.0, 20, 60, 45]]),), labels=(torch.tensor([0]),))
>>> (image,), (target,) = scenes.batch(torch.tensor([0]))
"""

import importlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellfit.data.arrays import Samples
from wellfit.data.augment import AREA, FOR_BOXES, LEFT, MIRROR, PROPOSED, TOP, uniform
from wellfit.data.fingerprint import fingerprint
from wellfit.errors import MissingExtra
from wellfit.recipe import Augment


@dataclass(frozen=True)
class Scenes(Samples):
    """Pictures of differing size with boxes and the class of each.

    A batch is (images, targets): two lists, of uint8 [C, H, W] and of {"boxes": float32 [n, 4], "labels": int64 [n], "draw":
    a whole number that is the picture's own in this epoch, from which a model may draw}. With an epoch, pictures are mirrored
    and cut as `augment` says, by a seed that `varied` gives.
    """

    augments = FOR_BOXES

    images: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    augment: Augment = field(default_factory=Augment)
    seed: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def take(self, samples: Tensor) -> "Scenes":
        chosen = samples.tolist()
        images, boxes, labels = (tuple(part[i] for i in chosen) for part in (self.images, self.boxes, self.labels))
        return Scenes(images, boxes, labels, self.augment, self.seed)

    def varied(self, settings: Augment, seed: int) -> "Scenes":
        """The same, mirrored and cut at random in training batches, and proposals drawn, by this seed."""
        return replace(self, augment=settings, seed=seed)

    def batch(self, samples: Tensor, epoch: int | None = None, /) -> tuple[list[Tensor], list[dict[str, Any]]]:
        numbers = samples.numpy()
        draws = uniform(self.seed, 0 if epoch is None else epoch + 1, numbers, PROPOSED)
        changes = np.zeros((4, len(numbers))) if epoch is None else np.stack(
            [uniform(self.seed, epoch, numbers, draw) for draw in (AREA, TOP, LEFT, MIRROR)]
        )  # fmt: skip
        images, targets = [], []
        for i, draw, change in zip(numbers.tolist(), draws, changes.T, strict=True):
            image, boxes, labels = self.images[i], self.boxes[i], self.labels[i]
            if epoch is not None:
                image, boxes, labels = changed(image, boxes, labels, self.augment, change.tolist())
            images.append(image)
            targets.append({"boxes": boxes, "labels": labels, "draw": int(draw * 2**53)})
        return images, targets

    def lengths(self) -> None:
        """Batches need not be of like size: all are filled up to one canvas."""

    def fingerprint(self) -> str:
        return fingerprint(*itertools.chain(*zip(self.images, self.boxes, self.labels, strict=True)))

    def canvas(self) -> tuple[int, int]:
        """The (height, width) that holds them all."""
        return max(image.shape[1] for image in self.images), max(image.shape[2] for image in self.images)

    def statistics(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel over all pixels."""
        values = torch.stack([torch.stack([x.sum((1, 2)), x.square().sum((1, 2))]) for x in map(_double, self.images)])
        mean, square = values.sum(0) / sum(image[0].numel() for image in self.images)
        std = (square - mean.square()).clamp(min=0).sqrt()
        return mean.tolist(), torch.where(std < 1e-4, 1.0, std).tolist()


def _double(image: Tensor) -> Tensor:
    return image.to(torch.float64)


def changed(
    image: Tensor, boxes: Tensor, labels: Tensor, settings: Augment, draws: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """The picture [C, H, W] and its boxes, cut and mirrored by four numbers in [0, 1): size, top and left of the cut, mirror.

    A cut keeps at least the share `crop` of the area and is brought back to H x W. What is left of a box stays if its middle
    does.
    """
    if settings.crop == 1 and not settings.flip:
        return image, boxes, labels
    F = _vision("torchvision.transforms.v2.functional")
    xyxy = _vision("torchvision.tv_tensors").BoundingBoxFormat.XYXY
    H, W = image.shape[1:]
    if settings.crop < 1:
        side = math.sqrt(1 - (1 - settings.crop) * draws[0])
        height, width = max(1, round(side * H)), max(1, round(side * W))
        top, left = int(draws[1] * (H - height + 1)), int(draws[2] * (W - width + 1))
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2 - torch.tensor([left, top])
        seen = (middle >= 0).all(1) & (middle < torch.tensor([width, height])).all(1)
        image = F.resized_crop_image(image, top, left, height, width, [H, W])
        boxes, _ = F.resized_crop_bounding_boxes(boxes[seen], xyxy, top, left, height, width, [H, W])
        boxes, labels = clipped(boxes, W, H), labels[seen]
    if settings.flip and draws[3] < 0.5:
        image = F.horizontal_flip_image(image)
        boxes = F.horizontal_flip_bounding_boxes(boxes, xyxy, (H, W))
    return image, boxes, labels


def clipped(boxes: Tensor, width: float, height: float) -> Tensor:
    """Boxes [n, 4] cut at the edge of the picture."""
    return torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height]))


def _vision(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra("torchvision", "vision", "Detecting objects") from None
