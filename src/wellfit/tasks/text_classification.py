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


def build(recipe: Recipe, loaded: Loaded) -> Built:
    """The model is initialised from torch's global generator, which the caller has seeded."""
    record = {**loaded.columns, "classes": list(loaded.classes)}
    classes = len(loaded.classes)
    criterion = losses.build(recipe.loss, classes, torch.bincount(loaded.train.targets, minlength=classes))
    return Built(Supervised(criterion, Classification()), network(recipe, record), record)


def network(recipe: Recipe, record: Mapping[str, Any]) -> nn.Module:
    """An untrained model for tokens and classes as a run's record tells them."""
    tokens = Tokens.of(record["tokens"])
    encoder = models.reader(recipe.model, len(tokens), record["context"], ordered=tokens.kind != "ngram")
    return OfText(Classifier(encoder, len(record["classes"])))


class OfText(nn.Module):
    """A model of tokens [B, T] and of which are real, for tokens that are padded with 0."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor) -> Tensor:
        out: Tensor = self.model(tokens_BT, tokens_BT != PAD)
        return out


@torch.no_grad()
def predict(model: nn.Module, record: Mapping[str, Any], inputs: Sequence[str]) -> list[dict[str, Any]]:
    """For each text its class and the probability that the model gives it. An empty text is one unknown word."""
    tokens = Tokens.of(record["tokens"])
    sequences = [tokens.encode(text)[: record["context"]] or [UNKNOWN] for text in inputs]
    model.eval()
    probabilities = model(padded([torch.tensor(s) for s in sequences])).softmax(-1)
    return [
        {"class": record["classes"][int(row.argmax())], "confidence": round(float(row.max()), 4)}
        for row in probabilities
    ]
