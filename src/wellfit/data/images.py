"""Images from files: MNIST-style idx, .npz arrays, and folders with one folder a class.

All come out as uint8 [N, C, H, W] in memory. Nothing is dropped: a file that cannot be read is an error that names it.
"""

import gzip
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from wellfit.data.arrays import Arrays
from wellfit.errors import DataError, MissingExtra

FORMATS = (
    "JPEG",
    "PNG",
    "BMP",
    "WEBP",
    "GIF",
    "TIFF",
    "PPM",
)  # Pillow's names of those that a picture without a name may have
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
DEFAULT_SIZE = 64


# ---- idx (LeCun's format: a magic number with type and dimensions, the sizes, the values, big-endian)


def idx_pair(folder: Path, prefix: str, notes: list[str]) -> Arrays | None:
    """The images and labels of `prefix` (train, t10k) in a folder; None where neither file is there."""
    images = idx_file(folder, f"{prefix}-images")
    labels = idx_file(folder, f"{prefix}-labels")
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        here = images or labels
        raise DataError(
            f"{folder} holds {here.name if here else ''} but not the other half of the pair {prefix}-images and {prefix}-labels."
        )
    return idx_arrays(images, labels, notes)


def idx_file(folder: Path, stem: str) -> Path | None:
    return next((path for path in sorted(folder.glob(f"{stem}*")) if "idx" in path.name or path.suffix == ".gz"), None)


def idx_arrays(images: Path, labels: Path, notes: list[str]) -> Arrays:
    """uint8 [N, C, H, W] and int64 [N]. Raises DataError where the two files do not belong together."""
    found, classes = idx(images), idx(labels)
    if found.ndim not in (3, 4):
        raise DataError(
            f"{images} holds an array of {found.ndim} dimensions; images have 3 (number, height, width) or 4."
        )
    if classes.ndim != 1 or len(classes) != len(found):
        raise DataError(
            f"{images} holds {len(found)} images, but {labels} holds labels of shape {list(classes.shape)}."
        )
    whole = class_numbers(classes, str(labels))
    return Arrays(pixels(found, str(images), notes), torch.from_numpy(whole))


def class_numbers(labels: np.ndarray, where: str) -> np.ndarray:
    """Labels [N] of any numeric type -> int64 [N]. Raises DataError for fractions and what int64 cannot hold."""
    wrong = ~np.isfinite(labels) | (np.abs(labels.astype(np.float64)) > 2**53)
    if labels.dtype.kind == "f":
        wrong |= labels != np.rint(labels)
    if wrong.any():
        raise DataError(f"The labels in {where} should be class numbers, and one of them is {labels[wrong][0]:g}.")
    return labels.astype(np.int64)


