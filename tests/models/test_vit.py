"""The ViT is Hugging Face's on copied weights, and cuts images as it says."""

import warnings

import pytest
import torch
from torch import nn

from wellfit.errors import ModelError
from wellfit.models.vit import ViT


def test_it_is_hugging_faces() -> None:
    pytest.importorskip("transformers", reason="the peer of this test")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import ViTConfig, ViTForImageClassification

        theirs = ViTForImageClassification(
            ViTConfig(
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=48,
                image_size=12,
                patch_size=4,
                num_labels=5,
                layer_norm_eps=1e-5,
            )
        ).eval()
    torch.manual_seed(0)
    for parameter in theirs.parameters():  # norms and biases too, or copying them to the wrong place would not show
        nn.init.normal_(parameter, std=0.3)
    ours = ViT(12, 4, outputs=5, dim=32, layers=2, heads=4, hidden=48).eval()
    take(ours.state_dict(), theirs.state_dict())
    x = torch.randn(3, 3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x).logits, atol=1e-5, rtol=0)


def take(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Copy every one of Hugging Face's weights to its place."""
    got = {
        "token": theirs["vit.embeddings.cls_token"][0, 0],
        "stack.learned.table.weight": theirs["vit.embeddings.position_embeddings"][0],
    }
    for kind in ("weight", "bias"):
        got[f"patches.{kind}"] = theirs[f"vit.embeddings.patch_embeddings.projection.{kind}"]
        got[f"stack.last_norm.{kind}"] = theirs[f"vit.layernorm.{kind}"]
        got[f"head.{kind}"] = theirs[f"classifier.{kind}"]
        for i in range(2):
            a, b = f"stack.blocks.{i}", f"vit.layers.{i}"
            got[f"{a}.attention.q.{kind}"] = theirs[f"{b}.attention.q_proj.{kind}"]
            got[f"{a}.attention.kv.{kind}"] = torch.cat([theirs[f"{b}.attention.{n}_proj.{kind}"] for n in "kv"])
            got[f"{a}.attention.out.{kind}"] = theirs[f"{b}.attention.o_proj.{kind}"]
            got[f"{a}.attention_norm.{kind}"] = theirs[f"{b}.layernorm_before.{kind}"]
            got[f"{a}.feed_norm.{kind}"] = theirs[f"{b}.layernorm_after.{kind}"]
            got[f"{a}.feed.up.{kind}"] = theirs[f"{b}.mlp.fc1.{kind}"]
            got[f"{a}.feed.down.{kind}"] = theirs[f"{b}.mlp.fc2.{kind}"]
    assert got.keys() == ours.keys()
    for name, tensor in got.items():
        ours[name].copy_(tensor)


def test_patches_are_projected_one_by_one_in_reading_order() -> None:
    torch.manual_seed(0)
    model = ViT((8, 12), 4, channels=2, dim=16, layers=1, heads=2)
    x = torch.randn(1, 2, 8, 12)
    patches = [x[0, :, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4].flatten() for r in range(2) for c in range(3)]
    want = torch.stack(patches) @ model.patches.weight.flatten(1).T
    torch.testing.assert_close(model.patches(x).flatten(2).mT[0], want)


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_without_positions_the_order_of_patches_does_not_matter(pool) -> None:
    torch.manual_seed(0)
    model = ViT(8, 4, channels=1, dim=16, layers=2, heads=2, pool=pool).eval()
    nn.init.normal_(model.head.weight)
    x = torch.randn(2, 1, 8, 8)
    swapped = x.roll(4, -1)
    assert (model(x) - model(swapped)).abs().max() > 1e-4
    nn.init.zeros_(model.stack.learned.table.weight)
    torch.testing.assert_close(model(x), model(swapped), atol=1e-5, rtol=0)


def test_it_starts_at_the_loss_of_guessing() -> None:
    torch.manual_seed(0)
    loss = nn.functional.cross_entropy(ViT()(torch.randn(8, 3, 32, 32)), torch.arange(8))
    assert loss.item() == pytest.approx(torch.tensor(10.0).log().item(), abs=0.1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(image=30, patch=4), r"it can be \[1, 2, 3, 5"),
        (dict(pool="max"), "class, mean"),
        (dict(heads=3), "divisor"),
    ],
)
def test_what_cannot_be_is_refused(settings, says) -> None:
    with pytest.raises(ModelError, match=says):
        ViT(**settings)


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(ModelError, match=r"built for \[B, 3, 32, 32\]"):
        ViT(layers=1)(torch.zeros(2, 1, 32, 32))
