"""The trace: its numbers are those of a step taken by hand, and it leaves everything as it was."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import wellfit
from wellfit.doctor.trace import size_of
from wellfit.errors import ModelError


def convnet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)
    )


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(10, 1, 8, 8, generator=generator), torch.randint(3, (10,), generator=generator)


def test_the_numbers_are_those_of_a_step_by_hand() -> None:
    x, y = batch()
    model, own = convnet().eval(), convnet().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    told = wellfit.trace(model, (x, y), "cross-entropy", optimizer=optimizer)
    loss = F.cross_entropy(own(x), y)
    loss.backward()
    assert told.loss_before == pytest.approx(float(loss.detach()), rel=1e-6)
    head = told.layers[-1]
    gradient = torch.cat([own[4].weight.grad.flatten(), own[4].bias.grad])
    weights = torch.cat([own[4].weight.flatten(), own[4].bias])
    assert head.outputs == (10, 3)
    assert head.parameters == 64 * 3 + 3
    assert head.grad_norm == pytest.approx(float(gradient.norm()), rel=1e-5)
    assert head.weight_norm == pytest.approx(float(weights.detach().norm()), rel=1e-5)
    assert head.update_norm == pytest.approx(0.1 * float(gradient.norm()), rel=1e-3)
    torch.optim.SGD(own.parameters(), lr=0.1).step()
    assert told.loss_after == pytest.approx(float(F.cross_entropy(own(x), y).detach()), rel=1e-5)


def test_nothing_is_changed() -> None:
    model = convnet()
    optimizer = torch.optim.Adam(model.parameters())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    wellfit.trace(model, batch(), "cross-entropy", optimizer=optimizer)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not optimizer.state
    assert torch.equal(state, torch.get_rng_state())
    assert not model[0]._forward_hooks


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 5, stride=2, padding=2), nn.Conv2d(1, 2, 3, dilation=3), nn.MaxPool2d(3, 2),
        nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(3, padding=1), nn.Conv2d(1, 2, 3, padding="valid"),
    ],
)  # fmt: skip
def test_the_size_that_is_written_out_is_the_size_that_comes_out(module: nn.Module) -> None:
    made = module(torch.zeros(1, 1, 13, 13))
    written = size_of(module, (1, 1, 13, 13)).removesuffix(" rounded")
    assert written.endswith(f"= {made.shape[-1]}")


def test_parameters_that_no_module_runs_are_listed() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.unused = nn.Parameter(torch.ones(4)), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    told = wellfit.trace(Bare(), (torch.randn(5, 4), torch.randn(5, 4)), "mse")
    assert [layer.parameters for layer in told.layers] == [4, 4, 2]
    assert told.layers[0].grad_norm > 0
    assert told.layers[1].grad_norm == 0
    json.dumps(told.as_dict(), allow_nan=False)


def test_a_batch_that_does_not_fit() -> None:
    with pytest.raises(ModelError, match=r"\[10, 2, 8, 8\]"):
        wellfit.trace(convnet(), (torch.randn(10, 2, 8, 8), batch()[1]), "cross-entropy")


def test_a_recipe_and_its_tables() -> None:
    told = wellfit.trace_recipe("digits")
    assert "(8 + 2·1 - 1·(3 - 1) - 1)/1 + 1 = 8" in told.shapes()
    assert "loss" in str(told).splitlines()[-1]
    assert all(layer.update_norm > 0 for layer in told.layers if layer.parameters)
