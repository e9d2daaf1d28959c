"""The picture of a comparison: what is drawn are the seeds' own numbers, and the whole of it can be read."""

import math
from itertools import pairwise
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wellfit.errors import RunError
from wellfit.events import Ended, Evaluated, Stepped, encode
from wellfit.report.comparison import Arm, Comparison

matplotlib = pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib")
from wellfit.report.bands import POINTS, Band, band, width  # noqa: E402
from wellfit.report.beside import SAYS, beside  # noqa: E402

# ---- the numbers


def falling(steps: int, offset: float) -> list[tuple[int, float]]:
    return [(step, 5 - step / 250 + offset) for step in range(1, steps + 1)]


def test_seeds_of_different_length_share_one_grid() -> None:
    """Binned each by its own length, the mean would jump from seed to seed, and the band be one seed wide."""
    curves = [falling(500, 0.0), falling(300, 1.0)]
    assert width(curves) == 3
    found = band(curves, 3)
    assert found.steps == (*range(3, 498, 3), 498, 500), "the last point is the last step"
    both = [i for i, step in enumerate(found.steps) if step <= 300]
    assert all(found.high[i] - found.low[i] == pytest.approx(1) for i in both)
    assert all(found.high[i] == found.low[i] for i in range(len(both), len(found.steps)))
    assert found.mean[0] == pytest.approx(5 - 2 / 250 + 0.5)
    jumps = [b - a for a, b in pairwise(found.mean)]
    assert sum(jump > 0 for jump in jumps) == 0
    assert [i for i, jump in enumerate(jumps) if jump < -0.1] == [both[-1]], "only where one of the seeds ends"
    assert found.ended == ((300, pytest.approx(fmean(5 - step / 250 + 1 for step in (298, 299, 300)))),)
    assert not found.broke


def test_of_long_curves_there_are_so_many_points_and_of_short_ones_all() -> None:
    assert len(band([falling(1234, 0)], width([falling(1234, 0)])).steps) <= POINTS
    short = falling(40, 0)
    assert band([short], width([short])).mean == tuple(value for _, value in short)
    assert width([]) == width([[]]) == 1
    assert band([]) == band([[], []]) == Band()


def test_a_curve_ends_where_it_is_finite_for_the_last_time() -> None:
    broken = [(1, 2.0), (2, math.inf), (3, 8.0), (4, math.nan), (5, math.inf)]
    found = band([broken, [(step, 1.0) for step in range(1, 7)]])
    assert found.steps == (1, 3, 4, 5, 6), "at step 2 one of two that are trained there has no number"
    assert found.mean == (1.5, 4.5, 1.0, 1.0, 1.0)
    assert found.broke == ((3, 8.0),)
    assert not found.ended, "what broke did not end early"
    assert band([[(1, math.nan)]]) == Band()
    assert band([[(1, 1e308), (2, 1e308)], [(1, 1.0)]]).mean == (1.0,), "beyond what an axis can show"


def test_held_out_scores_are_joined_where_all_have_one() -> None:
    found = band([[(10, 0.5), (20, 0.7), (30, 0.8)], [(10, 0.7), (15, 0.9), (20, 0.9)]])
    assert (found.steps, found.mean) == ((10, 20, 30), (pytest.approx(0.6), pytest.approx(0.8), 0.8))
    assert found.ended == ((20, 0.9),)


values = st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf])


@given(st.lists(st.lists(values, max_size=40), max_size=4), st.integers(1, 7))
def test_it_is_what_a_slow_reference_draws(seeds: list[list[float]], size: int) -> None:
    curves = [list(enumerate(row, start=1)) for row in seeds]
    lasts = [max((step for step, value in curve if math.isfinite(value)), default=0) for curve in curves]
    expected = {}
    for end in sorted({*range(size, max(lasts, default=0) + 1, size), max(lasts, default=0)} - {0}):
        first = (end - 1) // size * size
        trained = [
            [value for step, value in curve if first < step <= end and math.isfinite(value)]
            for curve, last in zip(curves, lasts, strict=True)
            if last >= end
        ]
        if all(trained):
            means = [fmean(row) for row in trained]
            expected[end] = (fmean(means), min(means), max(means))
    found = band(curves, size)
    assert dict(zip(found.steps, zip(found.mean, found.low, found.high, strict=True), strict=True)) == expected
    broken = [last for curve, last in zip(curves, lasts, strict=True) if 0 < last < len(curve)]
    assert sorted(step for step, _ in found.broke) == sorted(broken)


