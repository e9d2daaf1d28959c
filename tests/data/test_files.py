"""What files hold is read as it was meant, or refused with the row, column or name that is wrong; never bent quietly."""

import struct

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from wellfit.data.source import load
from wellfit.errors import DataError, RecipeError
from wellfit.recipe import Data


def read(source, task=None, **settings):
    return load(Data(source=str(source), **settings), task)


def said(found) -> str:
    return " ".join(found.notes)


# ---- tables


def written(tmp_path, text: str, name: str = "t.csv", encoding: str = "utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


ROWS = "1,no\n2,yes\n" * 10


def test_rows_are_those_of_the_file(tmp_path) -> None:
    """Blank lines count, and are left out with a note."""
    with pytest.raises(DataError, match="'x' in row 6"):
        read(written(tmp_path, "a,y\n1,no\n\n2,yes\n\nx,no\n" + ROWS), target="y")
    found = read(written(tmp_path, "a,y\n1,no\n\n" + ROWS), target="y", valid_share=0)
    assert len(found.train) == 21
    assert "1 rows of t.csv hold nothing and were left out, the first is row 3" in said(found)


def test_a_blank_line_does_not_change_what_a_column_is(tmp_path) -> None:
    found = read(written(tmp_path, "f,y\nTrue,0\n\n" + "True,0\nFalse,1\n" * 10), target="y", valid_share=0)
    assert found.features == ("f",)
    assert found.classes == ("0", "1")


@pytest.mark.parametrize("text", ["\ufeffa,y\n", "a, y\n", "a ,y \n", "\n\na,y\n", "\ufeff\r\na,y\r\n"])
def test_headers_as_people_write_them(tmp_path, text) -> None:
    found = read(written(tmp_path, text + ROWS), target="y", valid_share=0)
    assert found.features == ("a",)
    assert found.train.inputs[:, 0].tolist() == [1, 2] * 10


def test_a_file_without_a_header_does_not_lose_its_first_row(tmp_path) -> None:
    with pytest.raises(DataError, match="not the names of the columns"):
        read(written(tmp_path, "3.5,8.5,0\n4.5,8.5,1\n"), target="0")
    assert read(written(tmp_path, "0,1,y\n" + "1,2,no\n3,4,yes\n" * 10), target="y").features == ("0", "1")


def test_cells_beyond_the_header_do_not_shift_the_names(tmp_path) -> None:
    with pytest.raises(DataError, match="more cells than its header"):
        read(written(tmp_path, "a,y\n" + "1,no,7\n2,yes,8\n" * 10), target="y")


@pytest.mark.parametrize("day", ["2020-01-{:02}", "{}.1.2020", "1/{}/20", "2020-{:02}", "2020-01-{:02} 10:30:00"])
def test_dates_as_text_are_no_categories_unless_asked_for(tmp_path, day) -> None:
    days = [day.format(1 + i % 12) for i in range(40)]
    path = written(tmp_path, "when,y\n" + "".join(f"{d},{'no' if i % 2 else 'yes'}\n" for i, d in enumerate(days)))
    with pytest.raises(DataError, match=r"'when'.*dates"):
        read(path, target="y")
    assert len(read(path, target="y", categorical=("when",)).features) == 12
    with pytest.raises(DataError, match="no column left"):
        read(path, target="y", ignore=("when",))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a;y\n" + "1,5;no\n2,5;yes\n" * 10, "with a comma"),
        ("a,y\n" + ROWS + "1_000,no\n", "'1_000' in row 22"),
        ("a,y\n" + ROWS + "1e300,no\n", r"1e\+300 in row 22"),
        ("a,y\n" + "1,1.5\n2,2.5\n" * 10 + "3,1e300\n", r"'y'.*1e\+300 in row 22"),
        ("a,y\n" + "1,0\n2,1\n" * 10 + "3,inf\n", "'y'.*row 22"),
        ("a,y\n" + "1,0\n2,1\n" * 10 + "3,?\n", "'y'.*1 empty.*row 22"),
        ("a,y\n" + "1,0\n2,1\n" * 10 + "3,x\n", "'x' in row 22.*task=tabular-classification"),
        ("a,y\n" + ROWS + "2,rare\n", r"has 1 \('rare'\)"),
    ],
)  # fmt: skip
def test_cells_that_would_become_other_numbers(tmp_path, text, says) -> None:
    with pytest.raises(DataError, match=says):
        read(written(tmp_path, text), target="y")


