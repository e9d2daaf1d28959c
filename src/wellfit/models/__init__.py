"""Reference architectures. Each file teaches its paper and imports torch alone; `build` makes one from a recipe.

>>> model = build(ConvNet(), shape=(1, 28, 28), outputs=10)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from wellfit.defaults import DEPTHS, patch_for, stem_for
from wellfit.errors import ModelError
from wellfit.models import pretrained
from wellfit.models.alexnet import alexnet
from wellfit.models.bag import Bag
from wellfit.models.convnet import convnet
from wellfit.models.detection import faster_rcnn
from wellfit.models.detr import detr
from wellfit.models.lenet import lenet
from wellfit.models.mlp import mlp
from wellfit.models.named import named
from wellfit.models.pretrained import Trunk, Writer
from wellfit.models.resnet import cifar_resnet, resnet
from wellfit.models.transformer import Decoder, Encoder, EncoderDecoder
from wellfit.models.vit import ViT

KINDS: dict[str, Callable[[Any, Sequence[int], int], nn.Module]] = {
    "mlp": lambda settings, shape, outputs: mlp(settings, math.prod(shape), outputs),
    "convnet": lambda settings, shape, outputs: convnet(settings, shape[0], outputs),
    "lenet": lambda settings, shape, outputs: lenet(shape=shape, outputs=outputs, activation=settings.activation, pool=settings.pool),
    "alexnet": lambda settings, shape, outputs: alexnet(shape=shape, outputs=outputs, hidden=settings.hidden, dropout=settings.dropout),
    "resnet": lambda settings, shape, outputs: _resnet(settings, shape, outputs),
    "vit": lambda settings, shape, outputs: _vit(settings, shape, outputs),
    "named": lambda settings, shape, outputs: _named(settings, shape[0], outputs),
}  # fmt: skip
NEEDS_IMAGES = ("convnet", "lenet", "alexnet", "resnet", "vit", "named")
NEEDS_TEXT = ("encoder", "decoder", "encoder-decoder", "bag", "pretrained")
NEEDS_SERIES = ("recurrent", "patchtst", "dlinear", "tft")


def build(settings: Any, shape: Sequence[int], outputs: int) -> nn.Module:
    """The network of a recipe's `model` for samples of `shape` ([F], or [C, H, W]), drawn from torch's global generator.

    Raises ModelError if that kind of network does not take such samples.
    """
    if settings.kind in NEEDS_TEXT:
        raise ModelError(
            f"`model.kind` is {settings.kind!r}, which takes texts; for this data it can be {', '.join(KINDS)}."
        )
    if settings.kind in NEEDS_SERIES:
        raise ModelError(
            f"`model.kind` is {settings.kind!r}, which takes series; for this data it can be {', '.join(KINDS)}."
        )
    if settings.kind in DETECTORS:
        raise ModelError(
            f"`model.kind` is {settings.kind!r}, which takes pictures with boxes; for this data it can be {', '.join(KINDS)}."
        )
    if settings.kind not in KINDS:
        raise ModelError(
            f"`model.kind` is {settings.kind!r}, which only `wellfit.fit` can be given; it can be {', '.join(KINDS)}."
        )
    if settings.kind in NEEDS_IMAGES and (len(shape) != 3 or min(shape[1:]) < 4):
        raise ModelError(
            f"`model.kind` is {settings.kind!r}, which takes images of at least 4 x 4 pixels, but a sample here has the shape "
            f"{list(shape)}. Use `model.kind=mlp`."
        )
    return KINDS[settings.kind](settings, shape, outputs)


STEMS: dict[str, Callable[..., nn.Module]] = {"cifar": cifar_resnet, "imagenet": resnet}


def _resnet(settings: Any, shape: Sequence[int], outputs: int) -> nn.Module:
    stem = settings.stem or stem_for(shape)
    depth = settings.depth or DEPTHS[stem]
    return STEMS[stem](depth=depth, channels=shape[0], outputs=outputs, zero_init=settings.zero_init)


def _vit(settings: Any, shape: Sequence[int], outputs: int) -> nn.Module:
    C, H, W = shape
    return ViT(
        (H, W), settings.patch or patch_for(shape), C, outputs, settings.width, settings.layers, settings.heads,
        pool=settings.pool, dropout=settings.dropout,
    )  # fmt: skip


class Coloured(nn.Module):
    """Grey images [N, 1, H, W] -> [N, 3, H, W], each channel the same, for a network that takes colour."""

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(-1, 3, -1, -1)


def _named(settings: Any, channels: int, outputs: int) -> nn.Module:
    model = named(settings.name, outputs=outputs, pretrained=settings.pretrained)
    if channels == 3:
        return model
    if channels != 1:
        raise ModelError(
            f"`model.name` is {settings.name!r}, which takes images of three channels, or of one that is repeated; a sample here "
            f"has {channels}. Use `model.kind=resnet`, which takes any number."
        )
    return nn.Sequential(Coloured(), model)


DETECTORS: dict[str, Callable[..., nn.Module]] = {"faster-rcnn": faster_rcnn, "detr": detr}


def detector(settings: Any, record: Mapping[str, Any]) -> nn.Module:
    """The detector of a recipe's `model` for the `classes`, `channels`, `canvas`, `mean` and `std` of a record.

    Raises ModelError if the recipe asks for another model.
    """
    if settings.kind not in DETECTORS:
        raise ModelError(
            f"`model.kind` is {settings.kind!r}; to find things in pictures it can be {', '.join(DETECTORS)}."
        )
    return DETECTORS[settings.kind](
        classes=len(record["classes"]), channels=record["channels"], canvas=tuple(record["canvas"]),
        mean=record["mean"], std=record["std"], **settings.model_dump(exclude={"kind"}),
    )  # fmt: skip


def encoder(settings: Any, vocabulary: int, context: int) -> Encoder:
    """A Transformer encoder for texts of up to `context` tokens. Raises ModelError if the recipe asks for another model."""
    return Encoder(vocabulary, **_of_text(settings, "encoder", context))


def reader(
    settings: Any, vocabulary: int, context: int, *, ordered: bool = True, config: Mapping[str, Any] | None = None
) -> Encoder | Bag | Trunk:
    """What makes vectors [B, T, D] of tokens [B, T]: an encoder, a bag of words, or a pretrained model of this configuration.

    Raises ModelError for another model, and for an encoder of tokens that have no order.
    """
    if settings.kind == "bag":
        return Bag(vocabulary, settings.width, dropout=settings.dropout)
    if settings.kind == "pretrained":
        assert config is not None
        most = config.get("max_position_embeddings", context)
        if context > most:
            raise ModelError(
                f"`data.context` is {context}, and {settings.name} has places for {most} tokens; choose at most that."
            )
        return Trunk.of(config)
    if settings.kind != "encoder":
        raise ModelError(f"`model.kind` is {settings.kind!r}; for this task it can be encoder, bag or pretrained.")
    if not ordered:
        raise ModelError(
            "`model.kind` is 'encoder' and `data.tokens` 'ngram', but groups of letters have no order that an encoder could read. "
            "Set `model.kind=bag` or `data.tokens=word`."
        )
    return encoder(settings, vocabulary, context)


def described(settings: Any) -> dict[str, Any]:
    """What must be remembered of a pretrained model, so that it can be made again: its configuration."""
    return {"config": pretrained.configuration(settings.name)} if settings.kind == "pretrained" else {}


def filled(trunk: nn.Module, settings: Any, whole: nn.Module) -> list[str] | None:
    """Lays a pretrained model's weights into its place; returns the names of the parameters of `whole` that are new beside it.

    None for a model that comes with no weights, of which that cannot be said.
    """
    if not isinstance(trunk, Trunk | Writer) or not settings.pretrained:
        return None
    missing = pretrained.fill(trunk, settings.name)
    drawn = {id(trunk.model.get_parameter(name)) for name in missing}
    own = {id(p) for p in trunk.parameters()} - drawn
    return [name for name, p in whole.named_parameters() if id(p) not in own]


def decoder(
    settings: Any, vocabulary: int, context: int, *, config: Mapping[str, Any] | None = None
) -> Decoder | Writer:
    """What writes texts of up to `context` tokens: a Transformer decoder, or a pretrained model of this configuration.

    Raises ModelError if the recipe asks for another model, or for a pretrained one that does not write or has too few places.
    """
    if settings.kind != "pretrained":
        return Decoder(vocabulary, **_of_text(settings, "decoder", context, "decoder or pretrained"))
    assert config is not None
    pretrained.writes(settings.name, config)
    writer = Writer.of(config)
    if writer.max_length is not None and context > writer.max_length:
        raise ModelError(
            f"`data.context` is {context}, and {settings.name} has places for {writer.max_length} tokens; choose at most that."
        )
    return writer


def encoder_decoder(settings: Any, vocabulary: int, context: int) -> EncoderDecoder:
    """A Transformer that makes a text of up to `context` tokens into another. Raises ModelError if another is asked for."""
    return EncoderDecoder(vocabulary, **_of_text(settings, "encoder-decoder", context))


def _of_text(settings: Any, kind: str, context: int, allowed: str = "") -> dict[str, Any]:
    if settings.kind != kind:
        raise ModelError(f"`model.kind` is {settings.kind!r}; for this task it can be {allowed or kind}.")
    chosen = settings.model_dump(exclude={"kind", "width"})
    return {"dim": settings.width, "max_length": context, **chosen}
