"""A vector for each sentence, such that those that belong together point the same way.

A bag of words gives a vector to each word and each group of letters, or a Transformer encoder a state to each word; their weighted
mean, brought to length 1, is the sentence's vector. What is in many texts counts less from the start, by its inverse document
frequency (Spärck Jones 1972); training moves the weights. Both sides go through the same network.

*Pairs that belong together* are learnt by telling a text's partner from all other texts of the batch: cross entropy of the
cosines over a temperature, in both directions (van den Oord et al. 2018; Gao et al. 2021; Radford et al. 2021). Texts that are
the same as the partner are no wrong answers and are left out. Scored by search among all held-out texts: `recall_at_1`, how
often the partner comes first, and `mrr`, the mean of 1 / its rank. *Pairs with a score* are learnt as cosines, and scored by
Spearman's correlation.

    >>> predict(model, record, ["list_files(path)"], among=["Names of all files.", "Close the window."])
    [{'similar': [{'text': 'Names of all files.', 'similarity': 0.71}, ...]}]
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from wellfit import losses, models
from wellfit.data.arrays import Loaded
from wellfit.data.couples import Couples
from wellfit.data.texts import padded
from wellfit.data.tokens import PAD, UNKNOWN, Tokens
from wellfit.errors import DataError, ModelError, RecipeError
from wellfit.models.bag import Bag
from wellfit.models.pooling import unit
from wellfit.models.pretrained import Trunk
from wellfit.models.transformer import Encoder
from wellfit.recipe import Recipe
from wellfit.tasks.metrics import Metrics
from wellfit.tasks.task import Built, Supervised

MOST = 5  # of the texts that are searched, told if nothing else is asked for
CHUNK = 1024  # texts that are searched for at once


def build(recipe: Recipe, loaded: Loaded) -> Built:
    """The model is initialised from torch's global generator, which the caller has seeded."""
    record = {**loaded.columns, **models.described(recipe.model)}
    model = network(recipe, record)
    fresh = models.filled(model.encoder, recipe.model, model)
    if not fresh:  # a model that was trained before has learnt what counts, or will find it
        with torch.no_grad():
            model.log_weights.copy_(rarity(loaded.train, len(model.log_weights)).log())
    metric: Metrics
    if loaded.train.targets.is_floating_point():
        criterion: losses.Loss = OfCosine(losses.build(recipe.loss))
        metric = Correlation()
    else:
        if recipe.loss.kind != "cross-entropy" or recipe.loss.class_weights is not None:
            raise RecipeError(
                f"`loss.kind` is {recipe.loss.kind!r} and `loss.class_weights` {recipe.loss.class_weights!r}, but pairs that belong "
                "together are told from the others of a batch by cross-entropy, without weights. Leave both open."
            )
        criterion, metric = Contrastive(recipe.loss.temperature, recipe.loss.label_smoothing), Retrieval()
    return Built(Supervised(criterion, metric), model, record, fresh)


def rarity(train: Couples, vocabulary: int) -> Tensor:
    """1 + ln((1 + N) / (1 + n)) of tokens that are in n of N training texts, as scikit-learn's TF-IDF has it, float32 [V]."""
    sides = [torch.unique(side[i]) for side in (train.first, train.second) for i in range(len(side))]
    return 1 + ((1 + len(sides)) / (1 + torch.bincount(torch.cat(sides), minlength=vocabulary))).log()


def network(recipe: Recipe, record: Mapping[str, Any]) -> "OfPairs":
    """An untrained model for tokens as a run's record tells them."""
    tokens = Tokens.of(record["tokens"])
    encoder = models.reader(
        recipe.model, len(tokens), record["context"], ordered=tokens.kind != "ngram", config=record.get("config")
    )
    return OfPairs(encoder, len(tokens))


