"""`wellfit runs`, a table of what is here, and `wellfit show`, one run on one screen. No torch; what is told is made elsewhere.

On a terminal it is coloured and fits its width; elsewhere it is plain and whole. `NO_COLOR` is kept to. Names come from data and from
other people's folders, so nothing reaches the terminal that could steer it.

$ wellfit show runs/first
"""

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from wellfit.cli.show import wrapped
from wellfit.errors import RecipeError, RunError
from wellfit.events import Ended, Evaluated, Event, Stepped
from wellfit.glance import BEING_TRAINED, BROKEN, KILLED, NOT_BEGUN, Glance, glance
from wellfit.recipe import Recipe, nearest
from wellfit.report import words
from wellfit.report.sparks import BLOCKS, PLAIN, spark
from wellfit.report.together import COMPARISON
from wellfit.run import Run
from wellfit.run import runs as runs_below

STATES = {  # how a run stands -> the word for it, and its colour
    "finished": ("finished", "green"),
    "early-stopping": ("stopped early", "green"),
    BEING_TRAINED: ("training", "cyan"),
    "interrupted": ("interrupted", "yellow"),
    KILLED: ("killed", "yellow"),
    NOT_BEGUN: ("not begun", "dim"),
    "loss-not-finite": ("failed", "red"),
    BROKEN: ("unreadable", "red"),
}
SEVERITIES = {"error": "red", "warning": "yellow", "advice": "dim"}
SORTS: dict[str, Callable[[Glance], Any]] = {  # best, most or latest first
    "age": lambda one: one.began if one.began is not None else -1.0,
    "name": lambda one: one.name,
    "state": lambda one: -list(STATES).index(one.state) if one.state in STATES else 1,
    "steps": lambda one: one.step,
    "score": lambda one: _rank(one),
    "findings": lambda one: tuple(one.findings.get(severity, 0) for severity in SEVERITIES),
}
COLUMNS = ("run", "state", "steps", "score", "best", "findings", "age")
LEAVES_FIRST = ("best", "age", "findings", "steps")  # where a terminal is narrow
NARROWEST = 12  # letters of a run's name that are kept
GAP = "  "


# ---- the table


def runs(root: Path, sort: str | None, wanted: str | None) -> None:
    """The runs below a folder: as a table on a terminal, as plain columns elsewhere."""
    if sort is not None and sort not in SORTS:
        raise RecipeError(f"`--sort` is {sort!r}; it can be {', '.join(SORTS)}.{nearest(sort, SORTS)}")
    found = runs_below(root)
    for folder in sorted(file.parent for file in root.glob(f"*/{COMPARISON}")):
        place = shlex.quote(words.clean(str(folder)))
        typer.echo(
            f"A comparison: `wellfit runs {place}` lists its runs, `wellfit report {place}` writes its page.", err=True
        )
    if not found and not root.is_dir() and root != Path("runs"):
        raise RunError(f"There is no folder {words.clean(str(root))}. Name the one that the runs are in.")
    if not found:
        typer.echo(f"No runs in {words.clean(str(root))}. `wellfit train` makes one.")
        return
    seen = [glance(run) for run in found]
    if wanted is not None:
        seen = [one for one in seen if wanted.lower() in _text(one)]
        if not seen:
            typer.echo(
                f"None of the {words.count(len(found), 'run')} in {words.clean(str(root))} has {wanted!r} in its name, state or score."
            )
            return
    if sort is not None:
        seen.sort(key=lambda one: one.name)  # equal ones by name
        seen.sort(key=SORTS[sort], reverse=sort != "name")
    now = time.time()
    rows = [_row(one, now) for one in seen]
    if sys.stdout.isatty():
        _table(rows, seen)
    else:
        _plain(rows)


def _row(one: Glance, now: float) -> dict[str, str]:
    steps = f"{one.step:,}" + (f"/{one.steps:,}" if one.steps and one.step != one.steps else "")
    best = "" if one.best_step is None else f"step {one.best_step:,}"
    counts = [
        words.count(one.findings.get(s, 0), s, s if s == "advice" else "") for s in SEVERITIES if one.findings.get(s)
    ]
    return {
        "run": words.clean(one.name), "state": words.clean(STATES.get(one.state, (one.state, ""))[0]),
        "steps": steps if one.step or one.steps else "", "score": _score(one), "best": best,
        "findings": ", ".join(counts), "age": words.ago(now - one.began) if one.began is not None else "",
    }  # fmt: skip


def _score(one: Glance) -> str:
    if not one.metrics:
        return ""
    name = words.told(one.metrics)
    return words.clean(words.scored_as(name, one.metrics[name], one.split))


def _rank(one: Glance) -> tuple[str, float]:
    """The score, for sorting: those of one metric together, the better ones first."""
    if not one.metrics:
        return "", 0.0
    name = words.told(one.metrics)
    value = one.metrics[name]
    sign = -1.0 if name in words.METRICS and words.METRICS[name].better == "min" else 1.0
    return name, sign * value if value == value else float("-inf")


