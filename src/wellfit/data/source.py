"""The door to data that wellfit reads itself: an embedded set by name, or a path by what is there.

a folder with train-images-idx3-ubyte     MNIST-style idx
a folder of folders of pictures           images by class; or train/, val/ and test/ with those in them
.npz                                      arrays of images [N, H, W, ...] or rows [N, F], and labels
.csv .tsv .parquet                        a table; `data.target` names the column to predict
.jsonl .json .parquet                     conversations, by the names of their columns
hf:NAME                                   a set of the Hugging Face hub, which is fetched once

>>> load(Data(source="digits")).task
'image-classification'
"""

from collections.abc import Callable, Container, Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellfit.data import (
    annotations,
    boxes,
    canvases,
    chats,
    couples,
    embedded,
    hub,
    images,
    language,
    pairs,
    series,
    tables,
    tagged,
    texts,
)
from wellfit.data.arrays import Arrays, Loaded
from wellfit.data.fingerprint import fingerprint
from wellfit.data.paths import VALID_FOLDERS, existing, expanded
from wellfit.data.split import fewer, once, split
from wellfit.errors import DataError, RecipeError
from wellfit.recipe import Data

NPZ_PAIRS = (
    ("x", "y"), ("X", "y"), ("inputs", "targets"), ("images", "labels"), ("data", "labels"), ("data", "label"),
    ("arr_0", "arr_1"),
)  # fmt: skip


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
    pictures: bool = False  # decoded from files, so grey and colour can be brought together
    test_share: float = 0.0


def load(data: Data, task: str | None = None) -> Loaded:
    """Reads, checks and splits. Raises DataError, naming file, row or class, for whatever is wrong."""
    notes: list[str] = []
    if data.source.startswith(hub.PREFIX):
        loaded = load(_on_disk(data), task)
        return replace(loaded, name=data.source.removeprefix(hub.PREFIX).split("/")[-1].replace(":", "-"))
    reader = _reader(data, task)
    if reader is not None:
        if data.deduplicate:
            raise RecipeError(
                f"`data.deduplicate` is for rows and pictures of one size, and {data.source} holds neither. Leave it false, and take repeats out "
                "of the files."
            )
        if reader.unlabelled and data.train_samples is not None and not chats.holds(Path(data.source).expanduser()):
            raise RecipeError(
                f"`data.train_samples` is {data.train_samples:,}, but these samples are {reader.unlabelled}, which nobody labels one by "
                "one. Leave it open, and name shorter data to learn from less."
            )
        return reader.read(data, _name(data.source), notes)
    if data.source in embedded.SETS:
        name, found = data.source, _embedded(data.source)
    else:
        path = existing(data.source, "data.source", names())
        name, found = _name(data.source), read(path, data, task, notes)
    if task is not None and task != found.task:
        raise RecipeError(
            f"`task` is {task}, but {data.source} holds data for {found.task}. Leave `task` open, or name other data."
        )
    if found.frame is None:
        _add_separate(found, data, notes)
    _say_what_is_not_used(found, data, notes)
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
        notes=tuple(dict.fromkeys(notes)),
    )


def _on_disk(data: Data) -> Data:
    """The same settings, with the files of a fetched set in place of its name."""
    parts = {part: str(path) for part, path in hub.fetched(data.source).items()}
    own = {part: getattr(data, part) or parts.get(part) for part in ("valid", "test")}
    return data.model_copy(update={"source": parts["train"], **own})


def _name(source: str) -> str:
    return Path(source).stem.split(".")[0] or "data"


@dataclass(frozen=True)
class Reader:
    """How data of a task is read whose samples are no rows and no pictures of one size."""

    read: Callable[[Data, str, list[str]], Loaded]  # (settings, a name for the set, notes)
    embedded: tuple[str, ...] = ()  # names of sets that are on every machine
    holds: Callable[[Path, Data], bool] = lambda _path, _data: False  # whether a path can be nothing else
    beside: Callable[[Path, Data], bool] = lambda _path, _data: (
        False
    )  # the same of a path that is only what names of files share
    unlabelled: str = ""  # what its samples are, where they are no things that somebody gives a label


def _holds_labelled(path: Path, data: Data) -> bool:
    return not chats.holds(path, data) and texts.holds_labelled(path, data)


def _holds_writing(path: Path, data: Data) -> bool:
    return chats.holds(path, data) or texts.holds_running(path, data)


