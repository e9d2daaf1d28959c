"""Backpropagation by hand equals autograd to the last digits; a wider layer comes closer to a curve."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from wellfit.errors import ModelError
from wellfit.models.scratch import ACTIVATIONS, ScratchMLP, approximate

THEIRS = {
    "identity": nn.Identity(), "relu": nn.ReLU(), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid(), "silu": nn.SiLU(),
}  # fmt: skip


def twin(net: ScratchMLP, activation: str) -> nn.Sequential:
    """The same network in torch, in float64, on copies of its weights."""
    layers: list[nn.Module] = []
    for layer in net.layers:
        linear = nn.Linear(layer.W_KF.shape[1], layer.W_KF.shape[0], dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(layer.W_KF))
            linear.bias.copy_(torch.from_numpy(layer.b_K))
        layers += [linear, THEIRS[activation]]
    return nn.Sequential(*layers[:-1])


def apart(ours: np.ndarray, theirs: torch.Tensor) -> float:
    """The largest difference, relative to the largest number."""
    expected = theirs.detach().numpy()
    return float(np.abs(ours - expected).max() / np.abs(expected).max())


def example(loss: str) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    x = 2 * generator.normal(size=(17, 6))
    return x, generator.integers(0, 4, 17) if loss == "cross-entropy" else generator.normal(size=(17, 4))


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("loss", ["cross-entropy", "mse"])
@pytest.mark.parametrize("hidden", [(), (9,), (9, 8, 7, 6)])
def test_gradients_equal_autograd(activation, loss, hidden) -> None:
    net = ScratchMLP(widths=(6, *hidden, 4), activation=activation, loss=loss, seed=2)
    generator = np.random.default_rng(3)
    for layer in net.layers:
        layer.b_K += generator.normal(size=layer.b_K.shape)
    x, target = example(loss)
    model = twin(net, activation)
    measure = nn.functional.cross_entropy if loss == "cross-entropy" else nn.functional.mse_loss
    expected = measure(model(torch.from_numpy(x)), torch.from_numpy(target))
    expected.backward()
    found, gradients = net.gradients(x, target)
    assert abs(found - expected.item()) / expected.item() < 1e-13
    assert apart(net.forward(x), model(torch.from_numpy(x))) < 1e-13
    linears = [layer for layer in model if isinstance(layer, nn.Linear)]
    for gradient, linear in zip(gradients, linears, strict=True):
        assert linear.weight.grad.abs().max() > 1e-4
        assert apart(gradient.W_KF, linear.weight.grad) < 1e-12
        assert apart(gradient.b_K, linear.bias.grad) < 1e-12


def test_a_run_of_sgd_equals_torchs() -> None:
    net = ScratchMLP(widths=(6, 9, 4), seed=2)
    x, target = example("cross-entropy")
    model = twin(net, "tanh")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(target)).backward()
        optimizer.step()
        net.step(x, target, learning_rate=0.1)
    assert apart(net.layers[0].W_KF, model[0].weight) < 1e-12


def test_large_numbers_do_not_overflow() -> None:
    """np.exp warns where it overflows, and warnings are errors."""
    for activation in ACTIVATIONS:
        net = ScratchMLP(widths=(2, 3, 2), activation=activation)
        loss, gradients = net.gradients(np.full((2, 2), 1e5) * [[1], [-1]], np.array([0, 1]))
        assert np.isfinite(loss)
        assert all(np.isfinite(gradient.W_KF).all() for gradient in gradients)


def test_learns_real_digits_by_plain_sgd() -> None:
    found = load_digits()
    x, y = found.data / 8 - 1, found.target
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:1400], order[1400:]
    net = ScratchMLP(widths=(64, 32, 10), activation="relu")
    losses = net.fit(x[train], y[train], epochs=10, learning_rate=0.1)
    assert losses[-1] < losses[0] / 5
    assert (net.forward(x[test]).argmax(1) == y[test]).mean() > 0.93
    again = ScratchMLP(widths=(64, 32, 10), activation="relu")
    assert again.fit(x[train], y[train], epochs=10, learning_rate=0.1) == losses


def wave(x: np.ndarray) -> np.ndarray:
    return np.sin(3 * np.pi * x) + 0.5 * x


@pytest.mark.parametrize(("activation", "bound"), [("tanh", 1e-4), ("sigmoid", 1e-4), ("silu", 1e-4), ("relu", 0.05)])
def test_a_wider_layer_comes_closer(activation, bound) -> None:
    for curve in (wave, np.abs):
        errors = list(approximate(curve, activation=activation).values())
        # At the fitted points it can only fall, as the units are nested; between them, at most by a hair not.
        assert all(after < 1.01 * before for before, after in itertools.pairwise(errors))
        assert errors[-1] < errors[0] / 20
    assert approximate(wave, activation=activation)[64] < bound


def test_without_a_bend_width_is_no_use() -> None:
    errors = approximate(wave, activation="identity")
    assert max(errors.values()) - min(errors.values()) < 1e-6
    assert errors[64] > 0.5


def test_the_interval_is_only_a_scale() -> None:
    ours = approximate(lambda x: wave((x - 3) / 100), low=-97, high=103, widths=(8, 16))
    for K, error in approximate(wave, widths=(8, 16)).items():
        assert abs(ours[K] - error) < 1e-6


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: ScratchMLP(widths=(3,)), "two or more"),
        (lambda: ScratchMLP(widths=(3, 0)), "at least 1"),
        (lambda: ScratchMLP(activation="gelu"), "`activation` is 'gelu'; it can be identity"),
        (lambda: ScratchMLP(loss="hinge"), "`loss` is 'hinge'; it can be cross-entropy, mse"),
        (lambda: ScratchMLP().forward(np.zeros((2, 3))), r"\[N, 64\]"),
        (lambda: ScratchMLP().gradients(np.zeros((2, 64)), np.zeros(2)), "class ids"),
        (lambda: ScratchMLP().gradients(np.zeros((2, 64)), np.array([0, 10])), "0 to 10.*within 0 to 9"),
        (lambda: ScratchMLP(loss="mse").gradients(np.zeros((2, 64)), np.zeros(2)), r"mse needs \[2, 10\]"),
        (lambda: ScratchMLP().fit(np.zeros((2, 64)), np.zeros(2, int), epochs=0), "`epochs` is 0"),
        (lambda: approximate(wave, widths=()), "widths"),
        (lambda: approximate(wave, low=1.0), "`low` below `high`"),
        (lambda: approximate(wave, activation="step"), "`activation` is 'step'"),
    ],
)
def test_errors_say_what_is_allowed(call, says) -> None:
    with pytest.raises(ModelError, match=says):
        call()
