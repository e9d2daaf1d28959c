"""Tables from CSV and Parquet files: which columns are numbers, which are categories, and what is wrong with the rest.

Statistics that encode a row (categories, means that fill gaps) come from the training rows alone and are kept as plain
data, so that new rows are encoded the same way. Nothing is guessed silently: what was deduced is in the notes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellfit.errors import DataError, MissingExtra, RecipeError
from wellfit.recipe import Data, nearest

MOST_CATEGORIES = 100
FEW_CLASSES = 20  # whole numbers with at most so many distinct values, each at least five times on average, are classes
GAPS = ("", "na", "n/a", "nan", "null", "none", "?", "-")


def read(path: Path) -> Any:
    """A pandas DataFrame of a .csv, .tsv or .parquet file, every column as it stands."""
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtra("pandas", "tabular", "Reading a table") from None
    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
        else:
            separator = "\t" if path.suffix.lower() == ".tsv" else _separator(path)
            head = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, skipinitialspace=True).iloc[0]
            twice = head[head.duplicated()]
            if len(twice):
                raise DataError(f"{path} has the column {twice.iloc[0]!r} more than once. Rename one of them.")
            frame = pd.read_csv(path, sep=separator, skipinitialspace=True, low_memory=False)
    except ImportError:
        raise MissingExtra("pyarrow", "tabular", "Reading a Parquet file") from None
    except (ValueError, OSError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as a table: {' '.join(str(error).split())}.") from None
    if not len(frame):
        raise DataError(f"{path} has a header and no rows: there is nothing to learn from.")
    frame.columns = [str(name) for name in frame.columns]
    return frame


def _separator(path: Path) -> str:
    """The commonest of , ; tab and | in the first line."""
    with path.open(encoding="utf-8", errors="replace") as file:
        first = file.readline()
    return max(",;\t|", key=first.count)


@dataclass(frozen=True)
class Encoding:
    """How a row becomes inputs. Plain data."""

    numeric: tuple[str, ...]
    fill: dict[str, float]  # column -> what replaces a gap
    categories: dict[str, tuple[str, ...]]  # column -> its values, one input each

    @property
    def features(self) -> tuple[str, ...]:
        return (*self.numeric, *(f"{name}={value}" for name, values in self.categories.items() for value in values))

    def as_dict(self) -> dict[str, Any]:
        return {
            "numeric": list(self.numeric),
            "fill": self.fill,
            "categories": {k: list(v) for k, v in self.categories.items()},
        }


def target_column(frame: Any, data: Data, path: Path) -> str:
    """The column to predict, and every other name in the recipe checked against the table."""
    names = list(frame.columns)
    if data.target is None:
        raise DataError(f"Which column of {path} is to be predicted? Set `data.target` to one of {_listed(names)}.")
    for field, wanted in (("target", (data.target,)), ("categorical", data.categorical), ("ignore", data.ignore)):
        for name in wanted:
            if name not in names:
                raise DataError(
                    f"`data.{field}` names {name!r}, which is not a column of {path}.{nearest(name, names)} It has {_listed(names)}."
                )
    if data.target in data.ignore:
        raise RecipeError(
            f"`data.target` is {data.target!r}, which `data.ignore` leaves out. Take it out of one of them."
        )
    return data.target


def same_columns(frame: Any, other: Any, path: Path) -> None:
    missing = [name for name in frame.columns if name not in other.columns]
    if missing:
        raise DataError(
            f"{path} lacks the column {missing[0]!r} that the training table has.{nearest(missing[0], other.columns)}"
        )


def encoding(frame: Any, data: Data, path: Path, notes: list[str]) -> Encoding:
    """What the training rows say about each column. Raises DataError naming column, row and value of what is wrong."""
    numeric, fill, categories = [], {}, {}
    for name in frame.columns:
        if name == data.target or name in data.ignore:
            continue
        column = frame[name]
        if _is_date(column):
            raise DataError(
                f"The column {name!r} of {path} holds dates, which are no numbers. Put it in `data.ignore`, or make columns of it (day, weekday, ...)."
            )
        if name in data.categorical or _is_text(column, path, name):
            values = _texts(column)
            gaps = int((values == "").sum())
            if gaps and data.missing == "error":
                raise _gap(name, path, gaps, int(np.flatnonzero(values == "")[0]))
            kinds = sorted(set(values))
            if len(kinds) > MOST_CATEGORIES:
                raise DataError(
                    f"The column {name!r} of {path} has {len(kinds)} different texts ({kinds[0]!r}, {kinds[1]!r}, ...), which is too many for "
                    f"one input each (the most is {MOST_CATEGORIES}). If it is a name or an id, put it in `data.ignore`."
                )
            categories[name] = tuple(kinds)
        else:
            numbers = _numbers(column)
            gaps = int((~np.isfinite(numbers)).sum())
            if gaps == len(numbers):
                raise DataError(f"The column {name!r} of {path} is empty. Put it in `data.ignore`.")
            if gaps and data.missing == "error":
                raise _gap(name, path, gaps, int(np.flatnonzero(~np.isfinite(numbers))[0]))
            numeric.append(name)
            fill[name] = float(numbers[np.isfinite(numbers)].mean())
    if not numeric and not categories:
        raise DataError(f"{path} has no column left to learn from besides the target {data.target!r}.")
    if categories:
        notes.append(
            f"Columns read as categories, one input for each value: {', '.join(f'{k} ({len(v)})' for k, v in categories.items())}."
        )
    return Encoding(tuple(numeric), fill, categories)


def encoded(frame: Any, how: Encoding, data: Data, path: Path, notes: list[str]) -> Tensor:
    """float32 [N, F]. Gaps are filled and unseen categories left all zero, each with a count in the notes."""
    parts = []
    for name in how.numeric:
        _is_text(frame[name], path, name)
        numbers = _numbers(frame[name])
        gaps = ~np.isfinite(numbers)
        if gaps.any():
            if data.missing == "error":
                raise _gap(name, path, int(gaps.sum()), int(np.flatnonzero(gaps)[0]))
            notes.append(
                f"{int(gaps.sum())} gaps in the column {name!r} of {path.name} were filled with the training mean, {how.fill[name]:.4g}."
            )
            numbers = np.where(gaps, how.fill[name], numbers)
        parts.append(numbers[:, None])
    for name, values in how.categories.items():
        texts = _texts(frame[name])
        one_hot = texts[:, None] == np.array(values, dtype=object)[None, :]
        unseen = ~one_hot.any(1)
        if unseen.any():
            first = texts[int(np.flatnonzero(unseen)[0])]
            notes.append(
                f"{int(unseen.sum())} rows of {path.name} have a value of {name!r} that no training row has ({first!r}); their inputs for it are all 0."
            )
        parts.append(one_hot)
    return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))


def is_classes(column: Any, task: str | None, notes: list[str]) -> bool:
    """Whether the target is classes or numbers: as the recipe says, else deduced, with a note."""
    if task is not None:
        return task == "tabular-classification"
    name, count, rows = column.name, column.nunique(), len(column)
    if column.dtype == bool or not _looks_numeric(column):
        return True
    numbers = _numbers(column)
    finite = numbers[np.isfinite(numbers)]
    whole = bool((finite == np.rint(finite)).all())
    few = whole and count <= FEW_CLASSES and rows >= 5 * count
    kind, other = ("classes", "tabular-regression") if few else ("numbers", "tabular-classification")
    notes.append(
        f"The target {name!r} was taken as {kind} ({count} different values in {rows} rows). If it is not, set `task={other}`."
    )
    return few


def class_targets(column: Any, classes: Sequence[str] | None, path: Path) -> tuple[Tensor, tuple[str, ...]]:
    """Class numbers [N] and names; `classes` are the training table's, for the others."""
    texts = _texts(column)
    if (texts == "").any():
        raise _gap(str(column.name), path, int((texts == "").sum()), int(np.flatnonzero(texts == "")[0]), target=True)
    names = tuple(classes) if classes is not None else tuple(sorted(set(texts), key=_by_number))
    if len(names) < 2:
        raise DataError(f"The target {column.name!r} of {path} is always {names[0]!r}; there is nothing to tell apart.")
    number = {name: i for i, name in enumerate(names)}
    strangers = [text for text in texts if text not in number]
    if strangers:
        raise DataError(
            f"{path} has the class {strangers[0]!r} in {column.name!r}, which the training table does not have ({_listed(names)})."
        )
    return torch.tensor([number[text] for text in texts]), names