READERS: dict[str, Reader] = {  # by task; what is at a path is asked in this order
    "object-detection": Reader(boxes.detection, (canvases.NAME,), annotations.holds),
    "text-classification": Reader(language.classification, ("stdlib-kinds",), _holds_labelled),
    "text-generation": Reader(language.generation, ("stdlib",), _holds_writing, unlabelled="windows of a running text"),
    "seq-to-seq": Reader(pairs.translation, ("syntax",), pairs.holds, pairs.beside),
    "sentence-embeddings": Reader(couples.matching, ("docstrings",)),
    "token-classification": Reader(tagged.tagging, ("python-names",), tagged.holds),
    "forecasting": Reader(
        series.forecasting, series.EMBEDDED, series.holds, unlabelled="windows of a series that overlap"
    ),
}


def names() -> list[str]:
    """All sets that are on every machine."""
    return [*embedded.SETS, *(name for reader in READERS.values() for name in reader.embedded)]


def _reader(data: Data, task: str | None) -> Reader | None:
    """The reader by the embedded set that is named, else by the task that is asked for, else by what is there."""
    for kind, reader in READERS.items():
        if data.source in reader.embedded:
            if task not in (None, kind):
                raise RecipeError(
                    f"`task` is {task}, but {data.source} holds data for {kind}. Leave `task` open, or name other data."
                )
            return reader
    path = expanded(data.source, "data.source")
    if task in READERS:
        if not READERS[task].beside(path, data):
            existing(data.source, "data.source", names())
        return READERS[task]
    if task is not None or data.source in embedded.SETS:
        return None
    if not path.exists():
        return next((reader for reader in READERS.values() if reader.beside(path, data)), None)
    return next((reader for reader in READERS.values() if reader.holds(path, data)), None)


def read(path: Path, data: Data, task: str | None, notes: list[str], classes: Sequence[str] = ()) -> Read:
    """By what is at the path. `classes` are the training set's, for a validation or test set that is read after it."""
    if path.is_dir():
        if any(images.idx_file(path, f"{part}-{half}") for part in ("train", "t10k") for half in ("images", "labels")):
            return _idx(path, notes, classes)
        return _folder(path, data, notes, classes)
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty.")
    if path.suffix.lower() == ".npz":
        return _npz(path, task, notes, classes)
    if path.suffix.lower() in tables.ENDINGS:
        return _table(path, data, task, notes)
    if "idx" in path.name:
        labels = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        if "images" not in path.name:
            raise DataError(
                f"{path} has no `images` in its name. Name the file of the images; its labels are found beside it."
            )
        if not labels.exists():
            raise DataError(f"The labels of {path} were looked for in {labels.name} beside it, and it is not there.")
        return _image_classes(images.idx_arrays(path, labels, notes), path, classes)
    packed = path.suffix.lower() == ".gz" and path.name.lower().endswith(texts.ENDINGS)
    raise DataError(
        f"{path} is of no kind that is known: idx files, .npz, folders of pictures by class, and tables ({', '.join(tables.ENDINGS)})."
        + (" A packed table is read for its texts: name their column with `data.text`." if packed else "")
    )


# ---- readers


def _embedded(name: str) -> Read:
    found = embedded.SETS[name]()
    return Read(found.task, found.arrays, classes=found.classes, features=found.features, test_share=embedded.TEST_SHARE,
                columns={"numeric": list(found.features)} if found.features else {})  # fmt: skip


def _idx(folder: Path, notes: list[str], classes: Sequence[str]) -> Read:
    train, test = (images.idx_pair(folder, part, notes) for part in ("train", "t10k"))
    if train is None and classes:  # a test set of its own may well be t10k alone
        train, test = test, None
    if train is None:
        raise DataError(f"{folder} holds t10k-images, a test set, but no train-images to learn from.")
    found = _image_classes(train, folder, classes)
    if test is not None and len(test):
        found.test = _image_classes(test, folder, found.classes).train
    return found


def _image_classes(arrays: Arrays, path: Path, classes: Sequence[str]) -> Read:
    if not len(arrays):
        raise DataError(f"The images in {path} are an empty array: there is nothing to learn from.")
    targets, names = _numbered(arrays.targets, classes, path)
    return Read("image-classification", Arrays(arrays.inputs, targets), classes=names)


