"""Every optimizer equals NumPy's reading of its paper, resumes to the same bits, and takes the settings of the recipe.

The references below are written from the papers, one parameter at a time, and share no code with what they judge. Both
get the same gradients, those of a small least-squares problem, computed by NumPy at the reference's weights: gradients
of their own would differ in the last bit, which the sign in Lion would turn into whole steps.
"""

import copy
import io
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from wellfit.errors import RecipeError
from wellfit.optim import Lion, Pair, build, scaled, state_bytes
from wellfit.optim.eight_bits import AVERAGES
from wellfit.optim.optimizers import KINDS, SCALINGS, STATE_NUMEL, hidden_matrices
from wellfit.recipe import Optimizer

STEPS = 50
SHAPES = {"0.weight": (6, 5), "0.bias": (6,), "1.weight": (4, 6), "1.bias": (4,), "2.weight": (3, 4), "2.bias": (3,)}
DECAY = {"sgd": 0.1, "adam": 0.1, "adamw": 0.5, "adafactor": 0.5, "lion": 0.5, "muon": 0.5}
RATE = {"sgd": 0.02, "adam": 0.01, "adamw": 0.01, "adafactor": 0.05, "lion": 0.003, "muon": 0.01}


def settings(kind: str, **more) -> Optimizer:
    return Optimizer(
        **{"kind": kind, "learning_rate": RATE[kind], "weight_decay": DECAY[kind], "beta1": 0.8, "beta2": 0.95, **more}
    )


# ---- the problem: outputs x -> W2 (W1 (W0 x + b0) + b1) + b2, without nonlinearities, mean of half squares


def problem(dtype) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(16, 5)), random.normal(size=(16, 3))
    weights = {name: random.normal(size=shape) * 0.5 for name, shape in SHAPES.items()}
    return x.astype(dtype), y.astype(dtype), {name: w.astype(dtype) for name, w in weights.items()}


def gradients(x, y, w) -> dict[str, np.ndarray]:
    h0 = x @ w["0.weight"].T + w["0.bias"]
    h1 = h0 @ w["1.weight"].T + w["1.bias"]
    d2 = (h1 @ w["2.weight"].T + w["2.bias"] - y) / np.asarray(y.size, y.dtype)
    d1 = d2 @ w["2.weight"]
    d0 = d1 @ w["1.weight"]
    into = {"0": (d0, x), "1": (d1, h0), "2": (d2, h1)}
    weights = {f"{i}.weight": d.T @ h for i, (d, h) in into.items()}
    return weights | {f"{i}.bias": d.sum(0) for i, (d, _) in into.items()}


def model_of(dtype: torch.dtype, weights) -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 3)).to(dtype)
    model.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in weights.items()})
    return model


def backward(model: nn.Module, x, y) -> None:
    model.zero_grad()
    (0.5 * (model(torch.from_numpy(x)) - torch.from_numpy(y)).square().mean()).backward()


# ---- the references: (weight, gradient, state, step from 1, rate, decay, settings) -> new weight


def sgd(w, g, state, t, rate, decay, s):
    """Sutskever et al. 2013 in torch's form: the rate multiplies the velocity where it is applied."""
    g = g + decay * w
    state["v"] = g if t == 1 else s.momentum * state["v"] + g
    return w - rate * (g + s.momentum * state["v"] if s.nesterov else state["v"])


def adam(w, g, state, t, rate, decay, s, decoupled=False):
    """Kingma & Ba 2015, algorithm 1; decoupled: Loshchilov & Hutter 2019, algorithm 2, with torch's lr x decay."""
    g = g if decoupled else g + decay * w
    w = w * (1 - rate * decay) if decoupled else w
    state["m"] = s.beta1 * state.get("m", 0) + (1 - s.beta1) * g
    state["v"] = s.beta2 * state.get("v", 0) + (1 - s.beta2) * g * g
    mean, square = state["m"] / (1 - s.beta1**t), state["v"] / (1 - s.beta2**t)
    return w - rate * mean / (np.sqrt(square) + s.eps)


def adamw(w, g, state, t, rate, decay, s):
    return adam(w, g, state, t, rate, decay, s, decoupled=True)


def lion(w, g, state, _t, rate, decay, s):
    """Chen et al. 2023, algorithm 2."""
    m = state.get("m", np.zeros_like(g))
    update = np.sign(s.beta1 * m + (1 - s.beta1) * g)
    state["m"] = s.beta2 * m + (1 - s.beta2) * g
    return w - rate * (update + decay * w)


