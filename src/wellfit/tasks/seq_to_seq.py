"""One text into another: an encoder-decoder Transformer, taught by what should have been said; perplexity, BLEU and chrF.

While training, the decoder reads the right target and predicts each next token of it (teacher forcing), all at once; padding
counts in nothing. Perplexity says how well it does that. What it writes by itself is another matter, so some held-out pairs are
written out, the likeliest token each time, and compared with what they should be: BLEU (Papineni et al. 2002) and chrF (Popović
2015) by sacrebleu, from 0 to 100. Where targets are much shorter than sources, which is to sum them up, ROUGE-1 and ROUGE-L
(Lin 2004) too, by Google's rouge-score, whose numbers papers report; torchmetrics has its own, which differ a little.

    >>> predict(model, record, ["Ein Hund läuft."])
    [{'text': 'A dog is running.', 'score': -0.41}]
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from wellfit import losses, models
from wellfit.data.arrays import Loaded
from wellfit.data.batches import Batch
from wellfit.data.texts import padded
from wellfit.data.tokens import END, PAD, START, UNKNOWN, Tokens
from wellfit.errors import DataError, MissingExtra
from wellfit.models.generate import Found, beam, greedy
from wellfit.models.transformer import EncoderDecoder
from wellfit.recipe import Recipe
from wellfit.tasks.task import Built

AT_ONCE = 64  # texts that are written together


def build(recipe: Recipe, loaded: Loaded) -> Built:
    """The model is initialised from torch's global generator, which the caller has seeded."""
    record = dict(loaded.columns)
    tokens = Tokens.of(record["tokens"])
    criterion = losses.build(recipe.loss, len(tokens))
    return Built(Rewriting(criterion, tokens, record["longest"], record["shortens"]), network(recipe, record), record)


def network(recipe: Recipe, record: Mapping[str, Any]) -> EncoderDecoder:
    """An untrained model for tokens as a run's record tells them."""
    return models.encoder_decoder(recipe.model, len(Tokens.of(record["tokens"])), record["context"])


@dataclass(frozen=True)
class Rewriting:
    """Batches {"source", "target", "labels"} and, where held out, "references": the texts to compare with, or None."""

    criterion: losses.Loss  # of logits [M, V] and labels [M]
    tokens: Tokens
    longest: int  # tokens that are written at most, which is the longest training target
    shortens: bool = False  # whether it is to sum up
    one_pass: ClassVar[bool] = False  # texts are written token by token

    def weight(self, batch: Batch) -> float | Tensor:
        return self.criterion.weight(batch["labels"])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.criterion(_logits(model, batch), batch["labels"].flatten())

    def measure(self, model: nn.Module, batch: Batch) -> dict[str, Any]:
        logits, labels = _logits(model, batch), batch["labels"].flatten()
        counted = labels != losses.IGNORED
        sums: dict[str, Any] = {
            "loss": self.criterion(logits, labels),
            "weight": torch.as_tensor(self.criterion.weight(labels), dtype=torch.float64, device=labels.device),
            "nats": nn.functional.cross_entropy(logits.float(), labels, reduction="sum", ignore_index=losses.IGNORED),
            "right": ((logits.argmax(1) == labels) & counted).sum(),
            "tokens": counted.sum(),
        }
        references = batch.get("references", ())
        chosen = [i for i, text in enumerate(references) if text is not None]
        written: list[str] = []
        if chosen:
            assert isinstance(model, EncoderDecoder)
            source = batch["source"][chosen]
            said = greedy(
                model, [[START]] * len(chosen), self.longest, stop=END, source_BS=source, source_real_BS=source != PAD
            )
            written = [self.tokens.decode(one) for one in said]
        return sums | {"written": written, "references": [references[i] for i in chosen]}

    def summarize(self, sums: Mapping[str, Any]) -> dict[str, float]:
        weight, tokens = float(sums["weight"]), max(1.0, float(sums["tokens"]))
        return {
            "loss": float(sums["loss"]) / weight if weight else float("nan"),
            "perplexity": math.exp(min(700.0, float(sums["nats"]) / tokens)),
            "token_accuracy": float(sums["right"]) / tokens,
            **compared(sums["written"], sums["references"], self.shortens),
        }

    def check(self, model: nn.Module, batch: Batch) -> None:
        losses.check(self.criterion, _logits(model, batch), batch["labels"].flatten())


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    """[B T, V]. The padding of targets lies behind all that counts, where a causal decoder does not look."""
    out: Tensor = model(batch["source"], batch["target"], batch["source"] != PAD)
    return out.flatten(0, 1)


def compared(written: Sequence[str], references: Sequence[str], shortens: bool) -> dict[str, float]:
    """BLEU and chrF of all texts together, from 0 to 100, and the mean ROUGE where something is summed up; NaN of none."""
    try:
        import sacrebleu
    except ImportError:
        raise MissingExtra("sacrebleu", "text", "Comparing texts (BLEU, chrF)") from None
    nothing = not written
    found = {
        "bleu": float("nan") if nothing else float(sacrebleu.corpus_bleu(written, [references], force=True).score),
        "chrf": float("nan") if nothing else float(sacrebleu.corpus_chrf(written, [references]).score),
    }
    if not shortens:
        return found
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise MissingExtra("rouge-score", "text", "Comparing summaries (ROUGE)") from None
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    scores = [scorer.score(reference, text) for text, reference in zip(written, references, strict=True)]
    for name in ("rouge1", "rougeL"):
        total = sum(100 * one[name].fmeasure for one in scores)
        found[name] = total / len(scores) if scores else float("nan")
    return found


@torch.no_grad()
def predict(
    model: EncoderDecoder,
    record: Mapping[str, Any],
    inputs: Sequence[str],
    *,
    beams: Annotated[int, Field(ge=1)] = 4,
    length: Annotated[int, Field(ge=1)] | None = None,
    length_penalty: Annotated[float, Field(ge=0, le=10)] = 0.6,
) -> list[dict[str, Any]]:
    """What each text is made into, by beam search, and its score: log-probability over the length penalty, at most 0.

    `length`: tokens that are written at most; by default as many as the longest training target has. `cut` is beside the text
    of a source that was longer than the model can see, and says how many tokens were left out; `unknown` beside that of a
    source of which the model knows no token. Raises DataError for an empty text.
    """
    tokens = Tokens.of(record["tokens"])
    encoded = [tokens.encode(text) for text in inputs]
    empty = next((i for i, one in enumerate(encoded) if not one), None)
    if empty is not None:
        raise DataError(f"Text number {empty + 1} is empty; there is nothing to make another one of.")
    if not encoded:
        return []
    context = record["context"]
    model.eval()
    found: list[Found] = []
    for start in range(0, len(encoded), AT_ONCE):
        part = [torch.tensor(one[:context]) for one in encoded[start : start + AT_ONCE]]
        source = padded(part).to(model.embedding.weight.device)
        best = beam(
            model, [[START]] * len(part), min(length or record["longest"], context), beams=min(beams, len(tokens)), stop=END,
            length_penalty=length_penalty, source_BS=source, source_real_BS=source != PAD,
        )  # fmt: skip
        found += [texts[0] for texts in best]
    return [
        {"text": tokens.decode(best.tokens), "score": round(best.score, 4)}
        | ({"cut": len(one) - context} if len(one) > context else {})
        | ({"unknown": True} if set(one) <= {UNKNOWN} else {})
        for best, one in zip(found, encoded, strict=True)
    ]