def _text(one: Glance) -> str:
    """What `--filter` looks in."""
    return f"{one.name} {one.state} {STATES.get(one.state, ('',))[0]} {_score(one)}".lower()


def _plain(rows: Sequence[Mapping[str, str]]) -> None:
    cells = [dict(zip(COLUMNS, COLUMNS, strict=True)), *rows]
    widths = {name: max(len(row[name]) for row in cells) for name in COLUMNS}
    for row in cells:
        typer.echo(GAP.join(row[name].ljust(widths[name]) for name in COLUMNS).rstrip())


def _table(rows: Sequence[Mapping[str, str]], seen: Sequence[Glance]) -> None:
    """Coloured, without what does not fit."""
    from rich.text import Text

    width = shutil.get_terminal_size().columns
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in COLUMNS}
    shown = [name for name in COLUMNS if name == "run" or any(row[name] for row in rows)]
    for name in LEAVES_FIRST:
        if _needed(shown, {**widths, "run": min(widths["run"], 2 * NARROWEST)}) > width and name in shown:
            shown.remove(name)
    widths["run"] = max(
        min(widths["run"], NARROWEST), min(widths["run"], width - _needed(shown, widths) + widths["run"])
    )
    console = _console()
    console.print(
        Text(GAP.join(name.ljust(widths[name]) for name in shown).rstrip(), style="bold"),
        overflow="ellipsis",
        no_wrap=True,
    )
    for row, one in zip(rows, seen, strict=True):
        line = Text()
        for name in shown:
            cell = row[name] if len(row[name]) <= widths[name] else row[name][: widths[name] - 1] + "…"
            line.append(cell.ljust(widths[name]) + (GAP if name != shown[-1] else ""), style=_style(name, one))
        line.rstrip()
        console.print(line, overflow="ellipsis", no_wrap=True)


def _needed(shown: Sequence[str], widths: Mapping[str, int]) -> int:
    return sum(widths[name] for name in shown) + len(GAP) * (len(shown) - 1)


def _style(column: str, one: Glance) -> str:
    if column == "state":
        return STATES.get(one.state, ("", ""))[1]
    if column == "findings":
        return next((SEVERITIES[severity] for severity in SEVERITIES if one.findings.get(severity)), "")
    return "dim" if column in ("best", "age") else ""


# ---- one run


def show(folder: Path) -> None:
    """One run on one screen: how it stands, its scores, its course, what was found, how to go on."""
    run = Run.open(folder)
    events = run.events()
    seen, recipe = glance(run), run.recipe
    say = _Screen()
    state, colour = STATES.get(seen.state, (seen.state, ""))
    age = f", {words.ago(time.time() - seen.began)}" if seen.began is not None else ""
    say.line([(words.clean(run.folder.name), "bold"), (f"  {words.clean(state)}", colour), (age, "dim")])
    say.text(words.headline(recipe, events) + ".", "bold")
    if seen.state == BEING_TRAINED:
        say.text(f"It is being trained now: step {seen.step:,} of {seen.steps:,}.")
    if run.torn:
        say.text(
            f"{words.count(run.torn, 'line')} of its events.jsonl could not be read and were passed over.", "yellow"
        )
    _scores(say, recipe, events)
    _curves(say, recipe, events)
    _findings(say, run)
    _onward(say, run, recipe, seen, events)