def adafactor(w, g, state, t, rate, decay, _s):
    """Shazeer & Stern 2018, algorithms 4 and 5, with torch's eps1 of the dtype, eps2 1e-3, d 1, beta2 1 - t^-0.8.

    torch's reading of eps1 differs from the paper, which adds it to the squared gradient: here it is a floor under it.
    """
    eps1, eps2, fresh = np.finfo(w.dtype).eps, 1e-3, t**-0.8
    step = max(eps2, np.sqrt(np.mean(w * w))) * min(rate, 1 / math.sqrt(t))
    w = w * (1 - rate * decay)
    blend = lambda name, value: state.__setitem__(name, (1 - fresh) * state.get(name, 0) + fresh * value)  # noqa: E731
    if w.ndim == 2:
        blend("rows", (g * g).mean(1, keepdims=True))
        blend("columns", (g * g).mean(0, keepdims=True))
        square = state["rows"] @ state["columns"] / np.maximum(state["rows"].mean(), eps1)
    else:
        blend("all", g * g)
        square = state["all"]
    update = g / np.sqrt(np.maximum(square, eps1**2))
    return w - step * update / max(1.0, np.sqrt(np.mean(update * update)))


REFERENCES = {"sgd": sgd, "adam": adam, "adamw": adamw, "lion": lion, "adafactor": adafactor}


def reference(s, dtype, beside=lambda _: None) -> dict[str, np.ndarray]:
    """The weights after 50 steps; `beside` is called with the gradients of each."""
    x, y, weights = problem(dtype)
    states: dict[str, dict] = {name: {} for name in weights}
    for t in range(1, STEPS + 1):
        g = gradients(x, y, weights)
        beside(g)
        for name, w in weights.items():
            decay = s.weight_decay if name.endswith("weight") else 0.0
            weights[name] = REFERENCES[s.kind](w, g[name], states[name], t, s.learning_rate, decay, s).astype(dtype)
    return weights


def follow(s, dtype) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """The model after 50 steps of our optimizer, and the weights after 50 of the reference, on the same gradients."""
    model = model_of(torch.float64 if dtype == np.float64 else torch.float32, problem(dtype)[2])
    optimizer = build(model, s)

    def step(g) -> None:
        for name, parameter in model.named_parameters():
            parameter.grad = torch.from_numpy(g[name].copy())
        optimizer.step()

    return model, reference(s, dtype, step)


def trained(s, dtype, steps=STEPS) -> tuple[nn.Module, object]:
    x, y, weights = problem(dtype)
    model = model_of(torch.float64 if dtype == np.float64 else torch.float32, weights)
    optimizer = build(model, s)
    for _ in range(steps):
        backward(model, x, y)
        optimizer.step()
    return model, optimizer


def distance(model: nn.Module, weights) -> float:
    return max(float(np.abs(p.detach().numpy() - weights[name]).max()) for name, p in model.named_parameters())


VARIANTS = [(kind, {}) for kind in REFERENCES] + [
    ("sgd", {"nesterov": True}),
    ("sgd", {"momentum": 0.0}),
    ("adam", {"weight_decay": 0.0}),
    ("adamw", {"eps": 1e-3}),
    ("adafactor", {"weight_decay": 0.0}),
]


