"""Writing with a model that predicts the next token: sampling, greedy and beam search.

The model gives a probability to every next token; one is chosen, appended, and the model asked again. *Greedy* takes the
likeliest. *Sampling* draws: a temperature below 1 sharpens the distribution, top-k keeps the k likeliest tokens (Fan et al.
2018), top-p the fewest whose probabilities reach p (Holtzman et al. 2020), for the long tail of unlikely tokens adds up to
much nonsense. *Beam search* follows several candidates at once and finds likelier texts than greedy: good where there is one
right answer, as in translation, and dull where there are many.

Prompts of unequal length are padded on the left, so that all rows end where the next token comes; the padding is masked and
positions do not count it, so a row reads as if it were alone.

Letters: B rows, T tokens, V vocabulary, K beams.

    >>> model = Decoder(vocabulary=50, dim=64, layers=2, heads=4)
    >>> sample(model, [[1, 2, 3], [4]], length=5, top_p=0.9, generator=torch.Generator().manual_seed(0))
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wellfit.errors import ModelError
from wellfit.models.attention import evaluating
from wellfit.models.pretrained import Writer
from wellfit.models.transformer import Decoder, EncoderDecoder

Prompts = Tensor | Sequence[Sequence[int]]
COLDEST = 1e-30  # temperature; what is smaller divides to infinity


def sample(
    model: Decoder | Writer | EncoderDecoder,
    prompts: Prompts,
    length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: int | Sequence[int] | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    source_BS: Tensor | None = None,
    source_real_BS: Tensor | None = None,
    cached: bool = True,
) -> list[list[int]]:
    """For each prompt, up to `length` tokens that follow it; a `stop` token, or any of several, ends them and is among them.

    One number in [0, 1) is drawn a row and token, from `generator` or torch's global one. Given a generator for each row, a
    row's text does not depend on which others are in the batch. `cached=False` reads everything anew for each token: slower,
    the same text. An EncoderDecoder needs `source_BS`, and its prompts are the beginnings of the targets.

    Raises ModelError for settings out of range, an empty prompt, or more tokens than the model has positions.
    """
    if temperature <= 0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0 < top_p <= 1):
        raise ModelError(
            f"`temperature={temperature}`, `top_k={top_k}`, `top_p={top_p}`; the temperature must be above 0 (use `greedy` "
            "for the likeliest token), top_k at least 1, and top_p above 0 and at most 1."
        )

    def draw(logits_BV: Tensor) -> Tensor:
        return pick(probabilities(logits_BV, temperature, top_k, top_p), generator)

    return extend(model, prompts, length, draw, stop, source_BS, source_real_BS, cached)


def greedy(
    model: Decoder | Writer | EncoderDecoder,
    prompts: Prompts,
    length: int,
    *,
    stop: int | Sequence[int] | None = None,
    source_BS: Tensor | None = None,
    source_real_BS: Tensor | None = None,
    cached: bool = True,
) -> list[list[int]]:
    """As `sample`, with the likeliest token each time; of equals, the first."""
    return extend(model, prompts, length, lambda x_BV: x_BV.argmax(-1), stop, source_BS, source_real_BS, cached)


@dataclass(frozen=True)
class Found:
    """A text that beam search found."""

    tokens: list[int]
    """what follows the prompt, with the stop token if it ended"""
    log_probability: float
    """sum over its tokens, in nats"""
    score: float
    """by which texts are compared: log_probability over the length penalty"""


def beam(
    model: Decoder | Writer | EncoderDecoder,
    prompts: Prompts,
    length: int,
    *,
    beams: int = 4,
    stop: int | Sequence[int] | None = None,
    length_penalty: float = 0.0,
    source_BS: Tensor | None = None,
    source_real_BS: Tensor | None = None,
) -> list[list[Found]]:
    """For each prompt, the `beams` best texts found, best first.

    A candidate that says `stop` is done and leaves the beam, which goes on with one fewer (Sutskever et al. 2014, 3.2), so a
    beam of one is greedy search. Every further token makes a text less likely; dividing by ((5 + length) / 6)^`length_penalty`
    makes up for it (Wu et al. 2016, eq. 14; 0 is none, they use 0.6 to 0.7).

    Raises ModelError as `sample` does, or if there are more beams than tokens to begin with.
    """
    reader, ids_BT, real_BT = begin(model, prompts, length, source_BS, source_real_BS, cached=True)
    stops = _several(stop)
    V = model.vocabulary if isinstance(model, Writer) else model.embedding.num_embeddings
    B, device = ids_BT.shape[0], ids_BT.device
    if not 1 <= beams <= V:
        raise ModelError(f"`beams={beams}`; it must be at least 1 and at most the {V} tokens of the vocabulary.")

    def found(tokens: list[int], log_probability: float) -> Found:
        penalty = ((5 + len(tokens)) / 6) ** length_penalty
        return Found(tokens, log_probability, log_probability / penalty)

    done: list[list[Found]] = [[] for _ in range(B)]
    texts: list[list[list[int]]] = [[[]] for _ in range(B)]  # of each row's slots; there is one slot at first, then K
    with evaluating(model):
        logits = reader.read(ids_BT, real_BT)
        sums = torch.zeros(B, 1, dtype=torch.float64, device=device)  # log-probabilities [B, K]; -inf: an empty slot
        for step in range(length):
            totals = sums[..., None] + logits.double().log_softmax(-1).view(B, -1, V)
            values, places = totals.flatten(1).topk(beams)  # [B, K], best first
            # The host decides which slots live on: one synchronisation a token.
            old = texts
            texts = [[] for _ in range(B)]
            for b, (row_values, row_places) in enumerate(zip(values.tolist(), places.tolist(), strict=True)):
                free = beams - len(done[b])
                for slot, (value, place) in enumerate(zip(row_values, row_places, strict=True)):
                    tokens = [*old[b][place // V], place % V]
                    texts[b].append(tokens)
                    if slot >= free or value == -math.inf:
                        row_values[slot] = -math.inf
                    elif place % V in stops or step == length - 1:
                        done[b].append(found(tokens, value))
                        row_values[slot] = -math.inf
                values[b] = torch.tensor(row_values, dtype=values.dtype)
            sums = values
            if step == length - 1 or all(len(ended) >= beams for ended in done):
                break
            slots = logits.shape[0] // B
            reader.select((places // V + slots * torch.arange(B, device=device)[:, None]).flatten())
            logits = reader.read((places % V).flatten()[:, None])
    return [sorted(ended, key=lambda text: -text.score) for ended in done]


# ---- what they share


class Reader:
    """A model, and what it has read so far in each row of a batch."""

    def __init__(
        self,
        model: Decoder | Writer | EncoderDecoder,
        source_BS: Tensor | None,
        source_real_BS: Tensor | None,
        cached: bool,
    ):
        self.model, self.source_BS, self.source_real_BS = model, source_BS, source_real_BS
        self.cache: Any = model.cache() if cached else None
        self.memory_BSD: Tensor | None = None
        self.ids_BT: Tensor | None = None
        self.real_BT: Tensor | None = None

    def read(self, ids_BT: Tensor, real_BT: Tensor | None = None) -> Tensor:
        """Read these tokens after the others; the logits [B, V] of the next."""
        if self.cache is None:
            if self.ids_BT is not None and self.real_BT is not None:
                real_BT = torch.cat((self.real_BT, torch.ones_like(ids_BT, dtype=torch.bool)), 1)
            if self.ids_BT is not None:
                ids_BT = torch.cat((self.ids_BT, ids_BT), 1)
            self.ids_BT, self.real_BT = ids_BT, real_BT
        if not isinstance(self.model, EncoderDecoder):
            logits: Tensor = self.model(ids_BT, real_BT, cache=self.cache)
        else:
            assert self.source_BS is not None
            if self.memory_BSD is None:
                self.memory_BSD = self.model.encode(self.source_BS, self.source_real_BS)
            logits = self.model.decode(ids_BT, self.memory_BSD, self.source_real_BS, real_BT, self.cache)
        return logits[:, -1]

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, in this order."""
        if self.cache is not None:
            self.cache.select(rows)
        self.ids_BT = None if self.ids_BT is None else self.ids_BT[rows]
        self.real_BT = None if self.real_BT is None else self.real_BT[rows]
        self.memory_BSD = None if self.memory_BSD is None else self.memory_BSD[rows]
        self.source_real_BS = None if self.source_real_BS is None else self.source_real_BS[rows]


