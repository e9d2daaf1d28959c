"""Faster R-CNN: find what could be a thing, then look at it closely (Ren, He, Girshick & Sun 2015; pyramid: Lin et al. 2017).

Two stages over one set of feature maps. The *region proposal network* slides over the maps and asks at each place, for a few
boxes of typical size and shape (*anchors*): is a thing here, and how does its box differ from the anchor? The best few
hundred answers, near duplicates removed, are the *proposals*. The *head* cuts the features under each proposal out at a fixed
size (RoIAlign, He et al. 2017), says which class it is, or background, and corrects the box once more. The maps come from a
*pyramid*: each resolution is given what the coarser ones know of the context, so small things are found in fine maps and large
ones in coarse maps.

Anchors, matching, box arithmetic, proposals and non-maximum suppression are torchvision's. What is ours is the loss: one
number for each image, each image's own mean over its sampled anchors and proposals (torchvision gives means over a batch), so
that an image counts the same whatever is beside it. Three things make that hold:

- which anchors and proposals are sampled is drawn from the image's own number `draw`, not from a global generator;
- all images are filled up to one canvas;
- the norm is group norm unless asked otherwise: batch norm does badly on the few images that fit in memory (Wu & He 2018).

The mode (train, eval) changes batch norm and nothing else.

Letters: B images, C channels, H and W pixels, K classes, A anchors, P proposals, D pyramid channels.

    >>> model = faster_rcnn(classes=3)
    >>> model([torch.zeros(3, 64, 96)])[0]["boxes"].shape  # detections of an untrained network
    torch.Size([..., 4])
"""

import importlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wellfit.errors import MissingExtra, ModelError
from wellfit.models.layers import Standardize, initialize
from wellfit.models.resnet import basic, stack

RATIOS = (0.5, 1.0, 2.0)  # height over width of anchors (Ren et al. 2015, 3.1.1)
GROWTH = 1.6  # from one anchor size to the next; two sizes on each level
STEP = 32  # the coarsest stride that a backbone must divide the canvas by

# ---- backbones: three maps, of strides 8, 16 and 32, or of 4, 8 and 16 for small things


class Small(nn.Module):
    """A residual network of ten layers and a quarter of ResNet-18's operations: [B, C, H, W] -> three maps."""

    channels = (64, 128, 256)

    def __init__(self, channels: int, norm: str, stride: int):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.MaxPool2d(stride // 4),  # by 1 it changes nothing
        )  # fmt: skip
        blocks = stack(basic, (1, 1, 1, 1), C_in=32, width=32, shortcut="projection")
        self.first, self.second, self.third, self.fourth = blocks
        initialize(self, "relu")
        if norm == "group":
            grouped(self)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        x = self.first(self.stem(x))
        for name, stage in (("0", self.second), ("1", self.third), ("2", self.fourth)):
            x = maps[name] = stage(x)
        return maps


