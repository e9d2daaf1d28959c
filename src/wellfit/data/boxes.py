"""Pictures with boxes around the things in them: read, split, decoded and brought to one size.

Boxes are float32 (x1, y1, x2, y2) in pixels of the picture, x to the right and y down from its upper left corner; VOC's are
taken as they are written. Pictures are decoded once, brought to `data.image_size` with their boxes, and kept as uint8.
Whatever is left out or cut is counted in the notes: boxes without area, outside the picture or over its edge.

    >>> scenes = detection(Data(source="digits-on-canvas"), "digits-on-canvas", []).train
    >>> (image,), (target,) = scenes.batch(torch.tensor([0]))
    >>> image.shape, target["boxes"].shape, target["labels"]
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from wellfit.data import canvases
from wellfit.data.annotations import All, Described, read, say
from wellfit.data.arrays import Loaded
from wellfit.data.images import opened
from wellfit.data.paths import expanded, separate
from wellfit.data.scenes import Scenes, clipped
from wellfit.data.split import fewer, split
from wellfit.environment import memory_bytes
from wellfit.errors import DataError, MissingExtra
from wellfit.recipe import Data

LONGEST = 320  # pixels of the longer side, unless asked otherwise
PARTS = ("train", "valid", "test")


def detection(data: Data, name: str, notes: list[str]) -> Loaded:
    """Pictures with boxes, from the embedded set or a path."""
    parts: dict[str, Scenes]
    if data.source == canvases.NAME:
        size, why = canvases.SIDE, "the size at which the digits are drawn"
        parts = {part: Scenes(*made) for part, made in canvases.parts(data).items()}
        parts["train"] = parts["train"].take(fewer(data, torch.arange(len(parts["train"])), notes))
        classes = canvases.CLASSES
        notes.append(
            f"Digits of scikit-learn on canvases of {size} x {size} pixels; no digit is in two parts, and no two boxes of a "
            f"canvas overlap by more than {canvases.MOST_OVERLAP} (intersection over union)."
        )
    else:
        described = _described(data, notes)
        classes = described.classes
        size = data.image_size or min(LONGEST, max(max(_size(one.image)) for one in described.of("train")))
        why = f"the longer side; up to {LONGEST} pixels a small machine trains in minutes. Small things need more"
        left = Left()
        _fits({part: described.of(part) for part in described.parts}, size)
        parts = {
            part: _scenes(described.of(part), classes, size, left) for part in described.parts
        }  # fmt: skip
        notes += left.notes()
    idle = [f"`data.{one}`" for one in ("target", "text", "categorical", "ignore") if getattr(data, one)]
    if data.source == canvases.NAME and data.image_size not in (None, size):
        idle.append("`data.image_size`")
    if idle:
        notes.append(f"Without effect on pictures with boxes: {', '.join(idle)}.")
    boxes = sum(len(labels) for labels in parts["train"].labels)
    if not boxes:
        raise DataError(f"No picture for training in {data.source} has a box: there is nothing to find.")
    sides = [max(part.canvas()[axis] for part in parts.values()) for axis in (0, 1)]
    mean, std = parts["train"].statistics()
    return Loaded(
        "object-detection", name, parts["train"], parts.get("valid"), parts.get("test"), parts["train"].fingerprint(), classes,
        columns={
            "channels": parts["train"].images[0].shape[0], "image_size": size, "canvas": sides,
            "mean": mean, "std": std,
        },
        notes=tuple(dict.fromkeys(notes)),
        derived={
            "data.image_size": (size, why),
            "loss.kind": ("given", "the detector's own, of classes and boxes together"),
            "evaluation.metric": ("map50", "the loss is made of sampled proposals or matches and tells less of what is found"),
        },
    )  # fmt: skip


def _described(data: Data, notes: list[str]) -> All:
    path = expanded(data.source, "data.source")
    base = path / "train" if path.is_dir() and (path / "train").is_dir() else path
    found = read(base, notes)
    for part, there in separate(data).items():
        other = read(there, notes)
        if len(other.parts) > 1:
            notes.append(f"Of {there} only the training part is used, as the {part} set.")
        strangers = [name for name in other.classes if name not in found.classes]
        if strangers:
            raise DataError(
                f"{there} has the class {strangers[0]!r}, which {data.source} does not have ({', '.join(found.classes)})."
            )
        found.parts[part] = other.of("train")
    for part, share in (("test", data.test_share or 0.0), ("valid", data.valid_share)):
        if part in found.parts or not share:
            continue
        scenes = found.of("train")
        numbers = torch.arange(len(scenes))
        what = "validation" if part == "valid" else part
        stay, held = split(numbers, torch.zeros_like(numbers), share, seed=data.split_seed, what=what, stratify=False)
        found.parts[part] = [scenes[i] for i in held.tolist()]
        found.parts["train"] = [scenes[i] for i in stay.tolist()]
    scenes = found.of("train")
    found.parts["train"] = [scenes[i] for i in fewer(data, torch.arange(len(scenes)), notes).tolist()]
    if not found.classes:
        raise DataError(f"{data.source} has pictures but no box in any of them: there is nothing to find.")
    return All({part: found.parts[part] for part in PARTS if part in found.parts}, found.classes)


# ---- pictures


@dataclass
class Left:
    """What was left out of the pictures or cut, by the picture's name."""

    flat: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    over: list[str] = field(default_factory=list)
    tiny: list[str] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)

    def notes(self) -> list[str]:
        said: list[str] = []
        say(said, self.flat, "boxes have no area and were left out", count=len(self.flat))
        say(said, self.outside, "boxes lie outside their picture and were left out", count=len(self.outside))
        say(said, self.over, "boxes go over the edge of their picture and were cut there", count=len(self.over))
        say(said, self.tiny, "boxes are less than one pixel wide or high once their picture is brought to `data.image_size`, and were "
             "left out", count=len(self.tiny))  # fmt: skip
        return said + [f"{count} pictures {remark}." for remark, count in self.remarks.items() if remark]


