"""Series in time: a table with a row for each step becomes windows of a past and the future that is to be told from it.

Parts are cut by time and never at random: the oldest rows learn, the next validate, the newest test. A window belongs to
the part in which its whole future lies. Its past may reach back into the part before, as it will when the model is used;
its future never does. Means, deviations, season and transform come from the training rows alone.

All windows are views of one tensor [R, C + K]: C columns, standardised, the scored ones first, and K sines and cosines of
where a step stands in the day, week or year, if there are times. A batch is (past [B, T, C + K], future [B, H, C]).

    >>> loaded = forecasting(Data(source="sunspots", season=11), "sunspots", [])
    >>> past, future = loaded.train.batch(torch.arange(5))
"""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wellfit.data import tables
from wellfit.data.arrays import Loaded, Samples
from wellfit.data.clock import Clock, clock, parsed
from wellfit.data.fingerprint import fingerprint
from wellfit.data.paths import existing
from wellfit.errors import DataError, MissingExtra, RecipeError
from wellfit.recipe import Data, nearest

Floats = NDArray[np.float64]

EMBEDDED = ("sunspots", "co2", "elnino", "nile")
TEST_SHARE = 0.2  # of the embedded sets
LONG = 5_000  # training rows from which a Transformer has enough to learn from
LOOK_BACK = 336  # steps of history of a long series
MOST_SMOOTHED = 5_000  # rows to which exponential smoothing is fitted beside the network


# ---- samples


@dataclass(frozen=True)
class Windows(Samples):
    """Windows of `history` and `horizon` rows of one tensor. A batch is (past [B, T, C + K], future [B, H, C])."""

    values: Tensor  # float32 [R, C + K]
    starts: Tensor  # int64 [N], the first row of each
    history: int
    horizon: int
    channels: int  # C

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, samples: Tensor) -> "Windows":
        return replace(self, starts=self.starts[samples])

    def batch(self, samples: Tensor, _: int | None = None, /) -> tuple[Tensor, Tensor]:
        """(past, future) of the windows with these numbers."""
        stretch = self.values[self.starts[samples][:, None] + torch.arange(self.history + self.horizon)]
        return stretch[:, : self.history], stretch[:, self.history :, : self.channels]

    def lengths(self) -> None:
        """They are all of one size."""

    def rows(self) -> Tensor:
        """The rows that the windows cover, from the first to the last, float32 [n, C + K]."""
        return self.values[int(self.starts.min()) : int(self.starts.max()) + self.history + self.horizon]

    def fingerprint(self) -> str:
        return fingerprint(self.rows(), self.starts, torch.tensor([self.history, self.horizon, self.channels]))


# ---- reading


@dataclass(frozen=True)
class Series:
    """Columns of numbers, a row for each step of time."""

    names: tuple[str, ...]  # the scored ones first
    targets: int  # how many are scored
    values: Floats  # [R, C]
    clock: Clock


def holds(path: Path, data: Data) -> bool:
    """Whether a table is to be read as a series: one of the settings that only series have is set."""
    told = (data.time, data.history, data.horizon, data.season, data.parts)
    return path.is_file() and path.suffix.lower() in tables.ENDINGS and any(one is not None for one in told)


def embedded(name: str) -> Any:
    """A DataFrame of one of statsmodels' own series, times and values. Raises MissingExtra without statsmodels."""
    try:
        import pandas as pd
        from statsmodels import datasets
    except ImportError:
        raise MissingExtra("statsmodels", "series", f"The series {name!r}") from None
    found = getattr(datasets, name).load_pandas().data
    if name == "co2":  # weekly, in parts per million, at Mauna Loa from 1958 to 2001; 59 weeks are missing
        return pd.DataFrame({"week": found.index.strftime("%Y-%m-%d"), "co2": found["co2"].to_numpy()})
    if name == "elnino":  # the sea's temperature off Peru, a row for each year and a column for each month
        months = [f"{int(year)}-{month:02d}" for year in found["YEAR"] for month in range(1, 13)]
        return pd.DataFrame({"month": months, "temperature": found.drop(columns="YEAR").to_numpy().ravel()})
    # Yearly: sunspots from 1700 to 2008, and the Nile's flow at Aswan from 1871 to 1970, in 10^8 cubic metres.
    years, values = (found.columns[0], found.columns[1])
    return pd.DataFrame({"year": [f"{int(y)}-01-01" for y in found[years]], name: found[values].to_numpy()})


