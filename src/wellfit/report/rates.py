"""A search for a learning rate, in numbers, words and a picture. `trials/find_lr.py` measures and fills this in; nothing trains here.

>>> print(found)
>>> found.draw("rates.png")
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from wellfit.report.files import check_ending, write_figure
from wellfit.report.words import count, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEAR = 3.0  # a factor within which two rates train nearly alike


@dataclass(frozen=True)
class Swept:
    """The range test at one rate: the smoothed training loss, mean and 90 % band over the seeds."""

    rate: float
    loss: float
    low: float
    high: float


@dataclass(frozen=True)
class Rate:
    """Short trainings at one rate. `losses`: seed -> final loss; infinite where it was not finite on the way."""

    rate: float
    losses: Mapping[int, float]

    @property
    def mean(self) -> float:
        return fmean(self.losses.values()) if self.losses else math.nan

    @property
    def broke(self) -> int:
        return sum(not math.isfinite(loss) for loss in self.losses.values())


@dataclass(frozen=True)
class RateSearch:
    """What was measured, what follows from it, and what it cost. `str` is the table and the words."""

    name: str
    optimizer: str
    steps: int  # of the whole training
    short: int  # steps of a short training
    scored: str  # which loss of theirs is told: "validation", or "training" where nothing is held out
    seeds: tuple[int, ...]
    present: float  # the rate that stands there without measuring
    points: tuple[Rate, ...]  # rising in rate; those that decided nothing have fewer seeds
    sweep: tuple[Swept, ...]
    suggestion: float | None
    reason: str  # why this rate, or why none
    interval: tuple[float, float] | None  # around the suggestion: 90 % over the seeds, wider where a neighbour broke
    begins: float  # the training loss before the first step
    taken: int  # optimizer steps in all

    @property
    def cost(self) -> float:
        """In whole trainings, counted in optimizer steps."""
        return self.taken / self.steps

    @property
    def spent(self) -> str:
        """What the search cost, as a sentence."""
        return f"Measuring took {self.taken:,} steps, as many as {self.cost:.1f} whole trainings of {self.steps:,}."

    @property
    def says(self) -> list[str]:
        """What follows from it, a sentence or two each."""
        told = [self.reason]
        if self.suggestion is not None:
            if self.interval is not None:
                low, high = self.interval
                told.append(
                    f"It lies between {rounded(low)} and {rounded(high)} (90 % interval over {count(len(self.seeds), 'seed')})."
                )
            ratio = self.suggestion / self.present
            far = f"{max(ratio, 1 / ratio):.2g} times {'lower' if ratio > 1 else 'higher'} than suggested"
            near = "near what is suggested: within a factor of three"
            told.append(
                f"The current rate, {rounded(self.present)}, is {far if max(ratio, 1 / ratio) > NEAR else near}."
            )
        return [*told, self.spent]

    def table(self) -> list[tuple[str, ...]]:
        """Rows of cells, the head first."""
        rows: list[tuple[str, ...]] = [
            ("learning rate", f"{self.scored} loss after {self.short:,} steps", "lowest to highest", "seeds")
        ]
        for point in self.points:
            finite = [loss for loss in point.losses.values() if math.isfinite(loss)]
            if point.broke:
                cells = ("not finite", f"{point.broke} of {len(point.losses)} broke")
            else:
                cells = (
                    number(point.mean),
                    f"{number(min(finite))} to {number(max(finite))}" if len(finite) > 1 else "",
                )
            rows.append((rounded(point.rate), *cells, str(len(point.losses))))
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Plain data; a loss that was not finite is null."""
        return {
            "name": self.name, "optimizer": self.optimizer, "steps": self.steps, "short_steps": self.short, "scored": self.scored,
            "seeds": list(self.seeds), "present": self.present, "suggestion": self.suggestion, "reason": self.reason,
            "interval": list(self.interval) if self.interval else None, "loss_at_start": _plain(self.begins),
            "steps_taken": self.taken, "whole_trainings": self.cost,
            "points": [
                {"rate": point.rate, "mean": _plain(point.mean), "losses": {str(seed): _plain(loss) for seed, loss in point.losses.items()}}
                for point in self.points
            ],
            "sweep": [{"rate": at.rate, "loss": at.loss, "low": at.low, "high": at.high} for at in self.sweep],
            "says": self.says,
        }  # fmt: skip

    def __str__(self) -> str:
        rows = self.table()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([*lines, "", *self.says])

    def _repr_html_(self) -> str:
        from wellfit.report.notebook import html

        return html(self)

    def draw(self, path: str | Path) -> Path:
        """Writes the picture, a .png, .svg or .pdf, and returns where. Raises MissingExtra without matplotlib, RecipeError for
        another ending, RunError where it cannot be written.
        """
        place = Path(path)
        check_ending(place)
        return write_figure(drawing(self), place)


def rounded(rate: float) -> str:
    """A rate to two digits."""
    return f"{rate:.2g}"


def drawing(found: RateSearch) -> Figure:
    """The range test with its band, the short trainings with each seed as a dot, and the suggestion; both axes share the rates.

    Raises MissingExtra without matplotlib.
    """
    from wellfit.report.pictures import COLOURS, figure

    fig = figure(7.4, 4.8)
    axes = fig.subplots()
    if found.sweep:
        rates = [at.rate for at in found.sweep]
        axes.fill_between(
            rates, [at.low for at in found.sweep], [at.high for at in found.sweep], color="0.5", alpha=0.2, linewidth=0
        )
        axes.plot(
            rates,
            [at.loss for at in found.sweep],
            color="0.45",
            linewidth=1.3,
            label="range test: training loss, one step at each rate, 90 % band",
        )
    sound = [point for point in found.points if not point.broke]
    for point in sound:
        axes.scatter(
            [point.rate] * len(point.losses),
            list(point.losses.values()),
            color=COLOURS[0],
            s=14,
            alpha=0.55,
            linewidth=0,
            zorder=3,
        )
    axes.plot(
        [p.rate for p in sound], [p.mean for p in sound], "o-", color=COLOURS[0], markersize=5, linewidth=1.8,
        label=f"short trainings of {found.short:,} steps: final {found.scored} loss",
    )  # fmt: skip
    for i, point in enumerate(point for point in found.points if point.broke):
        axes.axvline(
            point.rate, color="0.3", linestyle=(0, (1, 3)), linewidth=1, label="not finite" if i == 0 else None
        )
    if found.suggestion is not None:
        axes.axvline(
            found.suggestion, color=COLOURS[1], linewidth=1.6, label=f"suggestion: {rounded(found.suggestion)}"
        )
        if found.interval is not None:
            axes.axvspan(*found.interval, color=COLOURS[1], alpha=0.12, linewidth=0)
    axes.axvline(
        found.present,
        color="0.3",
        linestyle=(0, (5, 4)),
        linewidth=1,
        label=f"the current rate: {rounded(found.present)}",
    )
    axes.set_xscale("log")
    losses = [loss for point in sound for loss in point.losses.values()] + [at.loss for at in found.sweep]
    if losses and min(losses) > 0 and max(losses) > 5 * min(losses):
        axes.set_yscale("log")
    axes.set_xlabel("learning rate (logarithmic)")
    axes.set_ylabel("loss")
    fig.suptitle(f"Which learning rate: {found.name}", x=0.01, ha="left", fontsize=14)
    axes.set_title(
        f"{found.optimizer}, {count(len(found.seeds), 'seed')}; a whole training has {found.steps:,} steps", loc="left", fontsize=9, color="0.35"
    )  # fmt: skip
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    fig.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    return fig


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
