"""Training samples that repeat others are left out; what is held out stays what it was."""

import numpy as np
import pytest
import torch

from wellfit.data.source import load
from wellfit.data.split import once
from wellfit.errors import DataError, RecipeError
from wellfit.recipe import Data


def table(folder, repeats: int = 3):
    """60 rows, each several times, and one that differs from another in its target alone."""
    draw = np.random.default_rng(0)
    rows = [f"{x:.3f},{'ab'[i % 2]}" for i, x in enumerate(draw.normal(size=60))] * repeats
    rows.append(rows[0][:-1] + "b")
    (folder / "t.csv").write_text("x,label\n" + "\n".join(rows) + "\n")
    return Data(source=str(folder / "t.csv"), target="label", test_share=0.1)


def test_rows_are_learnt_from_once(tmp_path) -> None:
    data = table(tmp_path)
    every, some = load(data), load(data.model_copy(update={"deduplicate": True}))
    names = [
        name for name in ("valid", "test") if torch.equal(getattr(every, name).targets, getattr(some, name).targets)
    ]
    assert names == ["valid", "test"]
    keys = [(round(float(x), 3), int(y)) for x, y in zip(some.train.inputs[:, 0], some.train.targets, strict=True)]
    assert len(set(keys)) == len(keys) < len(every.train)
    assert any("repeat others" in note and "held out" in note for note in some.notes)
    assert not [note for note in every.notes if "repeat" in note]


def test_pictures_are_learnt_from_once(tmp_path) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.integers(0, 255, (40, 8, 8), dtype=np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "a.npz", x=np.concatenate([x, x[:10]]), y=np.concatenate([y, y[:10]]))
    np.savez(tmp_path / "v.npz", x=x[:4], y=y[:4])
    found = load(Data(source=str(tmp_path / "a.npz"), valid=str(tmp_path / "v.npz"), deduplicate=True))
    assert len(found.train) == 36
    assert len(found.valid) == 4


def test_the_first_of_each_stays_in_order() -> None:
    notes: list[str] = []
    assert once(torch.tensor([5, 1, 2, 4]), "abbcda", "c", notes).tolist() == [5, 1, 4]
    assert notes == ["1 of 4 training samples repeat others and were left out (`data.deduplicate`)."]
    assert once(torch.tensor([0, 1]), "ab", "", notes).tolist() == [0, 1]
    assert len(notes) == 1
    with pytest.raises(DataError, match="nothing is left to learn from"):
        once(torch.tensor([0, 1]), "aa", "a", notes)


def test_texts_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"`data.deduplicate` is for rows and pictures of one size"):
        load(Data(source="stdlib-kinds", deduplicate=True))