def read(
    source: str, data: Data, notes: list[str], field_name: str = "data.source", names: Sequence[str] = ()
) -> Series:
    """The series of a table, in the order of time, one row a step. Raises DataError for whatever is wrong with it.

    `names` are the columns that a model has learnt from; others are then left out, with a note.
    """
    if source in EMBEDDED:
        frame, path = embedded(source), Path(source)
    else:
        path = existing(source, field_name, EMBEDDED if field_name == "data.source" else ())
        frame = tables.read(path, notes)
    return _series(frame, path, data, notes, names)


def of_rows(rows: Any, data: Data, notes: list[str], names: Sequence[str]) -> Series:
    """The same of rows in memory, each a mapping, column -> value. Raises DataError as `read` does."""
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtra("pandas", "series", "Reading rows") from None
    if not isinstance(rows, Sequence) or not rows or not all(isinstance(row, Mapping) for row in rows):
        raise DataError("A series is the path of a table, or a list of rows, column -> value, in the order of time.")
    frame = pd.DataFrame([{str(name): value for name, value in row.items()} for row in rows])
    return _series(frame, Path("the rows given"), data, notes, names)


def _series(frame: Any, path: Path, data: Data, notes: list[str], names: Sequence[str]) -> Series:
    _named(frame, data, path, bool(names))
    frame = frame.drop(columns=[name for name in data.ignore if name in frame.columns])
    times, time = _times(frame, data, path, notes)
    if time is not None:
        frame = frame.drop(columns=[time])
    names = tuple(names) or _columns(frame, data, path)
    left = [name for name in frame.columns if name not in names]
    lacking = next((name for name in names if name not in frame.columns), None)
    if lacking is not None:
        raise DataError(f"{path} lacks the column {lacking!r}, which was learnt from.{nearest(lacking, left)}")
    if left:
        notes.append(f"The columns {', '.join(left)} of {path.name} were not learnt from and are left out.")
    values = np.stack([_numbers(frame[name], data, path) for name in names], axis=1)
    rows = np.asarray(frame.index) + 2  # as a spreadsheet counts them
    found, values = clock(times, values, rows, time, path, data.missing == "mean", notes)
    values = _without_gaps(values, names, found, data, path, notes)
    return Series(names, len(_listed(data.target)) or len(names), values, found)


def _named(frame: Any, data: Data, path: Path, learnt: bool) -> None:
    """Raises DataError for a setting that names a column that is not there."""
    wanted = (
        {"time": [data.time]}
        if learnt
        else {"time": [data.time], "ignore": data.ignore, "target": _listed(data.target)}
    )
    for field, names in wanted.items():
        for name in names:
            if name is not None and name not in frame.columns:
                raise DataError(
                    f"`data.{field}` names {name!r}, which is not a column of {path}.{nearest(name, frame.columns)} "
                    f"It has {', '.join(frame.columns)}."
                )


def _listed(target: str | None) -> list[str]:
    return [name.strip() for name in target.split(",") if name.strip()] if target else []


def _times(frame: Any, data: Data, path: Path, notes: list[str]) -> tuple[Any, str | None]:
    """The column of times, parsed: the one that is named, or the only one that holds dates."""
    if data.time is not None:
        times = parsed(frame[data.time], path, notes)
        if times is None:
            raise DataError(
                f"`data.time` is {data.time!r}, but the column holds {str(frame[data.time].iloc[0])!r}, which is no date. Write "
                "times as 2024-01-31 or 2024-01-31 18:00, or leave `data.time` open and the rows are taken in their order."
            )
        return times, data.time
    dates = {}
    for name in frame.columns:
        if name not in _listed(data.target) and frame[name].dtype.kind not in "biufc":
            times = parsed(frame[name], path, notes)
            if times is not None:
                dates[name] = times
    if len(dates) > 1:
        raise DataError(
            f"{path} has {len(dates)} columns of dates ({', '.join(dates)}). Say which orders the rows with `data.time=NAME`, "
            "and leave out the others with `data.ignore=[NAME]`."
        )
    if not dates:
        notes.append(
            f"No column of {path.name} holds dates, so its rows are taken in their order, one step each; `data.time` names one."
        )
        return None, None
    name, times = next(iter(dates.items()))
    return times, name