def _folder(root: Path, data: Data, notes: list[str], classes: Sequence[str]) -> Read:
    size = data.image_size or images.DEFAULT_SIZE
    base = root / "train" if (root / "train").is_dir() else root
    names = tuple(classes) or tuple(folder.name for folder in images.class_folders(base))
    if len(names) < 2:
        rows = [file.name for file in sorted(base.iterdir()) if file.name.lower().endswith(texts.ENDINGS)]
        told = f" `wellfit suggest {root}` says what could be learnt from {', '.join(rows[:4])}." if rows else ""
        raise DataError(
            f"{base} has {len(names)} folders with pictures in them; pictures are looked for as CLASS/NAME, with a folder for each "
            f"of at least two classes.{told} For other data, name the file itself (.npz, .csv, .parquet) or the folder of idx files; "
            f"`wellfit suggest {root}` looks at what is there."
        )
    found = Read("image-classification", images.folder_arrays(base, names, size, notes), classes=names, pictures=True)
    bases = [base]
    if base != root:
        valid = next((root / name for name in VALID_FOLDERS if (root / name).is_dir()), None)
        if valid is not None:
            found.valid, bases = images.folder_arrays(valid, names, size, notes), [*bases, valid]
        if (root / "test").is_dir():
            found.test, bases = images.folder_arrays(root / "test", names, size, notes), [*bases, root / "test"]
    images.say_what_is_left_out(root, bases, names, notes)
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


def _npz(path: Path, task: str | None, notes: list[str], classes: Sequence[str]) -> Read:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # a damaged zip, a pickled array: NumPy raises many kinds
        raise DataError(
            f"{path} cannot be read: {error}. Arrays of objects are not read, because that could run code."
        ) from None
    train, valid, test = (_npz_pair(arrays, part) for part in (("", "train"), VALID_FOLDERS, ("test",)))
    if train is None:
        raise DataError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; inputs and labels are looked for as "
            f"{' or '.join(f'{a} and {b}' for a, b in NPZ_PAIRS[:5])}, or x_train and y_train with x_test and y_test."
        )
    left = [name for name in arrays if name not in {*train, *(valid or ()), *(test or ())}]
    if left:
        notes.append(f"The arrays {', '.join(left)} in {path.name} have no known name or partner and were not used.")
    found = _from_arrays(arrays[train[0]], arrays[train[1]], path, task, notes, classes)
    for name, pair in (("valid", valid), ("test", test)):
        if pair is not None:
            x, y = (arrays[half] for half in pair)
            part = _from_arrays(x, y, path, found.task, notes, found.classes)
            setattr(found, name, part.train)
    _same_shapes(found, path)
    return found


def _npz_pair(arrays: Container[str], parts: Sequence[str]) -> tuple[str, str] | None:
    """The names of the inputs and targets of a part: x_train and y_train, train_images and train_labels, x and y."""
    for part in parts:
        for pair in NPZ_PAIRS:
            for form in ("{1}_{0}", "{0}_{1}") if part else ("{1}",):
                inputs, targets = (form.format(part, name) for name in pair)
                if inputs in arrays and targets in arrays:
                    return inputs, targets
    return None


def _from_arrays(
    x: np.ndarray, y: np.ndarray, path: Path, task: str | None, notes: list[str], classes: Sequence[str]
) -> Read:
    if x.dtype.kind not in "iufb" or y.dtype.kind not in "iufbUS":
        raise DataError(
            f"The arrays in {path} are of type {x.dtype} and {y.dtype}; inputs must be numbers, and targets numbers or texts."
        )
    y = y.squeeze(-1) if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 or not x.ndim or len(x) != len(y):
        raise DataError(
            f"The inputs in {path} have the shape {list(x.shape)} and the targets {list(y.shape)}; targets must be one for each sample."
        )
    if not x.size:
        raise DataError(f"The inputs in {path}, {list(x.shape)}, are empty: there is nothing to learn from.")
    if x.ndim in (3, 4):
        targets, names = _labels(y, path, classes)
        return Read("image-classification", Arrays(images.pixels(x, str(path), notes), targets), classes=names)
    if x.ndim != 2:
        raise DataError(f"The inputs in {path} have {x.ndim} dimensions; rows have 2 and images 3 or 4.")
    rows = _finite(x, f"The inputs in {path}")
    names = tuple(f"x{i}" for i in range(x.shape[1]))
    columns = {"numeric": list(names)}
    if not _are_labels(y, path, task, notes):
        if y.dtype.kind in "US":
            raise DataError(f"`task` is {task}, but the targets in {path} are texts, {str(y[0])!r} for one.")
        return Read(
            "tabular-regression", Arrays(rows, _finite(y, f"The targets in {path}")), features=names, columns=columns
        )
    targets, found = _labels(y, path, classes)
    return Read("tabular-classification", Arrays(rows, targets), classes=found, features=names, columns=columns)


