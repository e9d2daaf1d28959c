"""Text that goes on: a decoder predicts each next token; cross entropy, perplexity, and samples to read.

The decoder is one of ours or a pretrained one. Of running text every next token counts, of conversations what the assistant says
(`data/chats.py`); a batch is (tokens int64 [B, T], the tokens that follow them [B, T]), or a mapping with -100 in place of what
does not count. `perplexity` is e to the mean loss: among how many equally likely tokens the model hesitates. `bits_per_byte`
counts the same in bits for each byte of the text, which does not depend on what the text was cut into.

    >>> predict(model, record, ["To be, or"], length=40, seed=0)
    [{'text': ' not the soul of this ...'}]
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from wellfit import losses, models
from wellfit.data.arrays import Loaded
from wellfit.data.chats import Conversations, Template, asked
from wellfit.data.tokens import END, PAD, SPECIAL, START, UNKNOWN, Tokens
from wellfit.errors import DataError, ModelError, RecipeError
from wellfit.models import pretrained
from wellfit.models.generate import reach, sample
from wellfit.models.pretrained import Writer
from wellfit.models.transformer import Decoder
from wellfit.recipe import Recipe
from wellfit.tasks.task import Built, Supervised

AT_ONCE = 64  # texts that are written together


def build(recipe: Recipe, loaded: Loaded) -> Built:
    """The model is initialised from torch's global generator, which the caller has seeded."""
    record = {**loaded.columns, **models.described(recipe.model)}
    tokens = Tokens.of(record["tokens"])
    writes = recipe.model is not None and recipe.model.kind == "pretrained"
    if writes:
        record["stop"] = _ends(recipe, tokens)
    model = network(recipe, record)
    V = len(tokens)
    if isinstance(model, Writer):
        V = _fits(recipe, loaded, model)
    criterion = losses.build(recipe.loss, V, loaded.train.counts(V))
    if isinstance(loaded.train, Conversations):
        criterion = dataclasses.replace(criterion, masked=True)  # type: ignore[type-var]
    fresh = models.filled(model, recipe.model, model)
    if isinstance(model, Writer) and getattr(loaded.train, "packed", False):
        _keeps_apart(recipe, model)
    return Built(Supervised(PerToken(criterion), Surprise(bytes_of(tokens, V))), model, record, fresh or [])


def network(recipe: Recipe, record: Mapping[str, Any]) -> Decoder | Writer:
    """An untrained model for tokens as a run's record tells them."""
    return models.decoder(
        recipe.model, len(Tokens.of(record["tokens"])), record["context"], config=record.get("config")
    )


def _ends(recipe: Recipe, tokens: Tokens) -> list[int]:
    """The numbers of what ends a text, of a pretrained model."""
    if tokens.kind != "hf":
        raise RecipeError(
            f"`data.tokens` is {recipe.data.tokens!r}, and a pretrained model knows texts only as its own tokenizer cuts them. Leave it open."
        )
    ends = pretrained.marks(recipe.model.name)["ends"]  # type: ignore[union-attr]
    return [end + len(SPECIAL) for end in ends]


def _fits(recipe: Recipe, loaded: Loaded, model: Writer) -> int:
    """How many tokens the model tells apart. Raises ModelError for data, RecipeError for settings that do not go with it."""
    most = max(int(part.flat.max()) for part in (loaded.train, loaded.valid, loaded.test) if part is not None)
    if most >= model.vocabulary:
        raise ModelError(
            f"The tokenizer of {recipe.model.name} gives the number {most - len(SPECIAL)}, but the model has "  # type: ignore[union-attr]
            f"{model.vocabulary - len(SPECIAL)} tokens: the two do not belong together. Put the model's own tokenizer beside it."
        )
    if "chat" in loaded.columns and bool((loaded.train.flat == END).any()):
        raise ModelError(
            f"{recipe.model.name} has no mark that ends a text, so answers would never end. Name a model whose tokenizer has an "  # type: ignore[union-attr]
            "`eos_token`."
        )
    if recipe.loss.label_smoothing:
        raise RecipeError(
            f"`loss.label_smoothing` is {recipe.loss.label_smoothing:g}, which gives a share to every token, and a pretrained model "
            "has places that are never said. Set it to 0."
        )
    return model.vocabulary


def _keeps_apart(recipe: Recipe, model: Writer) -> None:
    """Raises ModelError for a model that would let conversations of one row see each other."""
    before = recipe.finetune.strategy in ("prompt", "prefix")
    if before or not pretrained.apart(model):
        why = (
            f"the vectors of `finetune.strategy={recipe.finetune.strategy}` stand before a row, and so before the first of its conversations alone"
            if before
            else "the model lets texts that share a row see each other"
        )
        raise ModelError(f"`data.packing` is true, but {why}. Set `data.packing=false`.")


