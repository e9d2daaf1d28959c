"""Backpropagation from scratch: an MLP in NumPy, every gradient derived by hand (Rumelhart, Hinton & Williams 1986).

The idea: the loss is a function of a function of a function, so its derivative is a product (the chain rule). Multiplied
from the loss backwards, every factor on the way is a vector, not a matrix, and what is computed for one layer is all that
the layer before needs. So the gradient of all weights costs about two forward passes, however many weights there are;
moving each weight a little and looking would cost one pass per weight.

This file is for reading and for checking others by: it agrees with torch's autograd to the last digits, in float64. It is
deliberately not a way to train (no other optimizer, no GPU); `mlp.py` is that.

`approximate` shows what a single hidden layer can be: with enough units, as close as one likes to any continuous curve
(Cybenko 1989; any activation that is not a polynomial will do, Leshno et al. 1993).

Letters: N samples, F inputs and K outputs of a layer, x inputs of the network, a of a layer, z before the activation f.

    >>> x_NF = np.random.default_rng(0).normal(size=(100, 2))
    >>> net = ScratchMLP(widths=(2, 16, 2))
    >>> losses = net.fit(x_NF, (x_NF[:, 0] * x_NF[:, 1] > 0).astype(int), epochs=20)
    >>> losses[-1] < losses[0]
    True
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wellfit.errors import ModelError

Array = npt.NDArray[np.float64]


# ---- activations f and their slopes f', both as functions of z


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), written by tanh, which does not overflow for large -z as exp does."""
    half: Array = 0.5 * (1.0 + np.tanh(0.5 * z))
    return half


def sigmoid_slope(z: Array) -> Array:
    """s' = s (1 - s), with s(-z) for 1 - s(z): the difference would lose all digits where s is near 1."""
    return sigmoid(z) * sigmoid(-z)


def silu_slope(z: Array) -> Array:
    """(z s)' = s + z s'."""
    return sigmoid(z) + z * sigmoid_slope(z)


@dataclass(frozen=True)
class Activation:
    f: Callable[[Array], Array]
    slope: Callable[[Array], Array]


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(lambda z: z, lambda z: np.ones_like(z)),  # no bend: any number of layers is one
    "relu": Activation(
        lambda z: np.maximum(z, 0.0), lambda z: (z > 0).astype(z.dtype)
    ),  # 0 has no slope; 0, as in torch
    "tanh": Activation(lambda z: np.tanh(z), lambda z: 1.0 - np.tanh(z) ** 2),
    "sigmoid": Activation(sigmoid, sigmoid_slope),
    "silu": Activation(lambda z: z * sigmoid(z), silu_slope),
}


# ---- losses: the mean over the batch, and its derivative by the network's outputs z


def cross_entropy(z_NK: Array, target_N: npt.NDArray[Any]) -> tuple[float, Array]:
    """Mean of -log softmax(z)[target], in nats, and dL/dz [N, K].

    With p = softmax(z) and L_n = -log p_t = -z_t + log sum_k exp z_k:

        dL_n/dz_k = -[k = t] + exp z_k / sum_j exp z_j = p_k - [k = t]

    and the mean over the batch divides by N.
    """
    N = len(z_NK)
    shifted = z_NK - z_NK.max(axis=1, keepdims=True)  # softmax does not change, and exp cannot overflow
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = -log_p[np.arange(N), target_N].mean()
    delta = np.exp(log_p)
    delta[np.arange(N), target_N] -= 1.0
    return float(loss), delta / N


def mean_squared_error(z_NK: Array, target_NK: npt.NDArray[Any]) -> tuple[float, Array]:
    """Mean of (z - target)^2 over all N K numbers, and dL/dz = 2 (z - target) / (N K)."""
    error = z_NK - target_NK
    return float((error**2).mean()), 2.0 * error / error.size


LOSSES: dict[str, Callable[[Array, npt.NDArray[Any]], tuple[float, Array]]] = {
    "cross-entropy": cross_entropy,
    "mse": mean_squared_error,
}


# ---- the network


@dataclass
class Linear:
    """z = a W^T + b, with a [N, F], W [K, F], b [K], z [N, K]: laid out as in torch."""

    W_KF: Array
    b_K: Array


