"""Pictures with boxes: VOC, COCO and canvases; what is left out is counted, and boxes go where their pixels go."""

import json

import numpy as np
import pytest
import torch

from wellfit.data import canvases, scenes
from wellfit.data.source import load
from wellfit.errors import DataError
from wellfit.recipe import Augment, Data

Image = pytest.importorskip("PIL.Image")
ops = pytest.importorskip("torchvision.ops")


def read(source, **settings):
    return load(Data(source=str(source), **{"valid_share": 0.0, **settings}))


def paint(path, size=(40, 20), box=None) -> None:
    """A black picture with a white box."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    if box is not None:
        pixels[box[1] : box[3], box[0] : box[2]] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def annotate(path, things, size=(40, 20), extra="") -> None:
    rows = "".join(
        f"<object><name>{name}</name>{extra}<bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for name, (a, b, c, d) in things
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{rows}</annotation>")


@pytest.fixture
def voc(tmp_path):
    for i in range(6):
        paint(tmp_path / "JPEGImages" / f"p{i}.png", box=(4, 2, 12, 10))
        annotate(tmp_path / "Annotations" / f"p{i}.xml", [("cat" if i % 2 else "dog", (4, 2, 12, 10))])
    return tmp_path


@pytest.fixture
def coco(tmp_path):
    for part, count in (("train", 4), ("val", 2)):
        rows = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]}
        for i in range(count):
            paint(tmp_path / part / f"{part}{i}.png")
            rows["images"].append({"id": 10 + i, "file_name": f"{part}{i}.png", "width": 40, "height": 20})
            rows["annotations"].append(
                {"id": i, "image_id": 10 + i, "category_id": 7 if i % 2 else 3, "bbox": [4, 2, 8, 8.5]}
            )
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{part}.json").write_text(json.dumps(rows))
    return tmp_path


def edit(path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# ---- VOC


def test_voc(voc) -> None:
    found = read(voc)
    assert found.task == "object-detection"
    assert found.classes == ("cat", "dog")
    assert len(found.train) == 6
    assert found.train.boxes[0].tolist() == [[4, 2, 12, 10]]
    assert found.columns["canvas"] == [20, 40]
    assert found.derived["data.image_size"][0] == 40  # no larger than it is
    half = read(voc, image_size=20)
    assert half.train.images[0].shape == (3, 10, 20)
    assert half.train.boxes[0].tolist() == [[2, 1, 6, 5]]
    assert found.fingerprint == read(voc).fingerprint != half.fingerprint


def test_everything_left_out_is_counted(voc) -> None:
    annotate(voc / "Annotations" / "p0.xml", [
        ("dog", (4, 2, 12, 10)), ("dog", (5, 5, 5, 9)), ("dog", (9, 9, 5, 5)),  # whole, flat, turned round
        ("cat", (50, 2, 60, 10)), ("cat", (-3, 2, 12, 30)), ("cat", (1, 1, 1.5, 9)),  # outside, over the edge, tiny
    ])  # fmt: skip
    annotate(voc / "Annotations" / "p1.xml", [("cat", (1, 1, 9, 9))], extra="<difficult>1</difficult>")
    (voc / "Annotations" / "p2.xml").unlink()
    annotate(voc / "Annotations" / "stray.xml", [("cat", (1, 1, 9, 9))])
    found = read(voc)
    assert found.train.boxes[0].tolist() == [[4, 2, 12, 10], [0, 2, 12, 20]]
    assert found.train.labels[0].tolist() == [1, 0]
    assert found.train.boxes[2].shape == (0, 4)
    notes = "\n".join(found.notes)
    for said in (
        "2 boxes have no area and were left out, in p0.",
        "1 boxes lie outside their picture and were left out, in p0.",
        "1 boxes go over the edge of their picture and were cut there, in p0.",
        "1 boxes are less than one pixel wide",
        "1 boxes are marked as difficult and are used like the others, in p1.",
        "1 pictures have no annotation and are learnt from as empty ones: p2.",
        f"1 annotations in {voc / 'Annotations'} have no picture and were left out: stray.",
    ):
        assert said in notes
    _, targets = found.train.batch(torch.tensor([2]))
    assert targets[0]["boxes"].shape == (0, 4)


def test_lists_make_the_parts(voc) -> None:
    lists = voc / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("p0\np1\np2\n")
    (lists / "val.txt").write_text("p3\n")
    (lists / "test.txt").write_text("p4\n\n")
    found = read(voc.parent if (voc.parent / "Annotations").is_dir() else voc)
    assert [len(part) for part in (found.train, found.valid, found.test)] == [3, 1, 1]
    assert "in none of the lists train, val and test and were left out: p5." in "\n".join(found.notes)
    (lists / "test.txt").write_text("p0\n")
    with pytest.raises(DataError, match=r"lists p0.*for train and for test"):
        read(voc)
    (lists / "test.txt").write_text("p9\n")
    with pytest.raises(DataError, match="no picture of that name"):
        read(voc)


def test_shares_hold_out(voc) -> None:
    found = read(voc, valid_share=0.2, test_share=0.2)
    assert [len(part) for part in (found.train, found.valid, found.test)] == [4, 1, 1]


VOC_FAULTS = {
    "xml": (lambda root: (root / "Annotations" / "p0.xml").write_text("<annotation>"), r"p0\.xml cannot be read as XML"),
    "name": (lambda root: annotate(root / "Annotations" / "p0.xml", [("", (1, 1, 9, 9))]), "Object 1 of .* has no <name>"),
    "number": (lambda root: annotate(root / "Annotations" / "p0.xml", [("cat", ("x", 1, 9, 9))]), r"four numbers.*'x'"),
    "infinite": (lambda root: annotate(root / "Annotations" / "p0.xml", [("cat", ("nan", 1, 9, 9))]), "four numbers"),
    "size": (lambda root: annotate(root / "Annotations" / "p0.xml", [], size=(20, 40)), "40 x 20 pixels, but .* 20 x 40"),
    "picture": (lambda root: (root / "JPEGImages" / "p0.png").write_bytes(b"no"), r"p0\.png cannot be decoded"),
}  # fmt: skip


@pytest.mark.parametrize("fault", VOC_FAULTS)
def test_what_is_wrong_is_named(voc, fault) -> None:
    spoil, says = VOC_FAULTS[fault]
    spoil(voc)
    with pytest.raises(DataError, match=says) as caught:
        read(voc)
    assert "\n" not in str(caught.value)


def test_two_pictures_of_one_name(voc) -> None:
    paint(voc / "JPEGImages" / "p0.bmp")
    with pytest.raises(DataError, match=r"p0.bmp and p0.png have the same name .* Annotations/p0.xml"):
        read(voc)


def test_lists_with_names_of_several_words_doubled_names_and_a_mark(voc) -> None:
    for folder, ending in (("JPEGImages", "png"), ("Annotations", "xml")):
        (voc / folder / f"p0.{ending}").rename(voc / folder / f"p zero.{ending}")
    lists = voc / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_bytes("\ufeffp1\r\np zero\r\np2 1\np3\np3\n".encode())
    found = read(voc)
    assert len(found.train) == 4
    assert "1 names come more than once in" in "\n".join(found.notes)
    (lists / "train.txt").write_bytes(b"p1\n\xff\n")
    with pytest.raises(DataError, match=r"train.txt is not text in UTF-8"):
        read(voc)


def test_sizes_and_encodings_of_annotations(voc) -> None:
    path = voc / "Annotations" / "p0.xml"
    annotate(path, [("dog", (4, 2, 12, 10))], size=("\N{SUPERSCRIPT TWO}", "20"))
    assert len(read(voc).train) == 6
    annotate(path, [("dog", (4, 2, 12, 10))], size=("50.0", "20"))
    with pytest.raises(DataError, match="its annotation says 50 x 20"):
        read(voc)
    path.write_text("<?xml version='1.0' encoding='no-such'?><annotation/>")
    with pytest.raises(DataError, match=r"p0.xml cannot be read as XML"):
        read(voc)


def test_no_box_at_all(voc) -> None:
    for i in range(6):
        annotate(voc / "Annotations" / f"p{i}.xml", [])
    with pytest.raises(DataError, match="nothing to find"):
        read(voc)


# ---- COCO


@pytest.mark.parametrize("named", ["", "annotations/instances_train.json"])
def test_coco(coco, named) -> None:
    separate = {"valid": str(coco / "annotations" / "instances_val.json")} if named else {}
    found = read(coco / named if named else coco / "annotations", **separate)
    assert found.classes == ("cat", "dog")  # by id
    assert [len(found.train), len(found.valid)] == [4, 2]
    assert found.train.boxes[0].tolist() == [[4, 2, 12, 10.5]]
    assert found.train.labels[1].tolist() == [1]


def test_crowds_and_empty_categories_are_counted(coco) -> None:
    file = coco / "annotations" / "instances_train.json"
    edit(file, lambda c: (c["annotations"][0].update(iscrowd=1), c["categories"].append({"id": 9, "name": "cow"})))
    found = read(file)
    notes = "\n".join(found.notes)
    assert "1 boxes are around crowds, not single things, and were left out, in train0.png." in notes
    assert "1 categories have no box and are no classes: cow." in notes
    assert found.classes == ("cat", "dog")
    assert len(found.train) == 4


COCO_FAULTS = {
    "category": (lambda c: c["annotations"][0].update(category_id=5), r"category 5.*7, 3"),
    "image": (lambda c: c["annotations"][0].update(image_id=99), "image 99"),
    "file": (lambda c: c["images"][1].update(file_name="gone.png"), r"lists gone\.png"),
    "bbox": (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "four numbers"),
    "keys": (lambda c: c["images"][0].pop("id"), "no COCO file"),
    "nowhere": (lambda c: c["images"][0].update(file_name="gone.png"), "in none of them"),
}


@pytest.mark.parametrize("fault", COCO_FAULTS)
def test_coco_that_is_wrong(coco, fault) -> None:
    change, says = COCO_FAULTS[fault]
    file = coco / "annotations" / "instances_train.json"
    edit(file, change)
    with pytest.raises(DataError, match=says):
        read(file)


COCO_DAMAGE = {
    "an image's id twice": (lambda c: c["images"].append(c["images"][0]), "`images` of .* has the id 10 more than once"),
    "a category's id twice": (
        lambda c: c["categories"].append({"id": 3, "name": "cow"}), "`categories` of .* has the id 3 more than once",
    ),
    "a name twice": (
        lambda c: c["categories"].append({"id": 4, "name": "cat"}), "the name 'cat' more than once, with the ids 3 and 4",
    ),
    "a text as box": (lambda c: c["annotations"][0].update(bbox="1234"), r"that are four numbers, but \['1234'\]"),
    "a number as box": (lambda c: c["annotations"][0].update(bbox=5), r"that are four numbers, but \[5\]"),
    "a list as image": (lambda c: c["annotations"][0].update(image_id=[1]), r"is of the image \[1\]"),
    "a list as category": (lambda c: c["annotations"][0].update(category_id=[1]), r"is of the category \[1\]"),
    "a list as id": (lambda c: c["images"][0].update(id=[1]), r"has the id \[1\]; it must be a number or a text"),
    "a text as annotation": (lambda c: c["annotations"].append("no"), "has 'no' among its rows"),
    "annotations by name": (lambda c: c.update(annotations={"a": 1}), "`annotations` of .* is no list"),
    "no categories": (lambda c: c["categories"].clear(), "`categories` has none"),
    "a width in tenths": (lambda c: c["images"][0].update(width=41.0), "its annotation says 41 x 20"),
    "a width as text": (lambda c: c["images"][0].update(width="41"), "its annotation says 41 x 20"),
}  # fmt: skip


@pytest.mark.parametrize("fault", COCO_DAMAGE)
def test_coco_that_is_damaged(coco, fault) -> None:
    change, message = COCO_DAMAGE[fault]
    path = coco / "annotations" / "instances_train.json"
    edit(path, change)
    with pytest.raises(DataError, match=message):
        read(path)


def test_ids_of_two_types_and_pictures_that_come_twice(coco) -> None:
    path = coco / "annotations" / "instances_train.json"
    edit(path, lambda c: c["categories"].append({"id": "x", "name": "cow"}))
    edit(path, lambda c: c["images"].append(c["images"][0] | {"id": "again"}))
    found = read(path)
    assert found.classes == ("cat", "dog")
    assert "1 pictures are listed more than once in instances_train.json" in "\n".join(found.notes)


def test_coco_in_another_encoding_or_that_cannot_be_read(coco, monkeypatch) -> None:
    (coco / "train" / "ann.json").write_text((coco / "annotations" / "instances_train.json").read_text(), "utf-16")
    assert len(read(coco / "train").train) == 4
    whole = type(coco).read_bytes

    def denied(path):
        if path.name == "ann.json":
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(type(coco), "read_bytes", denied)
    for place in (coco / "train", coco / "train" / "ann.json"):
        with pytest.raises(DataError, match=r"ann.json cannot be read: Permission denied"):
            read(place)


def test_a_class_that_training_lacks(coco) -> None:
    val = coco / "annotations" / "instances_val.json"
    edit(val, lambda c: c["categories"][0].update(name="cow"))
    with pytest.raises(DataError, match=r"class 'cow', which .* does not have \(cat, dog\)"):
        read(coco / "annotations" / "instances_train.json", valid=str(val))


# ---- changes


def test_boxes_go_with_their_pixels() -> None:
    """The white box of a picture that was cut and mirrored is where its box says, to a pixel."""
    image = torch.zeros(3, 60, 80, dtype=torch.uint8)
    image[:, 20:45, 30:60] = 255
    samples = scenes.Scenes((image,), (torch.tensor([[30.0, 20, 60, 45]]),), (torch.tensor([0]),))
    samples = samples.varied(Augment(flip=True, crop=0.4), seed=3)
    places = set()
    for epoch in range(40):
        (changed,), (target,) = samples.batch(torch.tensor([0]), epoch)
        assert changed.shape == image.shape
        if not len(target["boxes"]):
            continue
        rows, columns = torch.where(changed[0] > 127)
        seen = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        assert (seen - target["boxes"][0]).abs().max() <= 1.0
        places.add(tuple(target["boxes"][0].tolist()))
    assert len(places) > 20


def test_a_box_whose_middle_is_cut_away_goes() -> None:
    image, labels = torch.zeros(3, 40, 40, dtype=torch.uint8), torch.tensor([4, 5])
    there = torch.tensor([[0.0, 0, 8, 8], [20, 20, 40, 40]])
    _, found, kept = scenes.changed(image, there, labels, Augment(crop=0.25), [1.0, 1.0 - 1e-9, 1.0 - 1e-9, 0.9])
    assert kept.tolist() == [5]
    assert found.tolist() == [[0, 0, 40, 40]]


def test_a_sample_is_the_same_whatever_is_beside_it() -> None:
    samples = read("digits-on-canvas").train.varied(Augment(flip=True, crop=0.5), seed=1)
    images, targets = samples.batch(torch.tensor([5, 9, 2]), 4)
    alone, target = samples.batch(torch.tensor([9]), 4)
    assert torch.equal(images[1], alone[0])
    assert torch.equal(targets[1]["boxes"], target[0]["boxes"])
    assert targets[1]["draw"] == target[0]["draw"] != samples.batch(torch.tensor([9]), 5)[1][0]["draw"]
    assert samples.batch(torch.tensor([9]))[1][0]["draw"] == samples.batch(torch.tensor([9, 1]))[1][0]["draw"]
    assert samples.varied(Augment(), 2).batch(torch.tensor([9]), 4)[1][0]["draw"] != target[0]["draw"]


def test_statistics_are_those_of_all_pixels() -> None:
    draw = torch.Generator().manual_seed(0)
    images = tuple(torch.randint(0, 255, (3, h, w), dtype=torch.uint8, generator=draw) for h, w in ((4, 9), (8, 5)))
    mean, std = scenes.Scenes(images, (), ()).statistics()
    pixels = torch.cat([image.flatten(1) for image in images], 1).double()
    assert torch.allclose(torch.tensor(mean).double(), pixels.mean(1))
    assert torch.allclose(torch.tensor(std).double(), pixels.std(1, correction=0))


# ---- canvases


def test_digits_lie_apart_and_in_their_boxes() -> None:
    found = read("digits-on-canvas", valid_share=0.1)
    assert [len(part) for part in (found.train, found.valid, found.test)] == [720, 80, 200]
    assert found.fingerprint == read("digits-on-canvas", valid_share=0.1).fingerprint
    counts = torch.zeros(10, dtype=torch.int64)
    for image, there, labels in zip(found.train.images, found.train.boxes, found.train.labels, strict=True):
        assert image.shape == (1, canvases.SIDE, canvases.SIDE)
        assert 1 <= len(labels) <= canvases.MOST
        overlaps = ops.box_iou(there, there).fill_diagonal_(0)
        assert overlaps.max() <= canvases.MOST_OVERLAP
        assert (there[:, :2] >= 0).all()
        assert (there[:, 2:] <= canvases.SIDE).all()
        inside = torch.zeros(canvases.SIDE, canvases.SIDE, dtype=torch.bool)
        for x1, y1, x2, y2 in there.long().tolist():
            inside[y1:y2, x1:x2] = True
            assert image[0, y1:y2, x1:x2].max() > 128
        assert (image[0][~inside] <= 64).all()  # all ink is in a box
        counts += torch.bincount(labels, minlength=10)
    assert counts.min() > 0.7 * counts.float().mean()


def test_the_parts_have_digits_of_their_own() -> None:
    """With one digit a canvas of its stored size, no picture of one part is in another."""
    parts = canvases.parts(Data(source="digits-on-canvas", valid_share=0.3, test_share=0.3))
    assert set(parts) == {"train", "valid", "test"}
    assert not torch.equal(parts["train"][0][0], parts["test"][0][0])


# ---- real


def test_bccd(data_folder) -> None:
    found = read(data_folder / "bccd", image_size=64)
    assert [len(part) for part in (found.train, found.valid, found.test)] == [205, 87, 72]
    assert found.classes == ("Platelets", "RBC", "WBC")
    notes = "\n".join(found.notes)
    assert "2 boxes have no area and were left out, in BloodImage_00338, BloodImage_00343." in notes
    every = torch.cat([labels for part in (found.train, found.valid, found.test) for labels in part.labels])
    small = next((int(note.split()[0]) for note in found.notes if "less than one pixel" in note), 0)
    assert len(every) + small + 2 == 4155 + 372 + 361