def _columns(frame: Any, data: Data, path: Path) -> tuple[str, ...]:
    wanted = _listed(data.target)
    names = [*wanted, *(name for name in frame.columns if name not in wanted)]
    if not names:
        raise DataError(f"{path} has no column of numbers beside its times: there is nothing to forecast.")
    return tuple(names)


def _numbers(column: Any, data: Data, path: Path) -> Floats:
    """float64 [R], NaN where a cell is empty. Raises DataError for text, and for gaps that are not to be filled."""
    import pandas as pd

    rows = np.asarray(column.index) + 2
    try:
        numbers: Floats = pd.to_numeric(column, errors="coerce").to_numpy(dtype="float64", na_value=np.nan)
    except OverflowError:  # a whole number of hundreds of digits
        numbers = pd.to_numeric(column.map(str), errors="coerce").to_numpy(dtype="float64", na_value=np.nan)
    numbers = np.where(np.abs(numbers) <= np.finfo(np.float32).max, numbers, np.nan)
    gaps = ~np.isfinite(numbers)
    text = gaps & np.array([str(cell).strip().lower() not in (*tables.GAPS, "<na>", "nat") for cell in column.tolist()])
    if text.any():
        first = int(text.argmax())
        raise DataError(
            f"The column {column.name!r} of {path} has {str(column.iloc[first])[:40]!r} in row {rows[first]} where a number belongs (the "
            f"header is row 1; {int(text.sum())} of {len(text)} cells). Mend the cell, or train with "
            f"`data.ignore=[{column.name}]`, which leaves the column out."
        )
    if gaps.all():
        raise DataError(f"The column {column.name!r} of {path} is empty. Leave it out with `data.ignore`.")
    if gaps.any() and data.missing == "error":
        raise DataError(
            f"The column {column.name!r} of {path} has {int(gaps.sum())} empty cells, the first in row {rows[int(gaps.argmax())]} (the "
            "header is row 1). Fill them in, or train with `data.missing=mean`, which draws a line between the neighbours of each gap."
        )
    return numbers


def _without_gaps(
    values: Floats, names: Sequence[str], found: Clock, data: Data, path: Path, notes: list[str]
) -> Floats:
    """Gaps filled by the line between their neighbours; before the first value and after the last one, by that one."""
    filled, steps = values.copy(), np.arange(len(values))
    for i, name in enumerate(names):
        gaps = np.isnan(values[:, i])
        if not gaps.any():
            continue
        if gaps.mean() > 0.5:
            raise DataError(
                f"Of the {len(gaps)} steps of {name!r} in {path}, {int(gaps.sum())} have no value: more than half would be made up. "
                "Give the series with a longer step (a mean for each week, say), or leave its times out with `data.ignore`."
            )
        filled[gaps, i] = np.interp(steps[gaps], steps[~gaps], values[~gaps, i])
        notes.append(
            f"{int(gaps.sum())} of {len(gaps)} steps of {name!r} in {path.name} have no value, the first at "
            f"{found.time(int(gaps.argmax()))}; they were filled by the line between their neighbours, and are learnt and scored as "
            "if they had been measured."
        )
    assert data.missing == "mean" or not np.isnan(values).any()
    return filled


# ---- made ready


