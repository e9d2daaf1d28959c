"""`wellfit profile`: the words around `trials/profile.py`."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import typer

from wellfit.cli.diagnose import keep, writable
from wellfit.cli.show import STOPPED, wrapped
from wellfit.recipe import Recipe


def told(
    called: str,
    recipe: Recipe,
    overrides: list[str],
    how: dict[str, Any],
    trace: Path | None,
    json: Path | None,
) -> None:
    """Measures, prints the tables and what follows from them, and writes the trace and the numbers."""
    writable(json)
    from wellfit.trials.profile import profile

    named = recipe if recipe.name else recipe.override({"name": Path(called).stem or called}, by="derived")
    try:
        found = profile(named, trace=trace, **how, tell=lambda line: print(line, file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        print("wellfit: stopped. Nothing was kept.", file=sys.stderr)
        sys.exit(STOPPED["interrupted"])
    if int(os.environ.get("RANK", "0")):
        return  # the first rank speaks
    typer.echo(f"\n{found.tables()}\n")
    for sentence in found.says:
        typer.echo(wrapped(sentence))
    keep(json, found.as_dict())
    if trace is not None:
        typer.echo(f"\nTrace: {trace}, for https://ui.perfetto.dev or chrome://tracing")
    held = found.held
    if held:
        before = [one.change for one in held if one.kind == "environment"]
        changes = [part for one in held if one.kind == "recipe" for part in one.change.split(",")]
        replaced = {part.partition("=")[0] for part in changes}
        sets = [*(one for one in overrides if one.partition("=")[0] not in replaced), *changes]
        told = " ".join([*before, "wellfit train", shlex.quote(called), *(f"--set {shlex.quote(one)}" for one in sets)])
        typer.echo(f"\nTrain with it: {told}")
