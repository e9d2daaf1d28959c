"""Regular times: one step a row, in months or in a fixed span, with what is missing made a gap and what is doubled told.

A month is a step of its own, because months differ in days. Nothing here knows of values beyond moving their rows.

    >>> Clock("months", "2024-01-31", 1, month_end=True).time(1)
    '2024-02-29'
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wellfit.data import tables
from wellfit.errors import DataError

DAY = 86_400_000_000  # microseconds
WEEK = 7 * DAY
CYCLES = {DAY: {7: 7.0, 365: 365.25}, WEEK: {52: 365.25 / 7}}  # steps of a cycle, and its exact length


@dataclass(frozen=True)
class Clock:
    """When each row is. `unit` is rows (no times are known), span (microseconds) or months; `step` counts those."""

    unit: str
    first: str = ""
    step: int = 1
    month_end: bool = False
    dates: bool = True  # times are told without an hour

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Clock":
        return cls(**plain)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def time(self, row: int) -> str:
        """The time of a row, counted from 0; rows beyond the last have one too."""
        if self.unit == "rows":
            return f"row {row + 1}"
        import pandas as pd

        first = pd.Timestamp(self.first)
        try:
            return self._dated(first, row)
        except (
            OverflowError,
            ValueError,
            NotImplementedError,
        ):  # pandas' ways to say that a date lies beyond its last one
            raise DataError(
                f"Row {row + 1} of a series that begins at {self.first}, with one every {self.told()}, lies after the year 9999, where dates end. "
                "Give earlier times."
            ) from None

    def _dated(self, first: Any, row: int) -> str:
        import pandas as pd

        if self.unit == "months":
            at = first.replace(day=1) + pd.DateOffset(months=self.step * row)
            at = at + pd.offsets.MonthEnd(0) if self.month_end else at.replace(day=first.day)
            short = self.dates and first.day == 1 and not self.month_end
            yearly = short and self.step % 12 == 0 and first.month == 1
            form = "%Y" if yearly else "%Y-%m" if short else _form(self.dates)
            return str(at.strftime(form))
        first = first.as_unit("us")
        told = str((first + pd.Timedelta(self.step * row, "us")).strftime(_form(self.dates) + ".%f" * (not self.dates)))
        parts = math.gcd(self.step, first.microsecond, 1_000_000)  # of which every time of this clock is a multiple
        left_out = 0 if self.dates else 7 if parts == 1_000_000 else 3 if parts % 1000 == 0 else 0  # ".000000", "000"
        return told[: len(told) - left_out]

    def steps_to(self, other: "Clock") -> int:
        """How many steps after this clock's first row the other's comes. Raises DataError if their steps differ."""
        import pandas as pd

        if (self.unit, self.step) != (other.unit, other.step):
            raise DataError(
                f"The rows come every {other.told()}, but those that the model learnt from every {self.told()}. "
                "Give a series with the same step."
            )
        if self.unit == "rows":
            return 0
        first, begins = pd.Timestamp(self.first), pd.Timestamp(other.first)
        if self.unit == "months":
            between = 12 * (begins.year - first.year) + begins.month - first.month
        else:
            between = int((begins.as_unit("us") - first.as_unit("us")) / pd.Timedelta(1, "us"))
        steps, rest = divmod(between, self.step)
        if rest:
            raise DataError(
                f"The rows begin at {other.time(0)}, which is no whole number of steps ({self.told()}) from {self.time(0)}, where "
                "those that the model learnt from begin. Give a series on the same times."
            )
        return int(steps)

    def told(self) -> str:
        """The step in words."""
        if self.unit == "rows":
            return "row"
        if self.unit == "months":
            return {1: "month", 3: "quarter", 12: "year"}.get(self.step, f"{self.step} months")
        return _span(self.step)

    def cycles(self) -> dict[int, float]:
        """The cycles that are usual for this step: whole steps of each -> its exact length in steps."""
        if self.unit == "months":
            return {12 // self.step: 12 / self.step} if 12 % self.step == 0 and self.step < 12 else {}
        if self.unit == "span" and self.step < DAY and DAY % self.step == 0:
            return {DAY // self.step: DAY / self.step, WEEK // self.step: WEEK / self.step}
        return dict(CYCLES.get(self.step, {})) if self.unit == "span" else {}


def parsed(column: Any, path: Path, notes: list[str]) -> Any:
    """The times of a column as a pandas DatetimeIndex without a zone, or None if it does not hold dates throughout."""
    import pandas as pd

    if column.dtype.kind == "M" or isinstance(column.dtype, pd.DatetimeTZDtype):
        index = pd.DatetimeIndex(column)
        _all_are_dates(column, index.isna(), path)
        return None if index.isna().any() else _plain(index, path, notes)
    texts = [str(cell).strip() for cell in column.tolist()]
    if not all(map(tables.DATE.fullmatch, texts)):
        _all_are_dates(column, _unparsed(texts), path)
        return None
    zoned = [_has_zone(text) for text in texts]
    if any(zoned) and not all(zoned):
        raise DataError(
            f"In the column {column.name!r} of {path}, {sum(zoned)} times name a zone and {len(zoned) - sum(zoned)} do not: "
            f"{texts[zoned.index(True)]!r} in row {column.index[zoned.index(True)] + 2} and {texts[zoned.index(False)]!r} in row "
            f"{column.index[zoned.index(False)] + 2}. Which hours lie between them cannot be told; write all with a zone, or all without."
        )
    ways = {"year first": dict(format="ISO8601"), "month first": {}, "day first": dict(dayfirst=True)}
    if not texts[0][:4].isdigit():
        del ways["year first"]
    found = {}
    for way, how in ways.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a format had to be guessed is told below
                found[way] = pd.DatetimeIndex(pd.to_datetime(texts, utc=True, **how))  # type: ignore[arg-type]
        except (ValueError, OverflowError, pd.errors.OutOfBoundsDatetime):
            continue
        if way == "year first":
            break
    if not found:
        _all_are_dates(column, _unparsed(texts), path)
        return None
    regular = {way: _regularity(index.as_unit("us")) for way, index in found.items()}
    best = max(regular, key=regular.__getitem__)
    if len(found) == 2 and not found["month first"].equals(found["day first"]):
        if len(set(regular.values())) == 1:
            raise DataError(
                f"The dates in the column {column.name!r} of {path} can be read month first or day first ({texts[0]!r}), and nothing tells "
                "which. Write them as 2024-01-31."
            )
        notes.append(
            f"The dates in the column {column.name!r} of {path.name} were read {best}, which makes their steps the more regular."
        )
    return _plain(found[best], path, notes, zoned=any(_has_zone(text) for text in texts[:1]))


def _unparsed(texts: Sequence[str]) -> NDArray[np.bool_]:
    """Which of these are no dates, in the way of writing them that leaves the fewest."""
    import pandas as pd

    shaped = [text if tables.DATE.fullmatch(text) else "" for text in texts]
    ways: tuple[dict[str, Any], ...] = (dict(format="ISO8601"), {}, dict(dayfirst=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrong = [np.asarray(pd.isna(pd.to_datetime(shaped, utc=True, errors="coerce", **how))) for how in ways]
    return min(wrong, key=np.count_nonzero)


def _all_are_dates(column: Any, wrong: NDArray[np.bool_], path: Path) -> None:
    """Raises DataError where most cells of a column are dates, and some are none."""
    count = int(wrong.sum())
    if not 0 < count < len(wrong) / 2:
        return
    first = int(wrong.argmax())
    cell = str(column.iloc[first]).strip()
    what = (
        "is empty"
        if cell.lower() in (*tables.GAPS, "<na>", "nat")
        else f"is {cell!r}, which is no date like the others"
    )
    raise DataError(
        f"The column {column.name!r} of {path} holds dates, but the cell in row {column.index[first] + 2} {what} (the header is row 1; "
        f"{count} of {len(wrong)} cells). Mend the cell or take the row out, or train with `data.ignore=[{column.name}]`, which leaves the column out."
    )


def _regularity(index: Any) -> float:
    """The share of steps that are the commonest one."""
    _, counts = _counted(index.sort_values().unique())
    often = np.unique(np.diff(counts), return_counts=True)[1]
    return float(often.max() / often.sum()) if len(often) else 0.0


def _has_zone(text: str) -> bool:
    return text.endswith(("Z", "UTC", "GMT")) or (len(text) > 11 and any(sign in text[11:] for sign in "+-"))


def _plain(index: Any, path: Path, notes: list[str], zoned: bool = True) -> Any:
    if index.tz is not None:
        if zoned:
            notes.append(f"The times of {path.name} name a zone; they are told in UTC.")
        index = index.tz_convert("UTC").tz_localize(None)
    return index.as_unit("us")


def clock(
    times: Any, values: NDArray[np.float64], rows: NDArray[np.int64], name: str | None, path: Path, fill: bool, notes: list[str]
) -> tuple[Clock, NDArray[np.float64]]:  # fmt: skip
    """The clock of rows at these times, and the values [R, C] in its order, NaN where a step has no row.

    `rows` are the rows' numbers in the file. Raises DataError for times that come twice, that follow no regular step, and,
    unless gaps are to be filled, for steps without a row.
    """
    if times is None:
        return Clock("rows"), values
    order = np.argsort(times.asi8, kind="stable")
    if (np.diff(order) < 0).any():
        late = int((np.diff(times.asi8) < 0).argmax()) + 1
        notes.append(
            f"The rows of {path.name} are not in the order of {name!r} (row {rows[late]} is the first that is too late); they were sorted."
        )
    times, values, rows = times[order], values[order], rows[order]
    times, values, rows = _without_doubles(times, values, rows, name, path, notes)
    if len(times) < 3:
        raise DataError(f"{path} has {len(times)} different times; a series needs many more to learn from.")
    unit, counts = _counted(times)
    spans, often = np.unique(np.diff(counts), return_counts=True)
    step = int(spans[often.argmax()])
    places, rest = np.divmod(counts - counts[0], step)
    if rest.any():
        odd = int(rest.astype(bool).argmax())
        raise DataError(
            f"The times of {path} follow no regular step: most rows come {_told(unit, step)} after the one before, but row {rows[odd]}, "
            f"{times[odd]}, comes {_told(unit, int(counts[odd] - counts[odd - 1]))} after it. Bring the series to one step (a mean for each "
            f"day, say), or train with `data.ignore=[{name}]`, which takes the rows in their order."
        )
    missing = int(places[-1]) + 1 - len(places)
    if missing and not fill:
        gap = int((np.diff(places) > 1).argmax())
        raise DataError(
            f"{missing} times are missing in {path}, where rows come every {_told(unit, step)}; the first gap is between {times[gap]} "
            f"(row {rows[gap]}) and {times[gap + 1]}. Add those rows, or train with `data.missing=mean`, which fills gaps by the line between "
            f"their neighbours, or with `data.ignore=[{name}]`, which takes the rows in their order, as if there were no gaps."
        )
    if missing > len(places):
        raise DataError(
            f"{path} has {len(places)} rows over {int(places[-1]) + 1} steps of {_told(unit, step)}: more would be made up than was "
            f"measured. Bring the series to a longer step, or train with `data.ignore=[{name}]`, which takes the rows in their order."
        )
    whole = np.full((int(places[-1]) + 1, values.shape[1]), np.nan)
    whole[places] = values
    midnight = bool((times.asi8 % DAY == 0).all())
    return Clock(unit, str(times[0]), step, unit == "months" and _at_ends(times), midnight), whole


def _without_doubles(
    times: Any, values: NDArray[np.float64], rows: NDArray[np.int64], name: str | None, path: Path, notes: list[str]
) -> tuple[Any, NDArray[np.float64], NDArray[np.int64]]:
    """Rows that repeat another in full are left out, with a note; other values for the same time are an error."""
    again = np.concatenate([[False], np.diff(times.asi8) == 0])
    if not again.any():
        return times, values, rows
    same = np.array([np.array_equal(values[i], values[i - 1], equal_nan=True) for i in np.flatnonzero(again)])
    if not same.all():
        first = int(np.flatnonzero(again)[int((~same).argmax())])
        raise DataError(
            f"{path} has the time {times[first]} more than once with different values (rows {rows[first - 1]} and {rows[first]}; "
            f"{int((~same).sum())} times in all). If these are several series, give each a column of its own; else keep one row for "
            f"each value of {name!r}."
        )
    notes.append(
        f"{int(again.sum())} rows of {path.name} repeat the row before them in full and were left out, the first is row {rows[int(again.argmax())]}."
    )
    return times[~again], values[~again], rows[~again]


def _counted(times: Any) -> tuple[str, NDArray[np.int64]]:
    """Times as whole numbers of a unit: months if they are all on one day of the month or all on its last."""
    months = np.asarray(12 * times.year + times.month - 1, dtype=np.int64)
    same_day = len(np.unique(np.asarray(times.day))) == 1 or _at_ends(times)
    same_hour = len(np.unique(times.asi8 % DAY)) == 1
    if same_day and same_hour and (np.diff(months) > 0).all():
        return "months", months
    return "span", np.asarray(times.asi8, dtype=np.int64)


def _at_ends(times: Any) -> bool:
    return bool(times.is_month_end.all())


def _told(unit: str, count: int) -> str:
    return Clock(unit, step=count).told()


def _span(step: int) -> str:
    """Microseconds in the largest unit that they fill."""
    for name, size in (
        ("week", WEEK),
        ("day", DAY),
        ("hour", DAY // 24),
        ("minute", DAY // 1440),
        ("second", 1_000_000),
    ):
        if step % size == 0:
            return name if step == size else f"{step // size} {name}s"
    return f"{step / 1e6:g} seconds"


def _form(dates: bool) -> str:
    return "%Y-%m-%d" if dates else "%Y-%m-%d %H:%M:%S"
