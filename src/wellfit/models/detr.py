"""DETR: detection as the prediction of a set (Carion et al. 2020), with queries that are boxes (Liu et al. 2022).

No anchors, no proposals, no removal of duplicates. A Transformer decoder holds a fixed number of *queries*; each asks the
image for one thing and answers with a class and a box, or with nothing. While training, the answers are matched one to one
with the true boxes so that the total cost is smallest (the Hungarian method); a matched query learns its class and box, every
other one that there is nothing. As only one query is matched to a thing, a second one that finds it learns to be silent:
that is why no duplicates need to be removed.

The first DETR took 500 epochs, because a query had to find out where it looks. Two later findings are therefore in here:

- a query *is* a box (DAB-DETR, Liu et al. 2022): its place enters attention apart from its content (Conditional DETR, Meng
  et al. 2021, figure 3: scores are what . what + where . where), and each layer corrects the box of the one before;
- classes are told by a focal loss of K sigmoids (Lin et al. 2017; Zhu et al. 2021), which bears the many silent queries.

Each layer's answers are matched and learnt from (the paper's auxiliary losses). The loss of an image is divided by the number
of its own boxes, not by the batch's as in the paper, so that it does not depend on what is beside it.

Letters: B images, C channels, H and W pixels, K classes, D width, S places of the map, Q queries, N true boxes. Boxes are
(x, y, w, h) of the middle and the sides, as shares of the canvas, inside; (x1, y1, x2, y2) in pixels outside.

    >>> model = detr(classes=3, queries=20)
    >>> model([torch.zeros(3, 64, 96)])[0]["boxes"].shape
    torch.Size([..., 4])
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wellfit.errors import ModelError
from wellfit.models.attention import Attention, attend_fused
from wellfit.models.detection import Frame
from wellfit.models.detection import backbone as backbone_of
from wellfit.models.positions import sinusoidal

CLASS, L1, OVERLAP = (
    2.0,
    5.0,
    2.0,
)  # what a match costs, and what a miss does (DAB-DETR's; the class counts 1 as a loss)
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss (Lin et al. 2017, table 1b)
RARE = (
    0.01  # how likely a class is at the start, so that the silent queries do not swamp the first steps (the same, 4.1)
)
MOST = 100  # detections of an image

# ---- boxes


def corners(boxes: Tensor) -> Tensor:
    """(x, y, w, h) [..., 4] -> (x1, y1, x2, y2)."""
    middle, sides = torch.split(boxes, 2, -1)
    return torch.cat([middle - sides / 2, middle + sides / 2], -1)


def middles(boxes: Tensor) -> Tensor:
    """(x1, y1, x2, y2) [..., 4] -> (x, y, w, h)."""
    first, last = torch.split(boxes, 2, -1)
    return torch.cat([(first + last) / 2, last - first], -1)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Of boxes (x1, y1, x2, y2), broadcast: IoU minus the share of the hull that neither covers, in (-1, 1].

    It still has a slope where boxes do not touch (Rezatofighi et al. 2019, algorithm 1).
    """
    shared = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - shared
    return shared / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)


