"""Every architecture by name from a recipe, and mixed labels that cost the loop nothing in exactness."""

import numpy as np
import pytest
import torch

from wellfit import api
from wellfit.defaults import Facts, patch_for, resolve
from wellfit.errors import ModelError, RecipeError
from wellfit.models import build
from wellfit.recipe import MODELS, Recipe
from wellfit.tasks.image_classification import network
from wellfit.train.setup import from_recipe

SHORT = {"training.steps": 3, "training.batch_size": 16, "training.doctor": False}
SMALL = {
    "lenet": {},
    "alexnet": {"model.hidden": 32},
    "resnet": {"model.depth": 8},
    "vit": {"model.width": 16, "model.layers": 1},
    "named": {"model.name": "torchvision/shufflenet_v2_x0_5"},
    "convnet": {"model.channels": [4, 8]},
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """64 colour pictures of 32 x 32 pixels in two classes, bright and dark."""
    draw = np.random.default_rng(0)
    y = np.arange(64) % 2
    x = draw.integers(0, 120, (64, 32, 32, 3)) + 100 * y[:, None, None, None]
    path = tmp_path_factory.mktemp("pictures") / "a.npz"
    np.savez(path, images=x.astype(np.uint8), labels=y)
    return path


@pytest.mark.parametrize("kind", SMALL)
def test_every_kind_trains_and_is_made_again_from_its_record(kind, pictures, tmp_path) -> None:
    if kind == "named":
        pytest.importorskip("torchvision")
    settings = {"data.source": str(pictures), "model.kind": kind, **SMALL[kind], **SHORT}
    run = api.fit_recipe(Recipe(), set=settings, root=tmp_path, quiet=True)
    assert run.ended().reason == "finished"
    again = network(run.recipe, run.task)
    again.load_state_dict(run.best_weights())
    x = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(again.eval()(x), run.model.eval()(x))


@pytest.mark.parametrize(
    ("shape", "stem", "depth", "patch"),
    [
        ((3, 32, 32), "cifar", 20, 4),
        ((1, 8, 8), "cifar", 20, 1),
        ((3, 224, 224), "imagenet", 18, 28),
        ((1, 28, 28), "cifar", 20, 4),
    ],
)
def test_the_size_of_the_images_decides_and_says_so(shape, stem, depth, patch) -> None:
    facts = Facts(task="image-classification", train_samples=1000, shape=shape)
    resolved = resolve(Recipe().override(["model.kind=resnet"]), facts)
    assert (resolved.model.stem, resolved.model.depth) == (stem, depth)
    assert f"{shape[1]} x {shape[2]} pixels" in resolved.origin("model.stem").why
    chosen = resolve(Recipe().override(["model.kind=resnet", "model.stem=imagenet"]), facts)
    assert chosen.model.depth == 18, "the depth follows the stem that was asked for"
    vit = resolve(Recipe().override(["model.kind=vit"]), facts)
    assert vit.model.patch == patch == patch_for(shape)
    assert (vit.optimizer.learning_rate, vit.optimizer.weight_decay, vit.schedule.warmup_steps) == (3e-4, 0.05, 0.1)


def test_learning_rates_suit_the_architecture() -> None:
    facts = Facts(task="image-classification", train_samples=1000, shape=(3, 32, 32))

    def rate(*settings: str) -> float:
        return resolve(Recipe().override(settings), facts).optimizer.learning_rate

    assert rate("model.kind=alexnet") < rate("model.kind=resnet")
    assert rate("model.kind=named", "model.pretrained=true") == rate("model.kind=named") / 10
    assert rate("model.kind=alexnet", "optimizer.kind=sgd") == 0.01


@pytest.mark.parametrize("kind", ["lenet", "alexnet", "resnet", "vit", "named"])
def test_tables_and_odd_sizes_are_refused_in_a_sentence(kind) -> None:
    with pytest.raises(ModelError, match=r"model\.kind=mlp"):
        build(MODELS[kind](), (6,), 2)


def test_named_models_take_grey_images_and_refuse_other_channels() -> None:
    pytest.importorskip("torchvision")
    settings = MODELS["named"](name="torchvision/shufflenet_v2_x0_5")
    assert build(settings, (1, 32, 32), 3)(torch.rand(2, 1, 32, 32)).shape == (2, 3)
    with pytest.raises(ModelError, match="three channels"):
        build(settings, (4, 32, 32), 3)


def test_mixing_wants_cross_entropy() -> None:
    with pytest.raises(RecipeError, match="cross-entropy"):
        from_recipe(Recipe().override({"data.augment.mixup": 0.2, "loss.kind": "focal"}))


def test_mixed_labels_give_the_same_gradient_however_the_batch_is_cut(tmp_path) -> None:
    settings = {
        "data.augment.mixup": 0.4, "data.augment.cutmix": 1.0, "data.augment.shift": 1, "model.kind": "mlp", "model.dropout": 0.0,
        "training.batch_size": 48, "training.steps": 20, "training.doctor": False, "loss.class_weights": "balanced",
    }  # fmt: skip
    runs = [
        api.fit_recipe(
            "digits", set={**settings, "training.gradient_accumulation_steps": cut}, root=tmp_path, quiet=True
        )
        for cut in (1, 3)
    ]
    whole, cut = (run.metrics()["loss"][-20:] for run in runs)
    assert np.allclose(whole, cut, rtol=1e-4)
    assert runs[0].scores("valid")["accuracy"] > 0.3


def test_a_run_with_mixed_labels_goes_on_to_the_same_bits(tmp_path) -> None:
    settings = {
        "data.augment": {"mixup": 0.2, "cutmix": 1.0, "crop": 0.5, "rotate": 10, "colour": 0.2}, "model.channels": [4],
        "training.batch_size": 64, "checkpoints.every": 5, "training.doctor": False, "checkpoints.keep": 9,
    }  # fmt: skip
    whole = api.fit_recipe("digits", set={**settings, "training.steps": 12}, folder=tmp_path / "whole", quiet=True)
    stopped = api.fit_recipe("digits", set={**settings, "training.steps": 12}, folder=tmp_path / "stopped", quiet=True)
    for name in ("step-00000012", "step-00000010"):
        for file in (stopped.folder / "checkpoints" / name).iterdir():
            file.unlink()
        (stopped.folder / "checkpoints" / name).rmdir()
    for pointer in ("latest", "best"):
        (stopped.folder / "checkpoints" / pointer).write_text("step-00000005")
    resumed = api.resume(stopped.folder, quiet=True)
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.metrics()["loss"] == whole.metrics()["loss"]


def test_settings_without_effect_are_told() -> None:
    job = from_recipe(Recipe().override({"data.augment.delete": 0.1}))
    assert any("`data.augment.delete`" in note for note in job.notes)
    job = from_recipe(Recipe.load("wine").override({"data.augment.shift": 1}))
    assert any("`data.augment.shift`" in note for note in job.notes)
