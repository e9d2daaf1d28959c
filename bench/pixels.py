"""The pictures of cifar10_jpg as one .npz that wellfit reads: x_train, y_train, x_test, y_test."""

import io
from pathlib import Path

import numpy as np


def unpacked(jpegs: Path, folder: Path) -> Path:
    """Decodes the JPEGs of `jpegs` into `folder`; returns the file."""
    from PIL import Image

    arrays = {}
    for part, file in (("train", "cifar10_train_jpg.npz"), ("test", "cifar10_test_a_jpg.npz")):
        with np.load(jpegs / file) as packed:
            cuts, raw = packed["offsets"], packed["jpeg"].tobytes()
            arrays[f"y_{part}"] = packed["label"]
        ends = [*cuts[1:], len(raw)] if len(cuts) == len(arrays[f"y_{part}"]) else cuts[1:]
        pictures = [np.asarray(Image.open(io.BytesIO(raw[a:b]))) for a, b in zip(cuts, ends, strict=False)]
        arrays[f"x_{part}"] = np.stack(pictures)
    np.savez(folder / "cifar.npz", **arrays)
    return folder / "cifar.npz"
