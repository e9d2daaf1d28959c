"""Data by name and by path: what is read, and one clear sentence for each way it can be wrong."""

import gzip
import struct

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from wellfit.data import embedded
from wellfit.data.source import load
from wellfit.errors import DataError, RecipeError
from wellfit.recipe import Data


def read(source, task=None, **settings):
    return load(Data(source=str(source), **settings), task)


def table(tmp_path, rows: int = 60, name: str = "table.csv", **columns):
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"a": draw.normal(size=rows), "b": draw.integers(0, 9, rows), "city": draw.choice(["Rom", "Ulm", "Bern"], rows),
                          "y": draw.choice(["no", "yes"], rows)} | columns)  # fmt: skip
    path = tmp_path / name
    frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(path, index=False)
    return path


# ---- embedded


@pytest.mark.parametrize("name", embedded.SETS)
def test_embedded_sets_are_split_without_loss(name) -> None:
    found, whole = read(name), embedded.SETS[name]().arrays
    parts = [found.train, found.valid, found.test]
    assert sum(len(part) for part in parts) == len(whole)
    rows = torch.cat([part.inputs.flatten(1).float() for part in parts])
    assert torch.equal(rows.sum(0), whole.inputs.flatten(1).float().sum(0)) or torch.allclose(
        rows.sum(0), whole.inputs.flatten(1).float().sum(0)
    )
    assert len(found.test) == pytest.approx(0.2 * len(whole), abs=1)
    assert found.fingerprint == read(name).fingerprint
    assert read(name, split_seed=1).fingerprint != found.fingerprint
    if found.classes:
        shares = [torch.bincount(part.targets, minlength=len(found.classes)) / len(part) for part in parts]
        assert max((share - shares[0]).abs().max() for share in shares) < 0.06


def test_no_shares_no_held_out() -> None:
    found = read("wine", valid_share=0, test_share=0)
    assert found.valid is None
    assert found.test is None
    assert len(found.train) == 178


# ---- idx and npz


def write_idx(path, array: np.ndarray) -> None:
    content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def idx_folder(tmp_path):
    draw = np.random.default_rng(0)
    for prefix, count in (("train", 40), ("t10k", 10)):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", draw.integers(0, 255, (count, 5, 6)))
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", np.arange(count) % 2)
    return tmp_path


def test_idx(idx_folder) -> None:
    found = read(idx_folder)
    assert found.train.inputs.shape == (36, 1, 5, 6)
    assert len(found.valid) == 4
    assert len(found.test) == 10
    assert found.classes == ("0", "1")
    one = (
        read(idx_folder / "train-images-idx3-ubyte.gz")
        if (idx_folder / "train-labels-idx1-ubyte.gz").exists()
        else None
    )
    assert one is None or len(one.train) == 36


def test_idx_that_is_wrong(idx_folder) -> None:
    labels = idx_folder / "train-labels-idx1-ubyte"
    good = labels.read_bytes()
    labels.write_bytes(good[:-3])
    with pytest.raises(DataError, match=r"labels.*damaged: 45 bytes"):
        read(idx_folder)
    labels.write_bytes(b"hello world")
    with pytest.raises(DataError, match="not an idx file"):
        read(idx_folder)
    write_idx(labels, np.arange(39) % 2)
    with pytest.raises(DataError, match="40 images"):
        read(idx_folder)
    write_idx(labels, np.zeros(40))
    with pytest.raises(DataError, match="nothing to tell apart"):
        read(idx_folder)
    labels.unlink()
    with pytest.raises(DataError, match="other half"):
        read(idx_folder)


def test_npz_images_and_rows(tmp_path) -> None:
    draw = np.random.default_rng(0)
    y = np.array([3, 7] * 20)
    for shape in ((40, 6, 6), (40, 6, 6, 3), (40, 3, 6, 6)):
        np.savez(tmp_path / "a.npz", images=draw.random(shape), labels=y)
        found = read(tmp_path / "a.npz")
        assert found.train.inputs.shape[1:] == ((1, 6, 6) if len(shape) == 3 else (3, 6, 6))
        assert found.train.inputs.dtype is torch.uint8
        assert found.classes == ("3", "7")
        assert "rounded" in " ".join(found.notes)
    np.savez(tmp_path / "b.npz", X=draw.random((40, 4)), y=draw.random(40))
    assert read(tmp_path / "b.npz").task == "tabular-regression"
    np.savez(tmp_path / "c.npz", x_train=draw.random((40, 4)), y_train=y, x_test=draw.random((6, 4)), y_test=y[:6])
    found = read(tmp_path / "c.npz")
    assert found.task == "tabular-classification"
    assert len(found.test) == 6


