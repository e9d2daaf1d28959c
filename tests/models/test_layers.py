"""The small parts against their formulas."""

import numpy as np
import pytest
import torch
from torch import nn

from wellfit.models.layers import Standardize, head, initialize, norm


@pytest.mark.parametrize("shape", [(1000, 3), (600, 3, 5, 4)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_statistics_are_numpys_over_many_parts(shape, dtype) -> None:
    """More samples than are read at a time, and the last part smaller."""
    torch.manual_seed(0)
    x = (torch.rand(shape) * 200).to(dtype)
    over = (0, 2, 3) if len(shape) == 4 else (0,)
    wide, found = x.numpy().astype(np.float64), Standardize.of(x)
    np.testing.assert_allclose(found.mean.numpy(), wide.mean(over, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(found.std.numpy(), wide.std(over, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.0, 1e-9, 3e6])
def test_a_constant_column_is_only_centred(value) -> None:
    x = torch.full((700, 1), value)
    found = Standardize.of(x)
    assert found.std.item() == 1
    assert found(x).abs().max() == 0


def test_the_statistics_travel_with_the_weights() -> None:
    x = torch.randn(50, 4) * 3 + 2
    found, blank = Standardize.of(x), Standardize(torch.zeros(1, 4), torch.ones(1, 4))
    blank.load_state_dict(found.state_dict())
    assert torch.equal(blank(x), found(x))
    assert not list(found.parameters())


def test_integers_do_not_wrap_around() -> None:
    x = torch.tensor([[0], [255]], dtype=torch.uint8)
    assert Standardize.of(x)(x).flatten().tolist() == [-1, 1]


def test_norms_are_their_formulas() -> None:
    x = torch.randn(64, 5) * 3 + 2
    centred = (x - x.mean(1, keepdim=True)) / x.std(1, correction=0, keepdim=True)
    torch.testing.assert_close(norm("layer", 5)(x), centred, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(norm("rms", 5)(x), x / x.square().mean(1, keepdim=True).sqrt())
    columns = (x - x.mean(0)) / x.std(0, correction=0)
    torch.testing.assert_close(norm("batch", 5)(x), columns, rtol=1e-3, atol=1e-3)
    assert torch.equal(norm("none", 5)(x), x)


@pytest.mark.parametrize(("kind", "variance"), [("relu", 2 / 300), ("silu", 2 / 300), ("tanh", 2 / (300 + 500))])
def test_variance_of_initial_weights(kind, variance) -> None:
    """He et al. 2015, eq. 10; Glorot & Bengio 2010, eq. 16."""
    torch.manual_seed(0)
    layer = initialize(nn.Linear(300, 500), kind)
    assert layer.weight.var().item() == pytest.approx(variance, rel=0.02)
    assert layer.bias.abs().max() == 0


def test_a_convolutions_fan_in_counts_its_kernel() -> None:
    torch.manual_seed(0)
    layer = initialize(nn.Conv2d(40, 200, 3), "relu")
    assert layer.weight.var().item() == pytest.approx(2 / (40 * 9), rel=0.02)


def test_initial_weights_come_from_the_global_generator() -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(torch.cat([initialize(nn.Linear(4, 4), "relu").weight, head(4, 4).weight]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
