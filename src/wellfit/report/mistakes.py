"""What a network gets wrong, as the report shows it: confusion of classes, calibration, the worst samples.

The numbers are those of a run's `review.json`. Whatever is not as it should be there is left out, never guessed.

    >>> told(run.review()).headline
    'Most often taken for another: 8 for 1 (3 times), 9 for 4 (2 times).'
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from wellfit.report import curves, words

CLASSES, POINTS = 40, 2000  # more cells than that are no table, and more dots a blot
PICTURE = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=]+")


class Cell(NamedTuple):
    """One field of the table of classes; `share` of its row, 0 to 1."""

    samples: int
    share: float
    right: bool


class Sample(NamedTuple):
    """One that was told wrong. `picture` is a PNG as a data address, or empty."""

    says: str
    picture: str
    text: str


class Mistakes(NamedTuple):
    """What the page shows."""

    of: str
    headline: str
    classes: list[str]
    confusion: list[tuple[str, list[Cell]]]
    calibration: str
    bins: list[tuple[str, str, int, float]]  # how sure, how many right, samples, that share as a number
    scatter: str  # SVG
    worst: list[Sample]


def told(review: Mapping[str, Any]) -> Mistakes | None:
    """None where there is nothing to show."""
    try:
        return _told(review)
    except (
        KeyError,
        OverflowError,
        TypeError,
        ValueError,
        IndexError,
        AttributeError,
    ):  # a file that was cut, or changed by hand
        return None


def _told(review: Mapping[str, Any]) -> Mistakes:
    split = words.SPLITS.get(str(review["split"]), str(review["split"]))
    of = f"Of {words.count(int(review['samples']), f'{split} sample')}, looked at once after training."
    worst = [_sample(one) for one in review["worst"]]
    if review["kind"] == "numbers":
        points = [(float(t), float(o)) for t, o in review["points"][:POINTS]]
        return Mistakes(of, "", [], [], "", [], curves.scatter(points, 360, 300, "targets"), worst)
    pairs = [f"{a} for {b} ({words.count(int(n), 'time')})" for a, b, n in review["mistaken"][:3]]
    headline = (
        f"Most often taken for another: {', '.join(pairs)}." if pairs else "Every one of them was predicted right."
    )
    names, confusion = _worst([str(name) for name in review["classes"]], review.get("confusion"))
    if len(names) < len(review["classes"]):
        headline += f" Of {len(review['classes']):,} classes the table has the {len(names)} that are mistaken most."
    bins = [
        (words.percent(float(sure)), words.percent(float(right)), int(samples), float(right))
        for sure, right, samples in review["calibration"]
    ]
    counted = [(float(sure), float(right), int(samples)) for sure, right, samples in review["calibration"]]
    over = sum((sure - right) * samples for sure, right, samples in counted)
    calibration = (
        f"It is {'surer than it is right' if over > 0 else 'right more often than it is sure'}: the two differ by "
        f"{100 * float(review['calibration_error']):.1f} points on average (expected calibration error)."
    )
    return Mistakes(of, headline, names, _rows(names, confusion), calibration, bins, "", worst)


def _worst(names: list[str], confusion: Any) -> tuple[list[str], Any]:
    """Of many classes those that are taken for others most, in their order."""
    if not confusion or len(names) <= CLASSES:
        return names, confusion
    wrong = [sum(map(int, row)) - int(row[i]) for i, row in enumerate(confusion)]
    into = [sum(int(row[i]) for row in confusion) - int(confusion[i][i]) for i in range(len(names))]
    ranked = sorted(range(len(names)), key=lambda i: -(wrong[i] + into[i]))
    shown = sorted(ranked[:CLASSES])
    return [names[i] for i in shown], [[confusion[i][j] for j in shown] for i in shown]


def _rows(names: Sequence[str], confusion: Any) -> list[tuple[str, list[Cell]]]:
    if not confusion:
        return []
    return [
        (name, [Cell(int(n), n / max(1, sum(row)), i == j) for j, n in enumerate(row)])
        for i, (name, row) in enumerate(zip(names, confusion, strict=True))
    ]


def _sample(one: Mapping[str, Any]) -> Sample:
    target, output = (words.number(x) if isinstance(x, float) else str(x) for x in (one["target"], one["output"]))
    sure = f", {words.percent(float(one['sure']))} sure" if "sure" in one else ""
    picture = str(one.get("picture", ""))
    row = one.get("row")
    text = ", ".join(f"{k}: {v:g}" if isinstance(v, float) else f"{k}: {v}" for k, v in row.items()) if row else ""
    return Sample(
        f"{target}, predicted as {output}{sure}",
        picture if PICTURE.fullmatch(picture) else "",
        str(one.get("text", "")) or text,
    )