def _finite(array: np.ndarray, what: str) -> Tensor:
    """float32 of the same shape. Raises DataError for NaN, infinities, and what float32 cannot hold."""
    wrong = ~(np.abs(array.astype(np.float64)) <= np.finfo(np.float32).max)  # true for NaN
    if wrong.any():
        where = " and ".join(
            f"{name} {axis[0]}" for name, axis in zip(("row", "column"), np.nonzero(wrong), strict=False)
        )
        raise DataError(
            f"{what} have {int(wrong.sum())} values that are NaN, infinite or beyond float32, the first in {where} (counted from 0). "
            "Mend them, or take those rows out."
        )
    return torch.from_numpy(array.astype(np.float32))


def _are_labels(y: np.ndarray, path: Path, task: str | None, notes: list[str]) -> bool:
    """Whether the targets of rows are classes: as the task says, else by type and by how often each value comes."""
    if task is not None:
        return task != "tabular-regression"
    if y.dtype.kind in "bUS":
        return True
    if (y == y[0]).all():
        raise DataError(f"The targets in {path} are all {y[0]:g}; there is nothing to tell apart.")
    most = len(y) if y.dtype.kind in "iu" else tables.FEW_CLASSES  # whoever stores integers means classes
    return tables.few_values(y.astype(np.float64), f"target in {path.name}", notes, most)


