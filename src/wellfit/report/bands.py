"""The curves of several seeds as one: their mean, and the band from the lowest to the highest.

What a picture (`beside.py`) and a page (`together.py`) show of a comparison.

    >>> band([[(1, 2.0), (2, 1.0)], [(1, 4.0), (2, 3.0)]]).mean
    (3.0, 2.0)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from wellfit.events import Ended, Evaluated, Stepped
from wellfit.report.comparison import Arm, Comparison
from wellfit.report.curves import LARGEST
from wellfit.run import Run

POINTS = 200  # of a curve, at most; each is the mean of the steps since the one before
Point = tuple[int, float]  # (step, value)
Curve = Sequence[Point]  # rising in step


@dataclass(frozen=True)
class Band:
    """The curves of one arm's seeds together. All four rows are equally long, one entry for each step that is drawn."""

    steps: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    ended: tuple[Point, ...] = ()  # where seeds ended that others of the arm outlived
    broke: tuple[Point, ...] = ()  # the last finite value of seeds that did not stay finite


def width(curves: Sequence[Curve], points: int = POINTS) -> int:
    """How many steps each point of these curves stands for, so that the longest has at most `points`."""
    return max(1, math.ceil(max((curve[-1][0] for curve in curves if curve), default=0) / points))


def band(curves: Sequence[Curve], size: int = 1) -> Band:
    """Mean, lowest and highest of several seeds, over one grid for all of them.

    A point at step t is, for each seed, the mean of its finite values at the steps t - `size` + 1 to t. It is drawn if all
    seeds have one that are trained to t or further, so the mean changes its seeds only where one of them ends. A curve whose last
    value is not finite ends at the last finite one before, in `broke`.
    """
    sound = [_sound(curve) for curve in curves]
    broke = [_end(ours, size) for ours, whole in zip(sound, curves, strict=True) if ours and len(ours) < len(whole)]
    lasts = [ours[-1][0] for ours in sound if ours]
    if not lasts:
        return Band()
    longest = max(lasts)
    at: dict[int, list[float]] = {}
    for ours in sound:
        parts: dict[int, list[float]] = {}
        for step, value in ours:
            parts.setdefault(min(math.ceil(step / size) * size, longest), []).append(value)
        for step, values in parts.items():
            if step <= ours[-1][0] and (kept := [value for value in values if _finite(value)]):
                at.setdefault(step, []).append(fmean(kept))
    steps = [step for step in sorted(at) if len(at[step]) == sum(last >= step for last in lasts)]
    ended = [
        _end(ours, size)
        for ours, whole in zip(sound, curves, strict=True)
        if ours and len(ours) == len(whole) and ours[-1][0] < longest
    ]
    return Band(
        tuple(steps),
        tuple(fmean(at[step]) for step in steps),
        tuple(min(at[step]) for step in steps),
        tuple(max(at[step]) for step in steps),
        tuple(ended),
        tuple(broke),
    )


def curves(arm: Arm, comparison: Comparison, unit: float = 1) -> tuple[list[Curve], list[Curve]]:
    """Of each seed: the training loss, and the validation score times `unit`."""
    metric = comparison.metric
    trained: list[Curve] = []
    held: list[Curve] = []
    for folder in arm.folders.values():
        events = Run(Path(folder)).events()
        over = next((event for event in reversed(events) if isinstance(event, Ended)), None)
        end = [(over.step, math.nan)] if over is not None and over.reason == "loss-not-finite" else []
        losses = [(event.step, event.loss) for event in events if isinstance(event, Stepped)]
        scores = [
            (event.step, event.metrics[metric] * unit)
            for event in events
            if isinstance(event, Evaluated)
            and event.split == "valid"
            and event.of == "model"
            and metric in event.metrics
        ]
        trained.append([*losses, *end])
        held.append([*scores, *end])
    return trained, held


# ---- inside


def _finite(value: float) -> bool:
    return math.isfinite(value) and abs(value) <= LARGEST


def _sound(curve: Curve) -> Curve:
    """Up to the last value that is finite."""
    return curve[: max((i for i, (_, value) in enumerate(curve, start=1) if _finite(value)), default=0)]


def _end(curve: Curve, size: int) -> Point:
    """The last step, and the mean of its last `size`."""
    last = curve[-1][0]
    return last, fmean(value for step, value in curve if step > last - size and _finite(value))
