"""Forecasters: what the papers claim of them, against closed forms, slow references and transformers' own PatchTST."""

import doctest
import math
import warnings

import pytest
import torch
from torch import nn

from wellfit.errors import ModelError
from wellfit.models import forecast
from wellfit.models.forecast import (
    TFT,
    DLinear,
    GatedResidual,
    InterpretableAttention,
    PatchTST,
    RecurrentForecaster,
    RevIN,
    VariableSelection,
    last_value,
    moving_average,
    seasonal,
)

T, H, C = 24, 6, 3
SMALL = dict(patch=6, stride=3, width=16, heads=4, layers=2, feedforward=24)
MODELS = {
    "dlinear": lambda: DLinear(T, H, C, kernel=5),
    "dlinear, per channel": lambda: DLinear(T, H, C, kernel=5, per_channel=True),
    "patchtst": lambda: PatchTST(T, H, C, **SMALL),
    "patchtst, plain": lambda: PatchTST(T, H, C, **SMALL, normalize=False, pad_end=False),
    "recurrent": lambda: RecurrentForecaster(T, H, C, units=8),
    "recurrent, gru": lambda: RecurrentForecaster(T, H, C, units=8, kind="gru", layers=2, dropout=0.2, normalize=False),
    "tft": lambda: TFT(T, H, C, width=8, heads=2),
    "tft, normalized": lambda: TFT(T, H, C, width=8, heads=2, quantiles=(0.5,), normalize=True),
    "tft, all covariates": lambda: TFT(T, H, C, known=2, facts=3, width=8, heads=2),
    "tft, one of each": lambda: TFT(T, H, C, known=1, facts=1, width=8, heads=2),
}


def given(model: nn.Module, B: int = 4) -> list[torch.Tensor]:
    """Inputs for a model, and covariates if it takes any."""
    inputs = [torch.randn(B, T, model.channels)]
    if isinstance(model, TFT) and model.known:
        inputs += [torch.randn(B, T + H, model.known), torch.randn(B, model.facts)]
    return inputs


# ---- baselines


def test_baselines_by_hand() -> None:
    x = torch.tensor([[[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]]])
    assert last_value(x, 3).tolist() == [[[4, 40], [4, 40], [4, 40]]]
    assert seasonal(x, 5, period=3).tolist() == [[[2, 20], [3, 30], [4, 40], [2, 20], [3, 30]]]
    assert seasonal(x, 2, period=4).tolist() == [[[1, 10], [2, 20]]]
    assert torch.equal(seasonal(x, 3, period=1), last_value(x, 3))
    with pytest.raises(ModelError, match="`period` is 5, but there are only 4 steps"):
        seasonal(x, 2, period=5)
    with pytest.raises(ModelError, match="`H` is 0"):
        last_value(x, 0)


# ---- all models


@pytest.mark.parametrize("name", MODELS)
def test_shapes_and_gradients_reach_every_parameter(name) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    inputs = given(model)
    y = model(*inputs)
    expected = (4, H, C, len(model.quantiles)) if isinstance(model, TFT) else (4, H, C)
    assert y.shape == expected
    # In eval mode: while training, batch norm takes away any bias that is added before it, as its paper says.
    model.eval()
    y = model(*inputs)
    (y * torch.randn_like(y)).sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().max() > 1e-7, parameter_name


@pytest.mark.parametrize("name", MODELS)
def test_a_sample_does_not_depend_on_the_others(name) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    inputs = given(model)
    torch.testing.assert_close(model(*(x[1:2] for x in inputs))[0], model(*inputs)[1], rtol=1e-5, atol=1e-5)


def test_a_constant_channel_is_no_nan() -> None:
    for name in ("patchtst", "recurrent", "tft, normalized"):
        x = torch.full((2, T, C), 5.0, requires_grad=True)
        y = MODELS[name]()(x)
        y.sum().backward()
        assert y.isfinite().all()
        assert x.grad.isfinite().all()


# ---- DLinear


def test_the_moving_average_by_hand() -> None:
    x = torch.randn(2, 3, 9)
    average = moving_average(x, 5)
    for t in range(9):
        window = [x[..., min(max(s, 0), 8)] for s in range(t - 2, t + 3)]
        torch.testing.assert_close(average[..., t], sum(window) / 5)
    assert torch.equal(moving_average(x, 1), x)


