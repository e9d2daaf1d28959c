"""Classifiers by name: the library's own body, a new head, weights from its folder, and errors that help."""

import importlib.util
import math
import socket
import sys
import time

import pytest
import torch
from torch import nn

from wellfit.errors import MissingExtra, ModelError
from wellfit.models.named import named

TORCHVISION = ("resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_x_400mf", "googlenet")
TIMM = ("efficientnet_b0", "mobilenetv3_small_050", "resnet18.a1_in1k")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No net, empty folders of weights, and no waiting between attempts."""

    def refused(*_, **__):
        raise OSError("the net is unreachable")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    if importlib.util.find_spec("huggingface_hub"):
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    return tmp_path


@pytest.mark.parametrize("name", [*(f"torchvision/{n}" for n in TORCHVISION), *(f"timm/{n}" for n in TIMM)])
def test_the_head_fits_the_classes(name) -> None:
    pytest.importorskip(name.split("/")[0])
    torch.manual_seed(0)
    model = named(name, outputs=7)
    x = torch.randn(2, 3, 64, 64)
    assert model.train()(x).shape == (2, 7)  # a tensor, also from those with classifiers half-way
    assert not any(isinstance(p, nn.Linear) and p.out_features == 1000 for p in model.modules())
    model.eval()
    loss = nn.functional.cross_entropy(model(x), torch.tensor([0, 1]))
    assert abs(loss.item() - math.log(7)) < 0.5


def test_the_body_is_torchvisions() -> None:
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(3)
    ours = named("torchvision/squeezenet1_1", outputs=4)
    torch.manual_seed(3)
    theirs = models.squeezenet1_1(weights=None)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours.features(x), theirs.features(x))
    assert ours.num_classes == 4


def test_trained_weights_come_from_the_librarys_folder(offline) -> None:
    """Weights as if fetched earlier: all are loaded, the head's alone are new."""
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(1)
    trained = models.squeezenet1_1(weights=None)
    folder = offline / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(trained.state_dict(), folder / models.SqueezeNet1_1_Weights.DEFAULT.url.rsplit("/", 1)[1])
    model = named("torchvision/squeezenet1_1", outputs=3, pretrained=True)
    state = model.state_dict()
    differ = [name for name, value in trained.state_dict().items() if not torch.equal(value, state[name])]
    assert differ == ["classifier.1.weight", "classifier.1.bias"]
    assert state["classifier.1.weight"].shape == (3, 512, 1, 1)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18"])
def test_offline_is_one_clear_error(offline, name) -> None:
    del offline
    pytest.importorskip(name.split("/")[0])
    with pytest.raises(ModelError) as caught:
        named(name, outputs=10, pretrained=True)
    text = str(caught.value)
    assert "\n" not in text
    assert f"weights of {name}" in text
    assert "pretrained=False" in text


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("torchvision/resnet5", "torchvision/resnet50"),
        ("torchvision/efficientnetb0", "torchvision/efficientnet_b0"),
        ("timm/eficientnet_b0", "timm/efficientnet_b0"),
        ("timm/resnet50.a1_in2k", "timm/resnet50.a1_in1k"),
        ("torchvision/qqqq", "No name is near"),
    ],
)
def test_unknown_names_are_answered_with_near_ones(name, near) -> None:
    pytest.importorskip(name.split("/")[0])
    with pytest.raises(ModelError, match="classifiers") as caught:
        named(name, outputs=10)
    assert near in str(caught.value)


def test_detectors_are_no_classifiers() -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(ModelError, match="none of torchvision's"):
        named("torchvision/fasterrcnn_resnet50_fpn", outputs=10)


@pytest.mark.parametrize("name", ["resnet50", "keras/resnet50", "", "/resnet50"])
def test_the_library_must_be_named(name) -> None:
    with pytest.raises(ModelError, match="torchvision/ or timm/"):
        named(name, outputs=10)


def test_outputs_are_checked() -> None:
    with pytest.raises(ModelError, match="`outputs` is 0"):
        named("torchvision/resnet18", outputs=0)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_library_that_is_not_there(monkeypatch, library) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=f"needs the package `{library}`"):
        named(f"{library}/resnet18", outputs=10)
