"""What the commands print. Plain text, wrapped to the terminal; no logic beyond words."""

import difflib
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import typer

from wellfit.errors import RecipeError
from wellfit.integrations.trackers import KINDS, Tracker, track, tracker
from wellfit.recipe import Origin, Recipe, describe, nearest, paths, presets
from wellfit.report import words
from wellfit.report.words import clean, setting
from wellfit.run import Run

BY = {
    "user": "you",
    "preset": "the preset",
    "derived": "derived",
    "measured": "measured",
    "default": "default",
}
FIRST_FINDINGS = 2  # told at the end of a training: causes, the most important first
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


def trackers(words: list[str]) -> list[Tracker]:
    """The trackers that are named."""
    return [tracker(word) for word in words]


def tracked(run: Path, words: list[str]) -> None:
    """Tells a run that exists to each tracker, and says where to look."""
    for one in trackers(words):
        typer.echo(f"{KINDS[one.kind]}: {clean(track(run, one.kind, one.place))}")


def outcome(run: Run, leave: bool = True, trackers: Sequence[Tracker] = ()) -> None:
    """The end of a run in words, and where it is. Leaves with the status of a run that did not end well, if `leave`."""
    if os.environ.get("RANK", "0") != "0":  # the first rank speaks for all
        return
    typer.echo()
    events, findings = run.events(), run.findings()
    noted = words.notes(events, findings)
    if len(noted) > 2:
        noted = [noted[0], f"{len(noted) - 1} more notes are in the report."]
    found = [
        f"Found: {', '.join(part for part in (one['severity'], one['id'], words.onset(one)) if part)}. {one['says']}"
        for one in findings[:FIRST_FINDINGS]
    ]
    if len(findings) > len(found):
        found.append(
            f"{words.count(len(findings) - len(found), 'more finding is', 'more findings are')} in the report."
        )
    for sentence in [*words.summary(run.recipe, events), *(f"Note: {note}" for note in noted), *found]:
        typer.echo(wrapped(sentence))
    typer.echo(f"\nRun:    {run.folder}\nReport: {run.folder / 'report.html'}")
    for one in trackers:
        if one.where:
            typer.echo(f"Track:  {clean(one.where)}")
    ended = run.ended()
    ill = any(finding["severity"] != "advice" for finding in findings)
    if leave and ill and ended is not None and ended.reason != "interrupted":
        typer.echo(f"Cure:   wellfit cure {quote(str(run.folder))}")
    if ended is not None and ended.reason in STOPPED:
        if ended.reason == "interrupted":
            typer.echo(f"\nGo on with it: wellfit resume {quote(str(run.folder))}")
        if leave or ended.reason == "interrupted":
            sys.exit(STOPPED[ended.reason])


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


def wrapped(text: str, first: str = "", rest: str | None = None) -> str:
    width = max(40, min(shutil.get_terminal_size().columns, 110))
    return textwrap.fill(
        clean(text),
        width,
        initial_indent=first,
        subsequent_indent=first if rest is None else rest,
        break_on_hyphens=False,
    )
