"""Real data sets that are on every machine, because scikit-learn carries them. No download.

>>> read("digits").inputs.shape
torch.Size([1797, 1, 8, 8])
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wellfit.data.arrays import Arrays

TEST_SHARE = 0.2  # none of them comes with a split of its own that scikit-learn keeps


@dataclass(frozen=True)
class Embedded:
    arrays: Arrays
    task: str
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


def digits() -> Embedded:
    """1,797 handwritten digits, 8 x 8 pixels of 0 to 16 (Alpaydin & Kaynak 1998)."""
    found = _loaded("digits")
    images = torch.from_numpy(found.images.astype(np.uint8))[:, None]
    return Embedded(
        Arrays(images, torch.from_numpy(found.target).long()), "image-classification", tuple(map(str, range(10)))
    )


def _loaded(name: str, **settings: Any) -> Any:
    from sklearn import datasets  # here, for it takes seconds to load

    return getattr(datasets, f"load_{name}")(**settings)


def _classes(name: str) -> Embedded:
    found = _loaded(name)
    rows = torch.from_numpy(found.data.astype(np.float32))
    targets = torch.from_numpy(found.target).long()
    names = tuple(map(str, found.target_names))
    return Embedded(Arrays(rows, targets), "tabular-classification", names, tuple(map(str, found.feature_names)))


def diabetes() -> Embedded:
    """442 patients, ten measurements, progression after a year (Efron et al. 2004); columns as they were measured."""
    found = _loaded("diabetes", scaled=False)
    rows, targets = (torch.from_numpy(part.astype(np.float32)) for part in (found.data, found.target))
    return Embedded(Arrays(rows, targets), "tabular-regression", features=tuple(found.feature_names))


SETS: dict[str, Callable[[], Embedded]] = {
    "digits": digits,
    "wine": lambda: _classes("wine"),  # 178 wines, 13 measurements, 3 cultivars (Aeberhard & Forina 1991)
    "breast-cancer": lambda: _classes("breast_cancer"),  # 569 tumours, 30 measurements (Wolberg et al. 1995)
    "diabetes": diabetes,
}
