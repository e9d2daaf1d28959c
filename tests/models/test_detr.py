"""DETR: matching is the cheapest there is, overlap and focal loss are torchvision's, and an image counts by itself."""

import itertools

import pytest
import torch

from wellfit.errors import ModelError
from wellfit.models.detr import (
    CLASS,
    L1,
    OVERLAP,
    corners,
    detr,
    focal,
    generalised_iou,
    match,
    middles,
    set_loss,
    waves,
)

ops = pytest.importorskip("torchvision.ops")


def some_boxes(n: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.cat([0.2 + 0.6 * torch.rand(n, 2, generator=draw), 0.05 + 0.3 * torch.rand(n, 2, generator=draw)], 1)


def small(**settings):
    torch.manual_seed(0)
    return detr(classes=3, canvas=(64, 64), width=32, queries=6, stride=8, **settings)


def scene(seed: int, size=(48, 64), boxes: int = 3):
    draw = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 255, (3, *size), dtype=torch.uint8, generator=draw)
    there = corners(some_boxes(boxes, seed)) * torch.tensor([size[1], size[0]] * 2)
    return image, {"boxes": there, "labels": torch.randint(0, 3, (boxes,), generator=draw), "draw": seed}


def test_overlap_is_torchvisions() -> None:
    a, b = corners(some_boxes(7)), corners(some_boxes(5, 1))
    assert torch.allclose(generalised_iou(a[:, None], b[None]), ops.generalized_box_iou(a, b), atol=1e-6)
    assert torch.allclose(middles(a), some_boxes(7), atol=1e-6)


def test_focal_is_torchvisions() -> None:
    logits = torch.linspace(-6, 6, 40).reshape(8, 5)
    targets = (torch.arange(40).reshape(8, 5) % 3 == 0).float()
    assert torch.allclose(focal(logits, targets), ops.sigmoid_focal_loss(logits, targets), atol=1e-6)


@pytest.mark.parametrize(("queries", "things"), [(5, 3), (3, 3), (2, 4), (4, 0)])
def test_no_other_matching_is_cheaper(queries: int, things: int) -> None:
    draw = torch.Generator().manual_seed(3)
    logits, boxes, wanted = torch.randn(queries, 4, generator=draw), some_boxes(queries, 1), some_boxes(things, 2)
    labels = torch.randint(0, 4, (things,), generator=draw)
    rows, columns = match(logits, boxes, labels, wanted)
    assert len(rows) == min(queries, things)

    def cost(pairs) -> float:
        total = 0.0
        for q, n in pairs:
            p = logits[q, labels[n]].sigmoid()
            total += float(CLASS * (0.25 * (1 - p) ** 2 * -p.log() - 0.75 * p**2 * -(1 - p).log()))
            total += float(L1 * (boxes[q] - wanted[n]).abs().sum())
            total -= float(OVERLAP * ops.generalized_box_iou(corners(boxes[q])[None], corners(wanted[n])[None]))
        return total

    if queries >= things:
        every = [
            list(zip(chosen, range(things), strict=True)) for chosen in itertools.permutations(range(queries), things)
        ]
    else:
        every = [
            list(zip(range(queries), chosen, strict=True)) for chosen in itertools.permutations(range(things), queries)
        ]
    assert cost(zip(rows.tolist(), columns.tolist(), strict=True)) == pytest.approx(min(map(cost, every)), abs=1e-5)


def test_the_order_of_things_does_not_matter() -> None:
    logits, boxes, wanted = torch.randn(6, 3), some_boxes(6, 1), some_boxes(3, 2)
    labels, order = torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])
    one = set_loss(logits, boxes, labels, wanted)
    assert torch.allclose(one, set_loss(logits, boxes, labels[order], wanted[order]))
    right = torch.full((3, 3), -12.0)
    right[torch.arange(3), labels] = 12.0
    assert float(set_loss(right, wanted, labels, wanted)) < 1e-3
    assert float(set_loss(torch.full((4, 3), -12.0), boxes[:4], labels[:0], wanted[:0])) < 1e-3


def test_micro_batches_add_up_and_neighbours_do_not_matter() -> None:
    model = small()
    images, targets = map(list, zip(*(scene(i, boxes=i, size=(40 + 8 * (i % 2), 64)) for i in range(4)), strict=True))
    before = torch.get_rng_state()
    both = model.train()(images, targets)
    assert torch.equal(torch.get_rng_state(), before)
    both.sum().backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert len(whole) == len(dict(model.named_parameters()))
    model.zero_grad()
    for part in (slice(0, 1), slice(1, 4)):
        model(images[part], targets[part]).sum().backward()
    scale = max(float(grad.abs().max()) for grad in whole.values())
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, whole[name], atol=2e-5 * scale), name
    losses, found = model.eval().judge(images, targets)
    assert torch.allclose(losses, both, rtol=1e-4)
    assert torch.allclose(found[1]["boxes"], model([images[1]])[0]["boxes"], atol=1e-2)
    assert all((one["boxes"][:, 3] <= image.shape[1]).all() for one, image in zip(found, images, strict=True))


def test_what_is_filled_up_is_not_looked_at() -> None:
    """Changing nothing but the pixels of the filling changes no answer: they are masked, and no feature of them is read."""
    model = small().eval()
    image, _ = scene(1, size=(32, 64))
    batch = model.frame([image])
    x, where, real = model.map(batch, [image])
    assert real.shape == (1, 64)
    assert real[0].reshape(8, 8)[:4].all()
    assert not real[0].reshape(8, 8)[4:].any()
    noise = torch.where(real[..., None], x, torch.randn_like(x))
    a, b = (layer_out(model, features, where, real) for features in (x, noise))
    assert torch.allclose(a, b, atol=1e-5)


def layer_out(model, features, where, real):
    encoded = model.encoder[0](features, where, real)
    at = torch.zeros(1, 6, model.width)
    return model.decoder[0](model.content[None], at, at, encoded, where, real)


def test_it_learns_one_picture_by_heart() -> None:
    model = small()
    image, target = scene(3, boxes=2)
    image = torch.zeros_like(image)
    target["boxes"] = torch.tensor([[4.0, 6, 20, 30], [36, 10, 60, 40]])
    image[:, 6:30, 4:20], image[:, 10:40, 36:60] = 255, 120
    target["labels"] = torch.tensor([2, 0])
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(100):
        optimizer.zero_grad()
        model([image], [target]).sum().backward()
        optimizer.step()
    found = model.eval()([image])[0]
    assert sorted(found["labels"][:2].tolist()) == [0, 2]
    for label, box in zip(found["labels"][:2], found["boxes"][:2], strict=True):
        assert (box - target["boxes"][0 if label == 2 else 1]).abs().max() < 4
    assert found["scores"][1] > 2 * found["scores"][2]


def test_places_that_differ_by_a_pixel_differ() -> None:
    assert (waves(torch.tensor([[0.5], [0.503]]), 64).diff(dim=0).abs().max()) > 0.05


@pytest.mark.parametrize(
    ("settings", "says"),
    [(dict(stride=3), "4, 8, 16 or 32"), (dict(width=30), "divide"), (dict(queries=0), "at least one")],
)
def test_what_cannot_be_is_said(settings, says) -> None:
    with pytest.raises(ModelError, match=says):
        detr(classes=2, **settings)
