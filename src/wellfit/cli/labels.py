"""`wellfit learning-curve`: the words around `wellfit/curve.py`."""

import sys
from pathlib import Path
from typing import Any

import typer

from wellfit.cli.diagnose import keep, writable
from wellfit.cli.drawing import without
from wellfit.cli.show import STOPPED, wrapped
from wellfit.recipe import Recipe
from wellfit.report.files import check_picture, has_matplotlib, write_figure


def told(recipe: Recipe, sizes: str | None, out: Path | None, json: Path | None, **how: Any) -> None:
    """Trains what is missing, prints the table and what follows from it, writes the picture and the numbers."""
    from wellfit.curve import SUMMARY, learning_curve

    writable(json)
    check_picture(out, "Drawing the curve")
    wanted = [part.strip() for part in sizes.split(",") if part.strip()] if sizes is not None else None
    try:
        curve = learning_curve(recipe, sizes=wanted, **how)
    except KeyboardInterrupt:  # between two runs, or the second one
        print("wellfit: stopped. The same command goes on with what is missing.", file=sys.stderr)
        sys.exit(STOPPED["interrupted"])
    table, _, _ = str(curve).partition("\n\n")
    typer.echo(f"\n{table}\n")
    for sentence in curve.says:
        typer.echo(wrapped(f"{sentence[0].upper()}{sentence[1:]}"))
    place = Path(curve.folder)
    typer.echo(f"\nRuns:    {place}\nNumbers: {json or place / SUMMARY}")
    keep(json, curve.as_dict())
    if any(point.scores for line in curve.lines for point in line.points):
        if has_matplotlib():
            from wellfit.report import pictures

            typer.echo(f"Picture: {write_figure(pictures.learning_curve(curve), out or place / 'curve.png')}")
        else:
            without()
    if curve.missing:
        typer.echo("\nThe same command goes on with what is missing.")
        sys.exit(STOPPED["interrupted"])