def _scores(say: "_Screen", recipe: Recipe, events: Sequence[Event]) -> None:
    """The model's scores beside the yardsticks', the best of each row marked."""
    from wellfit.report.page import results

    found = results(recipe, events)
    if found is None:
        return
    rows = [["", *found.columns], *([name, *(value for value, _ in cells)] for name, cells in found.rows)]
    best = [set[int](), *({i + 1 for i, (_, wins) in enumerate(cells) if wins} for _, cells in found.rows)]
    texts = [[words.clean(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in texts) for i in range(len(texts[0]))]
    say.head("Scores")
    if sum(widths) + 2 * len(widths) > say.width:  # one below the other
        for row, wins in zip(texts[1:], best[1:], strict=True):
            for i, (column, cell) in enumerate(zip(texts[0][1:], row[1:], strict=True), start=1):
                if cell != "–":
                    say.line([(f"  {row[0]}, {column}: ", ""), (cell, "bold green" if i in wins else "")])
        return
    for row, wins in zip(texts, best, strict=True):
        cells = [cell.ljust(widths[0]) if i == 0 else cell.rjust(widths[i]) for i, cell in enumerate(row)]
        style = "dim" if row is texts[0] else ""
        say.line([("  ", ""), *((cell + GAP, "bold green" if i in wins else style) for i, cell in enumerate(cells))])


def _curves(say: "_Screen", recipe: Recipe, events: Sequence[Event]) -> None:
    """The loss and the metric that stands for the run, as lines of blocks with their first, best and last number."""
    losses = [(float(e.step), e.loss) for e in events if isinstance(e, Stepped)]
    valid = words.evaluations(events)
    curves: list[tuple[str, list[tuple[float, float]], str]] = []
    if losses:
        curves.append(("loss", losses, "loss"))
    for metric in dict.fromkeys(("loss", _main(recipe, valid))):
        points = [(float(e.step), e.metrics[metric]) for e in valid if metric in e.metrics]
        if points:
            curves.append((f"validation {words.plain(metric)}", points, metric))
    if not curves:
        return
    say.head("Course")
    names = [words.clean(name) for name, _, _ in curves]
    width = max(map(len, names))
    told = [_numbers(recipe, metric, points) for _, points, metric in curves]
    room = min(40, say.width - width - max(map(len, told)) - 6)
    beside = room >= 8
    for name, (_, points, metric), numbers in zip(names, curves, told, strict=True):
        line = spark(points, room if beside else max(8, say.width - width - 4), say.signs, log=metric == "loss")
        say.line(
            [
                (f"  {name:<{width}}  ", ""),
                (f"{line:<{room}}" if beside else line, "cyan"),
                (f"  {numbers}" * beside, ""),
            ]
        )
        if not beside:
            say.text(numbers, first="    ")


def _main(recipe: Recipe, valid: Sequence[Evaluated]) -> str:
    return words.told(valid[-1].metrics, recipe.evaluation.metric) if valid else "loss"


def _numbers(recipe: Recipe, metric: str, points: Sequence[tuple[float, float]]) -> str:
    """`2.31 -> 0.02, best 0.018 at step 612`."""
    first, final = (words.amount(metric, value) for value in (points[0][1], points[-1][1]))
    course = first if len(points) == 1 else f"{first} -> {final}"
    goal = words.better(recipe, metric)
    finite = [(step, value) for step, value in points if abs(value) < float("inf")]
    if goal is None or len(finite) < 2:
        return course
    step, value = (max if goal == "max" else min)(finite, key=lambda point: point[1])
    return f"{course}, best {words.amount(metric, value)} at step {step:,.0f}"


def _findings(say: "_Screen", run: Run) -> None:
    """What the doctor found, causes first, with the onset and the first thing to do; before the end, what it noted."""
    found = run.findings()
    if not found:
        return
    say.head("Findings")
    for finding in found:
        severity, onset = str(finding["severity"]), words.onset(finding)
        told = [(f"  {words.clean(severity)}: {words.clean(str(finding['id']))}", SEVERITIES.get(severity, ""))]
        say.line([*told, (f", {onset}" if onset else "", "dim")])
        say.text(str(finding["says"]), first="    ")
        remedies = finding.get("remedies")
        if isinstance(remedies, list) and remedies and isinstance(remedies[0], dict):
            say.text(f"> {remedies[0].get('words', '')}", first="    ", rest="      ")


def _onward(say: "_Screen", run: Run, recipe: Recipe, seen: Glance, events: Sequence[Event]) -> None:
    """What one may do next, the most likely first."""
    folder = shlex.quote(str(run.folder))
    ended = words.last(events, Ended)
    over = ended is not None and ended.reason in ("finished", "early-stopping")
    ill = any(finding["severity"] != "advice" for finding in run.findings())
    given = recipe.task == "given"
    next_: list[tuple[str, str]] = []
    if not over and seen.state != BEING_TRAINED:
        again = f'wellfit.fit(..., resume="{run.folder}")' if given else f"wellfit resume {folder}"
        next_.append((again, "goes on from the last checkpoint, to the same bits"))
    if ill and not given:
        next_.append((f"wellfit cure {folder}", "tries what could help, and proves it"))
    if over and not given:
        next_.append((f"wellfit predict {folder} INPUT", "uses it"))
    report = run.folder / "report.html"
    if report.is_file():
        next_.append((str(report), "the report, with all figures"))
    else:
        next_.append((f"wellfit report {folder}", "writes its report"))
    say.head("Go on")
    cleaned = [(words.clean(command), why) for command, why in next_]
    width = max(len(command) for command, _ in cleaned)
    for command, why in cleaned:
        beside = width + len(why) + 4 <= say.width
        say.line([(f"  {command:<{width if beside else 0}}", "bold"), *([(f"  {why}", "dim")] if beside else [])])
        if not beside:
            say.text(why, "dim", first="    ")


class _Screen:
    """Lines on the standard output: styled on a terminal, plain elsewhere."""

    def __init__(self) -> None:
        self.console = _console() if sys.stdout.isatty() else None
        self.width = shutil.get_terminal_size().columns if self.console is not None else 110
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        try:
            (BLOCKS + "×").encode(encoding)
            self.signs = BLOCKS
        except UnicodeEncodeError:
            self.signs = PLAIN

    def line(self, parts: Sequence[tuple[str, str]]) -> None:
        """One line; a terminal that is narrower cuts it off."""
        if self.console is None:
            typer.echo("".join(text for text, _ in parts).rstrip())
            return
        from rich.text import Text

        text = Text.assemble(*parts)
        text.rstrip()
        self.console.print(text, no_wrap=True, overflow="ellipsis")

    def text(self, text: str, style: str = "", first: str = "", rest: str | None = None) -> None:
        """A paragraph."""
        for line in wrapped(text, first, rest).splitlines():
            self.line([(line, style)])

    def head(self, title: str) -> None:
        self.line([])
        self.line([(title, "bold")])


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)
