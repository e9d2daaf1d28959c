"""The report of a run as one HTML file: no network, readable on a phone, in the dark, on paper and aloud.

Here the recorded numbers become the few tables and figures that the template `page.html` lays out (`layout.py`). Nothing is judged
here beyond what events and findings say, and nothing is read but the run's folder. The figures are drawn here; where the extra
`charts` is installed, a script draws them anew to be zoomed and read.

    >>> write(run)
    PosixPath('runs/2026-11-22-1015-digits-convnet/report.html')
"""

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wellfit.events import Ended, Evaluated, Event, Paced, Started, Stepped
from wellfit.recipe import Recipe, describe
from wellfit.report import charts, layout, mistakes, together, words
from wellfit.report.figures import figures
from wellfit.run import Run

REPORT = "report.html"
ROWS = 24  # of the table of numbers
WHO = {"user": "you", "preset": "preset", "derived": "derived", "measured": "measured", "default": "default"}


def write(run: Run) -> Path:
    """Writes the run's `report.html`, whole or not at all, and returns its path. Raises RunError if it cannot be written."""
    return layout.written(run.folder / REPORT, page(run), _again(run.folder))


def page(run: Run, live: bool | None = None) -> str:
    """The report as HTML; `live`: with the script, which is so where the package that it needs is installed.

    Raises RunError for a run of which nothing can be read.
    """
    recipe, events, findings, review = run.recipe, run.events(), run.findings(), run.review()
    ended, standing = words.last(events, Ended), words.verdict(recipe, events)
    chosen, defaults = settings(recipe)
    layers, treated = charts.layers(events), together.treatment(run)
    return layout.rendered(
        "page.html",
        live=charts.is_here() if live is None else live,
        payload=charts.charts(recipe, events, findings)
        | {"layers": layers, "together": charts.together(treated.figures if treated else ())},
        name=run.folder.name,
        headline=words.headline(recipe, events),
        bad=ended is not None and ended.reason == "loss-not-finite",
        summary=words.summary(recipe, events),
        notes=notes(events, findings),
        beaten=standing is not None and standing.wins is False,
        findings=[told(finding) for finding in findings],
        treated=treated,
        results=results(recipe, events),
        figures=layout.drawn(figures(recipe, events)),
        numbers=numbers(events),
        layers=layers is not None,
        mistakes=mistakes.told(review) if review else None,
        facts=facts(events, run.task),
        memory=memory(run.memory()),
        chosen=chosen,
        defaults=defaults,
        environment=_rows(run.environment),
        commands=commands(run.folder, recipe, ended),
        again=_again(run.folder),
    )


# ---- what is told


class Results(NamedTuple):
    """Scores as a table; of the columns that can be compared, the best cell of each row is marked."""

    columns: list[str]
    rows: list[tuple[str, list[tuple[str, bool]]]]


def notes(events: Sequence[Event], findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a person must know before reading on."""
    told = words.notes(events, findings)
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
    return {
        "id": finding["id"],
        "severity": finding["severity"],
        "step": int(finding.get("onset_step", 0)),
        "when": ", ".join(part for part in (finding["severity"], words.onset(finding)) if part),
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
    begun = words.last(events, Started)
    held = {"valid": begun.valid_samples if begun is not None else 0}
    columns = [_column(event, event.samples or held.get(event.split, 0)) for event in shown]
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


class Memory(NamedTuple):
    """What a run was predicted to hold, and the sentences that say what it held."""

    rows: list[tuple[str, str]]
    says: list[str]


def memory(kept: Mapping[str, Any]) -> Memory | None:
    """The plan beside what was measured, of what `Run.memory` gives; None where there is no such thing."""
    rows, says = kept.get("table"), kept.get("says")
    if not isinstance(rows, list) or not isinstance(says, list) or not says:
        return None
    pairs = [(str(row[0]), str(row[1])) for row in rows if isinstance(row, list) and len(row) == 2]
    return Memory(pairs, [str(sentence) for sentence in says])


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
    report = (_again(folder), "writes this page anew")
    others = [report] if recipe.task == "given" else [again, report]
    if done:
        return [*others, (resume[0], "goes on with a run that was stopped; this one is complete")]
    return [resume, *others]


# ---- inside


def _column(event: Evaluated, samples: int) -> str:
    told = f"{event.of}, {words.SPLITS.get(event.split, event.split)}"
    return f"{told} ({samples:,})" if samples and event.of == "model" else told


def _again(folder: Path) -> str:
    return f"wellfit report {shlex.quote(str(folder))}"


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
        elif name.endswith("_bytes") and isinstance(value, int | float) and 0 <= value < 1e24:
            rows.append((prefix + name.removesuffix("_bytes"), _bytes(value)))
        elif name == "started" and isinstance(value, int | float) and 0 <= value < 1e11:
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
