"""The numbers of runs as `charts.js` draws them: plain data for JSON, thinned, with what is pinned on them.

The script and Vega, which draws, come along here too. Vega is taken from vl-convert, a package that carries it (extra `charts`);
where that is not installed a page keeps its drawn figures and says how to get the others.

    >>> charts(recipe, events, run.findings())["charts"][0]["title"]
    'Loss'
"""

import base64
import contextlib
import gzip
import importlib.util
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from importlib.metadata import version
from typing import Any

from wellfit import kept
from wellfit.errors import MissingExtra
from wellfit.events import Event, Paced, Started, Vitals
from wellfit.recipe import Recipe
from wellfit.report import curves, words
from wellfit.report.curves import Figure, Line
from wellfit.report.figures import figures

GLOBAL = b"window.vegaEmbed"  # by which the page calls it
VEGA_LITE = "6.1"  # the version of the grammar that `charts.js` speaks
BUCKETS = 500  # of a curve; each keeps its least and its greatest value
COLUMNS, LAYERS = 160, 60  # of a table of layers: no more cells than can be told apart
TABLES = {"gradient norm": "grad_norm", "update beside weight": "ratio", "weight norm": "weight_norm"}


def charts(recipe: Recipe, events: Sequence[Event], findings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All curves of one run, its clock, its best step and its findings at their onset."""
    return {
        "charts": [chart(figure, whole=i == 0) for i, figure in enumerate(figures(recipe, events))],
        "clocks": [clock(events)],
        "best": words.best_step(recipe, events),
        "findings": [pin(finding) for finding in findings],
    }


def together(figures: Sequence[Figure]) -> dict[str, Any] | None:
    """Curves of several runs by steps alone, for a second group of charts on a page; None without any."""
    drawn = [chart(figure) for figure in figures]
    for one in drawn:
        one["id"] = f"together-{one['id']}"
    return {"charts": drawn, "clocks": [clock(())], "best": None, "findings": []} if drawn else None


def chart(figure: Figure, whole: bool = False) -> dict[str, Any]:
    """One figure as data. A value that is not finite is null, which draws as a gap."""
    values = [value for line in figure.lines for _, value in line.points if math.isfinite(value)]
    return {
        "id": "".join(c if c.isalnum() else "-" for c in figure.title.lower()).strip("-"),
        "title": figure.title,
        "share": figure.share and all(0 <= value <= 1 for value in values),
        "log": figure.may_be_log and bool(values) and curves.is_wide(values),
        "level": list(figure.level) if figure.level is not None else None,
        "says": curves.describe(figure),
        "series": [series(line) for line in figure.lines],
        "whole": whole,
    }


def series(line: Line) -> dict[str, Any]:
    """One curve, thinned as a drawn one is, with a null between stretches that a value which is not finite parts."""
    points: list[list[float | None]] = []
    end = line.points[-1] if line.points else None
    for stretch in curves.thin(line.points, BUCKETS):
        if points:
            points.append([((points[-1][0] or 0) + stretch[0][0]) // 2, None])
        points += [[step, _short(value)] for step, value in stretch]
    if end is not None and _short(end[1]) is None:
        points.append([end[0], None])
    band = [[step, _short(low), _short(high)] for step, low, high in line.band]
    return {"label": line.label, "look": line.look, "points": points, **({"band": band} if band else {})}


def clock(events: Iterable[Event]) -> dict[str, Any]:
    """Samples of a step, and seconds of training since the start by step; what was redone after a stop counts once."""
    batch, spent, step, seconds = 1, 0.0, 0, []
    for event in events:
        if isinstance(event, Started):
            batch = event.batch_size
        elif isinstance(event, Paced) and event.step > step and math.isfinite(event.seconds_per_step):
            spent += event.seconds_per_step * (event.step - step)
            step = event.step
            seconds.append([step, round(spent, 3)])
    every = max(1, len(seconds) // BUCKETS)
    return {"batch": batch, "seconds": [*seconds[:-1:every], *seconds[-1:]]}


def pin(finding: Mapping[str, Any]) -> dict[str, Any]:
    """A finding where it began."""
    return {"id": str(finding["id"]), "severity": str(finding["severity"]), "step": int(finding.get("onset_step", 0))}


def layers(events: Sequence[Event]) -> dict[str, Any] | None:
    """What the probe saw of each layer over time, as tables for `wellfit.heat`; None where it saw nothing twice."""
    seen = [event for event in events if isinstance(event, Vitals) and event.about in ("layer", "activation")]
    steps = sorted({event.step for event in seen})
    steps = steps[:: math.ceil(len(steps) / COLUMNS)] if steps else []
    if len(steps) < 2:
        return None
    tables = [
        _table(name, [e for e in seen if e.about == "layer" and e.words.get("kind") == "weight"], value, steps)
        for name, value in TABLES.items()
    ]
    tables.append(_table("spread of activations", [e for e in seen if e.about == "activation"], "std", steps))
    told = [table for table in tables if table["layers"]]
    return {"steps": steps, "end": max(event.step for event in events), "tables": told} if told else None


def _table(name: str, seen: Sequence[Vitals], value: str, steps: Sequence[int]) -> dict[str, Any]:
    found = {(event.name, event.step): event.values.get(value) for event in seen}
    order = list(dict.fromkeys(event.name for event in sorted(seen, key=lambda e: e.values.get("order", 0.0))))
    kept = order[:: math.ceil(len(order) / LAYERS)] if order else []
    rows = [[_short(found.get((layer, step))) for step in steps] for layer in kept]
    filled = [i for i, row in enumerate(rows) if any(cell is not None for cell in row)]
    return {
        "name": name, "log": True, "layers": [kept[i] for i in filled], "values": [rows[i] for i in filled],
    }  # fmt: skip


def _short(value: float | None) -> float | None:
    """Five digits are more than a screen shows."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) and abs(value) < curves.LARGEST else None


# ---- the scripts


def is_here() -> bool:
    """Whether the package that carries Vega is installed."""
    return importlib.util.find_spec("vl_convert") is not None


def check() -> None:
    """Raises MissingExtra where it is not."""
    if not is_here():
        raise MissingExtra("vl-convert-python", "charts", "The live page")


@lru_cache(maxsize=1)
def vega() -> str:
    """Vega, Vega-Lite and Vega-Embed, packed (gzip, base64): less than half their size. Unpacked by the page.

    Making it takes seconds, so it is kept in the user's cache folder, where that can be written.
    """
    import vl_convert

    name = f"vega-{VEGA_LITE}-of-{version('vl-convert-python')}.gz"
    packed = kept.recalled(name)
    if packed is not None:
        with contextlib.suppress(OSError, EOFError, zlib.error):
            if GLOBAL in gzip.decompress(packed):  # torn files are made anew
                return base64.b64encode(packed).decode()
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE).encode()
    assert GLOBAL in bundle, "the bundle gives the page no `vegaEmbed`"
    packed = gzip.compress(bundle, 9, mtime=0)
    kept.remember(name, packed)
    return base64.b64encode(packed).decode()


def script(*names: str) -> str:
    """Our own scripts, as they stand beside this file."""
    return "\n".join(resources.files("wellfit.report").joinpath(name).read_text(encoding="utf-8") for name in names)


def embedded(value: Any) -> str:
    """JSON that can stand inside a `<script>` of any page: nothing in it ends the element or begins a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
