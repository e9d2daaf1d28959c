"""A tag for each word of a sentence: names and what they are of, parts of speech, what a name in a program stands for.

Words to states by a Transformer encoder, each state to a tag; cross entropy, in which padding does not count. Where tags mark
spans (B-PER I-PER O), a span is right if its type and both its ends are: precision, recall and F1 over all spans, as conlleval
(Tjong Kim Sang & De Meulder 2003) and seqeval count them, from sums of counts. Where each tag stands for itself, F1 is the
unweighted mean over the tags. `token_accuracy`, there `accuracy`, is of words.

    >>> predict(model, record, ["Ada Lovelace was born in London"])
    [{'words': ['Ada', ...], 'tags': ['B-PER', 'I-PER', 'O', 'O', 'O', 'B-LOC'], 'confidence': [0.99, ...],
      'spans': [{'type': 'PER', 'text': 'Ada Lovelace'}, ...]}]
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wellfit import losses, models
from wellfit.data.arrays import Loaded
from wellfit.data.tagged import OUTSIDE, PREFIXED, columns, spans
from wellfit.data.texts import padded
from wellfit.data.tokens import PAD, UNKNOWN
from wellfit.errors import DataError
from wellfit.models.layers import head
from wellfit.models.transformer import Encoder
from wellfit.recipe import Recipe
from wellfit.tasks.metrics import Classification, Metrics
from wellfit.tasks.task import Built, Supervised

AT_ONCE = 256  # pieces of a sentence that go through the network together


def build(recipe: Recipe, loaded: Loaded) -> Built:
    """The model is initialised from torch's global generator, which the caller has seeded."""
    record = {**loaded.columns, "classes": list(loaded.classes)}
    classes = len(loaded.classes)
    counts = torch.bincount(loaded.train.tags.flat, minlength=classes)
    # Padding is among the targets, so the loss must look for it: counts are given only where they are used.
    balanced = recipe.loss.class_weights == "balanced"
    criterion = losses.build(recipe.loss, classes, counts if balanced else None)
    return Built(Supervised(PerWord(_masked(criterion)), suited(loaded.classes)), network(recipe, record), record)


def _masked(criterion: losses.Loss) -> losses.Loss:
    if not isinstance(criterion, losses.OfClasses):
        return criterion
    return dataclasses.replace(criterion, masked=True)


def suited(classes: Sequence[str]) -> Metrics:
    """The scores of these tags: of spans, if that is what they mark."""
    return Spans(tuple(classes)) if marks_spans(classes) else OfWords()


def marks_spans(classes: Sequence[str]) -> bool:
    return all(tag == OUTSIDE or PREFIXED.fullmatch(tag) for tag in classes)


def network(recipe: Recipe, record: Mapping[str, Any]) -> "Tagger":
    """An untrained model for words and tags as a run's record tells them."""
    vocabulary, classes, context = columns(record)
    return Tagger(models.encoder(recipe.model, len(vocabulary), context), len(classes))


class Tagger(nn.Module):
    """Words [B, T], padded with 0 -> logits [B, T, C]."""

    def __init__(self, encoder: Encoder, outputs: int):
        super().__init__()
        self.encoder = encoder
        self.head = head(encoder.embedding.embedding_dim, outputs)

    def forward(self, words_BT: Tensor) -> Tensor:
        logits_BTC: Tensor = self.head(self.encoder(words_BT, words_BT != PAD))
        return logits_BTC


@dataclass(frozen=True)
class PerWord:
    """A loss of logits [B, T, C] and tags [B, T], of which those at -100 do not count."""

    loss: losses.Loss

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(outputs.flatten(0, 1), targets.flatten())

    def weight(self, targets: Tensor) -> float | Tensor:
        return self.loss.weight(targets)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        losses.check(self.loss, outputs.flatten(0, 1), targets.flatten())


@dataclass(frozen=True)
class OfWords:
    """Accuracy over words and macro F1 over tags."""

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Any]:
        return Classification().sums(outputs.flatten(0, 1), targets.flatten())

    def scores(self, sums: Mapping[str, Any]) -> dict[str, float]:
        return Classification().scores(sums)


@dataclass(frozen=True)
class Spans:
    """Precision, recall and F1 of spans, and the accuracy over words."""

    classes: tuple[str, ...]

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        predicted, counted = outputs.argmax(-1), targets != losses.IGNORED
        right = found = there = 0
        for row, said, actual in zip(counted.tolist(), predicted.tolist(), targets.tolist(), strict=True):
            ours = set(spans([self.classes[i] for i, real in zip(said, row, strict=True) if real]))
            theirs = set(spans([self.classes[i] for i, real in zip(actual, row, strict=True) if real]))
            right, found, there = right + len(ours & theirs), found + len(ours), there + len(theirs)
        device = targets.device
        return {
            "spans": torch.tensor([right, found, there], dtype=torch.float64, device=device),
            "words": torch.stack([((predicted == targets) & counted).sum(), counted.sum()]).double(),
        }

    def scores(self, sums: Mapping[str, Tensor]) -> dict[str, float]:
        right, found, there = sums["spans"].tolist()
        hits, words = sums["words"].tolist()
        return {
            "f1": 2 * right / (found + there) if found + there else 0.0,  # 0 of nothing, as conlleval has it
            "precision": right / found if found else 0.0,
            "recall": right / there if there else 0.0,
            "token_accuracy": hits / words if words else float("nan"),
        }


@torch.no_grad()
def predict(model: Tagger, record: Mapping[str, Any], inputs: Sequence[str | Sequence[str]]) -> list[dict[str, Any]]:
    """For each sentence its words, their tags, the probability that the model gives each, and the spans that these mark.

    A text is cut into words at its spaces.

    Sentences that are longer than the model can see are tagged in pieces. `unknown` is beside what is told of a sentence of
    which the model knows no word. Raises DataError for a sentence without a word.
    """
    vocabulary, classes, context = columns(record)
    model.eval()
    answers: list[dict[str, Any]] = []
    for number, sentence in enumerate(inputs, start=1):
        words = sentence.split() if isinstance(sentence, str) else list(sentence)
        if not words:
            raise DataError(f"Sentence number {number} has no words; there is nothing to tag.")
        pieces = [torch.tensor(vocabulary.encode(words[i : i + context])) for i in range(0, len(words), context)]
        tags, sure = [], []
        for i in range(0, len(pieces), AT_ONCE):
            part = pieces[i : i + AT_ONCE]
            shares, said = model(padded(part).to(next(model.parameters()).device)).softmax(-1).max(-1)
            for piece, row, share in zip(part, said.tolist(), shares.tolist(), strict=True):
                tags += [classes[tag] for tag in row[: len(piece)]]
                sure += [round(one, 4) for one in share[: len(piece)]]
        answer: dict[str, Any] = {"words": words, "tags": tags, "confidence": sure}
        if marks_spans(classes):
            answer["spans"] = [{"type": kind, "text": " ".join(words[first:last])} for kind, first, last in spans(tags)]
        answers.append(answer | ({"unknown": True} if all((piece == UNKNOWN).all() for piece in pieces) else {}))
    return answers
