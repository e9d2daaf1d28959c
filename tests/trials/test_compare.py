"""Comparisons paired by seed: what is trained, what is concluded, what is refused."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import wellfit
from wellfit.cli import app
from wellfit.errors import RecipeError, RunError
from wellfit.report.comparison import Arm, Comparison
from wellfit.report.paired import interval
from wellfit.trials import compare as comparing
from wellfit.trials.compare import ablate, assignments, compare

WINE: dict[str, Any] = {"data.source": "wine", "model": {"kind": "mlp", "widths": [8]}, "training.epochs": 3}


def of(*arms: Arm, metric: str = "loss", scored: int = 100) -> Comparison:
    return Comparison("x", metric, "min" if metric == "loss" else "max", "test", scored, (0, 1, 2), arms)


def arm(*scores: float, failed: int = 0) -> Arm:
    return Arm(
        "arm",
        "arm",
        dict(enumerate(scores)),
        {len(scores) + i: f"run-{i}" for i in range(failed)},
        {i: f"run-{i}" for i in range(3)},
    )


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (arm(1.0, 1.2, 1.4), arm(0.5, 0.7, 0.9), "better"),  # the same gain in each seed, whatever lies between seeds
        (arm(1.0, 1.2, 1.4), arm(1.5, 1.7, 1.9), "worse"),
        (arm(1.0, 1.2, 1.4), arm(0.9, 1.3, 1.4), "level"),
        (arm(1.0), arm(0.1), "unknown"),
        (arm(1.0, 1.1, failed=1), arm(0.9, 1.0, 1.1), "level"),  # by chance in one of four, if failing is chance too
        (arm(1.0, 1.1, failed=1), arm(0.7, 0.8, 0.9), "better"),  # all apart from all, the failed one being the worst
        (arm(5.0, 50.0, 500.0), arm(0.3, 0.2, 0.4), "better"),  # too wild for an interval, and apart
        (arm(5.0, 50.0), arm(0.3, 0.2), "level"),  # two of each can be apart by chance
        (arm(failed=2), arm(1.0, 1.1), "better"),
        (arm(1.0, 1.1, 1.2), arm(0.9, 1.0, failed=1), "level"),  # better where it ended well, and it did not always
        (arm(1.0, 1.1, 1.2), arm(1.3, 1.4, failed=1), "worse"),
        (arm(failed=3), arm(1.0, 1.1, 1.2), "better"),
    ],
)  # fmt: skip
def test_the_verdict_is_of_differences_seed_by_seed(before: Arm, after: Arm, says: str) -> None:
    assert of(before, after).verdict(after).says == says


def test_the_interval_is_students() -> None:
    found = interval([1.0, 2.0, 3.0])
    assert found == pytest.approx((2 - 2.91999 / 3**0.5, 2 + 2.91999 / 3**0.5), abs=1e-4)


def test_a_share_is_never_surer_than_one_sample() -> None:
    first, second = arm(0.90, 0.90, 0.90), arm(0.905, 0.905, 0.905)
    assert of(first, second, metric="accuracy").verdict(second).says == "level"
    assert "more of those" in of(first, second, metric="accuracy").sentence(second)


def test_a_change_is_compared_and_the_comparison_goes_on(tmp_path: Path) -> None:
    found = compare(
        "wine", "optimizer.learning_rate=1e-5", seeds=2, set=WINE | {"data.source": "wine"}, folder=tmp_path, quiet=True
    )
    assert [one.about for one in found.arms] == ["wine", "optimizer.learning_rate=1e-5"]
    assert all(len(one.scores) == 2 for one in found.arms)
    assert not found.missing
    assert found.split == "test"
    assert all(not list(Path(f).glob("checkpoints/step-*")) for one in found.arms for f in one.folders.values())
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/events.jsonl")}
    more = compare(
        "wine", "optimizer.learning_rate=1e-5", seeds=3, set=WINE | {"data.source": "wine"}, folder=tmp_path, quiet=True
    )
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert all(len(one.scores) == 3 for one in more.arms)
    assert more.verdict(more.arms[1]).says == "worse"
    assert {s: v for s, v in more.arms[0].scores.items() if s < 2} == dict(found.arms[0].scores)
    with pytest.raises(RunError, match="of another recipe"):
        compare(
            "wine",
            "optimizer.learning_rate=1e-5",
            seeds=2,
            set=WINE | {"training.epochs": 4},
            folder=tmp_path,
            quiet=True,
        )


def test_equal_recipes_show_no_difference(tmp_path: Path) -> None:
    found = compare(wellfit.Recipe().override(WINE), {"optimizer.weight_decay": 0.0100001}, folder=tmp_path, quiet=True)
    assert found.verdict(found.arms[1]).says == "level"
    assert "no difference that 3 seeds can show" in found.sentence(found.arms[1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("data.source=digits", "scored on the same"),
        ("data.split_seed=3", "scored on the same"),
        ("optimizer.kid=sgd", "Did you mean"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, change: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        compare("wine", change, folder=tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())


def test_nothing_to_compare_with_is_refused() -> None:
    with pytest.raises(RecipeError, match="Nothing was named"):
        compare("wine")


def test_commas_in_brackets_are_no_new_assignment() -> None:
    assert assignments("a.b=c,d.e=[1,2],f.g={h: 1, i: 2}") == ["a.b=c", "d.e=[1,2]", "f.g={h: 1, i: 2}"]


def test_an_ablation_has_none_each_and_all(tmp_path: Path) -> None:
    found = ablate(wellfit.Recipe().override(WINE), seeds=1, folder=tmp_path, quiet=True)
    assert [one.name for one in found.arms] == [
        "none",
        "weight-decay",
        "dropout",
        "label-smoothing",
        "early-stopping",
        "all",
    ]
    recipes = {one.name: wellfit.open(one.folders[0]).recipe for one in found.arms}
    assert recipes["none"].optimizer.weight_decay == 0
    assert recipes["none"].model.dropout == 0
    assert recipes["dropout"].model.dropout == 0.1
    assert recipes["dropout"].optimizer.weight_decay == 0
    assert recipes["all"].loss.label_smoothing == 0.1
    assert recipes["all"].evaluation.restore_best
    assert not recipes["none"].evaluation.restore_best


def test_an_ablation_of_unknown_or_unfitting_regularizers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="choose from weight-decay"):
        ablate("wine", only=["prayer"], folder=tmp_path)
    with pytest.raises(RecipeError, match="does not apply"):
        ablate("digits", only=["dropout"], set={"model": {"kind": "resnet"}}, folder=tmp_path)


def test_the_command_draws_and_tells(tmp_path: Path) -> None:
    arguments = [
        "compare",
        "wine",
        "model.widths=[2]",
        "--seeds",
        "2",
        "--set",
        "training.epochs=2",
        "--folder",
        str(tmp_path / "c"),
    ]
    told = CliRunner().invoke(app, [*arguments, "--json", str(tmp_path / "numbers.json")])
    assert told.exit_code == 0, told.output
    assert (tmp_path / "c" / "comparison.png").stat().st_size > 10_000
    assert (tmp_path / "numbers.json").is_file()
    assert "model.widths=[2]" in told.output


def test_regularizers_are_in_recipes() -> None:
    recipe = wellfit.Recipe().override(
        {"model": {"kind": "mlp"}, "loss.kind": "cross-entropy", "data.augment.flip": True}
    )
    for strength in comparing.REGULARIZERS.values():
        for path, (off, on) in strength(recipe, True).items():
            assert off != on
            recipe.override({path: on})


def test_what_is_set_on_the_command_line_holds_for_all(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("data: {source: wine}\nmodel: {kind: mlp, widths: [4]}\n", encoding="utf-8")
    arguments = [
        "compare",
        "wine",
        str(other),
        "--seeds",
        "1",
        "--set",
        "training.epochs=1",
        "--folder",
        str(tmp_path / "c"),
    ]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    recipes = [wellfit.open(path.parent).recipe for path in (tmp_path / "c").glob("*/recipe.yaml")]
    assert [recipe.training.epochs for recipe in recipes] == [1, 1]