def number_targets(column: Any, path: Path) -> Tensor:
    _is_text(column, path, str(column.name), numbers_only=True)
    numbers = _numbers(column)
    gaps = ~np.isfinite(numbers)
    if gaps.any():
        raise _gap(str(column.name), path, int(gaps.sum()), int(np.flatnonzero(gaps)[0]), target=True)
    if numbers.min() == numbers.max():
        raise DataError(f"The target {column.name!r} of {path} is always {numbers[0]:g}; there is nothing to predict.")
    return torch.from_numpy(numbers.astype(np.float32))


# ---- inside


def _is_text(column: Any, path: Path, name: str, numbers_only: bool = False) -> bool:
    """True for a column of texts, False for numbers; a text among numbers is an error that names it."""
    if column.dtype == bool or column.dtype.kind in "iuf" or not len(column):
        return False
    texts = _texts(column)
    filled = np.array([text for text in texts if text.lower() not in GAPS], dtype=object)
    wrong = np.array([not _is_number(text) for text in filled], dtype=bool)
    if not len(filled) or not wrong.any():
        return False
    if not numbers_only and wrong.mean() > 0.5:
        return True
    value = filled[int(np.flatnonzero(wrong)[0])]
    row = int(np.flatnonzero(texts == value)[0])
    raise DataError(
        f"The column {name!r} of {path} has text where a number belongs: {value!r} in row {row + 2} (the header is row 1; {int(wrong.sum())} of "
        f"{len(texts)} cells). Mend the cell"
        + ("." if numbers_only else f", or read the column as categories with `data.categorical=[{name}]`.")
    )


