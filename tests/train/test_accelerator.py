"""Training on an accelerator: the same bits after a resume and again from any step, real memory that runs out, and its peak.

Skipped aloud where there is none. What the doctor sees there is in `tests/test_gpu.py`.
"""

import gc
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import wellfit
from wellfit.events import Evaluated, Noted, Paced, Started, Stepped
from wellfit.run import Run
from wellfit.trials.counterfactual import rerun
from wellfit.trials.find_lr import find_lr

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    pytest.mark.filterwarnings("ignore"),  # those of the compiler
]
SMALL: dict[str, Any] = {
    "data.source": "digits",
    "model": {"kind": "convnet", "channels": [8, 16], "dropout": 0.2},
    "training.steps": 60,
    "training.log_every": 5,
    "evaluation.every": 20,
    "checkpoints.every": 20,
    "data.augment.shift": 1,
}
KINDS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "images in rows": {"hardware.channels_last": False},  # as it comes they are channels last
    "fp32": {"hardware.precision": "fp32"},
    "fp16": {"hardware.precision": "fp16"},
    "accumulating SGD": {"optimizer.kind": "sgd", "training.gradient_accumulation_steps": 4},
    "recomputing": {"hardware.activation_checkpointing": 1},
    "muon": {"optimizer.kind": "muon", "model": {"kind": "mlp", "widths": [64, 64], "norm": "layer"}},
    "attention": {"model": {"kind": "vit", "patch": 4, "width": 32, "layers": 2, "heads": 2}},
    "compiled": {"hardware.compile": True, "training.steps": 30, "evaluation.every": 10},
}


def trained(folder: Path, observers: Any = (), **settings: Any) -> Run:
    chosen = SMALL | {name.replace("__", "."): value for name, value in settings.items()}
    return wellfit.fit_recipe(
        wellfit.Recipe(), set=chosen, folder=folder, observers=observers, quiet=True, yardsticks=False
    )


def numbers(run: Run) -> list:
    return [event for event in run.events() if isinstance(event, (Stepped, Evaluated))]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def stopping(step: int) -> Any:
    def stop(event: object) -> None:
        if isinstance(event, Stepped) and event.step == step:
            os.kill(os.getpid(), 15)

    return stop


@pytest.mark.parametrize("kind", KINDS)
def test_it_goes_on_to_the_same_bits(tmp_path: Path, kind: str) -> None:
    whole = trained(tmp_path / "whole", **KINDS[kind])
    part = trained(tmp_path / "part", [stopping(23)], **KINDS[kind])
    assert next(e for e in whole.events() if isinstance(e, Started)).device.startswith("cuda")
    assert part.ended().reason == "interrupted"
    rest = wellfit.resume(part.folder, quiet=True, yardsticks=False)
    assert numbers(rest) == numbers(whole)
    assert same(rest.model, whole.model)


@pytest.mark.parametrize("step", [0, 17, 41])
def test_it_runs_again_to_the_same_bits(tmp_path: Path, step: int) -> None:
    again = rerun(trained(tmp_path / "run"), from_step=step, quiet=True)
    assert again.identical


class Wide(nn.Module):
    """Layers that hold 4 MiB a sample for the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(64, 1 << 20, bias=False), nn.Linear(1 << 8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x)).view(len(x), 1 << 12, 1 << 8).mean(1))


def test_memory_that_really_runs_out_is_as_if_the_batch_had_been_cut_from_the_start(tmp_path: Path) -> None:
    x = torch.randn(256, 64, generator=torch.Generator().manual_seed(0))
    y = (x[:, :4].argmax(1)).long()
    base = {
        "training.batch_size": 256, "training.steps": 4, "optimizer.kind": "sgd", "optimizer.momentum": 0.0, "hardware.precision": "fp32",
        "evaluation.batch_size": 8, "checkpoints.every": 1000,
    }  # fmt: skip

    def fit(folder: str, **settings: Any) -> Run:
        chosen = base | {name.replace("__", "."): value for name, value in settings.items()}
        return wellfit.fit(
            Wide(), (x, y), (x[:32], y[:32]), loss="cross-entropy", set=chosen, folder=tmp_path / folder, quiet=True
        )

    gc.collect()
    torch.cuda.empty_cache()
    _, all_memory = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(2.6 * 2**30 / all_memory)  # weights and gradient: half of a GiB
    try:
        with pytest.raises(wellfit.errors.OutOfMemory):
            fit("not-asked")
        tight = fit("tight", recovery__out_of_memory=True)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    told = [event.text for event in tight.events() if isinstance(event, Noted) and "Memory ran out" in event.text]
    assert told
    assert all("in step 1," in text for text in told)
    parts = 2 ** len(told)
    cut = fit("cut", training__gradient_accumulation_steps=parts)
    assert [e.loss for e in numbers(tight) if isinstance(e, Stepped)] == [e.loss for e in numbers(cut) if isinstance(e, Stepped)]  # fmt: skip
    assert same(tight.model, cut.model)


def test_steps_that_are_counted_on_the_cpu_are_looked_at_there(tmp_path: Path) -> None:
    """Adafactor's counters are not where its averages are, and a good checkpoint has neither broken."""
    run = trained(tmp_path / "run", optimizer__kind="adafactor", recovery__not_finite=3)
    assert run.ended().reason == "finished"


def test_the_peak_is_the_devices(tmp_path: Path) -> None:
    torch.cuda.reset_peak_memory_stats()
    run = trained(tmp_path / "run", training__steps=20)
    told = max(event.memory_bytes for event in run.events() if isinstance(event, Paced))
    assert 0 < told <= torch.cuda.max_memory_allocated()
    assert told > 100_000


def test_finding_a_rate_leaves_the_devices_randomness(tmp_path: Path) -> None:
    del tmp_path
    x = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    data = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 32)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2)).cuda()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.cuda.manual_seed(3)
    random = torch.cuda.get_rng_state()
    find_lr(model, data, loss="cross-entropy", set={"training.steps": 64})
    assert torch.equal(torch.cuda.get_rng_state(), random)
    assert all(value.is_cuda and torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_where_a_step_goes_is_the_devices_time() -> None:
    """Parts add up; what a slow host leaves idle is seen; layers and copies are the device's."""
    model = nn.Sequential(nn.Linear(2048, 4096), nn.ReLU(), nn.Linear(4096, 10)).cuda()
    x, y = torch.randn(1024, 2048), torch.randint(0, 10, (1024,))
    found = wellfit.profile(model, (x, y), loss="cross-entropy", set={"training.batch_size": 256}, steps=10, changes=[])
    assert sum(found.shares.values()) == pytest.approx(1)
    assert found.busy is not None
    assert 0 < found.busy <= 1
    assert found.copies
    assert found.layers[0].name == "0"
    assert found.flops
    tried = wellfit.profile(model, (x, y), loss="cross-entropy", set={"hardware.precision": "fp32"}, steps=5)
    assert {"hardware.precision=bf16"} <= {lever.change for lever in tried.levers}