class ScratchMLP:
    """Linear layers with an activation between them, a loss, and their gradients. All numbers are float64.

    `widths` are the inputs, the hidden layers and the outputs; `activation` one of `ACTIVATIONS`; `loss` one of `LOSSES`:
    "cross-entropy" for class ids [N], "mse" for numbers [N, K]. Weights are normal with variance 2 / fan_in for relu and
    silu (He et al. 2015) and 1 / fan_in else (LeCun et al. 1998b), biases zero, by `seed`.
    Raises ModelError for fewer than two widths, widths below 1, and unknown names.
    """

    def __init__(
        self,
        *,
        widths: Sequence[int] = (64, 32, 10),
        activation: str = "tanh",
        loss: str = "cross-entropy",
        seed: int = 0,
    ):
        if len(widths) < 2 or min(widths) < 1:
            raise ModelError(
                f"`widths` is {list(widths)}; it must be two or more numbers of at least 1. Give inputs, hidden layers, outputs."
            )
        if activation not in ACTIVATIONS:
            raise ModelError(
                f"`activation` is {activation!r}; it can be {', '.join(ACTIVATIONS)}. Choose one of those."
            )
        if loss not in LOSSES:
            raise ModelError(f"`loss` is {loss!r}; it can be {', '.join(LOSSES)}. Choose one of those.")
        self.widths = tuple(widths)
        self.activation = ACTIVATIONS[activation]
        self.loss = loss
        generator = np.random.default_rng(seed)
        gain = 2.0 if activation in ("relu", "silu") else 1.0
        self.layers = [
            Linear(generator.normal(0.0, math.sqrt(gain / F), size=(K, F)), np.zeros(K))
            for F, K in itertools.pairwise(widths)
        ]

    def forward(self, x_NF: Array) -> Array:
        """[N, F] -> [N, K]: logits or numbers."""
        return self._trace(np.asarray(x_NF, dtype=np.float64))[1][-1]

    def _trace(self, x_NF: Array) -> tuple[list[Array], list[Array]]:
        """What enters each layer (a), and what leaves it before the activation (z)."""
        if x_NF.ndim != 2 or x_NF.shape[1] != self.widths[0]:
            raise ModelError(
                f"The inputs have the shape {list(x_NF.shape)}; it must be [N, {self.widths[0]}], as `widths` begins with "
                f"{self.widths[0]}. Flatten the samples, or change `widths`."
            )
        a, entered, left = x_NF, [], []
        for position, layer in enumerate(self.layers):
            z = a @ layer.W_KF.T + layer.b_K
            entered.append(a)
            left.append(z)
            if position < len(self.layers) - 1:  # the last layer's z are the outputs
                a = self.activation.f(z)
        return entered, left

    def gradients(self, x_NF: Array, target: npt.NDArray[Any]) -> tuple[float, list[Linear]]:
        """The loss and its gradients, one `Linear` a layer, first layer first.

        Raises ModelError for inputs or targets that do not fit `widths` and the loss.
        """
        x_NF = np.asarray(x_NF, dtype=np.float64)
        target = self._checked(np.asarray(target), len(x_NF))
        entered, left = self._trace(x_NF)

        # Last layer: delta = dL/dz, from the loss.
        loss, delta_NK = LOSSES[self.loss](left[-1], target)

        found: list[Linear] = []
        for position in reversed(range(len(self.layers))):
            a_NF, W_KF = entered[position], self.layers[position].W_KF

            # z_nk = sum_f a_nf W_kf + b_k. So dz_nk/dW_kf = a_nf, and summed over all z that W_kf acts on:
            #     dL/dW_kf = sum_n dL/dz_nk a_nf,   that is   dL/dW = delta^T a
            # and dz_nk/db_k = 1:
            #     dL/db_k = sum_n dL/dz_nk
            found.append(Linear(delta_NK.T @ a_NF, delta_NK.sum(axis=0)))

            if position > 0:
                # dz_nk/da_nf = W_kf, and a_nf acts on all z_nk of its sample:
                #     dL/da_nf = sum_k dL/dz_nk W_kf,   that is   dL/da = delta W
                # One layer down, a = f(z) number by number, so
                #     dL/dz = dL/da f'(z)
                # which is the delta of that layer.
                delta_NK = (delta_NK @ W_KF) * self.activation.slope(left[position - 1])
        return loss, found[::-1]

    def _checked(self, target: npt.NDArray[Any], N: int) -> npt.NDArray[Any]:
        """The targets, if they fit the loss."""
        K = self.widths[-1]
        if self.loss == "mse":
            if target.shape != (N, K):  # [N] would broadcast against [N, 1] to [N, N] without a word
                raise ModelError(
                    f"The targets have the shape {list(target.shape)}; mse needs [{N}, {K}]. Reshape them."
                )
            return target
        if target.shape != (N,) or not np.issubdtype(target.dtype, np.integer):
            raise ModelError(
                f"The targets are {target.dtype} of shape {list(target.shape)}; cross-entropy needs class ids, integers of "
                f"shape [{N}]. Convert them, or use the loss mse."
            )
        if N and (target.min() < 0 or target.max() >= K):
            raise ModelError(
                f"The targets go from {target.min()} to {target.max()}; with {K} outputs they must be within 0 to {K - 1}. "
                "Renumber the classes, or widen the last layer."
            )
        return target

    def step(self, x_NF: Array, target: npt.NDArray[Any], learning_rate: float = 0.1) -> float:
        """One step of gradient descent, w <- w - learning_rate dL/dw; the loss before it."""
        loss, gradients = self.gradients(x_NF, target)
        for layer, gradient in zip(self.layers, gradients, strict=True):
            layer.W_KF -= learning_rate * gradient.W_KF
            layer.b_K -= learning_rate * gradient.b_K
        return loss

    def fit(
        self,
        x_NF: Array,
        target: npt.NDArray[Any],
        *,
        epochs: int = 10,
        batch_size: int = 32,
        learning_rate: float = 0.1,
        seed: int = 0,
    ) -> list[float]:
        """Plain SGD, the samples in a new order each epoch, by `seed`. The mean loss of each epoch's steps."""
        if min(epochs, batch_size) < 1 or learning_rate <= 0 or len(x_NF) < 1:
            raise ModelError(
                f"`epochs` is {epochs}, `batch_size` {batch_size}, `learning_rate` {learning_rate}, and there are {len(x_NF)} "
                "samples; all must be above 0."
            )
        x_NF, target = np.asarray(x_NF, dtype=np.float64), np.asarray(target)
        generator = np.random.default_rng(seed)
        losses = []
        for _ in range(epochs):
            order = generator.permutation(len(x_NF))
            batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
            losses.append(float(np.mean([self.step(x_NF[batch], target[batch], learning_rate) for batch in batches])))
        return losses


