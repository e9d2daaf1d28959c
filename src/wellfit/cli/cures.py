"""`wellfit rerun`, `cure`, `compare` and `ablate`: the words around `wellfit/trials/`."""

import sys
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Any

import typer

from wellfit.cli.diagnose import keep, writable
from wellfit.cli.drawing import without
from wellfit.cli.show import STOPPED, wrapped
from wellfit.recipe import assignment
from wellfit.report.files import check_picture, has_matplotlib, write_figure


def repeated(run: Path, overrides: list[str], from_step: int, folder: Path | None) -> None:
    """Runs the counterfactual and says what came of it."""
    from wellfit.trials.counterfactual import rerun

    found = rerun(run, set=dict(map(assignment, overrides)), from_step=from_step, folder=folder)
    typer.echo()
    for line in str(found).splitlines():
        typer.echo(wrapped(line))
    typer.echo(f"\nRun:    {found.run.folder}\nReport: {found.run.folder / 'report.html'}")
    ended = found.run.ended()
    if ended is not None and ended.reason == "interrupted":
        typer.echo(f"\nGo on with it: wellfit resume {quote(str(found.run.folder))}")
        sys.exit(STOPPED["interrupted"])
    if not found.changes and not found.identical:
        sys.exit(3)


def cured(run: Path, json: Path | None, **how: Any) -> None:
    """Treats a run and says with what, and whether it helped."""
    from wellfit import report
    from wellfit.report.words import change_told
    from wellfit.run import Run
    from wellfit.trials.treatment import PICTURE, cure

    writable(json)
    found = _unless_stopped(lambda: cure(run, **how))
    typer.echo()
    for line in str(found).splitlines():
        typer.echo(wrapped(line, rest="    ") if line.startswith("  ") else wrapped(line))
    keep(json, found.as_dict())
    if found.comparison is not None and found.file is not None:
        typer.echo(f"\nRecipe:  {found.file}")
        about = "; ".join(map(change_told, found.changes))
        _draw(
            found.comparison,
            found.file.with_name(PICTURE),
            f"Before and after the cure: {found.comparison.name}",
            about,
        )
        typer.echo(f"Train it: wellfit train {found.file}")
    if found.tried:
        typer.echo(f"Report:  {report.write(Run.open(run))}")
    if found.missing:
        sys.exit(STOPPED["interrupted"])


def planned(run: Path) -> None:
    """Lists what a cure would try first, cause by cause; nothing is trained."""
    from wellfit.report.treatment import differences
    from wellfit.report.words import change_told
    from wellfit.run import Run
    from wellfit.trials.treatment import plan

    recipe, cause = Run.open(run).recipe, ""
    candidates = plan(run)
    for one in candidates:
        if one.finding != cause:
            cause = one.finding
            typer.echo(f"\nAgainst {cause}:")
        changes = ", ".join(map(change_told, differences(recipe, one.recipe)))
        typer.echo(wrapped(f"{one.remedy} ({changes})", "  ", "    "))
    if not candidates:
        typer.echo("There is nothing that a change of the recipe could mend. `wellfit doctor` says what was found.")
    else:
        typer.echo(f"\nTry them: wellfit cure {quote(str(run))}")


def compared(what: Callable[[], Any], title: str, out: Path | None, json: Path | None) -> None:
    """Trains what is missing of a comparison, prints the table and the verdicts, writes the picture and the numbers."""
    from wellfit.report import together

    writable(json)
    check_picture(out, "Drawing the comparison")
    comparison = _unless_stopped(what)
    table, _, _ = str(comparison).partition("\n\n")
    typer.echo(f"\n{table}\n")
    for sentence in comparison.says:
        typer.echo(wrapped(sentence))
    place = Path(comparison.folder)
    typer.echo(f"\nRuns:    {place}\nNumbers: {json or place / together.COMPARISON}")
    keep(json, comparison.as_dict())
    if any(arm.folders for arm in comparison.arms):
        typer.echo(f"Report:  {together.write(place)}")
        _draw(comparison, out or place / "comparison.png", f"{title}: {comparison.name}", "")
    if comparison.missing:
        typer.echo("\nThe same command goes on with what is missing.")
        sys.exit(STOPPED["interrupted"])


def _draw(comparison: Any, path: Path, title: str, under: str) -> None:
    if not has_matplotlib():
        without()
        return
    from wellfit.report.beside import beside

    typer.echo(f"Picture: {write_figure(beside(comparison, title, under), path)}")


def _unless_stopped(what: Callable[[], Any]) -> Any:
    try:
        return what()
    except KeyboardInterrupt:  # between two runs, or the second one
        print("wellfit: stopped. The same command goes on with what is missing.", file=sys.stderr)
        sys.exit(STOPPED["interrupted"])
