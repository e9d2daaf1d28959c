"""Ways of training beside each other on a page: a comparison's own, and the part of a run's report that tells what cured it.

What was decided is read from the file that the comparison or the cure left, the curves from the runs beside that file and from nowhere
else. A file that is no comparison is as none.

    >>> write(Path("runs/compare-digits"))
    PosixPath('runs/compare-digits/report.html')
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wellfit import untrusted
from wellfit.errors import RunError, WellfitError
from wellfit.recipe import Change
from wellfit.report import charts, layout
from wellfit.report.bands import band, curves, width
from wellfit.report.comparison import Comparison
from wellfit.report.curves import Figure, Line
from wellfit.report.words import METRICS, amount, change_told, count, plain, setting
from wellfit.run import Run

COMPARISON, TREATMENT, CURE, PAGE = "comparison.json", "cure", "cure.json", "report.html"
LOOKS = 8  # colours of the style sheet
MOST, ARMS = 1 << 22, 50  # bytes of such a file, and ways that can be told apart; no comparison of ours has as many


class Treatment(NamedTuple):
    """What was tried on a run, and the proof, where something helped."""

    reason: str
    metric: str
    tried: list[
        tuple[str, str, str, str, bool, str]
    ]  # remedy, changes, before, after, whether it was kept, the verdict
    changes: list[str]
    says: list[str]
    table: list[tuple[str, ...]]
    figures: list[Figure]
    drawn: list[dict[str, Any]]


def treatment(run: Run) -> Treatment | None:
    """What `wellfit cure` left in the run's folder, as its report tells it; None where it was not treated."""
    place = run.folder / TREATMENT
    kept = _read(place / CURE)
    try:
        metric = str(kept["metric"])
        tried = [_tried(one, metric) for one in kept["tried"]]
        changes = [change_told(Change(*change)) for change in kept["changes"]]
        proof = Comparison.from_dict(kept["comparison"], _inside(place, run.folder)) if kept["comparison"] else None
        drawn = figures(proof) if proof is not None else []
        says = [*map(str, kept.get("told", ())), *(proof.says if proof is not None else [])]
        table = proof.table() if proof is not None else []
        return Treatment(
            str(kept["reason"]), plain(metric), tried, changes, says, table, drawn, layout.drawn(drawn, "together", whole=False)
        )  # fmt: skip
    except (AttributeError, IndexError, KeyError, OSError, OverflowError, RuntimeError, TypeError, ValueError):
        return None


def write(folder: Path) -> Path:
    """Writes the page of the comparison in a folder, and returns its path.

    Raises RunError where there is none, or the page cannot be written.
    """
    kept = _read(folder / COMPARISON)
    try:
        comparison = Comparison.from_dict(kept, folder)
    except ValueError:
        raise RunError(
            f"{folder} holds no comparison that can be read. The `wellfit compare` or `wellfit ablate` that made it goes on if it is "
            "repeated."
        ) from None
    return layout.written(folder / PAGE, page(comparison), f"wellfit report {shlex.quote(str(folder))}")


def page(comparison: Comparison, live: bool | None = None) -> str:
    """The comparison as HTML; `live`: with the script, which is so where the package that it needs is installed."""
    drawn = figures(comparison)
    return layout.rendered(
        "comparison.html",
        live=charts.is_here() if live is None else live,
        payload={"together": charts.together(drawn)},
        name=Path(comparison.folder).name,
        headline=_headline(comparison),
        says=comparison.says,
        table=comparison.table(),
        over=count(len(comparison.seeds), "seed"),
        drawn=layout.drawn(drawn, whole=False),
        common=_common(comparison),
        commands=_commands(comparison),
        again=f"wellfit report {shlex.quote(comparison.folder)}",
    )


def figures(comparison: Comparison) -> list[Figure]:
    """Training loss and validation score over the steps: of each way the mean of its seeds, in their band."""
    several = max((len(arm.folders) for arm in comparison.arms), default=0) > 1
    losses: list[Line] = []
    scores: list[Line] = []
    for i, arm in enumerate(comparison.arms[:ARMS]):
        trained, held = curves(arm, comparison)
        look = f"c{i % LOOKS + 1}" if i else "main"
        for lines, told in ((losses, band(trained, width(trained))), (scores, band(held))):
            points = list(zip(told.steps, told.mean, strict=True))
            edges = list(zip(told.steps, told.low, told.high, strict=True)) if several else []
            lines.append(Line(arm.about, points, look, edges))
    metric = comparison.metric
    share = metric in METRICS and METRICS[metric].share
    drawn = [
        Figure("Training loss", tuple(losses), may_be_log=True),
        Figure(f"Validation {plain(metric)}", tuple(scores), share, may_be_log=not share),
    ]
    return [figure for figure in drawn if any(line.points for line in figure.lines)]


# ---- inside


def _headline(comparison: Comparison) -> str:
    if comparison.missing:
        return f"{count(comparison.missing, 'run')} still to be trained"
    verdicts = [(arm, comparison.verdict(arm)) for arm in comparison.arms[1:]]
    better = [(arm, found) for arm, found in verdicts if found.says == "better"]
    if better:
        best = max(better, key=lambda one: (one[1].rescued, sum(one[1].gains) / max(1, len(one[1].gains))))[0]
        return f"{best.about} is better than {comparison.arms[0].about}"
    if verdicts and all(found.says == "worse" for _, found in verdicts):
        return f"No change is better than {comparison.arms[0].about} as it is"
    return "No difference that these seeds can show" if comparison.arms[1:] else comparison.name


def _common(comparison: Comparison) -> list[tuple[str, str]]:
    """What was chosen for all of them, by a person or a preset: of the first way's first run, without what the others change."""
    try:
        recipes = [Run(Path(folder)).recipe for arm in comparison.arms[:ARMS] for folder in [*arm.folders.values()][:1]]
    except WellfitError:
        return []
    if not recipes:
        return []
    differ = {change.path for other in recipes[1:] for change in recipes[0].diff(other)} | {"name", "training.seed"}
    flat = recipes[0].flat()
    return [
        (path, setting(value)) for path, value in flat.items()
        if path not in differ and recipes[0].origin(path).by in ("user", "preset")
    ]  # fmt: skip


def _commands(comparison: Comparison) -> list[tuple[str, str]]:
    """Of each way, the run of its first seed."""
    told = []
    for arm in comparison.arms:
        for folder in [*arm.folders.values()][:1]:
            told.append((f"wellfit train {shlex.quote(str(Path(folder)))}", f"trains anew: {arm.about}"))
    return told


def _tried(one: Mapping[str, Any], metric: str) -> tuple[str, str, str, str, bool, str]:
    before, after = ("not finite" if one[at] is None else amount(metric, float(one[at])) for at in ("before", "after"))
    trained = bool(one["trained"])
    changes = ", ".join(change_told(Change(*change)) for change in one["changes"])
    return (
        str(one["remedy"]), changes or "nothing", before, after if trained else "not trained", bool(one["adopted"]), str(one["verdict"]),
    )  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    """A file of plain data; empty where it cannot be read."""
    try:
        kept = untrusted.plain(path, MOST)
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _inside(place: Path, folder: Path) -> Path:
    """The place, if it does not lead out of the folder. Raises ValueError if it does."""
    if not place.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{place} leads out of {folder}")
    return place
