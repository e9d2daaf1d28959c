"""Pictures with boxes around the things in them: Pascal VOC folders, COCO files, and digits on canvases.

*VOC*: a folder with Annotations/NAME.xml and JPEGImages/NAME.jpg; the splits are the lists ImageSets/Main/train.txt, val.txt
and test.txt where there are any. *COCO*: a .json with `images`, `annotations` (`bbox` = x, y, width, height) and `categories`,
and the pictures beside it; or a folder with one, or with one each for train, val and test.

Boxes are float32 (x1, y1, x2, y2) in pixels of the picture, x to the right and y down from its upper left corner; VOC's are
taken as they are written. Pictures are decoded once, brought to `data.image_size` with their boxes, and kept as uint8.
Whatever is left out or cut is counted in the notes: boxes without area, outside the picture or over its edge.

    >>> scenes = detection(Data(source="digits-on-canvas"), "digits-on-canvas", []).train
    >>> (image,), (target,) = scenes.batch(torch.tensor([0]))
    >>> image.shape, target["boxes"].shape, target["labels"]
"""

import importlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor

from wellfit.data import canvases
from wellfit.data.arrays import Loaded, Samples
from wellfit.data.augment import AREA, FOR_BOXES, LEFT, MIRROR, PROPOSED, TOP, uniform
from wellfit.data.fingerprint import fingerprint
from wellfit.data.images import class_folders, is_picture, opened
from wellfit.data.paths import VALID_FOLDERS, expanded, separate
from wellfit.data.split import fewer, split
from wellfit.data.texts import plain
from wellfit.environment import memory_bytes
from wellfit.errors import DataError, MissingExtra
from wellfit.recipe import Augment, Data

LONGEST = 320  # pixels of the longer side, unless asked otherwise
PARTS = ("train", "valid", "test")
LISTS = {"train": ("train", "trainval"), "valid": ("val", "valid"), "test": ("test",)}  # ImageSets/Main, by part

# ---- samples


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


# ---- the door


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


# ---- what is written about a picture


@dataclass(frozen=True)
class Described:
    """A picture and what is said to be in it: classes, and boxes in its own pixels, as they are written."""

    image: Path
    classes: tuple[str, ...] = ()
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    size: tuple[int, int] | None = None  # (width, height), where it is told


@dataclass(frozen=True)
class All:
    """Every picture of every part."""

    parts: dict[str, list[Described]]
    classes: tuple[str, ...]

    def of(self, part: str) -> list[Described]:
        return self.parts[part]


def holds(path: Path, _: Data) -> bool:
    """Whether pictures with boxes lie there: a VOC folder, a COCO file, or a folder with one of these in it."""
    if path.is_file():
        return path.suffix.lower() == ".json" and _is_coco(path)
    base = path / "train" if (path / "train").is_dir() else path
    return voc_root(base) is not None or bool(_coco_files(base))


def _described(data: Data, notes: list[str]) -> All:
    path = expanded(data.source, "data.source")
    base = path / "train" if path.is_dir() and (path / "train").is_dir() else path
    found = _read(base, notes)
    for part, there in separate(data).items():
        other = _read(there, notes)
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


def _read(path: Path, notes: list[str]) -> All:
    root = voc_root(path) if path.is_dir() else None
    if root is not None:
        return voc(root, notes)
    files = _coco_files(path) if path.is_dir() else {"train": path}
    if files:
        return coco(files, notes)
    raise DataError(
        f"{path} holds no pictures with boxes that can be read. It can be a Pascal VOC folder (Annotations/*.xml and JPEGImages), a "
        "COCO file (.json with images, annotations and categories), or a folder with such a file and its pictures."
    )


# ---- Pascal VOC


def voc_root(path: Path) -> Path | None:
    """The folder that has Annotations and JPEGImages: this one, or the only one in it that has."""
    found = [one for one in (path, *sorted(path.iterdir())) if (one / "Annotations").is_dir() and _pictures(one)]
    return found[0] if found and (found[0] == path or len(found) == 1) else None


def _pictures(root: Path) -> Path | None:
    return next((root / name for name in ("JPEGImages", "images") if (root / name).is_dir()), None)


