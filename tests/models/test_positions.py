"""Positions against Hugging Face's, and the property that each is chosen for."""

import math
import warnings

import pytest
import torch

from wellfit.errors import ModelError
from wellfit.models.positions import Learned, alibi, rotate, rotation, sinusoidal, slopes


def test_sinusoidal_is_the_formula() -> None:
    table = sinusoidal(torch.arange(7)[None], 6)[0]
    for t in range(7):
        for i in range(3):
            angle = t / 10_000 ** (2 * i / 6)
            assert table[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_learned_is_a_row_for_each_position() -> None:
    learned = Learned(5, 8)
    torch.testing.assert_close(learned(torch.tensor([[3, 0]]))[0, 0], learned.table.weight[3])


def test_rope_depends_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64).unbind(0)

    def score(t: int, s: int) -> float:
        turned = [rotate(x, *rotation(torch.tensor([[place]]), 16)) for x, place in ((q, t), (k, s))]
        return (turned[0] * turned[1]).sum().item()

    assert score(9, 4) == pytest.approx(score(105, 100), abs=1e-5)
    assert score(4, 9) == pytest.approx(score(0, 5), abs=1e-5)
    assert abs(score(9, 4) - score(9, 5)) > 1e-3
    assert abs(score(9, 4) - score(4, 9)) > 1e-3  # it tells before from after
    torch.testing.assert_close(rotate(q, *rotation(torch.tensor([[77]]), 16)).norm(), q.norm())


def test_rope_is_llamas() -> None:
    pytest.importorskip("transformers", reason="the peer of this test")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 4, 12, 16).unbind(0)
    positions = torch.stack((torch.arange(12), torch.arange(500, 512)))
    theirs = LlamaRotaryEmbedding(LlamaConfig(hidden_size=64, num_attention_heads=4))
    want_q, want_k = apply_rotary_pos_emb(q, k, *theirs(q, positions))
    turn = rotation(positions, 16)
    torch.testing.assert_close(rotate(q, *turn), want_q, atol=1e-5, rtol=0)
    torch.testing.assert_close(rotate(k, *turn), want_k, atol=1e-5, rtol=0)


def test_positions_survive_a_model_in_bfloat16() -> None:
    cos, _ = rotation(torch.tensor([[256, 257]]), 8)
    assert cos.dtype == torch.float32
    assert abs(cos[0, 0, 0, 0] - cos[0, 0, 1, 0]) > 0.1
    assert rotate(torch.zeros(1, 1, 2, 8, dtype=torch.bfloat16), cos, cos).dtype == torch.bfloat16


def test_slopes_are_the_papers() -> None:
    assert slopes(8) == [2.0**-h for h in range(1, 9)]  # 1/2, 1/4, ... 1/256
    assert slopes(16)[:2] == pytest.approx([2**-0.5, 2**-1])
    assert slopes(1) == [2.0**-8]


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12, 20])
def test_slopes_are_blooms(heads) -> None:
    pytest.importorskip("transformers", reason="the peer of this test")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.models.bloom.modeling_bloom import build_alibi_tensor
    theirs = build_alibi_tensor(torch.ones(1, 4), heads, torch.float32)  # slope * position of the key
    torch.testing.assert_close(torch.tensor(slopes(heads)), theirs[:, 0, 1])
    # Theirs is ours but for a constant in each row, which the softmax does not see.
    ours = alibi(heads, 4, 4)[0, :, 3]
    torch.testing.assert_close(ours - ours[:, :1], theirs[:, 0])


def test_alibi_measures_from_the_last_key() -> None:
    torch.testing.assert_close(alibi(4, 2, 5), alibi(4, 5, 5)[:, :, 3:])
    assert alibi(1, 1, 3)[0, 0, 0].tolist() == [-2 / 256, -1 / 256, 0]


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(ModelError, match="even width"):
        sinusoidal(torch.arange(3)[None], 5)
