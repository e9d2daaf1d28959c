"""A run folder is all that a prediction needs; what cannot be predicted is told in a sentence."""

import json
import sys
import warnings

import numpy as np
import pytest
import torch

import wellfit
from wellfit import api
from wellfit.cli import main
from wellfit.errors import DataError, RecipeError, RunError
from wellfit.recipe import Recipe
from wellfit.tasks import KINDS

SHORT = {
    "training.epochs": 3,
    "training.doctor": False,
    "data.test_share": 0,
}  # without a test set no yardstick is fitted


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One short run each on images, rows to classes, and rows to numbers."""
    root = tmp_path_factory.mktemp("runs")
    found = {name: api.fit_recipe(name, set=SHORT, root=root, quiet=True) for name in ("digits", "wine", "diabetes")}
    rows = [f"{i % 7},{'abc'[i % 3]},{i % 7 + 10 * (i % 3)},{'yes' if i % 3 else 'no'}" for i in range(90)]
    table = root / "t.csv"
    table.write_text("n,town,y,answer\n" + "\n".join(rows) + "\n")
    of_table = {"data.source": str(table), "data.missing": "mean", **SHORT, "training.epochs": 30}
    for name, target, other in (("numbers", "y", "answer"), ("classes", "answer", "y")):
        settings = {**of_table, "data.target": target, "data.ignore": [other]}
        found[name] = api.fit_recipe(Recipe(), set=settings, root=root, quiet=True)
    return found


def test_every_task_has_all_three() -> None:
    assert all(kind.network and kind.predict for kind in KINDS.values())


def test_what_is_predicted_is_what_the_trained_model_says(runs) -> None:
    run = runs["digits"]
    images = torch.randint(0, 17, (40, 8, 8), dtype=torch.uint8)
    told = wellfit.predict(run.folder, images.numpy())
    expected = run.model.eval()(images[:, None]).softmax(-1)
    assert [one["class"] for one in told] == [str(int(row.argmax())) for row in expected]
    assert np.allclose([one["confidence"] for one in told], expected.max(-1).values.tolist(), atol=1e-4)
    assert wellfit.predict(run, images[3].numpy()) == [told[3]], "one image needs no list around it"
    top = wellfit.predict(run, images[:1].numpy(), top=3)[0]["likeliest"]
    assert list(top.values()) == sorted(top.values(), reverse=True)
    assert len(top) == 3


def test_nothing_global_is_changed(runs) -> None:
    before = torch.get_rng_state()
    wellfit.predict(runs["wine"], [dict.fromkeys(runs["wine"].task["columns"]["numeric"], 1.0)])
    assert torch.equal(before, torch.get_rng_state())


def test_rows_in_the_targets_unit(runs) -> None:
    told = wellfit.predict(runs["numbers"], [{"n": 3, "town": "a"}, {"n": "3", "town": "c"}])
    assert abs(told[0]["value"] - 3) < 5
    assert abs(told[1]["value"] - 23) < 5
    assert set(told[0]) == {"value"}


def test_tables_and_rows_are_told_alike(runs, tmp_path) -> None:
    rows = [{"n": 1, "town": "b"}, {"n": 5, "town": "c"}]
    (tmp_path / "new.csv").write_text("town,n\nb,1\nc,5\n")
    told = wellfit.predict(runs["classes"], rows)
    assert wellfit.predict(runs["classes"], tmp_path / "new.csv") == told
    assert told[0]["class"] in ("yes", "no")
    names = runs["wine"].task["columns"]["numeric"]
    row = np.arange(13.0)
    assert wellfit.predict(runs["wine"], row) == wellfit.predict(runs["wine"], dict(zip(names, row, strict=True)))


def test_an_unseen_category_is_no_category_and_counted(runs) -> None:
    with pytest.warns(UserWarning, match="2 rows of the rows given have a value of 'town' that no training row has"):
        told = wellfit.predict(runs["numbers"], [{"n": 1, "town": t} for t in ("a", "x", "z")])
    assert told[1] == told[2]
    assert told[0] != told[1]


def test_gaps_and_columns_that_are_not_used_are_told(runs) -> None:
    with pytest.warns(UserWarning, match="colour|training mean") as remarks:
        wellfit.predict(runs["numbers"], [{"n": None, "town": "a", "colour": "red"}])
    said = " ".join(str(remark.message) for remark in remarks)
    assert "colour" in said
    assert "training mean" in said


def pictures(folder):
    """Three pictures, a file that is none, and a picture that is broken."""
    Image = pytest.importorskip("PIL.Image")
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.full((20, 30, 3), 5 * i, np.uint8)).save(folder / f"{i}.png")
    (folder / "notes.txt").write_text("x")
    return folder


def test_pictures_and_folders(runs, tmp_path) -> None:
    folder = pictures(tmp_path / "new")
    with pytest.warns(UserWarning, match=r"1 files below .* are not pictures"):
        told = wellfit.predict(runs["digits"], folder)
    assert [one["input"] for one in told] == [str(folder / f"{i}.png") for i in range(3)]
    expected = wellfit.predict(runs["digits"], np.full((8, 8), 10, np.uint8))[0]
    assert told[2] == {"input": str(folder / "2.png"), **expected}


@pytest.mark.parametrize(
    ("run", "inputs", "says"),
    [
        ("digits", ["nothing.png"], "There is no picture at nothing.png"),
        ("digits", ["broken.png"], "broken.png cannot be decoded"),
        ("digits", ["empty"], "holds no pictures"),
        ("digits", [np.zeros((9, 8))], r"trained on \[1, 8, 8\]"),
        ("digits", [np.array(["a"])], "array"),
        ("wine", ["nothing.csv"], "There is no table at nothing.csv"),
        ("wine", [{"alcohol": 1}], "lacks the column"),
        ("wine", [], "No row"),
        ("wine", [[1, 2]], "column -> value"),
        ("numbers", [{"n": "many", "town": "a"}], "'many'"),
        ("numbers", [{"m": 1, "town": "a"}], "Did you mean `n`|lacks the column 'n'"),
    ],
)
def test_what_cannot_be_taken_is_named(runs, run, inputs, says, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG not really")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=says):
        wellfit.predict(runs[run], inputs)


def test_choices_are_checked(runs) -> None:
    with pytest.raises(RecipeError, match="Did you mean `top`"):
        wellfit.predict(runs["digits"], np.zeros((8, 8)), tops=3)
    with pytest.raises(DataError, match="`top` is 0"):
        wellfit.predict(runs["digits"], np.zeros((8, 8)), top=0)


def test_what_is_no_run_or_holds_no_model(tmp_path) -> None:
    with pytest.raises(RunError, match="no run at"):
        wellfit.predict(tmp_path / "nothing", "x")
    given = api.fit(
        torch.nn.Linear(2, 2), (torch.randn(20, 2), torch.arange(20) % 2), loss="cross-entropy",
        set={"training.steps": 2, "training.batch_size": 4}, root=tmp_path, quiet=True,
    )  # fmt: skip
    with pytest.raises(RunError, match="holds no code"):
        wellfit.predict(given, torch.zeros(2))
    run = api.fit_recipe("wine", set={**SHORT, "training.epochs": 1}, root=tmp_path, quiet=True)
    for file in run.folder.glob("checkpoints/step-*/model.safetensors"):
        file.unlink()
    with pytest.raises(RunError, match="damaged"):
        wellfit.predict(run, [{}])


# ---- the command line


@pytest.fixture
def command(monkeypatch, capsys):
    def call(*arguments, lines: str = ""):
        import io

        monkeypatch.setattr(sys, "argv", ["wellfit", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
        with pytest.raises(SystemExit) as left:
            main()
        told = capsys.readouterr()
        return left.value.code or 0, told.out, told.err

    return call


def test_the_command_prints_a_line_for_each(runs, tmp_path, command) -> None:
    folder = pictures(tmp_path / "new")
    status, out, err = command("predict", runs["digits"].folder, folder / "0.png", folder)
    assert status == 0
    assert len(out.splitlines()) == 4
    assert out.startswith(f"{folder / '0.png'}: ")
    assert "not pictures" in err
    status, out, err = command("predict", runs["digits"].folder, folder / "0.png", "--json", "--set", "top=2")
    (line,) = out.splitlines()
    assert len(json.loads(line)["likeliest"]) == 2
    assert err == ""


def test_texts_come_as_arguments_or_lines(tmp_path, command) -> None:
    settings = {
        "model.width": 16, "model.layers": 1, "training.steps": 5, "training.doctor": False, "data.context": 16,
        "data.augment.delete": 0.1, "data.augment.swap": 0.1,
    }  # fmt: skip
    run = api.fit_recipe("stdlib-kinds", set=settings, root=tmp_path, quiet=True)
    texts = ["x = 3", "Return the sum."]
    one = command("predict", run.folder, *texts)
    other = command("predict", run.folder, "-", lines="\n".join(texts) + "\n")
    assert one == other
    assert one[0] == 0
    assert len(one[1].splitlines()) == 2
    assert command("predict", run.folder, "-")[0] == 2


@pytest.mark.parametrize(
    ("what", "says"), [("nothing", "no run at"), ("t", "not a run folder"), (None, "no picture at")]
)
def test_the_command_says_what_is_wrong_in_a_paragraph(runs, tmp_path, command, what, says) -> None:
    (tmp_path / "t").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        status, out, err = command("predict", tmp_path / what if what else runs["digits"].folder, "nothing.png")
    assert (status, out) == (2, "")
    assert says in err
    assert err.strip().count("\n") == 0