def bytes_of(tokens: Tokens, vocabulary: int | None = None) -> Tensor:
    """How many bytes of UTF-8 each token stands for, float64 [V]; numbers beyond the tokens', up to `vocabulary`, for none."""
    sizes = tokens.sizes()
    return torch.tensor(sizes + [0] * ((vocabulary or 0) - len(sizes)), dtype=torch.float64)


@dataclass(frozen=True)
class PerToken:
    """A loss of logits [B, T, V] and next tokens [B, T], each of which counts but those of -100."""

    loss: losses.Loss

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(outputs.flatten(0, 1), targets.flatten())

    def weight(self, targets: Tensor) -> float | Tensor:
        return self.loss.weight(targets)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        losses.check(self.loss, outputs.flatten(0, 1), targets.flatten())


@dataclass(frozen=True)
class Surprise:
    """Perplexity, bits per byte and the share of next tokens that are the likeliest."""

    bytes_V: Tensor

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        logits, actual = outputs.flatten(0, 1).float(), targets.flatten()
        counted = actual != losses.IGNORED
        sizes = self.bytes_V.to(actual.device)[actual.masked_fill(~counted, 0)]
        return {
            "nats": nn.functional.cross_entropy(logits, actual, reduction="sum", ignore_index=losses.IGNORED),
            "right": (logits.argmax(1) == actual).sum(),
            "tokens": counted.sum().double(),
            "bytes": sizes.masked_fill(~counted, 0).sum(),
        }

    def scores(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        nats, tokens = float(sums["nats"]), max(1.0, float(sums["tokens"]))
        return {
            "perplexity": math.exp(min(700.0, nats / tokens)),
            "bits_per_byte": nats / math.log(2) / max(1.0, float(sums["bytes"])),
            "accuracy": float(sums["right"]) / tokens,
        }


def predict(
    model: Decoder | Writer,
    record: Mapping[str, Any],
    inputs: Sequence[Any],
    *,
    length: Annotated[int, Field(ge=1, le=100_000)] = 200,
    temperature: Annotated[float, Field(gt=0)] = 0.8,
    top_k: Annotated[int, Field(ge=1)] | None = None,
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 0.95,
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0,
) -> list[dict[str, Any]]:
    """How each text goes on, for `length` tokens. Prompts are cut to what the model can see together with what it writes.

    A model of conversations answers: a text is what a user says, and a list of messages {"role", "content"} (or JSON of one) is
    a conversation so far. An answer ends with the model's mark for that, or after `length` tokens, which `unfinished` says.

    `cut` is beside what follows a text that was longer than that, and says how many tokens at its beginning were not looked
    at; `unknown` beside what follows one of which the model knows no token. Raises DataError for an empty text, and for a
    conversation that cannot be answered.
    """
    tokens = Tokens.of(record["tokens"])
    stop: list[int] = record.get("stop", [END])
    sight = record["context"]
    if isinstance(model, Writer) and model.max_length is not None:
        sight = max(sight, model.max_length)
    if "chat" in record:
        template = Template.of(tokens, record["chat"])
        encoded = [_asked(template, one, i) for i, one in enumerate(inputs, start=1)]
        stop = list(dict.fromkeys([*template.ends, *stop]))
    else:
        encoded = [tokens.encode(text, marks=False) for text in inputs]
    # A question is read whole if that leaves a quarter for its answer; what merely goes on needs no more than half.
    room = max(1, sight - min(length, sight // 4) if "chat" in record else sight // 2)
    prompts = [one[-room:] for one in encoded]
    empty = next((i for i, prompt in enumerate(prompts) if not prompt), None)
    if empty is not None:
        raise DataError(f"Text number {empty + 1} is empty; there is nothing that could go on. Give it a few words.")
    hidden = {PAD, UNKNOWN, START, *stop}
    model.eval()
    found: list[list[int]] = []
    at_once = 1 if isinstance(model, Writer) and model.alone else AT_ONCE
    for start in range(0, len(prompts), at_once):
        part = prompts[start : start + at_once]
        most = reach(model) if "chat" in record else None
        longest = max(map(len, part))
        found += sample(
            model, part, length if most is None else max(1, min(length, most - longest + 1)), temperature=temperature,
            top_k=top_k, top_p=top_p, stop=stop,
            generator=[torch.Generator().manual_seed(seed + i) for i in range(start, start + len(part))],
        )  # fmt: skip
    return [
        {"text": tokens.decode(n for n in one if n not in hidden)}
        | ({"cut": len(prompt) - room} if len(prompt) > room else {})
        | ({"unfinished": True} if "chat" in record and one[-1] not in stop else {})
        | ({"unknown": True} if set(prompt) <= {UNKNOWN} else {})
        for one, prompt in zip(found, encoded, strict=True)
    ]


def _asked(template: Template, one: Any, number: int) -> list[int]:
    try:
        return template.prompt(asked(one, f"Text number {number}"))
    except DataError as error:
        told = str(error)
        raise DataError(
            told if told.endswith(".") else f"Text number {number} cannot be put into the template: {told}."
        ) from None