# ---- universal approximation


def approximate(
    curve: Callable[[Array], Array],
    *,
    widths: Sequence[int] = (1, 2, 4, 8, 16, 32, 64),
    low: float = -1.0,
    high: float = 1.0,
    activation: str = "tanh",
    points: int = 200,
    seed: int = 0,
) -> dict[int, float]:
    """For each width, the root mean squared error of a 1-hidden-layer network on `curve` between `low` and `high`.

    `curve` takes and returns [points]. The theorem says that good weights exist, not that descent finds them, so they are
    constructed: hidden units bend at random places with random steepness, the same first K units for every width, and the
    output layer is solved by least squares (its loss is a parabola in those weights). The error is measured midway between
    the fitted points, where nothing was fitted.
    Raises ModelError for widths or points below 1, an empty interval, or an unknown activation.
    """
    if len(widths) == 0 or min(widths) < 1 or points < 1 or not low < high:
        raise ModelError(
            f"`widths` is {list(widths)}, `points` {points}, and the interval goes from {low} to {high}; widths and points must "
            "be at least 1, and `low` below `high`."
        )
    if activation not in ACTIVATIONS:
        raise ModelError(f"`activation` is {activation!r}; it can be {', '.join(ACTIVATIONS)}. Choose one of those.")
    generator = np.random.default_rng(seed)
    units = max(widths)
    # w (u - c) with u in [-1, 1]: unit k bends at c_k, which lies anywhere on the interval.
    w_K = generator.choice([-1.0, 1.0], units) * generator.uniform(1.0, 10.0, units)
    c_K = generator.uniform(-1.0, 1.0, units)

    def hidden(x: Array) -> Array:
        u = 2.0 * (x - low) / (high - low) - 1.0
        return ACTIVATIONS[activation].f(w_K * (u[:, None] - c_K))

    def with_bias(a: Array) -> Array:
        return np.concatenate([a, np.ones((len(a), 1))], axis=1)

    x = np.linspace(low, high, points + 1)
    between = (x[:-1] + x[1:]) / 2.0
    errors = {}
    for K in widths:
        solved, *_ = np.linalg.lstsq(with_bias(hidden(x)[:, :K]), curve(x), rcond=None)
        missed = with_bias(hidden(between)[:, :K]) @ solved - curve(between)
        errors[K] = float(np.sqrt(np.mean(missed**2)))
    return errors
