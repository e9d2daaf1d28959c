"""What is overheard of a hand-written loss: the targets, of which kind, and which of torch's losses it amounts to."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import wellfit
from wellfit.doctor.criterion import Criterion, Target


def heard(loss: Callable[[Tensor, Tensor], Tensor], target: Tensor, units: int) -> Target | None:
    torch.manual_seed(0)
    x = torch.randn(16, 5)
    out = nn.Linear(5, units)(x)
    criterion = Criterion()
    criterion.open(out, [x])
    value = loss(out, target)
    found = criterion.found(value)
    assert torch._C._len_torch_function_stack() == 0
    return found


def nll(out: Tensor, y: Tensor) -> Tensor:
    logs = out - torch.log(torch.exp(out).sum(dim=1, keepdim=True))
    return -logs[torch.arange(len(y)), y].mean()


def pinball(out: Tensor, y: Tensor) -> Tensor:
    error = y[:, None] - out
    return torch.max(0.9 * error, -0.1 * error).mean()


def contrastive(out: Tensor, same: Tensor) -> Tensor:
    distance = out.square().sum(dim=1)
    return (same * distance + (1 - same) * F.relu(1 - distance)).mean()


def reinforced(out: Tensor, actions: Tensor) -> Tensor:
    return -(out.log_softmax(dim=1).gather(1, actions[:, None])[:, 0] * REWARDS).mean()


REWARDS = torch.linspace(-1, 1, 16)
LABELS = torch.arange(16) % 3


@pytest.mark.parametrize(
    ("loss", "target", "units", "kind", "function"),
    [
        (nll, LABELS, 3, "classes", "cross_entropy"),
        (pinball, torch.linspace(-1, 1, 16), 2, "numbers", ""),
        (lambda out, y: ((out[:, 0] - y) ** 2).mean(), torch.linspace(-1, 1, 16), 1, "numbers", "mse_loss"),
        (contrastive, (LABELS > 0).float(), 4, "binary", ""),
    ],
)
def test_targets_are_heard(loss: Callable[..., Tensor], target: Tensor, units: int, kind: str, function: str) -> None:
    found = heard(loss, target, units)
    assert found is not None
    assert (found.kind, found.function) == (kind, function)
    assert torch.equal(found.target, target)


def test_actions_that_rewards_weigh_are_no_labels() -> None:
    assert heard(reinforced, LABELS, 3) is None


def test_inputs_and_what_is_drawn_are_no_targets() -> None:
    assert heard(lambda out, _: (out - torch.randn(16, 5)).abs().mean(), LABELS, 5) is None


def test_another_mode_is_left_alone() -> None:
    class Other(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    with Other():
        criterion = Criterion()
        criterion.open(torch.randn(4, 2, requires_grad=True), [])
        assert torch._C._len_torch_function_stack() == 1
    assert torch._C._len_torch_function_stack() == 0


def test_an_error_of_ours_is_not_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("ours")

    monkeypatch.setattr("wellfit.doctor.criterion._Listening._hear", broken)
    assert heard(nll, LABELS, 3) is None


def test_a_targets_logarithm_is_the_losss_fault() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 5)
    out = nn.Linear(5, 1)(x)
    criterion = Criterion()
    criterion.open(out, [x])
    loss = (out.abs().log() - torch.full((16, 1), -2.0).log()).square().mean()
    criterion.found(loss)
    assert torch.isnan(loss)
    assert criterion.spoiled() == "`log` of the targets, which are finite"


def test_a_watched_hand_written_loss_leaves_no_mode_behind() -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(16, 5)
    with wellfit.watch(model, optimizer, quiet=True) as doctor:
        for _ in range(8):
            optimizer.zero_grad()
            nll(model(x).sigmoid(), LABELS).backward()
            optimizer.step()
            assert torch._C._len_torch_function_stack() == 0
    del doctor
    assert torch._C._len_torch_function_stack() == 0
