"""Pictures that explain, written to files: the words around `report/pictures.py`."""

from pathlib import Path

import typer

from wellfit.errors import RecipeError, RunError

ENDINGS = (".png", ".svg", ".pdf")
ATTENTION = "attention"


def drawn(name: str, arguments: list[str], out: Path | None) -> None:
    """Draws a picture by name and says where it is."""
    from wellfit.recipe import nearest
    from wellfit.report import pictures

    names = [*pictures.PICTURES, ATTENTION]
    if name not in names:
        raise RecipeError(f"There is no picture called {name!r}; it can be {', '.join(names)}.{nearest(name, names)}")
    out = out or Path(f"{name}.png")
    if out.suffix.lower() not in ENDINGS:
        raise RecipeError(f"`--out` is {str(out)!r}; a picture is written as {', '.join(ENDINGS)}.")
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
    try:
        figure.savefig(out)
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror}. Name another file with `--out`.") from None
    typer.echo(out)


def _attention(run: Path, text: str):  # type: ignore[no-untyped-def]
    import torch

    from wellfit.data.tokens import Tokens
    from wellfit.deliver.predict import Predictor
    from wellfit.models.attention import attention_maps
    from wellfit.report import pictures

    chosen = Predictor.of(run)
    if "tokens" not in chosen.record:
        raise RunError(
            f"The run {run} is of the task {chosen.task!r}, whose model reads no text, so there is no attention to draw."
        )
    tokens = Tokens.of(chosen.record["tokens"])
    numbers = tokens.encode(text)[: int(chosen.record["context"])]
    if not numbers:
        raise RecipeError("The text is empty; attention needs at least one token to look at.")
    with torch.no_grad():
        maps = attention_maps(chosen.model, torch.tensor([numbers]))
    return pictures.attention(maps, [tokens.decode([n]) for n in numbers])
