"""The watch sees without touching: same bits, same generators, torch as it was, and never in the program's way."""

import copy
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import commands
import wellfit
from wellfit.doctor.doctor import Doctor
from wellfit.doctor.lessons import Lessons
from wellfit.doctor.watch import Watch

X, Y = torch.randn(64, 6, generator=torch.Generator().manual_seed(1)), torch.arange(64) % 3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def loop(steps: int = 40) -> nn.Module:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(steps):
        model.train()
        chosen = torch.randint(0, 64, (16,))
        optimizer.zero_grad()
        F.cross_entropy(model(X[chosen]), Y[chosen]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 9:
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(X), Y).item()
    return model


def bits(model: nn.Module) -> list[torch.Tensor]:
    return [v.clone() for v in model.state_dict().values()]


def test_weights_and_generators_come_out_bit_for_bit_the_same() -> None:
    alone = bits(loop())
    generator = torch.get_rng_state()
    with Watch(Doctor()) as watch:
        watched = bits(loop())
    assert watch.doctor.failures == []
    assert all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True))
    assert torch.equal(generator, torch.get_rng_state())


def test_torch_is_as_it_was_afterwards() -> None:
    def seen() -> list[object]:
        return [
            torch.autograd.backward, torch.optim.Optimizer.__init__, F.cross_entropy, torch.Tensor.item, torch.randperm,
            torch.compile, nn.Sequential.__call__, nn.utils.clip_grad_norm_, torch.utils.data.DataLoader.__iter__,
        ]  # fmt: skip

    before = seen()

    def broken_off() -> None:
        with Watch(Doctor()):
            loop(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_off()
    assert seen() == before
    assert "__call__" not in nn.Sequential.__dict__
    assert not nn.modules.module._global_forward_pre_hooks
    assert not importlib.import_module("torch.optim.optimizer")._global_optimizer_pre_hooks


def test_models_can_be_copied_pickled_and_scripted_while_watched(tmp_path: Path) -> None:
    with Watch(Doctor()):
        model = loop(10)
        torch.save(model, tmp_path / "model.pt")
        twin = copy.deepcopy(model)
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    assert all(torch.equal(a, b) for a, b in zip(bits(again), bits(twin), strict=True))


def test_an_error_of_its_own_is_told_and_the_program_goes_on(monkeypatch) -> None:
    def fails(*_: object) -> None:
        raise AttributeError("ours")

    monkeypatch.setattr(Lessons, "read_graph", fails)
    doctor = Doctor()
    with Watch(doctor):
        model = loop(5)
    assert len(doctor.failures) == 1
    assert "ours" in doctor.failures[0]
    assert all(torch.equal(a, b) for a, b in zip(bits(model), bits(loop(5)), strict=True))


def test_the_library_door(capsys) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with wellfit.watch(model, optimizer) as doctor:
        for _ in range(6):
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
    assert [f.id for f in doctor.findings() if f.severity == "error"] == ["gradients-not-cleared"]
    assert doctor.findings()[0].onset_step == 2
    assert "gradients-not-cleared" in capsys.readouterr().err


def test_a_healthy_loop_is_left_in_peace() -> None:
    with wellfit.watch(quiet=True) as doctor:
        loop(120)
    assert [f.id for f in doctor.findings() if f.severity != "advice"] == []


def test_a_model_without_parameters_and_a_program_that_only_predicts() -> None:
    with wellfit.watch(quiet=True) as doctor:
        nn.ReLU()(X)
        with torch.no_grad():
            network()(X)
    assert doctor.findings() == []


SCRIPT = """
import sys, torch, torch.nn as nn, torch.nn.functional as F
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3){softmax})
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
x, y = torch.randn(64, 6), torch.arange(64) % 3
for step in range(20):
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
print("loss", round(loss.item(), 3), sys.argv[1:])
{end}
"""


def doctored(tmp_path: Path, *options: str, softmax: str = "", end: str = "", args: tuple[str, ...] = ()):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(softmax=softmax, end=end), encoding="utf-8")
    return commands.wellfit("doctor", *options, script, *args, folder=tmp_path, strict=False)


def test_a_script_keeps_its_output_arguments_and_status(tmp_path: Path) -> None:
    done = doctored(tmp_path, "--json", "found.json", end="sys.exit(7)", args=("--fast", "3"))
    assert done.returncode == 7
    assert done.stdout.strip().endswith("['--fast', '3']")
    assert done.stdout.count("\n") == 1
    assert "Nothing is wrong" in done.stderr
    assert all(f["severity"] == "advice" for f in json.loads((tmp_path / "found.json").read_text())["findings"])


def test_findings_go_to_json_and_strict_leaves_with_3(tmp_path: Path) -> None:
    done = doctored(tmp_path, "--json", "found.json", "--strict", softmax=", nn.Softmax(1)")
    assert done.returncode == 3
    first = json.loads((tmp_path / "found.json").read_text())["findings"][0]
    assert first["id"] == "softmax-before-cross-entropy"
    assert first["severity"] == "error"
    assert first["onset_step"] == 1
    assert first["place"] == "train.py:10"
    assert set(first) >= {"id", "severity", "onset_step", "confidence", "says", "evidence", "remedies"}
    assert "softmax-before-cross-entropy" in done.stderr


