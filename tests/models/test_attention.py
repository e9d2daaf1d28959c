"""Attention written out, torch's kernels, and nn.MultiheadAttention agree; nothing sees what it may not see."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from wellfit.errors import ModelError
from wellfit.models.attention import (
    Attention,
    Kept,
    allowed,
    attend,
    attend_fused,
    attention_maps,
    linear_attention,
)


def qkv(B=2, H=4, G=4, T=9, S=9, E=8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(B, H, T, E), torch.randn(B, G, S, E), torch.randn(B, G, S, E)


MASKS = {
    "none": None,
    "bool": allowed(9, 9, window=3, real_BS=torch.arange(9)[None] < torch.tensor([[9], [7]])),
    "float": torch.linspace(-3, 3, 9 * 9).view(9, 9),
    "empty row": allowed(9, 9, causal=True, real_BS=torch.arange(9)[None] >= torch.tensor([[0], [4]])),
}


@pytest.mark.parametrize("G", [4, 2, 1])
@pytest.mark.parametrize("name", MASKS)
def test_written_out_is_the_kernel(name, G) -> None:
    q, k, v = (x.requires_grad_() for x in qkv(G=G))
    out, weights = attend(q, k, v, MASKS[name])
    fused = attend_fused(q, k, v, MASKS[name])
    torch.testing.assert_close(out, fused, atol=1e-5, rtol=0)
    up = torch.randn_like(out)
    for ours, theirs in zip(
        torch.autograd.grad(out, (q, k, v), up), torch.autograd.grad(fused, (q, k, v), up), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    sums = weights.sum(-1)
    assert torch.all((sums - 1).abs().lt(1e-5) | sums.eq(0))
    assert (sums == 0).any() == (name == "empty row")


def test_written_out_is_the_formula_one_number_at_a_time() -> None:
    q, k, v = qkv(B=1, H=1, G=1, T=3, S=3, E=2)
    out, _ = attend(q, k, v, causal=True)
    for t in range(3):
        shares = [math.exp(sum((q[0, 0, t] * k[0, 0, s]).tolist()) / math.sqrt(2)) for s in range(t + 1)]
        for e in range(2):
            want = sum(share * v[0, 0, s, e].item() for s, share in enumerate(shares)) / sum(shares)
            assert out[0, 0, t, e].item() == pytest.approx(want, abs=1e-5)


def test_large_scores_do_not_overflow() -> None:
    q, k, v = qkv()
    assert attend(1000 * q, k, v)[0].isfinite().all()


@pytest.mark.parametrize("how", [lambda *a: attend(*a)[0], attend_fused])
@pytest.mark.parametrize("kind", ["bool", "float"])
def test_who_sees_nothing_gets_zero_and_no_gradient(how, kind) -> None:
    q, k, v = (x.requires_grad_() for x in qkv())
    mask = allowed(9, 9, real_BS=torch.tensor([[True] * 9, [False] * 9]))
    if kind == "float":
        mask = torch.zeros(2, 1, 9, 9).masked_fill(~mask, -math.inf)
    out = how(q, k, v, mask)
    assert (out[1] == 0).all()
    (1e30 * out).sum().backward()  # so large that a gradient of 1 / 0 in disguise would show
    for x in (q, k, v):
        assert x.grad.isfinite().all()
        assert (x.grad[1] == 0).all()
    torch.testing.assert_close(out[:1], attend(q, k, v)[0][:1], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("causal", "window"), [(False, None), (True, None), (True, 3), (False, 3)])
def test_allowed_is_the_definition(causal, window) -> None:
    mask = allowed(4, 6, causal=causal, window=window)
    for t in range(4):
        for s in range(6):
            distance = t + 2 - s
            want = (not causal or distance >= 0) and (window is None or abs(distance) < window)
            assert want if mask is None else mask[0, 0, t, s].item() == want


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("weights", [False, True])
def test_the_layer_is_torchs(causal, weights) -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(32, 4, causal=causal), nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_bias.normal_()
        for ours_, theirs_ in (
            (ours.q.weight, theirs.in_proj_weight[:32]),
            (ours.kv.weight, theirs.in_proj_weight[32:]),
        ):
            ours_.copy_(theirs_)
        ours.q.bias.copy_(theirs.in_proj_bias[:32])
        ours.kv.bias.copy_(theirs.in_proj_bias[32:])
    ours.out.load_state_dict(theirs.out_proj.state_dict())
    x, context = torch.randn(3, 7, 32), torch.randn(3, 5, 32)
    real = torch.arange(7) < torch.tensor([[7], [4], [1]])
    hide = torch.ones(7, 7, dtype=torch.bool).triu(1) if causal else None
    want, want_weights = theirs(x, x, x, key_padding_mask=~real, attn_mask=hide, average_attn_weights=False)
    got = ours(x, real_BS=real, weights=weights)
    torch.testing.assert_close(got[0] if weights else got, want, atol=1e-5, rtol=0)
    if weights:
        torch.testing.assert_close(got[1], want_weights, atol=1e-5, rtol=0)
    if not causal:
        torch.testing.assert_close(ours(x, context), theirs(x, context, context)[0], atol=1e-5, rtol=0)


def test_grouped_queries_are_multi_head_with_repeated_keys() -> None:
    torch.manual_seed(0)
    grouped, full = Attention(32, 4, kv_heads=2, causal=True), Attention(32, 4, causal=True)
    full.q.load_state_dict(grouped.q.state_dict())
    full.out.load_state_dict(grouped.out.state_dict())
    with torch.no_grad():
        full.kv.weight.copy_(grouped.kv.weight.view(2, 2, 8, 32).repeat_interleave(2, 1).reshape(64, 32))
        full.kv.bias.copy_(grouped.kv.bias.view(2, 2, 8).repeat_interleave(2, 1).reshape(64))
    x = torch.randn(3, 7, 32)
    torch.testing.assert_close(grouped(x), full(x), atol=1e-5, rtol=0)
    assert sum(p.numel() for p in grouped.parameters()) < sum(p.numel() for p in full.parameters())


@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 3), (False, 3)])
def test_no_gradient_reaches_what_may_not_be_seen(causal, window) -> None:
    x = torch.randn(1, 10, 16, requires_grad=True)
    Attention(16, 2, causal=causal, window=window)(x)[0, 5].sum().backward()
    seen = x.grad[0].abs().sum(-1).nonzero().flatten().tolist()
    reach = 10 if window is None else window
    assert seen == [s for s in range(10) if abs(5 - s) < reach and (s <= 5 or not causal)]


def test_kept_keys_and_values_are_all_of_them_in_order() -> None:
    kept, parts = Kept(), [torch.randn(2, 3, T, 4) for T in (3, 1, 1, 5, 1)]
    for i in range(len(parts)):
        k, v = kept.extend(parts[i], -parts[i])
        assert torch.equal(k, torch.cat(parts[: i + 1], 2))
        assert torch.equal(v, -k)
    kept.select(torch.tensor([1, 1, 0]))
    more = torch.randn(3, 3, 1, 4)
    assert torch.equal(kept.extend(more, more)[0], torch.cat((k[[1, 1, 0]], more), 2))


@pytest.mark.parametrize("T", [1, 5, 8, 21])
@pytest.mark.parametrize("causal", [False, True])
def test_linear_attention_is_its_quadratic_form(T, causal) -> None:
    q, k, v = (x.requires_grad_() for x in qkv(T=T, S=T))
    weights = (F.elu(q) + 1) @ (F.elu(k) + 1).mT
    weights = weights.tril() if causal else weights
    want = weights @ v / weights.sum(-1, keepdim=True)
    got = linear_attention(q, k, v, causal, chunk=4)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    up = torch.randn_like(want)
    for a, b in zip(torch.autograd.grad(got, (q, k, v), up), torch.autograd.grad(want, (q, k, v), up), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_maps_of_every_layer_and_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Attention(16, 2, causal=True), nn.Dropout(0.5), Attention(16, 4, window=2))
    model[1].eval()
    x = torch.randn(3, 6, 16)
    maps = attention_maps(model, x)
    assert {name: tuple(map_.shape) for name, map_ in maps.items()} == {"0": (3, 2, 6, 6), "2": (3, 4, 6, 6)}
    assert [part.training for part in model] == [True, False, True]
    assert not any(part._forward_hooks for part in model)
    assert maps["0"].triu(1).eq(0).all()
    torch.testing.assert_close(maps["2"].sum(-1), torch.ones(3, 4, 6))
    torch.testing.assert_close(maps["0"], model[0](x, weights=True)[1])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(dim=10, heads=3), "not divisible"),
        (dict(dim=12, heads=4, kv_heads=3), "does not divide"),
        (dict(dim=12, heads=4, window=0), "at least 1"),
    ],
)
def test_what_cannot_be_is_refused(settings, says) -> None:
    with pytest.raises(ModelError, match=says):
        Attention(**settings)


def test_a_context_has_no_order() -> None:
    with pytest.raises(ModelError, match="causal=False"):
        Attention(8, 2, causal=True)(torch.zeros(1, 3, 8), torch.zeros(1, 4, 8))
    with pytest.raises(ModelError, match="as many"):
        linear_attention(*qkv(T=3), causal=True)