def test_other_encodings_are_named(tmp_path) -> None:
    with pytest.raises(DataError, match="UTF-8"):
        read(written(tmp_path, "a,y\n1,né\n" + ROWS, encoding="latin-1"), target="y")


def test_lists_in_a_column(tmp_path) -> None:
    frame = pd.DataFrame({"a": range(40), "l": [[1, 2]] * 40, "y": ["no", "yes"] * 20})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"'l'.*lists"):
        read(tmp_path / "t.parquet", target="y")
    assert read(tmp_path / "t.parquet", target="y", ignore=("l",)).features == ("a",)


def test_row_labels_of_parquet(tmp_path) -> None:
    frame = pd.DataFrame({"a": range(40), "y": ["no", "yes"] * 20}, index=[f"r{i}" for i in range(40)])
    frame.to_parquet(tmp_path / "t.parquet")
    assert "row labels" in said(read(tmp_path / "t.parquet", target="y"))
    frame.set_index(pd.Index(range(5, 45), name="id")).to_parquet(tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet", target="y").features == ("id", "a")


def test_encoding_knows_the_training_rows_alone(tmp_path) -> None:
    """The mean that fills a gap, by hand over the rows that were trained on."""
    a = np.arange(40.0)
    a[::4] = np.nan
    pd.DataFrame({"a": a, "row": range(40), "y": ["no", "yes"] * 20}).to_csv(tmp_path / "t.csv", index=False)
    found = read(tmp_path / "t.csv", target="y", missing="mean", valid_share=0.3)
    rows = {name: part.inputs[:, 1].long().numpy() for name, part in (("train", found.train), ("valid", found.valid))}
    mean = np.nanmean(a[rows["train"]])
    assert mean != np.nanmean(a)
    for name, part in (("train", found.train), ("valid", found.valid)):
        wanted = np.where(np.isnan(a[rows[name]]), mean, a[rows[name]])
        assert np.allclose(part.inputs[:, 0], wanted)


def test_gaps_in_categories_are_counted(tmp_path) -> None:
    path = written(tmp_path, "g,y\n" + "u,no\nv,yes\n" * 10 + ",no\n,yes\n")
    with pytest.raises(DataError, match=r"'g'.*2 empty.*row 22"):
        read(path, target="y")
    found = read(path, target="y", missing="mean", valid_share=0)
    assert "2 gaps in the column 'g'" in said(found)
    assert found.train.inputs.sum(0).tolist() == [2, 10, 10]


@pytest.fixture
def pair(tmp_path):
    """A training table, and a function that writes the validation table beside it."""
    train = written(tmp_path, "a,g,y\n" + "1,u,no\n2,v,yes\n" * 10, "train.csv")

    def valid(text: str, **settings):
        return read(train, target="y", valid=str(written(tmp_path, text, "valid.csv")), **settings)

    return valid


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,g,y,more\n1,u,no,5\n", "'more', which the training table does not have"),
        ("a,h,y\n1,u,no\n", "lacks the column 'g'"),
        ("a,g,y\n1,u,maybe\n", "'maybe'"),
        ("a,g,y\nmany,u,no\n", "'many' in row 2"),
        ("a,g,y\n1,,no\n", "'g'.*row 2"),
    ],
)
def test_separate_tables_that_do_not_fit(pair, text, says) -> None:
    with pytest.raises(DataError, match=says):
        pair(text)


