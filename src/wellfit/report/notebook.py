"""What a notebook shows: a run, a recipe, a finding, a plan, a comparison as small HTML, and a training's curve as it grows.

No scripts, nothing fetched, and each name is escaped. Colours follow the page around: text has the notebook's own, lines are shades of
it, and the one accent reads on light and on dark. `wellfit.html` is this for one's own pages; the types' `_repr_html_` call it.

    >>> run                       # in a notebook
    >>> wellfit.fit(model, data)  # draws its loss while it trains
"""

import functools
import math
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from typing import TYPE_CHECKING, Any

from wellfit.doctor.finding import Finding
from wellfit.errors import WellfitError
from wellfit.events import Ended, Evaluated, Event, Noted, Paced, Started, Stepped
from wellfit.glance import BEING_TRAINED, KILLED, glance
from wellfit.recipe import Recipe
from wellfit.report import curves, page, words
from wellfit.report.comparison import Comparison
from wellfit.report.curves import Figure, Line, Point
from wellfit.report.figures import figures
from wellfit.report.memory import MemoryPlan
from wellfit.report.micro_batches import BatchSearch
from wellfit.report.progress import ENDS, Progress
from wellfit.report.rates import RateSearch
from wellfit.report.treatment import Cure
from wellfit.run import Run

if TYPE_CHECKING:
    from wellfit.train.record import Observer

SIZE = (420, 210)  # of a figure
SECONDS = 1.0  # between two drawings of a live curve
MANY = 2000  # points of a live curve; beyond it every other one is left out, again and again


@functools.singledispatch
def html(thing: Any) -> str:
    """A run, a recipe, a finding, a memory plan, a comparison, a cure or a search as HTML for a notebook or a page of your own.

    Raises TypeError for anything else.
    """
    raise TypeError(f"wellfit does not show a {type(thing).__name__}.")


@html.register
def _(run: Run) -> str:
    """Headline, figures, scores beside the yardsticks, findings, and how to go on."""
    try:
        return _run(run)
    except WellfitError as error:  # a damaged run says so, instead of a traceback in the cell
        return _whole(f'<p class="bad">{coded(str(error))}</p>')


def _run(run: Run) -> str:
    recipe, events, seen = run.recipe, run.events(), glance(run)
    ended = words.last(events, Ended)
    failed = ended is not None and ended.reason == "loss-not-finite"
    states = {BEING_TRAINED: "It is being trained now. ", KILLED: "It was killed, or its machine stopped. "}
    state = states.get(seen.state, "")
    torn = f"{words.count(run.torn, 'line')} of its events could not be read. " if run.torn else ""
    told = words.summary(recipe, events)
    parts = [
        f'<h4 class="{"bad" if failed else ""}">{escape(words.headline(recipe, events))}</h4>',
        f'<p class="muted">wellfit run <code>{escape(str(run.folder))}</code>. {escape(state + torn)}</p>',
        _figures(figures(recipe, events)[:2]),
        _results(recipe, events),
        *(f"<p>{coded(sentence)}</p>" for sentence in told),
        *(_finding(finding) for finding in run.findings()),
    ]
    commands = [
        (f"<code>{escape(command)}</code>", escape(what)) for command, what in page.commands(run.folder, recipe, ended)
    ]
    return _whole(*parts, _folded("How to go on", _rows(commands)))


@html.register
def _(recipe: Recipe) -> str:
    """Every setting with who set it and why; those that are not defaults first, the others folded away."""
    chosen, defaults = page.settings(recipe)
    name = escape(recipe.name or "recipe")
    head = f'<h4>Recipe {name}</h4><p class="muted">{words.count(len(chosen), "setting is", "settings are")} not as by default.</p>'
    folded = _folded(f"{len(defaults)} defaults", _settings(defaults)) if defaults else ""
    return _whole(head, _settings(chosen) if chosen else "", folded)


@html.register
def _(finding: Finding) -> str:
    return _whole(_finding(finding.as_dict()))


@html.register
def _(plan: MemoryPlan) -> str:
    """Parts and sums, what follows, and ways to need less."""
    good = "" if plan.fits is None else ' class="advice"' if plan.fits else ' class="bad"'
    ways = _table(plan.ways_told()) if plan.ways else ""
    head = f"<h4{good}>{escape(plan.name)}: {escape(plan.says[0])}</h4>"
    rows = _rows([(escape(name), escape(size)) for name, size in plan.table()])
    return _whole(head, rows, *_paragraphs(plan.says[1:]), ways)


@html.register
def _(comparison: Comparison) -> str:
    return _whole(f"<h4>{escape(comparison.name)}</h4>", _table(comparison.table()), *_paragraphs(comparison.says))


