"""A classifier by its name in torchvision or timm, with a head for one's own classes.

Hundreds of published architectures are built and kept well elsewhere; what the files beside this one teach by hand is
taken from there when it is to be used rather than read. Either library is imported when a name asks for it, not before.

Trained weights (`pretrained=True`) make a few hundred images enough: features learnt on ImageNet's million carry over
(Yosinski et al. 2014), and only the head is new. They are downloaded once and kept by the library; without them all
weights are random. Trained weights expect the inputs they were trained on: a size and a mean and std per channel, which
`torchvision.models.get_model_weights(...).DEFAULT.transforms()` and `timm.data.resolve_data_config` tell.

This file deliberately does not change an architecture's inputs: colour images stay [N, 3, H, W].

    >>> model = named("torchvision/resnet18", outputs=10)
    >>> model(torch.zeros(5, 3, 64, 64)).shape
    torch.Size([5, 10])
"""

import difflib
import importlib
import math
from collections.abc import Callable
from typing import Any

from torch import nn

from wellfit.errors import MissingExtra, ModelError
from wellfit.models.layers import head

CLASSES = 1000  # of ImageNet, for which torchvision builds all its classifiers


def named(name: str, *, outputs: int, pretrained: bool = False) -> nn.Module:
    """The classifier `name`, "torchvision/..." or "timm/...": [N, 3, H, W] -> logits [N, K] with K = `outputs`.

    timm's names may end in a tag that says which training the weights are of ("timm/resnet50.a1_in1k"). The head is always
    new; new weights are drawn from torch's global generator. Offline, timm's hub tries again for most of a minute before it
    gives up; the environment variable HF_HUB_OFFLINE=1 spares the wait.
    Raises ModelError for a name that neither library has (with near ones), fewer than one output, and weights that cannot
    be had; MissingExtra where the library is not installed.
    """
    library, slash, architecture = name.partition("/")
    if not slash or library not in LIBRARIES:
        raise ModelError(
            f"`name` is {name!r}; it must begin with {' or '.join(f'{known}/' for known in LIBRARIES)}. "
            "Write, for instance, torchvision/resnet50 or timm/efficientnet_b0."
        )
    if outputs < 1:
        raise ModelError(f"`outputs` is {outputs}; it must be at least 1. Give the number of classes.")
    return LIBRARIES[library](architecture, outputs, pretrained)


def from_torchvision(architecture: str, outputs: int, pretrained: bool) -> nn.Module:
    """One of torchvision's classifiers, its last layer replaced."""
    models = import_library("torchvision").models
    # Without `module`, detectors and segmenters would be listed as well.
    refuse_unknown("torchvision", architecture, models.list_models(module=models))
    if pretrained:
        model = fetched("torchvision", architecture, lambda: models.get_model(architecture, weights="DEFAULT"))
    elif architecture in ("googlenet", "inception_v3"):
        model = models.get_model(architecture, weights=None, init_weights=True)  # or they warn that they do so anyway
    else:
        model = models.get_model(architecture, weights=None)
    # The two Inceptions carry classifiers half-way, and return tuples in training because of them (Szegedy et al. 2015).
    # Batch norm has made them unnecessary (Szegedy et al. 2016, section 4), and a head here gives logits, nothing else.
    if getattr(model, "aux_logits", False):
        model.aux_logits = False
        for auxiliary in ("aux1", "aux2", "AuxLogits"):
            if hasattr(model, auxiliary):
                setattr(model, auxiliary, None)
    replace_head(model, outputs)
    assert isinstance(model, nn.Module)
    return model


def replace_head(model: Any, outputs: int) -> None:
    """Puts a new last layer in place of the one for ImageNet: linear, or a 1 x 1 convolution (SqueezeNet's)."""
    layers = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    path, last = layers[-1]
    new: nn.Module
    if isinstance(last, nn.Linear):
        assert last.out_features == CLASSES, path
        new = head(last.in_features, outputs)
    else:
        assert last.out_channels == CLASSES, path
        assert last.kernel_size == (1, 1), path
        new = nn.Conv2d(last.in_channels, outputs, 1)
        nn.init.normal_(new.weight, std=0.1 / math.sqrt(last.in_channels))  # as small as `head` makes them
        assert new.bias is not None
        nn.init.zeros_(new.bias)
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
    if hasattr(model, "num_classes"):  # SqueezeNet and others keep the number as well
        model.num_classes = outputs


def from_timm(architecture: str, outputs: int, pretrained: bool) -> nn.Module:
    """One of timm's classifiers; timm itself makes the head."""
    timm = import_library("timm")
    tagged = "." in architecture
    refuse_unknown("timm", architecture, timm.list_models(pretrained=True) if tagged else timm.list_models())

    def create() -> Any:
        return timm.create_model(architecture, pretrained=pretrained, num_classes=outputs)

    model = fetched("timm", architecture, create) if pretrained else create()
    assert isinstance(model, nn.Module)
    return model


LIBRARIES: dict[str, Callable[[str, int, bool], nn.Module]] = {"torchvision": from_torchvision, "timm": from_timm}


def import_library(library: str) -> Any:
    """The library, or MissingExtra."""
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise  # it is there, and something that it needs is not
        raise MissingExtra(library, "vision", f"A model by the name {library}/...") from None


def refuse_unknown(library: str, architecture: str, known: list[str]) -> None:
    """Raises ModelError with near names if the library has no such classifier."""
    if architecture in known:
        return
    near = difflib.get_close_matches(architecture, known, n=5, cutoff=0.5)
    advice = f"Near names: {', '.join(f'{library}/{name}' for name in near)}." if near else "No name is near it."
    raise ModelError(f"{library}/{architecture} is none of {library}'s {len(known)} classifiers. {advice}")


def fetched(library: str, architecture: str, create: Callable[[], Any]) -> Any:
    """The model with its trained weights, from the library's folder or the net."""
    try:
        return create()
    except Exception as error:  # each library, and each way of being offline, has errors of its own
        reason = str(error).split("\n")[0].rstrip(" .")
        raise ModelError(
            f"The trained weights of {library}/{architecture} could not be had ({type(error).__name__}: {reason}); they are "
            "downloaded the first time, so connect to the net and try again, or start untrained with `pretrained=False`."
        ) from error