class OfPairs(nn.Module):
    """Two texts [B, S] and [B, T], padded with 0 -> their vectors of length 1, [B, 2, D]."""

    def __init__(self, encoder: Encoder | Bag | Trunk, vocabulary: int):
        super().__init__()
        self.encoder = encoder
        self.log_weights = nn.Parameter(torch.zeros(vocabulary))  # how much each token counts

    def forward(self, first_BS: Tensor, second_BT: Tensor) -> Tensor:
        return torch.stack([self.vectors(first_BS), self.vectors(second_BT)], dim=1)

    def vectors(self, tokens_BT: Tensor) -> Tensor:
        """Vectors of length 1, float32 [B, D]."""
        real_BT = tokens_BT != PAD
        weights_BT = self.log_weights[tokens_BT].masked_fill(~real_BT, -torch.inf).softmax(-1)
        if isinstance(self.encoder, Bag):
            return unit(self.encoder.pooled(tokens_BT, weights_BT).float())
        states_BTD = self.encoder(tokens_BT, real_BT).float()
        return unit((weights_BT[:, :, None] * states_BTD).sum(1))


# ---- losses of vectors [B, 2, D]


@dataclass(frozen=True)
class Contrastive:
    """Of groups [B, 2], numbers that are equal where texts are. The mean of both directions, summed over the batch.

    The other texts are those of the same micro-batch on the same rank: with more accumulation steps there are fewer.
    """

    temperature: float = 0.05
    label_smoothing: float = 0.0
    together: ClassVar[bool] = True  # what one text loses depends on the others beside it

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        cosines_BB = outputs[:, 0].float() @ outputs[:, 1].float().T
        B = len(targets)
        same_BB = (targets[:, None] == targets[None]).any(-1) & ~torch.eye(B, dtype=torch.bool, device=targets.device)
        logits_BB = cosines_BB / self.temperature
        right = torch.arange(B, device=targets.device)
        total = logits_BB.new_zeros(())
        for logits in (logits_BB, logits_BB.T):
            # Not -inf: smoothing multiplies what is left out by a share, and 0 times infinity is no number.
            left = logits.masked_fill(same_BB, -1e4)
            total = total - self._log_likelihood(left, right, same_BB)
        return total / 2

    def _log_likelihood(self, logits: Tensor, right: Tensor, same_BB: Tensor) -> Tensor:
        log_p = logits.log_softmax(-1)
        told = log_p[right, right].sum()
        if not self.label_smoothing:
            return told
        spread = (log_p.masked_fill(same_BB, 0.0).sum(-1) / (~same_BB).sum(-1)).sum()
        return (1 - self.label_smoothing) * told + self.label_smoothing * spread

    def weight(self, targets: Tensor) -> float:
        return len(targets)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        if len(targets) < 2:
            raise ModelError(
                "A micro-batch has one pair, and nothing it could be told from. Raise `training.batch_size`, or lower "
                "`training.gradient_accumulation_steps`."
            )
        self(outputs, targets)


@dataclass(frozen=True)
class OfCosine:
    """A loss of numbers, of the cosine of both vectors and the score."""

    loss: losses.Loss

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.loss(cosines(outputs), targets)

    def weight(self, targets: Tensor) -> float | Tensor:
        return self.loss.weight(targets)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        losses.check(self.loss, cosines(outputs), targets)


def cosines(vectors_B2D: Tensor) -> Tensor:
    """float32 [B]"""
    return (vectors_B2D[:, 0].float() * vectors_B2D[:, 1].float()).sum(-1)


# ---- scores


@dataclass(frozen=True)
class Retrieval:
    """Search for each first text's partner among all second texts: recall at 1, and the mean reciprocal rank."""

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Any]:
        return {"vectors": [outputs.float().cpu()], "groups": [targets.cpu()]}

    def scores(self, sums: Mapping[str, Any]) -> dict[str, float]:
        vectors, groups = torch.cat(sums["vectors"]), torch.cat(sums["groups"])
        return searched(lambda rows, candidates: vectors[rows, 0] @ vectors[candidates, 1].T, groups)


