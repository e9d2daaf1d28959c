"""The report: it says what happened in words, whatever happened, and stays one harmless file."""

import base64
import gzip
import math
import random
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from told_runs import Told

from wellfit.errors import RunError
from wellfit.events import Ended, Evaluated, Event, Noted, Paced, Started, Stepped
from wellfit.recipe import Recipe
from wellfit.report import charts, curves, words, write
from wellfit.report.curves import Figure, Line
from wellfit.report.page import figures, numbers, page, results
from wellfit.report.words import headline, summary, verdict

EVIL = "<script>alert(1)</script>"
ENVIRONMENT = {
    "wellfit": "0.1.0",
    "packages": {"torch": "2.14"},
    "memory_bytes": 16e9,
    "accelerators": [],
    "code": EVIL,
}
RECIPE = Recipe(name="digits-convnet", task="image-classification").override(
    {"model": {"kind": "convnet"}, "optimizer.learning_rate": 1e-3}, by="derived", why="the paper's value"
)


def started(step: int = 0, steps: int = 460, **other: object) -> Started:
    fields: dict = {
        "step": step, "steps": steps, "steps_per_epoch": 23, "parameters": 66_000, "trainable": 66_000,
        "train_samples": 1437, "valid_samples": 143, "batch_size": 64, "micro_batch_size": 64,
        "gradient_accumulation_steps": 1, "world": 1, "device": "cpu", "precision": "fp32", "time": 1.8e9,
    }  # fmt: skip
    return Started(**{**fields, **other})


def run(
    steps: int = 460, *, valid: bool = True, test: bool = True, reason: str = "finished", per: int = 23
) -> list[Event]:
    """A run whose validation loss is best at the last but one evaluation."""
    rng = random.Random(0)
    events: list[Event] = [started(steps=steps, valid_samples=143 if valid else 0)]
    scored = [s for s in range(1, steps + 1) if valid and (s % per == 0 or s == steps)]
    best = scored[-2:][0] if scored else None
    for step in range(1, steps + 1):
        loss = 2.3 * math.exp(-5 * step / steps) * rng.uniform(0.7, 1.4)
        events.append(Stepped(step, loss, 3 * loss, 1e-3 * (1 - step / steps)))
        if step % 50 == 0 or step == steps:
            events.append(Paced(step, 0.0125, 5000.0, 0.03, 400_000_000))
        if step in scored:
            scores = {
                "loss": 0.07 + abs(step - (best or 0)) / steps,
                "accuracy": 0.992 - abs(step - (best or 0)) / steps,
            }
            events.append(Evaluated(step, "valid", scores))
    if test:
        events.append(Evaluated(best or steps, "test", {"loss": 0.0712, "accuracy": 0.9917}))
    return [*events, Ended(steps, reason, 12.4, best, 0.07 if best else None)]


def failed() -> list[Event]:
    steps = [Stepped(s, 2.3 if s < 131 else math.nan, 1.0, 1e-3) for s in range(1, 151)]
    return [started(), *steps, Ended(150, "loss-not-finite", 3.0)]


RUNS: dict[str, list[Event]] = {
    "finished": run(),
    "early": [*run(230)[:-1], Ended(230, "early-stopping", 6.0, 207, 0.07)],
    "without validation": run(valid=False, test=False),
    "one step": run(1, test=False),
    "one step, unscored": run(1, valid=False, test=False),
    "failed": failed(),
    "failed at once": [started(), Stepped(1, math.inf, math.nan, 1e-3), Ended(1, "loss-not-finite", 0.1)],
    "interrupted": [*run(test=False)[:300], Ended(280, "interrupted", 7.0, 276, 0.1)],
    "resumed": [*run()[:200], started(step=180), *run()[200:]],
    "killed": run()[:200],
    "only begun": [started()],
    "nothing": [],
    "scores without names": [started(), Evaluated(0, "valid", {}), Ended(0, "finished", 0.0)],
}


