"""The pre-flight: each check fails on what it is for, passes on what is sound, and changes nothing."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import wellfit
from wellfit.doctor.preflight import Checkup
from wellfit.errors import ModelError, RecipeError


def data(count: int = 256) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 12, generator=generator)
    return x, (x[:, :3].sum(dim=1) > 0).long()


def mlp(*tail: nn.Module, out: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, out), *tail)


def outcomes(found: Checkup) -> dict[str, str]:
    return {check.name: check.outcome for check in found.checks}


def failed(found: Checkup) -> dict[str, list[str]]:
    return {check.name: [finding.id for finding in check.findings] for check in found.failed}


def test_a_sound_training_passes_and_nothing_is_changed() -> None:
    x, y = data()
    model = mlp()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    found = wellfit.check(model, (x[:32], y[:32]), "cross-entropy", optimizer=optimizer, train=(x[:200], y[:200]), valid=(x[200:], y[200:]))  # fmt: skip
    told = outcomes(found)
    assert told.pop("no look ahead") == "not applicable"
    assert set(told.values()) == {"passed"}, str(found)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not optimizer.state
    assert model.training
    assert torch.equal(state, torch.get_rng_state())


def test_faults_of_the_whole_data_are_found() -> None:
    x, y = data()
    bad, labels = x.clone(), y.clone()
    bad[150, 3] = float("nan")
    bad[60:120] = bad[0]
    labels[170] = 7
    found = wellfit.check(mlp(), (x[:32], y[:32]), nn.CrossEntropyLoss(), train=(bad[:200], labels[:200]), valid=(bad[180:], labels[180:]))  # fmt: skip
    told = failed(found)
    assert told["inputs"] == ["inputs-not-finite"]
    assert "labels-out-of-range" in told["targets"]
    assert told["duplicates"] == ["duplicate-samples"]
    assert told["leakage"] == ["train-validation-leakage"]
    assert "Sample 150 is not finite" in str(found)


def test_a_rare_class_is_told_unless_the_loss_weighs_it() -> None:
    x, _ = data(400)
    y = torch.zeros(400, dtype=torch.long)
    y[:4] = 1
    assert "class-imbalance" in failed(wellfit.check(mlp(), (x[:32], y[:32]), "cross-entropy", train=(x, y)))["targets"]
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 100.0]))
    assert "targets" not in failed(wellfit.check(mlp(), (x[:32], y[:32]), weighted, train=(x, y)))


def test_an_optimizer_that_misses_a_layer() -> None:
    x, y = data()
    model = mlp()
    optimizer = torch.optim.SGD(list(model.parameters())[:2], lr=0.1)
    assert failed(wellfit.check(model, (x, y), "cross-entropy", optimizer=optimizer)) == {"optimizer": ["parameters-not-in-optimizer"]}  # fmt: skip
    other = torch.optim.SGD(mlp().parameters(), lr=0.1)
    told = failed(wellfit.check(model, (x, y), "cross-entropy", optimizer=other))["optimizer"]
    assert told == ["parameters-not-in-optimizer", "optimizer-holds-stale-parameters"]


def test_a_softmax_too_many() -> None:
    x, y = data()
    told = failed(wellfit.check(mlp(nn.Softmax(dim=1)), (x, y), nn.CrossEntropyLoss()))
    assert told["loss and head"] == ["softmax-before-cross-entropy"]


def test_a_hand_written_loss_that_broadcasts() -> None:
    x, _ = data()
    told = failed(wellfit.check(mlp(out=1), (x, x[:, 0]), lambda outputs, targets: ((outputs - targets) ** 2).mean()))
    assert told["loss and head"] == ["loss-broadcasts-shapes"]


def test_a_detached_body_and_unused_inputs() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(12, 32), nn.Linear(32, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.body(x)).detach())

    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.bias + 0 * x[:, :2]

    x, y = data()
    assert failed(wellfit.check(Detached(), (x, y), "cross-entropy"))["gradient reach"] == [
        "parameters-without-gradient"
    ]
    told = failed(wellfit.check(Blind(), (x, y), "cross-entropy"))
    assert told["one batch"] == ["loss-not-decreasing"]


def test_samples_that_mix_and_a_model_that_looks_ahead() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x - x.mean(dim=0))

    class Reader(nn.Module):
        def __init__(self, causal: bool) -> None:
            super().__init__()
            self.causal = causal
            self.embed, self.mix, self.head = (
                nn.Embedding(11, 16),
                nn.MultiheadAttention(16, 2, batch_first=True),
                nn.Linear(16, 11),
            )

        def forward(self, tokens: Tensor) -> Tensor:
            h = self.embed(tokens)
            length = tokens.shape[1]
            mask = torch.ones(length, length, dtype=torch.bool).triu(1) if self.causal else None
            return self.head(self.mix(h, h, h, attn_mask=mask, need_weights=False)[0])

    x, y = data()
    assert failed(wellfit.check(Mixed(), (x, y), "cross-entropy"))["samples apart"] == ["samples-mixed-in-batch"]
    tokens = torch.randint(11, (16, 9), generator=torch.Generator().manual_seed(1))
    batch = (tokens[:, :-1], tokens[:, 1:])

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    assert failed(wellfit.check(Reader(causal=False), batch, loss))["no look ahead"] == ["future-leak"]
    assert outcomes(wellfit.check(Reader(causal=True), batch, loss))["no look ahead"] == "passed"


def test_a_batch_that_does_not_fit_is_one_failed_check() -> None:
    x, y = data()
    found = wellfit.check(mlp(), (x[:, :5], y), "cross-entropy")
    told = outcomes(found)
    assert told["shapes"] == "failed"
    assert told["one batch"] == "not applicable"
    assert "[256, 5]" in str(found)


def test_a_model_that_takes_no_zeros_or_no_smaller_batch() -> None:
    class Choosy(nn.Module):
        def __init__(self, samples: int) -> None:
            super().__init__()
            self.head, self.samples = nn.Linear(12, 2), samples

        def forward(self, x: Tensor) -> Tensor:
            if not x.any() or len(x) < self.samples:
                raise ValueError("not these")
            return self.head(x)

    x, y = data(64)
    told = outcomes(wellfit.check(Choosy(0), (x, y), "cross-entropy"))
    assert (told["one batch"], told["inputs matter"]) == ("passed", "not applicable")
    told = outcomes(wellfit.check(Choosy(64), (x, y), "cross-entropy"))
    assert (told["one batch"], told["inputs matter"]) == ("not applicable", "not applicable")


def test_what_cannot_be_examined_is_refused_in_words() -> None:
    x, y = data()
    model = mlp()
    model.cache = model(x)  # type: ignore[assignment]
    with pytest.raises(ModelError, match="cannot be copied"):
        wellfit.check(model, (x, y), "cross-entropy")
    with pytest.raises(RecipeError):
        wellfit.check(mlp(), (x, y), "cross-entroppy")


def test_a_loader_stands_for_its_first_batch_and_is_read_whole() -> None:
    x, y = data()
    found = wellfit.check(mlp(), DataLoader(TensorDataset(x, y), batch_size=16), "cross-entropy")
    assert outcomes(found)["duplicates"] == "passed"
    assert "256 samples" in str(found)


@pytest.mark.parametrize("preset", ["digits", "diabetes"])
def test_a_preset_passes(preset: str) -> None:
    found = wellfit.check_recipe(preset)
    assert not found.failed, str(found)
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from wellfit.cli import diagnose
    from wellfit.recipe import Recipe

    assert diagnose.checked(Recipe.load("wine"), tmp_path / "found.json") == 0
    assert "14 checks" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "found.json").read_text())["checks"]) == 14