@pytest.mark.parametrize(("kind", "more"), VARIANTS)
@pytest.mark.parametrize(("dtype", "within"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_equals_the_paper(kind, more, dtype, within) -> None:
    s = settings(kind, **more)
    model, expected = follow(s, dtype)
    start = problem(dtype)[2]
    assert distance(model, expected) < within
    assert distance(model, start) > 0.05, "the problem must move the weights, or equality says nothing"


def test_the_reference_tells_optimizers_apart() -> None:
    """Equality above would be worth little if a wrong decay or beta passed as well."""
    for kind in REFERENCES:
        expected = reference(settings(kind), np.float64)
        for wrong in ({"weight_decay": DECAY[kind] * 0.9}, {"learning_rate": RATE[kind] * 0.99}):
            assert distance(trained(settings(kind, **wrong), np.float64)[0], expected) > 1e-5


# ---- Muon

ROUNDING = 2**-7  # of a number between 1 and 2 in bf16, which keeps 8 bits


def bf16(a) -> np.ndarray:
    """Rounded to the nearest bfloat16, ties to even, kept in float32."""
    bits = np.asarray(a, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def newton_schulz(g, rounded=bf16) -> np.ndarray:
    """Jordan et al. 2024: five quintic steps towards the orthogonal factor of g, each product rounded to bf16."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = rounded(g)
    x = x.T if g.shape[0] > g.shape[1] else x
    x = rounded(x / max(float(rounded(np.linalg.norm(x))), 1e-7))
    for _ in range(5):
        gram = rounded(x @ x.T)
        x = rounded(a * x + rounded(b * gram + c * (gram @ gram)) @ x)
    return x.T if g.shape[0] > g.shape[1] else x


def muon_step(w, g, state, rate, decay, momentum):
    """Jordan et al. 2024 with Nesterov momentum; Liu et al. 2025, eq. 4: scaled by 0.2 sqrt(max(shape))."""
    state["m"] = momentum * state.get("m", 0) + (1 - momentum) * g
    update = newton_schulz((1 - momentum) * g + momentum * state["m"])
    return w * (1 - rate * decay) - rate * 0.2 * math.sqrt(max(w.shape)) * update


def test_muons_newton_schulz_is_the_papers_to_the_last_digits_of_bf16() -> None:
    """One update from the same state. Where the CPU's bf16 products sum in fp32 and round once, as NumPy does here, the
    two agree to 1e-7; the bound leaves room for one rounding, for kernels that do it otherwise.
    """
    random = np.random.default_rng(1)
    for shape in [(4, 6), (6, 4), (8, 8), (16, 5)]:
        g = random.normal(size=shape).astype(np.float32)
        w = torch.zeros(shape, requires_grad=True)
        w.grad = torch.from_numpy(g)
        torch.optim.Muon([w], lr=1.0, weight_decay=0.0, momentum=0.9, adjust_lr_fn="match_rms_adamw").step()
        update = -w.detach().numpy() / (0.2 * math.sqrt(max(shape)))
        ours = newton_schulz((1 - 0.9**2) * g)
        assert np.abs(update - ours).max() <= ROUNDING
        assert np.abs(update - newton_schulz((1 - 0.9**2) * g, rounded=lambda a: a)).max() > ROUNDING, "bf16 shows"


def test_muon_equals_the_paper_on_hidden_matrices_and_adamw_on_the_rest() -> None:
    """Each step from torch's own weights, so that the roundings of bf16 do not pile up over the 50 steps."""
    s = settings("muon")
    x, y, weights = problem(np.float32)
    model = model_of(torch.float32, weights)
    optimizer = build(model, s)
    states: dict[str, dict] = {name: {} for name in weights}
    for t in range(1, STEPS + 1):
        before = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
        backward(model, x, y)
        g = {name: p.grad.numpy().copy() for name, p in model.named_parameters()}
        optimizer.step()
        for name, p in model.named_parameters():
            decay = s.weight_decay if name.endswith("weight") else 0.0
            if name in ("0.weight", "1.weight"):
                expected = muon_step(before[name], g[name], states[name], s.learning_rate, decay, s.momentum)
                within = ROUNDING * s.learning_rate * 0.2 * math.sqrt(max(p.shape))
            else:
                expected = adamw(before[name], g[name], states[name], t, s.learning_rate, decay, s)
                within = 1e-6
            assert np.abs(p.detach().numpy() - expected).max() <= within, (t, name)


def test_muon_takes_hidden_matrices_only() -> None:
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 5), nn.Conv1d(5, 5, 1), nn.Linear(5, 6), nn.Linear(6, 9))
    assert hidden_matrices(model) == {id(model[1].weight), id(model[3].weight)}
    model[4].weight = model[0].weight = nn.Parameter(torch.zeros(9, 6))
    assert hidden_matrices(model) == {id(model[1].weight), id(model[3].weight)}
    plain = nn.ParameterList([nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(3, 3))])
    assert hidden_matrices(plain) == {id(plain[0])}


def test_muon_without_hidden_matrices_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"hidden weight matrices.*adamw"):
        build(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(2, 2)), settings("muon"))


# ---- all kinds


