"""Forecasting: scores against a slow reference, models that learn, yardsticks that are statsmodels' own, exact resume."""

import signal

import numpy as np
import pandas as pd
import pytest
import torch

from wellfit import api
from wellfit.data.source import load
from wellfit.errors import DataError, ModelError, RecipeError
from wellfit.events import Evaluated
from wellfit.losses import Quantile
from wellfit.models.forecast import RecurrentForecaster
from wellfit.recipe import Data, Recipe
from wellfit.tasks import KINDS, forecasting
from wellfit.tasks.forecasting import Departure, Forecasts, WithCalendar, smoothed

SMALL = {"data.history": 24, "data.horizon": 6, "training.steps": 60, "training.batch_size": 16}


def table(tmp_path, rows: int = 200, noise: float = 0.1):
    t = np.arange(rows)
    y = 20 + 3 * np.sin(2 * np.pi * t / 12) + noise * np.random.default_rng(0).normal(size=rows)
    frame = pd.DataFrame({"when": pd.date_range("1990-01-01", periods=rows, freq="MS").strftime("%Y-%m"), "y": y})
    path = tmp_path / "table.csv"
    frame.to_csv(path, index=False)
    return path, frame


def on_test(run) -> dict[str, dict[str, float]]:
    return {event.of: event.metrics for event in run.events() if isinstance(event, Evaluated) and event.split == "test"}


# ---- models


@pytest.mark.parametrize("kind", ["recurrent", "patchtst", "dlinear", "tft"])
def test_each_model_learns_and_forecasts(tmp_path, kind) -> None:
    path, _ = table(tmp_path)
    settings = SMALL | {
        "data.source": str(path),
        "model.kind": kind,
        "data.test_share": 0.2,
        "optimizer.learning_rate": 3e-3,
    }
    recipe = Recipe(task="forecasting").override(settings)
    run = api.fit_recipe(recipe, root=tmp_path, quiet=True)
    scores = run.scores("test")
    assert scores["mse"] < 0.7  # 1 is the mean of all
    assert scores["rmse"] == pytest.approx(scores["mse"] ** 0.5 * run.task["unit_deviation"][0])
    assert ("coverage" in scores) == (kind == "tft")
    assert run.recipe.loss.kind == ("quantile" if kind == "tft" else "mse")
    [said] = forecasting.predict(run.model, run.task, [path])
    assert said["times"] == ["2006-09", "2006-10", "2006-11", "2006-12", "2007-01", "2007-02"]
    assert len(said["values"]["y"]) == 6
    if kind == "tft":
        assert all(low <= high for low, high in zip(said["low"]["y"], said["high"]["y"], strict=True))
    again = forecasting.network(run.recipe, run.task)
    again.load_state_dict(run.model.state_dict())
    assert forecasting.predict(again, run.task, [path]) == [said]


def test_a_series_of_another_step_is_refused(tmp_path) -> None:
    """Also by a model without a calendar, which would answer whatever it is given."""
    years, days = tmp_path / "years.csv", tmp_path / "days.csv"
    years.write_text("t,y\n" + "".join(f"{1900 + i}-01-01,{i % 7}\n" for i in range(80)))
    days.write_text("t,y\n" + "".join(f"2020-01-{i + 1:02d},{i}\n" for i in range(30)))
    settings = SMALL | {"data.source": str(years), "model.kind": "dlinear", "data.history": 12, "data.horizon": 3}
    recipe = Recipe(task="forecasting").override(settings)
    run = api.fit_recipe(recipe, root=tmp_path, quiet=True)
    assert not run.task["cycles"]
    with pytest.raises(DataError, match="every day, but those that the model learnt from every year"):
        forecasting.predict(run.model, run.task, [days])


