"""Curves as inline SVG: a few polylines, honest axes, a description for those who cannot see them.

Deliberately not a plotting library: one kind of figure, values over optimizer steps, coloured by the page's style
sheet. A value that is not finite is a gap. Long curves are thinned so that each bucket of steps keeps its least and its
greatest value.

    >>> draw(Figure("Loss", (Line("training", [(1, 2.3), (2, 1.9)]),)), 720, 300, "loss")
    '<svg class="plot" viewBox="0 0 720 300" ...'
"""

import itertools
import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from wellfit.report.words import number, percent, superscript

Point = tuple[float, float]  # (step, value)

BUCKETS = 300  # finer than the lines are wide
FEW = 40  # so few measurements are drawn as dots, too
LARGEST = 1e300  # beyond it the arithmetic of the axes would overflow; drawn as a gap, as infinity is
SMALLEST = 1e-290  # the same at the other end
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 10, 34  # margins, in units of the view box


class Line(NamedTuple):
    """One curve. `look` is a class of the style sheet: main, accent, faint, or c1 to c8 where there are many."""

    label: str
    points: Sequence[Point]
    look: str = "main"
    band: Sequence[tuple[float, float, float]] = ()  # (step, lowest, highest) of those whose mean the points are


class Figure(NamedTuple):
    """What is drawn on common axes."""

    title: str
    lines: tuple[Line, ...]
    share: bool = False  # values are shares of 1, told in percent
    may_be_log: bool = False  # use a logarithmic axis if the values span more than two decades
    span: tuple[float, float] | None = None  # the first and last step of the axis, so that figures can be compared
    mark: tuple[int, str] | None = None  # a step to point out, and its name
    level: tuple[float, str] | None = (
        None  # a positive value to point out, and its name; left out where it is off the axis
    )


class Axis(NamedTuple):
    """Where values lie: `low` and `high` are exponents of ten if `log`."""

    low: float
    high: float
    log: bool
    ticks: list[tuple[float, str]]

    def at(self, value: float) -> float:
        """The value's place, 0 at the low end and 1 at the high end."""
        return ((math.log10(value) if self.log else value) - self.low) / (self.high - self.low)


def draw(figure: Figure, width: int, height: int, name: str) -> str:
    """The figure as one `<svg>`; `name` makes its ids unique on the page. Texts are escaped here."""
    shown = [point for line in figure.lines for point in (*line.points, *_edges(line)) if _drawable(point[1])]
    if not shown:
        return ""
    steps, values = [step for step, _ in shown], [value for _, value in shown]
    across = _linear(*(figure.span or (min(steps), max(steps))), whole=True, most=max(4, width // 70))
    up = _logarithmic(values) if figure.may_be_log and is_wide(values) else _upright(values, figure.share)
    right, floor = width - RIGHT, height - BOTTOM

    def x(step: float) -> float:
        return round(LEFT + across.at(step) * (right - LEFT), 1)

    def y(value: float) -> float:
        return round(floor - up.at(value) * (floor - TOP), 1)

    parts = [
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-title {name}-text">',
        f'<title id="{name}-title">{escape(figure.title)}</title>',
        f'<desc id="{name}-text">{escape(describe(figure))}</desc>',
    ]
    for value, text in up.ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):g}H{right}"/>')
        parts.append(_text(LEFT - 8, y(value) + 4, text, "end"))
    for step, text in across.ticks:
        parts.append(f'<path class="axis" d="M{x(step):g} {floor}v4"/>')
        parts.append(_text(x(step), floor + 17, text, "end" if x(step) > right - 15 else "middle"))
    parts.append(f'<path class="axis" d="M{LEFT} {floor}H{right}"/>')
    parts.append(_text(right, height - 3, "step", "end"))
    if figure.mark is not None and 0 <= across.at(figure.mark[0]) <= 1:
        at = x(figure.mark[0])
        marked = figure.mark[0]
        beside = min(figure.lines[-1].points, key=lambda point: abs(point[0] - marked), default=(0, math.nan))
        high = _drawable(beside[1]) and up.at(beside[1]) > 0.6  # the name stands where the curve is not
        side, anchor = (-5, "end") if at > width / 2 else (5, "start")
        parts.append(f'<path class="mark" d="M{at:g} {TOP}V{floor}"/>')
        parts.append(_text(at + side, floor - 7 if high else TOP + 9, figure.mark[1], anchor, "note"))
    if figure.level is not None and figure.level[0] > 0 and 0 <= up.at(figure.level[0]) <= 1:
        parts.append(f'<path class="mark" d="M{LEFT} {y(figure.level[0]):g}H{right}"/>')
        parts.append(_text(right, y(figure.level[0]) - 5, figure.level[1], "end", "note"))
    for line in figure.lines:
        if len(line.band) > 1:
            below, above = ([(x(step), y(value)) for step, value in side] for side in _sides(line))
            parts.append(f'<path class="band {line.look}" d="{_stroke([*below, *reversed(above)])}Z"/>')
        stretches = [[(x(step), y(value)) for step, value in stretch] for stretch in thin(line.points)]
        parts.append(f'<path class="line {line.look}" d="{"".join(map(_stroke, stretches))}"/>')
        if len(line.points) == 1 or (line.look == "accent" and len(line.points) <= FEW):
            parts += [
                f'<circle class="dot {line.look}" cx="{a:g}" cy="{b:g}" r="2.5"/>'
                for stretch in stretches
                for a, b in stretch
            ]
    return "".join([*parts, "</svg>"])


