"""Series: cut by time alone, nothing of the future in the past, and one clear sentence for each way they can be wrong."""

import numpy as np
import pandas as pd
import pytest
import torch

from wellfit.advise import suggest
from wellfit.data.clock import Clock
from wellfit.data.series import encoded, read
from wellfit.data.source import load
from wellfit.errors import DataError, MissingExtra, RecipeError
from wellfit.recipe import Data


def table(tmp_path, rows: int = 120, freq: str = "MS", start: str = "2010-01-01", name: str = "table.csv", **columns):
    times = pd.date_range(start, periods=rows, freq=freq).strftime("%Y-%m-%d %H:%M" if freq == "h" else "%Y-%m-%d")
    draw = np.random.default_rng(0)
    y = 10 + np.sin(2 * np.pi * np.arange(rows) / 12) + 0.1 * draw.normal(size=rows)
    frame = pd.DataFrame({"when": times, "y": y, "x": draw.normal(size=rows)} | columns)
    path = tmp_path / name
    frame.to_csv(path, index=False)
    return path, frame


def forecast(path, **settings):
    return load(Data(source=str(path), **settings), "forecasting")


# ---- parts and windows


def test_windows_are_the_rows_of_the_file_cut_by_time(tmp_path) -> None:
    path, frame = table(tmp_path)
    found = forecast(path, history=10, horizon=4, parts=[80, 20, 15], target="y", ignore=["x"])
    mean, deviation = frame["y"][:80].mean(), frame["y"][:80].std(ddof=0)
    z = ((frame["y"] - mean) / deviation).to_numpy()
    assert [len(part) for part in (found.train, found.valid, found.test)] == [80 - 13, 20 - 3, 15 - 3]
    for part, first in ((found.train, 10), (found.valid, 80), (found.test, 100)):
        past, future = part.batch(torch.arange(len(part)))
        for i in range(len(part)):
            assert np.allclose(past[i, :, 0], z[first + i - 10 : first + i], atol=1e-6)
            assert np.allclose(future[i, :, 0], z[first + i : first + i + 4], atol=1e-6)
    assert "last 5 are left out" in " ".join(found.notes)
    assert found.train.values is found.test.values


def test_held_out_values_decide_nothing_about_training(tmp_path) -> None:
    path, frame = table(tmp_path, rows=200)
    before = forecast(path, valid_share=0.2, test_share=0.2)
    frame.loc[130:, "y"] = 1000 + np.arange(70)
    frame.to_csv(path, index=False)
    after = forecast(path, valid_share=0.2, test_share=0.2)
    assert before.fingerprint == after.fingerprint
    assert torch.equal(before.train.rows(), after.train.rows())
    assert before.derived == after.derived
    assert before.valid.fingerprint() != after.valid.fingerprint()


def test_a_scored_column_comes_first_and_the_others_are_read(tmp_path) -> None:
    path, _ = table(tmp_path)
    found = forecast(path, target="x")
    assert found.columns["names"] == ["x", "y"]
    assert found.columns["targets"] == 1
    past, future = found.train.batch(torch.tensor([0, 3]))
    assert past.shape == (2, found.columns["history"], 2 + 2)  # and the sine and cosine of the year
    assert future.shape == (2, 12, 2)
    assert torch.allclose(past[..., 2:].square().sum(-1), torch.tensor(1.0))


def test_take_and_batch_agree(tmp_path) -> None:
    path, _ = table(tmp_path)
    train = forecast(path, history=8, horizon=3).train
    some = torch.tensor([5, 1, 9])
    for ours, theirs in zip(train.take(some).batch(torch.arange(3)), train.batch(some), strict=True):
        assert torch.equal(ours, theirs)