def _labels(y: np.ndarray, path: Path, classes: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8", "replace")
    if y.dtype.kind == "U":
        names = tuple(classes) or tuple(sorted(set(y.tolist())))
        return _numbers_of(y.tolist(), names, path), names
    return _numbered(torch.from_numpy(images.class_numbers(y, str(path))), classes, path)


def _table(path: Path, data: Data, task: str | None, notes: list[str]) -> Read:
    if task is not None and not task.startswith("tabular"):
        raise RecipeError(f"`task` is {task}, but {path} is a table. Leave `task` open, or name other data.")
    frame = tables.read(path, notes)
    target = tables.target_column(frame, data, path)
    classes = tables.is_classes(frame[target], task, path, notes)
    if classes:
        targets, names = tables.class_targets(frame[target], None, path)
    else:
        targets, names = tables.number_targets(frame[target], path), ()
    kind = "tabular-classification" if classes else "tabular-regression"
    return Read(kind, Arrays(torch.zeros(len(frame), 0), targets), classes=names, frame=frame)


# ---- separate sets


def _add_separate(found: Read, data: Data, notes: list[str]) -> None:
    """Validation and test sets that have a path of their own, in place of any that came with the data."""
    for name, path in (("valid", data.valid), ("test", data.test)):
        if path is None:
            continue
        there = existing(path, f"data.{name}")
        if there.suffix.lower() in tables.ENDINGS:
            raise DataError(
                f"`data.{name}` is {path}, a table, but {data.source} is none. Both must be of the same kind."
            )
        other = read(there, data, found.task, notes, found.classes)
        if other.task != found.task:
            raise DataError(f"{path} holds data for {other.task}, but {data.source} for {found.task}.")
        if other.valid is not None or other.test is not None:
            notes.append(
                f"Of {path} only the training part is used, as the {name} set; its own held-out parts are not."
            )
        setattr(found, name, other.train)
    if found.pictures:
        _alike_in_channels(found)
    _same_shapes(found, data.source)


def _same_shapes(found: Read, path: Path | str) -> None:
    for name, part in (("validation", found.valid), ("test", found.test)):
        if part is not None and part.inputs.shape[1:] != found.train.inputs.shape[1:]:
            raise DataError(
                f"A {name} sample has the shape {list(part.inputs.shape[1:])}, but a training sample in {path} {list(found.train.inputs.shape[1:])}."
            )


def _say_what_is_not_used(found: Read, data: Data, notes: list[str]) -> None:
    """Settings that have no effect on data of this kind."""
    idle = [name for name in ("target", "categorical", "ignore") if getattr(data, name)] if found.frame is None else []
    if data.image_size is not None and not found.pictures:
        idle.append("image_size")
    if data.test_share and (found.test is not None or data.test is not None):
        idle.append("test_share")
    if idle:
        notes.append(f"Without effect on {data.source}: {', '.join(f'`data.{name}`' for name in idle)}.")


# ---- splitting


def _split(found: Read, data: Data, notes: list[str]) -> tuple[Arrays, Arrays | None, Arrays | None]:
    """Test first, then validation from what is left; a set that came separately stays whole."""
    samples, targets = torch.arange(len(found.train)), found.train.targets
    how: dict[str, Any] = dict(seed=data.split_seed, stratify=bool(found.classes), names=found.classes)
    share = data.test_share if data.test_share is not None else found.test_share
    held: dict[str, Tensor] = {}
    if share and found.test is None and data.test is None:
        samples, held["test"] = split(samples, targets, share, what="test", **how)
    if data.valid_share and found.valid is None and data.valid is None:
        samples, held["valid"] = split(samples, targets, data.valid_share, what="validation", **how)
    if data.deduplicate:
        keys = _keys(found)
        apart = [key for part in (found.valid, found.test) if part is not None for key in _contents(part)]
        samples = once(
            samples, keys, [*apart, *(keys[i] for numbers in held.values() for i in numbers.tolist())], notes
        )
    samples = fewer(data, samples, notes, targets if found.classes else None, found.classes)
    if found.frame is not None:
        return _split_table(found, data, samples, held, notes)
    parts = {"valid": found.valid, "test": found.test}
    parts |= {name: found.train.take(numbers) for name, numbers in held.items()}
    return found.train.take(samples), parts["valid"], parts["test"]


def _keys(found: Read) -> list[Hashable]:
    """For each sample something that is equal where inputs and target are."""
    if found.frame is None:
        return _contents(found.train)
    return [tuple(row) for row in found.frame.astype(str).itertuples(index=False)]


def _contents(part: Arrays) -> list[Hashable]:
    return [
        (inputs.tobytes(), target)
        for inputs, target in zip(part.inputs.contiguous().numpy(), part.targets.tolist(), strict=True)
    ]


def _split_table(
    found: Read, data: Data, samples: Tensor, held: dict[str, Tensor], notes: list[str]
) -> tuple[Arrays, Arrays | None, Arrays | None]:
    path, frame = Path(data.source), found.frame
    tables.encoding(frame, data, path, [])  # what is wrong is told of the whole file, wherever the row went
    rows = frame.iloc[samples.numpy()]
    how = tables.encoding(rows, data, path, notes)
    found.features, found.columns = how.features, how.as_dict()
    parts: dict[str, Arrays | None] = {"valid": None, "test": None}
    for name, numbers in held.items():
        inputs = tables.encoded(frame.iloc[numbers.numpy()], how, data, path, notes)
        parts[name] = Arrays(inputs, found.train.targets[numbers])
    for name, other in (("valid", data.valid), ("test", data.test)):
        if other is not None:
            there = existing(other, f"data.{name}")
            table = tables.read(there, notes)
            tables.same_columns(frame, table, data, there)
            column = table[data.target]
            targets = (
                tables.class_targets(column, found.classes, there)[0]
                if found.classes
                else tables.number_targets(column, there, held_out=True)
            )
            parts[name] = Arrays(tables.encoded(table, how, data, there, notes), targets)
    train = Arrays(tables.encoded(rows, how, data, path, notes), found.train.targets[samples])
    return train, parts["valid"], parts["test"]


# ---- classes


def _numbered(labels: Tensor, classes: Sequence[str], path: Path) -> tuple[Tensor, tuple[str, ...]]:
    """Arbitrary whole numbers as classes from 0, and what they were; by `classes`, where those are known already."""
    values, numbers = torch.unique(labels, return_inverse=True)
    names = tuple(map(str, values.tolist()))
    if classes:
        return _numbers_of(names, classes, path)[numbers], tuple(classes)
    if len(values) < 2:
        raise DataError(f"All labels in {path} are {names[0]}; there is nothing to tell apart.")
    return numbers, names


def _numbers_of(labels: Sequence[str], classes: Sequence[str], path: Path) -> Tensor:
    number = {name: i for i, name in enumerate(classes)}
    stranger = next((label for label in labels if label not in number), None)
    if stranger is not None:
        raise DataError(
            f"{path} has the class {stranger!r}, which the training data does not have ({', '.join(classes)})."
        )
    return torch.tensor([number[label] for label in labels])