def begin(
    model: Decoder | Writer | EncoderDecoder,
    prompts: Prompts,
    length: int,
    source_BS: Tensor | None,
    source_real_BS: Tensor | None,
    cached: bool,
) -> tuple[Reader, Tensor, Tensor | None]:
    """A reader that has read nothing, and the prompts as ids and (None if all are of one length) real [B, T]."""
    rows = prompts.tolist() if isinstance(prompts, Tensor) else [list(row) for row in prompts]
    if length < 1 or not rows or min(map(len, rows)) < 1:
        raise ModelError(
            f"`length={length}` and prompts of {[len(row) for row in rows]} tokens; ask for at least 1 token, and give each "
            "prompt at least 1 (a start token, say): the model predicts from the last one."
        )
    if isinstance(model, EncoderDecoder) != (source_BS is not None) or (
        source_BS is not None and len(source_BS) != len(rows)
    ):
        raise ModelError(
            f"{type(model).__name__} with {len(rows)} prompts got "
            f"{'no `source_BS`' if source_BS is None else f'`source_BS` with {len(source_BS)} rows'}; an EncoderDecoder needs "
            "a source for each prompt, and a Decoder takes none."
        )
    T = max(map(len, rows))
    limit = reach(model)
    if limit is not None and limit < T + length - 1:  # the last token is written and not read
        raise ModelError(
            f"A prompt of {T} tokens and `length={length}` more, but the model has positions for `max_length={limit}`; "
            f"ask for at most {limit - T + 1}, or shorten the prompt."
        )
    device = model.device if isinstance(model, Writer) else model.embedding.weight.device
    ids_BT = torch.tensor([[0] * (T - len(row)) + row for row in rows], device=device)
    real_BT = torch.tensor([[False] * (T - len(row)) + [True] * len(row) for row in rows], device=device)
    equal = all(len(row) == T for row in rows)
    return Reader(model, source_BS, source_real_BS, cached), ids_BT, None if equal else real_BT


