"""What `wellfit eject` prints: where the script is, how to run it, and whether its weights are the run's."""

import sys
from pathlib import Path
from shlex import quote

import typer


def told(run: Path, file: Path | None, check: bool, force: bool) -> None:
    """Writes the script, and with `check` runs it. Leaves with 3 if its weights are not the run's."""
    from wellfit.deliver.eject import eject

    done = eject(run, file, check=check, force=force)
    typer.echo(str(done))
    if done.apart is None:
        typer.echo(
            f"\nRun it: python {quote(str(done.script))}\n"
            f"Compare it with the run: wellfit eject {quote(str(run))} {quote(str(done.script))} --force --check"
        )
    elif done.apart:
        sys.exit(3)
