"""The same thirty layers on real digits: plain they stand still; with residual connections and normalisation they learn."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from wellfit.errors import ModelError
from wellfit.models.deep import deep, gradient_norms

STEPS = 100
WAYS = {"plain": dict(), "residual and norm": dict(residual=True, norm="batch")}


def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """1,397 digits to learn and 400 to test, in an order of their own."""
    found = load_digits()
    order = torch.randperm(len(found.data), generator=torch.Generator().manual_seed(0))
    x, y = (torch.tensor(found.data, dtype=torch.float32) / 8 - 1)[order], torch.tensor(found.target)[order]
    return x[:1397], y[:1397], x[1397:], y[1397:]


def accuracy(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """On the test digits, after `STEPS` steps of 64."""
    x, y, test_x, test_y = digits()
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        batch = torch.randint(0, len(x), (64,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return (model(test_x).argmax(1) == test_y).float().mean().item()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_plain_one_does_not_learn_and_the_other_does(kind) -> None:
    found = {}
    for way, settings in WAYS.items():
        torch.manual_seed(0)
        model = deep(depth=30, **settings)
        optimizer = (
            torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            if kind == "sgd"
            else torch.optim.AdamW(model.parameters(), lr=1e-3)
        )
        found[way] = accuracy(model, optimizer)
    assert found["plain"] < 0.15  # one class of ten
    assert found["residual and norm"] > 0.8


def test_a_shallow_plain_one_learns() -> None:
    """So it is the depth."""
    torch.manual_seed(0)
    model = deep(depth=4)
    assert accuracy(model, torch.optim.AdamW(model.parameters(), lr=1e-3)) > 0.8


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradients_at_the_first_layer(seed) -> None:
    x, y, *_ = digits()
    ways = {**WAYS, "residual": dict(residual=True), "norm": dict(norm="batch")}
    norms = {}
    for way, settings in ways.items():
        torch.manual_seed(seed)
        norms[way] = gradient_norms(deep(depth=30, **settings), x[:256], y[:256])
        assert len(norms[way]) == 30
    first = {way: values[0] for way, values in norms.items()}
    assert first["plain"] < 1e-9
    assert first["residual and norm"] > 0.1
    assert first["residual"] > 1e-3
    # Among layers of one size, from the first block's to the last's:
    growth = {way: values[1] / values[-2] for way, values in norms.items()}
    assert growth["plain"] < 1e-5
    assert growth["norm"] > 20  # the other side: batch norm alone stretches the gradient layer by layer
    assert 0.05 < growth["residual and norm"] < 20


def test_gradient_norms_are_autograds_and_leave_grad_alone() -> None:
    x, y, *_ = digits()
    model = deep(depth=6, residual=True, norm="layer")
    found = gradient_norms(model, x[:32], y[:32])
    assert all(parameter.grad is None for parameter in model.parameters())
    nn.functional.cross_entropy(model(x[:32]), y[:32]).backward()
    linears = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    torch.testing.assert_close(torch.tensor(found), torch.stack([layer.weight.grad.norm() for layer in linears]))


def test_all_ways_have_the_same_linear_layers() -> None:
    states = []
    for residual in (False, True):
        for norm in ("none", "batch", "layer", "rms"):
            torch.manual_seed(0)
            model = deep(depth=8, width=16, residual=residual, norm=norm)
            states.append([layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)])
    assert len(states[0]) == 8
    for state in states[1:]:
        assert all(torch.equal(a, b) for a, b in zip(states[0], state, strict=True))


def test_a_residual_block_adds_to_its_input() -> None:
    plain, residual = (deep(depth=4, width=8, residual=on).blocks[0] for on in (False, True))
    residual.load_state_dict(plain.state_dict())
    x = torch.rand(5, 8)
    torch.testing.assert_close(residual(x), (x + plain.branch(x)).relu())
    torch.testing.assert_close(plain(x), plain.branch(x).relu())


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (dict(depth=7), "even and at least 4.*Try 8"),
        (dict(depth=2), "Try 4"),
        (dict(width=0), "`width` is 0"),
        (dict(norm="group"), "`norm` is 'group'; it can be none, batch, layer, rms"),
        (dict(activation="bend"), "`activation` is 'bend'"),
    ],
)
def test_errors_say_what_is_allowed(wrong, says) -> None:
    with pytest.raises(ModelError, match=says):
        deep(**wrong)