def scatter(points: Sequence[Point], width: int, height: int, name: str) -> str:
    """Outputs over targets as one `<svg>`, with the line on which they are equal."""
    shown = [point for point in points if _drawable(point[0]) and _drawable(point[1])]
    if not shown:
        return ""
    both = [value for point in shown for value in point]
    axis = _linear(min(both), max(both))
    right, floor = width - RIGHT, height - BOTTOM

    def x(value: float) -> float:
        return round(LEFT + axis.at(value) * (right - LEFT), 1)

    def y(value: float) -> float:
        return round(floor - axis.at(value) * (floor - TOP), 1)

    title = f"Outputs over targets of {len(shown):,} samples"
    parts = [
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-title">',
        f'<title id="{name}-title">{title}; on the line they are equal</title>',
    ]
    for value, text in axis.ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):g}H{right}"/>')
        parts.append(_text(LEFT - 8, y(value) + 4, text, "end"))
        parts.append(_text(x(value), floor + 17, text, "middle"))
    parts.append(f'<path class="mark" d="M{LEFT} {floor}L{right} {TOP}"/>')
    parts.append(_text(right, height - 3, "target", "end"))
    parts += [f'<circle class="dot accent" cx="{x(a):g}" cy="{y(b):g}" r="2.2"/>' for a, b in shown]
    return "".join([*parts, "</svg>"])


def describe(figure: Figure) -> str:
    """The figure in words, for a screen reader."""
    tell = percent if figure.share and _shares(figure) else number
    sentences = []
    for line in figure.lines:
        finite = [(step, value) for step, value in line.points if _drawable(value)]
        if line.look == "faint" or not line.points:
            continue
        if not finite:
            sentences.append(f"{line.label}: no finite value.")
            continue
        if len(finite) == 1:
            sentences.append(f"{line.label}: {tell(finite[0][1])} at step {finite[0][0]:,.0f}.")
            continue
        (first, start), (final, end) = finite[0], finite[-1]
        least, greatest = min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])
        sentences.append(
            f"{line.label}: from {tell(start)} at step {first:,.0f} to {tell(end)} at step {final:,.0f}; "
            f"lowest {tell(least[1])} at step {least[0]:,.0f}, highest {tell(greatest[1])} at step {greatest[0]:,.0f}."
        )
    return " ".join(sentences)


def gaps(figure: Figure) -> int:
    """How many values of the figure are not finite. A smoothed curve repeats its raw one and is not counted."""
    raw = [line for line in figure.lines if line.look == "faint"]
    lines = [line for line in figure.lines if line.look != "main"] if raw else figure.lines
    return sum(not _drawable(value) for line in lines for _, value in line.points)


def smooth(points: Sequence[Point]) -> list[Point]:
    """A running mean over a thirtieth of the curve, at no more than `BUCKETS` places; the first point stays as it is.

    The window is centred, so the curve does not lag behind the raw one, and narrows towards the start, where the loss
    falls fastest. Values that are not finite are left out of the means; a place that holds one is a gap.
    """
    count = len(points)
    half = count // 60
    if not half:
        return list(points)
    every = max(1, count // BUCKETS)
    smoothed = []
    for i in sorted({*range(0, count, every), count - 1}):
        step, value = points[i]
        reach = min(half, i)
        near = [v for _, v in points[i - reach : i + reach + 1] if _drawable(v)]
        smoothed.append((step, math.fsum(near) / len(near) if _drawable(value) else math.nan))
    return smoothed


def thin(points: Sequence[Point], buckets: int = BUCKETS) -> list[list[Point]]:
    """The curve as unbroken stretches of no more than 2 x `buckets` points in all.

    Each bucket of steps keeps its least and its greatest value. A bucket with a value that is not finite stands apart
    from its neighbours, so a gap shows however long the curve is.
    """
    if len(points) <= 2 * buckets:
        filled = [([point] if _drawable(point[1]) else [], _drawable(point[1])) for point in points]
    else:
        cuts = [round(i * len(points) / buckets) for i in range(buckets + 1)]
        filled = []
        for start, stop in itertools.pairwise(cuts):
            finite = [point for point in points[start:stop] if _drawable(point[1])]
            extremes = {min(finite, key=lambda p: p[1]), max(finite, key=lambda p: p[1])} if finite else set()
            filled.append((sorted(extremes), len(finite) == stop - start))
    stretches: list[list[Point]] = [[]]
    for kept, whole in filled:
        if whole:
            stretches[-1] += kept
        else:
            stretches += [kept, []]
    return [stretch for stretch in stretches if stretch]


def is_wide(values: Sequence[float]) -> bool:
    """Whether the values are all positive and span more than two decades."""
    return min(values) > SMALLEST and max(values) / min(values) > 100


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """From one to `most` (at least 4) multiples of 1, 2 or 5 times a power of ten between `low` and `high` > `low`."""
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    unit = next((m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9)), 10 * power)
    first, final = math.ceil(low / unit - 1e-9), math.floor(high / unit + 1e-9)
    return [i * unit for i in range(first, final + 1)]