def test_dlinear_forecasts_a_trend_and_a_season_exactly() -> None:
    """Fitted by least squares on some series, exact on others with slopes, levels and seasons of their own."""
    generator = torch.Generator().manual_seed(0)
    period = 7

    def series(B: int) -> torch.Tensor:
        time = torch.arange(T + H, dtype=torch.float64)
        slope, level = (torch.randn(B, 1, dtype=torch.float64, generator=generator) for _ in range(2))
        season = torch.randn(B, period, dtype=torch.float64, generator=generator)
        return (slope * time + 10 * level + season[:, torch.arange(T + H) % period])[:, :, None]

    model = DLinear(T, H, 1, kernel=5).double()
    train, other = series(200), series(50)
    trend = moving_average(train[:, :T].transpose(1, 2), 5)[:, 0]
    inputs = torch.cat([trend, train[:, :T, 0] - trend, torch.ones(200, 1, dtype=torch.float64)], dim=1)
    solution = torch.linalg.lstsq(inputs, train[:, T:, 0], rcond=1e-10, driver="gelsd").solution
    assert (model(other[:, :T]) - other[:, T:]).abs().max() > 1
    with torch.no_grad():
        model.trend_weight[0], model.season_weight[0] = solution[:T].T, solution[T : 2 * T].T
        model.trend_bias[0] = solution[-1]
    assert (model(other[:, :T]) - other[:, T:]).abs().max() < 1e-8


def test_dlinear_is_fitted_by_a_few_steps_of_lbfgs() -> None:
    torch.manual_seed(0)
    time = torch.arange(200, dtype=torch.float64)
    x = 0.05 * time + torch.sin(2 * math.pi * time / 8)
    windows = x.unfold(0, T + H, 1)[:, :, None]
    model = DLinear(T, H, 1, kernel=9).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (model(windows[:100, :T]) - windows[:100, T:]).square().mean()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        assert (model(windows[-1:, :T]) - windows[-1:, T:]).abs().max() < 1e-3  # further up than anything fitted