def test_a_departure_begins_near_its_start() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 24, 2 + 2)
    for start in ("mean", "last", "season"):
        model = Departure(RecurrentForecaster(24, 6, 2, units=8, normalize=False), start, 2, 6, 12, 2)
        wanted = {
            "mean": x[..., :2].mean(1, keepdim=True).expand(-1, 6, -1),
            "last": x[:, -1:, :2].expand(-1, 6, -1),
            "season": x[:, 12:18, :2],
        }[start]
        assert (model(x) - wanted).abs().max() < 0.2
        shifted = x + torch.tensor([5.0, 5.0, 0.0, 0.0])
        assert torch.allclose(model(shifted), model(x) + 5, atol=1e-4)


def test_the_calendar_is_turned_on() -> None:
    cycles, T, H = (24.0, 168.0), 10, 7
    row = torch.arange(T + H, dtype=torch.float64)[:, None]
    angle = 2 * torch.pi * row / torch.tensor(cycles, dtype=torch.float64)
    calendar = torch.cat([angle.sin(), angle.cos()], dim=1).float()
    seen = {}

    class Kept(torch.nn.Module):
        def forward(self, x_BTC, known_BSK):
            seen["known"] = known_BSK
            return x_BTC

    WithCalendar(Kept(), 1, H, cycles)(torch.cat([torch.zeros(T, 1), calendar[:T]], dim=1)[None])
    assert torch.allclose(seen["known"][0], calendar, atol=1e-5)


def test_models_and_losses_that_do_not_fit(tmp_path) -> None:
    path, _ = table(tmp_path)
    base = Recipe(task="forecasting").override({"data.source": str(path)} | SMALL)
    with pytest.raises(RecipeError, match="tft answers with"):
        api.fit_recipe(base.override({"model.kind": "tft", "loss.kind": "mse"}), root=tmp_path, quiet=True)
    with pytest.raises(RecipeError, match="tft answers with"):
        api.fit_recipe(base.override({"loss.kind": "quantile"}), root=tmp_path, quiet=True)
    with pytest.raises(ModelError, match="for a series it can be recurrent"):
        api.fit_recipe(base.override({"model.kind": "mlp"}), root=tmp_path, quiet=True)
    with pytest.raises(RecipeError, match="the history of 24"):
        api.fit_recipe(
            base.override({"model.kind": "recurrent", "model.start": "season", "data.season": 30}), root=tmp_path, quiet=True
        )  # fmt: skip
    with pytest.raises(ModelError, match="takes series"):
        api.fit_recipe("wine", set={"model.kind": "dlinear"}, root=tmp_path, quiet=True)


def test_a_resumed_run_ends_with_the_same_bits(tmp_path) -> None:
    path, _ = table(tmp_path)
    recipe = Recipe(task="forecasting").override({"data.source": str(path), "evaluation.every": 10} | SMALL)
    whole = api.fit_recipe(recipe, root=tmp_path, quiet=True)

    def stop(event) -> None:
        if isinstance(event, Evaluated) and event.step == 30:
            signal.raise_signal(signal.SIGTERM)

    cut = api.fit_recipe(recipe, folder=tmp_path / "cut", observers=[stop], quiet=True)
    assert cut.ended().reason == "interrupted"
    resumed = api.resume(tmp_path / "cut", quiet=True)
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


# ---- scores


