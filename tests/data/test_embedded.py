"""The embedded sets are scikit-learn's own, value for value."""

import numpy as np
import pytest
import torch
from sklearn import datasets

from wellfit.data import embedded
from wellfit.data.source import load
from wellfit.recipe import Data

PEERS = {
    "digits": datasets.load_digits,
    "wine": datasets.load_wine,
    "breast-cancer": datasets.load_breast_cancer,
    "diabetes": lambda: datasets.load_diabetes(scaled=False),
}


def test_every_set_has_a_peer() -> None:
    assert set(PEERS) == set(embedded.SETS)


@pytest.mark.parametrize("name", PEERS)
def test_values_are_the_peers(name) -> None:
    found, peer = embedded.SETS[name](), PEERS[name]()
    inputs = found.arrays.inputs.flatten(1).double().numpy()
    assert np.array_equal(inputs, peer.data.astype(np.float32).astype(np.float64))
    assert np.array_equal(found.arrays.targets.double().numpy(), peer.target.astype(np.float64))
    assert found.arrays.targets.dtype is (torch.int64 if found.classes else torch.float32)
    if name != "digits":
        assert list(found.features) == list(map(str, peer.feature_names))


def test_digits_are_images_of_0_to_16() -> None:
    images = embedded.digits().arrays.inputs
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype is torch.uint8
    assert (int(images.min()), int(images.max())) == (0, 16)


def test_diabetes_is_as_it_was_measured() -> None:
    """The scaled columns have mean 0; ages do not."""
    found = embedded.diabetes()
    age = found.arrays.inputs[:, found.features.index("age")]
    assert 15 < age.min() < age.max() < 100


def test_a_separate_test_set_leaves_no_share_to_hold_out(tmp_path) -> None:
    images, targets = np.zeros((3, 8, 8), np.uint8), np.array([1, 1, 1])
    np.savez(tmp_path / "other.npz", x=images, y=targets)
    found = load(Data(source="digits", test=str(tmp_path / "other.npz"), valid_share=0))
    assert len(found.train) == 1797
    assert found.test.targets.tolist() == [1, 1, 1]


def test_settings_without_effect_are_said() -> None:
    notes = " ".join(load(Data(source="wine", target="x", ignore=("y",), image_size=32)).notes)
    for name in ("data.target", "data.ignore", "data.image_size"):
        assert f"`{name}`" in notes
    assert not load(Data(source="wine")).notes