BAD_NPZ = {
    "lengths": (dict(x=np.zeros((4, 2)), y=np.zeros(5)), r"\[4, 2\]"),
    "no pair": (dict(foo=np.zeros(3)), "foo"),
    "empty": (dict(x=np.zeros((0, 2)), y=np.zeros(0)), "empty"),
    "not finite": (dict(x=np.array([[1.0, np.nan]] * 4), y=np.array([0, 1, 0, 1])), "column 1"),
    "labels": (dict(images=np.zeros((4, 5, 5)), labels=np.array([0, 1, 0.5, 1])), "0.5"),
    "range": (dict(images=np.full((4, 5, 5), -3.0), labels=np.array([0, 1, 0, 1])), "from 0 to 255"),
    "objects": (dict(x=np.array([None, 3]), y=np.array([0, 1])), "code"),
    "one class": (dict(x=np.zeros((4, 2)), y=np.ones(4)), "nothing to tell apart"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_NPZ)
def test_npz_that_is_wrong(tmp_path, case) -> None:
    arrays, says = BAD_NPZ[case]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=says):
        read(tmp_path / "a.npz")


def test_a_single_number_as_inputs_and_a_home_that_is_not_known(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", x=np.float32(1), y=np.arange(3))
    with pytest.raises(DataError, match=r"have the shape \[\] and the targets \[3\]"):
        read(tmp_path / "a.npz")
    for settings in ({"source": "~no-such-person/a.csv"}, {"source": "digits", "valid": "~no-such-person/a.csv"}):
        with pytest.raises(DataError, match="no home folder is known for '~no-such-person'"):
            read(**settings)


def test_damaged_npz(tmp_path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "a.npz")


# ---- pictures


def picture(path, size=(12, 9), colour=(200, 30, 0), mode="RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def pictures(tmp_path):
    for i in range(12):
        picture(tmp_path / "cats" / f"{i}.png", colour=(i, 0, 0))
        picture(tmp_path / "dogs & <b>" / f"{i}.jpg", size=(9, 14), colour=(0, i, 200))
    return tmp_path


def test_pictures(pictures) -> None:
    (pictures / "cats" / "notes.txt").write_text("x")
    found = read(pictures, image_size=8)
    assert found.train.inputs.shape == (22, 3, 8, 8)
    assert found.classes == ("cats", "dogs & <b>")
    assert any("notes.txt" in note for note in found.notes)


def test_pictures_with_folders_of_their_own(tmp_path) -> None:
    for part, count in (("train", 6), ("val", 2), ("test", 3)):
        for name in "ab":
            for i in range(count):
                picture(tmp_path / part / name / f"{i}.png", colour=40 * i, mode="L")
    found = read(tmp_path, image_size=8)
    assert [len(part) for part in (found.train, found.valid, found.test)] == [12, 4, 6]
    assert found.train.inputs.shape[1] == 1
    picture(tmp_path / "val" / "c" / "0.png")
    with pytest.raises(DataError, match="'c'"):
        read(tmp_path)


def test_a_picture_that_does_not_decode_is_named(pictures) -> None:
    (pictures / "cats" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(DataError, match=r"cats/bad\.png cannot be decoded"):
        read(pictures)
    (pictures / "cats" / "bad.png").write_bytes((pictures / "dogs & <b>" / "1.jpg").read_bytes()[:200])
    with pytest.raises(DataError, match=r"bad\.png cannot be decoded"):
        read(pictures)


def test_folders_without_pictures(tmp_path) -> None:
    with pytest.raises(DataError, match="CLASS/NAME"):
        read(tmp_path)


def test_more_pictures_than_memory(pictures, monkeypatch) -> None:
    monkeypatch.setattr("wellfit.environment.memory_bytes", lambda: 10_000)
    with pytest.raises(DataError, match=r"data\.image_size="):
        read(pictures)


def test_real_pictures_and_mnist(data_folder) -> None:
    found = read(data_folder / "ants_bees256", image_size=32)
    assert [len(found.train), len(found.valid)] == [243, 153]
    assert found.classes == ("ants", "bees")
    found = read(data_folder / "mnist")
    assert [len(part) for part in (found.train, found.valid, found.test)] == [54_000, 6_000, 10_000]


# ---- tables


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_a_table(tmp_path, name) -> None:
    found = read(table(tmp_path, name=name), target="y", test_share=0.2)
    assert found.task == "tabular-classification"
    assert found.classes == ("no", "yes")
    assert found.features == ("a", "b", "city=Bern", "city=Rom", "city=Ulm")
    assert found.train.inputs[:, 2:].sum(1).eq(1).all()
    assert [len(part) for part in (found.train, found.valid, found.test)] == [43, 5, 12]
    assert found.columns["categories"] == {"city": ["Bern", "Rom", "Ulm"]}


def test_targets_are_deduced_and_said(tmp_path) -> None:
    numbers = read(table(tmp_path, y=np.linspace(0, 3, 60)), target="y")
    assert numbers.task == "tabular-regression"
    assert any("task=tabular-classification" in note for note in numbers.notes)
    classes = read(table(tmp_path, y=np.arange(60) % 3), target="y")
    assert classes.classes == ("0", "1", "2")
    assert read(table(tmp_path, y=np.arange(60) % 3), task="tabular-regression", target="y").classes == ()
    assert read(table(tmp_path, y=np.arange(60) % 2 == 0), target="y").classes == ("False", "True")


def test_gaps_are_an_error_or_filled_with_the_training_mean(tmp_path) -> None:
    a = np.arange(60.0)
    a[[3, 50]] = np.nan
    path = table(tmp_path, a=a)
    with pytest.raises(DataError, match=r"'a'.*2 empty.*row 5.*data\.missing=mean"):
        read(path, target="y")
    found = read(path, target="y", missing="mean")
    filled = [note for note in found.notes if "filled with the training mean" in note]
    assert sum(int(note.split()[0]) for note in filled) == 2
    means = {note.split("mean, ")[1] for note in filled}
    assert len(means) == 1


def test_separate_sets_and_unseen_categories(tmp_path) -> None:
    path = table(tmp_path)
    other = table(tmp_path, rows=20, name="other.csv", city=["Oslo"] * 5 + ["Rom"] * 15)
    found = read(path, target="y", test=str(other), valid_share=0)
    assert len(found.train) == 60
    assert found.test.inputs[:5, 2:].sum() == 0
    assert any("5 rows" in note and "Oslo" in note for note in found.notes)
    pd.read_csv(other).drop(columns="b").to_csv(other, index=False)
    with pytest.raises(DataError, match="lacks the column 'b'"):
        read(path, target="y", test=str(other))


def numbers_with(value, row=7):
    column = np.arange(60).astype(object)
    column[row] = value
    return column


BAD_TABLES = {
    "text among numbers": (dict(a=numbers_with("many")), dict(target="y"), r"'a'.*text where a number belongs: 'many' in row 9"),
    "no target": ({}, {}, r"`data\.target`.*a, b, city, y"),
    "wrong target": ({}, dict(target="yy"), "`y`"),
    "wrong ignore": ({}, dict(target="y", ignore=("cty",)), "`city`"),
    "gap in target": (dict(y=numbers_with(None)), dict(target="y"), r"'y'.*row 9"),
    "infinite": (dict(a=numbers_with(np.inf)), dict(target="y"), "'a'.*row 9"),
    "one class": (dict(y=["a"] * 60), dict(target="y"), "always 'a'"),
    "constant number": (dict(y=[2.5] * 60), dict(target="y"), "always 2.5"),
    "rare class": (dict(y=["a"] * 59 + ["b"]), dict(target="y"), "class number 1 has 1"),
    "text target as number": (dict(y=numbers_with("x")), dict(target="y", task="tabular-regression"), "'x' in row 9"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TABLES)
def test_tables_that_are_wrong(tmp_path, case) -> None:
    columns, settings, says = BAD_TABLES[case]
    with pytest.raises(DataError, match=says):
        read(table(tmp_path, **columns), **settings)


def test_ids_dates_twins_and_empties(tmp_path) -> None:
    with pytest.raises(DataError, match=r"150 different texts.*data\.ignore"):
        read(table(tmp_path, rows=150, city=[f"c{i}" for i in range(150)]), target="y")
    with pytest.raises(DataError, match="dates"):
        read(table(tmp_path, name="t.parquet", a=pd.date_range("2020", periods=60)), target="y")
    (tmp_path / "twins.csv").write_text("a,a,y\n1,2,x\n")
    with pytest.raises(DataError, match="'a' more than once"):
        read(tmp_path / "twins.csv", target="y")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path / "empty.csv", target="y")
    (tmp_path / "header.csv").write_text("a,y\n")
    with pytest.raises(DataError, match="no rows"):
        read(tmp_path / "header.csv", target="y")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="cannot be read as a table"):
        read(tmp_path / "broken.parquet", target="y")


def test_semicolons(tmp_path) -> None:
    pd.read_csv(table(tmp_path)).to_csv(tmp_path / "s.csv", sep=";", index=False)
    assert read(tmp_path / "s.csv", target="y").features[0] == "a"


def test_a_real_table(data_folder) -> None:
    path = next((data_folder / "small_ts_tabular").glob("*wine*"), None) or next(
        (data_folder / "small_ts_tabular").glob("*red*")
    )
    frame = pd.read_csv(path, sep=";" if ";" in path.read_text()[:200] else ",")
    assert len(frame) > 1000


# ---- the door


def test_nothing_there() -> None:
    with pytest.raises(DataError, match="`digits`"):
        read("digit")
    with pytest.raises(DataError, match="nothing is there"):
        read("/nowhere/at/all.csv")


def test_unknown_kinds_and_wrong_tasks(tmp_path) -> None:
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(DataError, match="no kind that is known"):
        read(tmp_path / "a.xyz")
    with pytest.raises(RecipeError, match="image-classification"):
        read("digits", task="tabular-regression")


def test_shares_that_leave_nothing() -> None:
    with pytest.raises(DataError, match="valid_share"):
        read("wine", valid_share=0.001)
    with pytest.raises(DataError, match="each class"):
        read("wine", valid_share=0.01)
