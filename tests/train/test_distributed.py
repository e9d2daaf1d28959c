"""Two ranks over gloo go through the same page and equal one."""

import os
import socket

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

import wellfit
from wellfit.events import Evaluated, Started, Stepped

X = torch.randn(90, 5, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (90,), generator=torch.Generator().manual_seed(1))
Y[::7] = -100  # masked targets make the ranks' weights differ
SETTINGS = {
    "training.batch_size": 20, "training.epochs": 3, "training.gradient_accumulation_steps": 2,
    "evaluation.every": 4, "optimizer.learning_rate": 1e-2, "training.log_every": 3,
}  # fmt: skip


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3))


def train(folder: str) -> None:
    wellfit.fit(network(), (X, Y), (X[:31], Y[:31]), loss="cross-entropy", set=SETTINGS, folder=folder, quiet=True)


def one_of_two(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_RANK": str(rank),
    }
    train(folder)


@pytest.mark.filterwarnings("ignore")  # the ranks' own start-up is not ours
def test_two_ranks_equal_one(tmp_path) -> None:
    train(str(tmp_path / "one"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(one_of_two, (port, str(tmp_path / "two")), nprocs=2)
    one, two = wellfit.open(tmp_path / "one"), wellfit.open(tmp_path / "two")
    for name, value in one.best_weights().items():
        assert (value - two.best_weights()[name]).abs().max() < 1e-6, name
    kinds = (Stepped, Evaluated)
    pairs = list(zip(*([e for e in run.events() if isinstance(e, kinds)] for run in (one, two)), strict=True))
    assert len(pairs) > 15
    for a, b in pairs:
        if isinstance(a, Stepped):
            assert a.loss == pytest.approx(b.loss, abs=1e-6)
            assert a.grad_norm == pytest.approx(b.grad_norm, abs=1e-6)
        else:
            assert a.metrics == pytest.approx(b.metrics, abs=1e-6)
    assert [e.world for e in two.events() if isinstance(e, Started)] == [2]
