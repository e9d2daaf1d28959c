"""Images and kernels pixel by pixel in memory: the same training but for rounding, and every promise that goes with it."""

import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import wellfit
from wellfit.defaults import Facts, resolve
from wellfit.errors import RecipeError
from wellfit.events import Evaluated, Noted, Stepped
from wellfit.recipe import Recipe
from wellfit.run import Run
from wellfit.trials.counterfactual import rerun

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(96, 3, 12, 12, generator=DRAW)
Y = (X[:, 0].mean((1, 2)) > 0).long() + (X[:, 1, 3, 3] > 0.5).long()
LAST = torch.channels_last


def network(dropout: float = 0.1) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.GroupNorm(4, 16), nn.GELU(), nn.Conv2d(16, 16, 1), nn.AvgPool2d(3),
        nn.Flatten(), nn.Dropout(dropout), nn.Linear(64, 3),
    )  # fmt: skip


def fit(folder: Path, model: nn.Module | None = None, train: Any = (X, Y), observers: Any = (), **settings: Any) -> Run:
    chosen = {"training.batch_size": 32, "training.epochs": 6, "evaluation.restore_best": False} | {
        name.replace("__", "."): value for name, value in settings.items()
    }
    model = network() if model is None else model
    return wellfit.fit(
        model, train, (X[:32], Y[:32]), loss="cross-entropy", set=chosen, folder=folder, observers=observers, quiet=True
    )


def numbers(run: Run) -> list:
    return [event for event in run.events() if isinstance(event, (Stepped, Evaluated))]


def stopping(step: int) -> Any:
    def stop(event: object) -> None:
        if isinstance(event, Stepped) and event.step == step:
            os.kill(os.getpid(), 15)

    return stop


WAYS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "adam": {"optimizer__kind": "adam"},
    "sgd": {"optimizer__kind": "sgd"},
    "lion": {"optimizer__kind": "lion"},
    "adafactor": {"optimizer__kind": "adafactor"},
    "accumulating": {"training__gradient_accumulation_steps": 3, "training__batch_size": 30},
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_the_same_training_but_for_rounding(tmp_path: Path, way: str) -> None:
    rows = fit(tmp_path / "rows", **WAYS[way])
    seen: list[bool] = []
    model = network()
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0].is_contiguous(memory_format=LAST)))
    last = fit(tmp_path / "last", model, hardware__channels_last=True, **WAYS[way])
    assert all(seen)
    assert seen
    assert model[4].weight.is_contiguous(memory_format=LAST)
    assert not model[4].weight.is_contiguous()
    a, b = rows.metrics()["loss"], last.metrics()["loss"]
    assert b == pytest.approx(a, abs=2e-3 if way == "lion" else 2e-4)
    if way == "sgd":
        for name, value in rows.model.state_dict().items():
            torch.testing.assert_close(last.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_a_network_that_came_so_trains_as_it_should(tmp_path: Path) -> None:
    """The flat buffer of gradients and the fused kernels go by the order of memory."""
    rows = fit(tmp_path / "rows")
    last = fit(tmp_path / "last", network().to(memory_format=LAST))
    assert last.metrics()["loss"] == pytest.approx(rows.metrics()["loss"], abs=2e-4)


@pytest.mark.parametrize("way", ["adamw", "sgd", "lion"])
def test_a_resume_comes_to_the_same_bits(tmp_path: Path, way: str) -> None:
    settings = {"hardware__channels_last": True, "training__log_every": 2, "checkpoints__every": 3, **WAYS[way]}
    whole = fit(tmp_path / "whole", **settings)
    part = fit(tmp_path / "part", observers=[stopping(8)], **settings)
    assert part.ended().reason == "interrupted"
    data = (X, Y), (X[:32], Y[:32])
    rest = wellfit.fit(network(), *data, loss="cross-entropy", resume=part.folder, quiet=True)
    assert numbers(rest) == numbers(whole)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(rest.model.state_dict()[name], value), name


def test_a_run_goes_on_the_other_way_round(tmp_path: Path) -> None:
    """Its optimizer's averages were kept in the other order."""
    settings = {
        "data.source": "digits", "model": {"kind": "convnet", "channels": [8, 16], "dropout": 0.0}, "training.steps": 30,
        "checkpoints.every": 10, "evaluation.every": 10, "training.log_every": 5,
    }  # fmt: skip
    run = wellfit.fit_recipe(Recipe(), set=settings, folder=tmp_path / "run", quiet=True, yardsticks=False)
    again = rerun(run, set={"hardware.channels_last": True}, from_step=10, quiet=True).run
    assert again.metrics()["loss"][10:] == pytest.approx(run.metrics()["loss"][10:], abs=5e-4)


def test_any_source_hands_out_images_so(tmp_path: Path) -> None:
    rows = [{"images": x, "labels": y} for x, y in zip(X, Y, strict=True)]

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert images.is_contiguous(memory_format=LAST)
            return self.inner(images)

    batches = [{"images": X[i : i + 32], "labels": Y[i : i + 32]} for i in (0, 32, 64)]
    for i, train in enumerate((batches, torch.utils.data.DataLoader(rows, batch_size=32))):
        run = fit(tmp_path / str(i), Named(), train, hardware__channels_last=True, training__epochs=1)
        assert run.ended().reason == "finished"


def test_compiled_and_recomputed_it_is_the_same(tmp_path: Path) -> None:
    def small() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, 2), nn.Flatten(), nn.Linear(100, 3)
        )

    settings = {"hardware__channels_last": True, "training__epochs": 2}
    plain = fit(tmp_path / "plain", small(), **settings)
    compiled = fit(tmp_path / "compiled", small(), hardware__compile=True, **settings)
    assert compiled.metrics()["loss"] == pytest.approx(plain.metrics()["loss"], abs=1e-3)

    def blocks() -> nn.Module:
        model = nn.Sequential()
        model.blocks, model.head = nn.Sequential(*[nn.Sequential(part) for part in network()[:-1]]), network()[-1]
        return model

    kept = fit(tmp_path / "kept", blocks(), hardware__channels_last=True)
    again = fit(tmp_path / "again", blocks(), hardware__channels_last=True, hardware__activation_checkpointing=1)
    assert again.metrics()["loss"] == kept.metrics()["loss"]


