"""Language models by their configuration: published figures, closed forms, torch's allocator, and what cannot be."""

import json
from pathlib import Path

import pytest
import torch

import wellfit
from wellfit.errors import ModelError, RecipeError
from wellfit.plan.languages import Language, cache_bytes, configuration, language_serving, language_training
from wellfit.plan.packed import Packed

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

LLAMA = {"model_type": "llama", "num_attention_heads": 32, "tie_word_embeddings": False}
CONFIGS = {  # published with the models: Touvron et al. 2023, Grattafiori et al. 2024
    "7b": {**LLAMA, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "vocab_size": 32000},
    "8b": {
        **LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "70b": {
        **LLAMA, "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
        "num_key_value_heads": 8, "vocab_size": 32000,
    },
    "tiny": {
        **LLAMA, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 14, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 500,
    },
}  # fmt: skip


@pytest.fixture
def config(tmp_path: Path):
    def written(name: str, **changed) -> str:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({**CONFIGS[name], **changed}))
        return str(folder)

    return written


def test_seven_billion_in_16_bits_to_serve(config) -> None:
    """6.74 billion weights of two bytes: 13.5 GB, which is told as 14 GB."""
    plan = wellfit.memory_plan_config(config("7b"), serve=True, tokens=64)
    assert plan.parameters == 6_738_415_616
    assert plan.parts["weights"] == pytest.approx(14e9, rel=0.05)
    assert plan.trainable == 0


def test_seventy_billion_in_4_bits_to_serve(config) -> None:
    """Half a byte a weight is 35 GB; with the blocks' divisors and 16 bits of embeddings it is a little more."""
    traced = language_serving(Language(config("70b"), serve=True, bits=4, tokens=64))
    assert traced.parameters == 68_976_648_192
    assert traced.peak.parts["weights"] == pytest.approx(35e9, rel=0.05)


def test_eight_billion_fully(config) -> None:
    """Rajbhandari et al. 2020, 3.1: 16 bytes a parameter with Adam in mixed precision, besides activations; pure 16 bits take half."""
    mixed = language_training(Language(config("8b"), tokens=256, checkpointing=1))
    assert mixed.parameters == 8_030_261_248
    held = sum(mixed.peak.parts[part] for part in ("weights", "gradients", "optimizer"))
    assert held == pytest.approx(16 * 8.03e9, rel=0.1)
    pure = language_training(Language(config("8b"), tokens=256, checkpointing=1, precision="pure-bf16"))
    assert pure.peak.bytes == pytest.approx(60e9, rel=0.1)  # Hugging Face's blog on Llama 3.1, 8B, full fine-tuning


def test_eight_billion_with_lora_and_qlora(config) -> None:
    """Hugging Face's blog on Llama 3.1, 8B: LoRA 16 GB, QLoRA 6 GB."""
    lora = language_training(Language(config("8b"), tokens=256, checkpointing=1, lora=16))
    packed = language_training(Language(config("8b"), tokens=256, checkpointing=1, lora=16, bits=4))
    assert lora.peak.bytes == pytest.approx(16e9, rel=0.1)
    assert packed.peak.bytes == pytest.approx(6e9, rel=0.15)
    assert packed.parameters - packed.trainable == lora.parameters - lora.trainable == 8_030_261_248


@pytest.mark.parametrize(
    "changed", [{}, {"checkpointing": 1}, {"lora": 8, "bits": 4}, {"optimizer": "lion", "precision": "fp32"}]
)
def test_depth_follows_exactly_from_two_shorter_models(config, changed) -> None:
    asked = Language(config("tiny"), **{"tokens": 64, **changed})
    whole, followed = language_training(asked, whole=True), language_training(asked)
    assert followed.peak.bytes == pytest.approx(whole.peak.bytes, rel=0.005)
    assert (followed.parameters, followed.trainable) == (whole.parameters, whole.trainable)


def test_the_cache_is_that_of_its_formula(config) -> None:
    asked = Language(config("tiny"), serve=True, tokens=128, batch=4)
    traced = language_serving(asked)
    assert (
        traced.peak.parts["cache"] == cache_bytes(configuration(asked.config), 4, 128) == 2 * 14 * 2 * 16 * 128 * 4 * 2
    )


def test_bits_of_packed_weights() -> None:
    """Dettmers et al. 2023, 3: double quantisation takes 0.127 bits a weight."""
    packed = Packed(4096, 4096, None, 4, torch.bfloat16, "meta")
    bits = 8 * sum(b.numel() * b.element_size() for b in packed.buffers()) / 4096**2
    assert bits == pytest.approx(4.127, abs=0.001)


def test_a_state_of_8_bits_takes_a_quarter(config) -> None:
    found = {
        kind: language_training(Language(config("tiny", hidden_size=256), tokens=16, optimizer=kind))
        .phases["in the update"]
        .parts["optimizer"]
        for kind in ("adamw", "adamw8bit")
    }
    assert found["adamw8bit"] / found["adamw"] == pytest.approx(0.25, abs=0.05)


def test_ways_to_make_it_fit_are_ranked(config) -> None:
    heavy = config("tiny", hidden_size=2048, intermediate_size=8192)
    plan = wellfit.memory_plan_config(heavy, tokens=512, batch=8, gpu="RTX 3060", precision="fp32")
    assert plan.fits is False
    assert {"LoRA of rank 16", "activation checkpointing in every block"} <= {way.what for way in plan.ways}
    assert any(way.fits for way in plan.ways) or plan.together
    assert all(way.cost for way in plan.ways)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"batch": 0}, "`batch` is 0; it must be a whole number of at least 1"),
        ({"tokens": 1}, "`tokens` is 1"),
        ({"lora": 0}, "`lora` is 0"),
        ({"bits": 3}, "`bits` is 3; it can be 4, 8, 16"),
        ({"bits": 4}, "cannot learn"),
        ({"precision": "int8"}, "it can be fp32, bf16"),
        ({"optimizer": "adamx"}, "Did you mean"),
        ({"batch": 3, "micro_batches": 2}, "cannot share evenly"),
    ],
)
def test_settings_that_cannot_be(config, settings, says) -> None:
    with pytest.raises(RecipeError, match=says):
        Language(config("tiny"), **settings)


def test_configurations_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    for text, says in (
        ("{", "is not JSON"),
        ("[]", "model type None"),
        ('{"model_type": "lama"}', "Did you mean `llama`"),
        ('{"model_type": "vit"}', "no language model"),
    ):
        file.write_text(text)
        with pytest.raises(ModelError, match=says):
            language_training(Language(str(tmp_path)))
    with pytest.raises(ModelError, match="There is no configuration at"):
        configuration(str(tmp_path / "missing.json"))