def test_a_file_of_its_own_for_the_test(tmp_path) -> None:
    path, _ = table(tmp_path)
    later, frame = table(tmp_path, rows=60, start="2021-03-01", name="later.csv")
    found = forecast(path, history=10, horizon=4, test=str(later))
    assert len(found.test) == 60 - 13
    table_ = read(str(path), Data(), [])
    both = torch.cat([encoded(table_, found.columns), encoded(read(str(later), Data(), []), found.columns)])
    phase = torch.atan2(both[:, 2], both[:, 3])
    turned = (phase[121] - phase[0]) % (2 * np.pi)  # 2021-04 after 2010-01
    assert turned.item() == pytest.approx(2 * np.pi * 3 / 12, abs=1e-3)
    frame.rename(columns={"y": "why"}).to_csv(later, index=False)
    with pytest.raises(DataError, match="lacks the column 'y'"):
        forecast(path, test=str(later))


# ---- what is derived


@pytest.mark.parametrize(
    ("freq", "season", "horizon"), [("MS", 12, 12), ("D", 7, 7), ("h", 24, 24), ("QS", 4, 4), ("YS", 1, 24)]
)
def test_season_follows_the_time_step(tmp_path, freq, season, horizon) -> None:
    rows = 400
    start = "1500-01-01" if freq == "YS" else "1901-01-01"
    period = max(season, 3)
    y = 10 + np.sin(2 * np.pi * np.arange(rows) / period) + 0.1 * np.random.default_rng(1).normal(size=rows)
    path, _ = table(tmp_path, rows=rows, freq=freq, start=start, y=y)
    found = forecast(path, target="y", ignore=["x"])
    assert found.derived["data.season"][0] == season
    assert found.derived["data.horizon"][0] == horizon
    assert found.derived["model"][0] == {"kind": "recurrent"}
    assert found.derived["model.start"][0] == ("season" if season > 1 else "mean")
    assert all(why for _, why in found.derived.values())


def test_log_where_the_spread_grows_with_the_level(tmp_path) -> None:
    t = np.arange(144)
    grows = 100 * np.exp(0.02 * t) * (1 + 0.3 * np.sin(2 * np.pi * t / 12))
    path, _ = table(tmp_path, rows=144, y=grows)
    assert forecast(path, target="y", ignore=["x"]).columns["transform"] == "log"
    path, _ = table(tmp_path, rows=144, y=100 + 5 * t + 10 * np.sin(2 * np.pi * t / 12))
    assert forecast(path, target="y", ignore=["x"]).columns["transform"] == "none"
    path, _ = table(tmp_path, rows=144, y=grows - 150)
    assert forecast(path, target="y", ignore=["x"]).columns["transform"] == "none"
    with pytest.raises(DataError, match="only numbers above 0"):
        forecast(path, target="y", ignore=["x"], transform="log")


def test_long_series_get_a_transformer(tmp_path) -> None:
    path, _ = table(tmp_path, rows=6000, freq="h", y=np.random.default_rng(0).normal(size=6000))
    found = forecast(path)
    assert found.derived["model"][0] == {"kind": "patchtst"}
    assert found.derived["data.history"][0] == 336


# ---- times


def test_unsorted_rows_are_sorted_and_doubled_ones_left_out(tmp_path) -> None:
    path, frame = table(tmp_path)
    wanted = forecast(path)
    mixed = pd.concat([frame.sample(frac=1, random_state=0), frame.iloc[[3, 7]]])
    mixed.to_csv(path, index=False)
    found = forecast(path)
    assert found.fingerprint == wanted.fingerprint
    notes = " ".join(found.notes)
    assert "they were sorted" in notes
    assert "2 rows of table.csv repeat" in notes


def test_a_time_that_comes_twice_is_an_error(tmp_path) -> None:
    path, frame = table(tmp_path)
    other = frame.iloc[[5]].assign(y=99.0)
    pd.concat([frame, other]).to_csv(path, index=False)
    with pytest.raises(DataError, match=r"2010-06-01.*more than once with different values"):
        forecast(path)


