"""ResNet: torchvision's on the same weights, the paper's counts, identities, and real trained weights on real images."""

import io

import numpy as np
import pytest
import torch
from torch import nn

from wellfit.errors import ModelError
from wellfit.models.resnet import PadChannels, Residual, cifar_resnet, resnet

COUNTED = "num_batches_tracked"  # of batch norm, which older files lack


def weights(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def load_by_order(model: nn.Module, found: dict[str, torch.Tensor]) -> None:
    """Weights and statistics, name by name in the order of the layers; every shape must fit."""
    names = [name for name in model.state_dict() if COUNTED not in name]
    values = [value for name, value in found.items() if COUNTED not in name]
    missing, unexpected = model.load_state_dict(dict(zip(names, values, strict=True)), strict=False)
    assert not unexpected
    assert all(COUNTED in name for name in missing)


@pytest.mark.parametrize("depth", [18, 50])
def test_equals_torchvisions_on_the_same_weights(depth) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(f"resnet{depth}", weights=None)
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):  # nothing may be hidden by zeros and ones
            for values, low in (
                (layer.weight.data, 0.5), (layer.bias.data, -0.5), (layer.running_mean, -0.5), (layer.running_var, 0.5),
            ):  # fmt: skip
                values.uniform_(low, low + 1)
    ours = resnet(depth=depth)
    load_by_order(ours, theirs.state_dict())
    x = torch.randn(2, 3, 64, 48)
    for mode in (False, True):  # running statistics, then the batch's
        a, b = ours.train(mode)(x), theirs.train(mode)(x)
        assert b.std() > 0.1
        assert (a - b).abs().max() / b.abs().max() < 1e-5
    (a.square().sum()).backward()
    (b.square().sum()).backward()
    first, last = ours.stem[0].weight.grad, ours.head.weight.grad
    assert (first - theirs.conv1.weight.grad).abs().max() / first.abs().max() < 1e-4
    assert (last - theirs.fc.weight.grad).abs().max() / last.abs().max() < 1e-4


@pytest.mark.parametrize(
    ("depth", "count"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160), (152, 60_192_808)],
)
def test_weights_of_the_large_ones(depth, count) -> None:
    """As torchvision's documentation counts them."""
    with torch.device("meta"):
        assert weights(resnet(depth=depth)) == count


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_weights_and_layers_of_the_small_ones(depth, millions) -> None:
    """He et al. 2016, table 6."""
    model = cifar_resnet(depth=depth)
    assert abs(weights(model) / 1e6 - millions) < 0.05 * millions
    assert sum(isinstance(layer, (nn.Conv2d, nn.Linear)) for layer in model.modules()) == depth
    more = weights(cifar_resnet(depth=depth, shortcut="projection")) - weights(model)
    assert more == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64  # two projections and their norms


def test_real_weights_on_real_images(data_folder) -> None:
    """Trained elsewhere with padded shortcuts; the files' page says 81.0 % of the 5,000 JPEG images, and 80.2 % were measured."""
    Image = pytest.importorskip("PIL.Image")
    file = data_folder / "w_cifar_resnet" / "resnet20-12fca82f.th"
    images = data_folder / "cifar10_jpg" / "cifar10_test_a_jpg.npz"
    if not (file.is_file() and images.is_file()):
        pytest.skip(f"no {file.name} and {images.name} in {data_folder}; set WELLFIT_DATA to a folder that has them")
    model = cifar_resnet(depth=20).eval()
    load_by_order(model, torch.load(file, weights_only=True, map_location="cpu")["state_dict"])

    with np.load(images) as found:
        jpeg, offsets, label = found["jpeg"], found["offsets"], torch.from_numpy(found["label"][:600]).long()
    pixels = np.stack(
        [np.asarray(Image.open(io.BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes()))) for i in range(600)]
    )
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.no_grad():
        accuracy = (torch.cat([model(part) for part in x.split(100)]).argmax(1) == label).float().mean().item()
        # The test can fail: with the new channels after the old ones, rather than around them, the weights mean nothing.
        for block in model.blocks:
            if isinstance(block.shortcut, PadChannels):
                block.shortcut.before, block.shortcut.after = 0, block.shortcut.before + block.shortcut.after
        shifted = (model(x[:200]).argmax(1) == label[:200]).float().mean().item()
    assert abs(accuracy - 0.81) < 0.03
    assert shifted < 0.6


def test_padding_takes_every_second_pixel_between_zeros() -> None:
    x = torch.randn(2, 4, 5, 6)
    y = PadChannels(4, 8, 2)(x)
    assert y.shape == (2, 8, 3, 3)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()


@pytest.mark.parametrize("model", [cifar_resnet(depth=14, zero_init=True), resnet(depth=50, zero_init=True)])
def test_with_zero_init_every_block_begins_as_its_shortcut(model) -> None:
    identities = 0
    for block in model.blocks:
        assert isinstance(block, Residual)
        x = torch.rand(2, block.branch[0].in_channels, 4, 4)
        assert torch.equal(block(x), block.shortcut(x).relu())
        identities += torch.equal(block(x), x)
    assert identities == sum(isinstance(block.shortcut, nn.Identity) for block in model.blocks)
    x = torch.rand(2, 16, 4, 4)
    assert not torch.equal(cifar_resnet(depth=8).blocks[0](x), x)


@pytest.mark.parametrize(("make", "size"), [(resnet, 32), (resnet, 225), (cifar_resnet, 1), (cifar_resnet, 28)])
@pytest.mark.parametrize("shortcut", ["projection", "padding"])
def test_any_size_and_shortcut(make, size, shortcut) -> None:
    model = make(channels=1, outputs=7, shortcut=shortcut)
    assert model(torch.randn(2, 1, size, size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("make", "wrong", "says"),
    [
        (resnet, dict(depth=20), "18, 34, 50, 101, 152.*cifar_resnet"),
        (cifar_resnet, dict(depth=18), "6 n \\+ 2.*Try 14 or 20"),
        (cifar_resnet, dict(depth=2), "Try 8 or 14"),
        (resnet, dict(shortcut="none"), "`shortcut` is 'none'; it can be projection, padding"),
        (cifar_resnet, dict(outputs=0), "`outputs` 0"),
        (resnet, dict(channels=0), "`channels` is 0"),
    ],
)
def test_errors_say_what_is_allowed(make, wrong, says) -> None:
    with pytest.raises(ModelError, match=says):
        make(**wrong)
