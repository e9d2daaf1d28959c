"""Attention: every token gathers from others what it needs (Bahdanau et al. 2015; Vaswani et al. 2017, 3.2).

Each token asks a *query*, and offers a *key* and a *value*. How well query and key match decides the share of that value in
the answer: softmax(Q K^T / sqrt(E)) V. Scores of E independent products have variance E, and a softmax of large numbers
has no gradient; hence the root. Several *heads* ask several questions at once. Heads can share keys and values
(grouped-query, Ainslie et al. 2023), for the memory that they take while generating.

The rule for a query that may see no key at all (a row of nothing but padding): its answer is zero, and so is its gradient.
A softmax alone would give 0 / 0, and that NaN would spread over the whole batch.

Letters: B rows, T queries, S keys, D width, H heads, G heads of keys and values, E = D / H width of a head. A mask is bool,
True where a query may see a key, or float, added to the scores; it broadcasts to [B, H, T, S].

    >>> Attention(dim=64, heads=4, causal=True)(torch.zeros(2, 10, 64)).shape
    torch.Size([2, 10, 64])
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wellfit.errors import ModelError
from wellfit.models.positions import rotate

# ---- who may see whom


def allowed(
    T: int,
    S: int,
    *,
    causal: bool = False,
    window: int | None = None,
    real_BS: Tensor | None = None,
    documents_BS: Tensor | None = None,
    device: torch.device | None = None,
) -> Tensor | None:
    """A bool mask [1 or B, 1, T, S], True where query t may see key s; None if all may see all.

    With T < S the queries are the last T of the S tokens, as when a cache holds the earlier ones. `causal`: not what comes
    later. `window`: fewer than that many tokens away, the token itself included. `real_BS`: not the padding, which is False.
    `documents_BS`: only where the number is the same.
    """
    seen: Tensor | None = None
    t = torch.arange(S - T, S, device=device)[:, None]
    s = torch.arange(S, device=device)
    if causal and T > 1:  # a single query is the last token: nothing comes later
        seen = (s <= t)[None, None]
    if window is not None and window < S:
        near = ((t - s).abs() < window)[None, None]
        seen = near if seen is None else seen & near
    if real_BS is not None:
        real = real_BS[:, None, None, :].expand(-1, 1, T, S)
        seen = real if seen is None else seen & real
    if documents_BS is not None:
        same = documents_BS[:, None, S - T :, None] == documents_BS[:, None, None, :]
        seen = same if seen is None else seen & same
    return seen


# ---- softmax(Q K^T / sqrt(E)) V


def attend(
    q_BHTE: Tensor, k_BGSE: Tensor, v_BGSE: Tensor, mask: Tensor | None = None, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Written out: the answers [B, H, T, E] and the weights [B, H, T, S], whose rows sum to 1, or 0 if nothing may be seen."""
    T, S, share = q_BHTE.shape[-2], k_BGSE.shape[-2], q_BHTE.shape[1] // k_BGSE.shape[1]
    if share > 1:
        k_BGSE, v_BGSE = k_BGSE.repeat_interleave(share, 1), v_BGSE.repeat_interleave(share, 1)
    scores = q_BHTE @ k_BGSE.mT / math.sqrt(q_BHTE.shape[-1])
    for hide in (mask, allowed(T, S, causal=causal, device=scores.device)):
        if hide is not None:
            scores = scores.masked_fill(~hide, -math.inf) if hide.dtype == torch.bool else scores + hide
    # The highest score is taken off first, or exp overflows from 89 on. It cancels, so it needs no gradient. In a row where
    # all is hidden it is -inf, and -inf - -inf is NaN: hence the lowest finite number.
    highest = scores.detach().amax(-1, keepdim=True).clamp_min(torch.finfo(scores.dtype).min)
    shares = (scores - highest).exp()
    total = shares.sum(-1, keepdim=True)
    # In that row 0 / 1 is zero. Not 0 / clamp(total, 1e-38): that gradient is infinite, and times 0 it is NaN.
    weights = shares / torch.where(total == 0, 1.0, total)
    return weights @ v_BGSE, weights


