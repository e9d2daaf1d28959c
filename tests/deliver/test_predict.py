"""A run folder is all that a prediction needs; what cannot be predicted is told in a sentence."""

import json
import math
import sys
import warnings

import numpy as np
import pytest
import torch
from small_runs import run

import wellfit
from wellfit import api
from wellfit.cli import main
from wellfit.cli.predictions import CHOICES, _shown
from wellfit.deliver.predict import Predictor, _checked, allowed
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
        Image.fromarray(np.full((20, 30, 3), 80 * i, np.uint8)).save(folder / f"{i}.png")
    (folder / "notes.txt").write_text("x")
    return folder


def test_pictures_and_folders(runs, tmp_path) -> None:
    folder = pictures(tmp_path / "new")
    with pytest.warns(UserWarning, match=r"1 files below .* are not pictures"):
        told = wellfit.predict(runs["digits"], folder)
    assert [one["input"] for one in told] == [str(folder / f"{i}.png") for i in range(3)]
    expected = wellfit.predict(runs["digits"], np.full((8, 8), 10, np.uint8))[0]  # 160 of 255 is 10 of 16
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
    for wrong in (0, "abc", 1.5, None, True, [1]):
        with pytest.raises(RecipeError, match=r"`top` is .*it must be a whole number, at least 1"):
            wellfit.predict(runs["digits"], np.zeros((8, 8)), top=wrong)


def test_choices_of_every_task_are_told_without_importing_it() -> None:
    known = {task: tuple(allowed(kind.predict)) for task, kind in KINDS.items()}
    assert {task: names for task, names in known.items() if names} == CHOICES


def test_a_number_that_is_none_is_refused() -> None:
    hint = allowed(KINDS["object-detection"].predict)["threshold"]
    for wrong in (float("nan"), "nan", 2, "x"):
        with pytest.raises(RecipeError, match="it must be a number, at least 0 and at most 1"):
            _checked("threshold", wrong, hint)
    assert _checked("threshold", "1e-1", hint) == 0.1


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
    def call(*arguments, lines: str | bytes = ""):
        import io

        monkeypatch.setattr(sys, "argv", ["wellfit", *map(str, arguments)])
        given = lines.encode() if isinstance(lines, str) else lines
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
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


def test_a_white_picture_is_as_bright_as_the_training_sets(tmp_path) -> None:
    datasets, Image = pytest.importorskip("sklearn.datasets"), pytest.importorskip("PIL.Image")
    short = {"training.epochs": 2, "training.doctor": False, "model": {"kind": "convnet", "channels": (8,)}}
    run = api.fit_recipe("digits", set=short, root=tmp_path, quiet=True, yardsticks=False)
    images = datasets.load_digits().images[:20]
    for i, image in enumerate(images):
        Image.fromarray((image * 255 / 16).round().astype("uint8")).save(tmp_path / f"{i}.png")
    files = wellfit.predict(run, [tmp_path / f"{i}.png" for i in range(20)])
    arrays = wellfit.predict(run, [image.astype("uint8") for image in images])
    assert [one["class"] for one in files] == [one["class"] for one in arrays]
    assert [one["confidence"] for one in files] == [one["confidence"] for one in arrays]


def test_rows_that_cannot_be_read_are_told(runs, command) -> None:
    for lines, says in (
        ("a,b,a\n1,2,3\n", "'a' more than once"), ("a,b\n" + "1" * 200_000 + ",2\n", "cannot be read as CSV"),
        ('{"a": ' + "[" * 100_000, "no JSON"),
    ):  # fmt: skip
        status, _, err = command("predict", runs["wine"].folder, "-", lines=lines)
        assert (status, says in err) == (2, True), err
    status, _, err = command("predict", runs["wine"].folder, "a" * 5000 + ".csv")
    assert (status, "There is no" in err) == (2, True), err
    status, _, err = command("predict", runs["wine"].folder, "x.csv", "--out", "b" * 300 + ".csv")
    assert (status, "cannot be written" in err) == (2, True), err
    status, _, err = command("predict", runs["wine"].folder, "x.csv", "--set", "top=" + "[" * 5000)
    assert (status, "Traceback" in err) == (2, False), err


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
    status, _, err = command("predict", run.folder, "-", lines=b"fine\n\xff\n")
    assert (status, "Line 2 of the standard input is not text in UTF-8" in err) == (2, True)
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n\n")
    status, out, err = command("predict", run.folder, tmp_path / "a.txt")
    assert out == one[1]
    assert "1 empty texts" in err
    (tmp_path / "a.csv").write_text('n,text\n1,x = 3\n2,"Return the sum."\n')
    assert command("predict", run.folder, tmp_path / "a.csv")[1] == one[1]
    assert wellfit.predict(run, tmp_path / "a.csv") == wellfit.predict(run, texts)
    for missing in ("nothing.txt", "some/where"):
        status, out, err = command("predict", run.folder, missing)
        assert (status, out) == (2, "")
        assert f"no file {missing}" in err
    status, out, err = command("predict", run.folder, "x = 3 " * 30, "qqqqzzzz", "--json")
    long, strange = map(json.loads, out.splitlines())
    assert (long["cut"], strange["unknown"]) == (74, True)
    assert "74 tokens were not looked at" in err
    assert "number 2 first" in err