def grouped(module: nn.Module) -> None:
    """Replaces each batch norm by a group norm of eight channels a group (Wu & He 2018), which needs no batch."""
    for name, part in module.named_children():
        if isinstance(part, nn.BatchNorm2d):
            groups = max(1, part.num_features // 8)
            setattr(module, name, nn.GroupNorm(groups if part.num_features % groups == 0 else 1, part.num_features))
        else:
            grouped(part)


BACKBONES = ("small", "resnet18", "resnet50", "mobilenet")
RESNETS = {"resnet18": (64, 128, 256, 512), "resnet50": (256, 512, 1024, 2048)}  # channels of strides 4, 8, 16 and 32
MOBILENET = {"3": 24, "6": 40, "12": 112, "15": 160}  # the last features of MobileNetV3-Large with these strides


def backbone(
    name: str, channels: int, norm: str, pretrained: bool, stride: int = 8
) -> tuple[nn.Module, tuple[int, ...]]:
    """A network with maps of strides 8, 16 and 32 (4, 8 and 16), as a dictionary in that order, and the channels of each.

    Trained weights are ImageNet's, and keep the statistics of their batch norm. Raises ModelError where they do not fit or
    cannot be had, MissingExtra without torchvision.
    """
    if stride not in (4, 8):
        raise ModelError(
            f"`stride` is {stride}; it can be 4 or 8. Smaller sees smaller things and costs four times as much."
        )
    if name not in BACKBONES:
        raise ModelError(f"`backbone` is {name!r}; it can be {', '.join(BACKBONES)}. Choose one of those.")
    if name == "small":
        if pretrained:
            raise ModelError(
                "`pretrained` is set, but the backbone small has no trained weights. Use resnet18, resnet50 or mobilenet, or set it to "
                "false."
            )
        return Small(channels, norm, stride), Small.channels
    if channels != 3:
        raise ModelError(
            f"The backbone {name} takes colour images, but these have {channels} channel(s). Use the backbone small."
        )
    zoo, getter = vision("torchvision.models"), vision("torchvision.models._utils").IntermediateLayerGetter
    frozen = vision("torchvision.ops").FrozenBatchNorm2d
    builder = zoo.mobilenet_v3_large if name == "mobilenet" else getattr(zoo, name)
    try:
        body = builder(weights="DEFAULT" if pretrained else None, norm_layer=frozen if pretrained else None)
    except OSError as error:  # URLError is one
        raise ModelError(
            f"The trained weights of {name} cannot be had ({error}). They are downloaded once and need the net then; without it set "
            "`model.pretrained=false`."
        ) from None
    if norm == "group" and not pretrained:
        grouped(body)
    first = stride // 8  # of the four that have strides 4, 8, 16 and 32
    if name == "mobilenet":
        layers, of_each = list(MOBILENET)[first : first + 3], tuple(MOBILENET.values())
        body = body.features
    else:
        layers, of_each = [f"layer{i + 1}" for i in range(first, first + 3)], RESNETS[name]
    return getter(body, {layer: str(i) for i, layer in enumerate(layers)}), of_each[first : first + 3]


def vision(name: str) -> Any:
    """A module of torchvision, which is imported when it is asked for."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtra("torchvision", "vision", "Detecting objects") from None


# ---- what all detectors do with images


class Frame(nn.Module):
    """Images of differing size -> one batch [B, C, H, W], standardised, filled up with zeros to the canvas or what they need."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], canvas: tuple[int, int], step: int = STEP):
        super().__init__()
        self.standardize = Standardize(*(torch.tensor(list(part)).reshape(1, -1, 1, 1).float() for part in (mean, std)))
        self.canvas, self.step = canvas, step

    def forward(self, images: Sequence[Tensor]) -> Tensor:
        sides = [max(self.canvas[axis], *(image.shape[axis + 1] for image in images)) for axis in (0, 1)]
        H, W = (-(-side // self.step) * self.step for side in sides)
        filled = [F.pad(self.standardize(x[None]), (0, W - x.shape[2], 0, H - x.shape[1])) for x in images]
        return torch.cat(filled)


# ---- the network


class FasterRCNN(nn.Module):
    """Images, a list of [C, H, W] -> a list of {"boxes": [n, 4], "labels": [n], "scores": [n]}, the best first.

    With targets, a list of {"boxes", "labels", "draw"}, it gives the loss of each image, [B]; `judge` gives both.
    """

    def __init__(
        self,
        frame: Frame,
        body: nn.Module,
        body_channels: Sequence[int],
        *,
        classes: int,
        width: int = 128,
        anchor: float = 20.0,
        hidden: int = 256,
        proposals: int = 300,
        samples: int = 64,
    ):
        super().__init__()
        rpn, roi, ops = (
            vision(f"torchvision.{name}") for name in ("models.detection.rpn", "models.detection.roi_heads", "ops")
        )
        heads, pyramid = vision("torchvision.models.detection.faster_rcnn"), ops.feature_pyramid_network
        self.as_list = vision("torchvision.models.detection.image_list").ImageList
        self.concat = rpn.concat_box_prediction_layers
        self.frame, self.body = frame, body
        self.pyramid = ops.FeaturePyramidNetwork(list(body_channels), width, pyramid.LastLevelMaxPool())
        sizes = [anchor * GROWTH**i for i in range(2 * (len(body_channels) + 1))]
        anchors = rpn.AnchorGenerator(
            tuple((a, b) for a, b in zip(sizes[::2], sizes[1::2], strict=True)), (RATIOS,) * (len(body_channels) + 1)
        )
        self.rpn = rpn.RegionProposalNetwork(
            anchors, rpn.RPNHead(width, 2 * len(RATIOS)),
            fg_iou_thresh=0.7, bg_iou_thresh=0.3, batch_size_per_image=256, positive_fraction=0.5,
            # As many in both modes: what is proposed does not depend on the mode.
            pre_nms_top_n=dict(training=1000, testing=1000), post_nms_top_n=dict(training=proposals, testing=proposals),
            nms_thresh=0.7,
        )  # fmt: skip
        self.roi = roi.RoIHeads(
            ops.MultiScaleRoIAlign([str(i) for i in range(len(body_channels))], output_size=7, sampling_ratio=2),
            heads.TwoMLPHead(width * 49, hidden), heads.FastRCNNPredictor(hidden, classes + 1),
            fg_iou_thresh=0.5, bg_iou_thresh=0.5, batch_size_per_image=samples, positive_fraction=0.25, bbox_reg_weights=None,
            score_thresh=0.05, nms_thresh=0.5, detections_per_img=100,
        )  # fmt: skip

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Any]] | None = None
    ) -> Tensor | list[dict[str, Tensor]]:
        seen = self.look(images)
        return self.detect(*seen) if targets is None else self.losses(*seen[:2], targets)

    def judge(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Any]]
    ) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """The loss of each image [B], and what is found in each."""
        seen = self.look(images)
        return self.losses(*seen[:2], targets), self.detect(*seen)

    # ---- first stage

    def look(self, images: Sequence[Tensor]) -> tuple[dict[str, Tensor], "Regions", list[tuple[int, int]]]:
        """Maps [B, D, h, w] by level, what the region proposal network says of them, and the sizes (H, W) of the images."""
        batch = self.frame(images)
        maps = self.pyramid(self.body(batch))
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        levels = list(maps.values())
        objectness, deltas = self.rpn.head(levels)
        anchors = self.rpn.anchor_generator(self.as_list(batch, sizes), levels)
        counts = [level[0].numel() for level in objectness]
        objectness, deltas = (part.float() for part in self.concat(objectness, deltas))
        objectness, deltas = objectness.reshape(len(images), -1), deltas.reshape(len(images), -1, 4)
        # No gradient flows through the proposals: the paper's four-step training becomes one (its section 3.2, approximate).
        boxes = self.rpn.box_coder.decode(deltas.detach().flatten(0, 1), anchors).reshape(len(images), -1, 4)
        proposals, _ = self.rpn.filter_proposals(boxes, objectness, sizes, counts)
        canvas = (int(batch.shape[2]), int(batch.shape[3]))
        return maps, Regions(objectness, deltas, anchors, proposals, canvas), sizes

    # ---- second stage

    def detect(
        self, maps: dict[str, Tensor], regions: "Regions", sizes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Classes from 0, boxes in pixels of the images."""
        logits, deltas = self.classify(maps, regions.proposals, regions.canvas)
        found = self.roi.postprocess_detections(logits, deltas, regions.proposals, sizes)
        return [
            {"boxes": boxes, "labels": labels - 1, "scores": scores}
            for boxes, scores, labels in zip(*found, strict=True)
        ]

    def classify(
        self, maps: dict[str, Tensor], proposals: list[Tensor], canvas: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Logits [P, 1 + K], background first, and corrections [P, 4 (1 + K)] of all proposals of all images."""
        # The pooling keeps the scales of its first call, and tells them by the size of what the maps are of.
        pooled = self.roi.box_roi_pool(maps, proposals, [canvas])
        logits, deltas = self.roi.box_predictor(self.roi.box_head(pooled))
        return logits.float(), deltas.float()

    def losses(
        self,
        maps: dict[str, Tensor],
        regions: "Regions",
        targets: Sequence[dict[str, Any]],
    ) -> Tensor:
        """[B]: a thing or not + its box (equation 1 of the paper), and class + box of the second stage."""
        labels, matched = self.rpn.assign_targets_to_anchors(regions.anchors, targets)
        picked, chosen, classes, aims, first = [], [], [], [], []
        for i, target in enumerate(targets):
            positive, both = sampled(labels[i], 256, 0.5, target["draw"])
            thing = F.binary_cross_entropy_with_logits(regions.objectness[i][both], labels[i][both], reduction="sum")
            wanted = self.rpn.box_coder.encode([matched[i][positive]], [regions.anchors[i][positive]])[0]
            first.append((thing + distance(regions.deltas[i][positive], wanted)) / max(1, len(both)))
            # The true boxes are proposals too, or there would be nothing to learn from before the first stage is good.
            proposals = torch.cat([regions.proposals[i], target["boxes"]])
            (which,), (classes_P,) = self.roi.assign_targets_to_proposals(
                [proposals], [target["boxes"]], [target["labels"] + 1]
            )
            _, keep = sampled(classes_P, self.roi.fg_bg_sampler.batch_size_per_image, 0.25, target["draw"] + 1)
            near = target["boxes"][which[keep]] if len(target["boxes"]) else proposals[keep]
            picked.append(keep)
            chosen.append(proposals[keep])
            classes.append(classes_P[keep])
            aims.append(self.roi.box_coder.encode([near], [proposals[keep]])[0])
        logits, deltas = self.classify(maps, chosen, regions.canvas)
        counts = [len(keep) for keep in picked]
        second = [
            (F.cross_entropy(logits_P, classes_P, reduction="sum") + corrected(deltas_P, classes_P, aim))
            / max(1, len(classes_P))
            for logits_P, deltas_P, classes_P, aim in zip(
                torch.split(logits, counts), torch.split(deltas, counts), classes, aims, strict=True
            )
        ]
        return torch.stack(first) + torch.stack(second)


class Regions:
    """What the first stage says: objectness [B, A], deltas [B, A, 4], anchors and proposals, a list of boxes each.

    `canvas`: the height and width of the batch, images filled up to them.
    """

    def __init__(
        self,
        objectness: Tensor,
        deltas: Tensor,
        anchors: list[Tensor],
        proposals: list[Tensor],
        canvas: tuple[int, int],
    ):
        self.objectness, self.deltas, self.anchors, self.proposals = objectness, deltas, anchors, proposals
        self.canvas = canvas


def sampled(labels: Tensor, most: int, share: float, draw: int) -> tuple[Tensor, Tensor]:
    """Which positives (label above 0), and which positives and negatives (0), are learnt from: up to `most`, `share` of them
    positive; -1 is neither. Background outnumbers things a thousand to one, and would drown them (Ren et al. 2015, 3.1.3).
    """
    generator = torch.Generator().manual_seed(draw)
    positive, negative = torch.where(labels >= 1)[0], torch.where(labels == 0)[0]
    some = _some(positive, int(most * share), generator)
    return some, torch.cat([some, _some(negative, most - len(some), generator)])


def _some(which: Tensor, most: int, generator: torch.Generator) -> Tensor:
    return which[torch.randperm(len(which), generator=generator)[:most].to(which.device)]


def distance(deltas: Tensor, wanted: Tensor) -> Tensor:
    """Smooth L1 summed over boxes [n, 4], turning from square to line at 1/9, as torchvision has it."""
    return F.smooth_l1_loss(deltas, wanted, beta=1 / 9, reduction="sum")


def corrected(deltas_P: Tensor, classes_P: Tensor, aims: Tensor) -> Tensor:
    """The same for the proposals that are things, by the correction of their own class."""
    things = torch.where(classes_P > 0)[0]
    own = deltas_P.reshape(len(deltas_P), -1, 4)[things, classes_P[things]]
    return distance(own, aims[things])


def faster_rcnn(
    *,
    classes: int,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    canvas: tuple[int, int] = (STEP, STEP),
    backbone: str = "small",
    norm: str = "group",
    pretrained: bool = False,
    width: int = 128,
    anchor: float = 20.0,
    hidden: int = 256,
    proposals: int = 300,
    samples: int = 64,
    stride: int = 8,
) -> FasterRCNN:
    """A Faster R-CNN for images [C, H, W] of 0 to 255 with this mean and std per channel.

    `stride` is that of the finest map, `width` the pyramid's channels, `anchor` the side in pixels of the smallest anchor, `hidden` the head's units,
    `proposals` how many the first stage hands on, `samples` how many of them an image learns from. `norm` is "group" or "batch".
    Weights are drawn from torch's global generator. Raises ModelError for what cannot be, MissingExtra without torchvision.
    """
    if classes < 1 or width < 1 or hidden < 1 or samples < 4 or proposals < 1 or anchor <= 0:
        raise ModelError(
            f"A Faster R-CNN got classes={classes}, width={width}, hidden={hidden}, proposals={proposals}, samples={samples}, "
            f"anchor={anchor}; all must be positive, and samples at least 4."
        )
    body, body_channels = _backbone(backbone, channels, norm, pretrained, stride)
    if pretrained:  # what the weights were trained on
        mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    frame = Frame(mean or (127.5,) * channels, std or (64.0,) * channels, canvas)
    return FasterRCNN(
        frame, body, body_channels,
        classes=classes, width=width, anchor=anchor, hidden=hidden, proposals=proposals, samples=samples,
    )  # fmt: skip


_backbone = backbone  # the argument of the same name hides it above
