"""Averages of eight bits: near those of thirty-two, a quarter of their memory, the same bits after a resume, and clear refusals."""

import builtins
import copy
import io
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import wellfit
from wellfit.defaults import Facts, resolve
from wellfit.errors import HardwareError, MissingExtra, ModelError, RecipeError
from wellfit.events import Evaluated, Stepped
from wellfit.memory import memory_plan
from wellfit.optim import Pair, build, eight_bits, state_bytes
from wellfit.optim.eight_bits import AVERAGES
from wellfit.recipe import Optimizer, Recipe
from wellfit.run import Run

pytest.importorskip("bitsandbytes")
KINDS = list(AVERAGES)
BETA2 = {"adamw8bit": 0.999, "lion8bit": 0.99}
DRAW = torch.Generator().manual_seed(0)
X = torch.randn(128, 64, generator=DRAW)
Y = (X[:, :3].sum(1) > 0).long() + (X[:, 4] > 1).long()


def settings(kind: str, **more: Any) -> Optimizer:
    return Optimizer(
        **{"kind": kind, "learning_rate": 1e-3, "weight_decay": 0.05, "beta2": BETA2.get(kind, 0.999), **more}
    )


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 3))


def fit(folder: Path, observers: Any = (), model: nn.Module | None = None, **chosen: Any) -> Run:
    base = {"training.batch_size": 32, "training.epochs": 15, "evaluation.restore_best": False}
    named = base | {name.replace("__", "."): value for name, value in chosen.items()}
    model = network() if model is None else model
    return wellfit.fit(
        model, (X, Y), (X, Y), loss="cross-entropy", set=named, folder=folder, observers=observers, quiet=True
    )


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_where_the_one_of_32_bits_goes(kind: str) -> None:
    """After 30 steps on the same gradients: far nearer to it than to the start, and not equal."""
    models = [network(), network(), network()]
    optimizers = [
        build(models[0], settings(kind)),
        build(models[1], settings(kind.removesuffix("8bit"), beta2=BETA2[kind])),
    ]
    generator = torch.Generator().manual_seed(3)
    for _ in range(30):
        for parameters in zip(*(model.parameters() for model in models[:2]), strict=True):
            gradient = torch.randn(parameters[0].shape, generator=generator) * 0.1 + 0.05
            for parameter in parameters:
                parameter.grad = gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    for few, many, start in zip(*(model.parameters() for model in models), strict=True):
        apart, gone = (few - many).norm(), (many - start).norm()
        assert gone > 0
        assert apart < (0.05 if kind == "adamw8bit" else 0.35) * gone  # a sign that turns is a whole step of Lion's
        if few.numel() >= 4096:
            assert apart > 0


def test_the_step_is_dettmers() -> None:
    """One block by hand: an average is its largest times the nearest code (Dettmers et al. 2022, section 2.1)."""
    parameter = nn.Parameter(torch.zeros(4096))
    model = nn.Module()
    model.w = parameter
    optimizer = build(model, settings("adamw8bit", weight_decay=0.0))
    gradient = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    parameter.grad = gradient.clone()
    optimizer.step()
    state, mean = optimizer.state[parameter], 0.1 * gradient
    block = mean[:256]
    assert state["absmax1"][0] == pytest.approx(float(block.abs().max()), rel=1e-5)
    nearest = (block[:, None] / block.abs().max() - state["qmap1"][None]).abs().min(1)
    stored = state["qmap1"][state["state1"][:256].long()]
    apart = (block / block.abs().max() - stored).abs()
    assert (apart - nearest.values).abs().max() < 1e-2  # of the largest
    assert (apart <= nearest.values + 1e-4).float().mean() > 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_as_large_as_announced_and_planned(kind: str) -> None:
    model = network()
    optimizer = build(model, settings(kind))
    nn.functional.cross_entropy(model(X), Y).backward()
    optimizer.step()
    maps = ("qmap1", "qmap2")  # shared by all

    def held(parameter: nn.Parameter) -> int:
        kept = optimizer.state[parameter].items()
        return sum(v.numel() * v.element_size() for n, v in kept if isinstance(v, torch.Tensor) and n not in maps)

    for parameter in model.parameters():
        assert held(parameter) == state_bytes(kind, parameter.shape)
    large = model[2].weight
    assert held(large) < 0.27 * state_bytes(kind.removesuffix("8bit"), large.shape)
    told = memory_plan(network(), (X, Y), "cross-entropy", optimizer=kind)
    few = memory_plan(network(), (X, Y), "cross-entropy", optimizer=kind.removesuffix("8bit"))
    total = sum(state_bytes(kind, p.shape) for p in model.parameters())
    if "optimizer" in told.parts:
        assert told.parts["optimizer"] == pytest.approx(total, rel=0.05)
    assert told.peak < few.peak