def waves(boxes: Tensor, D: int) -> Tensor:
    """Each of the last axis' n coordinates in [0, 1] as D / 2 sines and cosines: [..., n] -> [..., n D / 2].

    The shortest wave is a tenth of the canvas and the longest ten times as long as it.
    """
    return sinusoidal(boxes * 20 * math.pi, D // 2, base=100.0).flatten(-2)


# ---- matching


@torch.no_grad()
def match(logits_QK: Tensor, boxes_Q4: Tensor, labels_N: Tensor, wanted_N4: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest pairs of queries and true boxes: two int64 [min(Q, N)] (equation 1 of the paper). Boxes are (x, y, w, h)."""
    from scipy.optimize import linear_sum_assignment  # scikit-learn brings it

    logits = logits_QK.float()[:, labels_N]
    cost = (
        CLASS * (focal(logits, torch.ones_like(logits)) - focal(logits, torch.zeros_like(logits)))
        + L1 * torch.cdist(boxes_Q4.float(), wanted_N4, p=1)
        - OVERLAP * generalised_iou(corners(boxes_Q4.float())[:, None], corners(wanted_N4)[None])
    )
    rows, columns = linear_sum_assignment(cost.nan_to_num(1e6).cpu().numpy())  # a synchronisation point
    return tuple(torch.as_tensor(part, device=logits_QK.device) for part in (rows, columns))  # type: ignore[return-value]


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid focal loss of each logit."""
    wrong = torch.where(targets > 0, 1 - logits.sigmoid(), logits.sigmoid())
    weight = torch.where(targets > 0, ALPHA, 1 - ALPHA)
    return weight * wrong**GAMMA * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def set_loss(logits_QK: Tensor, boxes_Q4: Tensor, labels_N: Tensor, wanted_N4: Tensor) -> Tensor:
    """The loss of one image's answers, over its number of boxes: classes, L1 and generalised IoU of the matched ones."""
    rows, columns = match(logits_QK, boxes_Q4, labels_N, wanted_N4)
    targets = torch.zeros_like(logits_QK)
    targets[rows, labels_N[columns]] = 1.0
    found, wanted = boxes_Q4[rows], wanted_N4[columns]
    apart = 1 - generalised_iou(corners(found), corners(wanted))
    return (
        focal(logits_QK, targets).sum() + L1 * (found - wanted).abs().sum() + OVERLAP * apart.sum()
    ) / max(1, len(labels_N))  # fmt: skip


# ---- the network


class Block(nn.Module):
    """x + MLP(norm(x))."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * dim, dim), nn.Dropout(dropout)
        )

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = x_BTD + self.mlp(self.norm(x_BTD))
        return out


class EncoderLayer(nn.Module):
    """Every place of the map sees every other one, and where it is."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.norm, self.attention, self.block = nn.LayerNorm(dim), Attention(dim, heads), Block(dim, dropout)

    def forward(self, x_BSD: Tensor, where_BSD: Tensor, real_BS: Tensor) -> Tensor:
        out: Tensor = self.block(x_BSD + self.attention(self.norm(x_BSD) + where_BSD, real_BS=real_BS))
        return out


class Looking(nn.Module):
    """Attention of queries on the map whose scores are what . what + where . where (Meng et al. 2021, 3.3)."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.what, self.where = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.keys, self.places, self.values = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x_BQD: Tensor, at_BQD: Tensor, map_BSD: Tensor, where_BSD: Tensor, real_BS: Tensor) -> Tensor:
        def by_head(x: Tensor) -> Tensor:
            return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)

        q = torch.cat([by_head(self.what(x_BQD)), by_head(self.where(at_BQD))], -1)
        k = torch.cat([by_head(self.keys(map_BSD)), by_head(self.places(where_BSD))], -1)
        answers = attend_fused(q, k, by_head(self.values(map_BSD)), real_BS[:, None, None, :])
        out: Tensor = self.out(answers.transpose(1, 2).flatten(-2))
        return out


class DecoderLayer(nn.Module):
    """Queries tell each other what they are at, look at the map around their boxes, and think."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.among, self.attention = nn.LayerNorm(dim), Attention(dim, heads)
        self.before, self.looking = nn.LayerNorm(dim), Looking(dim, heads)
        self.block = Block(dim, dropout)

    def forward(
        self, x_BQD: Tensor, place_BQD: Tensor, at_BQD: Tensor, map_BSD: Tensor, where_BSD: Tensor, real_BS: Tensor
    ) -> Tensor:
        x_BQD = x_BQD + self.attention(self.among(x_BQD) + place_BQD)
        x_BQD = x_BQD + self.looking(self.before(x_BQD), at_BQD, map_BSD, where_BSD, real_BS)
        out: Tensor = self.block(x_BQD)
        return out


class Detr(nn.Module):
    """Images, a list of [C, H, W] -> a list of {"boxes": [n, 4], "labels": [n], "scores": [n]}, the best first.

    With targets, a list of {"boxes", "labels"}, it gives the loss of each image, [B]; `judge` gives both. The mode (train,
    eval) decides dropout and batch norm and nothing else.
    """

    def __init__(
        self,
        frame: Frame,
        body: nn.Module,
        body_channels: Sequence[int],
        *,
        classes: int,
        width: int,
        heads: int,
        encoder_layers: int,
        decoder_layers: int,
        queries: int,
        stride: int,
        dropout: float,
    ):
        super().__init__()
        self.frame, self.body, self.width = frame, body, width
        self.used = [str(i) for i in range(3) if max(8, stride) <= 8 * 2**i]
        self.inputs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(body_channels[int(name)], width, 1), nn.GroupNorm(max(1, width // 8), width))
            for name in self.used
        )
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, dropout) for _ in range(encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(width, heads, dropout) for _ in range(decoder_layers))
        self.place = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width))
        self.scale = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, classes)
        self.correct = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
        )
        self.content = nn.Parameter(0.02 * torch.randn(queries, width))
        # Spread over the image at random, each about a fifth of it in size; the numbers are logits.
        self.boxes = nn.Parameter(torch.cat([torch.rand(queries, 2), torch.full((queries, 2), 0.2)], 1).logit(0.02))
        nn.init.constant_(self.classify.bias, -math.log(1 / RARE - 1))
        last = self.correct[-1]
        nn.init.zeros_(last.weight)  # type: ignore[arg-type]  # at first, a query is where its box is
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Any]] | None = None
    ) -> Tensor | list[dict[str, Tensor]]:
        answers, canvas = self.answers(images)
        return self.found(*answers[-1], images, canvas) if targets is None else self.losses(answers, targets, canvas)

    def judge(
        self, images: Sequence[Tensor], targets: Sequence[dict[str, Any]]
    ) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """The loss of each image [B], and what is found in each."""
        answers, canvas = self.answers(images)
        return self.losses(answers, targets, canvas), self.found(*answers[-1], images, canvas)

    def answers(self, images: Sequence[Tensor]) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Logits [B, Q, K] and boxes [B, Q, 4] of each decoder layer, and the canvas as (W, H, W, H) in pixels."""
        batch = self.frame(images)
        x_BSD, where_BSD, real_BS = self.map(batch, images)
        for layer in self.encoder:
            x_BSD = layer(x_BSD, where_BSD, real_BS)
        B = len(images)
        x_BQD, reference = self.content.expand(B, -1, -1), self.boxes.expand(B, -1, -1)
        told = []
        for layer in self.decoder:
            seen = waves(reference.sigmoid(), self.width)  # [B, Q, 2 D]
            at = seen[..., : self.width] * self.scale(x_BQD)  # which distances matter is the content's to say
            x_BQD = layer(x_BQD, self.place(seen), at, x_BSD, where_BSD, real_BS)
            state = self.norm(x_BQD)
            corrected = reference + self.correct(state)
            told.append((self.classify(state).float(), corrected.float().sigmoid()))
            reference = corrected.detach()  # each layer answers for its own correction
        H, W = batch.shape[2:]
        return told, torch.tensor([W, H, W, H], device=batch.device)

    def map(self, batch: Tensor, images: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Features [B, S, D] of the places, where each is [B, S, D], and which of them are of the image, bool [B, S]."""
        maps = self.body(batch)
        h, w = maps[self.used[0]].shape[2:]
        parts = [
            F.interpolate(into(maps[name]), (h, w)) for name, into in zip(self.used, self.inputs, strict=True)
        ]  # fmt: skip
        x_BSD = torch.stack(parts).sum(0).flatten(2).transpose(1, 2)
        rows, columns = (torch.arange(n, device=batch.device) for n in (h, w))
        step_h, step_w = batch.shape[2] / h, batch.shape[3] / w
        x, y = ((columns + 0.5) / w).expand(h, w), ((rows[:, None] + 0.5) / h).expand(h, w)
        middle = torch.stack([x, y], -1).flatten(0, 1)
        where = waves(middle, self.width).to(x_BSD.dtype).expand(len(images), -1, -1)
        real = [
            ((rows[:, None] * step_h < x.shape[1]) & (columns[None] * step_w < x.shape[2])).flatten() for x in images
        ]  # fmt: skip
        return x_BSD, where, torch.stack(real)

    def losses(self, answers: list[tuple[Tensor, Tensor]], targets: Sequence[dict[str, Any]], canvas: Tensor) -> Tensor:
        """[B]: the set loss of every decoder layer, added up."""
        return torch.stack([
            torch.stack([
                set_loss(logits[i], boxes[i], target["labels"], middles(target["boxes"] / canvas))
                for logits, boxes in answers
            ]).sum()
            for i, target in enumerate(targets)
        ])  # fmt: skip

    def found(self, logits: Tensor, boxes: Tensor, images: Sequence[Tensor], canvas: Tensor) -> list[dict[str, Tensor]]:
        """The answers of the last layer with the highest scores; a query may come with more than one class."""
        results = []
        for logits_QK, boxes_Q4, image in zip(logits, boxes, images, strict=True):
            scores, which = logits_QK.sigmoid().flatten().topk(min(MOST, logits_QK.numel()))
            H, W = image.shape[1:]
            pixels = corners(boxes_Q4[which // logits_QK.shape[1]]) * canvas
            pixels = torch.minimum(pixels.clamp(min=0), torch.tensor([W, H, W, H], device=pixels.device))
            results.append({"boxes": pixels, "labels": which % logits_QK.shape[1], "scores": scores})
        return results


def detr(
    *,
    classes: int,
    channels: int = 3,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    canvas: tuple[int, int] = (32, 32),
    backbone: str = "small",
    norm: str = "group",
    pretrained: bool = False,
    width: int = 128,
    heads: int = 4,
    encoder_layers: int = 1,
    decoder_layers: int = 3,
    queries: int = 50,
    stride: int = 16,
    dropout: float = 0.0,
) -> Detr:
    """A DETR for images [C, H, W] of 0 to 255 with this mean and std per channel.

    `stride` is that of the map that is looked at: 4, 8, 16 or 32 pixels a place. `queries` is the most things that an image may
    have. Weights are drawn from torch's global generator. Raises ModelError for what cannot be.
    """
    if min(classes, queries, decoder_layers) < 1 or encoder_layers < 0 or width % 4 or width % max(1, heads):
        raise ModelError(
            f"A DETR got classes={classes}, queries={queries}, width={width}, heads={heads}, encoder_layers={encoder_layers}, "
            f"decoder_layers={decoder_layers}; it needs at least one class, query and decoder layer, and a width that 4 and the heads "
            "divide."
        )
    if stride not in (4, 8, 16, 32):
        raise ModelError(f"`stride` is {stride}; it can be 4, 8, 16 or 32. Smaller sees smaller things and costs more.")
    body, body_channels = backbone_of(backbone, channels, norm, pretrained, min(8, stride))
    if pretrained:
        mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    frame = Frame(mean or (127.5,) * channels, std or (64.0,) * channels, canvas)
    return Detr(
        frame, body, body_channels, classes=classes, width=width, heads=heads, encoder_layers=encoder_layers,
        decoder_layers=decoder_layers, queries=queries, stride=stride, dropout=dropout,
    )  # fmt: skip
