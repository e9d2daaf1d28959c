"""Tables from CSV and Parquet files: which columns are numbers, which are categories, and what is wrong with the rest.

Statistics that encode a row (categories, means that fill gaps) come from the training rows alone and are kept as plain
data, so that new rows are encoded the same way. Nothing is guessed silently: what was deduced is in the notes. Rows are
told as a spreadsheet shows them: the header is row 1, and blank lines count.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellfit.errors import DataError, MissingExtra, RecipeError
from wellfit.recipe import Data, nearest

GIVEN = Path("the rows given")  # in place of a table's path, where rows came from elsewhere
ENDINGS = (".csv", ".tsv", ".parquet", ".txt")
MOST_CATEGORIES = 100
FEW_CLASSES = 20  # whole numbers with at most so many distinct values, each at least five times on average, are classes
GAPS = ("", "na", "n/a", "nan", "null", "none", "?", "-")
DATE = re.compile(r"\d{4}[-/]\d{1,2}|\d{4}[-/.]\d{1,2}[-/.]\d{1,2}([T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}( .*)?")
DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")


def read(path: Path, notes: list[str]) -> Any:
    """A pandas DataFrame of a .csv, .tsv or .parquet file, every column as it stands; `index + 2` is the row in the file."""
    if path.is_dir() or path.suffix.lower() not in ENDINGS:
        raise DataError(f"{path} is not a table. What goes with a table must be one too ({', '.join(ENDINGS)}).")
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtra("pandas", "tabular", "Reading a table") from None
    try:
        frame = _parquet(path, notes) if path.suffix.lower() == ".parquet" else _csv(path)
    except DataError:
        raise
    except ImportError:
        raise MissingExtra("pyarrow", "tabular", "Reading a Parquet file") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 ({error}). Save it as CSV with the encoding UTF-8.") from None
    except (ValueError, OSError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path} cannot be read as a table: {' '.join(str(error).split())}.") from None
    frame.columns = [str(name).strip() for name in frame.columns]
    _unique(list(frame.columns), path)
    blank = frame.isna().all(axis=1).to_numpy()
    if blank.any() and not blank.all():
        first = int(frame.index[int(blank.argmax())]) + 2
        notes.append(
            f"{int(blank.sum())} rows of {path.name} hold nothing and were left out, the first is row {first}."
        )
        frame = frame[~blank].infer_objects()
    if not len(frame):
        raise DataError(f"{path} has a header and no rows: there is nothing to learn from.")
    return frame


def _csv(path: Path) -> Any:
    import pandas as pd

    separator, above = _opening(path)
    how = dict(sep=separator, skipinitialspace=True, skip_blank_lines=False, skiprows=above)
    head = [str(name).strip() for name in pd.read_csv(path, header=None, nrows=1, dtype=str, **how).iloc[0].dropna()]
    if all(map(_is_number, head)) and (len(set(head)) < len(head) or any("." in name for name in head)):
        raise DataError(
            f"The first line of {path} holds numbers ({_listed(head[:3])}, ...), not the names of the columns. Put a line with names above it."
        )
    _unique(head, path)
    frame = pd.read_csv(path, low_memory=False, **how)
    if not isinstance(frame.index, pd.RangeIndex):  # pandas took the first cells for row labels and shifted the names
        raise DataError(
            f"The rows of {path} have more cells than its header has names ({len(head)}). Name every column, or remove what is too much."
        )
    frame.index = frame.index + above
    return frame


def _parquet(path: Path, notes: list[str]) -> Any:
    import pandas as pd

    frame = pd.read_parquet(path)
    if frame.index.names[0] is not None:
        frame = frame.reset_index()  # a column of the file that pandas had made row labels of
    elif not isinstance(frame.index, pd.RangeIndex):
        notes.append(f"The row labels stored in {path.name} have no name and were left out.")
    return frame.set_axis(range(len(frame)), axis=0)


def _opening(path: Path) -> tuple[str, int]:
    """The commonest of , ; tab and | in the first line that is not blank, and how many lines are above it."""
    above, first = 0, ""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for above, first in enumerate(file):  # noqa: B007 - both are used after the loop
            if first.strip():
                break
    return ("\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=first.count)), above


def _unique(names: Sequence[str], path: Path) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{path} has the column {name!r} more than once. Rename one of them.")
        seen.add(name)


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
        raise DataError(
            f"Which column of {path} is to be predicted? Set `data.target` to one of {_listed(names)}. If its rows "
            "follow each other in time, or hold texts, `wellfit suggest` finds the task."
        )
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


def same_columns(frame: Any, other: Any, data: Data, path: Path) -> None:
    """Raises DataError unless `other` has the columns that the training table is read for, and no more."""
    missing = [name for name in frame.columns if name not in other.columns and name not in data.ignore]
    extra = [name for name in other.columns if name not in frame.columns and name not in data.ignore]
    if missing:
        near = nearest(missing[0], extra)
        raise DataError(f"{path} lacks the column {missing[0]!r} that the training table has.{near}")
    if extra:
        raise DataError(
            f"{path} has the column {extra[0]!r}, which the training table does not have. Remove it, so that it is sure that both mean the same."
        )


def encoding(frame: Any, data: Data, path: Path, notes: list[str]) -> Encoding:
    """What the training rows say about each column. Raises DataError naming column, row and value of what is wrong."""
    numeric, fill, categories = [], {}, {}
    for name in frame.columns:
        if name == data.target or name in data.ignore:
            continue
        column = frame[name]
        chosen = name in data.categorical
        if not chosen:
            _refuse_other_kinds(column, path)
        if chosen or _is_text(column, path):
            values = _texts(column)
            if (values == "").any() and data.missing == "error":
                raise _gap(column, path, values == "")
            kinds = sorted(set(values))
            if len(kinds) > MOST_CATEGORIES:
                raise DataError(
                    f"The column {name!r} of {path} has {len(kinds)} different texts ({kinds[0]!r}, {kinds[1]!r}, ...), which is too many for "
                    f"one input each (the most is {MOST_CATEGORIES}). If it is running text, set "
                    "`task=text-classification`; if it is a name or an id, put it in `data.ignore`."
                )
            categories[name] = tuple(kinds)
        else:
            numbers = _numbers(column)
            known = np.isfinite(numbers)
            if not known.any():
                raise DataError(f"The column {name!r} of {path} is empty. Put it in `data.ignore`.")
            if not known.all() and data.missing == "error":
                raise _gap(column, path, ~known)
            numeric.append(name)
            fill[name] = float(numbers[known].mean())
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
        column = frame[name]
        _is_text(column, path, numbers_only=True)
        numbers = _numbers(column)
        gaps = ~np.isfinite(numbers)
        if gaps.any():
            if data.missing == "error":
                raise _gap(column, path, gaps)
            notes.append(
                f"{int(gaps.sum())} gaps in the column {name!r} of {path.name} were filled with the training mean, {how.fill[name]:.4g}."
            )
            numbers = np.where(gaps, how.fill[name], numbers)
        parts.append(_single(numbers, column, path)[:, None])
    for name, values in how.categories.items():
        texts = _texts(frame[name])
        if (texts == "").any():
            if data.missing == "error":
                raise _gap(frame[name], path, texts == "")
            notes.append(
                f"{int((texts == '').sum())} gaps in the column {name!r} of {path.name} were taken as a category of their own."
            )
        one_hot = texts[:, None] == np.array(values, dtype=object)[None, :]
        unseen = ~one_hot.any(1)
        if unseen.any():
            first = texts[int(unseen.argmax())]
            notes.append(
                f"{int(unseen.sum())} rows of {path.name} have a value of {name!r} that no training row has ({first!r}); their inputs for it are all 0."
            )
        parts.append(one_hot.astype(np.float32))
    return torch.from_numpy(np.concatenate(parts, axis=1))


def is_classes(column: Any, task: str | None, path: Path, notes: list[str]) -> bool:
    """Whether the target is classes or numbers: as the recipe says, else deduced, with a note."""
    if task is not None:
        return task == "tabular-classification"
    if column.dtype.kind == "b" or _is_text(column, path, otherwise="set `task=tabular-classification`"):
        return True
    return few_values(_numbers(column), f"target {column.name!r}", notes)


def few_values(numbers: np.ndarray, what: str, notes: list[str], most: int = FEW_CLASSES) -> bool:
    """Whether numbers [N] are classes: whole, at most `most` distinct, each five times on average. Says so in a note."""
    finite = numbers[np.isfinite(numbers)]
    count, rows = len(np.unique(finite)), len(numbers)
    few = bool((finite == np.rint(finite)).all()) and count <= most and rows >= 5 * count
    kind, other = ("classes", "tabular-regression") if few else ("numbers", "tabular-classification")
    notes.append(
        f"The {what} was taken as {kind} ({count} different values in {rows} rows). If it is not, set `task={other}`."
    )
    return few


def class_targets(column: Any, classes: Sequence[str] | None, path: Path) -> tuple[Tensor, tuple[str, ...]]:
    """Class numbers [N] and names; `classes` are the training table's, for the others."""
    texts = _texts(column)
    gaps = ~np.isfinite(_numbers(column)) if _looks_numeric(column) else texts == ""
    if gaps.any():
        raise _gap(column, path, gaps, target=True)
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


