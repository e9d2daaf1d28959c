"""Before and after on a page: a cure in its run's report, a comparison on one of its own, whatever its folder holds."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
from told_runs import Told, compared, treated

from journals import made, started, stepped
from wellfit.api import write_report
from wellfit.errors import RunError
from wellfit.events import Ended, Stepped
from wellfit.recipe import Recipe
from wellfit.report import charts, curves, together
from wellfit.report.comparison import Arm, Comparison
from wellfit.report.page import page


@pytest.fixture
def cured(tmp_path: Path) -> Told:
    treated(tmp_path / "run")
    return Told(tmp_path / "run", Recipe(name="digits"), [started(), *stepped(1, 2), Ended(2, "finished", 1.0)])


def test_a_comparison_comes_back_as_it_was(tmp_path: Path) -> None:
    before = compared(tmp_path)
    after = Comparison.from_dict(json.loads(json.dumps(before.as_dict())), tmp_path)
    assert after == dataclasses.replace(before, arms=after.arms)
    assert after.arms == before.arms
    assert str(after) == str(before)


def test_runs_are_those_beside_the_file_and_no_others(tmp_path: Path) -> None:
    told = compared(tmp_path / "a").as_dict()
    told["arms"][0]["folders"]["0"] = "/etc/../etc"
    shutil.move(tmp_path / "a", tmp_path / "b")
    found = Comparison.from_dict(told, tmp_path / "b")
    assert [len(arm.folders) for arm in found.arms] == [1, 2]
    assert all(Path(folder).parent == tmp_path / "b" for arm in found.arms for folder in arm.folders.values())


@pytest.mark.parametrize(
    "change", [{"arms": []}, {"arms": 3}, {"seeds": ["x"]}, {"metric": None, "scored": "many"}, {"arms": [{}]}]
)
def test_what_is_no_comparison_is_told(tmp_path: Path, change: dict) -> None:
    with pytest.raises(ValueError, match=r"no comparison|invalid literal"):
        Comparison.from_dict(compared(tmp_path).as_dict() | change, tmp_path)


def test_the_mean_of_the_seeds_stands_in_their_band(tmp_path: Path) -> None:
    loss, score = together.figures(compared(tmp_path))
    assert (loss.title, score.title) == ("Training loss", "Validation accuracy")
    assert [line.look for line in loss.lines] == ["main", "c2"]
    step, low, high = loss.lines[0].band[-1]
    assert low < dict(loss.lines[0].points)[step] < high
    svg = curves.draw(loss, 360, 210, "x")
    assert svg.count('class="band ') == 2
    assert "nan" not in svg
    told = charts.together([loss, score])
    assert told is not None
    assert [one["id"] for one in told["charts"]] == ["together-training-loss", "together-validation-accuracy"]
    assert told["charts"][0]["series"][0]["band"][-1][0] == 6
    assert charts.together([]) is None


def test_a_report_tells_what_cured_its_run(cured: Told) -> None:
    html = page(cured, live=False)
    for told in (
        "What cures it", "training.max_grad_norm: not set -&gt; 1", "2 changes tried", "not finite → 0.2", "<strong>kept</strong>",
        "not trained", "Training loss", "lowest to highest",
    ):  # fmt: skip
        assert told in html, told
    assert "<script" not in html
    ids = [part.split('"')[0] for part in html.split(' id="')[1:]]
    assert len(ids) == len(set(ids))


def test_without_a_cure_the_report_says_that_none_was_found(cured: Told) -> None:
    file = cured.folder / "cure" / "cure.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"changes": [], "comparison": None}), encoding="utf-8")
    html = page(cured, live=False)
    assert "No cure was found" in html
    assert "Before and after" not in html


DAMAGED = (
    "",
    "[]",
    "{}",
    "{" * 100_000,
    '{"metric": 1, "tried": 3}',
    '{"metric": "loss", "tried": [], "changes": [[1]]}',
)


@pytest.mark.parametrize("body", DAMAGED)
def test_a_damaged_file_of_a_cure_is_as_none(cured: Told, body: str) -> None:
    (cured.folder / "cure" / "cure.json").write_text(body, encoding="utf-8")
    assert together.treatment(cured) is None
    assert "cures it" not in page(cured, live=False)


def test_a_cure_that_leads_out_is_not_followed(cured: Told, tmp_path: Path) -> None:
    (cured.folder / "cure").rename(tmp_path / "elsewhere")
    (cured.folder / "cure").symlink_to(tmp_path / "elsewhere")
    assert together.treatment(cured) is None


def test_a_comparison_has_a_page(tmp_path: Path) -> None:
    comparison = compared(tmp_path)
    (tmp_path / "comparison.json").write_text(json.dumps(comparison.as_dict()), encoding="utf-8")
    assert write_report(tmp_path) == tmp_path / "report.html"
    html = together.page(comparison, live=False)
    assert "is better than before" in html
    assert "a note" in html
    assert "<script" not in html
    (tmp_path / "comparison.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match="holds no comparison"):
        write_report(tmp_path)


def test_headlines(tmp_path: Path) -> None:
    before = compared(tmp_path)
    after = before.arms[1]
    worse = dataclasses.replace(after, scores={0: 0.1, 1: 0.11})
    level = dataclasses.replace(after, scores={0: 0.4, 1: 0.7})
    told = {
        "is better than": before,
        "No change is better than": dataclasses.replace(before, arms=(before.arms[0], worse)),
        "No difference": dataclasses.replace(before, arms=(before.arms[0], level)),
        "1 run still": dataclasses.replace(before, missing=1),
    }
    for words, comparison in told.items():
        assert f"{words}" in together.page(comparison, live=False), words


def test_a_way_that_diverged_is_drawn_to_there(tmp_path: Path) -> None:
    events = [started(), *stepped(1, 2), Stepped(3, math.nan, math.nan, 0.1), Ended(3, "loss-not-finite", 1.0)]
    made(tmp_path, events, "x-seed0")
    arm = Arm("x", "x", {}, {0: "x"}, {0: str(tmp_path / "x-seed0")}, 1.0, 3)
    comparison = Comparison("d", "loss", "min", "valid", 10, (0,), (arm,), str(tmp_path))
    (loss,) = together.figures(comparison)
    assert [step for step, _ in loss.lines[0].points] == [1, 2]
    assert loss.lines[0].band == []
