"""Things in pictures: where they are and what they are; a Faster R-CNN or a DETR, mean average precision.

A batch is (images, targets): uint8 [C, H, W] of differing size, and {"boxes": [n, 4] in pixels, "labels": [n], "draw": int}.

The loss is the model's own, one number for each image, summed; the weight is the number of images. So micro-batches add up to
the whole batch exactly where the norm is group norm (the default); with `model.norm=batch` each micro-batch is normalised by
itself. The sampling of anchors and proposals is a function of (epoch, image) and does not depend on the batch; in evaluation it
is the same every time, so that the loss there is a score like any other.

Scores: `map50`, the mean over classes of average precision where a box counts as found from an IoU of 0.5 (Everingham et al.
2010), and `map`, its mean over IoUs from 0.5 to 0.95 (Lin et al. 2014), both by torchmetrics from at most 100 boxes a picture.

    >>> predict(model, record, ["street.jpg"])
    [{'boxes': [[12.0, 30.5, 80.2, 91.0]], 'classes': ['car'], 'scores': [0.97]}]
"""

import importlib
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from wellfit import models
from wellfit.data import images as pictures
from wellfit.data.arrays import Loaded
from wellfit.data.boxes import decode
from wellfit.data.paths import existing
from wellfit.errors import MissingExtra, ModelError, RecipeError
from wellfit.recipe import Recipe
from wellfit.tasks.task import Built

BACKENDS = {"pycocotools": "pycocotools", "faster_coco_eval": "faster_coco_eval"}  # of torchmetrics, by module
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601: how bright red, green and blue seem


def build(recipe: Recipe, loaded: Loaded) -> Built:
    """The model is initialised from torch's global generator, which the caller has seeded."""
    chosen = recipe.loss.model_copy(update={"kind": None})
    if recipe.loss.kind not in (None, "given") or chosen != type(recipe.loss)():
        raise RecipeError(
            "`loss` is set, but a detector brings its own loss, of classes and boxes together. Leave `loss` as it is."
        )
    record = {**loaded.columns, "classes": list(loaded.classes)}
    return Built(Detection(), network(recipe, record), record)


def network(recipe: Recipe, record: Mapping[str, Any]) -> nn.Module:
    """An untrained model for classes, sizes and pixels as a run's record tells them."""
    return models.detector(recipe.model, record)


class Detection:
    """Losses and scores of a detector that gives the loss of each image: `model(images, targets)` and `model.judge`."""

    one_pass = False  # what is measured does not go through `forward`

    def weight(self, batch: Any) -> float:
        return float(len(batch[0]))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        images, targets = batch
        out: Tensor = model(images, targets).sum()
        return out

    def measure(self, model: nn.Module, batch: Any) -> dict[str, Any]:
        images, targets = batch
        losses, found = model.judge(images, targets)  # type: ignore[operator]
        return {
            "loss": losses.sum(),
            "weight": torch.tensor(float(len(images)), dtype=torch.float64, device=losses.device),
            "pictures": [(_plain(one), _plain(target)) for one, target in zip(found, targets, strict=True)],
        }

    def summarize(self, sums: Mapping[str, Any]) -> dict[str, float]:
        return {"loss": float(sums["loss"]) / float(sums["weight"]), **average_precision(sums["pictures"])}

    def check(self, model: nn.Module, batch: Any) -> None:
        images, targets = batch
        if not callable(getattr(model, "judge", None)):
            raise ModelError(
                f"A {type(model).__name__} is no detector: it has no `judge(images, targets)`. See models/detection.py."
            )
        del images, targets


def _plain(boxes: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Lists of numbers, which can be strung together over batches and ranks."""
    return {name: value.tolist() for name, value in boxes.items() if isinstance(value, Tensor)}


def average_precision(pictures: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, float]:
    """`map50` and `map` of (found with scores, true) pairs; NaN where there is nothing to find.

    Raises MissingExtra where torchmetrics or what it counts with is not installed.
    """
    backend = next((name for name, module in BACKENDS.items() if importlib.util.find_spec(module)), None)
    if backend is None or importlib.util.find_spec("torchmetrics") is None:
        package = "torchmetrics" if backend else "pycocotools"
        raise MissingExtra(package, "vision", "Mean average precision")
    detection = importlib.import_module("torchmetrics.detection")
    metric = detection.MeanAveragePrecision(backend=backend)
    metric.warn_on_many_detections = False
    metric.update([_tensors(found) for found, _ in pictures], [_tensors(true) for _, true in pictures])
    scores = metric.compute()
    told = {"map50": float(scores["map_50"]), "map": float(scores["map"])}
    return {name: value if value >= 0 else float("nan") for name, value in told.items()}  # -1: there is none


def _tensors(boxes: Mapping[str, list[Any]]) -> dict[str, Tensor]:
    made = {
        "boxes": torch.tensor(boxes["boxes"], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(boxes["labels"], dtype=torch.int64),
    }
    return made | ({"scores": torch.tensor(boxes["scores"], dtype=torch.float32)} if "scores" in boxes else {})


@torch.no_grad()
def predict(
    model: nn.Module,
    record: Mapping[str, Any],
    inputs: Sequence[str | Path | bytes],
    *,
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5,
) -> list[dict[str, Any]]:
    """For each picture its boxes in its own pixels, their classes and scores, the best first, from `threshold` on.

    An input is a path, that of a folder of pictures, or the bytes of a picture's file.

    Where no box reaches it, `threshold` and `best` say so: the score of the best one, None if there is none at all.
    """
    model.eval()
    device = next(model.parameters()).device
    told = []
    for path in [one for thing in inputs for one in pictures.below(thing)]:
        source = io.BytesIO(path) if isinstance(path, bytes) else existing(str(path), "picture")
        image, (width, height), _ = decode(source, record["image_size"])
        if record["channels"] == 1:
            image = (image * torch.tensor(GREY)[:, None, None]).sum(0, keepdim=True).round().to(torch.uint8)
        (found,) = model([image.to(device)])  # one by one: a picture's boxes do not depend on what is beside it
        kept = found["scores"] >= threshold
        scale = torch.tensor([width / image.shape[2], height / image.shape[1]] * 2)
        none = {"threshold": threshold, "best": max((round(s, 4) for s in found["scores"].tolist()), default=None)}
        told.append(
            ({} if isinstance(path, bytes) else {"input": str(path)})
            | ({} if kept.any() else none)
            | {
                "boxes": [[round(x, 1) for x in box] for box in (found["boxes"][kept].cpu() * scale).tolist()],
                "classes": [record["classes"][i] for i in found["labels"][kept].tolist()],
                "scores": [round(score, 4) for score in found["scores"][kept].tolist()],
            }
        )
    return told