def test_scores_are_those_of_a_slow_reference(tmp_path) -> None:
    t = np.arange(144)
    y = 100 * np.exp(0.01 * t) * (1 + 0.2 * np.sin(2 * np.pi * t / 12))
    path = tmp_path / "a.csv"
    pd.DataFrame({"y": y}).to_csv(path, index=False)
    loaded = load(
        Data(source=str(path), history=24, horizon=6, season=12, test_share=0.2, transform="log"), "forecasting"
    )
    metric, sums = Forecasts(loaded.columns), {}
    errors = []
    train = y[: 144 - 29 - round(0.1 * 115)]
    for part in torch.arange(len(loaded.test)).split(5):
        past, future = loaded.test.batch(part)
        said = past[:, -1:].expand_as(future)
        for key, value in metric.sums(said, future).items():
            sums[key] = sums.get(key, 0) + value
        for start in loaded.test.starts[part].tolist():
            errors += [y[start + 24 + h] - y[start + 23] for h in range(6)]
    scores = metric.scores(sums)
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-5)
    assert scores["mae_raw"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-5)
    assert scores["mse"] == pytest.approx(np.mean(np.square(errors)) / train.var(), rel=1e-5)
    assert scores["mae"] == pytest.approx(np.mean(np.abs(errors)) / train.std(), rel=1e-5)
    found = {one.name: one.scores for one in KINDS["forecasting"].yardsticks(loaded)}
    assert found["last value"]["rmse"] == pytest.approx(scores["rmse"], rel=1e-6)
    season = [y[s + 24 + h] - y[s + 12 + h] for s in loaded.test.starts.tolist() for h in range(6)]
    assert found["seasonal"]["rmse"] == pytest.approx(np.sqrt(np.mean(np.square(season))), rel=1e-5)


def test_the_quantile_loss_is_least_at_the_quantiles() -> None:
    levels = (0.1, 0.5, 0.9)
    y = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    loss = Quantile(levels)
    at = torch.quantile(y, torch.tensor(levels)).expand(4000, 3)
    best = loss(at, y)
    for i in range(3):
        for step in (-0.05, 0.05):
            moved = at.clone()
            moved[:, i] += step
            assert loss(moved, y) > best
    half = Quantile((0.5,))
    assert half(at[:, 1:2], y).item() == pytest.approx(0.5 * (y - at[:, 1]).abs().sum().item(), rel=1e-5)
    with pytest.raises(ModelError, match="one output for each"):
        loss.check(torch.zeros(5), torch.zeros(5))


# ---- yardsticks


@pytest.mark.parametrize("kind", ["add", "mul", "none"])
def test_smoothing_is_statsmodels_own(kind) -> None:
    ets = pytest.importorskip("statsmodels.tsa.exponential_smoothing.ets")
    t = np.arange(120)
    noise = np.random.default_rng(0).normal(size=120)
    season = np.sin(2 * np.pi * t / 12)
    y = {
        "add": 50 + 0.3 * t + 5 * season + noise,
        "mul": (50 + t) * (1 + 0.3 * season) * (1 + 0.02 * noise),
        "none": 50 + np.cumsum(noise),
    }[kind]
    origins = np.array([96, 100, 107])
    ours = smoothed(y[:96], y, origins, 20, 12)
    best = None
    for name in (None, "add", "mul"):
        for trend, damped in ((None, False), ("add", False), ("add", True)):
            how = dict(error="mul" if name == "mul" else "add", trend=trend, damped_trend=damped, seasonal=name)
            model = ets.ETSModel(y[:96], seasonal_periods=12 if name else None, **how)
            found = model.fit(disp=False)
            if best is None or found.aic < best[0]:
                best = (found.aic, how, found)
    assert np.allclose(ours[0], best[2].forecast(20), rtol=1e-6)
    again = ets.ETSModel(y[:107], seasonal_periods=12 if best[1]["seasonal"] else None, **best[1])
    assert np.allclose(ours[2], again.smooth(best[2].params).forecast(20), rtol=1e-6)


def test_yardsticks_stand_beside_the_model(tmp_path) -> None:
    pytest.importorskip("statsmodels")
    path, _ = table(tmp_path)
    recipe = Recipe(task="forecasting").override(SMALL | {"data.source": str(path), "data.test_share": 0.2})
    tests = on_test(api.fit_recipe(recipe, root=tmp_path, quiet=True))
    assert set(tests) == {"model", "last value", "seasonal", "exponential smoothing"}
    assert tests["exponential smoothing"]["mse"] < tests["last value"]["mse"]
    assert tests["model"]["mse"] < tests["last value"]["mse"]