def test_vectors_are_searched_among_the_texts_of_a_file(tmp_path, command) -> None:
    run = api.fit_recipe("docstrings", set={"training.steps": 2, "training.doctor": False, "data.test_share": 0},
                         root=tmp_path, quiet=True)  # fmt: skip
    (tmp_path / "among.txt").write_text("one file\ntwo files\none file\n")
    choose = ["--set", f"among={tmp_path / 'among.txt'}", "--set", "most=9"]
    status, out, err = command("predict", run.folder, "one file", *choose)
    assert status == 0
    assert [line.split("  ")[1] for line in out.splitlines()] == ["one file", "two files"]
    assert "1 of the 3 texts" in err
    for wrong in ("among=nothing.txt", "among=[1,2]", "among=[]", "most=x"):
        assert command("predict", run.folder, "one file", "--set", wrong)[0] == 2
    shown = command("predict", run.folder, "one file")[1]
    assert len(shown) < 150
    assert len(json.loads(command("predict", run.folder, "one file", "--json")[1])["vector"]) > 50


def test_what_is_told_is_readable() -> None:
    """Lines for people, task by task, from what the tasks answer."""

    def shown(task: str, **answer: object) -> list[str]:
        return _shown(task, [answer], [""])

    assert shown("forecasting", times=["1961-01", "1961-02"], values={"y": [448.23456, 99.9]}) == [
        "1961-01  448.2", "1961-02  99.9"
    ]  # fmt: skip
    quantiles = shown("forecasting", times=["1"], low={"y": [1.0]}, values={"y": [2.0]}, high={"y": [3.0]})
    assert [line.split() for line in quantiles] == [["time", "low", "value", "high"], ["1", "1.000", "2.000", "3.000"]]
    assert shown("forecasting", times=["1"], values={"a": [350.123], "b": [0.0]})[0].split() == ["time", "a", "b"]
    assert shown("seq-to-seq", text="a dog", score=-0.4) == ["a dog"]
    box = dict(boxes=[[1.2, 2.6, 30.4, 40.0]], classes=["cat"], scores=[0.971])
    assert shown("object-detection", **box) == ["cat  0.97  1 3 to 30 40"]
    none = dict(boxes=[], classes=[], scores=[], threshold=0.5, best=0.2)
    assert shown("object-detection", **none) == [
        "No box scored 0.5 or more; the best has 0.2. `--set threshold=0.1` shows more."
    ]
    assert shown("token-classification", words=["a", "b"], tags=["X", "Y"]) == ["a/X b/Y"]


def test_a_damaged_record_is_named(runs, tmp_path) -> None:
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(runs["wine"].folder, folder)
    for content, says in (
        ("{", "is no JSON"),
        ("[]", "holds no mapping"),
        ("{}", "lacks what the task"),
        (None, "cannot be read"),
    ):
        (folder / "task.json").unlink()
        if content is not None:
            (folder / "task.json").write_text(content)
        with pytest.raises(RunError, match=rf"(?s)task\.json.*{says}|{says}.*task\.json"):
            wellfit.predict(folder, [{}])


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


# ---- in files