# ---- the picture


def run(folder, losses, scores=(), reason="finished") -> str:
    folder.mkdir(parents=True)
    events = [Stepped(step, loss, 1.0, 0.1) for step, loss in enumerate(losses, start=1)]
    events += [Evaluated(step, "valid", {"accuracy": score}) for step, score in scores]
    events += [Evaluated(len(losses), "valid", {"accuracy": 0.01}, of="the most frequent class")]
    events.append(Ended(len(losses), reason, 1.0))
    (folder / "events.jsonl").write_text("\n".join(map(encode, events)) + "\n")
    return str(folder)


def made(*arms: Arm, seeds=(0, 1)) -> Comparison:
    return Comparison("wine", "accuracy", "max", "test", 36, seeds, arms)


def arm(tmp_path, about, runs, failed=()) -> Arm:
    folders = {seed: run(tmp_path / f"{about[:60]}-{seed}", *one) for seed, one in enumerate(runs)}
    return Arm(about, about, {}, {seed: folders[seed] for seed in failed}, folders)


def drawn(axes) -> list:
    """The mean lines, in the order of the arms: what is plotted with a stroke and has points."""
    return [line for line in axes.lines if line.get_linestyle() != "None" and len(line.get_xdata())]


def told(fig) -> list[str]:
    return [text.get_text() for text in fig.legends[0].get_texts()]


def test_the_picture_shows_the_numbers(tmp_path) -> None:
    first = arm(tmp_path, "recipe", [([2.0, 1.0], [(1, 0.5), (2, 0.7)]), ([4.0, 3.0], [(1, 0.7), (2, 0.9)])])
    fig = beside(made(first), "Compared: wine")
    losses, scores = fig.axes
    assert drawn(losses)[0].get_xydata().tolist() == [[1, 3], [2, 2]]
    assert drawn(scores)[0].get_ydata().tolist() == pytest.approx([60, 80]), "in percent, and without the baseline"
    shade = scores.collections[0].get_paths()[0].vertices[:, 1]
    assert (shade.min(), shade.max()) == (pytest.approx(50), pytest.approx(90))
    assert (losses.get_ylabel(), scores.get_ylabel()) == ("training loss", "validation accuracy, %")
    assert losses.get_xlabel() == scores.get_xlabel() == "optimizer steps"
    assert fig.legends[0].get_title().get_text() == "Mean of 2 seeds, band from lowest to highest"
    assert not {*SAYS.values()} & {*told(fig)}, "no mark is told that is not there"


def test_each_arm_says_its_own_seeds(tmp_path) -> None:
    """A comparison that goes on has arms with fewer runs than seeds."""
    one, two = [([2.0, 1.0],)], [([2.0, 1.0],), ([4.0, 3.0],)]
    fig = beside(made(arm(tmp_path, "a", two), arm(tmp_path, "b", one), seeds=(0, 1, 2)), "x")
    assert fig.legends[0].get_title().get_text() == "Mean of the seeds, band from lowest to highest"
    assert told(fig) == ["a (2 seeds)", "b (1 seed)"]
    fig = beside(made(arm(tmp_path, "c", one), seeds=(0, 1, 2)), "x", "This is so.")
    assert fig.legends[0].get_title().get_text() == "This is so. One seed"
    assert told(fig) == ["c"]
    with pytest.raises(RunError, match="No run of this comparison is over yet"):
        beside(made(Arm("a", "a")), "x")


def test_what_explodes_leaves_the_picture_and_what_learns_is_seen(tmp_path) -> None:
    well = [([2.0] + [0.1] * 20,)] * 2
    gone = [([2.0, 50.0, 1e9, 1e30, math.nan], (), "loss-not-finite"), ([2.0, math.nan], (), "loss-not-finite")]
    fig = beside(made(arm(tmp_path, "a", well), arm(tmp_path, "b", gone, failed=(0, 1))), "x")
    losses = fig.axes[0]
    low, high = losses.get_ylim()
    assert losses.get_yscale() == "log"
    assert losses.get_ylabel() == "training loss (logarithmic)"
    assert 0.02 < low < 0.1
    assert 2_000 < high < 4_000, "a thousand times the start"
    crosses = [xy for line in losses.lines if line.get_marker() == "x" for xy in line.get_xydata().tolist()]
    assert crosses == [[4, 2000], [1, 2]], "in the picture, at the last step that was finite"
    assert told(fig) == ["a", "b (2 of 2 seeds not finite)", SAYS["broke"]]


