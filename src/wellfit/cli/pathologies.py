"""`wellfit lab`: what it prints, and the files it writes, around `wellfit/laboratory`."""

import sys
from pathlib import Path
from typing import Any

import typer

from wellfit.cli.diagnose import keep, writable
from wellfit.cli.drawing import without
from wellfit.cli.show import STOPPED, wrapped
from wellfit.errors import MissingExtra, RecipeError
from wellfit.laboratory import pathologies
from wellfit.report.files import check_picture, has_matplotlib


def told(name: str, everything: bool, seeds: int, folder: Path, out: Path | None, json: Path | None) -> None:
    """Lists the pathologies, or runs one or all of them, prints what came of it and draws it.

    Without matplotlib one is told without its picture, and all are refused, since what they are for is their page.
    """
    if name and everything:
        raise RecipeError(f"Both {name!r} and `--all` were given; name one pathology, or run all of them.")
    if not name and not everything:
        if out is not None or json is not None:
            raise RecipeError("No pathology was named, so there is nothing to write. Name one, or add `--all`.")
        listed()
        return
    if everything and out is not None:
        raise RecipeError("`--out` names one picture, and `--all` draws one of each; `--folder` says where they go.")
    writable(json)
    check_picture(out, "Drawing a pathology")
    chosen = pathologies.find(name) if name else None
    try:
        if chosen is not None:
            _one(chosen.name, seeds, out or folder / f"{chosen.name}.png", json)
        else:
            _all(seeds, folder, json)
    except KeyboardInterrupt:
        print("wellfit: stopped.", file=sys.stderr)
        sys.exit(STOPPED["interrupted"])


def listed() -> None:
    """All pathologies, one line each."""
    everything = pathologies.PATHOLOGIES.values()
    typer.echo(
        "Faults of training that the lab causes on purpose, on real digits, for the doctor to name and to cure:\n"
    )
    width = max(len(one.name) for one in everything)
    for one in everything:
        typer.echo(wrapped(one.line, f"  {one.name:<{width}}  ", " " * (width + 4)))
    typer.echo("\nwellfit lab NAME     runs one over three seeds, and draws lab/NAME.png")
    typer.echo("wellfit lab --all    runs all of them, and binds them in lab/index.html")


def _one(name: str, seeds: int, out: Path, json: Path | None) -> None:
    from wellfit.laboratory import verb

    verb.check_seeds(seeds)
    drawn = has_matplotlib()
    if drawn:
        verb.opened(out.parent)
    else:
        without()
    lesson = verb.lab(name, seeds=seeds)
    typer.echo(f"\n{lesson}\n")
    _kept(json, lesson.as_dict())
    if drawn:
        typer.echo(f"Picture: {verb.draw(lesson, out)}")


def _all(seeds: int, folder: Path, json: Path | None) -> None:
    from wellfit.laboratory import verb

    verb.check_seeds(seeds)
    if not has_matplotlib():
        raise MissingExtra("matplotlib", "pictures", "The page of all pathologies")
    lessons = verb.lab(seeds=seeds, folder=folder)
    rows = [("", "named by the doctor", "with the fault", "cured")]
    for lesson in lessons:
        before, after = (f"{100 * lesson.accuracy(of).mean:.1f} %" for of in ("faulty", "cured"))
        rows.append((lesson.pathology.name, lesson.when, before, after))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    typer.echo()
    for row in rows:
        typer.echo(
            f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}".rstrip()
        )
    named = sum(lesson.found is not None for lesson in lessons)
    typer.echo(
        f"\nThe doctor named {named} of {len(lessons)}. The numbers are held-out accuracies, the mean of the seeds."
    )
    _kept(json, [lesson.as_dict() for lesson in lessons])
    typer.echo(f"Page:     {folder / verb.PAGE}\nPictures: {folder}/NAME.png, and all of them in {folder / verb.SHEET}")


def _kept(json: Path | None, lessons: Any) -> None:
    keep(json, {"lessons": lessons if isinstance(lessons, list) else [lessons]})
    if json is not None:
        typer.echo(f"Numbers: {json}")
