"""Series into their future: the last T steps of C columns to the next H; squared error, beside what needs no network.

A batch is (past [B, T, C + K], future [B, H, C]), standardised; the last K columns of the past are sines and cosines of
the time of day, week or year (see `data/series.py`). The first columns are the ones that are scored. The model answers
[B, H, C], or quantiles [B, H, C, Q].

Short series get a `Departure`: an LSTM or GRU says only by how much the future departs from a forecast that costs nothing
(the last season again, say). Long ones get PatchTST. `mse` and `mae` are in standard deviations of the training rows, as in
the literature on long series; for a single column `rmse` and `mae_raw` are in its own unit.

    >>> predict(model, record, ["passengers.csv"])
    [{'times': ['1961-01', ...], 'values': {'Passengers': [448.2, ...]}}]
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wellfit import losses
from wellfit.data import series
from wellfit.data.arrays import Loaded
from wellfit.data.clock import Clock
from wellfit.data.series import Windows
from wellfit.errors import DataError, ModelError, RecipeError
from wellfit.models.forecast import TFT, DLinear, PatchTST, RecurrentForecaster, seasonal
from wellfit.recipe import Data, Recipe
from wellfit.tasks.baseline import Baseline
from wellfit.tasks.task import Built, Supervised

Floats = NDArray[np.float64]

LONGEST_SEASON = 400  # steps, up to which exponential smoothing is given a season
FEW_STATES = 24  # steps of a season whose states are fitted; of longer ones they are set by the usual heuristic


def build(recipe: Recipe, loaded: Loaded) -> Built:
    """The model is initialised from torch's global generator, which the caller has seeded."""
    record = dict(loaded.columns)
    quantiles = recipe.loss.kind == "quantile"
    if quantiles != (recipe.model is not None and recipe.model.kind == "tft"):
        raise RecipeError(
            f"`model.kind` is {recipe.model.kind if recipe.model else None} and `loss.kind` {recipe.loss.kind}, but a tft answers with "
            "quantiles, the other models with one number. Leave `loss.kind` open, or set it to quantile for a tft and to mse or huber "
            "for the others."
        )
    if recipe.loss.kind == "bce-with-logits":
        raise RecipeError("`loss.kind` is bce-with-logits, which is for a yes or no; a series needs mse or huber.")
    targets = record["targets"]
    middle = len(recipe.loss.quantiles) // 2 if quantiles else None
    criterion = OfTargets(losses.build(recipe.loss), targets)
    return Built(Supervised(criterion, Forecasts(record, middle)), network(recipe, record), record)


# ---- models


def network(recipe: Recipe, record: Mapping[str, Any]) -> nn.Module:
    """An untrained model for series as a run's record tells them."""
    settings: Any = recipe.model
    if settings.kind not in MODELS:
        raise ModelError(f"`model.kind` is {settings.kind!r}; for a series it can be {', '.join(MODELS)}.")
    return MODELS[settings.kind](settings, recipe, record)


def _recurrent(settings: Any, _: Recipe, record: Mapping[str, Any]) -> nn.Module:
    T, H, C, season = record["history"], record["horizon"], len(record["names"]), record["season"]
    if settings.start == "season" and not 1 < season <= T:
        raise RecipeError(
            f"`model.start` is season, but the season is of {season} steps and the history of {T}. Set a `data.season` of at least 2 and a "
            "`data.history` that holds it, or start from `last` or `mean`."
        )
    reader = RecurrentForecaster(
        T, H, C, units=settings.units, kind=settings.cell, layers=settings.layers, dropout=settings.dropout, normalize=False
    )  # fmt: skip
    return Departure(reader, settings.start or "last", C, H, season, 2 * len(record["cycles"]))


def _patchtst(settings: Any, _: Recipe, record: Mapping[str, Any]) -> nn.Module:
    chosen = settings.model_dump(exclude={"kind"})
    C = len(record["names"])
    return WithoutCalendar(PatchTST(record["history"], record["horizon"], C, **chosen), C)


def _dlinear(settings: Any, _: Recipe, record: Mapping[str, Any]) -> nn.Module:
    chosen = settings.model_dump(exclude={"kind"})
    C = len(record["names"])
    return WithoutCalendar(DLinear(record["history"], record["horizon"], C, **chosen), C)


def _tft(settings: Any, recipe: Recipe, record: Mapping[str, Any]) -> nn.Module:
    chosen = settings.model_dump(exclude={"kind"})
    T, H, C, cycles = record["history"], record["horizon"], len(record["names"]), record["cycles"]
    model = TFT(T, H, C, known=2 * len(cycles), quantiles=recipe.loss.quantiles, **chosen)
    return WithCalendar(model, C, H, cycles)