def test_zero_and_negative_losses(tmp_path) -> None:
    fig = beside(made(arm(tmp_path, "a", [([2.0, 0.0, 0.0],)])), "x")
    assert fig.axes[0].get_ylim()[0] < 0
    fig = beside(made(arm(tmp_path, "b", [([900.0, 1.0, -3.0],)])), "x")
    assert fig.axes[0].get_yscale() == "linear"
    low, high = fig.axes[0].get_ylim()
    assert low < -3 < 900 < high


def test_a_side_with_nothing_to_draw_says_so(tmp_path) -> None:
    """Nothing is held out to validate on, and the loss was never finite."""
    fig = beside(made(arm(tmp_path, "a", [([math.nan], (), "loss-not-finite")], failed=(0,))), "x")
    assert [axes.texts[0].get_text() for axes in fig.axes] == [
        "no training loss was recorded that is finite", "no validation accuracy was recorded that is finite",
    ]  # fmt: skip
    assert told(fig) == ["a (1 of 1 seed not finite)"]
    fig.draw_without_rendering()


def test_ten_arms_with_long_names_can_be_told_apart_and_read(tmp_path) -> None:
    """No two look alike, no text leaves the picture, and the legend covers no curve."""
    names = [f"optimizer.kind=sgd,optimizer.learning_rate=0.0{i},model.channels=[32,64],data.source=$HOME" for i in range(1, 10)]  # fmt: skip
    arms = [arm(tmp_path, about, [([2.0, 1.0 + i / 10], [(2, 0.5)])]) for i, about in enumerate(["as it is", *names])]
    fig = beside(made(*arms), f"Compared: {'a long name ' * 8}", "What was changed is told here at length. " * 6)
    looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in fig.legends[0].get_lines()}
    assert len(looks) == len(arms)
    assert told(fig)[1].splitlines()[0] == "optimizer.kind=sgd,", "cut between settings"
    fig.draw_without_rendering()
    canvas = fig.bbox
    legend = fig.legends[0].get_window_extent()
    assert legend.y0 >= 0
    assert legend.x1 <= canvas.x1
    for axes in fig.axes:
        outer = axes.get_tightbbox()
        assert legend.y1 <= outer.y0
        assert axes.get_window_extent().height > 0.4 * fig.dpi * 4.2, "there is room for the curves"
    title = fig._suptitle.get_window_extent()
    assert title.x1 <= canvas.x1
    assert title.y0 >= max(axes.get_tightbbox().y1 for axes in fig.axes)


def test_real_runs_that_stop_early(tmp_path) -> None:
    """The mean of an arm that stops early is that of its seeds' own losses, whichever of them are still trained."""
    from wellfit.run import Run
    from wellfit.trials.compare import compare

    few = {"training.epochs": 2, "training.batch_size": 8, "training.doctor": False, "optimizer.learning_rate": 0.01}
    change = {"evaluation.patience": 2, "training.epochs": 60}
    found = compare("wine", change, seeds=3, set=few, folder=tmp_path / "c", quiet=True)
    stopping = found.arms[1]
    rows = [Run.open(folder).metrics() for folder in stopping.folders.values()]
    lengths = sorted(row["step"][-1] for row in rows)
    assert lengths[0] < lengths[-1], "seeds stop at different steps"
    fig = beside(found, "Compared: wine")
    losses, scores = fig.axes
    line, size = drawn(losses)[1], width([[(lengths[-1], 0.0)]])
    steps = line.get_xdata()
    assert len({*steps}) == len(steps)
    for step, mean in zip(steps, line.get_ydata(), strict=True):
        first = (step - 1) // size * size
        means = [
            fmean(loss for at, loss in zip(row["step"], row["loss"], strict=True) if loss is not None and first < at <= step)
            for row in rows
            if row["step"][-1] >= step
        ]  # fmt: skip
        assert mean == pytest.approx(fmean(means))
    for step, mean in drawn(scores)[1].get_xydata():
        held = [dict(zip(row["step"], row["valid_accuracy"], strict=True)).get(step) for row in rows]
        assert mean == pytest.approx(100 * fmean(score for score in held if score is not None))
    assert SAYS["ended"] in told(fig)
