"""The report of a run as one HTML file: no network, readable on a phone, in the dark, on paper and aloud.

Here the recorded numbers become the few tables and figures that the template `page.html` lays out. Nothing is judged
here beyond what events and findings say, and nothing is read but the arguments. Every name that comes from data or from a user
is escaped: by the template's autoescape, inside the figures by `curves.draw`, and in what the script reads by `charts.embedded`.
The figures are drawn here; where the extra `charts` is installed, a script draws them anew to be zoomed and read.

    >>> write(run.folder, run.recipe, run.events(), run.environment, run.task)
    PosixPath('runs/2026-11-22-1015-digits-convnet/report.html')
"""

import contextlib
import math
import os
import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wellfit.errors import RunError
from wellfit.events import Ended, Evaluated, Event, Noted, Paced, Started, Stepped
from wellfit.recipe import Recipe, describe
from wellfit.report import charts, curves, mistakes, words
from wellfit.report.curves import Figure
from wellfit.report.figures import figures

REPORT = "report.html"
WIDE, NARROW = (720, 300), (360, 210)  # sizes of a figure: across the page on a desk; beside another, or on a phone
ROWS = 24  # of the table of numbers
SURE = 0.9  # below it, a finding says how sure it is
WHO = {"user": "you", "preset": "preset", "derived": "derived", "measured": "measured", "default": "default"}


