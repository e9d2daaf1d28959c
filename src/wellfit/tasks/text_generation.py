"""Text that goes on: a Transformer decoder predicts each next token; cross entropy, perplexity, and samples to read.

A batch is (tokens int64 [B, T], the tokens that follow them [B, T]). `perplexity` is e to the mean loss: among how many
equally likely tokens the model hesitates. `bits_per_byte` counts the same in bits for each byte of the text, which does not
depend on what the text was cut into.

    >>> predict(model, record, ["To be, or"], length=40, seed=0)
    [{'text': ' not the soul of this ...'}]
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from wellfit import losses, models
from wellfit.data.arrays import Loaded
from wellfit.data.tokens import END, PAD, START, UNKNOWN, Tokens
from wellfit.errors import DataError
from wellfit.models.generate import sample
from wellfit.models.transformer import Decoder
from wellfit.recipe import Recipe
from wellfit.tasks.task import Built, Supervised


def build(recipe: Recipe, loaded: Loaded) -> Built:
    """The model is initialised from torch's global generator, which the caller has seeded."""
    record = dict(loaded.columns)
    tokens = Tokens.of(record["tokens"])
    criterion = PerToken(losses.build(recipe.loss, len(tokens), loaded.train.counts(len(tokens))))
    return Built(Supervised(criterion, Surprise(bytes_of(tokens))), network(recipe, record), record)


def network(recipe: Recipe, record: Mapping[str, Any]) -> Decoder:
    """An untrained model for tokens as a run's record tells them."""
    return models.decoder(recipe.model, len(Tokens.of(record["tokens"])), record["context"])


def bytes_of(tokens: Tokens) -> Tensor:
    """How many bytes of UTF-8 each token stands for, float64 [V]."""
    return torch.tensor(
        [float(len(tokens.decode([i]).encode("utf-8", "surrogatepass"))) for i in range(len(tokens))],
        dtype=torch.float64,
    )


@dataclass(frozen=True)
class PerToken:
    """A loss of logits [B, T, V] and next tokens [B, T], each of which counts."""

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
        return {
            "nats": nn.functional.cross_entropy(logits, actual, reduction="sum"),
            "right": (logits.argmax(1) == actual).sum(),
            "tokens": torch.tensor(float(actual.numel()), dtype=torch.float64),
            "bytes": self.bytes_V.to(actual.device)[actual].sum(),
        }

    def scores(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        nats, tokens = float(sums["nats"]), float(sums["tokens"])
        return {
            "perplexity": math.exp(min(700.0, nats / tokens)),
            "bits_per_byte": nats / math.log(2) / max(1.0, float(sums["bytes"])),
            "accuracy": float(sums["right"]) / tokens,
        }


def predict(
    model: Decoder,
    record: Mapping[str, Any],
    inputs: Sequence[str],
    *,
    length: Annotated[int, Field(ge=1, le=100_000)] = 200,
    temperature: Annotated[float, Field(gt=0)] = 0.8,
    top_k: Annotated[int, Field(ge=1)] | None = None,
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 0.95,
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0,
) -> list[dict[str, Any]]:
    """How each text goes on, for `length` tokens. Prompts are cut to what the model can see together with what it writes.

    `cut` is beside what follows a text that was longer than that, and says how many tokens at its beginning were not looked
    at; `unknown` beside what follows one of which the model knows no token. Raises DataError for an empty text.
    """
    tokens = Tokens.of(record["tokens"])
    room = max(1, record["context"] // 2)
    encoded = [tokens.encode(text) for text in inputs]
    prompts = [one[-room:] for one in encoded]
    empty = next((i for i, prompt in enumerate(prompts) if not prompt), None)
    if empty is not None:
        raise DataError(f"Text number {empty + 1} is empty; there is nothing that could go on. Give it a few words.")
    hidden = (PAD, UNKNOWN, START)
    draws = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
    model.eval()
    found = sample(
        model, prompts, length, temperature=temperature, top_k=top_k, top_p=top_p, stop=END, generator=draws
    )  # fmt: skip
    return [
        {"text": tokens.decode(n for n in one if n not in hidden)}
        | ({"cut": len(prompt) - room} if len(prompt) > room else {})
        | ({"unknown": True} if set(prompt) <= {UNKNOWN} else {})
        for one, prompt in zip(found, encoded, strict=True)
    ]