# ---- inside


def _drawable(value: float) -> bool:
    return math.isfinite(value) and abs(value) < LARGEST


def _sides(line: Line) -> tuple[list[Point], list[Point]]:
    """The lower and the upper edge of a line's band."""
    return [(step, low) for step, low, _ in line.band], [(step, high) for step, _, high in line.band]


def _edges(line: Line) -> list[Point]:
    return [point for side in _sides(line) for point in side]


def _text(x: float, y: float, text: str, anchor: str, look: str = "label") -> str:
    return f'<text class="{look}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _shares(figure: Figure) -> bool:
    return all(0 <= value <= 1 for line in figure.lines for _, value in line.points if _drawable(value))


def _stroke(stretch: Sequence[tuple[float, float]]) -> str:
    """Path commands of one stretch; a lone point becomes a dot by its round caps."""
    (x, y), *rest = stretch
    return f"M{x:g} {y:g}" + (f"L{' '.join(f'{x:g} {y:g}' for x, y in rest)}" if rest else "h0")


def _upright(values: Sequence[float], share: bool) -> Axis:
    low, high = min(values), max(values)
    share = share and low >= 0 and high <= 1
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    bottom = 0.0 if 0 <= low < 0.3 * high else low - room
    top = min(1.0, high + room) if share else high + room
    if low >= 0:
        bottom = max(0.0, bottom)
    return _linear(bottom, top, share=share)


def _linear(low: float, high: float, *, share: bool = False, whole: bool = False, most: int = 6) -> Axis:
    if high - low <= max(1e-12 * max(abs(low), abs(high)), SMALLEST):  # one step, or one value
        margin = 0.5 if whole else max(abs(high) * 0.1 or 1.0, SMALLEST)
        low, high = low - margin, high + margin
    places = ticks(low, high, most)
    if whole:
        places = [place for place in places if float(place).is_integer()]
    return Axis(low, high, False, list(zip(places, _texts(places, share), strict=True)))


def _texts(places: Sequence[float], share: bool) -> list[str]:
    """Tick labels with the same number of decimals."""
    if not places:
        return []
    largest = max(abs(place) for place in places)
    exponent = math.floor(math.log10(largest) + 1e-9) if largest and not share else 0
    unit, sign = (1.0, " %" if share else "") if -4 < exponent < 6 else (10.0**exponent, f"×10{superscript(exponent)}")
    scaled = [100 * place if share else place / unit for place in places]
    gap = scaled[1] - scaled[0] if len(scaled) > 1 else scaled[0] or 1.0
    decimals = next((d for d in range(12) if abs(gap * 10**d - round(gap * 10**d)) < 1e-6 * abs(gap) * 10**d), 12)
    return [f"{place:,.{decimals}f}{sign}" if place or share else "0" for place in scaled]


def _logarithmic(values: Sequence[float]) -> Axis:
    low, high = math.log10(min(values)), math.log10(max(values))
    low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
    exponents = range(math.ceil(low), math.floor(high) + 1)
    if len(exponents) < 3:
        places = [m * 10.0**e for e in range(math.floor(low), math.floor(high) + 1) for m in (1, 2, 5)]
        return Axis(low, high, True, [(v, f"{v:,g}") for v in places if low <= math.log10(v) <= high])
    places = [10.0**e for e in exponents[:: math.ceil(len(exponents) / 6)]]
    return Axis(low, high, True, [(v, f"{v:,g}" if 1e-3 <= v <= 1e4 else _power(v)) for v in places])


def _power(value: float) -> str:
    return f"10{superscript(round(math.log10(value)))}"
