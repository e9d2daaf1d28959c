"""`wellfit draw`: the words around `report/pictures.py` and `report/attention.py`."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from wellfit.errors import RecipeError
from wellfit.report.files import check_picture, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ATTENTION = "attention"


def drawn(name: str, arguments: list[str], out: Path | None) -> None:
    """Draws a picture by name and says where it is."""
    from wellfit.recipe import nearest
    from wellfit.report import pictures

    names = [*pictures.PICTURES, ATTENTION]
    if name not in names:
        raise RecipeError(f"There is no picture called {name!r}; it can be {', '.join(names)}.{nearest(name, names)}")
    out = out or Path(f"{name}.png")
    check_picture(out, "Drawing a picture")
    if name == ATTENTION:
        if len(arguments) < 2:
            raise RecipeError(
                "Attention is drawn of a run and a text: `wellfit draw attention RUN 'the text'`. "
                f"Received: {' '.join(arguments) or 'nothing'}."
            )
        figure = _attention(Path(arguments[0]), " ".join(arguments[1:]))
    else:
        if arguments:
            raise RecipeError(f"The picture {name!r} takes nothing more, but received {' '.join(arguments)!r}.")
        figure = pictures.PICTURES[name]()
    typer.echo(write_figure(figure, out))


def without() -> None:
    """Says that there is no picture."""
    typer.echo("Picture: none, as matplotlib is not here; `pip install 'wellfit[pictures]'` brings it.")


def _attention(run: Path, text: str) -> "Figure":
    """Of a run's model for a text; says so if the model does not see all of it."""
    from wellfit.report import pictures
    from wellfit.report.attention import looked

    seen = looked(run, text)
    if seen.seen < seen.tokens:
        typer.echo(
            f"wellfit: The text has {seen.tokens} tokens and the model sees {seen.seen}; the others are not drawn.",
            err=True,
        )
    return pictures.attention(seen.maps, seen.rows, seen.columns, seen.title)
