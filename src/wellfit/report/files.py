"""Pictures as files: whether any can be drawn here, which files they can be, and the writing. What is drawn is others' business.

Nothing here imports matplotlib, so that asking costs nothing.

    >>> check_picture(Path("curve.png"), "Drawing the curve")  # before an hour of training
    >>> write_figure(figure, Path("curve.png"))
    PosixPath('curve.png')
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from wellfit.errors import MissingExtra, RecipeError, RunError
from wellfit.whole import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")


def has_matplotlib() -> bool:
    """Whether pictures can be drawn here."""
    return importlib.util.find_spec("matplotlib") is not None


def check_ending(out: Path) -> None:
    """Raises RecipeError for a file that is no picture by its ending."""
    if out.suffix.lower() not in ENDINGS:
        raise RecipeError(f"The picture was to be {str(out)!r}; a picture is written as {', '.join(ENDINGS)}.")


def check_picture(out: Path | None, what: str) -> None:
    """Checks, before there is anything to draw, that a picture can be written to `out`; nothing where none was asked for.

    `what` begins the sentence that says what needs matplotlib: "Drawing the curve". Raises RecipeError for a file that is no
    picture by its ending, RunError where its folder is not there, and MissingExtra without matplotlib.
    """
    if out is None:
        return
    check_ending(out)
    folder = out.resolve().parent
    if not folder.is_dir():
        raise RunError(f"{out} cannot be written: there is no folder {folder}. Make it, or name another file.")
    if not has_matplotlib():
        raise MissingExtra("matplotlib", "pictures", what)


def write_figure(figure: Figure, out: Path) -> Path:
    """Writes a figure, in the format that the file's ending names, whole or not at all. Returns where.

    Raises RecipeError for another ending, and RunError if it cannot be written.
    """
    check_ending(out)
    with whole(out, "Name another file for the picture.") as part:
        figure.savefig(part, format=out.suffix[1:].lower())
    return out
