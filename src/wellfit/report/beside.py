"""One picture of several ways to train: training loss and held-out score over the steps, the mean of the seeds in a band.

What is drawn are the numbers of `bands.py`. A seed that ended before the others of its arm has a ring there, or a cross where the loss
stopped being a finite number, and the mean goes on over the others.

    >>> beside(comparison, "Before and after").savefig("cure.png")
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wellfit.errors import RunError
from wellfit.report.bands import Band, band, curves, width
from wellfit.report.comparison import Arm, Comparison
from wellfit.report.pictures import COLOURS, figure
from wellfit.report.words import SPLITS, count, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT, ROW = 9.6, 4.2, 0.2  # inches; of the picture without what is written below, and of a row of that
FEW = 40  # so few points are marked
DECADES = 1.5  # of losses, beyond which the axis is logarithmic
FAR = 1e3  # times the losses at the start; what is beyond leaves the picture, or what converges would be one flat line
WIDE = 46  # letters of a legend's line
LINE = 120  # letters of a line over the whole picture
STYLES = ("-", (0, (5, 2)), (0, (1, 1.2)))  # for the second and third time around the colours
MARKS: dict[str, dict[str, Any]] = {
    "ended": dict(marker="o", markersize=6, markeredgewidth=1.5, markerfacecolor="white", linestyle="", zorder=3),
    "broke": dict(marker="x", markersize=9, markeredgewidth=2.4, linestyle="", zorder=3),
}
SAYS = {"ended": "a seed ended early", "broke": "the loss stopped being finite"}
MARKERS = "oD^vPX"  # beside those of the first arm


def beside(comparison: Comparison, title: str, under: str = "") -> Figure:
    """The picture. `under`: a sentence or two below it.

    Raises RunError if no run is over yet, and MissingExtra without matplotlib.
    """
    ways = [(arm, look) for arm, look in zip(comparison.arms, _looks(len(comparison.arms)), strict=True) if arm.folders]
    if not ways:
        raise RunError("No run of this comparison is over yet, so there is nothing to draw.")
    arms = [arm for arm, _ in ways]
    fig = figure(WIDTH, HEIGHT)
    losses, scores = fig.subplots(1, 2, sharex=True)
    told: dict[Any, list[Band]] = {losses: [], scores: []}
    sizes = []
    for arm in arms:
        trained, held = curves(arm, comparison, 100 if comparison.is_share else 1)
        sizes.append(width(trained))
        told[losses].append(band(trained, sizes[-1]))
        told[scores].append(band(held))
    how = "higher" if comparison.better == "max" else "lower"
    words = {
        losses: ("training loss", "Training: lower is better"),
        scores: (f"{SPLITS['valid']} {plain(comparison.metric)}", f"Held-out samples: {how} is better"),
    }
    for axes, bands in told.items():
        share = axes is scores and comparison.is_share
        top = _scaled(axes, bands) if axes is losses or (comparison.better == "min" and not share) else math.inf
        for one, (_, look) in zip(bands, ways, strict=True):
            _draw(axes, one, look, top, dots=axes is scores)
        label, head = words[axes]
        if not any(one.steps for one in bands):
            axes.text(0.5, 0.5, f"no {label} was recorded that is finite", ha="center", transform=axes.transAxes)
            axes.set_yticks([])
        axes.set_ylabel(f"{label}{', %' if share else ' (logarithmic)' if axes.get_yscale() == 'log' else ''}")
        axes.set_title(head, loc="left", fontsize=10)
        axes.set_xlabel("optimizer steps")
        axes.set_xlim(left=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    fig.suptitle(textwrap.fill(_plainly(title), LINE // 2), x=0.01, ha="left", fontsize=14)
    handles = [losses.plot([], [], label=_label(arm, arms), **look)[0] for arm, look in ways]
    for name, mark in MARKS.items():
        if any(getattr(one, name) for bands in told.values() for one in bands):
            handles += losses.plot([], [], color="0.25", label=SAYS[name], **mark)
    _legend(fig, handles, ". ".join(part for part in (under.strip().rstrip("."), _spread(arms, sizes)) if part))
    return fig


# ---- looks and words


def _looks(arms: int) -> list[dict[str, Any]]:
    """The first arm, with which the others are compared, is grey and broad, so that it is seen below them. They differ in colour
    and marks, then also in their strokes.
    """
    looks = [dict(color="0.45", linestyle="-", marker="s", linewidth=2.8, markersize=4)]
    for i in range(arms - 1):
        turn, place = divmod(i, len(COLOURS))
        stroke = STYLES[turn % len(STYLES)]
        looks.append(dict(color=COLOURS[place], linestyle=stroke, marker=MARKERS[place], linewidth=1.8, markersize=4))
    return looks


def _reach(bands: Sequence[Band]) -> tuple[bool, float, float] | None:
    """Whether the axis is logarithmic, and its lowest and highest value; None where nothing is drawn.

    It is logarithmic where values lie far apart and none is below 0, and ends where they are far above the start.
    """
    values = [value for one in bands for value in (*one.low, *one.high)]
    positive = [value for value in values if value > 0]
    if not values:
        return None
    start, highest = max(one.mean[0] for one in bands if one.mean), max(values)
    top = min(highest, FAR * start) if start > 0 else highest
    if min(values) < 0 or not positive or top <= min(positive) * 10**DECADES:
        return False, min(values), top
    return True, min(positive), top


def _scaled(axes: Any, bands: Sequence[Band]) -> float:
    """Chooses what the upright axis shows. Returns the value at which marks of what lies higher are set."""
    reach = _reach(bands)
    if reach is None:
        return math.inf
    logarithmic, low, top = reach
    if logarithmic:
        axes.set_yscale("log")
        room = (top / low) ** 0.05
        axes.set_ylim(low / room, top * room)
    else:
        room = 0.05 * (top - low) or 0.05
        axes.set_ylim(low - room, top + room)
    return top


def _draw(axes: Any, one: Band, look: dict[str, Any], top: float, dots: bool) -> None:
    """Band, mean and marks, which stay in the picture."""
    colour = look["color"]
    axes.fill_between(one.steps, one.low, one.high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(one.steps, one.mean, **(look if dots and len(one.steps) <= FEW else {**look, "marker": ""}))
    for name, mark in MARKS.items():
        if points := getattr(one, name):
            steps, values = zip(*points, strict=True)
            axes.plot(steps, [min(value, top) for value in values], color=colour, **mark)


def _legend(fig: Figure, handles: Sequence[Any], below: str) -> None:
    """Below the curves, in as many columns as there is room for; the picture grows with it."""
    labels = [str(handle.get_label()) for handle in handles]
    columns = min(len(handles), max(1, LINE // (10 + max(len(line) for label in labels for line in label.split("\n")))))
    below = textwrap.fill(_plainly(below), LINE)
    rows = math.ceil(sum(label.count("\n") + 1 for label in labels) / columns)
    fig.set_size_inches(WIDTH, HEIGHT + ROW * (rows + below.count("\n") + 1))
    legend = fig.legend(
        handles=handles, loc="outside lower left", ncols=columns, frameon=False, fontsize=9.5, title=below, title_fontsize=9.5,
        alignment="left",
    )  # fmt: skip
    legend.get_title().set_color("0.3")


def _spread(arms: Sequence[Arm], sizes: Sequence[int]) -> str:
    """What a line and its band are, over how many seeds and steps."""
    seeds = {len(arm.folders) for arm in arms}
    several = f"{max(seeds)} seeds" if len(seeds) == 1 else "the seeds"
    told = "One seed" if seeds == {1} else f"Mean of {several}, band from lowest to highest"
    least, most = min(sizes), max(sizes)
    if most > 1:
        told += f"; each point of a loss is the mean of {most if least == most else f'{least} to {most}'} steps"
    return told


def _label(arm: Arm, arms: Sequence[Arm]) -> str:
    """What an arm changes, its seeds where the arms have different ones, and those that failed."""
    text = re.sub(r",(?=[a-z_]+(?:\.\w+)*=)", ", ", arm.about)  # it may be cut where another assignment begins
    seeds = count(len(arm.folders), "seed")
    if arm.failed:
        text += f" ({len(arm.failed)} of {seeds} not finite)"
    elif len({len(other.folders) for other in arms}) > 1:
        text += f" ({seeds})"
    return textwrap.fill(_plainly(text), WIDE, break_on_hyphens=False)


def _plainly(text: str) -> str:
    """A dollar would begin a formula."""
    return text.replace("$", r"\$")
