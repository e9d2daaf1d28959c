"""What is forgotten is measured on the old task's own data; rehearsal keeps it; and a resume in the middle is to the bit."""

import numpy as np
import pytest
import torch
from torch import nn

import wellfit
from wellfit import api
from wellfit.checkpoint import Checkpoints
from wellfit.errors import RecipeError
from wellfit.events import Evaluated
from wellfit.finetune.memory import share
from wellfit.recipe import Recipe

MODEL = {"kind": "convnet", "channels": [8, 16]}
SETTINGS = {"task": "image-classification", "model": MODEL, "training.batch_size": 32, "optimizer.learning_rate": 3e-3}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """0 to 4 and 5 to 9 as two data sets, and a run that learnt the first."""
    from sklearn.datasets import load_digits

    folder, found = tmp_path_factory.mktemp("digits"), load_digits()
    images = found.images.astype(np.uint8) * 15
    for name, those in (("low", found.target < 5), ("high", found.target >= 5)):
        np.savez(folder / f"{name}.npz", x=images[those], y=found.target[those])
    np.savez(
        folder / "three.npz",
        x=images[(found.target >= 5) & (found.target < 8)],
        y=found.target[(found.target >= 5) & (found.target < 8)],
    )
    old = {**SETTINGS, "data.source": str(folder / "low.npz"), "training.epochs": 6}
    return folder, api.fit_recipe(Recipe(), set=old, folder=folder / "old", quiet=True)


def goes_on(digits, where, source="high", **more):
    folder, old = digits
    settings = {
        **SETTINGS, "data.source": str(folder / f"{source}.npz"), "finetune.weights": str(old.folder), "finetune.strategy": "full",
        "finetune.remember": str(old.folder), "training.epochs": 4, **more,
    }  # fmt: skip
    return api.fit_recipe(Recipe(), set=settings, folder=where, quiet=True)


def told(run) -> tuple[float, float]:
    before, after = (e.metrics["accuracy"] for e in run.events() if isinstance(e, Evaluated) and e.split == "old")
    return before, after


@pytest.mark.parametrize("source", ["high", "three"])
def test_what_is_forgotten_is_told_and_rehearsal_keeps_it(tmp_path, digits, source) -> None:
    """Five other classes under the same head, which is then shared; and three, with a new head, beside which the old one stays."""
    plain = goes_on(digits, tmp_path / "plain", source)
    before, after = told(plain)
    assert before == pytest.approx(digits[1].scores("valid")["accuracy"], abs=1e-6)
    kept = goes_on(digits, tmp_path / "kept", source, **{"finetune.rehearsal": 0.5})
    assert told(kept)[0] == before
    assert told(kept)[1] > after + 0.03, "rehearsal keeps what is lost without"
    assert plain.scores("old")["accuracy"] == after
    notes = [e.text for e in plain.events() if hasattr(e, "text")]
    assert any("The old task's accuracy was" in note for note in notes)
    assert not [f for f in kept.findings() if f["severity"] != "advice"]


def test_frozen_forgets_nothing_and_lora_can_rehearse(tmp_path, digits) -> None:
    before, after = told(goes_on(digits, tmp_path / "frozen", "three", **{"finetune.strategy": "frozen"}))
    assert before == after
    lora = {"finetune.strategy": "lora", "finetune.rehearsal": 0.5, "training.epochs": 2}
    run = goes_on(digits, tmp_path / "lora", "three", **lora)
    assert told(run)[0] == before


def test_what_is_shared_learns_from_old_samples_and_what_is_not_stays() -> None:
    old, new = (nn.Sequential(nn.Linear(4, 3), nn.Linear(3, n)) for n in (2, 5))
    assert share(old, new, ["1.weight", "1.bias"])[0] == [], "other weights are another network's"
    new[0].load_state_dict(old[0].state_dict())
    own = old[1].weight.clone()
    old.requires_grad_(False)
    assert share(old, new, ["1.weight", "1.bias"]) == (["0"], ["1.weight", "1.bias"])
    assert old[0] is new[0]
    old(torch.randn(6, 4)).sum().backward()
    assert new[0].weight.grad is not None
    assert old[1].weight.grad is None
    assert torch.equal(old[1].weight, own)


def test_a_resume_between_old_and_new_samples_is_the_same_run(tmp_path, digits) -> None:
    more = {"finetune.rehearsal": 0.25, "training.epochs": 2}
    whole = goes_on(digits, tmp_path / "whole", "three", **more)
    stop = {"after": 7}

    def stopping(event) -> None:
        if getattr(event, "step", 0) >= stop["after"] and type(event).__name__ == "Stepped":
            raise KeyboardInterrupt

    folder, old = digits
    settings = {
        **SETTINGS, "data.source": str(folder / "three.npz"), "finetune.weights": str(old.folder), "finetune.strategy": "full",
        "finetune.remember": str(old.folder), "checkpoints.every": 5, "training.log_every": 1, **more,
    }  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        api.fit_recipe(Recipe(), set=settings, folder=tmp_path / "cut", quiet=True, observers=[stopping])
    run = api.resume(tmp_path / "cut", quiet=True)
    ends = [Checkpoints(one.folder / "checkpoints").latest() for one in (whole, run)]
    assert all(torch.equal(value, ends[1].weights[name]) for name, value in ends[0].weights.items())
    assert told(run) == told(whole)


def test_what_cannot_be_remembered_is_said(tmp_path, digits) -> None:
    with pytest.raises(RecipeError, match="no old task is named"):
        goes_on(digits, tmp_path / "a", **{"finetune.rehearsal": 0.5, "finetune.remember": None})
    with pytest.raises(RecipeError, match=r"whose weights are nowhere in the network.*`finetune.weights="):
        goes_on(digits, tmp_path / "d", **{"finetune.weights": None, "finetune.strategy": None})
    with pytest.raises(RecipeError, match="want a model that a recipe makes"):
        wellfit.fit(nn.Linear(2, 2), (torch.randn(8, 2), torch.randint(2, (8,))), loss="cross-entropy", quiet=True,
                    set={"finetune.remember": "x"}, folder=tmp_path / "e")  # fmt: skip
    data = torch.randn(8, 2), torch.randint(2, (8,))
    few = {"training.epochs": 1}
    passed = wellfit.fit(nn.Linear(2, 2), data, loss="cross-entropy", folder=tmp_path / "given", quiet=True, set=few)
    with pytest.raises(RecipeError, match="a run of a model that was passed in Python"):
        goes_on(digits, tmp_path / "b", **{"finetune.remember": str(passed.folder)})
