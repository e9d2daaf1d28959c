"""Data sets by name become files that the other readers take; without a connection one sentence says so."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from wellfit.data import hub
from wellfit.data.source import load
from wellfit.errors import DataError, MissingExtra
from wellfit.recipe import Data

datasets = pytest.importorskip("datasets", reason="sets of the hub are fetched by the datasets library")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WELLFIT_CACHE", str(tmp_path / "cache"))


def offered(monkeypatch, **parts) -> list[str]:
    """As if the hub had this set; tells how often it was asked."""
    asked: list[str] = []

    def load_dataset(name: str, config: str | None) -> dict:
        asked.append(f"{name} {config}")
        return parts

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def texts(count: int, labelled: bool = True):
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = {
        "sentence": [f"{'good' if i % 2 else 'bad'} film {i % 7}" for i in range(count)],
        "label": [i % 2 if labelled else -1 for i in range(count)],
    }
    return datasets.Dataset.from_dict(rows, features=features)


def test_texts_are_fetched_once_and_classes_have_their_names(monkeypatch) -> None:
    asked = offered(monkeypatch, train=texts(60), validation=texts(20), test=texts(20, labelled=False))
    data = Data(source="hf:someone/reviews:short", text="sentence", target="label")
    first, again = load(data), load(data)
    assert asked == ["someone/reviews short"], "the second time no network is needed"
    assert (first.task, first.name, first.classes) == ("text-classification", "reviews-short", ("bad", "good"))
    assert (len(first.train), len(first.valid), first.test) == (60, 20, None), "a part without labels tells nothing"
    assert first.fingerprint == again.fingerprint


def test_pictures_become_folders_by_class(monkeypatch) -> None:
    from PIL import Image

    draw = np.random.default_rng(0)
    pictures = [Image.fromarray(draw.integers(0, 255, (8, 8), dtype=np.uint8)) for _ in range(40)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog/wolf"])})
    train = datasets.Dataset.from_dict({"image": pictures, "label": [i % 2 for i in range(40)]}, features=features)
    offered(monkeypatch, train=train)
    found = load(Data(source="hf:pets", image_size=8))
    assert (found.task, found.classes) == ("image-classification", ("cat", "dog-wolf"))
    assert found.train.inputs.shape[1:] == (1, 8, 8)
    kept = torch.cat([found.train.inputs, found.valid.inputs])
    assert sorted(int(x.sum()) for x in kept) == sorted(int(np.asarray(p).sum()) for p in pictures)


def test_what_cannot_be_fetched_is_one_sentence(monkeypatch) -> None:
    def refused(*_: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", refused)
    with pytest.raises(DataError, match=r"'no/such' cannot be fetched from the Hugging Face hub: no route to host"):
        load(Data(source="hf:no/such"))
    with pytest.raises(DataError, match="name a data set of the hub after the colon"):
        load(Data(source="hf:"))
    offered(monkeypatch, test=texts(10))
    with pytest.raises(DataError, match=r"has the parts test, and none of them is `train`"):
        load(Data(source="hf:someone/reviews"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"wellfit\[hub\]"):
        load(Data(source="hf:someone/reviews"))


def test_a_fetch_that_broke_off_is_made_anew(monkeypatch) -> None:
    broken = SimpleNamespace(column_names=["a"], features={}, to_pandas=lambda: (_ for _ in ()).throw(OSError("full")))
    offered(monkeypatch, train=broken)
    with pytest.raises(OSError, match="full"):
        load(Data(source="hf:someone/reviews", text="sentence", target="label"))
    assert not [path for path in hub.cache().iterdir() if path.name[0] != "."]
    offered(monkeypatch, train=texts(60))
    assert len(load(Data(source="hf:someone/reviews", text="sentence", target="label")).train) == 54