def number_targets(column: Any, path: Path, held_out: bool = False) -> Tensor:
    """float32 [N]. A constant is an error in a table that is learnt from, not in one that is `held_out`."""
    _is_text(column, path, numbers_only=True)
    numbers = _numbers(column)
    gaps = ~np.isfinite(numbers)
    if gaps.any():
        raise _gap(column, path, gaps, target=True)
    if not held_out and numbers.min() == numbers.max():
        raise DataError(f"The target {column.name!r} of {path} is always {numbers[0]:g}; there is nothing to predict.")
    single = _single(numbers, column, path)
    if not held_out and len(np.unique(single)) < 0.9 * len(np.unique(numbers)):
        raise DataError(
            f"The target {column.name!r} of {path} has values around {numbers.mean():g} that differ by less than float32 can tell. "
            "Subtract an offset from all of them, or give them in another unit."
        )
    return torch.from_numpy(single)


# ---- inside


def _is_text(column: Any, path: Path, numbers_only: bool = False, otherwise: str | None = None) -> bool:
    """True for a column of texts, False for numbers; a text among numbers is an error that names it."""
    if column.dtype.kind in "biuf" or not len(column):
        return False
    texts = _texts(column)
    filled = np.array([text.lower() not in GAPS for text in texts])
    wrong = np.array([not _is_number(text) for text in texts]) & filled
    if not wrong.any():
        return False
    if not numbers_only and wrong.sum() > 0.5 * filled.sum():
        return True
    first = int(wrong.argmax())
    otherwise = otherwise or f"read the column as categories with `data.categorical=[{column.name}]`"
    raise DataError(
        f"The column {column.name!r} of {path} has text where a number belongs: {texts[first]!r} in {_row(column, first, path)}, "
        f"as {int(wrong.sum())} of {len(texts)} cells do. Mend the cell{'' if numbers_only or path == GIVEN else f', or {otherwise}'}."
    )


