"""Images from files: MNIST-style idx, .npz arrays, and folders with one folder a class.

All come out as uint8 [N, C, H, W] in memory. Nothing is dropped: a file that cannot be read is an error that names it.
"""

import gzip
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wellfit.data.arrays import Arrays
from wellfit.errors import DataError, MissingExtra

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
DEFAULT_SIZE = 64


# ---- idx (LeCun's format: a magic number with type and dimensions, the sizes, the values, big-endian)


def idx_pair(folder: Path, prefix: str) -> Arrays | None:
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
    return idx_arrays(images, labels)


def idx_file(folder: Path, stem: str) -> Path | None:
    return next((path for path in sorted(folder.glob(f"{stem}*")) if "idx" in path.name or path.suffix == ".gz"), None)


def idx_arrays(images: Path, labels: Path) -> Arrays:
    pixels, classes = idx(images), idx(labels)
    if pixels.ndim not in (3, 4):
        raise DataError(
            f"{images} holds an array of {pixels.ndim} dimensions; images have 3 (number, height, width) or 4."
        )
    if classes.ndim != 1 or len(classes) != len(pixels):
        raise DataError(
            f"{images} holds {len(pixels)} images, but {labels} holds labels of shape {list(classes.shape)}."
        )
    x = torch.from_numpy(pixels if pixels.ndim == 4 else pixels[:, None])
    return Arrays(x.to(torch.uint8), torch.from_numpy(classes.astype(np.int64)))


def idx(path: Path) -> np.ndarray:
    """The array of an idx file, gzipped or not. Raises DataError if the file is not one, or cut short."""
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (OSError, EOFError, gzip.BadGzipFile) as error:
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
    if array.ndim == 3:
        array = array[:, None]
    elif array.shape[3] in (1, 3, 4) and array.shape[1] not in (1, 3, 4):
        array = array.transpose(0, 3, 1, 2)
    if not np.isfinite(array).all():
        raise DataError(
            f"{where} holds {int((~np.isfinite(array)).sum())} pixels that are NaN or infinite. Mend them first."
        )
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if low < 0 or high > 255:
        raise DataError(
            f"The pixels in {where} go from {low:g} to {high:g}; they must be from 0 to 255, or from 0 to 1. Undo the normalisation: the model does it itself."
        )
    if np.issubdtype(array.dtype, np.floating):
        scale = 255.0 if high <= 1.0 else 1.0
        scaled = array * scale
        if np.abs(scaled - np.rint(scaled)).max(initial=0) > 1e-3:
            notes.append(f"The pixels in {where} are fractions and were rounded to 256 levels.")
        array = np.rint(scaled)
    return torch.from_numpy(np.ascontiguousarray(array.astype(np.uint8)))


# ---- folders


def class_folders(root: Path) -> list[Path]:
    """The folders below `root` that hold pictures, sorted by name."""
    return [folder for folder in sorted(root.iterdir()) if folder.is_dir() and any(map(is_picture, folder.iterdir()))]


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and not path.name.startswith(".") and path.is_file()


def folder_arrays(root: Path, classes: Sequence[str], size: int, notes: list[str]) -> Arrays:
    """Every picture below root/class, shorter side `size` pixels, centre cut out; grey if all of them are."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra("pillow", "vision", "Reading images from a folder") from None
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

    def decoded(path: Path) -> Any:
        return _picture(Image, path, size)

    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(decoded, [path for path, _ in files]))
    if all((image[0] == image[1]).all() and (image[0] == image[2]).all() for image in images):
        images = [image[:1] for image in images]
    return Arrays(torch.from_numpy(np.stack(images)), torch.tensor([label for _, label in files]))


def _picture(Image: Any, path: Path, size: int) -> np.ndarray:
    """uint8 [3, size, size]. Turned the way the camera was held."""
    from PIL import ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"The image {path} cannot be decoded ({error}). Replace it or take it out of the folder; nothing is left out silently."
        ) from None
    image = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1).copy()


def _fits(needed: int, size: int, root: Path) -> None:
    from wellfit.environment import memory_bytes

    here = memory_bytes()
    if here and needed > here / 2:
        raise DataError(
            f"The pictures in {root} take {needed / 2**30:.1f} GiB at {size} x {size} pixels, more than half of this machine's "
            f"{here / 2**30:.1f} GiB. Try `data.image_size={max(4, int(size * (here / 2 / needed) ** 0.5))}`."
        )