def test_gaps_in_time_are_named_or_filled_by_a_line(tmp_path) -> None:
    path, frame = table(tmp_path)
    frame.drop(index=[30, 31, 50]).to_csv(path, index=False)
    with pytest.raises(
        DataError, match=r"3 times are missing.*every month.*between 2012-06-01.*\(row 31\) and 2012-09-01"
    ):
        forecast(path)
    found = forecast(path, missing="mean")
    assert "3 of 120 steps of 'y'" in " ".join(found.notes)
    values = read(str(path), Data(missing="mean"), []).values[:, 0]
    line = np.interp([30, 31], [29, 32], frame["y"][[29, 32]])
    assert np.allclose(values[[30, 31]], line)
    frame.iloc[[0, 1, 2, 3, 4, 119]].to_csv(path, index=False)
    with pytest.raises(DataError, match="more would be made up"):
        forecast(path, missing="mean")


def test_irregular_times_are_named(tmp_path) -> None:
    path, frame = table(tmp_path, freq="D")
    frame.loc[40, "when"] = "2010-02-10 07:00"
    frame.to_csv(path, index=False)
    with pytest.raises(DataError, match=r"no regular step: most rows come day after.*row 42.*31 hours"):
        forecast(path)
    assert "taken in their order" in " ".join(forecast(path, ignore=["when"]).notes)


def test_dates_of_other_forms(tmp_path) -> None:
    path, frame = table(tmp_path, freq="MS")
    wanted = forecast(path)
    for form in ("%d/%m/%Y", "%m/%d/%Y", "%Y-%m"):
        frame.assign(when=pd.to_datetime(frame["when"]).dt.strftime(form)).to_csv(path, index=False)
        found = forecast(path)
        assert found.fingerprint == wanted.fingerprint
        assert found.columns["clock"] == wanted.columns["clock"]
    both = frame.assign(then=frame["when"])
    both.to_csv(path, index=False)
    with pytest.raises(DataError, match=r"2 columns of dates \(when, then\)"):
        forecast(path)
    assert forecast(path, time="then", ignore=["when"]).fingerprint == wanted.fingerprint
    with pytest.raises(DataError, match="no date"):
        forecast(path, time="y", ignore=["when", "then"])


@pytest.mark.parametrize(
    ("clock", "row", "time"),
    [
        (Clock("rows"), 4, "row 5"),
        (Clock("months", "1949-01-01", 1), 144, "1961-01"),
        (Clock("months", "2024-01-31", 1, month_end=True), 1, "2024-02-29"),
        (Clock("months", "1700-01-01", 12), 309, "2009"),
        (Clock("span", "1981-01-01", 86_400_000_000), 59, "1981-03-01"),
        (Clock("span", "2016-07-01 00:00:00", 3_600_000_000, dates=False), 25, "2016-07-02 01:00:00"),
        (Clock("span", "2016-07-01 00:00:00", 100_000, dates=False), 10, "2016-07-01 00:00:01.000"),
        (Clock("span", "2016-07-01 00:00:00.250", 1_000_000, dates=False), 1, "2016-07-01 00:00:01.250"),
        (Clock("span", "2016-07-01 00:00:00", 5, dates=False), 1, "2016-07-01 00:00:00.000005"),
    ],
)
def test_times_go_on(clock, row, time) -> None:
    """As exact as the clock's steps are, and no more."""
    assert clock.time(row) == time
    assert Clock.of(clock.as_dict()) == clock


# ---- values


def test_values_that_are_wrong(tmp_path) -> None:
    path, frame = table(tmp_path)
    broken = frame.astype({"y": object})
    broken.loc[6, "y"] = "?0.2"
    broken.to_csv(path, index=False)
    with pytest.raises(DataError, match=r"'y'.*'\?0.2' in row 8 where a number belongs"):
        forecast(path)
    frame.assign(y=frame["y"].mask(frame.index.isin([4, 9]))).to_csv(path, index=False)
    with pytest.raises(DataError, match="2 empty cells, the first in row 6"):
        forecast(path)
    assert "2 of 120 steps" in " ".join(forecast(path, missing="mean").notes)
    frame.assign(y=7.0).to_csv(path, index=False)
    with pytest.raises(DataError, match="always 7 in the"):
        forecast(path)
    frame.to_csv(path, index=False)
    with pytest.raises(DataError, match=r"`data.target` names 'z'"):
        forecast(path, target="z")


