"""Pictures that explain: what attention looks at, how gradients vanish through time and depth, what a layer can fit, what labels
are worth.

Each function makes a matplotlib figure from numbers that are computed here and now; nothing is drawn from memory.
`wellfit draw NAME` writes one to a file.

    >>> vanishing().savefig("vanishing.png")
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from wellfit.errors import MissingExtra, ModelError, RunError
from wellfit.models.deep import deep, gradient_norms
from wellfit.models.recurrent import GRUCell, LSTMCell, RNNCell, through_time
from wellfit.models.scratch import approximate
from wellfit.report.labels import SCRATCH, LearningCurve
from wellfit.report.words import SPLITS, count, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_MAPS = 32
FEW_SYMBOLS = 24  # that are written beside a map
WRITTEN_OUT = 8  # tokens up to which each share is written
INVISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}
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


def attention(
    maps: Mapping[str, Tensor],
    symbols: Sequence[str],
    columns: Sequence[str] | None = None,
    title: str = "Where each token (row) looks (column)",
) -> Figure:
    """A picture a layer and head, each with its own scale. `maps`: name -> [B, H, T, S], of which the first text is drawn.

    Row t says where token t of `symbols` looks among `columns`, which are the same ones if they are not given. Few shares are
    written out, many have a bar of colours. A title says at how many tokens a head looks: e to the entropy of a row's shares,
    in the mean over rows (1: at one alone; S: at all alike).

    Raises ModelError if there is nothing to draw.
    """
    if not maps:
        raise ModelError("This model has no attention that could be drawn: it is no Transformer of wellfit's.")
    rows, columns = [_visible(one) for one in symbols], [_visible(one) for one in columns or symbols]
    heads, layers = next(iter(maps.values())).shape[1], len(maps)
    if layers * heads > MOST_MAPS:
        maps = dict(list(maps.items())[: max(1, MOST_MAPS // heads)])
        title += f"; the first {len(maps)} of {layers} layers"
    few, across = len(rows) <= FEW_SYMBOLS, len(columns) <= FEW_SYMBOLS
    width, height = (
        max(2.8, 0.2 * min(len(ours), FEW_SYMBOLS)) + 0.06 * min(max(map(len, beside)), 20) for ours, beside in ((columns, rows), (rows, columns))
    )  # fmt: skip
    fig = figure(width * heads + 1, height * len(maps) + 0.6)
    title = textwrap.fill(title, int(9 * (width * heads + 1)))
    grid: Any = fig.subplots(len(maps), heads, squeeze=False)
    for layer, (places, weights) in enumerate(zip(grid, maps.values(), strict=True), start=1):
        for h, axes in enumerate(places):
            shown = weights[0, h].detach().float().numpy()
            image = axes.imshow(shown, cmap="Blues", aspect="auto", vmin=0, vmax=max(float(shown.max()), 1e-9))
            axes.set_title(f"layer {layer}, head {h + 1}: at {_looked_at(shown):.1f} tokens on average", fontsize=8)
            axes.set_xticks(range(len(columns)) if across else [], columns if across else [], rotation=90, fontsize=7)
            axes.set_yticks(range(len(rows)) if few else [], rows if few else [], fontsize=7)
            if max(shown.shape) <= WRITTEN_OUT:
                for (t, s), share in np.ndenumerate(shown):
                    colour = "white" if share > 0.6 * shown.max() else "black"
                    axes.text(s, t, f"{share:.2f}", ha="center", va="center", fontsize=6, color=colour)
            else:
                fig.colorbar(image, ax=axes, shrink=0.8).ax.tick_params(labelsize=6)
    fig.suptitle(title)
    return fig


def _visible(symbol: str) -> str:
    """With signs for what would not be seen; a dollar would begin a formula."""
    for char, sign in INVISIBLE.items():
        symbol = symbol.replace(char, sign)
    return symbol.replace("$", r"\$")


def _looked_at(shares_TS: NDArray[np.float32]) -> float:
    """e to the entropy of each row, in the mean: among how many tokens a share is spread."""
    logs = np.log(shares_TS, where=shares_TS > 0, out=np.zeros_like(shares_TS))
    return float(np.exp(-(shares_TS * logs).sum(-1)).mean())


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
    axes.set_title("At initialisation: gradients vanish through time, and gates keep them")
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
    axes.set_xticks(list(errors), [str(width) for width in errors])
    axes.minorticks_off()
    axes.set_xlabel("hidden units")
    axes.set_ylabel("root mean squared error")
    axes.set_title("One hidden layer comes as close as one likes to sin 6x + x², if it bends")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return fig


def learning_curve(curve: LearningCurve) -> Figure:
    """The score against the number of training samples, on a logarithmic axis: the mean of the seeds, a band from the lowest to the
    highest, and each run as a dot. Beside a start from scratch, a dashed line is what it reaches with all samples.

    Raises RunError if no run has a score yet.
    """
    lines = [(line, [point for point in line.points if point.scores]) for line in curve.lines]
    if not any(points for _, points in lines):
        raise RunError(f"No run of the learning curve {curve.name} has a score yet, so there is nothing to draw.")
    fig = figure(7.4, 4.6)
    axes = fig.subplots()
    unit = 100 if curve.is_share else 1
    for (line, points), colour in zip(lines, COLOURS, strict=False):
        sizes = [point.size for point in points]
        lowest, highest, means = ([unit * getattr(p, end) for p in points] for end in ("lowest", "highest", "mean"))
        axes.fill_between(sizes, lowest, highest, color=colour, alpha=0.15, linewidth=0)
        dots = [(point.size, unit * score) for point in points for score in point.scores.values()]
        across, up = [size for size, _ in dots], [score for _, score in dots]
        axes.scatter(across, up, color=colour, s=14, alpha=0.55, linewidth=0, zorder=2.5)
        axes.plot(
            sizes, means, "o-", color=colour, markersize=5, linewidth=1.8, label=f"{line.about} ({line.length} each)"
        )
        if line.name == SCRATCH and points:
            label = f"from scratch with {sizes[-1]:,}"
            axes.axhline(means[-1], color=colour, linestyle=(0, (5, 4)), linewidth=1, zorder=1.5, label=label)
    sizes = sorted({point.size for _, points in lines for point in points})
    shown = [size for size, after in pairwise([*sizes, math.inf]) if after / size >= 1.2]  # no number over another
    axes.set_xscale("log")
    axes.set_xticks(shown, [f"{size:,}" for size in shown])
    axes.minorticks_off()
    if len(sizes) == 1:
        axes.set_xlim(sizes[0] / 2, sizes[0] * 2)
    axes.set_xlabel("labelled training samples (logarithmic)")
    axes.set_ylabel(f"{SPLITS.get(curve.split, curve.split)} {plain(curve.metric)}{', %' if curve.is_share else ''}")
    drawn = (
        f"the mean of {len(curve.seeds)} seeds, and from the lowest to the highest"
        if len(curve.seeds) > 1
        else "one seed"
    )
    failed = sum(len(point.failed) for line in curve.lines for point in line.points)
    drawn += f", without {count(failed, 'run')} that failed" if failed else ""
    where = SPLITS.get(curve.split, curve.split)
    fig.suptitle(f"What labels are worth: {curve.name}", x=0.01, ha="left", fontsize=14)
    axes.set_title(
        textwrap.fill(f"{drawn}; {count(curve.scored, f'{where} sample')}, the same for all", 100),
        loc="left",
        fontsize=9,
        color="0.35",
    )
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    fig.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return fig


PICTURES: dict[str, Callable[..., Any]] = {"vanishing": vanishing, "depth": depth, "approximation": approximation}
