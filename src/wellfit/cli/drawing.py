"""Pictures that explain, written to files: the words around `report/pictures.py`."""

import importlib.util
from pathlib import Path
from typing import Any

import typer

from wellfit.cli.diagnose import writable
from wellfit.errors import DataError, MissingExtra, RecipeError, RunError

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
    picture_file(out)
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
    typer.echo(written(figure, out))


def picture_file(out: Path) -> None:
    """Raises RecipeError for a file that is no picture by its ending."""
    if out.suffix.lower() not in ENDINGS:
        raise RecipeError(f"`--out` is {str(out)!r}; a picture is written as {', '.join(ENDINGS)}.")


def can_draw(out: Path | None, what: str) -> bool:
    """Whether pictures can be drawn here. If one was asked for, raises RecipeError, RunError or MissingExtra where it cannot be."""
    here = importlib.util.find_spec("matplotlib") is not None
    if out is not None:
        writable(out)
        picture_file(out)
        if not here:
            raise MissingExtra("matplotlib", "pictures", what)
    return here


def without() -> None:
    """Says that there is no picture."""
    typer.echo("Picture: none, as matplotlib is not here; `pip install 'wellfit[pictures]'` brings it.")


def written(figure: Any, out: Path) -> Path:
    """Writes a figure and returns where. Raises RunError if it cannot be."""
    try:
        figure.savefig(out)
    except OSError as error:
        raise RunError(f"{out} cannot be written: {error.strerror}. Name another file with `--out`.") from None
    return out


def _attention(run: Path, text: str):  # type: ignore[no-untyped-def]
    """The maps of a run's model for a text, with what stands for each token beside them."""
    import torch

    from wellfit.data import tagged
    from wellfit.data.tokens import END, SPECIAL, START, UNKNOWN, Tokens
    from wellfit.deliver.predict import Predictor
    from wellfit.models.attention import attention_maps
    from wellfit.models.bag import Bag
    from wellfit.models.generate import greedy
    from wellfit.models.transformer import EncoderDecoder
    from wellfit.report import pictures
    from wellfit.tasks.sentence_embeddings import OfPairs

    chosen = Predictor.of(run)
    model, record = chosen.model, chosen.record
    if "tokens" not in record and "words" not in record:
        raise RunError(
            f"The run {run} is of the task {chosen.task!r}, whose model reads no text, so there is no attention to draw."
        )
    if any(isinstance(module, Bag) for module in model.modules()):
        raise RunError(
            f"The model of {run} is a bag of words, which has no attention: no token looks at another. Train one that has with "
            "`--set model.kind=encoder`."
        )
    context = int(record["context"])
    if "words" in record:
        read = text.split()
        numbers = tagged.columns(record)[0].encode(read)
        symbols = read[:context]
    else:
        tokens = Tokens.of(record["tokens"])
        numbers = tokens.encode(text)

        def written(number: int) -> str:
            return SPECIAL[number] if number < len(SPECIAL) else tokens.decode([number])

        symbols = [written(number) for number in numbers[:context]]
    if not numbers:
        raise RecipeError("The text is empty; attention needs at least one token to look at.")
    if set(numbers) <= {UNKNOWN}:
        raise DataError(
            f"The model of {run} knows no word of {text!r}, so all of them are the same to it and there is nothing to see. Give it "
            "words such as it was trained on."
        )
    if len(numbers) > context:
        typer.echo(
            f"wellfit: The text has {len(numbers)} tokens and the model sees {context}; the others are not drawn.",
            err=True,
        )
    source = torch.tensor([numbers[:context]])
    if not isinstance(model, EncoderDecoder):
        reads = model.encoder if isinstance(model, OfPairs) else model
        return pictures.attention(attention_maps(reads, source), symbols)
    (said,) = greedy(model, [[START]], min(record["longest"], context), stop=END, source_BS=source)
    maps = attention_maps(model, source, torch.tensor([[START, *said[:-1]]]))
    crossed = {name: weights for name, weights in maps.items() if name.endswith(".cross")}
    return pictures.attention(
        crossed, [written(number) for number in said], symbols,
        "Cross-attention: where in the source (column) the decoder looks while it writes each token (row)",
    )  # fmt: skip
