"""The door to data that wellfit reads itself: an embedded set by name, or a path by what is there.

a folder with train-images-idx3-ubyte     MNIST-style idx
a folder of folders of pictures           images by class; or train/, val/ and test/ with those in them
.npz                                      arrays of images [N, H, W, ...] or rows [N, F], and labels
.csv .tsv .parquet                        a table; `data.target` names the column to predict

>>> load(Data(source="digits")).task
'image-classification'
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellfit.data import embedded, images, tables
from wellfit.data.arrays import Arrays, Loaded
from wellfit.data.fingerprint import fingerprint
from wellfit.data.split import split
from wellfit.errors import DataError, RecipeError
from wellfit.recipe import Data, nearest

TABLES = (".csv", ".tsv", ".parquet", ".txt")
NPZ_PAIRS = (
    ("x_train", "y_train"), ("x", "y"), ("X", "y"), ("inputs", "targets"), ("images", "labels"), ("data", "labels"),
    ("data", "label"), ("arr_0", "arr_1"),
)  # fmt: skip
VALID_FOLDERS = ("val", "valid", "validation", "dev")


@dataclass
class Read:
    """What a reader found: everything, and what came as validation and test sets of their own."""

    task: str
    train: Arrays
    valid: Arrays | None = None
    test: Arrays | None = None
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    columns: dict[str, Any] = field(default_factory=dict)
    frame: Any = None  # a table is encoded after it is split, by its training rows alone
    test_share: float = 0.0


def load(data: Data, task: str | None = None) -> Loaded:
    """Reads, checks and splits. Raises DataError, naming file, row or class, for whatever is wrong."""
    notes: list[str] = []
    if data.source in embedded.SETS:
        name, found = data.source, _embedded(data.source)
    else:
        path = existing(data.source, "data.source")
        name, found = path.stem.split(".")[0] or "data", read(path, data, task, notes)
    if task is not None and task != found.task:
        raise RecipeError(
            f"`task` is {task}, but {data.source} holds data for {found.task}. Leave `task` open, or name other data."
        )
    train, valid, test = _split(found, data, notes)
    if len(found.classes):
        counts = torch.bincount(train.targets, minlength=len(found.classes))
        if int((counts > 0).sum()) < 2:
            raise DataError(
                f"The training samples are all of the class {found.classes[int(counts.argmax())]!r}; there is nothing to tell apart."
            )
    return Loaded(
        task=found.task,
        name=name,
        train=train,
        valid=valid,
        test=test,
        fingerprint=fingerprint(train.inputs, train.targets),
        classes=found.classes,
        features=found.features,
        columns=found.columns,
        notes=tuple(notes),
    )


def existing(path: str, field_name: str) -> Path:
    """The path, or an error that names what is there instead."""
    here = Path(path).expanduser()
    if here.exists():
        return here
    siblings = [sibling.name for sibling in here.parent.iterdir()] if here.parent.is_dir() else []
    sets = ", ".join(embedded.SETS)
    near = nearest(path, embedded.SETS) or nearest(here.name, siblings)
    raise DataError(
        f"`{field_name}` is {path!r}, and nothing is there.{near} It can be the path of your data, or an embedded set: {sets}."
    )


def read(path: Path, data: Data, task: str | None, notes: list[str]) -> Read:
    """By what is at the path."""
    if path.is_dir():
        if images.idx_file(path, "train-images") or images.idx_file(path, "train-labels"):
            return _idx(path)
        return _folder(path, data, notes)
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty.")
    if path.suffix == ".npz":
        return _npz(path, task, notes)
    if path.suffix.lower() in TABLES:
        return _table(path, data, task, notes)
    if "idx" in path.name:
        labels = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        if labels == path or not labels.exists():
            raise DataError(f"The labels of {path} were looked for in {labels.name} beside it, and it is not there.")
        return _image_classes(images.idx_arrays(path, labels))
    raise DataError(
        f"{path} is of no kind that is known: idx files, .npz, folders of pictures by class, and tables ({', '.join(TABLES)})."
    )


# ---- readers


def _embedded(name: str) -> Read:
    found = embedded.SETS[name]()
    return Read(found.task, found.arrays, classes=found.classes, features=found.features, test_share=embedded.TEST_SHARE,
                columns={"numeric": list(found.features)} if found.features else {})  # fmt: skip


def _idx(folder: Path) -> Read:
    train = images.idx_pair(folder, "train")
    assert train is not None
    return _image_classes(train, test=images.idx_pair(folder, "t10k"))


def _image_classes(train: Arrays, test: Arrays | None = None) -> Read:
    if not len(train):
        raise DataError("The training images are an empty array: there is nothing to learn from.")
    targets, names = _numbered(train.targets)
    test = Arrays(test.inputs, _renumbered(test.targets, names, "the test set")) if test is not None else None
    return Read("image-classification", Arrays(train.inputs, targets), test=test, classes=names)


def _folder(root: Path, data: Data, notes: list[str]) -> Read:
    size = data.image_size or images.DEFAULT_SIZE
    base = root / "train" if (root / "train").is_dir() else root
    classes = [folder.name for folder in images.class_folders(base)]
    if len(classes) < 2:
        raise DataError(
            f"{base} has {len(classes)} folders with pictures in them; pictures are looked for as CLASS/NAME, with a folder for each "
            "of at least two classes. For other data, name the file itself (.npz, .csv, .parquet) or the folder of idx files."
        )
    found = Read("image-classification", images.folder_arrays(base, classes, size, notes), classes=tuple(classes))
    if base != root:
        valid = next((root / name for name in VALID_FOLDERS if (root / name).is_dir()), None)
        found.valid = images.folder_arrays(valid, classes, size, notes) if valid else None
        found.test = images.folder_arrays(root / "test", classes, size, notes) if (root / "test").is_dir() else None
    notes.append(f"Pictures were brought to {size} x {size} pixels; `data.image_size` sets another size.")
    return _alike_in_channels(found)


def _alike_in_channels(found: Read) -> Read:
    """Grey and colour sets side by side become colour."""
    parts = [part for part in (found.train, found.valid, found.test) if part is not None]
    if len({part.inputs.shape[1] for part in parts}) > 1:
        for name in ("train", "valid", "test"):
            part = getattr(found, name)
            if part is not None and part.inputs.shape[1] == 1:
                setattr(found, name, Arrays(part.inputs.repeat(1, 3, 1, 1), part.targets))
    return found


def _npz(path: Path, task: str | None, notes: list[str]) -> Read:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # a damaged zip, a pickled array: NumPy raises many kinds
        raise DataError(
            f"{path} cannot be read: {error}. Arrays of objects are not read, because that could run code."
        ) from None
    pair = next((pair for pair in NPZ_PAIRS if set(pair) <= set(arrays)), None)
    if pair is None:
        raise DataError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; inputs and labels are looked for as {' or '.join(f'{a} and {b}' for a, b in NPZ_PAIRS[:5])}."
        )
    x, y = (arrays[name] for name in pair)
    found = _from_arrays(x, y, path, task, notes)
    if {"x_test", "y_test"} <= set(arrays):
        test = _from_arrays(arrays["x_test"], arrays["y_test"], path, found.task, notes, found.classes)
        found.test = test.train
    return found


def _from_arrays(
    x: np.ndarray, y: np.ndarray, path: Path, task: str | None, notes: list[str], classes: Sequence[str] = ()
) -> Read:
    if x.dtype.kind not in "iufb" or y.dtype.kind not in "iufbUS":
        raise DataError(
            f"The arrays in {path} are of type {x.dtype} and {y.dtype}; inputs must be numbers, and targets numbers or texts."
        )
    y = y.squeeze(-1) if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 or len(x) != len(y):
        raise DataError(
            f"The inputs in {path} have the shape {list(x.shape)} and the targets {list(y.shape)}; targets must be one for each sample."
        )
    if not len(x):
        raise DataError(f"The arrays in {path} are empty: there is nothing to learn from.")
    if x.ndim in (3, 4):
        targets, names = _labels(y, path, classes)
        return Read("image-classification", Arrays(images.pixels(x, str(path), notes), targets), classes=names)
    if x.ndim != 2:
        raise DataError(f"The inputs in {path} have {x.ndim} dimensions; rows have 2 and images 3 or 4.")
    wrong = ~np.isfinite(x)
    if wrong.any():
        row, column = (int(k[0]) for k in np.nonzero(wrong))
        raise DataError(
            f"The inputs in {path} have {int(wrong.sum())} values that are NaN or infinite, the first in row {row}, column {column} (both from 0)."
        )
    rows = torch.from_numpy(x.astype(np.float32))
    numbers = task == "tabular-regression" if task else y.dtype.kind == "f" and not (y == np.rint(y)).all()
    names = tuple(f"x{i}" for i in range(x.shape[1]))
    columns = {"numeric": list(names)}
    if numbers:
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            raise DataError(
                f"The targets in {path} have {int((~np.isfinite(y)).sum())} values that are NaN or infinite."
            )
        return Read(
            "tabular-regression", Arrays(rows, torch.from_numpy(y.astype(np.float32))), features=names, columns=columns
        )
    targets, found = _labels(y, path, classes)
    return Read("tabular-classification", Arrays(rows, targets), classes=found, features=names, columns=columns)


def _labels(y: np.ndarray, path: Path, classes: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    if y.dtype.kind == "f" and not (np.isfinite(y) & (y == np.rint(y))).all():
        wrong = y[~(np.isfinite(y) & (y == np.rint(y)))][0]
        raise DataError(f"The labels in {path} should be class numbers, and one of them is {wrong:g}.")
    if y.dtype.kind in "US":
        texts = [str(value) for value in y]
        names = tuple(classes) or tuple(sorted(set(texts)))
        unknown = next((text for text in texts if text not in names), None)
        if unknown is not None:
            raise DataError(f"{path} has the test class {unknown!r}, which the training labels do not have.")
        return torch.tensor([names.index(text) for text in texts]), names
    labels = torch.from_numpy(y.astype(np.int64))
    return (_renumbered(labels, tuple(classes), str(path)), tuple(classes)) if classes else _numbered(labels)


def _table(path: Path, data: Data, task: str | None, notes: list[str]) -> Read:
    frame = tables.read(path)
    target = tables.target_column(frame, data, path)
    classes = tables.is_classes(frame[target], task, notes)
    if classes:
        targets, names = tables.class_targets(frame[target], None, path)
    else:
        targets, names = tables.number_targets(frame[target], path), ()
    kind = "tabular-classification" if classes else "tabular-regression"
    return Read(kind, Arrays(torch.zeros(len(frame), 0), targets), classes=names, frame=frame)


# ---- splitting


def _split(found: Read, data: Data, notes: list[str]) -> tuple[Arrays, Arrays | None, Arrays | None]:
    """Test first, then validation from what is left, then separate sets in their place."""
    samples, targets = torch.arange(len(found.train)), found.train.targets
    stratify = bool(found.classes)
    share = data.test_share if data.test_share is not None else found.test_share
    held: dict[str, Tensor] = {}
    if share and found.test is None and data.test is None:
        samples, held["test"] = split(samples, targets, share, seed=data.split_seed, what="test", stratify=stratify)
    if data.valid_share and found.valid is None and data.valid is None:
        samples, held["valid"] = split(
            samples, targets, data.valid_share, seed=data.split_seed, what="validation", stratify=stratify
        )
    if found.frame is not None:
        return _split_table(found, data, samples, held, notes)
    parts = {"valid": found.valid, "test": found.test} | {
        name: found.train.take(numbers) for name, numbers in held.items()
    }
    for name, path in (("valid", data.valid), ("test", data.test)):
        if path is not None:
            other = read(existing(path, f"data.{name}"), data, found.task, notes)
            if other.train.inputs.shape[1:] != found.train.inputs.shape[1:]:
                raise DataError(
                    f"A sample in {path} has the shape {list(other.train.inputs.shape[1:])}, and one in {data.source} {list(found.train.inputs.shape[1:])}."
                )
            parts[name] = Arrays(other.train.inputs, _as_in_training(other, found, path))
    return found.train.take(samples), parts["valid"], parts["test"]


def _split_table(
    found: Read, data: Data, samples: Tensor, held: dict[str, Tensor], notes: list[str]
) -> tuple[Arrays, Arrays | None, Arrays | None]:
    path, frame = Path(data.source), found.frame
    rows = frame.iloc[samples.numpy()]
    tables.encoding(
        frame, data, path, []
    )  # what is wrong is told with the row number in the file, wherever the row went
    how = tables.encoding(rows.reset_index(drop=True), data, path, notes)
    found.features, found.columns = how.features, how.as_dict()
    parts: dict[str, Arrays | None] = {"valid": None, "test": None}
    for name, numbers in held.items():
        parts[name] = Arrays(
            tables.encoded(frame.iloc[numbers.numpy()], how, data, path, notes), found.train.targets[numbers]
        )
    for name, other in (("valid", data.valid), ("test", data.test)):
        if other is not None:
            there = existing(other, f"data.{name}")
            table = tables.read(there)
            tables.same_columns(frame, table, there)
            column = table[data.target]
            targets = (
                tables.class_targets(column, found.classes, there)[0]
                if found.classes
                else tables.number_targets(column, there)
            )
            parts[name] = Arrays(tables.encoded(table, how, data, there, notes), targets)
    train = Arrays(tables.encoded(rows, how, data, path, notes), found.train.targets[samples])
    return train, parts["valid"], parts["test"]


def _as_in_training(other: Read, found: Read, path: str) -> Tensor:
    if not found.classes:
        return other.train.targets
    strangers = [name for name in other.classes if name not in found.classes]
    if strangers:
        raise DataError(
            f"{path} has the class {strangers[0]!r}, which the training data does not have ({', '.join(found.classes)})."
        )
    numbers = torch.tensor([found.classes.index(name) for name in other.classes])
    return numbers[other.train.targets]


def _numbered(labels: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Arbitrary whole numbers as classes from 0, and what they were."""
    values, numbers = torch.unique(labels, return_inverse=True)
    if len(values) < 2:
        raise DataError(f"All labels are {int(values[0])}; there is nothing to tell apart.")
    return numbers, tuple(map(str, values.tolist()))


def _renumbered(labels: Tensor, names: Sequence[str], where: str) -> Tensor:
    known = {int(name): i for i, name in enumerate(names)}
    strangers = [label for label in torch.unique(labels).tolist() if label not in known]
    if strangers:
        raise DataError(f"The label {strangers[0]} is in {where}, and no training sample has it ({', '.join(names)}).")
    return torch.tensor([known[label] for label in labels.tolist()])