@pytest.mark.parametrize("kind", STATE_NUMEL)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_resumes_to_the_same_bits(kind, dtype) -> None:
    """Through a file, loaded without running code, into a new model and optimizer."""
    x, y, _ = problem(dtype)
    whole, _ = trained(settings(kind), dtype, steps=20)
    half, optimizer = trained(settings(kind), dtype, steps=9)
    file = io.BytesIO()
    torch.save({"model": half.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = model_of(next(half.parameters()).dtype, problem(dtype)[2])
    again.load_state_dict(saved["model"])
    resumed = build(again, settings(kind, learning_rate=0.5))  # the saved rate, and its peak, must come back
    resumed.load_state_dict(saved["optimizer"])
    for _ in range(11):
        backward(again, x, y)
        resumed.step()
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert {group["peak"] for group in resumed.param_groups} == {RATE[kind]}


@pytest.mark.parametrize("kind", STATE_NUMEL)
def test_the_state_is_as_large_as_announced(kind) -> None:
    for momentum in (0.0, 0.9):
        model, optimizer = trained(settings(kind, momentum=momentum), np.float32, steps=1)
        for name, parameter in model.named_parameters():
            whose = "adamw" if kind == "muon" and name not in ("0.weight", "1.weight") else kind
            held = sum(
                v.numel() * v.element_size()
                for v in optimizer.state.get(parameter, {}).values()
                if isinstance(v, torch.Tensor)
            )
            assert held == state_bytes(whose, parameter.shape, 4, momentum), (name, momentum)
    assert (
        STATE_NUMEL.keys() | AVERAGES.keys() == KINDS.keys() == set(Optimizer.model_fields["kind"].annotation.__args__)
    )


def test_adafactors_state_of_a_kernel_is_its_rows_and_columns() -> None:
    model = nn.Conv2d(3, 4, 5, bias=False)
    model(torch.randn(1, 3, 5, 5)).sum().backward()
    optimizer = build(model, settings("adafactor"))
    optimizer.step()
    held = sum(v.numel() * v.element_size() for v in optimizer.state[model.weight].values())
    assert held == state_bytes("adafactor", (4, 3, 5, 5))


@pytest.mark.parametrize("kind", STATE_NUMEL)
def test_a_rate_set_in_the_groups_is_the_rate_used(kind) -> None:
    """What the loop does at every step; a rate and a peak of 0 must leave the weights as they are."""
    x, y, weights = problem(np.float32)
    model = model_of(torch.float32, weights)
    optimizer = build(model, settings(kind))
    for group in optimizer.param_groups:
        assert group["peak"] == RATE[kind]
        group["lr"] = group["peak"] * 0.0
    backward(model, x, y)
    optimizer.step()
    assert distance(model, weights) == 0
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", STATE_NUMEL)
def test_a_parameter_that_no_loss_reached_stays(kind) -> None:
    x, y, weights = problem(np.float32)
    model = nn.Sequential(model_of(torch.float32, weights), nn.Linear(3, 3))
    optimizer = build(model, settings(kind))
    backward(model[0], x, y)
    before = model[1].weight.detach().clone()
    optimizer.step()
    assert torch.equal(model[1].weight, before)
    assert distance(model[0], weights) > 0


@pytest.mark.parametrize("kind", STATE_NUMEL)
def test_a_loss_scaler_steps_skips_and_unscales(kind) -> None:
    x, y, weights = problem(np.float32)
    models = [model_of(torch.float32, weights) for _ in range(2)]
    optimizers = [build(model, settings(kind)) for model in models]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    scaler.scale(torch.zeros(()))  # makes its state, as the first loss does
    for step in range(3):
        for model in models:
            backward(model, x, y)
        for p in models[1].parameters():
            p.grad *= float(scaler.get_scale())
        if step == 1:  # an overflow: neither may move
            models[1][0].weight.grad[0, 0] = torch.inf
        scaler.unscale_(optimizers[1])
        scaler.step(optimizers[1])
        scaler.update()
        if step != 1:
            optimizers[0].step()
        for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(a, b)


def test_global_hooks_see_both_halves_of_a_pair() -> None:
    x, y, weights = problem(np.float32)
    model = model_of(torch.float32, weights)
    optimizer = build(model, settings("muon"))
    assert isinstance(optimizer, Pair)
    seen = []
    handle = register_optimizer_step_post_hook(lambda o, *_: seen.append(type(o).__name__))
    try:
        backward(model, x, y)
        assert optimizer.step(lambda: 7.0) == 7.0
    finally:
        handle.remove()
    assert seen == ["Muon", "FusedAdamW"]


def test_fused_kernels_are_used_where_they_can_be() -> None:
    for kind in ("sgd", "adam", "adamw"):
        assert build(nn.Linear(2, 2), settings(kind)).defaults["fused"] is True
    assert build(nn.Linear(2, 2, dtype=torch.complex64), settings("adam")).defaults["fused"] is None


def test_lion_calls_a_closure_with_gradients_on() -> None:
    w = torch.ones(3, requires_grad=True)

    def closure() -> torch.Tensor:
        loss = w.square().sum()
        loss.backward()
        return loss

    assert Lion([w], lr=0.25).step(closure) == 3
    assert torch.equal(w, torch.full((3,), 0.75))


def test_sparse_embeddings_need_sgd_without_decay() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Embedding(5, 2, sparse=True), nn.Linear(2, 1))

    for s in (settings("adamw"), settings("sgd")):
        with pytest.raises(RecipeError, match=r"'0' has sparse gradients.*sparse=False"):
            build(model(), s)
    sparse = model()
    optimizer = build(sparse, settings("sgd", decay_embeddings=False))
    before = sparse[0].weight.detach().clone()
    sparse(torch.tensor([1])).sum().backward()
    optimizer.step()
    assert (sparse[0].weight != before).any(1).tolist() == [False, True, False, False, False]


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(RecipeError, match=r"nesterov.*momentum"):
        build(nn.Linear(2, 2), settings("sgd", momentum=0.0, nesterov=True))


@pytest.mark.parametrize("missing", ["learning_rate", "weight_decay", "beta2"])
def test_unresolved_settings_are_our_own_mistake(missing) -> None:
    with pytest.raises(AssertionError, match=missing):
        build(nn.Linear(2, 2), settings("adamw", **{missing: None}))


def test_batch_scaling() -> None:
    assert scaled(0.1, 1024, 256, "linear") == pytest.approx(0.4)
    assert scaled(0.1, 1024, 256, "sqrt") == pytest.approx(0.2)
    assert scaled(0.1, 64, 256, "linear") == pytest.approx(0.025)
    assert SCALINGS.keys() == {"linear", "sqrt"}
    with pytest.raises(AssertionError, match="not resolved"):
        scaled(0.1, 1, 1, None)


def test_fused_adamw_is_torchs_to_the_bit() -> None:
    """Also where it hands over to torch's step: a parameter without a gradient, a closure, a loaded state, a new group."""
    from wellfit.optim.fused import FusedAdamW

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))

    models = [network(), network()]
    ours, theirs = (
        kind(list(model[0].parameters()), lr=0.01, weight_decay=0.1, **more)
        for kind, model, more in zip((FusedAdamW, torch.optim.AdamW), models, ({}, {"fused": True}), strict=True)
    )
    for step in range(12):
        for model, optimizer in zip(models, (ours, theirs), strict=True):
            x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            model(x).square().sum().backward()
            if step == 3:
                model[0].bias.grad = None
            if step == 5:
                optimizer.add_param_group({"params": list(model[2].parameters()), "weight_decay": 0.0})
            if step == 8:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            optimizer.param_groups[0]["lr"] = 0.01 / (step + 1)
            optimizer.step((lambda: None) if step == 7 else None)
        for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(a, b), step
    assert ours._lists, "the short way was never taken"
    assert str(ours.state_dict()) == str(theirs.state_dict())


@pytest.mark.parametrize("nesterov", [False, True])
def test_fused_sgd_takes_what_begins_to_learn_later(nesterov) -> None:
    """A branch that is first taken at the third step: as torch's loop over parameters, which starts its momentum then."""

    def trained(make):
        torch.manual_seed(0)
        model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)])
        optimizer = make(model)
        for step in range(6):
            hidden = model[0](torch.ones(2, 4)) if step < 2 else model[1](model[0](torch.ones(2, 4)))
            model[2](hidden).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return [p.detach() for p in model.parameters()]

    settings = Optimizer(
        kind="sgd", momentum=0.9, nesterov=nesterov, learning_rate=0.1, learning_rates={}, weight_decay=0.0
    )
    ours = trained(lambda model: build(model, settings))
    torchs = trained(
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=nesterov, foreach=False)
    )
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