def test_too_short(tmp_path) -> None:
    path, _ = table(tmp_path, rows=30)
    with pytest.raises(DataError, match=r"27 rows to learn from, fewer than one window of 24 steps of history and 12"):
        forecast(path, history=24, horizon=12, valid_share=0.1, test_share=0, parts=[27, 3, 0])
    with pytest.raises(DataError, match=r"valid part .* has 3 rows, fewer than the 5"):
        forecast(path, history=5, horizon=5, parts=[27, 3, 0])
    with pytest.raises(DataError, match="33 rows together"):
        forecast(path, parts=[27, 3, 3])
    with pytest.raises(RecipeError, match="three numbers"):
        forecast(path, parts=[27, 3])
    assert "rows were taken, which is one window" in " ".join(forecast(path, history=5, horizon=5).notes)


@pytest.mark.parametrize(("cell", "says"), [("2010-13-45", "is '2010-13-45'"), ("soon", "is 'soon'"), ("", "is empty")])
def test_one_cell_that_is_no_date_is_named(tmp_path, cell, says) -> None:
    path, frame = table(tmp_path)
    frame.loc[[50, 60], "when"] = cell
    frame.to_csv(path, index=False)
    for settings in ({}, {"time": "when"}):
        with pytest.raises(
            DataError, match=rf"'when' of .* holds dates, but the cell in row 52 {says}.*2 of 120 cells"
        ):
            forecast(path, **settings)
    if cell:
        with pytest.raises(DataError, match="cell in row 52"):
            suggest(path)
    assert suggest(path, set={"data.target": "y"}).task == "tabular-regression", "its dates are left out"


def test_times_with_and_without_a_zone(tmp_path) -> None:
    path, frame = table(tmp_path, freq="h")
    frame.loc[40:, "when"] += "+02:00"
    frame.to_csv(path, index=False)
    with pytest.raises(DataError, match=r"80 times name a zone and 40 do not: '.*\+02:00' in row 42 and '.*' in row 2"):
        forecast(path)


@pytest.mark.parametrize(
    "settings", [{"horizon": 300}, {"horizon": 300, "valid_share": 0}, {"horizon": 70, "test_share": 0.1}]
)
def test_a_horizon_that_leaves_nothing_to_learn_from(tmp_path, settings) -> None:
    with pytest.raises(DataError, match=rf"has 120 rows, and a forecast is of {settings['horizon']}") as error:
        forecast(table(tmp_path)[0], **settings)
    assert " -" not in str(error.value)


def test_embedded_series() -> None:
    pytest.importorskip("statsmodels")
    rows = {"sunspots": 309, "nile": 100, "elnino": 732, "co2": 2284}
    for name, count in rows.items():
        series = read(name, Data(source=name, missing="mean"), [])
        assert series.values.shape == (count, 1)
        assert np.isfinite(series.values).all()
    assert read("nile", Data(source="nile"), []).clock.told() == "year"
    assert read("elnino", Data(source="elnino"), []).clock.told() == "month"
    assert read("co2", Data(source="co2", missing="mean"), []).clock.told() == "week"


def test_embedded_series_without_statsmodels(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "statsmodels", None)
    with pytest.raises(MissingExtra, match=r"wellfit\[series\]"):
        load(Data(source="sunspots"))


@pytest.mark.parametrize(("unit", "step"), [("span", 86_400_000_000), ("months", 1), ("span", 10**15)])
def test_no_time_lies_after_the_last_year(unit, step) -> None:
    with pytest.raises(DataError, match=r"Row 200001 of a series that begins at 9999-11-30, .* after the year 9999"):
        Clock(unit, "9999-11-30", step).time(200_000)
