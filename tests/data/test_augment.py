"""Augmentation is a pure function of (seed, epoch, sample)."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wellfit.data.augment import augment, coloured, mixed, pasted, shortened, turned_on, uniform, warped
from wellfit.data.texts import Sentences
from wellfit.recipe import Augment

EVERYTHING = Augment(shift=2, flip=True, crop=0.4, rotate=20, colour=0.4)


def images(count: int = 50, shape: tuple[int, ...] = (3, 8, 8)) -> torch.Tensor:
    return torch.randint(0, 255, (count, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("settings", [Augment(shift=2, flip=True), EVERYTHING])
def test_a_sample_gets_the_same_change_in_any_company(settings: Augment) -> None:
    x = images()
    whole = augment(x, torch.arange(50), settings, seed=1, epoch=4)
    order = torch.randperm(50)
    shuffled = augment(x[order], order, settings, seed=1, epoch=4)
    assert torch.equal(whole[order], shuffled)
    alone = torch.cat([augment(x[i : i + 1], torch.tensor([i]), settings, seed=1, epoch=4) for i in range(50)])
    assert (alone.float() - whole.float()).abs().max() < 1e-3
    assert not torch.equal(whole, augment(x, torch.arange(50), settings, seed=1, epoch=5))
    assert not torch.equal(whole, augment(x, torch.arange(50), settings, seed=2, epoch=4))


@pytest.mark.parametrize(
    "settings", [Augment(mixup=0.2), Augment(cutmix=1.0), Augment(mixup=1, cutmix=1, shift=1, flip=True)]
)
def test_a_sample_gets_the_same_partner_however_the_batch_is_cut(settings: Augment) -> None:
    x, y = images(40), torch.arange(40) % 7
    how = dict(classes=7, seed=3, epoch=2)
    whole = mixed(x, y, torch.arange(40), settings, **how)
    order = torch.randperm(40)
    parts = [mixed(x, y, part, settings, **how) for part in torch.split(order, 9)]
    for i in range(2):
        assert torch.equal(whole[i][order], torch.cat([part[i] for part in parts]))
    assert torch.allclose(whole[1].sum(1), torch.ones(40))
    assert not torch.equal(whole[0], mixed(x, y, torch.arange(40), settings, **(how | {"epoch": 3}))[0])


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


def box(*numbers: float) -> list[torch.Tensor]:
    return [torch.tensor([float(n)], dtype=torch.float64) for n in numbers]


def test_a_warp_is_the_crop_and_rotation_that_it_says() -> None:
    x = images(1, (3, 8, 12))
    assert torch.allclose(warped(x, *box(0, 0, 8, 12, 0)), x.float(), atol=1e-3), "the whole of it is itself"
    square = images(1, (2, 6, 6))
    turned = warped(square, *box(0, 0, 6, 6, np.pi / 2))
    either = [torch.rot90(square.float(), k, (-2, -1)) for k in (1, -1)]
    assert min(float((turned - one).abs().max()) for one in either) < 0.05
    enlarged = warped(x, *box(2, 3, 4, 6, 0))
    reference = F.interpolate(x[:, :, 1:7, 2:10].float(), scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(enlarged, reference[:, :, 2:-2, 2:-2], atol=0.05), "as torch's own resize of the box"


def test_crops_keep_the_area_they_are_told_to() -> None:
    ramp = torch.arange(64.0).repeat(64, 1)[None, None].expand(300, 1, 64, 64)
    out = augment(ramp, torch.arange(300), Augment(crop=0.3), seed=0, epoch=0)
    width = (out[:, 0, 32, 62] - out[:, 0, 32, 1]) / 61 * 64  # of the box, from the slope of the ramp
    assert width.max() <= 64.01
    assert width.min() >= 64 * (0.3 * 3 / 4) ** 0.5 - 0.5
    assert width.std() > 3


def test_colours_change_as_torchvisions_do() -> None:
    pytest.importorskip("torchvision")
    from torchvision.transforms.v2 import functional as V

    x, factors = images(6, (3, 9, 9)), torch.tensor([0.6, 0.8, 1.0, 1.1, 1.3, 1.4])
    ones = torch.ones(6)
    for place, adjust in enumerate((V.adjust_brightness, V.adjust_contrast, V.adjust_saturation)):
        ours = coloured(x, *(factors if i == place else ones for i in range(3)))
        theirs = torch.stack([adjust(image.float() / 255, float(f)) * 255 for image, f in zip(x, factors, strict=True)])
        assert (ours - theirs).abs().max() < 0.1
    grey = x[:, :1]
    assert coloured(grey, ones, ones, factors).equal(grey.float()), "grey has no colour to saturate"


def test_mixup_blends_images_and_labels_by_one_share() -> None:
    """Image i is all i, so what a pixel says is what the label must say."""
    N = 400
    x = torch.arange(N, dtype=torch.float32)[:, None, None, None].expand(N, 1, 3, 3).clamp(max=255)
    out, shares = mixed(x[:256], torch.arange(256), torch.arange(256), Augment(mixup=0.4), classes=256, seed=0, epoch=0)
    assert torch.allclose(shares @ torch.arange(256.0), out[:, 0, 0, 0], atol=1e-2)
    assert ((shares > 0).sum(1) <= 2).all()
    kept = shares[torch.arange(256), torch.arange(256)]
    assert abs(float(kept.mean()) - 0.5) < 0.07
    assert abs(float(kept.var()) - 0.25 / 1.8) < 0.02, "the variance of Beta(0.4, 0.4) is 1 / (4 (2 * 0.4 + 1))"
    partner = (shares - torch.diag(kept)).argmax(1)
    assert len(partner.unique()) > 120, "partners come from the whole set"


def test_cutmix_pastes_a_box_and_shares_the_label_by_its_area() -> None:
    zeros, ones = torch.zeros(500, 2, 16, 16), torch.ones(500, 2, 16, 16)
    draws = [torch.from_numpy(uniform(0, 0, np.arange(500), draw)).float() for draw in range(3)]
    out, kept = pasted(zeros, ones, *draws)
    assert torch.allclose(1 - kept, out.mean((1, 2, 3)))
    assert (kept >= draws[0] - 0.13).all(), "never more than asked, but for whole pixels"
    for image in out[:50, 0]:
        rows, columns = image.any(1).nonzero(), image.any(0).nonzero()
        if len(rows):
            assert image.sum() == (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1), "one box"


def test_texts_lose_and_swap_tokens() -> None:
    texts = [torch.arange(4, 4 + n) for n in (30, 1, 12, 50)] * 100
    numbers = torch.arange(400)
    out = shortened(texts, numbers, Augment(delete=0.2), seed=0, epoch=0)
    assert all((one.diff() > 0).all() for one in out), "what stays keeps its order"
    assert all(len(one) for one in out)
    share = sum(map(len, out)) / sum(map(len, texts))
    assert 0.78 < share < 0.82
    swapped = shortened(texts, numbers, Augment(swap=0.1), seed=0, epoch=0)
    assert all(torch.equal(a.sort().values, b) for a, b in zip(swapped, texts, strict=True)), "nothing is lost"
    moved = [int((a != b).sum()) for a, b in zip(swapped, texts, strict=True) if len(b) == 50]
    assert max(moved) <= 10, "five swaps move at most ten"
    assert np.mean(moved) > 8
    order = torch.randperm(400)
    again = shortened([texts[i] for i in order], order, Augment(delete=0.2, swap=0.1), seed=0, epoch=0)
    whole = shortened(texts, numbers, Augment(delete=0.2, swap=0.1), seed=0, epoch=0)
    assert all(torch.equal(whole[i], one) for i, one in zip(order.tolist(), again, strict=True))


def test_sentences_are_only_changed_while_training() -> None:
    plain = Sentences.of([list(range(4, 40))] * 6, torch.arange(6))
    varied = plain.varied(Augment(delete=0.3), seed=1)
    numbers = torch.arange(6)
    assert torch.equal(varied.batch(numbers)[0], plain.batch(numbers)[0])
    one, two = varied.batch(numbers, 0)[0], varied.batch(numbers, 1)[0]
    assert one.shape[1] < 36
    assert one.shape != two.shape or not torch.equal(one, two)
    assert torch.equal(one, varied.batch(numbers, 0)[0])
    assert varied.fingerprint() == plain.fingerprint()
    assert varied.take(numbers[:2]).batch(numbers[:2], 0)[0].shape[1] < 36


def test_uniform_is_uniform_and_its_draws_are_independent() -> None:
    draws = np.stack([uniform(0, epoch, np.arange(20_000), draw) for epoch in (0, 1) for draw in (0, 1)])
    counts = np.stack([np.histogram(row, bins=20, range=(0, 1))[0] for row in draws])
    chi = ((counts - 1000) ** 2 / 1000).sum(1)
    assert (chi < 45).all()  # 19 degrees of freedom: p < 0.001 beyond 43.8
    assert np.abs(np.corrcoef(draws) - np.eye(4)).max() < 0.03
    assert ((draws >= 0) & (draws < 1)).all()


def test_nothing_global_is_drawn() -> None:
    before = torch.get_rng_state()
    augment(images(4), torch.arange(4), EVERYTHING, seed=0, epoch=0)
    mixed(images(4), torch.arange(4), torch.arange(4), Augment(mixup=1, cutmix=1), classes=4, seed=0, epoch=0)
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_turned_on() -> None:
    assert turned_on(Augment(), ("shift", "crop")) == []
    assert turned_on(Augment(crop=0.5, delete=0.1), ("shift", "crop", "mixup")) == ["crop"]
