"""Where a token stands: four ways to tell a Transformer, which by itself sees a set and no order.

*Sinusoidal* (Vaswani et al. 2017, 3.5) adds waves of geometrically growing length to the embeddings: nothing to learn, any
length. *Learned* (BERT, GPT-2) adds a row of a table: free to fit, undefined beyond its end. *RoPE* (Su et al. 2021) turns
queries and keys by an angle proportional to the position, so that their product depends on the distance alone. *ALiBi*
(Press et al. 2022) takes from each score an amount that grows with the distance, which holds up best beyond the lengths
that were trained.

Letters: B rows, H heads, T queries, S keys, D width, E width of a head. Positions count tokens from 0.

    >>> sinusoidal(torch.arange(10)[None], 64).shape
    torch.Size([1, 10, 64])
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wellfit.errors import ModelError


def frequencies(width: int, base: float, device: torch.device) -> Tensor:
    """base^(-2i / width) for i = 0 ... width / 2 - 1, in radians a token: from one turn in 6 tokens to one in 6 base."""
    if width % 2:
        raise ModelError(
            f"sinusoidal positions and RoPE pair up the features, but there are {width} of them; choose an even width "
            "(for RoPE, of each head: dim / heads)."
        )
    # float32 whatever the model is in: in bfloat16, tokens 256 and 257 would have the same position.
    return base ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)


def sinusoidal(positions_BT: Tensor, D: int, base: float = 10_000.0) -> Tensor:
    """[B, T] -> float32 [B, T, D]: sin in the even features, cos in the odd ones (Vaswani et al. 2017, 3.5).

    Raises ModelError if D is odd.
    """
    angles = positions_BT[..., None].float() * frequencies(D, base, positions_BT.device)
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)


class Learned(nn.Module):
    """[B, T] -> [B, T, D]: one trained vector for each of `max_length` positions."""

    def __init__(self, max_length: int, dim: int):
        super().__init__()
        self.table = nn.Embedding(max_length, dim)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, positions_BT: Tensor) -> Tensor:
        rows: Tensor = self.table(positions_BT)
        return rows


def documents(segments_BT: Tensor) -> tuple[Tensor, Tensor]:
    """The number of each token's document in its row, and its position there. A document is a run of equal segments."""
    starts = F.pad(segments_BT[:, 1:] != segments_BT[:, :-1], (1, 0), value=False)
    index = torch.arange(segments_BT.shape[1], device=segments_BT.device)
    first = torch.where(starts, index, 0).cummax(1).values
    return starts.cumsum(1), index - first


# ---- RoPE


def rotation(positions_BT: Tensor, E: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """cos and sin, float32 [B, 1, T, E / 2], by which `rotate` turns heads of E features; the 1 is for all heads.

    Raises ModelError if E is odd.
    """
    angles = positions_BT[:, None, :, None].float() * frequencies(E, base, positions_BT.device)
    return angles.cos(), angles.sin()


def rotate(x_BHTE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of features by its angle (Su et al. 2021, eq. 34); lengths stay, q . k depends on the distance alone.

    Feature i is paired with i + E / 2, as in Llama and GPT-NeoX. The paper pairs 2i with 2i + 1, which is the same up to the
    order of features; weights from elsewhere need the order that they were trained with.
    """
    cos, sin = cos.to(x_BHTE.dtype), sin.to(x_BHTE.dtype)
    a, b = x_BHTE.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


# ---- ALiBi


def slopes(heads: int) -> list[float]:
    """How much score each head takes off per token of distance: 2^(-8 h / H) for h = 1 ... H (Press et al. 2022, section 3).

    That is for H a power of two. Otherwise the heads up to the next lower power have its slopes, and the others every second
    one of the next higher power's, which lie between (the authors' code, as the paper's footnote says).
    """
    power = 2 ** int(math.log2(heads))
    between = slopes(2 * power)[0::2][: heads - power] if heads > power else []
    return [2 ** (-8 * h / power) for h in range(1, power + 1)] + between


def alibi(heads: int, T: int, S: int, device: torch.device | None = None) -> Tensor:
    """What to add to the scores, float32 [1, H, T, S]: -slope * distance. The last query stands at the last key.

    Distances are taken in both directions, so that it serves encoders too; a causal mask hides half of them.
    """
    t = torch.arange(S - T, S, device=device)[:, None]
    distance_TS = (t - torch.arange(S, device=device)).abs()
    return -torch.tensor(slopes(heads), device=device)[None, :, None, None] * distance_TS
