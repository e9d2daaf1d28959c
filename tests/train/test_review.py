"""What a network gets wrong: the numbers against a slow reference, the samples as they are, and the network left as it was."""

import base64
import io

import numpy as np
import pytest
import torch
from torch import nn

import wellfit
from wellfit import losses
from wellfit.data.tokens import learn
from wellfit.report import mistakes
from wellfit.train.review import WORST, review


class Given(nn.Module):
    """Gives back what it is given, so that outputs are known."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_confusion_calibration_and_the_worst_of_classes() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, targets = 3 * torch.randn(300, 4, generator=draw), torch.randint(0, 4, (300,), generator=draw)
    targets[::10] = -100  # masked ones count nowhere
    batches = [(logits[i : i + 64], targets[i : i + 64]) for i in range(0, 300, 64)]
    model = Given().train()
    found = review(model, batches, {"classes": list("abcd")})
    assert model.training
    assert found is not None
    counted = targets >= 0
    p, y = logits[counted].softmax(-1).numpy(), targets[counted].numpy()
    told = p.argmax(1)
    confusion = np.zeros((4, 4), int)
    np.add.at(confusion, (y, told), 1)
    assert found["confusion"] == confusion.tolist()
    # Guo et al. 2017, equation 3, written out
    sure, right = p.max(1), told == y
    place = np.minimum((sure * 10).astype(int), 9)
    error = sum(abs(sure[place == k].sum() - right[place == k].sum()) for k in range(10)) / len(y)
    assert found["calibration_error"] == pytest.approx(error, abs=1e-4)
    assert sum(samples for _, _, samples in found["calibration"]) == len(y)
    wrong = np.flatnonzero(~right)
    order = wrong[np.argsort(p[wrong, y[wrong]], kind="stable")][:WORST]
    assert [(one["target"], one["output"]) for one in found["worst"]] == [
        ("abcd"[y[i]], "abcd"[told[i]]) for i in order
    ]
    off = confusion - np.diag(np.diag(confusion))
    a, b = np.unravel_index(off.argmax(), off.shape)
    assert found["mistaken"][0] == ["abcd"[a], "abcd"[b], int(off.max())]


def test_the_worst_of_numbers() -> None:
    outputs, targets = torch.tensor([1.0, 5.0, 2.0, 9.0]), torch.tensor([1.0, 1.0, 4.0, 9.5])
    assert review(Given(), [(outputs, targets)], {}) is None  # they could be scores of yes and no
    found = review(Given(), [(outputs, targets)], {"target": "price"}, losses.MSE())
    assert found is not None
    assert [one["target"] for one in found["worst"]] == [1.0, 4.0, 9.5, 1.0]
    assert found["points"] == [[1.0, 1.0], [1.0, 5.0], [4.0, 2.0], [9.5, 9.0]]
    told = mistakes.told(found | {"split": "test"})
    assert told is not None
    assert told.scatter.count("<circle") == 4


class Second(nn.Module):
    """Always sure of the second class."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[0.0, 5.0]]).expand(len(x), 2)


def test_samples_are_told_as_they_went_in() -> None:
    image = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    image_module = pytest.importorskip("PIL.Image")
    found = review(Second(), [(image, torch.tensor([0]))], {"classes": ["a", "b"]})
    assert found is not None
    picture = found["worst"][0]["picture"].removeprefix("data:image/png;base64,")
    assert np.array_equal(
        np.asarray(image_module.open(io.BytesIO(base64.b64decode(picture)))), image[0].permute(1, 2, 0).numpy()
    )

    tokens = learn("word", ["the cat sat on the mat"] * 3, most=100)
    ids = torch.tensor([[*tokens.encode("the cat sat"), 0, 0]])
    found = review(Second(), [(ids, torch.tensor([0]))], {"classes": ["a", "b"], "tokens": tokens.as_dict()})
    assert found is not None
    assert found["worst"][0]["text"] == "the cat sat"

    columns = {"numeric": ["age"], "categories": {"town": ["Ulm", "Bonn"]}}
    rows = torch.tensor([[41.5, 0.0, 1.0]])
    found = review(Second(), [(rows, torch.tensor([0]))], {"classes": ["a", "b"], "columns": columns})
    assert found is not None
    assert found["worst"][0]["row"] == {"age": 41.5, "town": "Bonn"}


@pytest.mark.parametrize("batch", [
    torch.zeros(3), {"x": torch.zeros(3)}, (torch.zeros(3, 4, 2), torch.zeros(3, 4, dtype=torch.int64)), (torch.zeros(2), "texts"),
])  # fmt: skip
def test_what_it_does_not_know_it_leaves_alone(batch: object) -> None:
    assert review(Given(), [batch], {}) is None  # type: ignore[list-item]


def test_a_run_keeps_it_and_damage_is_left_out(tmp_path) -> None:
    x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    run = wellfit.fit(
        nn.Linear(4, 2), (x[:60], y[:60]), (x[60:], y[60:]), loss="cross-entropy", set={"training.steps": 3}, folder=tmp_path / "run", quiet=True,
    )  # fmt: skip
    kept = run.review()
    assert kept["split"] == "valid"
    assert sum(map(sum, kept["confusion"])) == kept["samples"] == 20
    assert "What it gets wrong" in (run.folder / "report.html").read_text()
    for damaged in (
        {"kind": "classes"},
        {**kept, "confusion": [[1]]},
        {**kept, "worst": 3},
        {**kept, "calibration": [[1]]},
        {"split": []},
    ):
        assert mistakes.told(damaged) is None


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.bool])
def test_any_kind_of_whole_number_is_a_label(kind: torch.dtype) -> None:
    logits, targets = torch.tensor([[3.0, 0.0], [0.0, 3.0], [3.0, 0.0]]), torch.tensor([0, 1, 1]).to(kind)
    found = review(Given(), [(logits, targets)], {"classes": ["no", "yes"]})
    assert found is not None
    assert found["confusion"] == [[1, 0], [1, 1]]


def test_a_number_beyond_the_classes_counts_nowhere() -> None:
    found = review(Given(), [(torch.eye(3), torch.tensor([0, 255, 2]))], {})
    assert found is not None
    assert found["confusion"] == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_a_look_that_fails_does_not_undo_a_training(tmp_path, monkeypatch) -> None:
    from wellfit import api

    def broken(*_: object) -> None:
        raise RuntimeError("no such thing")

    monkeypatch.setattr(api, "review", broken)
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 0).long()
    run = wellfit.fit(
        nn.Linear(2, 2),
        (x, y),
        (x, y),
        loss="cross-entropy",
        set={"training.steps": 2},
        folder=tmp_path / "run",
        quiet=True,
    )
    ended = run.ended()
    assert ended is not None
    assert ended.reason == "finished"
    assert "was not looked at: RuntimeError: no such thing" in (run.folder / "events.jsonl").read_text()
