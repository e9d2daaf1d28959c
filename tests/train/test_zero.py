"""ZeRO by DeepSpeed: ranks that share the optimizer's state equal one process, go on to the same bits, and with fewer."""

import os
from pathlib import Path

import pytest
from test_distributed import KINDS, SETTINGS, X, Y, assert_equal, network, ranks, resumed, stopped, told, train
from torch import nn

import wellfit
from wellfit.checkpoint import Checkpoints

pytest.importorskip("deepspeed")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]  # its first start compiles

ZERO = {
    "zero1": {"hardware.parallel": "zero1", "optimizer.kind": "lion", "training.max_grad_norm": 0.2},
    "zero2": {"hardware.parallel": "zero2", "training.max_grad_norm": 0.2},
    "zero2-sgd": {"hardware.parallel": "zero2", "optimizer.kind": "sgd", "hardware.activation_checkpointing": 1},
}
KINDS.update(ZERO)
REFUSED = {
    "muon": {"hardware.parallel": "zero2", "optimizer.kind": "muon"},
    "by-value": {"hardware.parallel": "zero1", "training.max_grad_value": 0.1},
    "double": {"hardware.parallel": "zero1"},
    "profiled": {"hardware.parallel": "zero1"},
}


def everything(root: Path) -> None:
    for name, settings in ZERO.items():
        train(str(root / name), settings)
    if root.name == "one":
        return
    train(str(root / "whole"), ZERO["zero2"], 0.3)
    stopped(root / "half", "zero2", 7)
    stopped(root / "undrawn", "zero2", 7, 0.0)
    resumed(root / "half")
    for name, given in REFUSED.items():
        (root / name).mkdir(exist_ok=True)
        told(root / name, refused, str(root / f"{name}-run"), name, given)


def refused(folder: str, name: str, given: dict) -> None:
    if name == "profiled":
        wellfit.profile(network(), (X, Y), loss="cross-entropy", steps=2, changes=[], set={**SETTINGS, **given})
        return
    model: nn.Module = network().double() if name == "double" else network()
    wellfit.fit(
        model, (X.double() if name == "double" else X, Y), loss="cross-entropy", set={**SETTINGS, **given},
        folder=folder, quiet=True,
    )  # fmt: skip


def test_ranks_that_share_the_state_equal_one_process(tmp_path: Path) -> None:
    everything(tmp_path / "one")
    ranks(2, everything, tmp_path / "many")
    for name in ZERO:
        assert_equal(wellfit.open(tmp_path / "one" / name), wellfit.open(tmp_path / "many" / name))

    whole, half = (wellfit.open(tmp_path / "many" / name) for name in ("whole", "half"))
    assert_equal(whole, half, closeness=0.0)

    kept = [Checkpoints(tmp_path / root / "zero2" / "checkpoints").latest() for root in ("one", "many")]
    states = [found.state["optimizer"] for found in kept]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for i, values in states[0]["state"].items():
        for key, value in values.items():
            assert (value - states[1]["state"][i][key]).abs().max() <= 1e-6, (i, key)

    resumed(tmp_path / "many" / "undrawn", 0.0)  # by this process alone
    assert_equal(wellfit.open(tmp_path / "one" / "zero2"), wellfit.open(tmp_path / "many" / "undrawn"))

    for name, words in (
        ("muon", "RecipeError False `hardware.parallel` is 'zero2', and `optimizer.kind` is muon, whose update looks at whole"),
        ("by-value", "RecipeError False `hardware.parallel` is 'zero1', by which DeepSpeed clips and steps at once"),
        ("double", "ModelError False `hardware.parallel` is 'zero1', but the parameter 0.weight is torch.float64"),
        ("profiled", "RecipeError False `hardware.parallel` is 'zero1', and DeepSpeed holds on to the model"),
    ):  # fmt: skip
        assert (tmp_path / "many" / name / "0").read_text().startswith(words)
    assert "DS_ACCELERATOR" not in os.environ