def test_what_leaves_lies_as_other_libraries_expect_it(tmp_path: Path) -> None:
    settings = {
        "data.source": "digits", "model": {"kind": "resnet"}, "training.steps": 4, "hardware.channels_last": True,
    }  # fmt: skip
    run = wellfit.fit_recipe(Recipe(), set=settings, folder=tmp_path / "run", quiet=True, yardsticks=False)
    wellfit.export(run.folder, tmp_path / "out")
    (file,) = (tmp_path / "out").glob("*.safetensors")
    written = safetensors.torch.load_file(file)
    for name, value in run.model.state_dict().items():
        assert written[name].is_contiguous()
        assert torch.equal(written[name], value)


@pytest.mark.parametrize(
    ("kind", "device", "precision", "bf16", "on"),
    [
        ("resnet", "cuda", "auto", True, True),
        ("convnet", "cuda:1", "fp16", False, True),
        ("named", "cuda", "bf16", True, True),
        ("resnet", "cuda", "auto", False, False),
        ("resnet", "cuda", "fp32", True, False),
        ("vit", "cuda", "auto", True, False),
        ("given", "cuda", "auto", True, False),
        ("resnet", "cpu", "bf16", False, False),
    ],
)
def test_what_is_derived_and_why(kind: str, device: str, precision: str, bf16: bool, on: bool) -> None:
    task = "given" if kind == "given" else "image-classification"
    facts = Facts(task=task, train_samples=1000, shape=(3, 32, 32), device=device, bf16=bf16, model="Network")
    model = {"kind": kind, **({"name": "resnet18"} if kind == "named" else {})}
    asked = Recipe().override({"model": model, "hardware.precision": precision})
    resolved = resolve(asked, facts)
    assert resolved.hardware.channels_last is on
    origin = resolved.origin("hardware.channels_last")
    assert origin.by == "derived"
    assert ("tensor cores" in origin.why) is on


def test_where_it_cannot_matter_or_is_not_a_choice_that_is_said(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 3))
    run = fit(tmp_path / "run", model, hardware__channels_last=True, training__epochs=1)
    assert any("`hardware.channels_last`" in event.text for event in run.events() if isinstance(event, Noted))
    with pytest.raises(RecipeError, match="true, false, or auto"):
        Recipe().override(["hardware.channels_last=nhwc"])
    assert Recipe().override(["hardware.channels_last=true"]).hardware.channels_last is True