def test_separate_tables_that_do(pair, tmp_path) -> None:
    found = pair("y,a,g\nno,1,u\n")  # in another order
    assert found.valid.inputs.tolist() == [[1, 1, 0]]
    assert found.valid.targets.tolist() == [0]
    with pytest.raises(DataError, match="text where a number belongs"):  # and not filled with the mean
        pair("a,g,y\nmany,u,no\n", missing="mean")
    train = written(tmp_path, "a,y\n" + "".join(f"{i},{i / 3}\n" for i in range(40)), "numbers.csv")
    one = written(tmp_path, "a,y\n3,0.5\n", "one.csv")
    assert read(train, target="y", test=str(one)).test.targets.tolist() == [0.5]


def test_a_table_goes_with_a_table(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 1)), y=np.array([0, 1, 0, 1]))
    table = written(tmp_path, "a,y\n" + ROWS)
    for source, valid in ((table, tmp_path / "a.npz"), (table, tmp_path), (tmp_path / "a.npz", table)):
        with pytest.raises(DataError, match="table"):
            read(source, target="y", valid=str(valid))
    with pytest.raises(RecipeError, match="is a table"):
        read(table, task="image-classification", target="y")


# ---- npz


def npz(tmp_path, name: str = "a.npz", **arrays):
    np.savez(tmp_path / name, **arrays)
    return tmp_path / name


IMAGES, LABELS = np.arange(40 * 16).reshape(40, 4, 4).astype(np.uint8), np.array([0, 1] * 20)


def test_pixels_keep_their_values_and_their_places(tmp_path) -> None:
    whole = np.random.default_rng(0).integers(0, 256, (40, 5, 6, 3)).astype(np.uint8)
    wanted = torch.from_numpy(whole).permute(0, 3, 1, 2)
    for array in (whole, whole.transpose(0, 3, 1, 2), whole / 255, whole.astype(np.float32), whole.astype(">i4")):
        found = read(npz(tmp_path, images=array, labels=LABELS), valid_share=0)
        assert torch.equal(found.train.inputs, wanted)
        assert not found.notes
    assert "channel, height" in said(read(npz(tmp_path, images=whole[:, :3], labels=LABELS)))


def test_parts_by_name(tmp_path) -> None:
    for form in ("{0}_{1}", "{1}_{0}"):
        arrays = {form.format(half, part): array for part in ("train", "val", "test")
                  for half, array in (("images", IMAGES), ("labels", LABELS))}  # fmt: skip
        found = read(npz(tmp_path, **arrays))
        assert [len(part) for part in (found.train, found.valid, found.test)] == [40, 40, 40]
    assert "z" in said(read(npz(tmp_path, x=IMAGES, y=LABELS, z=LABELS)))
    assert "x_test" in said(read(npz(tmp_path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES)))
    found = read(npz(tmp_path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS), test_share=0.5)
    assert "`data.test_share`" in said(found)
    with pytest.raises(DataError, match=r"test sample has the shape \[1, 3, 4\]"):
        read(npz(tmp_path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES[:, :3], y_test=LABELS))


def test_held_out_sets_may_have_one_class_but_no_new_one(tmp_path) -> None:
    train = npz(tmp_path, x=IMAGES, y=np.where(LABELS, 7, -3))
    other = npz(tmp_path, "b.npz", x=IMAGES[:4], y=np.full(4, 7))
    found = read(train, valid=str(other))
    assert found.classes == ("-3", "7")
    assert found.valid.targets.tolist() == [1, 1, 1, 1]
    npz(tmp_path, "b.npz", x=IMAGES[:4], y=np.full(4, 1))  # the number of a class, but not its name
    with pytest.raises(DataError, match="class '1', which the training data does not have"):
        read(train, valid=str(other))


