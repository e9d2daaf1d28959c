"""A bag of words: each token has a vector, whatever stands around it (Joulin et al. 2017, fastText).

Their mean is a text's vector: order and context are lost, and of few texts little else can be learnt anyway. With tokens that
are words *and* their groups of letters (Bojanowski et al. 2017), a word that was never seen is still known by its parts. Random
directions in many dimensions are nearly at right angles, so before any training the cosine of two texts is about that of their
counts; weighted by rarity it is TF-IDF's, and learning goes on from there.

Letters: B rows, T tokens, D dimensions.

    >>> Bag(vocabulary=50, dim=300)(torch.zeros(3, 10, dtype=torch.long)).shape
    torch.Size([3, 10, 300])
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wellfit.errors import ModelError


class Bag(nn.Module):
    """Tokens [B, T] -> vectors [B, T, D]. `dropout` leaves whole tokens out while training. Raises ModelError for what cannot be."""

    def __init__(self, vocabulary: int, dim: int = 300, *, dropout: float = 0.1):
        super().__init__()
        if dim < 1 or not 0 <= dropout < 1:
            raise ModelError(f"`dim={dim}`, `dropout={dropout}`; at least 1 dimension, and dropout from 0 to below 1.")
        self.embedding = nn.Embedding(vocabulary, dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)  # vectors of about length 1
        self.dropout, self.width = dropout, dim

    def forward(self, ids_BT: Tensor, real_BT: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """`real_BT` is what an `Encoder` takes; a vector does not depend on its neighbours, so nothing is done with it."""
        vectors_BTD: Tensor = self.embedding(ids_BT)
        kept_BT = self.kept(ids_BT)
        return vectors_BTD if kept_BT is None else vectors_BTD * kept_BT.to(vectors_BTD.dtype)[:, :, None]

    def pooled(self, ids_BT: Tensor, weights_BT: Tensor) -> Tensor:
        """The sum of the tokens' vectors by these weights, float32 [B, D], without holding the vector of each."""
        kept_BT = self.kept(ids_BT)
        weights_BT = weights_BT if kept_BT is None else weights_BT * kept_BT
        if torch.compiler.is_exporting():  # the kernel below would be fixed to two texts or more
            vectors_BTD: Tensor = self.embedding(ids_BT)
            return (weights_BT[:, :, None] * vectors_BTD.float()).sum(1)
        table = self.embedding.weight
        with torch.autocast(ids_BT.device.type, enabled=False):
            return F.embedding_bag(ids_BT, table, mode="sum", per_sample_weights=weights_BT.to(table.dtype))

    def kept(self, ids_BT: Tensor) -> Tensor | None:
        """1 / (1 - dropout) for tokens that stay and 0 for those left out, [B, T]; None where all stay as they are."""
        if not self.training or not self.dropout:
            return None
        return (torch.rand(ids_BT.shape, device=ids_BT.device) >= self.dropout) / (1 - self.dropout)