MODELS: dict[str, Callable[[Any, Recipe, Mapping[str, Any]], nn.Module]] = {
    "recurrent": _recurrent,
    "patchtst": _patchtst,
    "dlinear": _dlinear,
    "tft": _tft,
}


class Departure(nn.Module):
    """start(x) + network(x - level) + a linear map of the calendar: [B, T, C + K] -> [B, H, C].

    What is known of a series anyway (it repeats each season, or goes on where it stands) need not be learnt from a few
    hundred windows, and weight decay then draws towards that instead of towards zero. `start` is "mean", "last" or
    "season"; the level is the mean of the history, or with "last" its last value, so that drift shifts nothing. The
    calendar is that of the last step, from which the phase of every later one follows.
    """

    def __init__(
        self, network: RecurrentForecaster, start: str, channels: int, horizon: int, season: int, calendar: int
    ):
        super().__init__()
        self.network, self.start, self.channels, self.horizon, self.season = network, start, channels, horizon, season
        self.calendar = nn.Linear(calendar, horizon * channels, bias=False) if calendar else None
        with torch.no_grad():  # begins near `start`, but not at it: from a head of zeros nothing behind it would learn
            network.head.weight *= 0.1
            network.head.bias.zero_()
            if self.calendar is not None:
                self.calendar.weight.zero_()

    def forward(self, x_BTF: Tensor) -> Tensor:
        x_BTC, calendar_BTK = x_BTF[..., : self.channels], x_BTF[..., self.channels :]
        level_B1C = x_BTC[:, -1:] if self.start == "last" else x_BTC.mean(1, keepdim=True)
        start_BHC = level_B1C.expand(-1, self.horizon, -1)
        if self.start == "season":
            start_BHC = seasonal(x_BTC, self.horizon, self.season)
        y_BHC: Tensor = start_BHC + self.network(x_BTC - level_B1C)
        if self.calendar is not None:
            y_BHC = y_BHC + self.calendar(calendar_BTK[:, -1]).view(y_BHC.shape)
        return y_BHC


class WithoutCalendar(nn.Module):
    """A model of the series alone: the calendar's columns are left out."""

    def __init__(self, network: nn.Module, channels: int):
        super().__init__()
        self.network, self.channels = network, channels

    def forward(self, x_BTF: Tensor) -> Tensor:
        y: Tensor = self.network(x_BTF[..., : self.channels])
        return y


class WithCalendar(nn.Module):
    """A model that takes the calendar of past and future steps: the future's is the last one's, turned on.

    sin(a + b) and cos(a + b) follow from those of a and b, so a batch need not carry them.
    """

    turn_HJ: Tensor

    def __init__(self, network: nn.Module, channels: int, horizon: int, cycles: Sequence[float]):
        super().__init__()
        self.network, self.channels, self.cycles = network, channels, len(cycles)
        steps = torch.arange(1, horizon + 1, dtype=torch.float64)[:, None]
        angles = 2 * math.pi * steps / torch.tensor([*cycles], dtype=torch.float64)
        self.register_buffer("turn_HJ", angles.float(), persistent=False)

    def forward(self, x_BTF: Tensor) -> Tensor:
        x_BTC, known_BTK = x_BTF[..., : self.channels], x_BTF[..., self.channels :]
        J = self.cycles
        if not J:
            alone: Tensor = self.network(x_BTC)
            return alone
        sine, cosine = known_BTK[:, -1:, :J], known_BTK[:, -1:, J:]
        ahead_BHK = torch.cat(
            [sine * self.turn_HJ.cos() + cosine * self.turn_HJ.sin(), cosine * self.turn_HJ.cos() - sine * self.turn_HJ.sin()],
            dim=-1,
        )  # fmt: skip
        y: Tensor = self.network(x_BTC, torch.cat([known_BTK, ahead_BHK], dim=1))
        return y


# ---- loss and scores


@dataclass(frozen=True)
class OfTargets:
    """A loss of the first `scored` columns; the others are there to be read."""

    loss: losses.Loss
    scored: int

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(outputs[:, :, : self.scored], targets[:, :, : self.scored])

    def weight(self, targets: Tensor) -> float | Tensor:
        return self.loss.weight(targets[:, :, : self.scored])

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        losses.check(self.loss, outputs[:, :, : self.scored], targets[:, :, : self.scored])