def voc(root: Path, notes: list[str]) -> All:
    """Everything in a VOC folder. Raises DataError for a damaged annotation, and for a listed name without a picture."""
    folder = _pictures(root)
    assert folder is not None
    images: dict[str, Path] = {}
    for one in sorted(folder.iterdir()):
        if is_picture(one) and images.setdefault(one.stem, one) != one:
            raise DataError(
                f"{images[one.stem]} and {one.name} have the same name but for its ending, so whose boxes Annotations/{one.stem}.xml tells "
                "cannot be told. Rename one of them, or take it out."
            )
    annotations = {one.stem: one for one in sorted((root / "Annotations").glob("*.xml"))}
    lists = {part: names for part, stems in LISTS.items() if (names := _listed(root, stems, images, notes))}
    if lists and "train" not in lists:
        raise DataError(
            f"{root}/ImageSets/Main lists {' and '.join(lists)} pictures but none to train on; a train.txt is missing there."
        )
    for (a, first), (b, second) in itertools.combinations(lists.items(), 2):
        both = sorted(set(first) & set(second))
        if both:
            raise DataError(
                f"{root}/ImageSets/Main lists {both[0]} (and {len(both) - 1} more) for {a} and for {b}; what is held out must not be "
                "trained on. Take it out of one of the lists."
            )
    everything = dict.fromkeys(itertools.chain(*lists.values())) if lists else images
    missing = [name for name in everything if name not in images]
    if missing:
        raise DataError(
            f"{root}/ImageSets/Main lists {missing[0]}{_and_more(missing)}, but {folder} has no picture of that name. Add it, or "
            "take it out of the list."
        )
    if not everything:
        raise DataError(f"{folder} holds no pictures: there is nothing to learn from.")
    _say(notes, [name for name in annotations if name not in images],
         "annotations in {} have no picture and were left out".format(root / "Annotations"))  # fmt: skip
    if lists:
        _say(notes, [name for name in images if name not in everything],
             f"pictures in {folder} are in none of the lists train, val and test and were left out")  # fmt: skip
    hard: list[str] = []
    read = {
        name: _voc_one(images[name], annotations[name], hard) if name in annotations else Described(images[name])
        for name in everything
    }
    _say(notes, hard, "boxes are marked as difficult and are used like the others", count=len(hard))
    _say(notes, [name for name in everything if name not in annotations],
         "pictures have no annotation and are learnt from as empty ones")  # fmt: skip
    parts = {part: [read[name] for name in names] for part, names in lists.items()} or {"train": list(read.values())}
    return All(parts, tuple(sorted({name for one in read.values() for name in one.classes})))


def _listed(root: Path, stems: Iterable[str], images: Mapping[str, Path], notes: list[str]) -> list[str]:
    """The names in the first of these lists that is there: a whole line if a picture is called so, else its first word."""
    for stem in stems:
        path = root / "ImageSets" / "Main" / f"{stem}.txt"
        if path.is_file():
            lines = [line.strip() for line in plain(path).split("\n") if line.strip()]
            names = [line if line in images else line.split()[0] for line in lines]
            again = [name for name, count in Counter(names).items() if count > 1]
            _say(notes, again, f"names come more than once in {path} and are used once")
            return list(dict.fromkeys(names))
    return []