def _looks_numeric(column: Any) -> bool:
    return column.dtype.kind in "iuf" or all(_is_number(text) for text in _texts(column) if text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_date(column: Any) -> bool:
    return bool(column.dtype.kind == "M")


def _numbers(column: Any) -> np.ndarray:
    """float64 [N]; whatever is not a number is NaN."""
    import pandas as pd

    numbers: np.ndarray = pd.to_numeric(column, errors="coerce").astype("float64").to_numpy(na_value=np.nan)
    return numbers


def _texts(column: Any) -> np.ndarray:
    """Texts [N]; a gap is the empty text, and 3.0 is '3', so that a column reads the same with and without gaps."""

    def text(value: Any) -> str:
        if value is None or value != value:
            return ""
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        return str(value).strip()

    import pandas as pd

    return np.array(
        ["" if value is pd.NA or value is pd.NaT else text(value) for value in column.tolist()], dtype=object
    )


def _by_number(text: str) -> tuple[int, float, str]:
    return (0, float(text), text) if _is_number(text) else (1, 0.0, text)


def _gap(name: str, path: Path, count: int, row: int, target: bool = False) -> DataError:
    advice = (
        "A row without a target teaches nothing: fill it in, or take those rows out."
        if target
        else "Fill them in, set `data.missing=mean` to use the training mean, or leave the column out with `data.ignore`."
    )
    return DataError(
        f"The column {name!r} of {path} has {count} empty or non-finite {'cell' if count == 1 else 'cells'}, the first in row {row + 2} "
        f"(the header is row 1). {advice}"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