def test_dlinear_starts_as_the_mean_and_one_map_for_each_channel_can_be_the_shared_one() -> None:
    x = torch.randn(4, T, C)
    shared, own = DLinear(T, H, C, kernel=5), DLinear(T, H, C, kernel=5, per_channel=True)
    torch.testing.assert_close(shared(x), x.mean(1, keepdim=True).expand(-1, H, -1))
    with torch.no_grad():
        for a, b in zip(shared.parameters(), own.parameters(), strict=True):
            nn.init.normal_(a)
            b.copy_(a.expand_as(b))
    torch.testing.assert_close(own(x), shared(x), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        own.trend_weight[1] += 1
    moved = (own(x) - shared(x)).abs().amax((0, 1))
    assert (moved > 0.1).tolist() == [False, True, False]


# ---- RevIN and PatchTST


def shaken(model: nn.Module) -> nn.Module:
    """With every parameter and statistic away from where it starts, so that a missing one shows."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("name", ["patchtst", "recurrent", "tft, normalized"])
def test_a_channel_shifted_and_scaled_is_forecast_shifted_and_scaled(name) -> None:
    model = shaken(MODELS[name]())
    x = torch.randn(4, T, C)
    scale, shift = torch.tensor([0.5, 3.0, 20.0]), torch.tensor([-2.0, 10.0, 50.0])
    y = model(x)
    again = model(x * scale + shift)
    if isinstance(model, TFT):
        y, again = y[..., 0], again[..., 0]
    assert ((again - shift) / scale - y).abs().max() < 1e-4
    if name == "patchtst":
        plain = shaken(PatchTST(T, H, C, **SMALL, normalize=False))
        assert ((plain(x * scale + shift) - shift) / scale - plain(x)).abs().max() > 0.1


def test_revin_goes_there_and_back() -> None:
    revin = shaken(RevIN(C))
    x = 3 * torch.randn(4, T, C) + 7
    z, mean, deviation = revin(x)
    torch.testing.assert_close(revin.restore(z, mean, deviation), x, rtol=1e-5, atol=1e-5)
    plain, *_ = RevIN(C, affine=False)(x)
    torch.testing.assert_close(plain.mean(1), torch.zeros(4, C), rtol=0, atol=1e-5)
    torch.testing.assert_close(plain.std(1, correction=0), torch.ones(4, C), rtol=0, atol=1e-4)


def test_channels_do_not_see_each_other() -> None:
    model = shaken(MODELS["patchtst"]())
    x = torch.randn(2, T, C, requires_grad=True)
    model(x)[..., 1].sum().backward()
    assert (x.grad[..., 1] != 0).any()
    assert (x.grad[..., [0, 2]] == 0).all()


def test_patches_by_hand() -> None:
    """The states before any layer are the patches, embedded; the newest step is in two of them thanks to the padding."""
    model = PatchTST(10, H, 1, patch=4, stride=2, width=4, heads=1, layers=1, normalize=False).eval()
    model.layers = nn.ModuleList()
    with torch.no_grad():
        model.embed.weight.copy_(torch.eye(4))
        model.embed.bias.zero_()
        model.position_ND.zero_()
    x = torch.arange(1.0, 11.0)[None, :, None]
    assert model.encode(x)[0, 0].tolist() == [[1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 7, 8], [7, 8, 9, 10], [9, 10, 10, 10]]
    model.stride, model.pad_end, model.position_ND = 4, False, nn.Parameter(torch.zeros(2, 4))
    assert model.encode(x)[0, 0].tolist() == [[3, 4, 5, 6], [7, 8, 9, 10]]


def test_patchtst_is_transformers() -> None:
    """transformers' PatchTST set to the paper's choices, on its weights: forecasts and gradients."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import deprecates things of its own
        transformers = pytest.importorskip("transformers")
        theirs = transformers.PatchTSTForPrediction(
            transformers.PatchTSTConfig(
                num_input_channels=C,
                context_length=T,
                prediction_length=H,
                patch_length=SMALL["patch"],
                patch_stride=SMALL["stride"],
                d_model=SMALL["width"],
                num_attention_heads=SMALL["heads"],
                num_hidden_layers=SMALL["layers"],
                ffn_dim=SMALL["feedforward"],
                pre_norm=False,
                norm_type="batchnorm",
                positional_encoding_type="random",
                use_cls_token=False,
                pooling_type=None,
                scaling="std",
                loss="mse",
                do_mask_input=False,
            )
        )
    theirs = shaken(theirs)
    ours = PatchTST(T, H, C, **SMALL, pad_end=False).eval()
    state = theirs.state_dict()

    def both(source: str, target: nn.Module) -> None:
        target.load_state_dict({key: state[f"{source}.{key}"] for key in target.state_dict()})

    with torch.no_grad():
        both("model.encoder.embedder.input_embedding", ours.embed)
        ours.position_ND.copy_(state["model.encoder.positional_encoder.position_enc"])
        for number, layer in enumerate(ours.layers):
            at = f"model.encoder.layers.{number}"
            for kind in ("weight", "bias"):
                rows = [state[f"{at}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                getattr(layer.attention, f"in_proj_{kind}").copy_(torch.cat(rows))
            both(f"{at}.self_attn.out_proj", layer.attention.out_proj)
            both(f"{at}.norm_sublayer1.batchnorm", layer.norm_1)
            both(f"{at}.ff", layer.feedforward)
            both(f"{at}.norm_sublayer3.batchnorm", layer.norm_2)
        both("head.projection", ours.head)
    x = 3 * torch.randn(4, T, C) + 5
    x_ours, x_theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y_ours, y_theirs = ours(x_ours), theirs(past_values=x_theirs).prediction_outputs
    torch.testing.assert_close(y_ours, y_theirs, rtol=1e-5, atol=1e-5)
    pull = torch.randn_like(y_ours)
    (y_ours * pull).sum().backward()
    (y_theirs * pull).sum().backward()
    torch.testing.assert_close(x_ours.grad, x_theirs.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        ours.embed.weight.grad, theirs.model.encoder.embedder.input_embedding.weight.grad, rtol=1e-4, atol=1e-4
    )


# ---- TFT


def test_a_forecast_depends_on_no_covariate_after_it() -> None:
    model = shaken(MODELS["tft, all covariates"]())
    x, known, facts = given(model, B=1)
    known.requires_grad_()
    y = model(x, known, facts)
    for h in range(H):
        (gradient,) = torch.autograd.grad(y[0, h].square().sum(), known, retain_graph=True)
        reached = (gradient[0] != 0).any(-1)
        assert reached[: T + h + 1].all(), h
        assert not reached[T + h + 1 :].any(), h
    changed = known.detach().clone()
    changed[:, T + 3 :] += 100
    torch.testing.assert_close(model(x, changed, facts)[:, :3], y[:, :3], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["tft", "tft, all covariates", "tft, one of each"])
def test_what_a_tft_looked_at_sums_to_one(name) -> None:
    model = shaken(MODELS[name]())
    inputs = given(model)
    y, seen = model.look(*inputs)
    assert torch.equal(y, model(*inputs))
    assert seen.past_BTV.shape == (4, T, C + 1 + model.known)
    assert seen.future_BHV.shape == (4, H, 1 + model.known)
    assert seen.attention_BHS.shape == (4, H, T + H)
    assert (seen.facts_BI is None) == (model.facts == 0)
    for weights in seen:
        if weights is not None:
            assert (weights >= 0).all()
            torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]), rtol=0, atol=1e-6)
    for h in range(H):
        assert (seen.attention_BHS[:, h, : T + h + 1] > 0).all()
        assert (seen.attention_BHS[:, h, T + h + 1 :] == 0).all()