@pytest.mark.parametrize("kind", KINDS)
def test_its_state_goes_through_a_file_that_holds_data_alone(kind: str) -> None:
    def trained(steps: int, model: nn.Module, optimizer: Any) -> None:
        for _ in range(steps):
            model.zero_grad()
            nn.functional.cross_entropy(model(X), Y).backward()
            optimizer.step()

    whole = network()
    trained(12, whole, build(whole, settings(kind)))
    half = network()
    optimizer = build(half, settings(kind))
    trained(5, half, optimizer)
    file = io.BytesIO()
    torch.save({"model": half.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = network()
    again.load_state_dict(saved["model"])
    resumed = build(again, settings(kind, learning_rate=0.5))
    resumed.load_state_dict(saved["optimizer"])
    trained(7, again, resumed)
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert {group["peak"] for group in resumed.param_groups} == {1e-3}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_stopped_comes_to_the_same_bits(tmp_path: Path, kind: str) -> None:
    def stop(event: object) -> None:
        if isinstance(event, Stepped) and event.step == 17:
            os.kill(os.getpid(), 15)

    chosen = {
        "optimizer__kind": kind,
        "training__log_every": 1,
        "checkpoints__every": 5,
        "training__gradient_accumulation_steps": 2,
    }
    whole = fit(tmp_path / "whole", **chosen)
    part = fit(tmp_path / "part", [stop], **chosen)
    assert part.ended().reason == "interrupted"
    rest = wellfit.fit(network(), (X, Y), (X, Y), loss="cross-entropy", resume=part.folder, quiet=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(rest.model.state_dict()[name], value), name
    numbers = [[event for event in run.events() if isinstance(event, (Stepped, Evaluated))] for run in (whole, rest)]
    assert numbers[0] == numbers[1]


def test_real_digits_are_learnt_as_well(tmp_path: Path) -> None:
    """The paper's claim, on the smallest scale: 8 bits cost no accuracy."""
    scores = {}
    for kind in ("adamw", "adamw8bit"):
        chosen = {
            "data.source": "digits", "model": {"kind": "mlp", "widths": [128, 128]}, "optimizer.kind": kind, "training.epochs": 15,
        }  # fmt: skip
        run = wellfit.fit_recipe(Recipe(), set=chosen, folder=tmp_path / kind, quiet=True, yardsticks=False)
        scores[kind] = run.scores()["accuracy"]
    assert scores["adamw8bit"] > 0.95
    assert scores["adamw8bit"] > scores["adamw"] - 0.015


def test_embeddings_keep_32_bits() -> None:
    model = nn.Sequential(nn.Embedding(200, 64), nn.Linear(64, 200, bias=False))
    optimizer = build(model, settings("adamw8bit"))
    assert isinstance(optimizer, Pair)
    nn.functional.cross_entropy(model(torch.arange(200)), torch.arange(200)).backward()
    optimizer.step()
    assert optimizer.state[model[0].weight]["exp_avg"].dtype == torch.float32
    assert optimizer.state[model[1].weight]["state1"].dtype == torch.uint8
    model[1].weight = model[0].weight  # tied: the output layer is the embedding
    assert not isinstance(build(model, settings("adamw8bit")), Pair)


def test_what_is_derived_is_that_of_its_kind() -> None:
    facts = Facts(task="image-classification", train_samples=1000, shape=(3, 32, 32), device="cuda", bf16=True)
    for kind in KINDS:
        few, many = (
            resolve(Recipe().override({"model.kind": "resnet", "optimizer.kind": each}), facts)
            for each in (kind, kind.removesuffix("8bit"))
        )
        for field in ("learning_rate", "weight_decay", "beta2", "batch_scaling"):
            assert getattr(few.optimizer, field) == getattr(many.optimizer, field)
        assert (few.hardware.channels_last, many.hardware.channels_last) == (False, True)
        assert "order of their shape" in few.origin("hardware.channels_last").why


def test_what_it_does_not_take_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    images = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3)).to(memory_format=torch.channels_last)
    with pytest.raises(RecipeError, match=r"channels_last=false"):
        build(images, settings("adamw8bit"))
    with pytest.raises(ModelError, match="float64"):
        build(network().double(), settings("lion8bit"))

    eight_bits._runs.cache_clear()
    import bitsandbytes.optim as theirs

    def refuses(self: Any, closure: Any = None) -> None:
        raise NotImplementedError(
            "The operator 'bitsandbytes::optimizer_update_8bit_blockwise' is not implemented for this device."
        )

    with monkeypatch.context() as patched:
        patched.setattr(theirs.AdamW8bit, "step", refuses)
        with pytest.raises(HardwareError, match=r"does not run it on cpu .*Use adamw") as caught:
            build(network(), settings("adamw8bit"))
        assert "\n" not in str(caught.value)
    eight_bits._runs.cache_clear()


def test_without_bitsandbytes_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    eight_bits._runs.cache_clear()
    real = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("bitsandbytes"):
            raise ImportError(name)
        return real(name, *rest, **more)

    for name in [name for name in sys.modules if name.startswith("bitsandbytes")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingExtra, match=r"wellfit\[quantized\]"):
        build(network(), settings("adamw8bit"))


def test_a_copy_learns_by_itself() -> None:
    """Trials of a recipe copy a job's optimizer with its model."""
    model = network()
    optimizer = build(model, settings("adamw8bit"))
    nn.functional.cross_entropy(model(X), Y).backward()
    optimizer.step()
    twin, own = copy.deepcopy((model, optimizer))
    before = [p.clone() for p in model.parameters()]
    nn.functional.cross_entropy(twin(X), Y).backward()
    own.step()
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert not torch.equal(twin[0].weight, model[0].weight)
