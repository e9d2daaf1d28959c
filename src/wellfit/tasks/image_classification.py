"""Images into classes: standardised per channel, a ConvNet unless the recipe says otherwise, cross entropy, accuracy.

Images are uint8 [N, C, H, W]; the model takes them as they are, because its first layer carries the training set's mean and
standard deviation with the weights (for trained weights, those that they were trained with). MixUp and CutMix turn the
targets of training batches into probabilities of the classes, float32 [N, K].

    >>> model = network(recipe, {"input": [3, 32, 32], "classes": ["cat", "dog"]})
    >>> predict(model, record, ["a.jpg", "folder/"])
    [{'input': 'a.jpg', 'class': 'cat', 'confidence': 0.98}, ...]
"""

import io
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from wellfit import losses, models
from wellfit.data import images as pictures
from wellfit.data.arrays import Loaded
from wellfit.errors import DataError, RecipeError
from wellfit.models.layers import Standardize
from wellfit.recipe import Finetune, Recipe
from wellfit.tasks.metrics import Classification
from wellfit.tasks.task import Built, Supervised

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of pixels in 0 to 1
DARK = 32  # what no pixel of a set of pictures stays below; the digits have 16 greys
AT_ONCE = 256  # images that are predicted together


def build(recipe: Recipe, loaded: Loaded) -> Built:
    """The model is initialised from torch's global generator, which the caller has seeded."""
    images, classes = loaded.train.inputs, len(loaded.classes)
    mixing = [name for name in ("mixup", "cutmix") if getattr(recipe.data.augment, name)]
    if mixing and recipe.loss.kind != "cross-entropy":
        raise RecipeError(
            f"`data.augment.{mixing[0]}` mixes labels, which only `loss.kind=cross-entropy` can learn from, and it is "
            f"{recipe.loss.kind!r}. Choose that, or set `data.augment.{mixing[0]}=0`."
        )
    network = models.build(recipe.model, tuple(images.shape[1:]), classes)
    own = None if _is_pretrained(recipe) else Standardize.of(images)
    model = _assembled(recipe, network, own, images.shape[1])
    criterion = losses.build(recipe.loss, classes, torch.bincount(loaded.train.targets, minlength=classes))
    record: dict[str, Any] = {"input": list(images.shape[1:])}
    if (brightest := int(images.max())) < DARK:  # its pixels are not those of pictures' files, which go to 255
        record["brightest"] = brightest
    return Built(Supervised(criterion, Classification()), model, record)


def network(recipe: Recipe, record: Mapping[str, Any]) -> nn.Module:
    """The untrained model for images and classes as a run's record tells them; nothing is downloaded for it."""
    shape = tuple(record["input"])
    settings = recipe.model
    if getattr(settings, "pretrained", False):
        assert settings is not None
        settings = settings.model_copy(update={"pretrained": False})  # the run's own weights come into their place
    channels = (1, shape[0], 1, 1)
    made = models.build(settings, shape, len(record["classes"]))
    return _assembled(recipe, made, Standardize(torch.zeros(channels), torch.ones(channels)), shape[0])


def _is_pretrained(recipe: Recipe) -> bool:
    return bool(getattr(recipe.model, "pretrained", False)) or recipe.finetune.weights is not None


def _assembled(recipe: Recipe, network: nn.Module, standardize: Standardize | None, channels: int) -> nn.Module:
    if standardize is None:
        standardize = _as_trained(recipe.finetune, network, channels)
    return nn.Sequential(OrderedDict(standardize=standardize, network=network))


def _as_trained(told_by: Finetune, network: nn.Module, channels: int) -> Standardize:
    """By the mean and deviation that trained weights expect: the recipe tells them, or timm; torchvision's are ImageNet's."""
    configurations = (getattr(module, "pretrained_cfg", None) for module in network.modules())
    told: dict[str, Any] = next((one for one in configurations if isinstance(one, dict)), {})
    usual = (("mean", told_by.mean, IMAGENET_MEAN), ("std", told_by.std, IMAGENET_STD))
    for name, given, _ in usual:
        if given is not None and len(given) not in (1, channels):
            raise RecipeError(
                f"`finetune.{name}` has {len(given)} numbers, and the images have {channels} channels. Give one for each."
            )
    mean, std = (
        torch.tensor(given if given is not None else [255 * x for x in told.get(name, imagenet)], dtype=torch.float32)
        for name, given, imagenet in usual
    )
    # Three numbers for another count of channels: their mean. (The three copies of a grey image come after this.)
    mean, std = (x if len(x) in (1, channels) else x.mean(0, keepdim=True) for x in (mean, std))
    return Standardize(*(x.expand(channels).reshape(1, channels, 1, 1).clone() for x in (mean, std)))