@html.register
def _(search: RateSearch) -> str:
    return _whole(f"<h4>Learning rate: {escape(search.name)}</h4>", _table(search.table()), *_paragraphs(search.says))


@html.register
def _(search: BatchSearch) -> str:
    return _whole(f"<h4>Micro-batch: {escape(search.name)}</h4>", *_lines(str(search)))


@html.register
def _(cure: Cure) -> str:
    """What was found, what was tried, what helps and the proof."""
    proven = cure.recipe is not None
    head = f'<h4 class="{"advice" if proven else ""}">{"Cured" if proven else "Not cured"}: {coded(cure.reason)}</h4>'
    tried = [(escape(one.finding), coded(one.told(cure.metric)), coded(one.sentence)) for one in cure.tried]
    parts = [
        head,
        *(f"<p><strong>{escape(str(one['id']))}</strong>: {coded(str(one['says']))}</p>" for one in cure.findings),
    ]
    if cure.changes:
        parts.append("<pre>" + escape("\n".join(map(words.change_told, cure.changes))) + "</pre>")
    if cure.comparison is not None:
        parts += [_table(cure.comparison.table()), *_paragraphs(cure.comparison.says)]
    if tried:
        parts.append(_folded("What was tried", _rows(tried)))
    return _whole(*parts)


# ---- a curve that grows


def live() -> "Observer":
    """What shows a training as it goes on: a curve in a notebook, a bar or lines on the standard error elsewhere."""
    display = _displaying()
    return Live(display) if display is not None else Progress(sys.stderr)


class Live:
    """Shows a run in a notebook's cell, drawn anew at most once a second. An observer; it changes nothing.

    `display`: shows HTML and returns how to replace it. `clock` gives seconds.
    """

    def __init__(
        self, display: Callable[[str], Callable[[str], object]], *, clock: Callable[[], float] = time.monotonic
    ):
        self.display, self.clock = display, clock
        self._replace: Callable[[str], object] | None = None
        self._losses: list[Point] = []
        self._every = 1  # of the steps is kept
        self._scores: dict[str, list[Point]] = {}
        self._started: Started | None = None
        self._notes: dict[str, None] = {}
        self._pace = self._end = ""
        self._step = 0
        self._drawn = -math.inf

    def __call__(self, event: Event) -> None:
        match event:
            case Started():
                self._start(event)
            case Stepped():
                self._step = event.step
                if event.step % self._every == 0:
                    self._losses.append((event.step, event.loss))
                if len(self._losses) > MANY:
                    self._losses, self._every = self._losses[1::2], 2 * self._every
            case Paced():
                self._pace = f"{words.number(event.samples_per_second)} samples/s"
            case Evaluated() if event.of == "model" and event.split == "valid":
                for name, value in event.metrics.items():
                    self._scores.setdefault(name, []).append((event.step, value))
            case Noted():
                self._notes[event.text] = None
            case Ended():
                best = f" The best step was {event.best_step:,}." if event.best_step is not None else ""
                spent = words.duration(event.seconds)
                self._end = f"{ENDS.get(event.reason, event.reason)} at step {event.step:,} after {spent}.{best}"
        if isinstance(event, Ended) or (self._started is not None and self.clock() - self._drawn >= SECONDS):
            self._draw()

    def _start(self, event: Started) -> None:
        self._started, self._step, self._end = event, event.step, ""
        self._losses = [point for point in self._losses if point[0] <= event.step]
        for points in self._scores.values():
            points[:] = [point for point in points if point[0] <= event.step]

    def _draw(self) -> None:
        self._drawn = self.clock()
        if self._replace is None:
            self._replace = self.display(self.html())
        else:
            self._replace(self.html())

    def html(self) -> str:
        """The run as it stands."""
        started = self._started
        steps = started.steps if started is not None else self._step
        course = f"step {self._step:,} of {steps:,}" + (f", {self._pace}" if self._pace else "")
        state = self._end or course
        span = (0.0, float(steps)) if not self._end and steps else None
        losses = curves.smooth(self._losses)
        drawn = [Line("training", losses)]
        if "loss" in self._scores:
            drawn.append(Line("validation", self._scores["loss"], "accent"))
        shown = [Figure("Loss", tuple(drawn), may_be_log=True, span=span)]
        main = words.told(dict.fromkeys(self._scores, 0.0))
        if main != "loss" and main in self._scores:
            share = main in words.METRICS and words.METRICS[main].share
            line = Line(words.plain(main), self._scores[main], "accent")
            shown.append(Figure(f"Validation {words.plain(main)}", (line,), share, span=span))
        last = [
            f"validation {words.plain(name)} {words.amount(name, points[-1][1])}"
            for name, points in self._scores.items()
            if name in ("loss", main) and points
        ]
        told = ", ".join([f"loss {words.number(losses[-1][1])}", *last]) if losses else ""
        notes = [f'<p class="muted">{coded(note)}</p>' for note in self._notes]
        return _whole(f"<p><strong>{escape(state)}</strong> {escape(told)}</p>", _figures(shown), *notes)