def _voc_one(image: Path, path: Path, hard: list[str]) -> Described:
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:  # the last two for its encoding
        raise DataError(f"The annotation {path} cannot be read as XML: {error}. Mend it or take it out.") from None
    classes, boxes = [], []
    for number, thing in enumerate(root.iter("object"), start=1):
        name = (thing.findtext("name") or "").strip()
        if not name:
            raise DataError(f"Object {number} of {path} has no <name>, which says what it is. Fill it in.")
        corners = [thing.findtext(f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
        boxes.append(_numbers(corners, f"Object {number} ({name}) of {path}", "bndbox with xmin, ymin, xmax and ymax"))
        classes.append(name)
        if (thing.findtext("difficult") or "0").strip() == "1":
            hard.append(path.stem)
    return Described(
        image, tuple(classes), tuple(boxes), _told(*(root.findtext(f"size/{one}") for one in ("width", "height")))
    )


def _numbers(values: Sequence[Any], what: str, wanted: str) -> tuple[float, float, float, float]:
    try:
        a, b, c, d = (float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        a = b = c = d = math.nan
    if not all(map(math.isfinite, (a, b, c, d))):
        raise DataError(f"{what} has no {wanted} that are four numbers, but {list(values)!r}. Mend it or take it out.")
    return a, b, c, d


# ---- COCO


def _is_coco(path: Path) -> bool:
    """Whether a .json names what a COCO file has. Raises DataError if it cannot be read, for what it is is not known then."""
    try:
        content = path.read_bytes()
        head = content.decode(json.detect_encoding(content))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}. If it tells what is in the pictures, mend that, else "
            "take it away from them."
        ) from None
    return all(f'"{key}"' in head for key in ("images", "annotations", "categories"))


def _coco_files(folder: Path) -> dict[str, Path]:
    """The COCO file of each part in a folder or in its folder `annotations`; the only one there is the training part's."""
    places = [folder, folder / "annotations"]
    files, unread = [], []
    for one in (one for place in places if place.is_dir() for one in sorted(place.glob("*.json")) if one.is_file()):
        try:
            files += [one] if _is_coco(one) else []
        except DataError as error:
            unread.append(error)
    if unread and (files or _loose_pictures(folder)):
        raise unread[0]
    if len(files) == 1:
        return {"train": files[0]}
    found: dict[str, Path] = {}
    for part, words in (("train", ("train",)), ("valid", VALID_FOLDERS), ("test", ("test",))):
        named = [one for one in files if any(word in one.stem.lower() for word in words)]
        if len(named) > 1:
            raise DataError(
                f"{folder} has several COCO files for {part}: {', '.join(one.name for one in named)}. Name the one that is meant with "
                f"`data.{'source' if part == 'train' else part}=FILE`."
            )
        if named:
            found[part] = named[0]
    return found if "train" in found else {}


def _loose_pictures(folder: Path) -> bool:
    """Whether pictures lie there, or in a folder `images`, and not in folders by class."""
    places = [one for one in (folder, folder / "images") if one.is_dir()]
    return any(is_picture(one) for place in places for one in place.iterdir()) and len(class_folders(folder)) < 2


def coco(files: Mapping[str, Path], notes: list[str]) -> All:
    """Everything in COCO files. Raises DataError for what does not belong together: ids, pictures that are not there."""
    parts, classes = {}, dict[str, None]()
    for part, path in files.items():
        parts[part], names = _coco_one(path, notes)
        classes |= dict.fromkeys(names)
    used = {name for scenes in parts.values() for one in scenes for name in one.classes}
    _say(notes, [name for name in classes if name not in used], "categories have no box and are no classes")
    return All(parts, tuple(name for name in classes if name in used))


def _coco_one(path: Path, notes: list[str]) -> tuple[list[Described], list[str]]:
    try:
        content = json.loads(path.read_bytes())
        images, categories = (_by_id(content[key], key, path) for key in ("images", "categories"))
        annotations = _rows(content["annotations"], "annotations", path)
        files = {number: str(one["file_name"]) for number, one in images.items()}
        names = {number: str(one["name"]) for number, one in categories.items()}
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is no COCO file for detection: {type(error).__name__} {error}. It needs `images` with id and file_name, "
            "`annotations` with image_id, category_id and bbox, and `categories` with id and name."
        ) from None
    if not images:
        raise DataError(f"{path} lists no images: there is nothing to learn from.")
    twice = next((name for name, count in Counter(names.values()).items() if count > 1), None)
    if twice is not None:
        ids = [str(number) for number, name in names.items() if name == twice]
        raise DataError(
            f"`categories` of {path} has the name {twice!r} more than once, with the ids {' and '.join(ids)}. If they are one class, give "
            "their annotations one id; else rename one."
        )
    again = [name for name, count in Counter(files.values()).items() if count > 1]
    _say(notes, again, f"pictures are listed more than once in {path.name}, each time with boxes of their own")
    folder = _beside(path, next(iter(files.values())))
    missing = [name for name in files.values() if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{path} lists {missing[0]}{_and_more(missing)}, which is not in {folder}. Add it, or take it out of the file."
        )
    found: dict[Any, tuple[list[str], list[tuple[float, float, float, float]]]] = {n: ([], []) for n in images}
    crowds = []
    for row in annotations:
        what = f"The annotation {row.get('id', '')} of {path}"
        if not _known(row.get("image_id"), images):
            raise DataError(f"{what} is of the image {row.get('image_id')!r}, which `images` does not have.")
        if not _known(row.get("category_id"), categories):
            raise DataError(
                f"{what} is of the category {row.get('category_id')!r}; `categories` has {', '.join(map(str, categories)) or 'none'}."
            )
        if row.get("iscrowd"):
            crowds.append(files[row["image_id"]])
            continue
        box = row.get("bbox")
        x, y, width, height = _numbers(box if isinstance(box, list) else [box], what, "`bbox` = [x, y, width, height]")
        classes, boxes = found[row["image_id"]]
        classes.append(names[row["category_id"]])
        boxes.append((x, y, x + width, y + height))
    _say(notes, crowds, "boxes are around crowds, not single things, and were left out", count=len(crowds))
    _say(notes, [files[number] for number, (classes, _) in found.items() if not classes],
         f"pictures of {path.name} have no annotation and are learnt from as empty ones")  # fmt: skip
    scenes = [
        Described(
            folder / files[number],
            tuple(classes),
            tuple(boxes),
            _told(images[number].get("width"), images[number].get("height")),
        )
        for number, (classes, boxes) in found.items()
    ]
    return scenes, [names[number] for number in sorted(names, key=lambda one: (isinstance(one, str), one))]