def reach(model: Decoder | Writer | EncoderDecoder) -> int | None:
    """Tokens that a model has positions for; None where there is no end."""
    if isinstance(model, EncoderDecoder):
        return model.decoder.max_length
    return model.max_length if isinstance(model, Writer) else model.stack.max_length


def _several(stop: int | Sequence[int] | None) -> tuple[int, ...]:
    return () if stop is None else (stop,) if isinstance(stop, int) else tuple(stop)


def extend(
    model: Decoder | Writer | EncoderDecoder,
    prompts: Prompts,
    length: int,
    choose: Callable[[Tensor], Tensor],
    stop: int | Sequence[int] | None,
    source_BS: Tensor | None,
    source_real_BS: Tensor | None,
    cached: bool,
) -> list[list[int]]:
    """Append what `choose` makes of the logits, [B, V] -> [B], until `length` tokens or all rows have said `stop`."""
    reader, ids_BT, real_BT = begin(model, prompts, length, source_BS, source_real_BS, cached)
    said: list[Tensor] = []
    stops = _several(stop)
    ended = torch.zeros(ids_BT.shape[0], dtype=torch.bool, device=ids_BT.device)
    with evaluating(model):
        logits_BV = reader.read(ids_BT, real_BT)
        while True:
            token_B = choose(logits_BV)
            said.append(token_B)
            for one in stops:
                ended = ended | (token_B == one)
            # With a stop token, one synchronisation a token; without, the device runs ahead.
            if len(said) == length or (stops and bool(ended.all())):
                break
            logits_BV = reader.read(token_B[:, None])
    rows: list[list[int]] = torch.stack(said, 1).tolist()
    return [row[: next((i for i, token in enumerate(row) if token in stops), len(row)) + 1] for row in rows]


def probabilities(
    logits_BV: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """float64 [B, V], rows summing to 1: temperature first, then top-k, then top-p of what is left.

    At least one token always stays. Tokens that tie with the k-th stay too.
    """
    logits = logits_BV.double()
    best = logits.max(-1, keepdim=True).values
    logits = (logits - best) / max(temperature, COLDEST)
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -math.inf)
    p_BV = logits.softmax(-1)
    if top_p is not None and top_p < 1:
        p, order = p_BV.sort(dim=-1, descending=True, stable=True)
        before = p.cumsum(-1) - p
        drop = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, before >= top_p)  # back in their old places
        p_BV = p_BV.masked_fill(drop, 0.0)
        p_BV = p_BV / p_BV.sum(-1, keepdim=True)
    return p_BV


def pick(p_BV: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None = None) -> Tensor:
    """A token [B] for each row: the first at which the probabilities, summed up, exceed a number drawn from [0, 1).

    Raises ModelError if there are generators, but not one for each row.
    """
    B = p_BV.shape[0]
    if isinstance(generator, Sequence):
        if len(generator) != B:
            raise ModelError(f"{len(generator)} generators for {B} rows; give one for each row, or one for all.")
        drawn = torch.cat([torch.rand(1, generator=one, device=one.device) for one in generator])
    else:
        device = p_BV.device if generator is None else generator.device
        drawn = torch.rand(B, generator=generator, device=device)
    sums = p_BV.cumsum(-1)
    # float32's largest number below 1 leaves room in float64: the product stays below the last sum, so that there is always
    # a token, and `right` skips those of probability 0.
    place = drawn.to(sums)[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, place, right=True).squeeze(-1)
