"""Where the model of a run looks in a text: the shares of each layer and head, with what stands for each token beside them.

`report/pictures.py` draws them. For looking, not as an explanation of what the model says (`models/attention.py`).

    >>> seen = looked(Path("runs/translator"), "two dogs play")
    >>> pictures.attention(seen.maps, seen.rows, seen.columns, seen.title).savefig("attention.png")
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wellfit.data import tagged
from wellfit.data.tokens import END, SPECIAL, START, UNKNOWN, Tokens
from wellfit.deliver.predict import Predictor
from wellfit.errors import DataError, RecipeError, RunError
from wellfit.models.attention import attention_maps
from wellfit.models.bag import Bag
from wellfit.models.generate import greedy
from wellfit.models.transformer import EncoderDecoder
from wellfit.tasks.sentence_embeddings import OfPairs


@dataclass(frozen=True)
class Looked:
    """What came of a text. Rows of a map are the tokens that look, columns those that are looked at."""

    maps: Mapping[str, Tensor]  # name of a layer -> [1, H, T, S], shares of 1 in each row
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    title: str
    tokens: int  # of the text
    seen: int  # how many of them, from the first on, the model sees


def looked(run: Path, text: str) -> Looked:
    """Of a model that makes one text into another, where its decoder looks in the source; else where the text looks in itself.

    Raises RunError if the run has no model with attention on text, RecipeError for an empty text, and DataError for one of which
    the model knows no word.
    """
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
    numbers, symbols = _read(record, text)
    if not numbers:
        raise RecipeError("The text is empty; attention needs at least one token to look at.")
    if set(numbers) <= {UNKNOWN}:
        raise DataError(
            f"The model of {run} knows no word of {text!r}, so all of them are the same to it and there is nothing to see. Give it "
            "words such as it was trained on."
        )
    context = int(record["context"])
    source_BS, columns = torch.tensor([numbers[:context]]), tuple(symbols[:context])
    if not isinstance(model, EncoderDecoder):
        reads = model.encoder if isinstance(model, OfPairs) else model
        maps = attention_maps(reads, source_BS)
        return Looked(maps, columns, columns, "Where each token (row) looks (column)", len(numbers), len(columns))
    (said,) = greedy(model, [[START]], min(record["longest"], context), stop=END, source_BS=source_BS)
    maps = attention_maps(model, source_BS, torch.tensor([[START, *said[:-1]]]))
    crossed = {name: weights for name, weights in maps.items() if name.endswith(".cross")}
    rows = tuple(_symbol(number, Tokens.of(record["tokens"])) for number in said)
    title = "Cross-attention: where in the source (column) the decoder looks while it writes each token (row)"
    return Looked(crossed, rows, columns, title, len(numbers), len(columns))


def _read(record: dict[str, Any], text: str) -> tuple[list[int], list[str]]:
    """The numbers of a text's tokens, and what is written for each."""
    if "words" in record:
        words = text.split()
        return list(tagged.columns(record)[0].encode(words)), words
    tokens = Tokens.of(record["tokens"])
    numbers = tokens.encode(text)
    return list(numbers), [_symbol(number, tokens) for number in numbers]


def _symbol(number: int, tokens: Tokens) -> str:
    return SPECIAL[number] if number < len(SPECIAL) else tokens.decode([number])