def attend_fused(
    q_BHTE: Tensor,
    k_BGSE: Tensor,
    v_BGSE: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """The same answers [B, H, T, E] from torch's kernels, which never store the T x S weights where they need not.

    `dropout` is the probability with which a weight is dropped. Not both a mask and `causal`.
    """
    empty: Tensor | None = None
    if mask is not None:
        # Kernels disagree on rows where all is hidden (zero or NaN), so those rows see everything and are zeroed after.
        if mask.dtype == torch.bool:
            empty = ~mask.any(-1, keepdim=True)
            mask = mask | empty
        else:
            empty = (mask == -math.inf).all(-1, keepdim=True)
            mask = mask.masked_fill(empty, 0.0).to(q_BHTE.dtype)
    out = F.scaled_dot_product_attention(
        q_BHTE,
        k_BGSE,
        v_BGSE,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=bool(
            causal and q_BHTE.shape[-2] > 1
        ),  # torch would align a single query with the first key, not the last
        enable_gqa=q_BHTE.shape[1] != k_BGSE.shape[1],
    )
    return out if empty is None else out.masked_fill(empty, 0.0)


# ---- without the softmax


def linear_attention(
    q_BHTE: Tensor, k_BHSE: Tensor, v_BHSE: Tensor, causal: bool = False, chunk: int = 64, eps: float = 1e-6
) -> Tensor:
    """Attention with weights phi(q) . phi(k) for exp(q . k), phi = elu + 1 (Katharopoulos et al. 2020, eq. 5 and 7).

    Without the softmax the product can be taken as phi(Q) (phi(K)^T V), whose cost grows with T and not with T^2. The causal
    one (eq. 9) sums over the keys so far: the E x E sums at the start of each `chunk` of tokens, and within a chunk the
    plain product; one sum for each token would take T E^2 numbers. `eps` keeps the division finite. -> [B, H, T, E].

    Raises ModelError if it is causal and there are not as many keys as queries.
    """
    q, k = F.elu(q_BHTE) + 1, F.elu(k_BHSE) + 1
    v = F.pad(v_BHSE, (0, 1), value=1.0)  # a column of ones: its answer is the sum of weights, the normaliser
    if not causal:
        answers = q @ (k.mT @ v)
    else:
        T = q.shape[-2]
        if k.shape[-2] != T:
            raise ModelError(
                f"causal linear attention got {T} queries and {k.shape[-2]} keys; it needs as many of one as of the other."
            )
        # [B, H, N, C, E]: N chunks of C tokens. The zeros that fill the last one are keys without weight.
        q, k, v = (torch.unflatten(F.pad(x, (0, 0, 0, -T % chunk)), -2, (-1, chunk)) for x in (q, k, v))
        sums = k.mT @ v
        before = F.pad(sums.cumsum(-3)[..., :-1, :, :], (0, 0, 0, 0, 1, 0))  # what all earlier chunks hold
        answers = (q @ before + (q @ k.mT).tril() @ v).flatten(-3, -2)[..., :T, :]
    return answers[..., :-1] / (answers[..., -1:] + eps)


# ---- the layer


class Kept:
    """Keys and values [B, G, S, E] that a layer has already computed while generating. No gradient flows into them."""

    def __init__(self) -> None:
        self.length = 0
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def extend(self, k_BGTE: Tensor, v_BGTE: Tensor) -> tuple[Tensor, Tensor]:
        """Append T tokens; all keys and values so far. The room doubles when it is full, so that few calls copy."""
        start, self.length = self.length, self.length + k_BGTE.shape[-2]
        k_BGTE, v_BGTE = k_BGTE.detach(), v_BGTE.detach()
        if self.k is None or self.v is None:
            self.k, self.v = k_BGTE, v_BGTE
        else:
            if self.length > self.k.shape[-2]:
                more = max(self.length, 2 * start) - start
                self.k, self.v = (F.pad(old[..., :start, :], (0, 0, 0, more)) for old in (self.k, self.v))
            self.k[..., start : self.length, :] = k_BGTE
            self.v[..., start : self.length, :] = v_BGTE
        return self.k[..., : self.length, :], self.v[..., : self.length, :]

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; a row may be there twice."""
        if self.k is not None and self.v is not None:
            self.k, self.v = self.k[rows], self.v[rows]


class Seen:
    """How many tokens have been read in each row of a batch, and which of them are no padding."""

    def __init__(self) -> None:
        self.length = 0
        self.real_BS: Tensor | None = None  # None while there is no padding

    def extend(self, T: int, real_BT: Tensor | None) -> Tensor | None:
        """Note T more tokens; which of all of them are real."""
        if real_BT is not None or self.real_BS is not None:
            old, new = self.real_BS, real_BT
            if new is None and old is not None:
                new = old.new_ones(old.shape[0], T)
            elif old is None and new is not None:
                old = new.new_ones(new.shape[0], self.length)
            assert old is not None
            assert new is not None
            self.real_BS = torch.cat((old, new), 1)
        self.length += T
        return self.real_BS

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order."""
        self.real_BS = None if self.real_BS is None else self.real_BS[rows]


class Attention(nn.Module):
    """Multi-head attention [B, T, D] -> [B, T, D], of tokens among themselves or on a `context` [B, S, C].

    `kv_heads` heads of keys and values serve `heads` heads of queries: as many (multi-head, the default), some
    (grouped-query) or 1 (multi-query). `causal`: no token sees a later one. `window`: nor one that is that many tokens away
    (Beltagy et al. 2020). `dropout` falls on the weights. `context_dim` is C, if it is not D.

    Raises ModelError if the heads do not divide the width, or the heads of keys and values not the heads.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        causal: bool = False,
        window: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        context_dim: int | None = None,
    ):
        super().__init__()
        kv_heads = heads if kv_heads is None else kv_heads
        if heads < 1 or dim % heads:
            raise ModelError(
                f"`dim={dim}` is not divisible by `heads={heads}`; each head takes dim / heads features, so choose a divisor."
            )
        if kv_heads < 1 or heads % kv_heads:
            raise ModelError(
                f"`kv_heads={kv_heads}` does not divide `heads={heads}`; each head of keys and values serves heads / kv_heads "
                "queries, so choose a divisor."
            )
        if window is not None and window < 1:
            raise ModelError(f"`window={window}`; it must be at least 1, which is the token itself, or None for all.")
        self.heads, self.kv_heads, self.width = heads, kv_heads, dim // heads
        self.causal, self.window, self.dropout = causal, window, dropout
        self.q = nn.Linear(dim, dim, bias=bias)
        self.kv = nn.Linear(context_dim or dim, 2 * kv_heads * self.width, bias=bias)  # keys first, then values
        self.out = nn.Linear(dim, dim, bias=bias)

    def forward(
        self,
        x_BTD: Tensor,
        context_BSC: Tensor | None = None,
        *,
        real_BS: Tensor | None = None,
        mask: Tensor | None = None,
        turn: tuple[Tensor, Tensor] | None = None,
        kept: Kept | None = None,
        weights: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """[B, T, D], and with `weights=True` also the weights [B, H, T, S] (before dropout, which that way is left out).

        `real_BS` is False where a key is padding. `mask`, if given, stands for `causal`, `window` and `real_BS` together:
        a stack of layers computes it once. `turn` is the cos and sin of `positions.rotation`. `kept` holds earlier tokens
        (T new ones are then the last of S), or the context's keys and values, which need computing only once.

        Raises ModelError if a causal or windowed layer gets a context: its tokens have no place among the queries.
        """
        if context_BSC is not None and (self.causal or self.window is not None):
            raise ModelError(
                "a causal or windowed Attention got a context, whose tokens come neither before nor after the queries. "
                "Build it with `causal=False` and `window=None`, or call it without `context_BSC`."
            )
        q = self.q(x_BTD).unflatten(-1, (self.heads, self.width)).transpose(1, 2)
        if turn is not None:
            q = rotate(q, *turn)
        if context_BSC is not None and kept is not None and kept.k is not None and kept.v is not None:
            k, v = kept.k, kept.v
        else:
            source = x_BTD if context_BSC is None else context_BSC
            k, v = self.kv(source).unflatten(-1, (2, self.kv_heads, self.width)).permute(2, 0, 3, 1, 4).unbind(0)
            if turn is not None:
                k = rotate(k, *turn)
            if kept is not None:
                k, v = kept.extend(k, v)
        T, S = q.shape[-2], k.shape[-2]
        if mask is None and (real_BS is not None or self.window is not None or T != S):
            mask = allowed(T, S, causal=self.causal, window=self.window, real_BS=real_BS, device=q.device)
        causal = self.causal and mask is None and T == S
        if weights:
            answers, shares = attend(q, k, v, mask, causal)
            return self.out(answers.transpose(1, 2).flatten(-2)), shares
        answers = attend_fused(q, k, v, mask, causal, self.dropout if self.training else 0.0)
        out: Tensor = self.out(answers.transpose(1, 2).flatten(-2))
        return out


# ---- to look at


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout and gradients; each module is in its former mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def attention_maps(model: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    """The weights [B, H, T, S] of every `Attention` in the model for `model(*inputs)`, by the module's name.

    The model runs as always and each layer's weights are computed a second time beside it: the answer is what the fused
    kernels gave, and nothing in the model changes. For looking, not as an explanation: a large weight on a small value means
    little (Kobayashi et al. 2020).
    """
    maps: dict[str, Tensor] = {}

    def watch(name: str, module: Attention) -> Any:
        def after(_module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], _output: Any) -> None:
            maps[name] = module.forward(*args, **{**named, "weights": True})[1]

        return module.register_forward_hook(after, with_kwargs=True)

    hooks = [watch(name, module) for name, module in model.named_modules() if isinstance(module, Attention)]
    try:
        with evaluating(model):
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return maps