def test_a_crash_stays_the_scripts_own(tmp_path: Path) -> None:
    done = doctored(tmp_path, end="y[0] = 9\nF.cross_entropy(model(x), y)", softmax="")
    assert done.returncode == 1
    assert "IndexError" in done.stderr
    assert "train.py" in done.stderr
    assert "runpy" not in done.stderr
    assert "labels-out-of-range" in done.stderr


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    done = commands.wellfit("doctor", "nowhere.py", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("wellfit: The script nowhere.py does not exist.")
    assert "Traceback" not in done.stderr


def test_a_script_that_trains_nothing(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("print('hello')")
    command = [sys.executable, "-m", "wellfit", "doctor", "hello.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert "no training step was seen" in done.stderr


def test_an_optimizer_made_before_the_watching_is_no_loop_by_hand() -> None:
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with Watch(Doctor()) as watch:
        for _ in range(400):
            optimizer.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
        assert not watch.trainings[0].by_hand
        assert watch.calm, "nothing is wrong with it, so nothing but the loss is read by now"
    history = watch.doctor.history(watch.trainings[0].name)
    assert history.step == 400
    assert [step for step, _ in history.losses.points()] == list(range(1, 401)), "calm steps are told too, in order"


def test_a_loss_that_is_not_finite_ends_the_calm() -> None:
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with Watch(Doctor()) as watch:
        for step in range(400):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(X), Y)
            (loss * (float("nan") if step == 390 else 1.0)).backward()
            optimizer.step()
            if step == 389:
                assert watch.calm
    found = {finding.id: finding.onset_step for finding in watch.doctor.findings()}
    assert found["loss-not-finite"] == 391
    points = [step for step, _ in watch.doctor.history(watch.trainings[0].name).losses.points()]
    assert points == sorted(points), "what waited is told before what woke it"


def test_functional_transforms_are_left_alone() -> None:
    from torch.func import functional_call, grad

    model = network().eval()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    slope = grad(lambda w: F.cross_entropy(functional_call(model, w, (X,)), Y))
    with Watch(Doctor()) as watch:
        for _ in range(5):
            slopes = slope(weights)
            weights = {name: w - 0.1 * slopes[name] for name, w in weights.items()}
    assert watch.doctor.failures == []


def found_in(train: object, *, steps: int = 200) -> dict[str, str]:
    with Watch(Doctor()) as watch:
        train(steps)  # type: ignore[operator]
    assert watch.doctor.failures == []
    return {finding.id: finding.severity for finding in watch.doctor.findings()}


@pytest.mark.parametrize(("idle", "severity"), [(40, "advice"), (64, "warning")])
def test_idle_units_beside_enough_others_are_an_advice(idle: int, severity: str) -> None:
    def train(steps: int) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))
        with torch.no_grad():
            model[0].bias[:idle] = -100.0
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(X), (X[:, 0] > 0).long()).backward()
            optimizer.step()

    assert found_in(train).get("dead-units") == severity


@pytest.mark.parametrize("turned", [False, True])
def test_a_likelihood_read_while_evaluating_is_no_rising_loss(turned: bool) -> None:
    """The training loss is a negative log-likelihood, and what is read off with `.item()` is negated in Python or not."""

    def train(steps: int) -> None:
        torch.manual_seed(0)
        model = nn.Linear(6, 1)
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-2)
        y = X @ torch.tensor([1.0, 2.0, 0.0, 0.0, 0.0, 0.0])

        def likelihood() -> torch.Tensor:
            return torch.distributions.Normal(model(X)[:, 0], 0.05).log_prob(y).mean().clamp(min=-30) + 20

        for step in range(steps):
            optimizer.zero_grad()
            loss = -likelihood()
            loss.backward()
            optimizer.step()
            if step % 10 == 9:
                model.eval()
                with torch.no_grad():
                    val_loss = -likelihood().item() if turned else (-likelihood()).item()
                assert isinstance(val_loss, float)
                model.train()

    assert "overfitting" not in found_in(train)


def test_data_known_by_heart_is_overfitting() -> None:
    def train(steps: int) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 256), nn.ReLU(), nn.Linear(256, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        held, labels = torch.randn(64, 6), torch.randint(0, 3, (64,))
        for step in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            optimizer.step()
            if step % 10 == 9:
                model.eval()
                with torch.no_grad():
                    F.cross_entropy(model(held), labels)
                model.train()

    assert "overfitting" in found_in(train)


def test_one_number_a_sample_given_to_cross_entropy() -> None:
    def train(steps: int) -> None:
        torch.manual_seed(0)
        model = nn.Linear(6, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(model(X)[:, 0], (Y > 0).float()).backward()
            optimizer.step()

    assert found_in(train, steps=5).get("head-loss-mismatch") == "error"


def test_places_in_the_batch_are_no_classes() -> None:
    """Contrastive targets are `arange`: a classical model cannot tell them from the inputs, and need not."""

    def train(steps: int) -> None:
        torch.manual_seed(0)
        model = nn.Linear(6, 8)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        for _ in range(steps):
            first, second = torch.randn(32, 6), torch.randn(32, 6)
            optimizer.zero_grad()
            F.cross_entropy(model(first) @ model(second).T, torch.arange(32)).backward()
            optimizer.step()

    assert "labels-unrelated-to-inputs" not in found_in(train)