def test_predictions_go_into_files_by_their_ending(runs, tmp_path, command) -> None:
    import csv

    (tmp_path / "new.csv").write_text("town,n\nb,1\nc,5\n")
    expected = wellfit.predict(runs["classes"], tmp_path / "new.csv")
    call = ("predict", runs["classes"].folder, tmp_path / "new.csv", "--out")
    for ending in ("json", "jsonl", "csv"):
        out = tmp_path / f"answers.{ending}"
        assert command(*call, out) == (0, f"{out}: 2 predictions\n", "")
        text = out.read_text()
        if ending == "csv":
            read = [{**row, "confidence": float(row["confidence"])} for row in csv.DictReader(text.splitlines())]
        else:
            read = json.loads(text) if ending == "json" else [json.loads(line) for line in text.splitlines()]
        assert read == [{"input": str(i), **one} for i, one in enumerate(expected, start=1)]
    status, _, err = command(*call, out)
    assert (status, "--force" in err) == (2, True)
    assert command(*call, out, "--force")[0] == 0
    for wrong, says in (("answers.txt", "must end in"), ("no/answers.csv", "no such folder")):
        status, _, err = command(*call, tmp_path / wrong)
        assert (status, says in err) == (2, True)
    assert not [*tmp_path.glob(".*")]


def test_rows_come_from_the_standard_input(runs, tmp_path, command) -> None:
    (tmp_path / "new.csv").write_text("town,n\nb,1\nc,5\n")
    expected = command("predict", runs["classes"].folder, tmp_path / "new.csv", "--json")
    assert expected[0] == 0
    for lines in (
        "town,n\nb,1\nc,5\n",
        "town;n\nb;1\nc;5\n",
        '{"town": "b", "n": 1}\n{"town": "c", "n": 5}\n',
        f"{tmp_path / 'new.csv'}\n",
    ):
        assert command("predict", runs["classes"].folder, "-", "--json", lines=lines) == expected
    for lines, says in (
        ("town,n\n", "no rows below"), ("town,n\nb,1,2\n", "more cells"), ('{"a": 1}\n{', "Line 2"), ("{}\n[]\n", "no JSON object"), ("", "no line"),
    ):  # fmt: skip
        status, _, err = command("predict", runs["classes"].folder, "-", lines=lines)
        assert (status, says in err) == (2, True), (lines, err)


def test_tables_of_other_answers_have_a_row_for_each_part(tmp_path) -> None:
    from wellfit.cli.answers import write

    def table(task, answer, name="x"):
        write(tmp_path / "a.csv", task, [answer], [name])
        return (tmp_path / "a.csv").read_text().splitlines()

    assert table("forecasting", {"times": ["1", "2"], "values": {"y": [3.0, 4.0]}, "low": {"y": [2.0, 3.0]}, "notes": ["n"]}) == [
        "input,time,y_low,y", "x,1,2.0,3.0", "x,2,3.0,4.0"
    ]  # fmt: skip
    box = {"boxes": [[1.0, 2.0, 3.0, 4.0]], "classes": ["a,b"], "scores": [0.9]}
    assert table("object-detection", box) == ["input,class,score,left,top,right,bottom", 'x,"a,b",0.9,1.0,2.0,3.0,4.0']
    tags = {"words": ["a", "b"], "tags": ["X", "Y"], "confidence": [0.5, 0.6]}
    assert table("token-classification", tags) == ["input,word,tag,confidence", "x,a,X,0.5", "x,b,Y,0.6"]
    assert table("sentence-embeddings", {"vector": [0.5, 0.25]}) == ["input,v0,v1", "x,0.5,0.25"]
    assert table("sentence-embeddings", {"similar": [{"text": "t", "similarity": 0.5}]}) == [
        "input,text,similarity",
        "x,t,0.5",
    ]
    top = {"input": "a.png", "class": "3", "confidence": 0.9, "likeliest": {"3": 0.9, "5": 0.1}}
    assert table("image-classification", top, "") == [
        "input,class,confidence,class_1,confidence_1,class_2,confidence_2", "a.png,3,0.9,3,0.9,5,0.1"
    ]  # fmt: skip


def test_a_folder_of_many_pictures_is_never_in_memory_as_a_whole(runs, tmp_path, monkeypatch) -> None:
    from wellfit.tasks import image_classification

    folder = pictures(tmp_path / "new")
    (folder / "notes.txt").unlink()
    seen = []
    predictor = wellfit.deliver.predict.Predictor.of(runs["digits"])
    predictor.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    expected = predictor([folder] * 4)
    monkeypatch.setattr(image_classification, "AT_ONCE", 5)
    assert predictor([folder] * 4) == expected
    assert seen == [12, 5, 5, 2]


