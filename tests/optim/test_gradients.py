"""The flat gradient buffer holds what plain gradients hold, and steps as a plain loop steps."""

import copy

import pytest
import torch
from torch import nn

from wellfit.optim.gradients import Gradients


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


class WithMore(nn.Module):
    """A network and parts that its forward pass does not use."""

    def __init__(self, **parts: nn.Module):
        super().__init__()
        self.used = network()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(x)


def backward(model: nn.Module, seed: int, scale: float = 1.0) -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
    (model(x).square().sum() * scale).backward()


@pytest.mark.parametrize("max_norm", [None, 0.5, 1e6])
@pytest.mark.parametrize("max_value", [None, 0.1])
def test_equals_torchs_own_clipping(max_norm, max_value) -> None:
    ours, plain = network(), network()
    gradients = Gradients(ours)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (ours, plain)]
    for step in range(5):
        for micro in range(2):
            backward(ours, 10 * step + micro, 7.0)
            backward(plain, 10 * step + micro, 7.0)
        norm = gradients.clip(max_norm, max_value)
        expected = nn.utils.get_total_norm([p.grad for p in plain.parameters()])
        if max_value is not None:
            nn.utils.clip_grad_value_(plain.parameters(), max_value)
        if max_norm is not None:
            nn.utils.clip_grad_norm_(plain.parameters(), max_norm)
        torch.testing.assert_close(norm, expected)
        for optimizer in optimizers:
            optimizer.step()
        gradients.clear()
        optimizers[1].zero_grad()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert gradients.buffer is not None


def test_a_parameter_that_no_loss_reaches_is_left_alone() -> None:
    model = WithMore(unused=nn.Linear(2, 2))
    before = copy.deepcopy(model.unused.state_dict())
    gradients = Gradients(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for step in range(3):
        backward(model, step)
        gradients.clip(1.0)
        optimizer.step()
        gradients.clear()
    assert model.unused.weight.grad is None
    assert torch.equal(model.unused.weight, before["weight"])


def test_a_parameter_that_is_reached_late_is_taken_in() -> None:
    model = WithMore(late=nn.Linear(4, 1))
    gradients = Gradients(model)
    backward(model, 0)
    gradients.clip(1.0)
    gradients.clear()
    model.late(torch.ones(1, 4)).sum().backward()
    backward(model, 1)
    norm = gradients.clip(None)
    expected = nn.utils.get_total_norm([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(norm, expected)
    assert "late.weight" in gradients.reached
    gradients.clear()
    assert model.late.weight.grad is not None
    assert all(p.grad.abs().sum() == 0 for p in model.parameters())


def test_a_resume_lays_out_the_same_buffer() -> None:
    whole, resumed = network(), network()
    first = Gradients(whole)
    backward(whole, 0)
    first.clip(1.0)
    first.clear()
    second = Gradients(resumed)
    second.load_state_dict(first.state_dict())
    for model in (whole, resumed):
        backward(model, 1)
    assert torch.equal(first.clip(0.1), second.clip(0.1))
    assert torch.equal(first.buffer, second.buffer)


@pytest.mark.parametrize("kind", ["sparse", "mixed"])
def test_what_cannot_be_flat_falls_back(kind) -> None:
    torch.manual_seed(0)
    if kind == "sparse":
        model = nn.Sequential(nn.Embedding(10, 4, sparse=True))
        loss = lambda: model(torch.tensor([1, 2])).square().sum()  # noqa: E731
    else:
        model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2).double()])
        loss = lambda: model[0](torch.ones(1, 2)).sum().double() + model[1](torch.ones(1, 2).double()).sum()  # noqa: E731
    gradients = Gradients(model)
    for _ in range(2):
        loss().backward()
        if kind == "mixed":
            expected = nn.utils.get_total_norm([p.grad.clone() for p in model.parameters()])
            torch.testing.assert_close(gradients.clip(0.1), expected)
        gradients.clear()
        assert all(p.grad is None for p in model.parameters())
    assert gradients.buffer is None
