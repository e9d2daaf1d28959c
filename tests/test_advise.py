"""`suggest` picks the task that the data holds, says the numbers that decided, and writes a recipe that trains as it stands."""

import gzip
import sys

import numpy as np
import pytest

import wellfit
from wellfit import api
from wellfit.cli import main
from wellfit.data.source import load
from wellfit.errors import DataError, RecipeError
from wellfit.recipe import Data, Recipe

FEW = {"training.steps": 2, "training.doctor": False, "training.epochs": None}


def table(path, rows: int = 120):
    """Numbers, a category, an id, a constant, a date that jumps, gaps, and an uneven target."""
    draw = np.random.default_rng(0)
    lines = ["row_id,when,age,town,fixed,income,target"]
    for i in range(rows):
        age = "" if i % 10 == 0 else str(20 + i % 40)
        day = f"2024-{1 + (i * 7) % 12:02d}-{1 + (i * 5) % 28:02d}"
        lines.append(f"{i + 1000},{day},{age},{'abc'[i % 3]},7,{draw.normal():.3f},{'yes' if i % 15 else 'no'}")
    path.write_text("\n".join(lines) + "\n")
    return path


def trains(found, tmp_path) -> None:
    """Its file reads back as the same choices, and a few steps of it run."""
    file = found.save(tmp_path / "suggested.yaml")
    recipe = Recipe.load(file)
    assert {path: recipe.flat()[path] for path in found.choices} == {
        path: found.recipe.flat()[path] for path in found.choices
    }
    steps = {name: value for name, value in FEW.items() if name != "training.epochs"}
    run = api.fit_recipe(recipe, set=steps, root=tmp_path / "runs", quiet=True)
    assert run.ended().reason == "finished"
    assert run.recipe.task == found.task


def test_a_table(tmp_path) -> None:
    found = wellfit.suggest(table(tmp_path / "t.csv"))
    assert found.task == "tabular-classification"
    values = found.recipe.flat()
    assert values["data.target"] == "target"
    assert set(values["data.ignore"]) == {"row_id", "when", "fixed"}
    assert values["data.missing"] == "mean"
    assert (values["evaluation.metric"], values["loss.class_weights"]) == ("f1", "balanced")
    said = str(found)
    assert "12 cells are empty" in said
    assert "'no' (" in said, "the rare class is named with its count"
    assert "data.target=NAME" in said
    assert "2 classes; the rarest, 'no'" in said
    trains(found, tmp_path)


def test_what_the_caller_sets_is_kept(tmp_path) -> None:
    settings = [
        "data.target=income",
        "data.ignore=[row_id,when]",
        "data.missing=mean",
        "model={kind: mlp, widths: [9]}",
    ]
    found = wellfit.suggest(table(tmp_path / "t.csv"), set=settings)
    assert found.task == "tabular-regression"
    assert found.recipe.data.ignore == ("row_id", "when")
    assert found.recipe.model.widths == (9,)
    assert not any(path.startswith(("model", "data.target", "data.ignore")) for path in found.choices)
    assert "widths: [9]" in found.yaml()
    trains(found, tmp_path)


def test_columns_that_give_the_target_away_are_named(tmp_path) -> None:
    lines = ["a,after,y"] + [f"{(i * 37) % 11},{2 * i + 1},{i}.5" for i in range(80)]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    assert any("'after'" in one and "afterwards" in one for one in wellfit.suggest(tmp_path / "t.csv").watch)


