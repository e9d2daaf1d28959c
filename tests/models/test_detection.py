"""Faster R-CNN: its losses are torchvision's, an image counts the same whatever is beside it, and the mode changes nothing."""

import pytest
import torch

from wellfit import models
from wellfit.errors import ModelError
from wellfit.models.convnet import convnet
from wellfit.models.detection import Frame, backbone, faster_rcnn, grouped, sampled
from wellfit.settings import MODELS, ConvNet

pytest.importorskip("torchvision")


def scene(seed: int, size=(48, 64), boxes: int = 3, classes: int = 3):
    draw = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 255, (3, *size), dtype=torch.uint8, generator=draw)
    corner = torch.rand(boxes, 2, generator=draw) * 30
    there = torch.cat([corner, corner + 8 + 10 * torch.rand(boxes, 2, generator=draw)], 1)
    return image, {"boxes": there, "labels": torch.randint(0, classes, (boxes,), generator=draw), "draw": 77 * seed}


def small(**settings):
    torch.manual_seed(0)
    return faster_rcnn(classes=3, canvas=(64, 64), width=32, hidden=32, proposals=60, samples=16, **settings)


class Drawn:
    """Our sampling, in the place of torchvision's."""

    def __init__(self, most: int, share: float, draw: int):
        self.batch_size_per_image, self.share, self.draw = most, share, draw

    def __call__(self, labels):
        masks = []
        for one in labels:
            positive, both = sampled(one, self.batch_size_per_image, self.share, self.draw)
            some, every = (torch.zeros(len(one), dtype=torch.uint8).index_fill(0, i, 1) for i in (positive, both))
            masks.append((some, every - some))
        return [some for some, _ in masks], [rest for _, rest in masks]


@pytest.mark.parametrize("boxes", [3, 0])
def test_the_loss_is_torchvisions(boxes: int) -> None:
    model = small()
    image, target = scene(1, boxes=boxes)
    ours = model([image], [target]).detach()
    maps, regions, sizes = model.look([image])
    model.rpn.fg_bg_sampler = Drawn(256, 0.5, target["draw"])
    model.roi.fg_bg_sampler = Drawn(16, 0.25, target["draw"] + 1)
    model.train()
    theirs = {"boxes": target["boxes"], "labels": target["labels"] + 1}
    batch = model.as_list(model.frame([image]), sizes)
    proposals, first = model.rpn(batch, maps, [theirs])
    _, second = model.roi(maps, proposals, sizes, [theirs])
    assert torch.equal(proposals[0], regions.proposals[0])
    assert float(ours) == pytest.approx(sum(float(part.detach()) for part in (first | second).values()), rel=1e-5)


def test_micro_batches_add_up_to_the_batch() -> None:
    model = small()
    images, targets = map(list, zip(*(scene(i, boxes=i) for i in range(4)), strict=True))
    model(images, targets).sum().backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for part in (slice(0, 1), slice(1, 4)):
        model(images[part], targets[part]).sum().backward()
    scale = max(float(grad.abs().max()) for grad in whole.values())
    for name, p in model.named_parameters():
        assert torch.allclose(p.grad, whole[name], atol=2e-5 * scale), name


def test_mode_batch_and_generator_change_nothing() -> None:
    model = small()
    (a, here), (b, there) = scene(1), scene(2, size=(64, 40))
    before = torch.get_rng_state()
    both = model.train()([a, b], [here, there])
    assert torch.allclose(both, model.eval()([a, b], [here, there]), rtol=1e-5)
    assert torch.allclose(both[:1], model([a], [here]), rtol=1e-4)
    losses, found = model.judge([a, b], [here, there])
    assert torch.allclose(losses, both, rtol=1e-5)
    alone = model([b])[0]
    assert torch.allclose(found[1]["scores"], alone["scores"], atol=1e-5)
    assert torch.allclose(found[1]["boxes"], alone["boxes"], atol=1e-2)
    assert torch.equal(torch.get_rng_state(), before)
    assert found[0]["boxes"][:, 3].max() <= 48  # no box leaves its picture for the filling


