"""One picture of several ways to train: training loss and held-out score over the steps, the mean of the seeds in a band.

What is drawn is read from the folders of the runs that a comparison names; a step at which a loss is not finite ends its curve
with a cross.

    >>> beside(comparison, "Before and after").savefig("cure.png")
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from wellfit.errors import ModelError
from wellfit.events import Evaluated, Stepped
from wellfit.report.comparison import Arm, Comparison
from wellfit.report.pictures import COLOURS, figure
from wellfit.report.words import SPLITS, plain
from wellfit.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POINTS = 200  # of a curve, each the mean of the steps around it
DECADES = 1.5  # of losses, beyond which the axis is logarithmic
WIDE = 46  # letters of a legend's line
Curve = list[tuple[int, float]]


def beside(comparison: Comparison, title: str, under: str = "") -> Figure:
    """The picture. `under`: a sentence or two below the title. Raises ModelError if no run is over yet."""
    drawn = [
        (arm, colour) for arm, colour in zip(comparison.arms, _colours(comparison.arms), strict=True) if arm.folders
    ]
    if not drawn:
        raise ModelError("No run of this comparison is over yet, so there is nothing to draw.")
    fig = figure(10.4, 4.8)
    losses, scores = fig.subplots(1, 2)
    metric, share = comparison.metric, comparison.is_share
    values: list[float] = []
    for arm, colour in drawn:
        label = textwrap.fill(arm.about, WIDE)
        runs = [Run(Path(folder)).events() for folder in arm.folders.values()]
        trained = [_smooth([(e.step, e.loss) for e in events if isinstance(e, Stepped)]) for events in runs]
        held = [
            [
                (e.step, e.metrics[metric] * (100 if share else 1))
                for e in events
                if isinstance(e, Evaluated) and e.split == "valid" and metric in e.metrics
            ]
            for events in runs
        ]
        values += _draw(losses, trained, colour, label)
        _draw(scores, held, colour, label, dots=True)
    positive = [value for value in values if value > 0]
    if positive and math.log10(max(positive) / min(positive)) > DECADES:
        losses.set_yscale("log")
    losses.set_title("training loss", loc="left", fontsize=10)
    how = f"{'higher' if comparison.better == 'max' else 'lower'} is better"
    scores.set_title(f"{SPLITS['valid']} {plain(metric)}{', %' if share else ''} ({how})", loc="left", fontsize=10)
    for axes in (losses, scores):
        axes.set_xlabel("optimizer steps")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    spread = (
        f"mean of {len(comparison.seeds)} seeds, band from lowest to highest"
        if len(comparison.seeds) > 1
        else "one seed"
    )
    fig.suptitle(title, x=0.01, ha="left", fontsize=14)
    below = textwrap.fill(f"{under} ({spread})" if under else spread, 150)
    handles, labels = losses.get_legend_handles_labels()
    legend = fig.legend(
        handles, labels, loc="outside lower left", ncols=min(3, len(drawn)), frameon=False, fontsize=9,
        title=below, title_fontsize=9, alignment="left",
    )  # fmt: skip
    legend.get_title().set_color("0.35")
    return fig


def _colours(arms: Sequence[Arm]) -> list[str]:
    """The first arm, with which the others are compared, is grey."""
    return ["0.45", *(COLOURS[i % len(COLOURS)] for i in range(len(arms) - 1))]


def _smooth(curve: Curve) -> Curve:
    """At most `POINTS` of it, each the mean of as many steps."""
    size = max(1, math.ceil(len(curve) / POINTS))
    parts = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [(part[-1][0], fmean(value for _, value in part)) for part in parts]


def _draw(axes: Any, curves: Sequence[Curve], colour: str, label: str, dots: bool = False) -> list[float]:
    """Mean and band over the steps that all curves have; returns the finite values."""
    finite = [[(step, value) for step, value in curve if math.isfinite(value)] for curve in curves]
    steps = sorted({step for curve in finite for step, _ in curve})
    at: dict[int, list[float]] = {step: [] for step in steps}
    for curve in finite:
        for step, value in curve:
            at[step].append(value)
    if not steps:
        axes.plot([], [], color=colour, label=label)
        return []
    means = [fmean(at[step]) for step in steps]
    axes.fill_between(
        steps, [min(at[s]) for s in steps], [max(at[s]) for s in steps], color=colour, alpha=0.18, linewidth=0
    )
    few = dots and len(steps) <= 40
    axes.plot(steps, means, "o-" if few else "-", color=colour, label=label, linewidth=1.8, markersize=3)
    for curve, whole in zip(finite, curves, strict=True):
        if curve and len(curve) < len(whole):
            last = next((a for a, b in pairwise(whole) if not math.isfinite(b[1])), curve[-1])
            axes.plot([last[0]], [last[1]], "x", color=colour, markersize=9, markeredgewidth=2.4, zorder=3)
    return [value for values in at.values() for value in values]