# ---- what others found


def test_half_a_letter_is_named_by_every_task_of_texts(command, tmp_path) -> None:
    for name in ("text", "vectors", "writer", "rewriter", "tags", "chat"):
        status, out, err = command("predict", run(name).folder, "fine", "a\udcff")
        assert (status, out) == (2, ""), name
        assert "Text number 2 has '\\udcff' at its letter 2" in err, err
    with pytest.raises(DataError, match=r"Message 1 in text number 1 has .* half a surrogate pair"):
        wellfit.predict(run("chat"), '[{"role": "user", "content": "\\ud800"}]')
    (tmp_path / "c.jsonl").write_text('{"prompt": "\\ud800", "completion": "b"}\n' * 20)
    with pytest.raises(DataError, match=r"line 1 of .*c.jsonl has .* half a surrogate pair"):
        api.fit_recipe(
            Recipe(), set={"data.source": str(tmp_path / "c.jsonl"), "task": "text-generation"}, root=tmp_path
        )


def test_a_text_that_looks_like_json_is_a_text() -> None:
    assert wellfit.predict(run("chat"), "[" * 100_000, length=3)[0]["text"] is not None


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([{"role": "user", "content": " "}], "ends with an empty message"),
        ([{"role": "system", "content": "Be short."}], "ends with what the system says"),
        ([{"role": "assistant", "content": "Yes."}], "ends with what the assistant says"),
    ],
)
def test_a_conversation_has_to_ask(said, why) -> None:
    with pytest.raises(DataError, match=why):
        wellfit.predict(run("chat"), said)


def test_the_smallest_temperature_is_the_likeliest_text() -> None:
    coldest = wellfit.predict(run("writer"), "it is", temperature=1e-320, length=9)
    assert coldest == wellfit.predict(run("writer"), "it is", top_k=1, length=9)


def test_empty_lines_of_the_standard_input_are_left_out(command) -> None:
    status, out, err = command("predict", run("vectors").folder, "-", lines="\n\nit is good\n")
    assert (status, len(out.splitlines())) == (0, 1)
    assert "2 empty lines of the standard input were left out" in err
    assert "`most` counts" in command("predict", run("vectors").folder, "it is", "--set", "most=9")[2]


def test_long_sentences_are_tagged_in_pieces(monkeypatch) -> None:
    from wellfit.tasks import token_classification

    words = ["it", "is", "bad"] * 200
    at_once = wellfit.predict(run("tags"), [words])
    monkeypatch.setattr(token_classification, "AT_ONCE", 3)
    assert wellfit.predict(run("tags"), [words]) == at_once


def test_a_series_that_no_forecast_can_follow_is_refused(tmp_path, command) -> None:
    def asked(value: str, year: str = "2020") -> str:
        lines = [f"{year}-12-{1 + i:02d},{value if i == 5 else i}" for i in range(31)]
        (tmp_path / "s.csv").write_text("day,sold\n" + "\n".join(lines) + "\n")
        status, out, err = command("predict", run("series").folder, tmp_path / "s.csv")
        assert (status, out) == (2, ""), value
        return err

    assert "has '1000" in asked("1" + 400 * "0")
    assert "train with `data.missing=mean`" in " ".join(asked("").split())
    assert "after the year 9999" in asked("1", year="9999").replace("\n", " ")


def test_a_forecast_that_is_no_number_is_refused() -> None:
    predictor = Predictor.of(run("series"))
    predictor.model.register_forward_hook(lambda _, __, outputs: outputs + math.inf)
    rows = [{"day": f"2020-01-{1 + i:02d}", "sold": float(i)} for i in range(28)]
    with pytest.raises(DataError, match="is no finite number; its values are too far from what"):
        predictor([rows])


def test_pictures_without_a_box_have_a_row(tmp_path) -> None:
    from wellfit.cli.answers import write

    write(tmp_path / "a.csv", "object-detection", [{"boxes": [], "classes": [], "scores": [], "best": 0.1}], ["x.png"])
    assert (tmp_path / "a.csv").read_text().splitlines() == ["input,class,score,left,top,right,bottom", "x.png,,,,,,"]