def test_pictures(tmp_path) -> None:
    Image = pytest.importorskip("PIL.Image")
    draw = np.random.default_rng(0)
    for name, count in (("cat", 40), ("dog", 30), ("emu", 6)):
        (tmp_path / "zoo" / name).mkdir(parents=True)
        for i in range(count):
            pixels = draw.integers(0, 255, (50, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "zoo" / name / f"{i}.png")
    for i in range(6):
        (tmp_path / "zoo" / "dog" / f"copy{i}.png").write_bytes((tmp_path / "zoo" / "cat" / f"{i}.png").read_bytes())
    found = wellfit.suggest(tmp_path / "zoo")
    values = found.recipe.flat()
    assert found.task == "image-classification"
    assert values["data.image_size"] == 48
    assert values["data.augment.flip"] is True
    assert values["model.kind"] == "convnet"
    said = " ".join(str(found).split())
    assert "'emu'" in said
    assert "exact copies" in said
    assert "different classes" in said
    trains(found, tmp_path)


def test_many_pictures_get_a_deeper_network_and_digits_no_mirror(tmp_path) -> None:
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", images=draw.integers(0, 255, (3000, 28, 28)), labels=np.arange(3000) % 10)
    found = wellfit.suggest(tmp_path / "a.npz")
    assert found.recipe.model.kind == "resnet"
    assert not found.recipe.data.augment.flip
    assert found.recipe.data.augment.shift == 2
    trains(wellfit.suggest("digits"), tmp_path)


def reviews(path, header: str = "review,stars\n", separator: str = ",", rows: int = 90):
    words = [
        "good",
        "bad",
        "film",
        "actor",
        "plot",
        "was",
        "the",
        "very",
        "not",
        "so",
        "dull",
        "bright",
        "long",
        "short",
        "and",
    ]
    draw = np.random.default_rng(0)
    lines = [f"{' '.join(draw.choice(words, 5 + i % 20))}{separator}{i % 2}" for i in range(rows)]
    path.write_text(header + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("name", "header", "separator", "text"),
    [("a.csv", "review,stars\n", ",", "review"), ("a.tsv", "", "\t", "1")],
)
def test_texts_in_a_table(tmp_path, name, header, separator, text) -> None:
    found = wellfit.suggest(reviews(tmp_path / name, header, separator))
    assert found.task == "text-classification"
    assert found.recipe.data.text == text
    assert (found.recipe.model.kind, found.recipe.data.context) == ("bag", 32)
    assert "TF-IDF" in str(found)
    trains(found, tmp_path)


def test_a_name_in_a_table_does_not_make_it_text(tmp_path) -> None:
    head = "full_name,age,fare,cabin,survived\n"
    rows = [f"Anna Maria von Beispiel number {i},{i % 60},{i * 1.5},{'xyz'[i % 3]},{i % 2}" for i in range(60)]
    (tmp_path / "t.csv").write_text(head + "\n".join(rows) + "\n")
    found = wellfit.suggest(tmp_path / "t.csv")
    assert found.task == "tabular-classification"
    assert "full_name" in found.recipe.data.ignore
    assert any("full_name" in one for one in found.instead)


def test_running_text_and_texts_by_folder(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("To be, or not to be, that is the question.\n" * 200)
    found = wellfit.suggest(tmp_path / "a.txt")
    assert (found.task, found.recipe.model.kind) == ("text-generation", "decoder")
    trains(found, tmp_path)
    for name in ("pos", "neg"):
        (tmp_path / "by" / name).mkdir(parents=True)
        for i in range(20):
            (tmp_path / "by" / name / f"{i}.txt").write_text(f"{name} text number {i} with some words")
    assert wellfit.suggest(tmp_path / "by").task == "text-classification"


def test_a_series(tmp_path) -> None:
    lines = ["month,passengers"] + [
        f"{1990 + i // 12}-{1 + i % 12:02d},{100 + i + 20 * np.sin(i * np.pi / 6):.1f}" for i in range(144)
    ]
    (tmp_path / "s.csv").write_text("\n".join(lines) + "\n")
    found = wellfit.suggest(tmp_path / "s.csv")
    assert found.task == "forecasting"
    assert found.recipe.data.time == "month"
    assert any("tabular-regression" in one for one in found.instead)
    trains(found, tmp_path)


def test_what_cannot_be_read_is_told_as_a_training_would(tmp_path) -> None:
    with pytest.raises(DataError, match="nothing is there"):
        wellfit.suggest(tmp_path / "nothing.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="empty"):
        wellfit.suggest(tmp_path / "empty.csv")


@pytest.fixture
def command(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["wellfit", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        told = capsys.readouterr()
        return left.value.code or 0, told.out, told.err

    return call


def test_the_command_writes_and_never_overwrites_unasked(tmp_path, command) -> None:
    file = tmp_path / "s.yaml"
    status, out, _ = command("suggest", "wine", "--out", file)
    assert status == 0
    assert f"wellfit train {file}" in " ".join(out.split())
    before = file.read_text()
    assert before.startswith("# Suggested for wine")
    file.write_text("mine")
    status, out, err = command("suggest", "wine", "--out", file)
    assert (status, file.read_text()) == (2, "mine")
    assert "--force" in err
    assert command("suggest", "wine", "--out", file, "--force")[0] == 0
    assert file.read_text() == before
    assert "--out FILE" in command("suggest", "wine", "--set", "model.kind=mlp")[1]
    with pytest.raises(RecipeError):
        wellfit.suggest("wine").save(file)


def test_a_folder_with_a_table_for_each_part(tmp_path) -> None:
    (tmp_path / "set").mkdir()
    for name, rows in (("train", 90), ("dev", 40), ("test", 41)):
        reviews(tmp_path / "set" / f"{name}.tsv", "", "\t", rows)
    found = wellfit.suggest(tmp_path / "set")
    assert found.task == "text-classification"
    assert [found.recipe.flat()[f"data.{part}"].rpartition("/")[2] for part in ("source", "valid", "test")] == [
        "train.tsv",
        "dev.tsv",
        "test.tsv",
    ]
    assert "90 samples to learn from, 40 to validate, 41 to test" in " ".join(found.facts)
    assert "40 samples validate" in str(found)
    trains(found, tmp_path)


def test_parts_by_the_last_word_of_their_names(tmp_path) -> None:
    (tmp_path / "set").mkdir()
    for name, rows in (("film-train", 90), ("film-dev", 40)):
        reviews(tmp_path / "set" / f"{name}.tsv", "", "\t", rows)
    found = wellfit.suggest(tmp_path / "set")
    names = [found.recipe.flat()[f"data.{part}"].rpartition("/")[2] for part in ("source", "valid")]
    assert names == ["film-train.tsv", "film-dev.tsv"]
    with pytest.raises(
        DataError, match=r"`wellfit suggest .*` says what could be learnt from film-dev.tsv, film-train.tsv"
    ):
        load(Data(source=str(tmp_path / "set")))


def test_a_packed_table_that_is_cut_short_is_told_as_such(tmp_path) -> None:
    whole = gzip.compress("\n".join(["text,label", *(f"text {i * i},{i % 2}" for i in range(200))]).encode())
    (tmp_path / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="ended before the end-of-stream"):
        wellfit.suggest(tmp_path / "cut.csv.gz")
    with pytest.raises(DataError, match=r"name their column with `data\.text`"):
        load(Data(source=str(tmp_path / "cut.csv.gz")))
