"""What is written about the things in pictures: Pascal VOC folders and COCO files.

*VOC*: a folder with Annotations/NAME.xml and JPEGImages/NAME.jpg; the splits are the lists ImageSets/Main/train.txt, val.txt
and test.txt where there are any. *COCO*: a .json with `images`, `annotations` (`bbox` = x, y, width, height) and `categories`,
and the pictures beside it; or a folder with one, or with one each for train, val and test.

    >>> found = read(Path("BCCD/"), notes := [])
    >>> found.classes, len(found.of("train"))
"""

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from wellfit.data.images import class_folders, is_picture
from wellfit.data.paths import VALID_FOLDERS
from wellfit.data.texts import plain
from wellfit.errors import DataError
from wellfit.recipe import Data

LISTS = {"train": ("train", "trainval"), "valid": ("val", "valid"), "test": ("test",)}  # ImageSets/Main, by part


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


def read(path: Path, notes: list[str]) -> All:
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
            f"{root}/ImageSets/Main lists {missing[0]}{and_more(missing)}, but {folder} has no picture of that name. Add it, or "
            "take it out of the list."
        )
    if not everything:
        raise DataError(f"{folder} holds no pictures: there is nothing to learn from.")
    say(notes, [name for name in annotations if name not in images],
         "annotations in {} have no picture and were left out".format(root / "Annotations"))  # fmt: skip
    if lists:
        say(notes, [name for name in images if name not in everything],
             f"pictures in {folder} are in none of the lists train, val and test and were left out")  # fmt: skip
    hard: list[str] = []
    read = {
        name: _voc_one(images[name], annotations[name], hard) if name in annotations else Described(images[name])
        for name in everything
    }
    say(notes, hard, "boxes are marked as difficult and are used like the others", count=len(hard))
    say(notes, [name for name in everything if name not in annotations],
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
            say(notes, again, f"names come more than once in {path} and are used once")
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
    say(notes, [name for name in classes if name not in used], "categories have no box and are no classes")
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
    say(notes, again, f"pictures are listed more than once in {path.name}, each time with boxes of their own")
    folder = _beside(path, next(iter(files.values())))
    missing = [name for name in files.values() if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{path} lists {missing[0]}{and_more(missing)}, which is not in {folder}. Add it, or take it out of the file."
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
    say(notes, crowds, "boxes are around crowds, not single things, and were left out", count=len(crowds))
    say(notes, [files[number] for number, (classes, _) in found.items() if not classes],
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


# ---- words


def and_more(names: Sequence[Any]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def say(notes: list[str], names: Sequence[str], what: str, count: int | None = None) -> None:
    """Counts and names: of pictures, or of `count` things in these pictures."""
    different = sorted(set(names))
    if different:
        more = f" and {len(different) - 5} more" if len(different) > 5 else ""
        notes.append(f"{count or len(different)} {what}{', in' if count else ':'} {', '.join(different[:5])}{more}.")
