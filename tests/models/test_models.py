"""The reference networks: shapes, sizes, scales, and what their files claim."""

import math

import pytest
import torch
from torch import nn

from wellfit.errors import ModelError
from wellfit.models import build
from wellfit.models.convnet import Quarters, output_size
from wellfit.models.keras import adopted
from wellfit.models.layers import ACTIVATIONS, NORMS, Standardize, Unstandardize, initialize
from wellfit.recipe import MLP, ConvNet, GivenModel


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_mlp(kind, norm) -> None:
    model = build(MLP(widths=(7, 5), activation=kind, norm=norm), (6,), 3)
    assert model(torch.randn(4, 6)).shape == (4, 3)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (1, 4, 4), (2, 9, 13), (3, 64, 64)])
def test_convnet(shape) -> None:
    model = build(ConvNet(channels=(4, 6, 8)), shape, 10)
    assert model(torch.randn(2, *shape)).shape == (2, 10)
    assert len(model.blocks) == 3


def test_parameter_counts_follow_the_formulas() -> None:
    assert sum(p.numel() for p in build(MLP(widths=(128,)), (64,), 10).parameters()) == 64 * 128 + 128 + 128 * 10 + 10
    convolutions = 9 * (1 * 4 + 4 * 4)
    assert (
        sum(p.numel() for p in build(ConvNet(channels=(4,)), (1, 8, 8), 3).parameters())
        == convolutions + 2 * 2 * 4 + 16 * 3 + 3
    )


def test_an_mlp_does_not_matter_the_image_shape_and_a_convnet_refuses_tables() -> None:
    assert build(MLP(), (1, 8, 8), 2)(torch.zeros(3, 1, 8, 8)).shape == (3, 2)
    with pytest.raises(ModelError, match=r"model\.kind=mlp"):
        build(ConvNet(), (6,), 2)
    with pytest.raises(ModelError, match="given"):
        build(GivenModel(), (6,), 2)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation"),
    [(28, 3, 1, 1, 1), (7, 3, 2, 0, 1), (32, 5, 3, 2, 2), (9, 2, 2, 0, 1)],
)
def test_output_size_is_torchs(size, kernel, stride, padding, dilation) -> None:
    layer = nn.Conv2d(1, 1, kernel, stride, padding, dilation)
    assert layer(torch.zeros(1, 1, size, size)).shape[-1] == output_size(size, kernel, stride, padding, dilation)


@pytest.mark.parametrize("shape", [(50, 3), (50, 2, 4, 4)])
def test_standardize(shape) -> None:
    x = torch.randint(0, 255, shape, dtype=torch.uint8)
    x[:, 0] = 7  # constant
    z = Standardize.of(x)(x)
    over = (0, 2, 3) if len(shape) == 4 else (0,)
    assert z.mean(over).abs().max() < 1e-5
    assert (z.std(over, correction=0)[1:] - 1).abs().max() < 1e-5
    assert z[:, 0].abs().max() == 0


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 7, 5), (1, 2, 1, 1), (1, 1, 2, 3)])
def test_quarters_are_torchs_adaptive_pool(shape) -> None:
    x = torch.randn(shape)
    torch.testing.assert_close(Quarters()(x), nn.AdaptiveAvgPool2d(2)(x))


def test_standardize_keeps_far_off_columns() -> None:
    tiny = 1e-12 * torch.arange(10.0)[:, None]
    assert (Standardize.of(tiny)(tiny).std(0, correction=0) - 1).abs().max() < 1e-3
    x = 1e6 + torch.arange(10.0)[:, None]
    assert (Standardize.of(x)(x).std(0, correction=0) - 1).abs().max() < 1e-3
    assert torch.equal(Unstandardize(torch.tensor(2.0), torch.tensor(3.0))(torch.ones(2)), torch.full((2,), 5.0))


@pytest.mark.parametrize("kind", ["relu", "tanh"])
def test_initialisation_keeps_the_scale_through_depth(kind) -> None:
    """Twenty layers: torch's own default would shrink ReLU activations by a factor of twenty and more."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(256, 256), ACTIVATIONS[kind]()) for _ in range(20)]
    x = torch.randn(64, 256)
    default = nn.Sequential(*layers)(x).std()
    ours = initialize(nn.Sequential(*layers), kind)(x).std()
    assert 0.1 < ours < 3
    if kind == "relu":
        assert default < ours / 20


def test_an_untrained_network_prefers_no_class() -> None:
    torch.manual_seed(0)
    for settings, shape in ((MLP(), (20,)), (ConvNet(), (1, 8, 8))):
        model = build(settings, shape, 10)
        loss = nn.functional.cross_entropy(model(torch.randn(200, *shape)), torch.randint(0, 10, (200,)))
        assert loss.item() == pytest.approx(math.log(10), rel=0.1)


def test_not_a_module() -> None:
    with pytest.raises(ModelError, match=r"nn\.Module"):
        adopted(lambda x: x)
