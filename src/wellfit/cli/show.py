"""What the commands print. Plain text, wrapped to the terminal; no logic beyond words."""

import difflib
import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

import typer

from wellfit.errors import RecipeError
from wellfit.events import Ended, Evaluated
from wellfit.recipe import Origin, Recipe, describe, nearest, paths, presets
from wellfit.report.words import setting, summary
from wellfit.run import Run
from wellfit.run import runs as runs_below

BY = {
    "user": "you",
    "preset": "the preset",
    "derived": "derived",
    "measured": "measured",
    "default": "default",
}
STOPPED = {"interrupted": 130, "loss-not-finite": 1}  # exit status of a run that did not end well


def chosen(recipe: str, overrides: list[str]) -> Recipe:
    """The recipe that is meant: a preset, a file or run, or defaults for the data at a path."""
    path = Path(recipe)
    is_recipe = recipe in presets() or path.suffix in (".yaml", ".yml") or (path / "recipe.yaml").is_file()
    is_data = recipe.startswith("hf:") or path.exists() or path.suffix.lower() in (".csv", ".tsv", ".parquet", ".npz")
    if not (is_recipe or is_data):  # two files may be meant by what their names share
        from wellfit.data.pairs import endings

        named = any(one.startswith(("data.text=", "data.target=")) for one in overrides)
        is_data = not path.exists() and len(endings(path)) > (0 if named else 1)
    if is_recipe or not is_data:
        loaded = Recipe.load(recipe)
        # A run's recipe is resolved for that run: what was derived is derived anew.
        loaded = loaded.unresolved() if path.exists() else loaded
    else:
        loaded = Recipe().override({"data.source": recipe}, by="user", why="named on the command line")
    return loaded.override(overrides)


def outcome(run: Run, leave: bool = True) -> None:
    """The end of a run in words, and where it is. Leaves with the status of a run that did not end well, if `leave`."""
    if os.environ.get("RANK", "0") != "0":  # the first rank speaks for all
        return
    typer.echo()
    for sentence in summary(run.recipe, run.events()):
        typer.echo(wrapped(sentence))
    typer.echo(f"\nRun:    {run.folder}\nReport: {run.folder / 'report.html'}")
    ended = run.ended()
    ill = any(finding["severity"] != "advice" for finding in run.findings())
    if leave and ill and ended is not None and ended.reason != "interrupted":
        typer.echo(f"Cure:   wellfit cure {run.folder}")
    if ended is not None and ended.reason in STOPPED:
        if ended.reason == "interrupted":
            typer.echo(f"\nGo on with it: wellfit resume {run.folder}")
        if leave or ended.reason == "interrupted":
            sys.exit(STOPPED[ended.reason])


def runs(root: Path) -> None:
    found = runs_below(root)
    if not found:
        typer.echo(f"No runs in {root}. `wellfit train` makes one.")
        return
    rows = [("run", "steps", "state", "best", "test")]
    for run in found:
        events = run.events()
        ended = next((event for event in reversed(events) if isinstance(event, Ended)), None)
        step = max((event.step for event in events), default=0)
        tests = [
            event for event in events if isinstance(event, Evaluated) and event.split == "test" and event.of == "model"
        ]
        best = "" if ended is None or ended.best_value is None else f"{ended.best_value:.4g} at {ended.best_step}"
        score = _headline(dict(tests[-1].metrics)) if tests else ""
        rows.append((run.folder.name, f"{step:,}", ended.reason if ended else "not ended", best, score))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def explanation(what: str, overrides: list[str]) -> None:
    if what in paths():
        field(what, Recipe().override(overrides))
        return
    if what and "." in what and not Path(what).exists() and what.partition(".")[0] in Recipe.model_fields:
        raise RecipeError(f"`{what}` is not in a recipe.{nearest(what, paths())} `wellfit explain` lists all fields.")
    if what and what not in presets() and not Path(what).exists():
        close = difflib.get_close_matches(what, [*presets(), *paths()], n=1)
        hint = f" Did you mean `{close[0]}`?" if close else ""
        raise RecipeError(
            f"{what!r} is not a preset, a recipe file, a run or a field.{hint} "
            f"The presets are {', '.join(presets())}; `wellfit explain` alone lists all fields."
        )
    recipe = Recipe.load(what) if what else Recipe()
    recipe = recipe.override(overrides)
    typer.echo(f"{what or 'The defaults'}: every setting, who set it, and why.\n")
    group = None
    for path, value in recipe.flat().items():
        head = path.rpartition(".")[0]
        if head != group:
            group = head
            about = describe(head, recipe).get("what", "") if head else "what is trained"
            typer.echo(f"\n{head or 'recipe'}: {about}")
        _line(path, value, recipe.origin(path), recipe)


def field(path: str, recipe: Recipe) -> None:
    """All that is known of one field."""
    about = describe(path, recipe)
    value = recipe.flat().get(path)
    typer.echo(f"{path}\n")
    typer.echo(wrapped(about.get("what", ""), "  "))
    typer.echo(f"  Value:   {setting(value)} ({BY[recipe.origin(path).by]})")
    if about.get("choices"):
        typer.echo(wrapped(f"Choices: {about['choices']}", "  ", " " * 11))
    if about.get("why"):
        typer.echo(wrapped(f"Why:     {about['why']}", "  "))
    if about.get("source"):
        typer.echo(wrapped(f"Source:  {about['source']}", "  "))
    typer.echo(f"  Set it:  wellfit train --set {path}=VALUE")


def _line(path: str, value: Any, origin: Origin, recipe: Recipe) -> None:
    about = describe(path, recipe)
    name = path.rpartition(".")[2]
    reason = origin.why or about.get("why", "")
    source = f" [{about['source']}]" if origin.by == "default" and about.get("source") else ""
    typer.echo(wrapped(f"{name} = {setting(value)}  ({BY[origin.by]})  {reason}{source}", "  ", "      "))


def _headline(scores: dict[str, float]) -> str:
    for name in ("accuracy", "r2", "rmse", "loss"):
        if name in scores:
            return f"{name} {scores[name]:.4f}"
    return ", ".join(f"{name} {value:.4g}" for name, value in list(scores.items())[:1])


def wrapped(text: str, first: str = "", rest: str | None = None) -> str:
    width = max(40, min(shutil.get_terminal_size().columns, 110))
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=first if rest is None else rest, break_on_hyphens=False
    )
