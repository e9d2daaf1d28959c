"""LeNet-5: the paper's map sizes and weights, a reference that shares no code with torch's convolution, real digits."""

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from sklearn.datasets import load_digits
from torch import nn

from wellfit.errors import ModelError
from wellfit.models.lenet import lenet


def weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_maps_and_weights_are_the_papers() -> None:
    model = lenet()
    shapes = {}
    x = torch.zeros(1, 1, 28, 28)
    for name, layer in model.features.named_children():
        x = layer(x)
        shapes[name] = tuple(x.shape[1:])
    assert [shapes[name] for name in ("c1", "s2", "c3", "s4", "c5", "f6")] == [
        (6, 28, 28), (6, 14, 14), (16, 10, 10), (16, 5, 5), (120,), (84,),
    ]  # fmt: skip
    counts = {name: weights(layer) for name, layer in model.features.named_children()}
    # Section II.B counts 156 weights in C1, 48,120 in C5 and 10,164 in F6; C3 is fully joined here: 16 (6 x 25 + 1).
    assert (counts["c1"], counts["c3"], counts["c5"], counts["f6"]) == (156, 2416, 48_120, 10_164)
    assert weights(model) == 61_706


def test_agrees_with_correlations_by_scipy() -> None:
    """Convolve, bend, pool, multiply, all in NumPy and SciPy on copied weights."""
    torch.manual_seed(0)
    model = lenet(shape=(2, 13, 16), outputs=3, activation="tanh", pool="average").double()
    w = {name: value.numpy() for name, value in model.state_dict().items()}
    x = np.random.default_rng(0).normal(size=(2, 13, 16))

    def convolve(a, name, padding):
        a = np.pad(a, ((0, 0), (padding, padding), (padding, padding)))
        kernels, biases = w[f"features.{name}.weight"], w[f"features.{name}.bias"]
        return np.stack([
            sum(correlate2d(a[c], kernel[c], mode="valid") for c in range(len(a))) + bias
            for kernel, bias in zip(kernels, biases, strict=True)
        ])  # fmt: skip

    def pool(a):
        C, H, W = a.shape
        return a[:, : H // 2 * 2, : W // 2 * 2].reshape(C, H // 2, 2, W // 2, 2).mean((2, 4))

    a = pool(np.tanh(convolve(x, "c1", 2)))
    a = pool(np.tanh(convolve(a, "c3", 0))).ravel()
    for name in ("c5", "f6"):
        a = np.tanh(w[f"features.{name}.weight"] @ a + w[f"features.{name}.bias"])
    theirs = w["head.weight"] @ a + w["head.bias"]
    ours = model(torch.from_numpy(x)[None])[0].detach().numpy()
    assert np.abs(theirs).max() > 1e-3
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("size", [(4, 4), (5, 9), (8, 8), (11, 40), (12, 12), (13, 27), (32, 32), (64, 48)])
def test_sizes_adapt(size) -> None:
    model = lenet(shape=(3, *size), outputs=7)
    assert model(torch.randn(2, 3, *size)).shape == (2, 7)


def test_learns_real_digits() -> None:
    torch.manual_seed(0)
    found = load_digits()
    x, y = torch.tensor(found.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(found.target)
    order = torch.randperm(len(x))
    train, test = order[:1400], order[1400:]
    model = lenet(shape=(1, 8, 8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(4):
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    assert (model(x[test]).argmax(1) == y[test]).float().mean() > 0.85


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (dict(shape=(1, 3, 28)), r"`shape` is \[1, 3, 28\].*at least 4 x 4"),
        (dict(shape=(28, 28)), r"channels, height, width"),
        (dict(outputs=0), "`outputs` is 0"),
        (dict(activation="bend"), "`activation` is 'bend'; it can be relu"),
        (dict(pool="sum"), "`pool` is 'sum'; it can be max, average"),
    ],
)
def test_errors_say_what_is_allowed(wrong, says) -> None:
    with pytest.raises(ModelError, match=says):
        lenet(**wrong)