def searched(similarity: Callable[[Tensor, Tensor], Tensor], groups_N2: Tensor) -> dict[str, float]:
    """Recall at 1 and mean reciprocal rank of the partners among all different second texts.

    `similarity(rows, candidates)` is of the first texts with these numbers [n] and the second texts with those [M], [n, M].
    A text with several partners is as good as the best of them. Whatever is as similar as the partner counts as before it, so
    that vectors that are all alike find nothing.
    """
    numbers, places = torch.unique(groups_N2[:, 1], return_inverse=True)
    M = len(numbers)
    firsts = torch.full((M,), len(groups_N2)).scatter_reduce(0, places, torch.arange(len(places)), "amin")
    askers, asked = torch.unique(groups_N2[:, 0], return_inverse=True)
    partners = torch.zeros(len(askers), M, dtype=torch.bool)
    partners[asked, places] = True
    ranks = []
    for rows in torch.split(torch.arange(len(groups_N2)), CHUNK):
        similar = similarity(rows, firsts)
        right = partners[asked[rows]]
        best = similar.masked_fill(~right, -torch.inf).amax(-1, keepdim=True)
        ranks.append(1 + ((similar >= best) & ~right).sum(-1))
    rank = torch.cat(ranks).double()
    return {"recall_at_1": float((rank == 1).double().mean()), "mrr": float((1 / rank).mean())}


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlation of cosines and scores, by SciPy; NaN if either is the same throughout."""

    def sums(self, outputs: Tensor, targets: Tensor) -> dict[str, Any]:
        return {"cosines": cosines(outputs).tolist(), "scores": targets.tolist()}

    def scores(self, sums: Mapping[str, Any]) -> dict[str, float]:
        return {"spearman": spearman(sums["cosines"], sums["scores"])}


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """NaN if either is the same throughout, or there are fewer than two."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic) if len(set(a)) > 1 and len(set(b)) > 1 else float("nan")


@torch.no_grad()
def predict(
    model: OfPairs,
    record: Mapping[str, Any],
    inputs: Sequence[str],
    *,
    among: Annotated[Sequence[str], Field(min_length=1)] = (),
    most: Annotated[int, Field(ge=1)] = MOST,
) -> list[dict[str, Any]]:
    """For each text its vector, of length 1; given texts to search `among`, the `most` similar of them, best first.

    Texts that are `among` them more than once count once, with a warning. `cut` is beside what is told of a text that was
    longer than the model can see, and says how many tokens were left out; `unknown` beside one of which the model knows no
    token. Raises DataError for an empty text.
    """
    tokens, context = Tokens.of(record["tokens"]), record["context"]
    device = model.log_weights.device
    model.eval()

    def vectors(texts: Sequence[str], where: str = "") -> Tensor:
        empty = next((i for i, text in enumerate(texts) if not text.strip()), None)
        if empty is not None:
            raise DataError(f"Text number {empty + 1}{where} is empty, and an empty text points nowhere. Leave it out.")
        encoded = [torch.tensor(tokens.cut(tokens.encode(text), context) or [UNKNOWN]) for text in texts]
        parts = (encoded[i : i + CHUNK] for i in range(0, len(encoded), CHUNK))
        return torch.cat([model.vectors(padded(part).to(device)).cpu() for part in parts])

    if not inputs:
        return []
    if most != MOST and not among:
        warnings.warn(
            "`most` counts texts `among` which is searched; none are given, so it was not needed.", stacklevel=2
        )
    found = vectors(inputs)
    encoded = [tokens.encode(text) for text in inputs]
    if among:
        different = list(dict.fromkeys(among))
        if len(different) < len(among):
            warnings.warn(
                f"{len(among) - len(different)} of the {len(among)} texts to search `among` repeat another and count once.",
                stacklevel=2,
            )
        similar = found @ vectors(different, " of those to search `among`").T
        best = similar.topk(min(most, len(different)))
        answers: list[dict[str, Any]] = [
            {
                "similar": [
                    {"text": different[i], "similarity": round(s, 4)} for s, i in zip(scores, places, strict=True)
                ]
            }
            for scores, places in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
    else:
        answers = [{"vector": row} for row in found.tolist()]
    return [
        answer
        | ({"cut": len(one) - context} if len(one) > context else {})
        | ({"unknown": True} if set(one) <= {UNKNOWN} else {})
        for answer, one in zip(answers, encoded, strict=True)
    ]
