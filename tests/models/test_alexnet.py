"""AlexNet: torchvision's on the same weights, the paper's own counts and formula, and sizes that scale."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from wellfit.errors import ModelError
from wellfit.models.alexnet import alexnet, stage, stem

SMALL = dict(channels=(4, 6, 8, 6, 6), hidden=16)


def test_equals_torchvisions_on_the_same_weights() -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    ours = alexnet(shape=(3, 224, 224), outputs=1000, hidden=4096).eval()
    with torch.device("meta"):  # its 61 million weights are ours, not copies
        theirs = torchvision.models.alexnet(weights=None).eval()
    state = dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True))
    theirs.load_state_dict(state, assign=True)
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        a, b = ours(x), theirs(x)
    assert b.std() > 0.01
    assert (a - b).abs().max() < 1e-5


def test_convolutions_are_the_papers() -> None:
    """Weights of the paper's five convolutions without its division into two groups, which halved those of 2, 4 and 5."""
    with torch.device("meta"):
        model = alexnet(shape=(3, 224, 224), outputs=1000, channels=(96, 256, 384, 384, 256), hidden=4096)
    kernels = [layer.weight.shape for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert [tuple(shape) for shape in kernels] == [
        (96, 3, 11, 11), (256, 96, 5, 5), (384, 256, 3, 3), (384, 384, 3, 3), (256, 384, 3, 3),
    ]  # fmt: skip
    grouped = sum(p.numel() for p in model.parameters()) - sum(kernels[i].numel() for i in (1, 3, 4)) // 2
    assert grouped == 60_965_224  # "60 million parameters"


@pytest.mark.parametrize("size", [(15, 15), (28, 28), (32, 32), (47, 64), (64, 64), (130, 150)])
def test_sizes_scale(size) -> None:
    model = alexnet(shape=(1, *size), outputs=5, **SMALL)
    assert model(torch.randn(2, 1, *size)).shape == (2, 5)


@pytest.mark.parametrize("side", [32, 64])
def test_small_images_keep_places_for_three_pools(side) -> None:
    model = alexnet(shape=(3, side, side), **SMALL)
    assert model.features(torch.zeros(1, 3, side, side)).shape[2:] == (3, 3)
    assert model.features.stage1[0](torch.zeros(1, 3, side, side)).shape[2:] == (32, 32)
    assert stem(side) != stem(224)


def test_response_norm_is_the_papers_formula() -> None:
    damp = stage(nn.Conv2d(1, 1, 1), norm=True, pool=False)[2].double()
    a = torch.rand(2, 7, 3, 3, dtype=torch.float64) * 100
    expected = torch.stack(
        [a[:, i] / (2 + 1e-4 * a[:, max(0, i - 2) : i + 3].square().sum(1)) ** 0.75 for i in range(7)], dim=1
    )
    torch.testing.assert_close(damp(a), expected, rtol=1e-12, atol=0)
    with_it, without = (alexnet(response_norm=on, **SMALL) for on in (True, False))
    assert sum(isinstance(layer, nn.LocalResponseNorm) for layer in with_it.modules()) == 2  # sections 3.3 and 3.5
    assert not any(isinstance(layer, nn.LocalResponseNorm) for layer in without.modules())


def test_dropout_is_for_training_alone() -> None:
    torch.manual_seed(0)
    model = alexnet(**SMALL)
    x = torch.randn(4, 3, 32, 32)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_learns_real_digits() -> None:
    torch.manual_seed(0)
    found = load_digits()
    x, y = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(found.target)
    x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)  # 16 x 16 pixels
    order = torch.randperm(len(x))
    train, test = order[:1400], order[1400:]
    model = alexnet(shape=(1, 16, 16), channels=(16, 32, 32, 32, 32), hidden=64, dropout=0.2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(4):
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    model.eval()
    assert (model(x[test]).argmax(1) == y[test]).float().mean() > 0.8  # chance is 0.1


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (dict(shape=(3, 14, 32)), r"at least 15 x 15.*LeNet"),
        (dict(shape=(32, 32)), "channels, height, width"),
        (dict(channels=(1, 2, 3)), "five numbers"),
        (dict(outputs=0), "`outputs` is 0"),
        (dict(hidden=0), "`hidden` 0"),
        (dict(dropout=1.0), "below 1"),
    ],
)
def test_errors_say_what_is_allowed(wrong, says) -> None:
    with pytest.raises(ModelError, match=says):
        alexnet(**wrong)