@dataclass(frozen=True)
class Forecasts:
    """Errors of forecasts [B, H, C] (or of the middle quantile), in standard deviations and, of one column, in its unit."""

    record: Mapping[str, Any]
    middle: int | None = None  # of quantiles

    def sums(self, outputs: Tensor, future: Tensor) -> dict[str, Tensor]:
        targets = self.record["targets"]
        truth = in_unit(future[:, :, :targets], self.record)
        sums = {}
        if self.middle is not None:
            low, high = (in_unit(outputs[:, :, :targets, at], self.record) for at in (0, -1))
            sums["between"] = ((low <= truth) & (truth <= high)).sum().to(torch.float64)
            outputs = outputs[..., self.middle]
        return sums | self.of_unit(in_unit(outputs[:, :, :targets], self.record), truth)

    def of_unit(self, said: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """The sums for forecasts and truths [B, H, K] in the data's own unit, float64."""
        scale = torch.tensor(self.record["unit_deviation"][: truth.shape[-1]], dtype=torch.float64, device=truth.device)
        error = (said - truth) / scale
        return {
            "squared_error": error.square().sum(),
            "absolute_error": error.abs().sum(),
            "count": torch.tensor(float(error.numel()), dtype=torch.float64),
        }

    def scores(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        count = max(1.0, float(sums["count"]))
        mse, mae = float(sums["squared_error"]) / count, float(sums["absolute_error"]) / count
        scores = {"mse": mse, "mae": mae}
        if self.record["targets"] == 1:
            deviation = self.record["unit_deviation"][0]
            scores |= {"rmse": mse**0.5 * deviation, "mae_raw": mae * deviation}
        if self.middle is not None:
            scores["coverage"] = float(sums["between"]) / count
        return scores


def in_unit(standard: Tensor, record: Mapping[str, Any]) -> Tensor:
    """Standardised numbers [..., C'] of the first C' columns in the data's own unit, float64."""
    C = standard.shape[-1]
    mean, deviation = (
        torch.tensor(record[name][:C], dtype=torch.float64, device=standard.device) for name in ("mean", "deviation")
    )
    value = standard.to(torch.float64) * deviation + mean
    return value.exp() if record["transform"] == "log" else value


# ---- predict


@torch.no_grad()
def predict(
    model: nn.Module, record: Mapping[str, Any], inputs: Sequence[str | Path | Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """For each table, the next `horizon` values after its end, with their times; of quantiles also the lowest and highest.

    A table is a path, or its rows as mappings, column -> value. It has the columns that the model learnt from, and at least
    `history` rows, a step of the same length apart. Raises DataError if it has not.
    """
    model.eval()
    found = []
    for number, path in enumerate(inputs):
        notes: list[str] = []
        how = Data(**record["reading"])
        if isinstance(path, str | Path):
            table = series.read(str(path), how, notes, "the table", record["names"])
        else:
            path = "the rows given"
            table = series.of_rows(inputs[number], how, notes, record["names"])
        learnt = Clock.of(record["clock"])
        if (learnt.unit, learnt.step) != (table.clock.unit, table.clock.step):
            learnt.steps_to(table.clock)  # which says so; where the first row is matters to cycles alone
        if len(table.values) < record["history"]:
            raise DataError(
                f"{path} has {len(table.values)} rows, but the model looks back {record['history']} before it forecasts. Give it more."
            )
        past_TF = series.encoded(table, dict(record))[-record["history"] :]
        targets, rows = record["targets"], len(table.values)
        said = in_unit(_by_columns(model(past_TF[None]), targets), record)[0]
        one: dict[str, Any] = {"times": [table.clock.time(rows + h) for h in range(record["horizon"])]}
        parts = (
            {"values": said} if said.ndim == 2 else {"low": said[0], "values": said[len(said) // 2], "high": said[-1]}
        )
        if not said.isfinite().all():
            raise DataError(
                f"The forecast from {path} is no finite number; its values are too far from what the model was trained on."
            )
        for part, value_HK in parts.items():
            one[part] = {name: value_HK[:, i].tolist() for i, name in enumerate(record["names"][:targets])}
        if notes:
            one["notes"] = list(dict.fromkeys(notes))
        found.append(one)
    return found


def _by_columns(outputs: Tensor, targets: int) -> Tensor:
    """[1, H, C] -> [1, H, K]; quantiles [1, H, C, Q] -> [1, Q, H, K]."""
    outputs = outputs[:, :, :targets]
    return outputs if outputs.ndim == 3 else outputs.permute(0, 3, 1, 2)


# ---- yardsticks


def yardsticks(loaded: Loaded) -> list[Baseline]:
    """What needs no network, on the same test windows: the last value, the season repeated, exponential smoothing.

    The season may lie before the window's history: repeating it needs no model. Exponential smoothing (statsmodels' ETS) is
    fitted to the training and validation rows of each column, and its states then follow every row up to the forecast.
    """
    test: Windows | None = loaded.test
    if test is None:
        return []
    record, metric = loaded.columns, Forecasts(loaded.columns)
    targets, T, H = record["targets"], test.history, test.horizon
    values_RK = in_unit(test.values[:, :targets], record)
    origin_N = test.starts + T  # the first row of each future
    steps_H = torch.arange(H)
    truth = values_RK[origin_N[:, None] + steps_H]
    said = {"last value": values_RK[origin_N - 1][:, None].expand_as(truth)}
    season = record["season"]
    if season > 1 and int(origin_N.min()) >= season:
        said["seasonal"] = values_RK[origin_N[:, None] - season + steps_H % season]
    same = loaded.train.values is test.values
    known = int(origin_N.min()) if same else loaded.train.rows().shape[0]
    if known <= series.MOST_SMOOTHED:
        past = values_RK if same else in_unit(loaded.train.rows()[:, :targets], record)
        columns = [
            smoothed(past[:known, k].numpy(), values_RK[:, k].numpy(), origin_N.numpy(), H, season)
            for k in range(targets)
        ]
        if all(column is not None for column in columns):
            said["exponential smoothing"] = torch.from_numpy(np.stack([c for c in columns if c is not None], axis=-1))
    return [Baseline(name, metric.scores(metric.of_unit(one, truth))) for name, one in said.items()]


def smoothed(past: Floats, values: Floats, origins: NDArray[np.int64], H: int, season: int) -> Floats | None:
    """Forecasts [N, H] of `values` [R] from before each origin, by exponential smoothing fitted to `past`.

    Of the forms with and without a (damped) trend and with no, an added or a multiplied season, the one with the lowest
    AIC (Hyndman et al. 2008). None without statsmodels.
    """
    try:
        from statsmodels.tsa.exponential_smoothing.ets import ETSModel
    except ImportError:
        return None
    positive = bool((past > 0).all() and (values > 0).all())
    seasons: list[str | None] = [None]
    if 1 < season <= LONGEST_SEASON and len(past) >= 2 * season + 10:
        seasons += ["add", "mul"] if positive else ["add"]
    best: Any = None
    for kind in seasons:
        for trend, damped in ((None, False), ("add", False), ("add", True)):
            how: dict[str, Any] = dict(
                error="mul" if kind == "mul" else "add", trend=trend, damped_trend=damped, seasonal=kind,
                seasonal_periods=season if kind else None,
                initialization_method="estimated" if not kind or season <= FEW_STATES else "heuristic",
            )  # fmt: skip
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a fit that did not converge; its AIC tells
                found = ETSModel(past, **how).fit(disp=False)
            if math.isfinite(found.aic) and (best is None or found.aic < best[0]):
                best = (found.aic, how, found)
    if best is None:
        return None
    _, how, found = best
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        states = _states(ETSModel, values, how, found)
    return _ahead(states, origins, H, season, how, found)


def _states(model: Any, values: Floats, how: dict[str, Any], found: Any) -> dict[str, Floats]:
    """Level, slope and season after each row of `values`, with the parameters that were found."""
    names = dict(zip(found.param_names, np.asarray(found.params), strict=True))
    known: dict[str, Any] = {"initial_level": float(found.initial_level)}
    if how["trend"]:
        known["initial_trend"] = float(found.initial_trend)
    if how["seasonal"]:
        known["initial_seasonal"] = np.asarray(found.initial_seasonal, dtype=np.float64)
    whole = model(values, **{**how, "initialization_method": "known"}, **known)
    followed = whole.smooth([names[name] for name in whole.param_names if name in names])
    return {
        "level": np.asarray(followed.level),
        "slope": np.asarray(followed.slope) if how["trend"] else np.zeros(len(values)),
        "season": np.asarray(followed.season) if how["seasonal"] else np.zeros(len(values)),
    }


def _ahead(
    states: dict[str, Floats], origins: NDArray[np.int64], H: int, season: int, how: dict[str, Any], found: Any
) -> Floats:
    """Forecasts [N, H] from the states after the row before each origin (Hyndman & Athanasopoulos 2021, table 8.6)."""
    steps = np.arange(1, H + 1)
    damping = float(found.damping_trend) if how["damped_trend"] else 1.0
    reach = np.cumsum(damping**steps)
    last = origins[:, None] - 1
    said: Floats = states["level"][last] + reach * states["slope"][last]
    if how["seasonal"]:
        back = states["season"][last + (steps - 1) % season + 1 - season]
        said = said * back if how["seasonal"] == "mul" else said + back
    return said
