"""Splits: a partition in the original order, in proportion, the same for the same seed; or a sentence that says why not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wellfit.data.split import split
from wellfit.errors import DataError


def halves(samples, targets, share, seed=0, stratify=True, **more):
    return split(samples, targets, share, seed=seed, what="validation", stratify=stratify, **more)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(20, 200), classes=st.integers(2, 5), share=st.floats(0.3, 0.6), seed=st.integers(0, 9))
def test_a_partition_in_order_and_in_proportion(count, classes, share, seed) -> None:
    samples, targets = torch.arange(count), torch.arange(count) % classes
    kept, held = halves(samples, targets, share, seed)
    assert torch.equal(torch.cat([kept, held]).sort().values, samples)
    assert torch.equal(kept, kept.sort().values)
    assert torch.equal(held, held.sort().values)
    assert len(held) == round(share * count)
    wanted = torch.bincount(targets).double() * len(held) / count
    assert (torch.bincount(targets[held], minlength=classes) - wanted).abs().max() <= 1  # off by rounding alone


def test_seeds_decide() -> None:
    samples, targets = torch.arange(100), torch.arange(100) % 2
    assert torch.equal(halves(samples, targets, 0.2, 1)[1], halves(samples, targets, 0.2, 1)[1])
    assert not torch.equal(halves(samples, targets, 0.2, 1)[1], halves(samples, targets, 0.2, 2)[1])


def test_a_split_of_a_split() -> None:
    """`targets` are of all samples, `samples` only of those that are left."""
    targets = torch.tensor([0] * 50 + [1] * 50)
    kept, held = halves(torch.arange(25, 75), targets, 0.2)
    assert set(torch.cat([kept, held]).tolist()) == set(range(25, 75))
    assert torch.bincount(targets[held]).tolist() == [5, 5]


def test_numbers_are_not_stratified() -> None:
    kept, held = halves(torch.arange(10), torch.rand(10), 0.3, stratify=False)
    assert (len(kept), len(held)) == (7, 3)


@pytest.mark.parametrize("share", [0.01, 0.999])
def test_no_empty_side(share) -> None:
    with pytest.raises(DataError, match=r"`data\.valid_share`.*10 samples"):
        halves(torch.arange(10), torch.arange(10) % 2, share)


def test_a_class_that_is_too_rare_is_named() -> None:
    targets = torch.tensor([0] * 10 + [1] + [2] * 10)
    with pytest.raises(DataError, match=r"class number 1 has 1 \('yew'\).*`data\.valid=PATH`"):
        halves(torch.arange(21), targets, 0.3, names=("ash", "yew", "oak"))
    with pytest.raises(DataError, match="5 classes"):
        halves(torch.arange(50), torch.arange(50) % 5, 0.05)


def test_the_field_of_a_test_share_is_named() -> None:
    with pytest.raises(DataError, match=r"`data\.test_share`.*`data\.test=PATH`"):
        split(torch.arange(3), torch.zeros(3), 0.1, seed=0, what="test", stratify=False)