def _rows(found: Any, key: str, path: Path) -> list[dict[str, Any]]:
    if not isinstance(found, list):
        raise DataError(f"`{key}` of {path} is no list, but {_short(found)}. It must be a list of objects.")
    odd = next((row for row in found if not isinstance(row, dict)), None)
    if odd is not None or None in found:
        raise DataError(f"`{key}` of {path} has {_short(odd)} among its rows; each must be an object with names.")
    return found


def _by_id(found: Any, key: str, path: Path) -> dict[Any, dict[str, Any]]:
    rows: dict[Any, dict[str, Any]] = {}
    for row in _rows(found, key, path):
        number = row["id"]
        if not isinstance(number, (int, float, str)):
            raise DataError(f"`{key}` of {path} has the id {_short(number)}; it must be a number or a text.")
        if number in rows:
            raise DataError(
                f"`{key}` of {path} has the id {number!r} more than once, so what belongs to which cannot be told. Give each its own."
            )
        rows[number] = row
    return rows


def _known(number: Any, rows: Mapping[Any, Any]) -> bool:
    return isinstance(number, (int, float, str)) and number in rows


def _short(value: Any) -> str:
    return text if len(text := repr(value)) < 60 else f"{text[:56]}..."


def _told(width: Any, height: Any) -> tuple[int, int] | None:
    """Width and height as they are written, 10, 10.0 or "10"; None where they are not told."""
    try:
        sides = float(width), float(height)
    except (TypeError, ValueError, OverflowError):
        return None
    return (int(sides[0]), int(sides[1])) if all(side > 0 and side.is_integer() for side in sides) else None


def _beside(path: Path, name: str) -> Path:
    """The folder that a COCO file's names are meant from: the first that has the first of them."""
    up = path.parent.parent
    word = path.stem.removeprefix("instances_")
    places = [
        path.parent,
        path.parent / "images",
        path.parent / word,
        up,
        up / "images",
        up / word,
        up / "images" / word,
    ]
    for place in places:
        if (place / name).is_file():
            return place
    raise DataError(
        f"{path} lists {name}, which was looked for in {', '.join(map(str, dict.fromkeys(places)))} and is in none of them. Put the "
        "pictures into one of these folders."
    )


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
        _say(said, self.flat, "boxes have no area and were left out", count=len(self.flat))
        _say(said, self.outside, "boxes lie outside their picture and were left out", count=len(self.outside))
        _say(said, self.over, "boxes go over the edge of their picture and were cut there", count=len(self.over))
        _say(said, self.tiny, "boxes are less than one pixel wide or high once their picture is brought to `data.image_size`, and were "
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


def decode(path: Path, size: int, told: tuple[int, int] | None = None) -> tuple[Tensor, tuple[int, int], str]:
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


# ---- words


def _and_more(names: Sequence[Any]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _say(notes: list[str], names: Sequence[str], what: str, count: int | None = None) -> None:
    """Counts and names: of pictures, or of `count` things in these pictures."""
    different = sorted(set(names))
    if different:
        more = f" and {len(different) - 5} more" if len(different) > 5 else ""
        notes.append(f"{count or len(different)} {what}{', in' if count else ':'} {', '.join(different[:5])}{more}.")
