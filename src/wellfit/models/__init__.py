"""Reference architectures. Each file teaches its paper and imports torch alone; `build` makes one from a recipe.

>>> model = build(ConvNet(), shape=(1, 28, 28), outputs=10)
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from wellfit.errors import ModelError
from wellfit.models.convnet import convnet
from wellfit.models.mlp import mlp
from wellfit.models.transformer import Decoder, Encoder

KINDS: dict[str, Callable[[Any, Sequence[int], int], nn.Module]] = {
    "mlp": lambda settings, shape, outputs: mlp(settings, math.prod(shape), outputs),
    "convnet": lambda settings, shape, outputs: convnet(settings, shape[0], outputs),
}
NEEDS_IMAGES = ("convnet",)
NEEDS_TEXT = ("encoder", "decoder")


def build(settings: Any, shape: Sequence[int], outputs: int) -> nn.Module:
    """The network of a recipe's `model` for samples of `shape` ([F], or [C, H, W]), drawn from torch's global generator.

    Raises ModelError if that kind of network does not take such samples.
    """
    if settings.kind in NEEDS_TEXT:
        raise ModelError(
            f"`model.kind` is {settings.kind!r}, which takes texts; for this data it can be {', '.join(KINDS)}."
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


def encoder(settings: Any, vocabulary: int, context: int) -> Encoder:
    """A Transformer encoder for texts of up to `context` tokens. Raises ModelError if the recipe asks for another model."""
    return Encoder(vocabulary, **_of_text(settings, "encoder", context))


def decoder(settings: Any, vocabulary: int, context: int) -> Decoder:
    """A Transformer decoder for texts of up to `context` tokens. Raises ModelError if the recipe asks for another model."""
    return Decoder(vocabulary, **_of_text(settings, "decoder", context))


def _of_text(settings: Any, kind: str, context: int) -> dict[str, Any]:
    if settings.kind != kind:
        raise ModelError(f"`model.kind` is {settings.kind!r}; for this task it can be {kind}.")
    chosen = settings.model_dump(exclude={"kind", "width"})
    return {"dim": settings.width, "max_length": context, **chosen}