def forecasting(data: Data, name: str, notes: list[str]) -> Loaded:
    """A series as windows. Raises DataError where a part is shorter than one window."""
    series = read(data.source, data, notes)
    others = {
        part: read(getattr(data, part), data, notes, f"data.{part}", series.names)
        for part in ("valid", "test")
        if getattr(data, part)
    }
    derived: dict[str, tuple[Any, str]] = {}
    rows = len(series.values)
    cycles = series.clock.cycles()
    horizon = data.horizon or _horizon(rows, cycles, derived)
    bounds = _bounds(data, rows, horizon, tuple(others), notes)
    _rows_left(data.source, rows, bounds, horizon)
    learning = series.values[: bounds["train"][1]]
    _not_constant(learning, series.names, data.source)
    season = data.season or _season(learning[:, : series.targets], cycles, derived)
    history = data.history or _history(len(learning), season, horizon, derived)
    transform = data.transform or _transform(series, others, learning, season, derived)
    _long_enough(data.source, bounds, history, horizon)
    columns = {"reading": _reading(data)} | _encoding(series, learning, transform, season, history, horizon, cycles)
    made = {}
    values = encoded(series, columns)
    for part, (first, end) in bounds.items():
        made[part] = _windows(values, max(first - history, 0), end, history, horizon, len(series.names))
    for part, other in others.items():
        if len(other.values) < history + horizon:
            raise DataError(
                f"`data.{part}` has {len(other.values)} rows, fewer than one window of {history} + {horizon}. Name a longer one, or "
                "set a smaller `data.history` or `data.horizon`."
            )
        made[part] = _windows(
            encoded(other, columns), 0, len(other.values), history, horizon, len(series.names)
        )  # fmt: skip
    _model(made["train"], season, len(learning), derived)
    _say_what_smoothing_does(made, len(learning), notes)
    _say_parts(series, bounds, made, notes)
    return Loaded(
        "forecasting", name, made["train"], made.get("valid"), made.get("test"), made["train"].fingerprint(),
        columns=columns, derived=derived, notes=tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def encoded(series: Series, columns: dict[str, Any]) -> Tensor:
    """float32 [R, C + K] of a series with the statistics of the training rows."""
    values = series.values
    if columns["transform"] == "log":
        if (values <= 0).any():
            row, column = (int(at[0]) for at in np.nonzero(values <= 0))
            raise DataError(
                f"`data.transform` is log, but {series.names[column]!r} is {values[row, column]:g} at {series.clock.time(row)}, and "
                "only numbers above 0 have a logarithm. For others, train with `data.transform=none`."
            )
        values = np.log(values)
    standard = (values - np.array(columns["mean"])) / np.array(columns["deviation"])
    begun = Clock.of(columns["clock"]).steps_to(series.clock) if columns["cycles"] else 0
    angles = 2 * np.pi * (begun + np.arange(len(values)))[:, None] / np.array(columns["cycles"] or [1.0])
    calendar = [np.sin(angles), np.cos(angles)] if columns["cycles"] else []
    return torch.from_numpy(np.concatenate([standard, *calendar], axis=1).astype(np.float32))


def _encoding(
    series: Series, learning: Floats, transform: str, season: int, history: int, horizon: int, cycles: dict[int, float]
) -> dict[str, Any]:
    """Plain data: all that makes inputs of a series, and numbers in its own unit of what the model says."""
    shown = np.log(np.maximum(learning, 1e-300)) if transform == "log" else learning
    return {
        "names": list(series.names),
        "targets": series.targets,
        "transform": transform,
        "mean": shown.mean(0).tolist(),
        "deviation": shown.std(0).tolist(),
        "unit_mean": learning.mean(0).tolist(),  # in the data's unit, in which scores are standardised
        "unit_deviation": learning.std(0).tolist(),
        "history": history,
        "horizon": horizon,
        "season": season,
        "cycles": [length for steps, length in cycles.items() if 2 * steps <= len(learning)],
        "clock": series.clock.as_dict(),
    }


def _reading(data: Data) -> dict[str, Any]:
    """The settings with which another table is read as this one was."""
    return {"time": data.time, "target": data.target, "ignore": list(data.ignore), "missing": data.missing}


def _windows(values: Tensor, first: int, end: int, history: int, horizon: int, channels: int) -> Windows:
    return Windows(values, torch.arange(first, end - history - horizon + 1), history, horizon, channels)


# ---- where the parts end


def _bounds(data: Data, rows: int, horizon: int, others: Sequence[str], notes: list[str]) -> dict[str, tuple[int, int]]:
    """First row and end of each part that is cut from the series."""
    if data.parts is not None:
        return _given_bounds(data, rows, others, notes)
    share = data.test_share if data.test_share is not None else TEST_SHARE if data.source in EMBEDDED else 0.0
    end, found = rows, {}
    for part, wanted in (("test", share), ("valid", data.valid_share)):
        if not wanted or part in others:
            continue
        count = round(wanted * end)
        if count < horizon:
            notes.append(
                f"A share of {wanted:g} for the {part} part is {count} of {end} rows, fewer than the horizon of {horizon}; {horizon} "
                f"rows were taken, which is one window. `data.{part}_share` or `data.parts` sets more."
            )
            count = horizon
        found[part], end = (end - count, end), end - count
    found["train"] = (0, end)
    return {part: found[part] for part in ("train", "valid", "test") if part in found}


def _given_bounds(data: Data, rows: int, others: Sequence[str], notes: list[str]) -> dict[str, tuple[int, int]]:
    assert data.parts is not None
    if len(data.parts) != 3 or min(data.parts) < 0 or data.parts[0] < 1:
        raise RecipeError(
            f"`data.parts` is {list(data.parts)}; it must be three numbers of rows, for training, validation and test, of which the "
            "last two may be 0: [8640, 2880, 2880]."
        )
    if sum(data.parts) > rows:
        raise DataError(
            f"`data.parts` is {list(data.parts)}, {sum(data.parts)} rows together, but {data.source} has {rows}. Take fewer."
        )
    idle = [part for part, count in zip(("valid", "test"), data.parts[1:], strict=True) if count and part in others]
    if idle:
        raise RecipeError(
            f"`data.parts` takes {idle[0]} rows from {data.source}, and `data.{idle[0]}` names a file for them. Set one of both to 0 or null."
        )
    if sum(data.parts) < rows:
        notes.append(
            f"`data.parts` uses {sum(data.parts)} of {rows} rows; the last {rows - sum(data.parts)} are left out."
        )
    ends = np.cumsum(data.parts).tolist()
    found = {
        part: (end - count, end) for part, end, count in zip(("train", "valid", "test"), ends, data.parts, strict=True)
    }
    return {part: bound for part, bound in found.items() if bound[1] > bound[0]}


def _rows_left(source: str, rows: int, bounds: dict[str, tuple[int, int]], horizon: int) -> None:
    """Raises DataError where what is held out leaves no more rows to learn from than one forecast has steps."""
    if bounds["train"][1] > horizon:
        return
    held = " and ".join(f"{end - first} to the {part} part" for part, (first, end) in bounds.items() if part != "train")
    raise DataError(
        f"{source} has {rows} rows, and a forecast is of {horizon} (`data.horizon`)"
        + (f"; {held} would leave {max(0, bounds['train'][1])} to learn from" if held else "")
        + ", and that is not one window. Set a smaller `data.horizon`, or give it more rows."
    )


def _long_enough(source: str, bounds: dict[str, tuple[int, int]], history: int, horizon: int) -> None:
    rows = bounds["train"][1]
    if rows < history + horizon:
        raise DataError(
            f"{source} has {rows} rows to learn from, fewer than one window of {history} steps of history and {horizon} to forecast. "
            "Give it more rows, hold out fewer (`data.valid_share`, `data.test_share`, `data.parts`), or set a smaller "
            "`data.history` or `data.horizon`."
        )
    for part, (first, end) in bounds.items():
        if part != "train" and end - first < horizon:
            raise DataError(
                f"The {part} part of {source} has {end - first} rows, fewer than the {horizon} of one forecast. Set a larger "
                f"`data.{part}_share` (or `data.parts`), or a smaller `data.horizon`."
            )


def _say_parts(series: Series, bounds: dict[str, tuple[int, int]], made: dict[str, Windows], notes: list[str]) -> None:
    told = [
        f"{part} {series.clock.time(first)} to {series.clock.time(end - 1)} ({end - first} rows, {len(made[part])} windows)"
        for part, (first, end) in bounds.items()
    ]
    notes.append(
        f"Cut by time: {', '.join(told)}. Windows look back into the part before for their history, never for what they are to forecast."
    )


def _not_constant(learning: Floats, names: Sequence[str], source: str) -> None:
    for i, name in enumerate(names):
        column = learning[:, i]
        if np.ptp(column) <= 1e-6 * max(1e-30, float(np.abs(column).max())):
            raise DataError(
                f"The column {name!r} of {source} is always {column[0]:g} in the {len(column)} training rows; there is nothing to "
                f"forecast. Leave it out with `data.ignore=[{name}]`."
            )


# ---- what is derived


def _horizon(rows: int, cycles: dict[int, float], derived: dict[str, Any]) -> int:
    shortest = min(cycles, default=0)
    horizon = max(1, min(shortest or 24, rows // 10))
    why = "one season ahead" if horizon == shortest else "a tenth of the rows, at most 24 steps"
    derived["data.horizon"] = (horizon, why)
    return horizon


def _season(learning: Floats, cycles: dict[int, float], derived: dict[str, Any]) -> int:
    """The cycle of the time step that repeats best over the training rows."""
    errors = {
        steps: float((np.square(learning[steps:] - learning[:-steps]).mean(0) / learning.var(0)).mean())
        for steps in cycles
        if 2 * steps <= len(learning)
    }
    if not errors:
        why = (
            "times repeat only after more rows than half of the training part has"
            if cycles
            else "the time step has no known cycle"
        )
        derived["data.season"] = (1, f"{why}: none")
        return 1
    season = min(errors)
    for steps in sorted(errors):  # a longer one has to be clearly better: it needs more history
        if errors[steps] < 0.9 * errors[season]:
            season = steps
    others = [f"{steps} ({error:.2f})" for steps, error in errors.items() if steps != season]
    beside = f", beside {', '.join(others)}" if others else ""
    derived["data.season"] = (
        season,
        f"a cycle of the time step; repeating it errs by {errors[season]:.2f} of the variance of the training rows{beside}",
    )
    return season


def _history(rows: int, season: int, horizon: int, derived: dict[str, Any]) -> int:
    most = max(1, (rows - horizon) // 2)
    if rows >= LONG:
        wanted, why = (
            max(LOOK_BACK, 2 * season if season <= LOOK_BACK else 0),
            "what published results on long series use",
        )
    elif 1 < season <= 100:
        wanted, why = max(2 * season, 2 * horizon, 24), "two seasons, at least twice the horizon and 24 steps"
    else:
        wanted, why = max(4 * horizon, 24), "four times the horizon, at least 24 steps"
    if wanted > most:
        wanted, why = most, "no more, so that half of the training rows begin a window"
    derived["data.history"] = (wanted, why)
    return wanted


def _transform(
    series: Series, others: dict[str, Series], learning: Floats, season: int, derived: dict[str, Any]
) -> str:
    """log where the spread within a stretch of rows grows as fast as its level does."""
    all_values = np.concatenate([series.values, *(other.values for other in others.values())])
    block = max(season, 10)
    count = len(learning) // block
    transform, why = "none", "the spread does not grow with the level"
    if (all_values <= 0).any():
        why = "some values are 0 or less"
    elif count >= 4:
        blocks = learning[: count * block].reshape(count, block, -1)
        level, spread = np.log(blocks.mean(1)), np.log(blocks.std(1).clip(1e-300))
        centred = level - level.mean(0)
        slope = (centred * (spread - spread.mean(0))).sum(0) / np.square(centred).sum(0).clip(1e-12)
        if (np.ptp(level, axis=0) > np.log(1.5)).all() and (slope > 0.5).all():
            transform, why = (
                "log",
                f"the spread grows with the level (to the power {slope.mean():.2f}), so changes are shares of it",
            )
    derived["data.transform"] = (transform, why)
    return transform


def _model(train: Windows, season: int, rows: int, derived: dict[str, Any]) -> None:
    """The kind of model by how much there is to learn from, and what its forecast starts from by what errs least."""
    if rows >= LONG and train.history >= 32:
        derived["model"] = (
            {"kind": "patchtst"},
            f"{rows:,} rows are enough for a Transformer over patches (from {LONG:,} on)",
        )
    else:
        derived["model"] = (
            {"kind": "recurrent"},
            f"{rows:,} rows: few weights, and an order built in (below {LONG:,})",
        )
    errors = {start: _error_of(train, start, season) for start in ("mean", "last", "season")}
    known = {start: error for start, error in errors.items() if error is not None}
    best = min(known, key=known.__getitem__)
    told = ", ".join(f"{start} {error:.3g}" for start, error in known.items())
    derived["model.start"] = (best, f"it errs least over the training windows (squared: {told})")


def _error_of(train: Windows, start: str, season: int) -> float | None:
    if start == "season" and not 1 < season <= train.history:
        return None
    some = torch.linspace(0, len(train) - 1, min(len(train), 500)).long()
    past, future = train.batch(some)
    past = past[:, :, : train.channels]
    steps = torch.arange(train.horizon)
    said = {
        "mean": lambda: past.mean(1, keepdim=True),
        "last": lambda: past[:, -1:],
        "season": lambda: past[:, train.history - season + steps % season],
    }[start]()
    return float((said - future).square().mean())


def _say_what_smoothing_does(made: dict[str, Windows], rows: int, notes: list[str]) -> None:
    if "test" not in made:
        return
    if rows > MOST_SMOOTHED:
        notes.append(
            f"Exponential smoothing is not fitted beside the model: {rows:,} rows are more than {MOST_SMOOTHED:,}."
        )
    elif importlib.util.find_spec("statsmodels") is None:
        notes.append(
            "Exponential smoothing is not fitted beside the model, because statsmodels is not installed (`pip install 'wellfit[series]'`)."
        )