def idx(path: Path) -> np.ndarray:
    """The array of an idx file, gzipped or not. Raises DataError if the file is not one, or cut short."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in IDX_TYPES:
        raise DataError(
            f"{path} is not an idx file: it begins with {content[:4].hex(' ') or 'nothing'}, not with 00 00 and a type."
        )
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise DataError(f"{path} is cut short: its header of {start} bytes has {len(content)}.")
    sizes = struct.unpack(f">{dimensions}I", content[4:start])
    kind = np.dtype(IDX_TYPES[content[2]])
    wanted = start + int(np.prod(sizes, dtype=np.int64)) * kind.itemsize
    if len(content) != wanted:
        raise DataError(
            f"{path} is damaged: {len(content)} bytes where its header, {' x '.join(map(str, sizes))}, makes {wanted}."
        )
    return np.frombuffer(content, kind, offset=start).reshape(sizes).astype(kind.newbyteorder("="))


# ---- arrays


def pixels(array: np.ndarray, where: str, notes: list[str]) -> torch.Tensor:
    """Images [N, H, W], [N, H, W, C] or [N, C, H, W] of any numeric type -> uint8 [N, C, H, W]."""
    if len(array) and not array[0].size:
        raise DataError(f"The images in {where} have the shape {list(array.shape)}, which holds no pixels.")
    if array.ndim == 3:
        array = array[:, None]
    else:
        first, last = array.shape[1] in (1, 3, 4), array.shape[3] in (1, 3, 4)
        if first == last:  # both could be the channels, or neither
            notes.append(f"The images in {where}, {list(array.shape)}, were taken as [number, channel, height, width].")
        array = array.transpose(0, 3, 1, 2) if last and not first else array
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(
            f"{where} holds {int((~np.isfinite(array)).sum())} pixels that are NaN or infinite. Mend them first."
        )
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if low < 0 or high > 255:
        raise DataError(
            f"The pixels in {where} go from {low:g} to {high:g}; they must be from 0 to 255, or from 0 to 1. Undo the normalisation: the model does it itself."
        )
    if array.dtype.kind == "f":
        scaled = array * (255.0 if high <= 1.0 else 1.0)
        array = np.rint(scaled)
        if np.abs(scaled - array).max(initial=0) > 1e-3:
            notes.append(f"The pixels in {where} are fractions and were rounded to 256 levels.")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.uint8))


# ---- folders


def class_folders(root: Path) -> list[Path]:
    """The folders below `root` that hold pictures, sorted by name."""
    return [folder for folder in sorted(root.iterdir()) if folder.is_dir() and any(map(is_picture, folder.iterdir()))]


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and not path.name.startswith(".") and path.is_file()


def folder_arrays(root: Path, classes: Sequence[str], size: int, notes: list[str]) -> Arrays:
    """Every picture below root/class, shorter side `size` pixels, centre cut out; grey if all of them are."""
    strangers = [folder.name for folder in class_folders(root) if folder.name not in classes]
    if strangers:
        raise DataError(
            f"{root} has the class {strangers[0]!r}, which the training data does not have ({', '.join(classes)})."
        )
    files = [
        (path, label)
        for label, name in enumerate(classes)
        for path in sorted((root / name).glob("*"))
        if is_picture(path)
    ]
    others = [path for name in classes for path in (root / name).glob("*") if path.is_file() and not is_picture(path)]
    if others:
        notes.append(f"{len(others)} files below {root} are not pictures and were left out, {others[0].name} for one.")
    if not files:
        raise DataError(
            f"{root} holds no pictures; they are looked for as CLASS/NAME with one of the endings {', '.join(PICTURES)}."
        )
    _fits(len(files) * 3 * size * size, size, root)
    images = np.empty((len(files), 3, size, size), np.uint8)  # filled in place: the set is in memory once

    def decode(number: int) -> str:
        images[number], remark = _picture(files[number][0], size)
        return remark

    with ThreadPoolExecutor(4) as pool:
        remarks = Counter(pool.map(decode, range(len(files))))
    for remark, count in remarks.items():
        if remark:
            notes.append(f"{count} pictures below {root} {remark}.")
    grey = all((image[0] == image[1]).all() and (image[0] == image[2]).all() for image in images)
    pixels = torch.from_numpy(images)
    return Arrays(pixels[:, :1].clone() if grey else pixels, torch.tensor([label for _, label in files]))


def say_what_is_left_out(root: Path, bases: Sequence[Path], classes: Sequence[str], notes: list[str]) -> None:
    """Notes on what below `root` lies in no base/class, pictures or not, and on folders beside the classes that hold none."""
    homes = {base / name for base in bases for name in classes}
    outside = [path for path in sorted(root.rglob("*")) if path.parent not in homes and path.is_file()]
    strays = [path for path in outside if is_picture(path)]
    others = [
        path
        for path in outside
        if not is_picture(path) and not any(part[0] == "." for part in path.relative_to(root).parts)
    ]
    if others:
        notes.append(
            f"{len(others)} files below {root} are not pictures, lie beside the folders of the classes and were not read, "
            f"{others[0].relative_to(root)} for one."
        )
    if strays:
        notes.append(
            f"{len(strays)} pictures below {root} do not lie in the folder of a class and were left out, "
            f"{strays[0].relative_to(root)} for one."
        )
    bare = [folder.name for folder in sorted(bases[0].iterdir()) if folder.is_dir() and folder not in {*homes, *bases}]
    if bare:
        notes.append(f"Folders in {bases[0]} that hold no pictures are no classes: {', '.join(bare)}.")


def _picture(path: Path, size: int) -> tuple[np.ndarray, str]:
    """uint8 [3, size, size], and what was lost on the way, if anything."""
    image, remark = opened(path)
    from PIL import Image, ImageOps

    image = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1), remark


def opened(path: Path | BinaryIO, turned: bool = True) -> tuple[Any, str]:
    """The picture as Pillow's in RGB, turned the way the camera was held if asked, and what was lost on the way, if anything.

    Of a file by its path, or one that was opened, or is in memory.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise MissingExtra("pillow", "vision", "Reading images") from None
    remark = ""
    try:
        with Image.open(path, formats=None if isinstance(path, Path) else FORMATS) as file:
            image = ImageOps.exif_transpose(file) if turned else file.copy()
            if image.mode[0] in "IF":  # Pillow would clip these at 255: all white
                image, remark = _eight_bits(Image, image), "have 16 bits a pixel and were rounded to 256 levels"
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                if np.asarray(image)[..., 3].min() < 255:
                    remark = "are transparent in places; the colours stored there were used"
            image = image.convert("RGB")
    except Exception as error:  # Pillow raises many kinds over damaged files
        if not isinstance(path, Path):
            raise DataError(
                "What was given as a picture cannot be decoded. Give the bytes of a PNG or JPEG file."
            ) from None
        raise DataError(
            f"The image {path} cannot be decoded ({error}). Replace it or take it out of the folder; nothing is left out silently."
        ) from None
    return image, remark