def write(
    folder: Path,
    recipe: Recipe,
    events: Sequence[Event],
    environment: Mapping[str, Any],
    task: Mapping[str, Any],
    findings: Sequence[Mapping[str, Any]] = (),
    review: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `folder/report.html`, whole or not at all, and returns its path.

    `events` holds each thing once, as `Run.events` gives them. Raises RunError if the file cannot be written.
    """
    path = folder / REPORT
    text = page(folder, recipe, events, environment, task, findings, review)
    unfinished = path.with_name(f".{REPORT}-{secrets.token_hex(4)}")
    try:
        unfinished.write_text(text, encoding="utf-8", errors="replace")
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise RunError(
            f"The report {path} cannot be written: {error.strerror or error}. "
            f"Make room or mend the permissions there, then `wellfit report {shlex.quote(str(folder))}`."
        ) from None
    return path


def page(
    folder: Path,
    recipe: Recipe,
    events: Sequence[Event],
    environment: Mapping[str, Any],
    task: Mapping[str, Any],
    findings: Sequence[Mapping[str, Any]] = (),
    review: Mapping[str, Any] | None = None,
    live: bool | None = None,
) -> str:
    """The report as HTML; `live`: with the script, which is so where the package that it needs is installed."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    live = charts.is_here() if live is None else live

    templates = Environment(
        loader=PackageLoader("wellfit", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["coded"] = _coded
    ended = words.last(events, Ended)
    standing = words.verdict(recipe, events)
    chosen, defaults = settings(recipe)
    return templates.get_template("page.html").render(
        name=folder.name,
        headline=words.headline(recipe, events),
        bad=ended is not None and ended.reason == "loss-not-finite",
        summary=[sentence for sentence in words.summary(recipe, events) if not sentence.startswith("Note: ")],
        notes=notes(events),
        beaten=standing is not None and standing.wins is False,
        results=results(recipe, events),
        figures=[_drawn(figure, i) for i, figure in enumerate(figures(recipe, events))],
        numbers=numbers(events),
        facts=facts(events, task),
        chosen=chosen,
        defaults=defaults,
        environment=_rows(environment),
        commands=commands(folder, recipe, ended),
        findings=[told(finding) for finding in findings],
        mistakes=mistakes.told(review) if review else None,
        style=Markup(charts.script("style.css")),
        again=f"wellfit report {shlex.quote(str(folder))}",
        **(_script(recipe, events, findings) if live else {"live": False}),
    )


def _script(recipe: Recipe, events: Sequence[Event], findings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the page needs to come alive."""
    from markupsafe import Markup

    layers = charts.layers(events)
    numbers = charts.charts(recipe, events, findings) | {"layers": layers}
    return {
        "live": True,
        "layers": layers is not None,
        "payload": Markup(charts.embedded(numbers)),
        "packed": charts.vega(),
        "script": Markup(charts.script("charts.js", "page.js")),
    }


# ---- what is told


class Results(NamedTuple):
    """Scores as a table; of the columns that can be compared, the best cell of each row is marked."""

    columns: list[str]
    rows: list[tuple[str, list[tuple[str, bool]]]]


def notes(events: Sequence[Event]) -> list[str]:
    """What a person must know before reading on."""
    told = [event.text for event in events if isinstance(event, Noted)]
    steps = [event for event in events if isinstance(event, Stepped)]
    skipped = sum(event.skipped for event in steps)
    if skipped:
        changed = f"{words.count(skipped, 'step')} of {len(steps):,} changed nothing"
        started = words.last(events, Started)
        told.append(
            f"{changed}: a gradient overflowed in fp16, and the loss scale was lowered. A few are usual; many are not."
            if started is None or started.precision == "fp16"
            else f"{changed}: their loss or gradient was not finite, and `recovery` passed over them."
        )
    return told


def told(finding: Mapping[str, Any]) -> dict[str, Any]:
    """A finding as the page shows it."""
    step, sure = int(finding.get("onset_step", 0)), float(finding.get("confidence", 1.0))
    onset = f"{finding['severity']}, from step {step:,}" if step else f"{finding['severity']}, before the first step"
    return {
        "id": finding["id"],
        "severity": finding["severity"],
        "step": step,
        "when": onset + ("" if sure >= SURE else f", {words.percent(sure)} sure"),
        "says": finding["says"],
        "symptoms": [{"id": one.get("id", ""), "says": one.get("says", "")} for one in finding.get("symptoms", [])],
        "remedies": [
            {"words": one.get("words", ""), "snippet": one.get("snippet", "")} for one in finding.get("remedies", [])
        ],
        "evidence": _rows(finding.get("evidence", {})),
    }


def results(recipe: Recipe, events: Sequence[Event]) -> Results | None:
    """The model's scores on each split (validation: at the best step), then the baselines'."""
    best = words.best_step(recipe, events)
    shown: list[Evaluated] = []
    for split in words.SPLITS:
        scored = words.evaluations(events, split)
        shown += ([event for event in scored if event.step == best] or scored)[-1:]
    shown += {(e.of, e.split): e for e in events if isinstance(e, Evaluated) and e.of != "model"}.values()
    rows = []
    for name in dict.fromkeys(name for event in shown for name in event.metrics):
        winners = [event for split in words.SPLITS for event in _winners(recipe, name, shown, split)]
        cells = [
            (words.amount(name, event.metrics[name]) if name in event.metrics else "–", event in winners)
            for event in shown
        ]
        rows.append((_heading(name), cells))
    columns = [f"{event.of}, {words.SPLITS.get(event.split, event.split)}" for event in shown]
    return Results(columns, rows) if rows else None


def numbers(events: Sequence[Event]) -> tuple[list[str], list[list[str]]]:
    """What the figures show, as a table of at most about `ROWS` steps: evaluated ones first, then evenly spaced."""
    steps = {event.step: event for event in events if isinstance(event, Stepped)}
    valid = {event.step: event.metrics for event in words.evaluations(events)}
    names = list(dict.fromkeys(name for metrics in valid.values() for name in metrics))
    at = _spread(sorted(valid) or sorted(steps), ROWS)
    at = sorted({*at, *_spread(sorted(steps), 2)})
    columns = [
        "step",
        "training loss",
        *(f"validation {words.plain(n)}" for n in names),
        "learning rate",
        "gradient norm",
    ]
    rows = []
    for step in at:
        taken, scores = steps.get(step), valid.get(step, {})
        rows.append(
            [
                f"{step:,}",
                words.number(taken.loss) if taken else "–",
                *(words.amount(name, scores[name]) if name in scores else "–" for name in names),
                words.number(taken.learning_rate) if taken else "–",
                words.number(taken.grad_norm) if taken else "–",
            ]
        )
    return columns, rows


def facts(events: Sequence[Event], task: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was trained on what, in numbers."""
    told: list[tuple[str, str]] = []
    started = words.last(events, Started)
    resumed = [e.step for e in events if isinstance(e, Started) and e.step and not e.went_back]
    if started is not None:
        valid = f", {started.valid_samples:,} held out for validation" if started.valid_samples else ""
        frozen = started.parameters - started.trainable
        batch = words.count(started.batch_size, "sample") + " per step"
        if started.gradient_accumulation_steps > 1 or started.world > 1:
            micro = words.count(started.gradient_accumulation_steps, "micro-batch", "micro-batches")
            ranks = words.count(started.world, "process", "processes")
            batch += f": {started.micro_batch_size:,} × {micro} × {ranks}"
        told += [
            ("Data", f"{words.count(started.train_samples, 'training sample')}{valid}"),
            (
                "Model",
                words.count(started.parameters, "parameter") + (f", {frozen:,} of them frozen" if frozen else ""),
            ),
            ("Batch", batch),
            ("Length", f"{words.count(started.steps, 'step')} planned, {started.steps_per_epoch:,} per epoch"),
            ("Device", f"{started.device}, {started.precision}"),
        ]
    if resumed:
        told.append(("Resumed", "at step " + ", ".join(f"{step:,}" for step in resumed)))
    for name, what in (("classes", "Classes"), ("columns", "Columns")):
        names = task.get(name)
        if isinstance(names, list | tuple) and names:
            told.append((what, f"{len(names):,}: {_listed([str(_label(n)) for n in names])}"))
    paces = [event for event in events if isinstance(event, Paced)]
    if paces:
        waits = [pace.data_wait for pace in paces if math.isfinite(pace.data_wait)]
        if waits:
            told.append(
                ("Waiting for data", f"{words.percent(min(1.0, max(0.0, sum(waits) / len(waits))))} of the time")
            )
        told.append(("Peak memory", _bytes(max(pace.memory_bytes for pace in paces))))
    return told


class Setting(NamedTuple):
    """One field of the recipe, told."""

    path: str
    value: str
    by: str
    what: str
    why: str
    source: str


def settings(recipe: Recipe) -> tuple[list[Setting], list[Setting]]:
    """Every field of the recipe: those that are not defaults, yours first, and the defaults."""
    chosen: list[Setting] = []
    defaults: list[Setting] = []
    for path, value in recipe.flat().items():
        origin, about = recipe.origin(path), describe(path, recipe)
        source = about.get("source", "")
        reason = f"Source: {source}" if source else ""
        if origin.by in ("user", "preset") and about.get("why"):  # the source speaks of the default, not of this value
            reason = f"The default's reason: {about['why']}" + (f" ({source})" if source else "")
        told = Setting(path, _value(value), WHO[origin.by], about.get("what", ""), origin.why, reason)
        (defaults if origin.by == "default" else chosen).append(told)
    order = list(WHO.values())
    return sorted(chosen, key=lambda setting: order.index(setting.by)), defaults


def commands(folder: Path, recipe: Recipe, ended: Ended | None) -> list[tuple[str, str]]:
    """How to go on: command, and what it does."""
    run = shlex.quote(str(folder))
    done = ended is not None and ended.reason in ("finished", "early-stopping")
    if recipe.task == "given":
        resume = (f'wellfit.fit(..., resume="{folder}")', "goes on in Python, with the same model and data")
    else:
        resume = (f"wellfit resume {run}", "goes on from the last checkpoint, to the same bits")
    again = (f"wellfit train {run} --set optimizer.learning_rate=…", "trains anew with a change")
    report = (f"wellfit report {run}", "writes this page anew")
    others = [report] if recipe.task == "given" else [again, report]
    if done:
        return [*others, (resume[0], "goes on with a run that was stopped; this one is complete")]
    return [resume, *others]


# ---- inside


def _drawn(figure: Figure, i: int) -> dict[str, Any]:
    """A figure as the template wants it. The first, the loss, is drawn for wide and for narrow pages."""
    from markupsafe import Markup

    missing = curves.gaps(figure)
    values = [value for line in figure.lines for _, value in line.points if math.isfinite(value)]
    remarks = []
    if missing:
        remarks.append(f"{words.count(missing, 'value is', 'values are')} not finite and shown as a gap.")
    if figure.may_be_log and values and curves.is_wide(values):
        remarks.append("Logarithmic scale.")
    sizes = {"narrow": NARROW, "wide": WIDE} if i == 0 else {"only": NARROW}
    return {
        "title": figure.title,
        "wide": i == 0,
        "legend": [(line.label, line.look) for line in figure.lines] if len(figure.lines) > 1 else [],
        "remarks": " ".join(remarks),
        "plots": [(size, Markup(curves.draw(figure, *sizes[size], name=f"figure-{i}-{size}"))) for size in sizes],
    }


def _coded(text: str) -> Any:
    """The text, escaped, with what stands between backticks as code."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner is only a character
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def _winners(recipe: Recipe, name: str, shown: Sequence[Evaluated], split: str) -> list[Evaluated]:
    """Those with the best value on a split, where there are several to compare and one way is known to be better."""
    goal = words.better(recipe, name)
    here = [event for event in shown if event.split == split and name in event.metrics]
    finite = [event.metrics[name] for event in here if math.isfinite(event.metrics[name])]
    if len(here) < 2 or not finite or goal is None:
        return []
    best = words.amount(name, max(finite) if goal == "max" else min(finite))
    return [event for event in here if words.amount(name, event.metrics[name]) == best]


def _heading(name: str) -> str:
    told = words.plain(name)
    return told[:1].upper() + told[1:]


def _spread(steps: Sequence[int], most: int) -> list[int]:
    """At most `most` of the steps, evenly spaced, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _label(name: Any) -> Any:
    """A column's name, where columns are described by mappings."""
    return name.get("name", name) if isinstance(name, Mapping) else name


def _listed(names: Sequence[str], most: int = 12) -> str:
    short = [name if len(name) <= 40 else name[:39] + "…" for name in names[:most]]
    return ", ".join(short) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _value(value: Any) -> str:
    if value is None or value in ((), [], {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value(inner)}" for key, inner in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value) or "“”"


def _rows(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested plain data as rows of a table."""
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _rows(value, f"{prefix}{name}: ")
        elif name.endswith("_bytes") and isinstance(value, int | float):
            rows.append((prefix + name.removesuffix("_bytes"), _bytes(value)))
        elif name == "started" and isinstance(value, int | float):
            rows.append((prefix + name, time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value))))
        elif isinstance(value, list):
            rows += [(prefix + name, ", ".join(map(_value, value)))] if value else []
        elif value not in (None, ""):
            rows.append((prefix + name, _value(value)))
    return rows


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
