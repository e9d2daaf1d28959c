"""The Transformer: one block, and the three networks that are made of it (Vaswani et al. 2017).

A block does two things and adds each to what it got: tokens exchange what they know (attention), then each thinks for itself
(feed-forward). The sum is the *residual stream*: gradients pass down it unharmed. An `Encoder` sees the whole text at once
(BERT, Devlin et al. 2019). A `Decoder` sees what came before and says what comes next (GPT-2, Radford et al. 2019). An
`EncoderDecoder` reads one text with the first and writes another with the second, which looks at the first in every block.

*Post-LN*, the original, normalises the stream itself; it needs warm-up, for the gradients near the output start out large.
*Pre-LN* normalises only what enters a branch, and trains without (Xiong et al. 2020); it is the default.

Letters: B rows, T tokens, S tokens of the source, D width, V vocabulary. `real` masks are True for tokens, False for padding,
which may be on either side.

    >>> Decoder(vocabulary=50, dim=64, layers=2, heads=4)(torch.zeros(3, 10, dtype=torch.long)).shape
    torch.Size([3, 10, 50])
"""

import math
from collections.abc import Callable
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wellfit.errors import ModelError
from wellfit.models.attention import Attention, Kept, Seen, allowed
from wellfit.models.bag import Bag
from wellfit.models.layers import head
from wellfit.models.positions import Learned, alibi, documents, rotation, sinusoidal
from wellfit.models.pretrained import Trunk

ORDERS = ("pre", "post")
POSITIONS = ("learned", "sinusoidal", "rope", "alibi", "none")  # none: a causal mask alone tells a little (NoPE)
NORMS: dict[str, Callable[[int, bool], nn.Module]] = {
    "layer": lambda D, bias: nn.LayerNorm(D, bias=bias),
    "rms": lambda D, _: nn.RMSNorm(D, eps=1e-6),  # torch's own eps is float32's resolution, too small for bfloat16
}
BENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),  # what GPT-2's weights were trained with
    "swiglu": F.silu,  # of the gate
}


def choose(name: str, received: str, choices: tuple[str, ...]) -> str:
    """`received`, or ModelError if it is not among the choices."""
    if received not in choices:
        raise ModelError(f"`{name}={received!r}`; it can be {', '.join(choices)}.")
    return received


class FeedForward(nn.Module):
    """[..., D] -> [..., D]: widen, bend, narrow. "swiglu" multiplies by a second, bent projection (Shazeer 2020, eq. 6).

    `hidden` is 4 D by default, and 8/3 D for SwiGLU, rounded up to a multiple of 8, which has three matrices for two.
    """

    def __init__(self, dim: int, hidden: int | None = None, bend: str = "gelu", bias: bool = True):
        super().__init__()
        gated = choose("mlp", bend, tuple(BENDS)) == "swiglu"
        hidden = hidden or (8 * math.ceil(dim / 3) if gated else 4 * dim)
        self.bend = BENDS[bend]
        self.up = nn.Linear(dim, hidden, bias=bias)
        self.gate = nn.Linear(dim, hidden, bias=bias) if gated else None
        self.down = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bend(self.up(x)) if self.gate is None else self.bend(self.gate(x)) * self.up(x)
        out: Tensor = self.down(h)
        return out


