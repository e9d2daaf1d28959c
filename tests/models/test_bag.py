"""A bag of words: no order, no neighbours, and before training about TF-IDF's cosine."""

import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from wellfit.errors import ModelError
from wellfit.models.bag import Bag


def test_a_vector_does_not_depend_on_its_neighbours() -> None:
    bag = Bag(20, 8).eval()
    tokens = torch.tensor([[4, 5, 6], [6, 5, 4]])
    assert torch.equal(bag(tokens)[0].flip(0), bag(tokens)[1])


def test_pooled_is_the_weighted_sum() -> None:
    bag = Bag(20, 8).eval()
    tokens, weights = torch.randint(0, 20, (3, 5)), torch.rand(3, 5)
    torch.testing.assert_close(bag.pooled(tokens, weights), (weights[:, :, None] * bag(tokens)).sum(1))
    weights.requires_grad_()
    bag.pooled(tokens, weights).sum().backward()
    assert weights.grad is not None
    assert bag.embedding.weight.grad is not None


def test_whole_tokens_are_left_out_while_training_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    bag = Bag(20, 8, dropout=0.25).train()
    out = bag(torch.full((1, 4000), 7))[0]
    gone = (out == 0).all(1)
    assert 0.2 < gone.double().mean() < 0.3
    assert torch.equal((out == 0).any(1), gone)
    torch.testing.assert_close(out.mean(0), bag.embedding.weight[7], rtol=0.1, atol=0.02)


def test_untrained_it_compares_as_tf_idf_does() -> None:
    """The mean difference of cosines falls with the root of the dimensions."""
    texts = [
        "a dog runs on the grass",
        "a dog sleeps on the grass",
        "two men play chess",
        "the men play chess at night",
    ]
    tfidf = TfidfVectorizer(token_pattern=r"\w+").fit(texts)
    rows = torch.tensor(tfidf.transform(texts).toarray(), dtype=torch.float32)
    torch.manual_seed(0)
    bag = Bag(rows.shape[1], 4096).eval()
    pooled = torch.nn.functional.normalize(bag.pooled(torch.arange(rows.shape[1]).expand(4, -1), rows), dim=1)
    torch.testing.assert_close(pooled @ pooled.T, rows @ rows.T, atol=0.06, rtol=0)


def test_what_cannot_be() -> None:
    with pytest.raises(ModelError, match="dropout=1"):
        Bag(20, 8, dropout=1.0)
    with pytest.raises(ModelError, match="dim=0"):
        Bag(20, 0)
