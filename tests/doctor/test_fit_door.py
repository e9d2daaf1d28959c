"""The doctor inside `fit`: on by default, the same bits, its findings kept, and found again from the recorded run."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import wellfit
from wellfit.doctor.doctor import Doctor
from wellfit.events import Ended, Evaluated, Stepped

X, Y = torch.randn(256, 8, generator=torch.Generator().manual_seed(3)), torch.arange(256) % 4


def network(*last: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4), *last)


def run(folder: Path, model: nn.Module, **more: object) -> wellfit.Run:
    settings = {"training.epochs": 6, "training.batch_size": 32} | {k.replace("__", "."): v for k, v in more.items()}
    return wellfit.fit(
        model, (X, Y), (X[:64] + 0.01, Y[:64]), loss="cross-entropy", set=settings, folder=folder, quiet=True
    )


def test_the_bits_are_the_same_with_and_without(tmp_path: Path) -> None:
    with_doctor, without = run(tmp_path / "a", network()), run(tmp_path / "b", network(), training__doctor=False)
    first, second = with_doctor.best_weights(), without.best_weights()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert with_doctor.metrics() == without.metrics()
    assert without.findings() == []


def test_a_fault_is_told_kept_and_found_again(tmp_path: Path, capsys) -> None:
    sick = run(tmp_path / "sick", network(nn.Softmax(1)))
    assert sick.findings()[0]["id"] == "softmax-before-cross-entropy"
    assert any("softmax-before-cross-entropy" in getattr(event, "text", "") for event in sick.events())
    again = Doctor()
    for event in wellfit.open(tmp_path / "sick").events():
        again.see(event)
    again.end()
    assert [f.id for f in again.findings()] == [f["id"] for f in sick.findings()]
    from wellfit.cli.diagnose import diagnosed

    assert diagnosed(str(tmp_path / "sick"), [], False, tmp_path / "found.json", True) == 3
    assert json.loads((tmp_path / "found.json").read_text())["findings"][0]["id"] == "softmax-before-cross-entropy"
    assert "softmax-before-cross-entropy" in capsys.readouterr().err


def test_torn_and_foreign_lines_are_passed_over_and_said(tmp_path: Path, capsys) -> None:
    sick = run(tmp_path / "sick", network(nn.Softmax(1)))
    with (sick.folder / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "Vitals", "step": "x"}\n[1, 2]\n{"event": "Vit')
    from wellfit.cli.diagnose import diagnosed

    assert diagnosed(str(sick.folder), [], False, None, False) == 0
    told = capsys.readouterr().err
    assert "3 line(s)" in told
    assert "softmax-before-cross-entropy" in told


@pytest.mark.parametrize("preset", ["digits", "wine", "breast-cancer", "diabetes"])
def test_presets_are_healthy(tmp_path: Path, preset: str) -> None:
    done = wellfit.fit_recipe(preset, set={"training.epochs": 4}, folder=tmp_path / preset, quiet=True)
    told = {f["id"] for f in done.findings() if f["severity"] != "advice"}
    assert told <= {"beaten-by-baseline"}, "after 4 epochs a classical model may well be better, which is then said"


@pytest.mark.parametrize("preset", ["wine", "breast-cancer"])
def test_a_loss_that_one_wrong_sample_raises_is_no_overfitting(tmp_path: Path, preset: str) -> None:
    """14 and 45 samples are held out, and one of each is wrong in the end, ever more surely."""
    done = wellfit.fit_recipe(preset, folder=tmp_path / preset, quiet=True, yardsticks=False)
    assert not [f["id"] for f in done.findings() if f["severity"] != "advice"]


def evaluated(doctor: Doctor, samples: int) -> list[str]:
    """What is found where the training loss falls to nothing and the held-out loss rises threefold, one sample in four wrong."""
    for step in range(1, 401):
        doctor.see(Stepped(step, 2.0 * 0.98**step, 1.0, 0.01))
        if step % 20 == 0:
            loss = 0.5 + abs(step - 60) / 200
            doctor.see(Evaluated(step, "valid", {"loss": loss, "accuracy": 0.75}, samples=samples))
    doctor.see(Ended("finished", 400, 1.0))
    doctor.end()
    return [f.id for f in doctor.findings()]


def test_a_rise_counts_by_the_samples_that_carry_it() -> None:
    assert "overfitting" not in evaluated(Doctor(), 12)
    assert "overfitting" in evaluated(Doctor(), 16)


@pytest.mark.parametrize(
    ("momentum", "rate", "told"), [(0.999, 0.05, True), (0.9, 0.05, False), (0.99, 0.05, False), (0.999, 0.001, False)]
)
def test_momentum_that_is_longer_than_the_run(tmp_path: Path, momentum: float, rate: float, told: bool) -> None:
    settings = {
        "data.source": "digits", "model": {"kind": "mlp", "widths": [32]}, "training.epochs": 3, "training.batch_size": 32,
        "optimizer.kind": "sgd", "optimizer.momentum": momentum, "optimizer.learning_rate": rate,
    }  # fmt: skip
    done = wellfit.fit_recipe(wellfit.Recipe().override(settings), folder=tmp_path / "run", quiet=True)
    found = [f for f in done.findings() if f["id"] == "learning-rate-too-high"]
    assert ["With a momentum of 0.999" in f["says"] for f in found] == [True] * told


@pytest.mark.parametrize(
    ("mine", "theirs", "told"),
    [
        ({"accuracy": 0.764}, {"accuracy": 0.813}, True),
        ({"accuracy": 0.80}, {"accuracy": 0.813}, False),
        ({"rmse": 3.0}, {"rmse": 2.5}, True),
        ({"rmse": 2.6}, {"rmse": 2.5}, False),
        ({"loss": 1.0}, {"accuracy": 0.9}, False),
    ],
)
def test_a_network_that_a_classical_model_beats_is_named(mine: dict, theirs: dict, told: bool) -> None:
    doctor = Doctor()
    for step in range(1, 40):
        doctor.see(Stepped(step, 1.0 / step, 1.0, 1e-3))
    doctor.see(Evaluated(39, "test", mine))
    doctor.see(Evaluated(39, "test", theirs, of="TF-IDF + logistic regression"))
    doctor.see(Ended(39, "finished", 1.0, 39, 1.0))
    found = {finding.id: finding for finding in doctor.findings()}
    assert ("beaten-by-baseline" in found) == told
    if told:
        assert "TF-IDF" in found["beaten-by-baseline"].says
        assert "pretrained" in found["beaten-by-baseline"].remedies[0].words