def test_targets_of_rows(tmp_path) -> None:
    x = np.random.default_rng(0).random((400, 3))
    found = read(npz(tmp_path, x=x, y=np.arange(400)))
    assert found.task == "tabular-regression"
    assert "task=tabular-classification" in said(found)
    assert len(read(npz(tmp_path, x=x, y=np.arange(400) % 50), valid_share=0.2).classes) == 50
    assert read(npz(tmp_path, x=x, y=np.arange(400.0) % 50)).classes == ()
    assert read(npz(tmp_path, x=x, y=np.array([b"a", b"b"] * 200))).classes == ("a", "b")


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        (dict(x=np.full((4, 2), 1e300), y=LABELS[:4]), "inputs.*8 values.*row 0 and column 0"),
        (dict(x=np.zeros((4, 2)), y=np.array([0.5, 1e300, 2, 3])), "targets.*1 values.*row 1 "),
        (dict(x=np.zeros((4, 2)), y=np.array([0.5, np.nan, 2, 3])), "targets.*1 values.*row 1 "),
        (dict(x=np.zeros((4, 0)), y=LABELS[:4]), "empty"),
        (dict(x=IMAGES[:4], y=np.array([2**63 + 5, 1, 2, 3], np.uint64)), "class numbers"),
    ],
)
def test_arrays_that_would_become_other_numbers(tmp_path, arrays, says) -> None:
    with pytest.raises(DataError, match=says):
        read(npz(tmp_path, **arrays))


# ---- idx


def idx(path, array, code: int = 8, dtype: str = "u1"):
    array = np.asarray(array)
    path.write_bytes(
        struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.astype(dtype).tobytes()
    )
    return path


def test_idx_values_and_a_test_set_by_path(tmp_path) -> None:
    for part in ("train", "t10k"):
        idx(tmp_path / f"{part}-images-idx3-ubyte", IMAGES)
        idx(tmp_path / f"{part}-labels-idx1-ubyte", LABELS + 3)
    found = read(tmp_path, valid_share=0)
    assert np.array_equal(found.train.inputs[:, 0].numpy(), IMAGES)
    assert found.classes == ("3", "4")
    assert len(read(tmp_path / "train-images-idx3-ubyte", valid_share=0).train) == 40
    with pytest.raises(DataError, match="no `images` in its name"):
        read(tmp_path / "train-labels-idx1-ubyte")
    alone = tmp_path / "alone"
    alone.mkdir()
    idx(alone / "t10k-images-idx3-ubyte", IMAGES[:2])
    idx(alone / "t10k-labels-idx1-ubyte", [4, 4])
    assert read(tmp_path, test=str(alone)).test.targets.tolist() == [1, 1]
    with pytest.raises(DataError, match="no train-images"):
        read(alone)


def test_idx_of_floats_is_not_wrapped_into_bytes(tmp_path) -> None:
    idx(tmp_path / "train-labels-idx1-ubyte", LABELS)
    idx(tmp_path / "train-images-idx3-ubyte", IMAGES / 255, 0x0D, ">f4")
    assert np.array_equal(read(tmp_path, valid_share=0).train.inputs[:, 0].numpy(), IMAGES)
    idx(tmp_path / "train-images-idx3-ubyte", IMAGES * 2.0, 0x0D, ">f4")
    with pytest.raises(DataError, match="from 0 to 255"):
        read(tmp_path)


# ---- pictures


def pictures(root, parts=("",), count: int = 12, make=lambda i: Image.new("RGB", (9, 8), (i, 2, 3))):
    for part in parts:
        for name in "ab":
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                make(i).save(root / part / name / f"{i}.png")
    return root


