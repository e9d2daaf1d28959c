"""`wellfit find-lr`: the words around `trials/find_lr.py`."""

import sys
from pathlib import Path
from typing import Any

import typer

from wellfit.cli.diagnose import keep, writable
from wellfit.cli.show import STOPPED, wrapped
from wellfit.recipe import Recipe
from wellfit.report.files import check_picture

NO_ANSWER = 3  # exit status, as of a check that failed


def told(recipe: Recipe, called: str, out: Path | None, json: Path | None, **how: Any) -> None:
    """Measures, prints the table and what follows from it, writes the picture and the numbers."""
    from wellfit.trials.find_lr import find_lr

    writable(json)
    check_picture(out, "Drawing the rates")
    try:
        found = find_lr(recipe, tell=lambda line: print(line, file=sys.stderr, flush=True), **how)
    except KeyboardInterrupt:
        print("wellfit: stopped. Nothing was kept.", file=sys.stderr)
        sys.exit(STOPPED["interrupted"])
    table, _, _ = str(found).partition("\n\n")
    typer.echo(f"\n{table}\n")
    for sentence in found.says:
        typer.echo(wrapped(sentence))
    keep(json, found.as_dict())
    if out is not None:
        typer.echo(f"\nPicture: {found.draw(out)}")
    if found.suggestion is None:
        typer.echo("\nNo learning rate is suggested.")
        sys.exit(NO_ANSWER)
    typer.echo(f"\nTrain with it: wellfit train {called} --set optimizer.learning_rate={found.suggestion:g}")