# ---- what is told of new images


@torch.no_grad()
def predict(
    model: nn.Module, record: Mapping[str, Any], inputs: Sequence[Any], *, top: Annotated[int, Field(ge=1)] = 1
) -> list[dict[str, Any]]:
    """For each image its class and the probability that the model gives it, and with `top` as many of the likeliest.

    An input is the path of a picture, the path of a folder (all pictures below it, by name), the bytes of a picture's file, or an array or tensor
    [H, W], [H, W, C] or [C, H, W] with pixels as the training set's. Pictures are brought to the training set's size and
    colours as those of a folder are; arrays must have its size. Warns of files that are no pictures and of what decoding
    lost, with counts. Raises DataError for a picture that is not there or cannot be decoded, naming it.
    """
    sources = [one for thing in inputs for one in pictures.below(thing)]
    model.eval()
    told: list[dict[str, Any]] = []
    remarks: dict[str, int] = {}
    for start in range(0, len(sources), AT_ONCE):
        part = sources[start : start + AT_ONCE]
        batch = torch.stack([decoded(source, record, remarks) for source in part])
        shares, places = model(batch).softmax(-1).sort(dim=-1, descending=True, stable=True)
        found = zip(
            part, shares[:, :top].tolist(), places[:, :top].tolist(), strict=True
        )  # at once: row by row is slow
        for source, row, which in found:
            best = [(record["classes"][i], round(share, 4)) for share, i in zip(row, which, strict=True)]
            answer: dict[str, Any] = {"input": str(source)} if isinstance(source, Path) else {}
            answer |= {"class": best[0][0], "confidence": best[0][1]}
            told.append(answer | ({"likeliest": dict(best)} if top > 1 else {}))
    for remark, count in remarks.items():
        warnings.warn(f"{count} pictures {remark}.", stacklevel=2)
    return told


def decoded(source: Any, record: Mapping[str, Any], remarks: dict[str, int]) -> Tensor:
    """uint8 [C, H, W] of an input; what was lost on the way is counted in `remarks`. Raises DataError for what is no picture.

    The white of a picture's file becomes the brightest pixel of the training set.
    """
    shape = tuple(record["input"])
    if isinstance(source, Path | bytes):
        pixels, remark = pictures.picture(io.BytesIO(source) if isinstance(source, bytes) else source, shape)
        if remark:
            remarks[remark] = remarks.get(remark, 0) + 1
        scale = record.get("brightest", 255) / 255
        return torch.from_numpy(np.rint(pixels * scale).astype(np.uint8))  # a copy: Pillow's are read-only
    if isinstance(source, Tensor) and source.dtype == torch.uint8 and tuple(source.shape) == shape:
        return source.cpu()
    array = np.asarray(source.detach().cpu() if isinstance(source, Tensor) else source)
    if array.dtype.kind not in "iufb" or array.ndim not in (2, 3):
        raise DataError(
            f"An image is {type(source).__name__} of shape {list(array.shape)}; it can be the path of a picture, or an array [H, W], "
            "[H, W, C] or [C, H, W] of numbers."
        )
    found = pictures.pixels(array[None] if array.ndim == 3 else array[None, None], "An image", [])[0]
    if found.shape[0] == 1 and shape[0] == 3:
        found = found.expand(3, -1, -1)
    if tuple(found.shape) != shape:
        raise DataError(
            f"An image has the shape {list(array.shape)}, but the model was trained on {list(shape)} (channels, height, width). "
            "Bring it to that size, or give the path of a picture, which is brought there."
        )
    return found