def test_the_gated_residual_network_is_its_equations() -> None:
    torch.manual_seed(0)
    grn = GatedResidual(4, 5, 3, context=2, dropout=0.3).eval()
    nn.init.normal_(grn.skip.norm.weight)
    a, c = torch.randn(6, 4), torch.randn(6, 2)
    W2, b2, W3 = grn.from_input.weight, grn.from_input.bias, grn.from_context.weight
    W1, b1 = grn.hidden.weight, grn.hidden.bias
    before = a @ W2.T + b2 + c @ W3.T
    eta = torch.where(before > 0, before, torch.exp(before) - 1) @ W1.T + b1
    value, gate = (eta @ grn.skip.gate.weight.T + grn.skip.gate.bias).split(3, dim=-1)
    z = a @ grn.straight.weight.T + grn.straight.bias + value / (1 + torch.exp(-gate))
    z = (z - z.mean(-1, keepdim=True)) / (z.var(-1, keepdim=True, correction=0) + 1e-5).sqrt() * grn.skip.norm.weight
    torch.testing.assert_close(grn(a, c), z, rtol=1e-5, atol=1e-5)
    # A closed gate skips everything.
    same = GatedResidual(4, 5, 4, dropout=0.0)
    with torch.no_grad():
        same.skip.gate.bias[4:] = -1e4
    torch.testing.assert_close(same(a), nn.functional.layer_norm(a, (4,)))


def test_two_variables_are_weighed_smoothly() -> None:
    """A layer norm before the softmax would leave two values as +-1, whatever they are."""
    torch.manual_seed(0)
    select = VariableSelection(2, 8, dropout=0.0)
    x = torch.randn(100, 2, requires_grad=True)
    chosen, weights = select(x)
    assert chosen.shape == (100, 8)
    assert len(weights[:, 0].detach().round(decimals=4).unique()) > 50
    weights[:, 0].sum().backward()
    assert (x.grad.abs() > 1e-5).any(-1).all()


def test_interpretable_attention_is_the_mean_of_its_heads() -> None:
    torch.manual_seed(0)
    attention = InterpretableAttention(8, 2, dropout=0.0)
    x = torch.randn(3, 7, 8)
    out, weights = attention(x, 4)
    heads, seen = [], []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        q, k, v = attention.query(x)[:, 3:, part], attention.key(x)[..., part], attention.value(x)
        result = torch.zeros(3, 4, 4)
        a = torch.zeros(3, 4, 7)
        for b in range(3):
            for h in range(4):
                a[b, h, : h + 4] = torch.softmax(k[b, : h + 4] @ q[b, h] / 2, dim=0)
                result[b, h] = a[b, h] @ v[b]
        heads.append(result)
        seen.append(a)
    torch.testing.assert_close(weights, sum(seen) / 2, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out, attention.out(sum(heads) / 2), rtol=1e-5, atol=1e-6)


