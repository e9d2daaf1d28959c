"""Several ranks over gloo go through the same page and equal one; cut over ranks, too."""

import os
import socket
from pathlib import Path

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
CUT = {"hardware.parallel": "fsdp"}
FOUR = {"training.gradient_accumulation_steps": 1}  # so that 20 samples can be shared out


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 16), nn.LayerNorm(16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)
    )  # fmt: skip


def train(folder: str, given: dict, resume: str | None = None, dropout: float = 0.0) -> wellfit.Run:
    data = (X, Y), (X[:31], Y[:31])
    if resume is not None:
        return wellfit.fit(network(dropout), *data, loss="cross-entropy", resume=resume, quiet=True)
    settings = {**SETTINGS, **given}
    return wellfit.fit(network(dropout), *data, loss="cross-entropy", set=settings, folder=folder, quiet=True)


class Stopped(BaseException):
    """Ends a training from outside."""


def until(step: int):
    """An observer that ends the training behind a step, as a kill would."""

    def seen(event: object) -> None:
        if isinstance(event, Stepped) and event.step >= step:
            os._exit(9)

    return seen


def one_of(rank: int, ways: int, port: int, what, args: tuple) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(ways),
        "LOCAL_RANK": str(rank),
    }
    what(*args)


def ranks(ways: int, what, *args) -> None:
    """Runs `what(*args)` in so many ranks."""
    if ways == 1:
        what(*args)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(one_of, (ways, port, what, args), nprocs=ways)


def assert_equal(a: wellfit.Run, b: wellfit.Run, closeness: float = 1e-6) -> None:
    """Weights, losses, gradient norms and scores of two runs."""
    for name, value in a.best_weights().items():
        assert (value - b.best_weights()[name]).abs().max() <= closeness, name
    kinds = (Stepped, Evaluated)
    pairs = list(zip(*([e for e in run.events() if isinstance(e, kinds)] for run in (a, b)), strict=True))
    assert len(pairs) > 15
    for one, two in pairs:
        if isinstance(one, Stepped):
            assert one.loss == pytest.approx(two.loss, abs=closeness)
            assert one.grad_norm == pytest.approx(two.grad_norm, abs=closeness)
        else:
            assert one.metrics == pytest.approx(two.metrics, abs=closeness)


KINDS = [(2, {}), (4, FOUR), (2, CUT), (4, {**CUT, **FOUR}), (2, {**CUT, "optimizer.kind": "sgd"})]


@pytest.mark.filterwarnings("ignore")  # the ranks' own start-up is not ours
@pytest.mark.parametrize(("ways", "given"), KINDS, ids=["ddp-2", "ddp-4", "fsdp-2", "fsdp-4", "fsdp-sgd"])
def test_ranks_equal_one(tmp_path: Path, ways: int, given: dict) -> None:
    ranks(1, train, str(tmp_path / "one"), given)
    ranks(ways, train, str(tmp_path / "many"), given)
    one, many = wellfit.open(tmp_path / "one"), wellfit.open(tmp_path / "many")
    assert_equal(one, many)
    assert [e.world for e in many.events() if isinstance(e, Started)] == [ways]
