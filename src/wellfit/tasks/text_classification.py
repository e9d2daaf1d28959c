"""Texts into classes: words to states by a Transformer encoder or a bag of words, their mean to a class; cross entropy, accuracy.

A batch is (tokens int64 [B, T] padded with 0, labels int64 [B]).

    >>> model = network(recipe, {"tokens": tokens.as_dict(), "context": 256, "classes": ["bad", "good"]})
    >>> predict(model, record, ["not bad at all"])
    [{'class': 'good', 'confidence': 0.93}]
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wellfit import losses, models
from wellfit.data.arrays import Loaded
from wellfit.data.texts import padded
from wellfit.data.tokens import PAD, UNKNOWN, Tokens
from wellfit.models.transformer import Classifier
from wellfit.recipe import Recipe
from wellfit.tasks.metrics import Classification
from wellfit.tasks.task import Built, Supervised

AT_ONCE = 256  # texts that are predicted together


def build(recipe: Recipe, loaded: Loaded) -> Built:
    """The model is initialised from torch's global generator, which the caller has seeded."""
    record = {**loaded.columns, **models.described(recipe.model), "classes": list(loaded.classes)}
    classes = len(loaded.classes)
    criterion = losses.build(recipe.loss, classes, torch.bincount(loaded.train.targets, minlength=classes))
    model = network(recipe, record)
    fresh = models.filled(model.model.encoder, recipe.model, model)
    return Built(Supervised(criterion, Classification()), model, record, fresh)


def network(recipe: Recipe, record: Mapping[str, Any]) -> "OfText":
    """An untrained model for tokens and classes as a run's record tells them."""
    tokens = Tokens.of(record["tokens"])
    encoder = models.reader(
        recipe.model, len(tokens), record["context"], ordered=tokens.kind != "ngram", config=record.get("config")
    )
    return OfText(Classifier(encoder, len(record["classes"])))


class OfText(nn.Module):
    """A model of tokens [B, T] and of which are real, for tokens that are padded with 0."""

    def __init__(self, model: Classifier):
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor) -> Tensor:
        out: Tensor = self.model(tokens_BT, tokens_BT != PAD)
        return out


@torch.no_grad()
def predict(model: nn.Module, record: Mapping[str, Any], inputs: Sequence[str]) -> list[dict[str, Any]]:
    """For each text its class and the probability that the model gives it. An empty text is one unknown word.

    `cut` is beside what is told of a text that was longer than the model can see, and says how many tokens were left out;
    `unknown` beside one of which the model knows no word.
    """
    tokens, context = Tokens.of(record["tokens"]), record["context"]
    encoded = [tokens.encode(text) for text in inputs]
    model.eval()
    told: list[dict[str, Any]] = []
    for start in range(0, len(encoded), AT_ONCE):
        part = encoded[start : start + AT_ONCE]
        probabilities = model(padded([torch.tensor(tokens.cut(one, context) or [UNKNOWN]) for one in part])).softmax(-1)
        told += [
            {"class": record["classes"][int(row.argmax())], "confidence": round(float(row.max()), 4)}
            | ({"cut": len(one) - context} if len(one) > context else {})
            | ({"unknown": True} if set(one) <= {UNKNOWN} else {})
            for row, one in zip(probabilities, part, strict=True)
        ]
    return told