def test_nothing_is_left_out_without_a_word(tmp_path) -> None:
    root = pictures(tmp_path / "p", ("train", "val"))
    (root / "train" / "bare").mkdir()
    (root / "more" / "a").mkdir(parents=True)
    for stray in ("loose.png", "more/a/0.png"):
        Image.new("RGB", (9, 9)).save(root / stray)
    notes = said(read(root, image_size=8))
    assert "2 pictures" in notes
    assert "loose.png" in notes
    assert "bare" in notes
    assert "left out" not in said(read(pictures(tmp_path / "q", ("train", "val")), image_size=8))


def test_sixteen_bits_do_not_become_white(tmp_path) -> None:
    def make(i):
        return Image.fromarray(np.full((9, 9), 257 * 10 * i, np.uint16))

    found = read(pictures(tmp_path / "p", make=make), image_size=8, valid_share=0)
    assert sorted(found.train.inputs[:, 0, 0, 0].tolist()) == sorted([*range(0, 120, 10)] * 2)
    assert "24 pictures" in said(found)
    assert "16 bits" in said(found)


def test_transparency_is_said_and_warns_nobody(tmp_path) -> None:
    def make(i):
        image = Image.new("P", (9, 9), i)
        image.putpalette([level for level in range(256) for _ in range(3)])
        image.info["transparency"] = bytes([10] * 256)
        return image

    assert "24 pictures" in said(read(pictures(tmp_path / "p", make=make), image_size=8))
    opaque = pictures(tmp_path / "q", make=lambda i: Image.new("RGBA", (9, 9), (i, 2, 3, 255)))
    assert "transparent" not in said(read(opaque, image_size=8))


def test_pictures_stand_upright(tmp_path) -> None:
    """Orientation 6: the camera was turned; what is stored at the top belongs to the right."""
    stored = np.zeros((16, 16, 3), np.uint8)
    stored[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    root = pictures(tmp_path / "p")
    for path in root.rglob("*.png"):
        Image.fromarray(stored).save(path, exif=exif)
    x = read(root, image_size=16, valid_share=0).train.inputs
    assert (x[..., 8:] == 255).all()
    assert (x[..., :8] == 0).all()


def test_the_centre_is_cut_out(tmp_path) -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16, 0] = 200
    root = pictures(tmp_path / "p", make=lambda i: Image.fromarray(wide))  # noqa: ARG005
    x = read(root, image_size=8, valid_share=0).train.inputs
    assert (x[:, 0, :, 1:-1] == 200).all()
    assert (x[:, 1:] == 0).all()


def test_grey_and_colour_side_by_side(tmp_path) -> None:
    colour = pictures(tmp_path / "colour")
    grey = pictures(tmp_path / "grey", make=lambda i: Image.new("L", (9, 9), i))
    assert read(grey, image_size=8).train.inputs.shape[1] == 1
    for source, valid in ((colour, grey), (grey, colour)):
        found = read(source, valid=str(valid), image_size=8)
        assert found.train.inputs.shape[1] == found.valid.inputs.shape[1] == 3


def test_a_held_out_folder_may_lack_a_class(tmp_path) -> None:
    root, other = pictures(tmp_path / "p"), pictures(tmp_path / "q", count=2)
    for path in (other / "a").iterdir():
        path.unlink()
    assert read(root, valid=str(other), image_size=8).valid.targets.tolist() == [1, 1]


# ---- real files


def test_real_tables_without_a_header_or_with_dates(data_folder) -> None:
    folder = data_folder / "small_ts_tabular"
    with pytest.raises(DataError, match="not the names"):
        read(folder / "banknote_authentication.csv", target="0")
    with pytest.raises(DataError, match=r"'Month'.*dates"):
        read(folder / "airline-passengers.csv", target="Passengers")
    found = read(data_folder / "etth1" / "ETTh1.csv", target="OT", ignore=("date",))
    frame = pd.read_csv(data_folder / "etth1" / "ETTh1.csv")
    assert len(found.train) + len(found.valid) == len(frame)
    assert torch.cat([found.train.targets, found.valid.targets]).double().mean() == pytest.approx(
        frame.OT.mean(), rel=1e-5
    )