def _refuse_other_kinds(column: Any, path: Path) -> None:
    """Raises DataError for dates, decimal commas and whole arrays, which one-hot columns would only blur."""
    what = f"The column {column.name!r} of {path} holds"
    if column.dtype.kind in "mM":
        texts = [""]
        dates = True
    elif column.dtype.kind in "biuf":
        return
    else:
        if any(isinstance(value, (list, tuple, dict, set, bytes, np.ndarray)) for value in column.tolist()):
            raise DataError(
                f"{what} lists or other things that are no single number or text. Put it in `data.ignore`, or make columns of it."
            )
        texts = [text for text in _texts(column) if text.lower() not in GAPS]
        dates = bool(texts) and all(map(DATE.fullmatch, texts))
    if dates:
        raise DataError(
            f"{what} dates, which are no numbers. Put it in `data.ignore`, or make columns of it (day, weekday, ...). If they are "
            f"categories, say so with `data.categorical=[{column.name}]`."
        )
    if texts and all(map(DECIMAL_COMMA.fullmatch, texts)):
        raise DataError(
            f"{what} numbers with a comma ({texts[0]!r}). Save the table with decimal points and no separators, or read the column as "
            f"categories with `data.categorical=[{column.name}]`."
        )


def _looks_numeric(column: Any) -> bool:
    return column.dtype.kind in "iuf" or all(_is_number(text) for text in _texts(column) if text.lower() not in GAPS)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python reads 1_000 as a number; no table means that


def _numbers(column: Any) -> np.ndarray:
    """float64 [N]; whatever is not a number is NaN."""
    if column.dtype.kind in "biuf":
        numbers: np.ndarray = column.to_numpy(dtype="float64", na_value=np.nan)
        return numbers
    return np.array([float(text) if _is_number(text) else np.nan for text in _texts(column)])


def _single(numbers: np.ndarray, column: Any, path: Path) -> np.ndarray:
    """float64 -> float32, finite before and after."""
    large = np.abs(numbers) > np.finfo(np.float32).max
    if large.any():
        first = int(large.argmax())
        raise DataError(
            f"The column {column.name!r} of {path} has {numbers[first]:g} in {_row(column, first, path)}, which is more than float32 can hold "
            f"(3.4e38). Mend the cell, or give the column in a larger unit."
        )
    return numbers.astype(np.float32)


def _texts(column: Any) -> np.ndarray:
    """Texts [N]; a gap is the empty text, and 3.0 is '3', so that a column reads the same with and without gaps."""
    import pandas as pd

    def text(value: Any) -> str:
        if value is None or value is pd.NA or value is pd.NaT:
            return ""
        if isinstance(value, float):
            return "" if value != value else str(int(value)) if value.is_integer() else str(value)
        return str(value).strip()

    return np.array([text(value) for value in column.tolist()], dtype=object)


def _by_number(text: str) -> tuple[int, float, str]:
    return (0, float(text), text) if _is_number(text) else (1, 0.0, text)


def _row(column: Any, position: int, path: Path) -> str:
    """As a spreadsheet tells rows; those that were given as such have no header, and are counted from 1."""
    number = int(column.index[position])
    return f"row {number + 1}" if path == GIVEN else f"row {number + 2} (the header is row 1)"


def _gap(column: Any, path: Path, gaps: np.ndarray, target: bool = False) -> DataError:
    count, row = int(gaps.sum()), _row(column, int(gaps.argmax()), path)
    advice = (
        "Give a number in each."
        if path == GIVEN
        else "A row without a target teaches nothing: fill it in, or take those rows out."
        if target
        else "Fill them in, set `data.missing=mean` to use the training mean, or leave the column out with `data.ignore`."
    )
    return DataError(
        f"The column {column.name!r} of {path} has {count} empty or non-finite {'cell' if count == 1 else 'cells'}, the first in {row}. "
        f"{advice}"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:12])) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
