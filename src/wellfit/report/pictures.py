"""Pictures that explain: what attention looks at, how gradients vanish through time and depth, what a layer can fit.

Each function makes a matplotlib figure from numbers that are computed here and now; nothing is drawn from memory.
`wellfit draw NAME` writes one to a file.

    >>> vanishing().savefig("vanishing.png")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wellfit.errors import MissingExtra, ModelError
from wellfit.models.deep import deep, gradient_norms
from wellfit.models.recurrent import GRUCell, LSTMCell, RNNCell, through_time
from wellfit.models.scratch import approximate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_MAPS = 32
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)  # told apart by all eyes (Okabe & Ito 2008)


def figure(width: float, height: float) -> Figure:
    """An empty one, in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("matplotlib", "pictures", "Drawing a picture") from None
    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def attention(maps: Mapping[str, Tensor], symbols: Sequence[str]) -> Figure:
    """One square a layer and head, each with its own scale: row t says where token t looks. `maps`: name -> [B, H, T, T], of which the first text is drawn.

    Raises ModelError if there is nothing to draw or more than can be read.
    """
    if not maps:
        raise ModelError("This model has no attention that could be drawn: it is no Transformer of wellfit's.")
    heads = next(iter(maps.values())).shape[1]
    if len(maps) * heads > MOST_MAPS:
        maps = dict(list(maps.items())[: max(1, MOST_MAPS // heads)])
    fig = figure(2.6 * heads + 1, 2.6 * len(maps) + 0.6)
    grid: Any = fig.subplots(len(maps), heads, squeeze=False)
    for layer, (row, weights) in enumerate(zip(grid, maps.values(), strict=True), start=1):
        for h, axes in enumerate(row):
            shown = weights[0, h].float().numpy()
            axes.imshow(shown, cmap="Blues", vmin=0, vmax=max(float(shown.max()), 1e-9))
            axes.set_title(f"layer {layer}, head {h + 1}: up to {shown.max():.2f}", fontsize=8)
            few = len(symbols) <= 24
            axes.set_xticks(range(len(symbols)) if few else [], symbols if few else [], rotation=90, fontsize=7)
            axes.set_yticks(range(len(symbols)) if few else [], symbols if few else [], fontsize=7)
    fig.suptitle("Where each token (row) looks (column)")
    return fig


def vanishing(T: int = 40, units: int = 32, seed: int = 0) -> Figure:
    """How much the last state of four recurrent cells depends on each input before it, on a logarithmic scale."""
    torch.manual_seed(seed)
    cells: dict[str, Any] = {
        "RNN": RNNCell(8, units),
        "LSTM, forget bias 0": LSTMCell(8, units, forget_bias=0.0),
        "LSTM, forget bias 1": LSTMCell(8, units, forget_bias=1.0),
        "GRU": GRUCell(8, units),
    }
    fig = figure(7, 4.2)
    axes = fig.subplots()
    for (name, cell), colour in zip(cells.items(), COLOURS, strict=False):
        axes.semilogy(range(T - 1, -1, -1), through_time(cell, T, seed=seed).inputs_T.numpy(), color=colour, label=name)
    axes.set_xlabel("steps back in time")
    axes.set_ylabel("how much the last state depends on that input")
    axes.set_title("Gradients vanish through time, and gates keep them")
    axes.grid(alpha=0.3)
    axes.legend()
    return fig


def depth(layers: int = 30, steps: int = 150, seed: int = 0) -> Figure:
    """The same deep network with and without residual connections and normalisation, trained on real digits."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x, y = torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target)
    fig = figure(10, 4.2)
    curves, slopes = fig.subplots(1, 2)
    ways = {
        "plain": (False, "none"),
        "with batch norm": (False, "batch"),
        "with residual connections": (True, "none"),
        "with both": (True, "batch"),
    }
    for (name, (residual, norm)), colour in zip(ways.items(), COLOURS, strict=False):
        torch.manual_seed(seed)
        model = deep(depth=layers, residual=residual, norm=norm)
        norms = gradient_norms(model, x[:256], y[:256])
        slopes.semilogy(range(1, len(norms) + 1), np.maximum(norms, 1e-20), color=colour, label=name)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        losses = []
        for _ in range(steps):
            chosen = torch.randint(0, len(x), (128,))
            loss = F.cross_entropy(model(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        curves.plot(np.convolve(losses, np.ones(5) / 5, mode="valid"), color=colour, label=name)
    curves.set_xlabel("step")
    curves.set_ylabel("training loss")
    curves.set_title(f"{layers} layers on handwritten digits")
    slopes.set_xlabel("layer, from the input")
    slopes.set_ylabel("gradient norm before the first step")
    slopes.set_title("What arrives of the gradient")
    slopes.legend(loc="lower right")
    for axes in (curves, slopes):
        axes.grid(alpha=0.3)
    return fig


def approximation(seed: int = 0) -> Figure:
    """How closely one hidden layer of growing width follows a curve, for several activations."""
    fig = figure(7, 4.2)
    axes = fig.subplots()
    for activation, colour in zip(("tanh", "sigmoid", "relu", "identity"), COLOURS, strict=False):
        errors = approximate(lambda x: np.sin(6 * x) + x**2, activation=activation, seed=seed)
        axes.loglog(list(errors), list(errors.values()), "o-", color=colour, label=activation, markersize=4)
    axes.set_xlabel("hidden units")
    axes.set_ylabel("root mean squared error")
    axes.set_title("One hidden layer comes as close as one likes to sin 6x + x², if it bends")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return fig


PICTURES: dict[str, Callable[..., Any]] = {"vanishing": vanishing, "depth": depth, "approximation": approximation}