class Block(nn.Module):
    """[B, T, D] -> [B, T, D]: attention, then attention on a `memory` [B, S, D] if it has `cross`, then feed-forward."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        hidden: int | None = None,
        causal: bool = False,
        cross: bool = False,
        window: int | None = None,
        norm: str = "layer",
        order: str = "pre",
        mlp: str = "gelu",
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        self.pre = choose("order", order, ORDERS) == "pre"
        new = NORMS[choose("norm", norm, tuple(NORMS))]
        self.attention = Attention(
            dim, heads, kv_heads=kv_heads, causal=causal, window=window, dropout=dropout, bias=bias
        )
        self.attention_norm = new(dim, bias)
        self.cross = Attention(dim, heads, kv_heads=kv_heads, dropout=dropout, bias=bias) if cross else None
        self.cross_norm = new(dim, bias) if cross else None
        self.feed = FeedForward(dim, hidden, mlp, bias)
        self.feed_norm = new(dim, bias)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x_BTD: Tensor,
        *,
        mask: Tensor | None = None,
        turn: tuple[Tensor, Tensor] | None = None,
        memory_BSD: Tensor | None = None,
        memory_mask: Tensor | None = None,
        kept: Kept | None = None,
        kept_memory: Kept | None = None,
    ) -> Tensor:
        """`mask`, `turn` and `kept` are `Attention`'s, for the tokens themselves; the others for the memory."""
        x_BTD = self.add(x_BTD, self.attention_norm, lambda x: self.attention(x, mask=mask, turn=turn, kept=kept))
        if self.cross is not None and self.cross_norm is not None:
            cross = self.cross
            x_BTD = self.add(x_BTD, self.cross_norm, lambda x: cross(x, memory_BSD, mask=memory_mask, kept=kept_memory))
        return self.add(x_BTD, self.feed_norm, self.feed)

    def add(self, x: Tensor, norm: nn.Module, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """x + branch(norm(x)), or norm(x + branch(x)) for Post-LN."""
        out: Tensor = x + self.dropout(branch(norm(x))) if self.pre else norm(x + self.dropout(branch(x)))
        return out


def initialize(module: nn.Module, branches: int = 1) -> None:
    """Weights from N(0, 2 / 5D), biases zero, and what writes to the residual stream by 1 / sqrt(`branches`) smaller.

    D is the width of the stream, which a matrix reads or, if it is one of those, writes. sqrt(2 / 5D), "small init" (Nguyen & Salazar
    2019, 2.2), is GPT-2's 0.02 at its width of 768 and grows for narrower nets, whose attention 0.02 leaves almost flat: one epoch of
    translation at D = 128 (Multi30k) came to a perplexity of 77 with it, 89 with Glorot's and 129 with 0.02. Each branch adds its
    variance to the stream; with 2 L of them divided by sqrt(2 L), their sum is as large as one alone, however deep (Radford et al.
    2019, 2.3). Draws from torch's global generator.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Embedding)):
            nn.init.normal_(layer.weight, std=_small(layer.weight.shape[1]))
        if isinstance(layer, nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
    for block in module.modules():
        if isinstance(block, Block):
            writers = [block.attention.out, block.feed.down] + ([] if block.cross is None else [block.cross.out])
            for writer in writers:
                nn.init.normal_(writer.weight, std=_small(writer.out_features) / math.sqrt(branches))


def _small(width: int) -> float:
    return math.sqrt(2 / (5 * width))


class Cache(Seen):
    """What a decoder has read: every layer's keys and values, so that the next token costs one token's work."""

    def __init__(self, layers: int):
        super().__init__()
        self.own = [Kept() for _ in range(layers)]
        self.memory = [Kept() for _ in range(layers)]

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        super().select(rows)
        for kept in (*self.own, *self.memory):
            kept.select(rows)


class Options(TypedDict, total=False):
    """What the three networks hand on to `Stack`, which says what each is."""

    kv_heads: int | None
    hidden: int | None
    window: int | None
    positions: str
    max_length: int
    norm: str
    order: str
    mlp: str
    dropout: float
    bias: bool


class Stack(nn.Module):
    """Positions, `layers` blocks and, for Pre-LN, a last norm: [B, T, D] -> [B, T, D].

    dim, heads:    width D, and how many heads share it
    kv_heads:      heads of keys and values (grouped-query); None: as many as heads
    hidden:        width within the feed-forward; None: `FeedForward`'s default
    causal, cross: no token sees a later one; each block also attends to a memory
    window:        no token sees one that is that many away; None: no limit
    positions:     one of `POSITIONS`
    max_length:    tokens that learned positions are for; the others have no end
    norm, order:   "layer" or "rms"; "pre" or "post"
    norm_first:    normalise what comes in as well, as BERT does
    mlp:           one of `BENDS`
    dropout:       probability, on the input, the attention weights and each branch
    bias:          of linear layers and layer norms

    Raises ModelError for what cannot be.
    """

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        hidden: int | None = None,
        causal: bool = False,
        cross: bool = False,
        window: int | None = None,
        positions: str = "learned",
        max_length: int = 512,
        norm: str = "layer",
        order: str = "pre",
        norm_first: bool = False,
        mlp: str = "gelu",
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        if layers < 1 or not 0 <= dropout < 1:
            raise ModelError(
                f"`layers={layers}`, `dropout={dropout}`; at least 1 layer, and dropout from 0 to below 1."
            )
        self.positions = choose("positions", positions, POSITIONS)
        self.max_length = max_length if positions == "learned" else None
        self.learned = Learned(max_length, dim) if positions == "learned" else None
        self.blocks = nn.ModuleList(
            Block(
                dim,
                heads,
                kv_heads=kv_heads,
                hidden=hidden,
                causal=causal,
                cross=cross,
                window=window,
                norm=norm,
                order=order,
                mlp=mlp,
                dropout=dropout,
                bias=bias,
            )
            for _ in range(layers)
        )
        if (positions == "rope" and (dim // heads) % 2) or (positions == "sinusoidal" and dim % 2):
            raise ModelError(
                f"`positions={positions!r}` pairs up features, but `dim={dim}` with `heads={heads}` leaves one over; "
                "sinusoidal needs an even dim, rope an even dim / heads."
            )
        self.first_norm = NORMS[norm](dim, bias) if norm_first else nn.Identity()
        self.last_norm = NORMS[norm](dim, bias) if order == "pre" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.heads, self.head_width = heads, dim // heads
        self.causal, self.window = causal, window
        initialize(self, branches=(3 if cross else 2) * layers)

    def forward(
        self,
        x_BTD: Tensor,
        real_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        *,
        memory_BSD: Tensor | None = None,
        memory_real_BS: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """`segments_BT` numbers the documents that are packed into a row: each is as if it were alone, positions and all.

        Raises ModelError if there are more tokens than learned positions, or segments beside a cache.
        """
        T, device = x_BTD.shape[1], x_BTD.device
        if cache is not None and segments_BT is not None:
            raise ModelError("`segments_BT` came with a cache, which holds one document a row; leave one of them out.")
        read = 0 if cache is None else cache.length
        S = read + T
        if self.max_length is not None and self.max_length < S:
            raise ModelError(
                f"{S} tokens, but `positions='learned'` was built for `max_length={self.max_length}`; shorten the input, "
                "raise max_length, or choose positions without an end (rope, alibi, sinusoidal)."
            )
        real_BS = real_BT if cache is None else cache.extend(T, real_BT)
        documents_BS, positions_BT = None, torch.arange(read, S, device=device)[None]
        if segments_BT is not None:
            documents_BS, positions_BT = documents(segments_BT)
        elif real_BS is not None:
            positions_BT = (real_BS.long().cumsum(1) - 1).clamp_min(0)[:, read:]  # padding does not count

        # Once for all layers. Nothing but causal stays None: the kernels know that mask and skip what it hides.
        mask = None
        if (
            self.positions == "alibi"
            or real_BS is not None
            or documents_BS is not None
            or self.window is not None
            or read
        ):
            mask = allowed(
                T,
                S,
                causal=self.causal,
                window=self.window,
                real_BS=real_BS,
                documents_BS=documents_BS,
                device=device,
            )
        if self.positions == "alibi":
            bias = alibi(self.heads, T, S, device)  # by columns: within a document as far apart as positions
            mask = bias if mask is None else bias.masked_fill(~mask, -math.inf)
        memory_mask = None
        if memory_BSD is not None and memory_real_BS is not None:
            memory_mask = memory_real_BS[:, None, None, :]
        turn = rotation(positions_BT, self.head_width) if self.positions == "rope" else None

        if self.positions == "sinusoidal":
            # sqrt(D) lifts the embeddings to the size of the waves (Vaswani et al. 2017, 3.4).
            x_BTD = x_BTD * math.sqrt(x_BTD.shape[-1]) + sinusoidal(positions_BT, x_BTD.shape[-1]).to(x_BTD.dtype)
        elif self.learned is not None:
            x_BTD = x_BTD + self.learned(positions_BT)
        x_BTD = self.dropout(self.first_norm(x_BTD))
        for i, block in enumerate(self.blocks):
            x_BTD = block(
                x_BTD,
                mask=mask,
                turn=turn,
                memory_BSD=memory_BSD,
                memory_mask=memory_mask,
                kept=None if cache is None else cache.own[i],
                kept_memory=None if cache is None else cache.memory[i],
            )
        out: Tensor = self.last_norm(x_BTD)
        return out


# ---- the three networks


class Encoder(nn.Module):
    """Tokens [B, T] -> states [B, T, D], each having seen the whole text (Devlin et al. 2019).

    `Classifier` and `MaskedLanguageModel` make predictions of them. The options are `Stack`'s. Post-LN normalises the
    embeddings too, as BERT does. BERT's embeddings of sentence A and B are not here: one separator token tells as much.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int = 128,
        layers: int = 4,
        heads: int = 4,
        **options: Unpack[Options],
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.width = dim
        initialize(self.embedding)
        self.stack = Stack(dim, layers, heads, norm_first=options.get("order") == "post", **options)

    def forward(self, ids_BT: Tensor, real_BT: Tensor | None = None, segments_BT: Tensor | None = None) -> Tensor:
        states: Tensor = self.stack(self.embedding(ids_BT), real_BT, segments_BT)
        return states


class Classifier(nn.Module):
    """Tokens [B, T] -> logits or numbers [B, outputs], from the mean state of the real tokens."""

    def __init__(self, encoder: Encoder | Bag | Trunk, outputs: int):
        super().__init__()
        self.encoder = encoder
        self.head = head(encoder.width, outputs)

    def forward(self, ids_BT: Tensor, real_BT: Tensor | None = None) -> Tensor:
        states_BTD = self.encoder(ids_BT, real_BT)
        if real_BT is None:
            mean_BD = states_BTD.mean(1)
        else:
            share_BT1 = (real_BT / real_BT.sum(1, keepdim=True).clamp_min(1))[..., None].to(states_BTD.dtype)
            mean_BD = (states_BTD * share_BT1).sum(1)
        out: Tensor = self.head(mean_BD)
        return out


class MaskedLanguageModel(nn.Module):
    """Tokens [B, T], some of them masked -> logits [B, T, V] of what they were; the embeddings serve as output weights."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder
        self.bias = nn.Parameter(torch.zeros(encoder.embedding.num_embeddings))  # how frequent each token is

    def forward(self, ids_BT: Tensor, real_BT: Tensor | None = None) -> Tensor:
        return F.linear(self.encoder(ids_BT, real_BT), self.encoder.embedding.weight, self.bias)


class Decoder(nn.Module):
    """Tokens [B, T] -> logits [B, T, V] of the token that comes next, at every place (Radford et al. 2019).

    The options are `Stack`'s. `tied`: the embeddings serve as output weights too (Press & Wolf 2017), which saves V D
    parameters.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int = 128,
        layers: int = 4,
        heads: int = 4,
        *,
        tied: bool = True,
        **options: Unpack[Options],
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        # Tied weights are used from where they are: the same tensor under two names is what safetensors refuses to write.
        self.head = None if tied else nn.Linear(dim, vocabulary, bias=False)
        for layer in (self.embedding, self.head):
            if layer is not None:
                initialize(layer)
        self.stack = Stack(dim, layers, heads, causal=True, **options)

    def forward(
        self,
        ids_BT: Tensor,
        real_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """With a `cache`, `ids_BT` are the tokens that follow those that it has read, and they are added to it."""
        states_BTD = self.stack(self.embedding(ids_BT), real_BT, segments_BT, cache=cache)
        return F.linear(states_BTD, self.embedding.weight if self.head is None else self.head.weight)

    def cache(self) -> Cache:
        """An empty one, for one batch."""
        return Cache(len(self.stack.blocks))


class EncoderDecoder(nn.Module):
    """Source [B, S] and target so far [B, T] -> logits [B, T, V] of the target's next token (Vaswani et al. 2017).

    The options are `Stack`'s, but that positions are sinusoidal by default; there are `layers` blocks on either side. Source,
    target and, if `tied`, output share one table of embeddings (3.4), so they share one vocabulary.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int = 128,
        layers: int = 4,
        heads: int = 4,
        *,
        tied: bool = True,
        **options: Unpack[Options],
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, dim)
        self.head = None if tied else nn.Linear(dim, vocabulary, bias=False)
        for layer in (self.embedding, self.head):
            if layer is not None:
                initialize(layer)
        chosen: Options = {"positions": "sinusoidal", **options}
        self.encoder = Stack(dim, layers, heads, **chosen)
        self.decoder = Stack(dim, layers, heads, causal=True, cross=True, **chosen)

    def forward(
        self,
        source_BS: Tensor,
        target_BT: Tensor,
        source_real_BS: Tensor | None = None,
        target_real_BT: Tensor | None = None,
    ) -> Tensor:
        """To train, the target starts with a start token and lacks its last token: what is to be said lies one ahead."""
        memory_BSD = self.encode(source_BS, source_real_BS)
        return self.decode(target_BT, memory_BSD, source_real_BS, target_real_BT)

    def encode(self, source_BS: Tensor, source_real_BS: Tensor | None = None) -> Tensor:
        """The memory [B, S, D] to decode from."""
        memory_BSD: Tensor = self.encoder(self.embedding(source_BS), source_real_BS)
        return memory_BSD

    def decode(
        self,
        target_BT: Tensor,
        memory_BSD: Tensor,
        source_real_BS: Tensor | None = None,
        target_real_BT: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Logits [B, T, V]. A `cache` keeps the memory's keys and values as well, so it serves one memory."""
        states_BTD = self.decoder(
            self.embedding(target_BT),
            target_real_BT,
            memory_BSD=memory_BSD,
            memory_real_BS=source_real_BS,
            cache=cache,
        )
        return F.linear(states_BTD, self.embedding.weight if self.head is None else self.head.weight)

    def cache(self) -> Cache:
        """An empty one, for one batch."""
        return Cache(len(self.decoder.blocks))
