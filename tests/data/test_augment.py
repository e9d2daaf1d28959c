"""Augmentation is a pure function of (seed, epoch, sample)."""

import numpy as np
import torch

from wellfit.data.augment import augment, uniform
from wellfit.recipe import Augment


def test_a_sample_gets_the_same_change_in_any_company() -> None:
    images = torch.randint(0, 255, (50, 3, 8, 8), dtype=torch.uint8)
    settings = Augment(shift=2, flip=True)
    whole = augment(images, torch.arange(50), settings, seed=1, epoch=4)
    order = torch.randperm(50)
    shuffled = augment(images[order], order, settings, seed=1, epoch=4)
    assert torch.equal(whole[order], shuffled)
    assert not torch.equal(whole, augment(images, torch.arange(50), settings, seed=1, epoch=5))
    assert not torch.equal(whole, augment(images, torch.arange(50), settings, seed=2, epoch=4))


def test_shifts_are_shifts() -> None:
    image = torch.arange(1, 17, dtype=torch.uint8).reshape(1, 1, 4, 4)
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))
    allowed = [padded[0, 0, i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    results = augment(image.expand(200, 1, 4, 4), torch.arange(200), Augment(shift=1), seed=0, epoch=0)
    seen = {next(k for k, window in enumerate(allowed) if torch.equal(window, result[0])) for result in results}
    assert seen == set(range(9))


def test_half_are_mirrored() -> None:
    image = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4).expand(2000, 1, 4, 4)
    mirrored = augment(image, torch.arange(2000), Augment(flip=True), seed=0, epoch=0)[:, 0, 0, 0] == 3
    assert 0.45 < mirrored.float().mean() < 0.55


def test_uniform_is_uniform_and_its_draws_are_independent() -> None:
    draws = np.stack([uniform(0, epoch, np.arange(20_000), draw) for epoch in (0, 1) for draw in (0, 1)])
    counts = np.stack([np.histogram(row, bins=20, range=(0, 1))[0] for row in draws])
    chi = ((counts - 1000) ** 2 / 1000).sum(1)
    assert (chi < 45).all()  # 19 degrees of freedom: p < 0.001 beyond 43.8
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 0.03
    assert ((draws >= 0) & (draws < 1)).all()


def test_nothing_global_is_drawn() -> None:
    before = torch.get_rng_state()
    augment(torch.zeros(4, 1, 4, 4), torch.arange(4), Augment(shift=1, flip=True), seed=0, epoch=0)
    assert torch.equal(before, torch.get_rng_state())