def test_what_was_seen_first_changes_nothing() -> None:
    """Torchvision's pooling keeps the scales of its first call; they are those of the canvas, whatever the picture's size."""
    (wide, aims), (square, aim) = scene(1, size=(32, 64)), scene(2, size=(64, 64))
    model, other = small(), small()
    other([wide], [aims])
    assert torch.equal(model([square], [aim]), other([square], [aim]))
    assert model.roi.box_roi_pool.scales == other.roi.box_roi_pool.scales


def test_it_learns_one_picture_by_heart() -> None:
    model = small()
    image, target = scene(3, boxes=2)
    image = torch.zeros_like(image)
    for (x1, y1, x2, y2), value in zip(target["boxes"].int().tolist(), (255, 120), strict=True):
        image[:, y1:y2, x1:x2] = value
    target["boxes"] = target["boxes"].floor()
    target["labels"] = torch.tensor([2, 0])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for step in range(140):  # with 60 one of three seeds had not found both yet
        loss = model([image], [target | {"draw": step}]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model.eval()([image])[0]
    best = {int(label): box for label, box in reversed(list(zip(found["labels"], found["boxes"], strict=True)))}
    assert (best[2] - target["boxes"][0]).abs().max() < 3
    assert (best[0] - target["boxes"][1]).abs().max() < 3


def test_sampling_keeps_to_its_shares() -> None:
    labels = torch.tensor([1] * 40 + [0] * 400 + [-1] * 50)
    positive, both = sampled(labels, 64, 0.25, draw=5)
    assert len(positive) == 16
    assert len(both) == 64
    assert (labels[positive] == 1).all()
    assert (labels[both] >= 0).all()
    assert len(set(both.tolist())) == 64
    assert torch.equal(both, sampled(labels, 64, 0.25, draw=5)[1])
    assert not torch.equal(both, sampled(labels, 64, 0.25, draw=6)[1])


def test_the_frame_fills_up_with_the_mean() -> None:
    frame = Frame((10.0,), (2.0,), (40, 32))
    out = frame([torch.full((1, 30, 20), 14, dtype=torch.uint8)])
    assert out.shape == (1, 1, 64, 32)
    assert (out[0, 0, :30, :20] == 2).all()
    assert out.sum() == 2 * 30 * 20


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("name", ["small", "resnet18", "mobilenet"])
def test_backbones_have_the_strides_they_say(name: str, stride: int) -> None:
    torch.manual_seed(0)
    body, channels = backbone(name, 3, "group", False, stride)
    maps = body(torch.zeros(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps.values()] == [
        (c, 64 // s, 96 // s) for c, s in zip(channels, (stride, 2 * stride, 4 * stride), strict=True)
    ]
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in body.modules())


def test_groups_for_batches() -> None:
    net = convnet(ConvNet(), 3, 5)
    grouped(net)
    assert any(isinstance(part, torch.nn.GroupNorm) for part in net.modules())
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in net.modules())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(backbone="vgg"), "small, resnet18"),
        (dict(pretrained=True), "no trained weights"),
        (dict(samples=1), "at least 4"),
        (dict(backbone="resnet18", channels=1), "colour"),
    ],
)
def test_what_cannot_be_is_said(settings, says) -> None:
    with pytest.raises(ModelError, match=says):
        faster_rcnn(classes=2, **settings)


def test_a_recipe_makes_one_and_names_what_does_not_fit() -> None:
    record = {"classes": ["a"], "channels": 3, "canvas": [32, 32], "mean": [1.0] * 3, "std": [2.0] * 3}
    assert models.detector(MODELS["faster-rcnn"](), record).frame.canvas == (32, 32)
    with pytest.raises(ModelError, match="faster-rcnn, detr"):
        models.detector(ConvNet(), record)
    with pytest.raises(ModelError, match="pictures with boxes"):
        models.build(MODELS["detr"](), (3, 32, 32), 4)
