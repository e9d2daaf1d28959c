"""The lab at work: faults are caused, named and cured in real runs, and nothing is told that these runs did not show."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from itertools import combinations

import pytest

import wellfit
from wellfit.cli import main
from wellfit.errors import RecipeError, RunError
from wellfit.laboratory import experiment, healthy, page, watched
from wellfit.laboratory.lesson import Spread
from wellfit.laboratory.pathologies import PATHOLOGIES

pytest.importorskip("matplotlib")

SAMPLE = ["gradients-not-cleared", "log-of-zero"]  # and softmax-before-cross-entropy, by the command
MOST = 12  # of all, the doctor must name at least so many


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "lab"
    return wellfit.lab(SAMPLE, seeds=1, folder=folder, quiet=True), folder


def test_the_doctor_names_the_fault_and_its_remedy_cures_it(made) -> None:
    lessons, _ = made
    assert [lesson.pathology.name for lesson in lessons] == SAMPLE
    for lesson in lessons:
        assert lesson.named == lesson.first == 1, lesson
        assert lesson.found is not None
        assert lesson.found.id == lesson.pathology.finding
        assert not set(lesson.left) - {"training-too-short"}, lesson.left
        assert lesson.accuracy("cured").mean > 0.95
        assert lesson.accuracy("faulty").mean < lesson.accuracy("cured").mean - 0.08
    piled, log = lessons
    assert piled.loss("faulty").mean > 10 * math.log(10)
    assert math.isnan(log.loss("faulty").mean)
    assert "a logarithm of 0" in log.found.says
    broken = next(step for step, loss in zip(log.faulty[0].steps, log.faulty[0].loss, strict=True) if math.isnan(loss))
    assert 1 < broken <= log.found.told_at <= broken + 1


def test_a_watched_run_is_the_run_itself(made, tmp_path) -> None:
    lesson = made[0][0]
    program = tmp_path / "program.py"
    program.write_text(lesson.pathology.faulty)
    done = subprocess.run(
        [sys.executable, str(program), "0"], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["loss"] for line in lines if "loss" in line] == list(lesson.faulty[0].loss)
    assert [line["accuracy"] for line in lines if "accuracy" in line] == list(lesson.faulty[0].accuracy)


def test_nothing_is_told_that_the_doctor_did_not_say(made) -> None:
    lesson, other = made[0]
    silent = replace(lesson, faulty=tuple(replace(trial, findings=()) for trial in lesson.faulty))
    assert silent.found is None
    assert "did not name it (gradients-not-cleared) in 1 run. It found nothing at all." in said(silent)
    assert lesson.found.says in said(lesson)
    assert lesson.found.says not in said(silent)
    wrong = replace(lesson, faulty=tuple(replace(trial, findings=other.faulty[0].findings) for trial in lesson.faulty))
    assert "It found loss-not-finite." in said(wrong)
    assert wrong.as_dict()["found"] is None
    assert "The doctor, not named in 1 run" in page.page([wrong])


def said(lesson) -> str:
    """In words, on one line."""
    return " ".join(str(lesson).split())


def test_in_words(made) -> None:
    lesson = made[0][0]
    told = str(lesson)
    assert "The fault:\n    - optimizer.zero_grad()" in told
    assert "    + optimizer.zero_grad()" in told
    assert f"The doctor, at step {lesson.found.told_at}; in 1 of 1 run:" in told
    assert "error: gradients-not-cleared." in told
    assert "Clear gradients once per step" in told
    assert f"{100 * lesson.accuracy('cured').mean:.1f} %" in told
    assert "one seed" in told
    assert max(map(len, told.splitlines())) <= 100


def test_the_picture_has_no_text_over_another_or_over_its_edge(made) -> None:
    from wellfit.laboratory.slide import contact_sheet, panel, slide

    lessons, _ = made
    figures = [slide(lesson) for lesson in lessons] + [panel(lessons[1], kind) for kind in ("loss", "accuracy")]
    for figure in [*figures, contact_sheet(lessons)]:
        well_set(figure)


def undrawn(figure) -> list:
    """Labels of ticks beyond the ends of their axis, which matplotlib keeps and does not draw."""
    return [
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    ]


def well_set(figure) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    boxes = [
        (text.get_text(), text.get_window_extent(canvas.get_renderer()))
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and text not in undrawn(figure)
    ]
    assert len(boxes) > 5
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= width, text
        assert box.y1 <= height, text
    for (text, box), (other, beside) in combinations(boxes, 2):
        across = min(box.x1, beside.x1) - max(box.x0, beside.x0)
        down = min(box.y1, beside.y1) - max(box.y0, beside.y0)
        assert across <= 1 or down <= 2, (text, other)


def test_the_page_is_one_file_with_its_pictures_inside(made) -> None:
    lessons, folder = made
    files = {file.name for file in folder.iterdir()}
    assert files == {*(f"{name}.png" for name in SAMPLE), "index.html", "contact-sheet.png"}
    assert all((folder / file).stat().st_size > 20_000 for file in files)
    assert (folder / "log-of-zero.png").read_bytes()[16:24] == (1919).to_bytes(4, "big") + (1080).to_bytes(4, "big")
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "http" not in text.replace("http-equiv", "")
    assert "<script" not in text
    assert text.count("data:image/png;base64,") == 2 * 2 * len(SAMPLE)
    assert text.count("<article") == len(SAMPLE)
    assert "named 2 of 2" in text
    assert "prefers-color-scheme: dark" in text
    for lesson in lessons:
        assert lesson.found.says.split("`")[-1].strip()[:60] in text
        assert lesson.rows()[1][2] in text


def test_numbers_as_data(made) -> None:
    lesson = made[0][1]
    told = json.loads(json.dumps(lesson.as_dict(), allow_nan=False))
    assert told["named"] == told["runs"] == 1
    assert told["results"]["faulty"]["loss"] == {"0": None}
    assert told["results"]["cured"]["accuracy"]["0"] == lesson.cured[0].accuracy[-1]


def test_spread() -> None:
    assert Spread.of([1.0, 2.0, 6.0]) == Spread(3.0, 1.0, 6.0)
    assert math.isnan(Spread.of([1.0, math.inf]).mean)


def test_a_program_that_fails_is_said_so() -> None:
    with pytest.raises(RunError, match="The program broken with seed 7 failed: ValueError: no luck"):
        list(experiment.run({"broken": "raise ValueError('no luck')"}, [7]))


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import os, sys; os.mkdir(f'{sys.argv[0][:-3]}-{sys.argv[1]}.json')", r"ended with status 1 \(IsADirectoryError: .*odd-7\.json'\)"),
        ("import os; os._exit(0)", r"ended with status 0 \(it said nothing\)"),
        ("import os; os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
    ],
    ids=["our own error", "gone", "killed"],
)  # fmt: skip
def test_a_process_that_leaves_nothing_is_told_by_how_it_ended(program: str, says: str) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    with pytest.raises(RunError, match=f"The program odd with seed 7 left nothing: its process {says}"):
        list(experiment.run({"odd": program}, [7]))


def test_a_process_that_takes_too_long_is_stopped_and_told(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(watched, "PATIENCE", 0.2)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    ended = watched._wait(child.pid)
    child.wait(10)
    assert experiment._ended(ended, tmp_path / "errors.log") == "took more than 300 s and was stopped"


def test_pixels_are_scaled_by_the_training_part_alone(monkeypatch) -> None:
    taken = []
    monkeypatch.setattr(healthy, "EPOCHS", 0)
    monkeypatch.setattr(healthy, "DataLoader", lambda samples, *_, **__: taken.append(samples.tensors[0]))
    healthy.main(1)
    (x,) = taken
    assert len(x) == 1297
    assert abs(float(x.mean())) < 1e-5
    assert float(x.std()) == pytest.approx(1, abs=1e-5)


BAD = {
    "unknown": (["vanishing"], "`vanishing-gradients`"),
    "no seed": (["double-softmax", "--seeds", "0"], "1 to 30"),
    "name and all": (["double-softmax", "--all"], "name one pathology"),
    "out of nothing": (["--out", "x.png"], "No pathology was named"),
    "out of all": (["--all", "--out", "x.png"], "`--folder`"),
    "no picture": (["double-softmax", "--out", "x.txt"], ".png, .svg, .pdf"),
    "no folder": (["double-softmax", "--out", "nowhere/x.png"], "there is no folder"),
    "a file for a folder": (["double-softmax", "--folder", "file"], "cannot be made"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_before_anything_runs(case: str, tmp_path, monkeypatch, capsys) -> None:
    arguments, says = BAD[case]
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["wellfit", "lab", *arguments])
    monkeypatch.setattr(experiment, "run", lambda *_: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    told = capsys.readouterr().err.strip()
    assert says in told
    assert told.count("\n") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_matplotlib_all_are_refused_and_one_is_told_without_its_picture(tmp_path, monkeypatch, capsys) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "matplotlib" else find_spec(name, *more)
    )
    monkeypatch.chdir(tmp_path)
    before = []

    def run(*_):
        before.append(capsys.readouterr().out)
        raise RunError("it ran")

    monkeypatch.setattr(experiment, "run", run)
    for arguments, says in ((["--all"], "The page of all pathologies needs the package `matplotlib`"), (["double-softmax"], "it ran")):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["wellfit", "lab", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        assert left.value.code == 2
        told = capsys.readouterr().err.strip()
        assert told.startswith(f"wellfit: {says}")
        assert told.count("\n") == 0
    (out,) = before
    assert out.startswith("Picture: none, as matplotlib is not here")
    assert not list(tmp_path.iterdir())


def test_bad_input_of_the_library() -> None:
    with pytest.raises(RecipeError, match="No pathology was named"):
        wellfit.lab([])


def test_the_command(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["lab", "softmax-before-cross-entropy", "--seeds", "1", "--out", "one.svg", "--json", "one.json"]
    monkeypatch.setattr(sys, "argv", ["wellfit", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    told = capsys.readouterr()
    assert "Picture: one.svg" in told.out
    assert told.err.count("held-out accuracy") == 2
    assert "<svg" in (tmp_path / "one.svg").read_text(encoding="utf-8")
    (found,) = json.loads((tmp_path / "one.json").read_text())["lessons"]
    assert found["named"] == found["named_first"] == 1
    assert found["results"]["faulty"]["loss"]["0"] > 1.461, (
        "ten classes cannot go below ln(1 + 9/e) after two softmaxes"
    )
    assert found["results"]["cured"]["accuracy"]["0"] > found["results"]["faulty"]["accuracy"]["0"] + 0.08
    assert "Remove the softmax from the model" in told.out


@pytest.mark.timeout(3000)
def test_of_all_pathologies_the_doctor_names_most() -> None:
    if os.environ.get("WELLFIT_LAB") != "all":
        pytest.skip("set WELLFIT_LAB=all to run all pathologies; three of them are run above")
    lessons = wellfit.lab(seeds=1, quiet=True)
    assert len(lessons) == len(PATHOLOGIES)
    assert sum(lesson.found is not None for lesson in lessons) >= MOST
    assert sum(lesson.accuracy("cured").mean > 0.9 for lesson in lessons) == len(lessons)