def picture(path: Path | BinaryIO, shape: Sequence[int]) -> tuple[np.ndarray, str]:
    """uint8 [C, H, W] of one file (see `opened`), made as those of a folder are, and what was lost on the way, if anything.

    `shape` is that of the samples a model was trained on. Raises DataError for a file that is not there or cannot be decoded,
    and for images of other than one channel (grey) or three (colour).
    """
    C, H, W = shape
    if C not in (1, 3):
        raise DataError(
            f"The model takes images of {C} channels, and a picture file has one or three. Give it arrays of {C} x {H} x {W} numbers."
        )
    if isinstance(path, Path) and not path.is_file():
        raise DataError(f"There is no picture at {path}. Name a picture, or a folder of them.")
    image, remark = opened(path)
    from PIL import Image, ImageOps

    image = ImageOps.fit(image, (W, H), method=Image.Resampling.BILINEAR)
    return np.asarray(image.convert("L"))[None] if C == 1 else np.asarray(image).transpose(2, 0, 1), remark


def _eight_bits(Image: Any, image: Any) -> Any:
    values = np.asarray(image)
    if image.mode == "F" or (values.size and (values.min() < 0 or values.max() > 65535)):
        raise ValueError(f"its pixels, of mode {image.mode}, are not 8 or 16 bits; save it as 8 bits")
    return Image.fromarray(np.rint(values / 257).astype(np.uint8))  # 65535 / 255


def _fits(needed: int, size: int, root: Path) -> None:
    from wellfit.environment import memory_bytes

    here = memory_bytes()
    if here and needed > here / 2:
        raise DataError(
            f"The pictures in {root} take {needed / 2**30:.1f} GiB at {size} x {size} pixels, more than half of this machine's "
            f"{here / 2**30:.1f} GiB. Try `data.image_size={max(4, int(size * (here / 2 / needed) ** 0.5))}`."
        )


def below(thing: Any) -> list[Any]:
    """What a path stands for: itself, or all pictures below a folder, by name; anything else is itself. Raises DataError for a folder without any."""
    if not isinstance(thing, str | Path):
        return [thing]
    path = Path(thing).expanduser()
    if not path.is_dir():
        return [path]
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith(".")]
    found = [file for file in files if is_picture(file)]
    if not found:
        raise DataError(
            f"{path} holds no pictures; they have one of the endings {', '.join(PICTURES)}. Name another folder."
        )
    if len(found) < len(files):
        other = next(file for file in files if file not in found)
        warnings.warn(
            f"{len(files) - len(found)} files below {path} are not pictures and were left out, {other.name} for one.",
            stacklevel=4,
        )
    return [*found]