def _scenes(described: Sequence[Described], classes: Sequence[str], size: int, left: Left) -> Scenes:
    """Decoded, brought to size, and their boxes with them."""
    number = {name: i for i, name in enumerate(classes)}
    with ThreadPoolExecutor(4) as pool:
        decoded = list(pool.map(lambda one: decode(one.image, size, one.size), described))
    boxes, labels = [], []
    for one, (image, (width, height), remark) in zip(described, decoded, strict=True):
        left.remarks[remark] += 1
        raw = torch.tensor(one.boxes, dtype=torch.float64).reshape(-1, 4)
        kept = _kept(raw, width, height, one.image.stem, left)
        scale = torch.tensor([image.shape[2] / width, image.shape[1] / height] * 2, dtype=torch.float64)
        inside = clipped(raw, width, height) * scale
        small = kept & ((inside[:, 2:] - inside[:, :2]).min(1).values < 1 if len(raw) else kept)
        left.tiny += [one.image.stem] * int(small.sum())
        kept &= ~small
        boxes.append(inside[kept].float())
        labels.append(torch.tensor([number[name] for name in one.classes], dtype=torch.int64)[kept])
    return Scenes(tuple(image for image, _, _ in decoded), tuple(boxes), tuple(labels))


def _kept(boxes: Tensor, width: int, height: int, name: str, left: Left) -> Tensor:
    """Which boxes, float64 [n, 4], have area inside the picture; counts those that do not, and those that are cut."""
    flat = (boxes[:, 2:] <= boxes[:, :2]).any(1)
    inside = clipped(boxes, width, height)
    outside = ~flat & (inside[:, 2:] <= inside[:, :2]).any(1)
    over = ~flat & ~outside & (inside != boxes).any(1)
    for names, which in ((left.flat, flat), (left.outside, outside), (left.over, over)):
        names += [name] * int(which.sum())
    return ~flat & ~outside


def decode(
    path: Path | BinaryIO, size: int, told: tuple[int, int] | None = None
) -> tuple[Tensor, tuple[int, int], str]:
    """uint8 [3, H, W] with a longer side of `size` pixels, its (width, height) before that, and what was lost, if anything.

    A picture that its camera says to turn is turned, unless the size that was `told` with its boxes is that of before.
    Raises DataError for a picture that does not decode, or is of another size than told, where its boxes would be wrong.
    """
    image, remark = opened(path, turned=True)
    if told is not None and image.size != told:
        image, remark = opened(path, turned=False)
        if image.size != told:
            raise DataError(
                f"The picture {path} has {image.width} x {image.height} pixels, but its annotation says {told[0]} x {told[1]}, so its boxes "
                "would be in the wrong places. Mend the annotation, or replace the picture."
            )
    before = image.size
    factor = size / max(before)
    after = tuple(max(1, round(side * factor)) for side in before)
    if after != before:
        image = image.resize(after, resample=2)  # bilinear, over all the pixels that become one
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy()), before, remark


def _size(path: Path) -> tuple[int, int]:
    """Width and height by the head of the file, which costs little."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise MissingExtra("pillow", "vision", "Reading pictures") from None
    try:
        with Image.open(path) as image:
            found: tuple[int, int] = image.size
            return found
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"The picture {path} cannot be decoded ({error}). Replace it or take it out.") from None


def _fits(parts: Mapping[str, Sequence[Described]], size: int) -> None:
    needed, here = 3 * size * size * sum(map(len, parts.values())), memory_bytes()
    if here and needed > here / 2:
        raise DataError(
            f"The pictures take up to {needed / 2**30:.1f} GiB at {size} pixels, more than half of this machine's {here / 2**30:.1f} GiB. "
            f"Try `data.image_size={max(4, int(size * (here / 2 / needed) ** 0.5))}`."
        )
