"""One vector for a sentence, pooled from the states of its tokens (Reimers & Gurevych 2019, Sentence-BERT).

An encoder gives a vector for each token; to compare, cluster or classify whole sentences one needs a single vector for each.
The mean of the tokens is the usual choice and was the best of three in that paper; the maximum keeps each feature's
strongest token; the first token is BERT's [CLS], made for this; the last is the only one of a causal model that has read
everything. With vectors of length 1 the dot product is the cosine, which is what such models are trained and searched by.

Sentences in a batch are padded to one length, and the mask says which tokens are real. Padding changes nothing here, on
either side and whatever it holds. A sentence without any token has the zero vector, whose cosine with everything is 0.

Letters: B sentences, T tokens, D features.

    >>> states_BTD, mask_BT = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    >>> pool(states_BTD, mask_BT, "mean", normalize=True).norm(dim=-1)
    tensor([1.0000, 1.0000])
"""

import torch
from torch import Tensor, nn

from wellfit.errors import ModelError

WAYS = ("mean", "max", "first", "last")


class Pooling(nn.Module):
    """`pool` as a layer without weights: states [B, T, D], mask [B, T] -> [B, D].

    Raises ModelError if `way` is not one of `WAYS`.
    """

    def __init__(self, way: str = "mean", *, normalize: bool = False):
        super().__init__()
        check_way(way)
        self.way, self.normalize = way, normalize

    def forward(self, states_BTD: Tensor, mask_BT: Tensor | None = None) -> Tensor:
        return pool(states_BTD, mask_BT, self.way, normalize=self.normalize)


def pool(states_BTD: Tensor, mask_BT: Tensor | None = None, way: str = "mean", *, normalize: bool = False) -> Tensor:
    """States [B, T, D] -> vectors [B, D] in the states' dtype, of length 1 if `normalize`.

    The mask [B, T] is nonzero at real tokens, as a tokenizer's `attention_mask`; without one all are real. "first" and
    "last" are the first and last *real* token, so left padding is as good as right. Raises ModelError for an unknown way
    and for shapes that do not fit.
    """
    check_way(way)
    if states_BTD.ndim != 3 or states_BTD.shape[1] < 1:
        raise ModelError(
            f"Token states must have the shape [B, T, D] with T at least 1, but these have {list(states_BTD.shape)}."
        )
    if mask_BT is None:
        mask_BT = states_BTD.new_ones(states_BTD.shape[:2], dtype=torch.bool)
    if mask_BT.shape != states_BTD.shape[:2]:
        raise ModelError(
            f"The mask must have the shape {list(states_BTD.shape[:2])}, one value for each token, but has "
            f"{list(mask_BT.shape)}."
        )
    real_BT = mask_BT != 0
    pooled_BD = {"mean": mean, "max": maximum, "first": first, "last": last}[way](states_BTD, real_BT)
    return unit(pooled_BD) if normalize else pooled_BD


def mean(states_BTD: Tensor, real_BT: Tensor) -> Tensor:
    """The mean over real tokens (bool [B, T]), [B, D]. Summed in float32: bfloat16 cannot count beyond 256."""
    # Filled, not multiplied by 0: padding may hold NaN or infinity.
    total_BD = wide(states_BTD.masked_fill(~real_BT[:, :, None], 0.0)).sum(dim=1)
    return (total_BD / real_BT.sum(dim=1, keepdim=True).clamp(min=1)).to(states_BTD.dtype)


def maximum(states_BTD: Tensor, real_BT: Tensor) -> Tensor:
    """The largest value of each feature over real tokens (bool [B, T]), [B, D]."""
    top_BD = states_BTD.masked_fill(~real_BT[:, :, None], -torch.inf).amax(dim=1)
    return top_BD.masked_fill(~real_BT.any(dim=1, keepdim=True), 0.0)


def first(states_BTD: Tensor, real_BT: Tensor) -> Tensor:
    """The state of the first real token (bool [B, T]), [B, D]; with right padding that is the one at 0, BERT's [CLS]."""
    return at(states_BTD, real_BT.int().argmax(dim=1), real_BT)


def last(states_BTD: Tensor, real_BT: Tensor) -> Tensor:
    """The state of the last real token (bool [B, T]), [B, D]."""
    T = real_BT.shape[1]
    return at(states_BTD, T - 1 - real_BT.flip(1).int().argmax(dim=1), real_BT)


def at(states_BTD: Tensor, place_B: Tensor, real_BT: Tensor) -> Tensor:
    """The state at one place of each sentence, [B, D]; zero where no token is real."""
    chosen_BD = states_BTD[torch.arange(len(states_BTD), device=states_BTD.device), place_B]
    return chosen_BD.masked_fill(~real_BT.any(dim=1, keepdim=True), 0.0)


def unit(x_BD: Tensor) -> Tensor:
    """Vectors of length 1; a zero vector stays zero. In float32: in float16 the guard against 0 / 0 would itself be 0."""
    return nn.functional.normalize(wide(x_BD), dim=-1).to(x_BD.dtype)


def wide(x: Tensor) -> Tensor:
    """In float32, or float64 if it is that already."""
    return x if x.dtype == torch.float64 else x.float()


def cosine_matrix(a_ND: Tensor, b_MD: Tensor | None = None) -> Tensor:
    """The cosine of every row of a with every row of b (or of a), [N, M]; 0 where a vector is zero."""
    if b_MD is None:
        b_MD = a_ND
    if a_ND.ndim != 2 or b_MD.ndim != 2 or a_ND.shape[1] != b_MD.shape[1]:
        raise ModelError(
            f"Vectors must have the shapes [N, D] and [M, D] with one D, but these have {list(a_ND.shape)} and "
            f"{list(b_MD.shape)}."
        )
    return unit(a_ND) @ unit(b_MD).T


def check_way(way: str) -> None:
    """Raises ModelError if there is no such way of pooling."""
    if way not in WAYS:
        raise ModelError(f"`way` is {way!r}; it can be {', '.join(WAYS)}.")