def _displaying() -> Callable[[str], Callable[[str], object]] | None:
    """How HTML is shown and replaced in the notebook that this process serves; None where it serves none."""
    python = sys.modules.get("IPython")
    shell = python.get_ipython() if python is not None and hasattr(python, "get_ipython") else None
    if shell is None or getattr(shell, "kernel", None) is None:
        return None
    from IPython.display import HTML, display

    def show(text: str) -> Callable[[str], object]:
        handle = display(HTML(text), display_id=True)  # type: ignore[no-untyped-call]
        return lambda later: handle.update(HTML(later))  # type: ignore[no-untyped-call]

    return show


# ---- parts


def coded(text: str) -> str:
    """The text, escaped, with what stands between backticks as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner is only a character
        return escape(text)
    return "".join(f"<code>{escape(part)}</code>" if i % 2 else escape(part) for i, part in enumerate(parts))


@functools.lru_cache(maxsize=1)
def _style() -> str:
    return (resources.files("wellfit.report") / "notebook.css").read_text(encoding="utf-8")


def _whole(*parts: str) -> str:
    return f'<style>{_style()}</style><div class="wellfit">{"".join(parts)}</div>'


def _figures(shown: Sequence[Figure]) -> str:
    drawn = []
    for figure in shown:
        svg = curves.draw(figure, *SIZE, name=f"wellfit-{secrets.token_hex(4)}")
        if svg:
            drawn.append(f"<figure><figcaption>{escape(figure.title)}</figcaption>{svg}</figure>")
    return f'<div class="figures">{"".join(drawn)}</div>' if drawn else ""


def _results(recipe: Recipe, events: Sequence[Event]) -> str:
    found = page.results(recipe, events)
    if found is None:
        return ""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in ("", *found.columns))
    rows = [
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td{' class=best' if best else ''}>{escape(cell)}</td>" for cell, best in cells)
        + "</tr>"
        for name, cells in found.rows
    ]
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _finding(finding: Mapping[str, Any]) -> str:
    """A finding of a run's file, or one that was just made: severity, onset, words, numbers, what to do."""
    severity = str(finding["severity"])
    onset = words.onset(finding)
    place = f" ({escape(str(finding['place']))})" if finding.get("place") else ""
    look = severity if severity in ("error", "warning", "advice") else ""
    parts = [
        f'<p><strong class="{look}">{escape(severity)}: {escape(str(finding["id"]))}</strong>'
        f'<span class="muted">{", " if onset else ""}{onset}{place}</span><br>{coded(str(finding["says"]))}</p>'
    ]
    remedies = finding.get("remedies")
    for remedy in remedies if isinstance(remedies, list) else ():
        if isinstance(remedy, Mapping):
            parts.append(f"<p>→ {coded(str(remedy.get('words', '')))}</p>")
            if remedy.get("snippet"):
                parts.append(f"<pre>{escape(str(remedy['snippet']))}</pre>")
    evidence = finding.get("evidence")
    if isinstance(evidence, Mapping) and evidence:
        told = [(escape(str(name)), escape(_number(value))) for name, value in evidence.items()]
        parts.append(_folded("The numbers behind it", _rows(told)))
    return "".join(parts)


def _number(value: Any) -> str:
    return words.number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def _settings(told: Sequence[page.Setting]) -> str:
    return _rows([
        (
            f"<code>{escape(one.path)}</code>",
            f"{escape(one.value)}",
            f'<span class="muted">{escape(one.by)}</span>',
            f'{coded(one.what)}<br><span class="muted">{" · ".join(coded(part) for part in (one.why, one.source) if part)}</span>',
        )
        for one in told
    ])  # fmt: skip


def _rows(rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; the first names the row."""
    made = [
        f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    ]
    return f"<table><tbody>{''.join(made)}</tbody></table>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """A table of plain cells, the head first."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def _paragraphs(sentences: Iterable[str]) -> list[str]:
    return [f"<p>{coded(sentence)}</p>" for sentence in sentences]


def _lines(text: str) -> list[str]:
    """A table of text and the words under it."""
    table, _, rest = text.partition("\n\n")
    return [f"<pre>{escape(table)}</pre>", *_paragraphs(line for line in rest.splitlines() if line.strip())]