def test_one_head_is_torchs_attention() -> None:
    torch.manual_seed(0)
    ours, theirs = InterpretableAttention(8, 1, dropout=0.0), nn.MultiheadAttention(8, 1, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, torch.zeros(8), ours.value.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(3, 7, 8)
    expected, weights = theirs(x, x, x, attn_mask=torch.ones(7, 7, dtype=torch.bool).triu(1))
    out, seen = ours(x, 5)
    torch.testing.assert_close(out, expected[:, 2:], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen, weights[:, 2:], rtol=1e-5, atol=1e-6)


def test_a_tft_learns_what_only_a_covariate_tells() -> None:
    """The future is the covariate and its spread; the three quantiles end at about their shares."""
    torch.manual_seed(0)
    model = TFT(8, 2, 1, known=1, width=8, heads=2, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    q = torch.tensor(model.quantiles)

    def batch(B: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        known = torch.randn(B, 10, 1)
        return torch.randn(B, 8, 1), known, known[:, 8:] + 0.1 * torch.randn(B, 2, 1)

    for _ in range(150):
        x, known, y = batch(128)
        error = y[..., None] - model(x, known)
        optimizer.zero_grad()
        torch.maximum(q * error, (q - 1) * error).mean().backward()
        optimizer.step()
    x, known, y = batch(2000)
    with torch.no_grad():
        answer = model.eval()(x, known)
    assert (answer[..., 1] - known[:, 8:]).abs().mean() < 0.12
    below = (y[..., None] < answer).float().mean((0, 1, 2))
    assert below[0] < 0.3 < below[1] < 0.7 < below[2]


# ---- errors


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: DLinear(T, H, C, kernel=4), r"must be odd.*Use 5"),
        (lambda: DLinear(0, H, C), "`length` is 0"),
        (lambda: PatchTST(10, H, C), "`patch` is 16, longer than the `length` of 10"),
        (lambda: PatchTST(T, H, C, width=20, heads=3), "not divisible by `heads` 3; try a width of 21"),
        (lambda: PatchTST(T, H, C, dropout=1.0), "`dropout` is 1.0"),
        (lambda: TFT(T, H, C, quantiles=(0.9, 0.1)), "that rise"),
        (lambda: TFT(T, H, C, quantiles=(0.0, 0.5)), "between 0 and 1"),
        (lambda: TFT(T, H, C, quantiles=()), "`quantiles`"),
        (lambda: TFT(T, H, C, known=-1), "neither can be below 0"),
        (lambda: RecurrentForecaster(T, H, C, kind="transformer"), "lstm, gru, rnn"),
        (lambda: DLinear(T, H, C)(torch.zeros(2, T, C + 1)), rf"\[B, {T}, {C}\].*\[2, {T}, {C + 1}\]"),
        (lambda: PatchTST(T, H, C)(torch.zeros(2, T - 1, C)), "made for series"),
        (lambda: TFT(T, H, C, known=2)(torch.zeros(2, T, C)), rf"\[2, {T + H}, 2\].*None"),
        (lambda: TFT(T, H, C)(torch.zeros(2, T, C), torch.zeros(2, T + H, 1)), rf"\[2, {T + H}, 0\]"),
        (lambda: TFT(T, H, C, facts=2)(torch.zeros(2, T, C)), r"a tensor of shape \[2, 2\], but got None"),
        (lambda: TFT(T, H, C)(torch.zeros(2, T, C), None, torch.zeros(2, 1)), r"must be None, but got \[2, 1\]"),
    ],
)
def test_errors_help(make, says) -> None:
    with pytest.raises(ModelError, match=says):
        make()


def test_the_pages_examples_run() -> None:
    results = doctest.testmod(forecast)
    assert results.attempted >= 3
    assert results.failed == 0
