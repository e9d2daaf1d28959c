"""Pooled sentence vectors: against a loop and sentence-transformers, and nothing that padding could change."""

import doctest
import warnings

import pytest
import torch

from wellfit.errors import ModelError
from wellfit.models import pooling
from wellfit.models.pooling import WAYS, Pooling, cosine_matrix, pool

LENGTHS = (4, 1, 6, 3)


def batch(side: str = "right") -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """States and mask of four sentences padded with NaN and infinity, and the sentences alone."""
    torch.manual_seed(0)
    alone = [torch.randn(length, 5) for length in LENGTHS]
    states = torch.full((4, 6, 5), torch.nan)
    states[..., 0] = torch.inf
    mask = torch.zeros(4, 6, dtype=torch.int64)
    for sentence, tokens in enumerate(alone):
        place = slice(None, len(tokens)) if side == "right" else slice(6 - len(tokens), None)
        states[sentence, place] = tokens
        mask[sentence, place] = 1
    return states, mask, alone


SLOW = {
    "mean": lambda tokens: sum(tokens) / len(tokens),
    "max": lambda tokens: torch.stack([max(column) for column in tokens.T]),
    "first": lambda tokens: tokens[0],
    "last": lambda tokens: tokens[-1],
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("way", WAYS)
def test_padding_changes_nothing(way, side) -> None:
    states, mask, alone = batch(side)
    states.requires_grad_()
    pooled = pool(states, mask, way)
    torch.testing.assert_close(pooled, torch.stack([SLOW[way](tokens) for tokens in alone]))
    pooled.sum().backward()
    assert (states.grad[mask == 0] == 0).all()
    assert states.grad.isfinite().all()
    for kind in (torch.bool, torch.float32):
        assert torch.equal(pool(states, mask.to(kind), way), pooled)
    for sentence, tokens in enumerate(alone):  # not even the last bit
        assert torch.equal(pool(tokens[None], None, way)[0], pooled[sentence]) or way == "mean"


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_without_any_token_the_vector_is_zero(way, normalize) -> None:
    states = torch.full((2, 3, 4), torch.nan)
    states[1] = torch.arange(12.0).view(3, 4) - 5
    states.requires_grad_()
    pooled = pool(states, torch.tensor([[0, 0, 0], [1, 1, 1]]), way, normalize=normalize)
    assert (pooled[0] == 0).all()
    assert (pooled[1] != 0).any()
    pooled.sum().backward()
    assert (states.grad[0] == 0).all()
    assert states.grad.isfinite().all()
    torch.testing.assert_close(cosine_matrix(pooled), torch.tensor([[0.0, 0.0], [0.0, 1.0]]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("way", "theirs"), [("mean", "mean"), ("max", "max"), ("first", "cls"), ("last", "lasttoken")])
def test_is_sentence_transformers(way, theirs) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import deprecates things of its own
        models = pytest.importorskip("sentence_transformers.models")
        layer = models.Pooling(7, pooling_mode=theirs)
    torch.manual_seed(0)
    states, mask = torch.randn(5, 6, 7), torch.ones(5, 6, dtype=torch.int64)
    mask[1, 4:] = mask[2, 1:] = 0
    expected = layer({"token_embeddings": states, "attention_mask": mask})["sentence_embedding"]
    torch.testing.assert_close(pool(states, mask, way), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        Pooling(way, normalize=True)(states, mask), torch.nn.functional.normalize(expected), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_half_precision_is_summed_in_single(dtype) -> None:
    """The mean of 4000 ones is one, in a type that cannot count so far; a tiny vector still gets length 1."""
    states = torch.ones(1, 4000, 3, dtype=dtype)
    pooled = pool(states, way="mean")
    assert pooled.dtype == dtype
    assert (pooled == 1).all()
    tiny = pool(torch.full((1, 2, 4), 1e-6, dtype=dtype), normalize=True)
    torch.testing.assert_close(tiny, torch.full((1, 4), 0.5, dtype=dtype), rtol=1e-2, atol=0)
    assert (pool(torch.zeros(1, 2, 4, dtype=dtype), normalize=True) == 0).all()


def test_cosines() -> None:
    a, b = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[4.0, 3.0], [-6.0, -8.0], [1.0, 0.0]])
    torch.testing.assert_close(cosine_matrix(a, b), torch.tensor([[0.96, -1.0, 0.6], [0.0, 0.0, 0.0]]))
    a, b = torch.randn(4, 8), torch.randn(3, 8)
    expected = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1)
    torch.testing.assert_close(cosine_matrix(a, b), expected)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Pooling("cls"), "`way` is 'cls'; it can be mean, max, first, last"),
        (lambda: pool(torch.zeros(2, 3)), r"\[B, T, D\]"),
        (lambda: pool(torch.zeros(2, 0, 3)), "at least 1"),
        (lambda: pool(torch.zeros(2, 3, 4), torch.ones(3, 2)), r"shape \[2, 3\].*\[3, 2\]"),
        (lambda: cosine_matrix(torch.zeros(2, 3), torch.zeros(2, 4)), "one D"),
    ],
)
def test_errors_help(make, says) -> None:
    with pytest.raises(ModelError, match=says):
        make()


def test_the_pages_examples_run() -> None:
    results = doctest.testmod(pooling)
    assert results.attempted >= 2
    assert results.failed == 0