class Outline(HTMLParser):
    """What a browser would make of the page: open tags, ids, attributes, text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, name: str) -> list[str]:
        return [value for attribute, value in self.attributes if attribute == name]


def shown(
    events: list[Event], recipe: Recipe = RECIPE, task: dict | None = None, folder: str = "runs/a run"
) -> Outline:
    return Outline(page(Told(Path(folder), recipe, events, ENVIRONMENT, task), live=False))


# ---- every run has a page


@pytest.mark.parametrize("name", RUNS)
def test_every_run_gives_a_whole_harmless_page(name: str) -> None:
    outline = shown(RUNS[name])
    ids = outline.of("id")
    assert len(ids) == len(set(ids))
    assert {i for value in outline.of("aria-labelledby") for i in value.split()} <= set(ids)
    assert "script" not in outline.tags
    assert not {"src", "href", "srcset", "action"} & {attribute for attribute, _ in outline.attributes}
    assert not [attribute for attribute, _ in outline.attributes if attribute.startswith("on")]
    assert outline.tags.count("h1") == 1
    assert headline(RECIPE, RUNS[name]) in outline.text
    assert "wellfit resume 'runs/a run'" in outline.text
    assert "wellfit report 'runs/a run'" in outline.text
    assert not re.search(
        r"\b(nan|inf|None|undefined)\b", " ".join(outline.of("d") + outline.of("cx") + outline.of("cy"))
    )


def test_the_page_reaches_for_nothing_outside() -> None:
    html = page(Told(Path("r"), RECIPE, run(), ENVIRONMENT), live=False)
    assert not re.search(r"https?:|url\(|@import|<link", html)
    assert "default-src 'none'" in html


def test_every_figure_is_told_in_words_and_in_numbers() -> None:
    outline = shown(run())
    assert outline.tags.count("svg") == outline.of("role").count("img") == outline.tags.count("desc") == 8
    first = next(event for event in run() if isinstance(event, Stepped))
    assert f"training, smoothed: from {first.loss:.4g} at step 1 to " in outline.text
    assert "validation: from 0.97 at step 23 to 0.12 at step 460; lowest 0.07 at step 437" in outline.text
    columns, rows = numbers(run())
    assert columns[:3] == ["step", "training loss", "validation loss"]
    assert rows[0][0] == "1"
    assert rows[-1][0] == "460"
    assert all(len(row) == len(columns) for row in rows)


def test_names_from_data_and_users_are_only_names() -> None:
    metrics = {"loss": 1.0, EVIL: 0.5}
    events = [
        started(device=EVIL), Stepped(1, 1.0, 1.0, 1e-3), Evaluated(1, "valid", metrics), Evaluated(1, "test", metrics),
        Evaluated(1, "test", {EVIL: 0.6}, of=EVIL), Noted(1, f"{EVIL} `{EVIL}`"), Ended(1, "finished", 1.0, 1, 1.0),
    ]  # fmt: skip
    recipe = Recipe(name=EVIL).override(
        {"data.source": EVIL, "evaluation.metric": EVIL, "evaluation.goal": "max"}, why=EVIL
    )
    memory = {"table": [[EVIL, EVIL]], "says": [EVIL]}
    task = {"classes": [EVIL, "b&b"], "columns": [EVIL]}
    html = page(Told(Path(f"runs/{EVIL}"), recipe, events, {EVIL: EVIL}, task, memory=memory), live=False)
    assert "<script" not in html
    outline = Outline(html)
    assert outline.text.count(EVIL) > 15
    assert "b&b" in outline.text
    assert f"Validation {EVIL}" in outline.text


def test_no_text_of_a_figure_is_markup() -> None:
    figure = Figure(EVIL, (Line(EVIL, [(1, 1.0), (2, 2.0)]),), mark=(1, EVIL), level=(1.5, EVIL))
    svg = curves.draw(figure, 360, 210, "f")
    assert "<script" not in svg
    assert Outline(svg).text.count(EVIL) == 4


# ---- what it says


def test_headline_and_summary_of_a_finished_run() -> None:
    assert headline(RECIPE, run()) == "99.2 % test accuracy after 20 epochs; best at step 437"
    trained, result, took = summary(RECIPE, run())
    assert trained == (
        "A convolutional network with 66,000 trainable parameters for image classification "
        "was trained on 1,437 samples of digits for 20 epochs."
    )
    assert result == (
        "It reached 99.2 % test accuracy, with the weights of step 437, "
        "the best of 20 evaluations (validation loss 0.07)."
    )
    assert took == "It took 12 seconds on cpu in fp32."


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("early", "up to step 230 of 230, until the validation score had stopped improving"),
        ("without validation", "Nothing was scored on held-out data"),
        ("one step, unscored", "The training loss was "),
        ("failed", "The loss stopped being a finite number at step 131"),
        ("failed", "last finite at step 130: 2.3."),
        ("failed at once", "Try a smaller `optimizer.learning_rate` first"),
        ("interrupted", "then it was interrupted"),
        ("resumed", "The last part, from step 180 on, took 12 seconds"),
        ("killed", "has not ended: it is still going, or it was killed"),
        ("nothing", "Nothing has been trained yet"),
    ],
)
def test_summary_says_how_it_went(name: str, says: str) -> None:
    assert says in " ".join(summary(RECIPE, RUNS[name]))
    assert says.replace("`", "") in shown(RUNS[name]).text


def test_a_gradient_that_broke_is_not_blamed_on_the_loss() -> None:
    events = [started(), Stepped(1, 2.0, 1.0, 1e-3), Stepped(2, 2.0, math.inf, 1e-3), Ended(2, "loss-not-finite", 1.0)]
    assert headline(RECIPE, events) == "Failed at step 2: the gradient was not a finite number"
    skipped = Stepped(1, 2.0, math.inf, 1e-3, skipped=True)  # fp16 overflows are no failure
    assert "at step 2:" in headline(RECIPE, [started(), skipped, *events[2:]])
    assert "overflowed in fp16" in shown([started(precision="fp16"), skipped, Stepped(2, 2.0, 1.0, 1e-3)]).text
    assert "passed over them" in shown([started(), skipped, Stepped(2, 2.0, 1.0, 1e-3)]).text


@pytest.mark.parametrize(
    ("metric", "mine", "rival", "wins"),
    [
        ("accuracy", 0.99, 0.98, True), ("accuracy", 0.97, 0.98, False), ("accuracy", 0.98001, 0.98002, None),
        ("rmse", 50.0, 60.0, True), ("rmse", 60.0, 50.0, False), ("r2", 0.4, 0.5, False), ("error", 0.1, 0.2, True),
        ("accuracy", math.nan, 0.5, False),
    ],
)  # fmt: skip
def test_whether_the_model_beat_the_baseline(metric: str, mine: float, rival: float, wins: bool | None) -> None:
    worse = {"accuracy": 0.1, "rmse": 900.0, "r2": -1.0, "error": 0.9}[metric]
    events = [
        started(), Evaluated(5, "test", {"loss": 0.1, metric: mine}), Ended(5, "finished", 1.0, 5, 0.1),
        Evaluated(5, "test", {metric: worse}, of="guessing"), Evaluated(5, "test", {metric: rival}, of="ridge"),
    ]  # fmt: skip
    standing = verdict(RECIPE, events)
    assert standing is not None
    assert (standing.rival, standing.wins) == ("ridge", wins)
    told = {
        True: "It beats ridge",
        False: "It does not beat the baseline: ridge is better",
        None: "It is level with ridge",
    }
    assert told[wins] in " ".join(summary(RECIPE, events))
    table = results(RECIPE, events)
    assert table is not None
    assert table.columns == ["model, test", "guessing, test", "ridge, test"]
    best = {True: [True, False, False], False: [False, False, True], None: [True, False, True]}
    assert [marked for _, marked in dict(table.rows)[words.plain(metric)[0].upper() + words.plain(metric)[1:]]] == best[
        wins
    ]


def test_no_verdict_on_a_metric_whose_better_side_is_unknown() -> None:
    events = [started(), Evaluated(5, "test", {"taste": 1.0}), Evaluated(5, "test", {"taste": 2.0}, of="ridge")]
    assert verdict(RECIPE, events) is None
    chosen = RECIPE.override({"evaluation.metric": "taste", "evaluation.goal": "max"})
    assert verdict(chosen, events) == ("taste", 1.0, "ridge", 2.0, False)


def test_notes_are_shown_before_the_curves() -> None:
    noted = [Noted(0, f"There is no validation set ({i}).") for i in (0, 1, 1)]
    events = [*run()[:-1], *noted, run()[-1]]
    text = shown(events).text
    assert text.index("no validation set (1)") < text.index("Curves")
    assert text.count("no validation set (1)") == 1


def test_what_the_doctor_noted_is_told_once_with_its_findings() -> None:
    found = {"id": "overfitting", "severity": "warning", "onset_step": 3, "says": "The gap grows."}
    events = [
        *run()[:-1],
        Noted(3, "The set is small."),
        Noted(3, "Doctor, warning from step 3: overfitting. The gap grows."),
        run()[-1],
    ]
    assert words.notes(events) == ["The set is small.", "Doctor, warning from step 3: overfitting. The gap grows."]
    assert words.notes(events, [found]) == ["The set is small."]


def test_every_setting_is_there_with_who_and_why_defaults_last() -> None:
    recipe = RECIPE.override({"training.epochs": 20}, why="asked on the command line")
    text = " ".join(shown(run(), recipe).text.split())
    for path in recipe.flat():
        assert f" {path} " in text, path
    fold = text.index("settings left at their defaults")
    assert (
        text.index(" training.epochs ") < text.index(" optimizer.learning_rate ") < fold < text.index(" training.seed ")
    )
    assert "20 you Passes over the training data. Why: asked on the command line" in text
    assert "0.001 derived" in text
    assert "Pascanu et al. 2013" in text


def test_numbers_in_words() -> None:
    told = [words.number(x) for x in (0.0, 0.07664, 1234.5, 3e-6, 1.5e12, math.nan, math.inf, -math.inf)]
    assert told == ["0", "0.07664", "1,234", "3 × 10⁻⁶", "1.5 × 10¹²", "not a number", "infinite", "minus infinite"]
    assert [words.percent(x) for x in (0, 1, 0.992, 0.99999, 0.9996, 0.00001)] == [
        "0 %", "100 %", "99.2 %", "99.99 %", "99.96 %", "0.01 %",
    ]  # fmt: skip
    assert words.amount("accuracy", 93.1) == "93.1"  # a caller who counts to a hundred
    assert [words.duration(x) for x in (0.42, 59.4, 59.7, 200, 7500)] == [
        "0.4 seconds", "59 seconds", "1 min 0 s", "3 min 20 s", "2 h 5 min",
    ]  # fmt: skip


# ---- curves


def test_thinning_keeps_every_bucket_s_extremes() -> None:
    rng = random.Random(1)
    points = [(float(i), rng.gauss(0, 1)) for i in range(10_000)]
    points[4321], points[9999] = (4321.0, 50.0), (9999.0, -50.0)
    (stretch,) = curves.thin(points, 100)
    assert len(stretch) == 200
    assert stretch == sorted(stretch)
    for i in range(100):
        values = [value for _, value in points[100 * i : 100 * (i + 1)]]
        kept = [value for step, value in stretch if 100 * i <= step < 100 * (i + 1)]
        assert {min(kept), max(kept)} == {min(values), max(values)}


def test_values_that_are_not_finite_are_gaps_and_counted() -> None:
    points = [(1.0, 1.0), (2.0, math.nan), (3.0, 2.0), (4.0, 3.0), (5.0, math.inf)]
    assert curves.thin(points) == [[(1.0, 1.0)], [(3.0, 2.0), (4.0, 3.0)]]
    assert curves.gaps(Figure("", (Line("", points),))) == 2
    long = [(float(i), math.nan if i % 2 else 1.0) for i in range(20_000)]
    assert sum(map(len, curves.thin(long))) <= 2 * curves.BUCKETS  # a flickering curve stays small
    one = [(float(i), math.nan if i == 5000 else 1.0) for i in range(10_000)]
    before, alone, after = curves.thin(one)
    assert before[-1][0] < alone[0][0] < after[0][0]
    assert "20 values are not finite" in shown(failed()).text


@settings(max_examples=150, deadline=None)
@given(st.lists(st.floats(), min_size=1, max_size=30), st.booleans(), st.booleans(), st.floats())
def test_any_numbers_can_be_drawn(values: list[float], share: bool, may_be_log: bool, level: float) -> None:
    line = Line("x", list(enumerate(values)))
    figure = Figure("t", (line,), share=share, may_be_log=may_be_log, mark=(0, "best"), level=(level, "limit"))
    svg = curves.draw(figure, 360, 210, "f")
    outline = Outline(svg)
    places = [float(x) for d in outline.of("d") + outline.of("cy") for x in re.findall(r"-?[\d.]+(?:e[-+]?\d+)?", d)]
    assert all(-1 <= place <= 361 for place in places)
    assert "nan" not in svg.split("</desc>")[-1]


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(4, 9))
def test_ticks_are_nice_few_and_inside(low: float, width: float, most: int) -> None:
    high = low + width
    ticks = curves.ticks(low, high, most)
    assert 1 <= len(ticks) <= most
    room = 1e-6 * width + 1e-12 * abs(low)
    assert all(low - room <= tick <= high + room for tick in ticks)
    if len(ticks) > 1 and width > 1e-3 * abs(low):
        mantissa = float(f"{ticks[1] - ticks[0]:.3e}".split("e")[0])
        assert mantissa in (1.0, 2.0, 5.0)


def test_scales() -> None:
    narrow, wide = [1.0, 50.0], [0.009, 1.0, 2.0]
    assert not curves.is_wide(narrow)
    assert curves.is_wide(wide)
    assert not curves.is_wide([0.0, 1.0])
    outline = Outline(
        curves.draw(
            Figure("t", (Line("x", [(i, v) for i, v in enumerate([1e-5, 1.0, 100.0])]),), may_be_log=True),
            720,
            300,
            "f",
        )
    )
    assert "10⁻⁵" in outline.text
    assert "100" in outline.text
    heights = [
        float(y) for y in re.findall(r"M[\d.]+ ([\d.]+)L[\d.]+ ([\d.]+) [\d.]+ ([\d.]+)", " ".join(outline.of("d")))[0]
    ]
    assert heights[0] - heights[1] == pytest.approx(2.5 * (heights[1] - heights[2]), rel=0.02)  # five decades, then two
    assert "Logarithmic scale." in shown(run(steps=920, per=46)).text


def test_smoothing_is_a_centred_mean_that_starts_where_the_curve_does() -> None:
    line = [(float(i), 3.0 * i) for i in range(301)]
    smoothed = curves.smooth(line)
    assert all(value == pytest.approx(3 * step) for step, value in smoothed[:290])  # a straight line is its own mean
    rng = random.Random(0)
    noise = [(float(i), 5 + rng.gauss(0, 1)) for i in range(6000)]
    assert max(abs(value - 5) for _, value in curves.smooth(noise)[1:]) < 0.75
    huge = [(float(i), 1e30 if i == 100 else 1.0) for i in range(600)]
    assert curves.smooth(huge)[300][1] == 1.0  # a spike leaves no rounding behind in what follows
    assert curves.smooth(line[:30]) == line[:30]


def test_the_loss_figure_holds_raw_smoothed_and_validation() -> None:
    loss, accuracy, *others = figures(RECIPE, run())
    assert [line.label for line in loss.lines] == ["training, each step", "training, smoothed", "validation"]
    assert (accuracy.title, accuracy.share, accuracy.mark) == ("Validation accuracy", True, (437, "best"))
    assert [figure.title for figure in others] == [
        "Learning rate",
        "Gradient norm, before clipping",
        "Samples per second",
        "Time spent waiting for data",
        "Peak memory, GB",
    ]
    assert {figure.span for figure in (loss, accuracy, *others)} == {(1, 460)}


def test_a_run_that_was_complete_when_it_was_resumed_keeps_its_time() -> None:
    again = [*run(), started(step=460), Ended(460, "finished", 0.0, 437, 0.07)]
    told = [one for one in again if not (isinstance(one, Ended) and one.seconds)]
    assert summary(RECIPE, told)[-1].startswith("It took 5.8 seconds")


def test_memory_is_told_as_predicted_and_as_measured() -> None:
    rows = [["weights", "1.2 MB"], ["peak, in the backward pass", "5.4 MB"]]
    memory = {"table": rows, "says": ["Predicted 5.4 MB; measured 5.5 MB, the most that torch had allocated."]}
    outline = Outline(page(Told(Path("r"), RECIPE, run(), memory=memory), live=False))
    assert "Predicted 5.4 MB; measured 5.5 MB" in outline.text
    assert "peak, in the backward pass" in outline.text
    for damaged in ({}, {"table": 3, "says": []}, {"table": [], "says": []}, {"table": [["a", "b"]]}):
        assert 'id="memory"' not in page(Told(Path("r"), RECIPE, run(), memory=damaged), live=False)
    unknown = {"table": [], "says": ["What a step holds was not predicted. It needs numbers."]}
    assert "not predicted" in page(Told(Path("r"), RECIPE, run(), memory=unknown), live=False)


# ---- the file


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write(Told(tmp_path, RECIPE, run(), ENVIRONMENT))
    assert path == tmp_path / "report.html"
    before = path.read_text(encoding="utf-8")
    write(Told(tmp_path, RECIPE, failed(), ENVIRONMENT))
    assert path.read_text(encoding="utf-8") != before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written"):
        write(Told(tmp_path / "gone", RECIPE, run(), ENVIRONMENT))


def test_long_runs_stay_small_and_quick(tmp_path: Path) -> None:
    task = {"classes": [f"class {i}" for i in range(1000)]}
    long = Told(tmp_path, RECIPE, run(10_000, per=100), ENVIRONMENT, task)
    began = time.process_time()
    assert len(page(long, live=False)) < 350_000
    assert time.process_time() - began < 5
    assert write(long).stat().st_size < 1_000_000


def test_the_script_that_draws_is_packed_whole() -> None:
    pytest.importorskip("vl_convert")
    assert b"window.vegaEmbed" in gzip.decompress(base64.b64decode(charts.vega()))


def test_a_number_with_a_power_of_ten_is_one_word() -> None:
    events = [started(), Evaluated(5, "test", {"taste": 3.4e-6})]
    assert "test taste is 3.4 × 10⁻⁶" in " ".join(summary(RECIPE, events))
