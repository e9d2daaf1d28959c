"""The learning-rate finder: it leaves everything as it was, finds a known best rate, refuses with a reason, and is recorded."""

# ruff: noqa: ARG005 - curves of (rate, seed) that depend on one of them

import copy
import json
import math
import random
import re
import shlex
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import wellfit
from wellfit.data.batches import Held
from wellfit.errors import DataError, ModelError, OutOfMemory, RecipeError, WellfitError
from wellfit.events import Noted, Stepped
from wellfit.recipe import Recipe
from wellfit.report.rates import RateSearch
from wellfit.train.fit import fit
from wellfit.train.recovery import Recovered
from wellfit.train.setup import from_given, from_recipe
from wellfit.trials.climb import FALLS, Trials, judged
from wellfit.trials.short import ShortTraining, _Tally

WINE = {
    "data.source": "wine",
    "model.kind": "mlp",
    "model.widths": [16],
    "training.steps": 60,
    "training.batch_size": 16,
}
SHORT = {"training.steps": 60, "training.batch_size": 32}


def table(samples: int = 256, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 8, generator=draw)
    return x, (x[:, 0] + x[:, 1] * x[:, 2] > 0).long()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2))


# ---- the search, on curves that are known


def searched(loss, seeds=(0, 1, 2), begin=1e-3, learns=lambda rate, seeds: True) -> Trials:
    trials = Trials(begin, seeds, loss, learns)
    trials.search()
    return trials


@pytest.mark.parametrize("begin", [1e-4, 1e-3, 0.03, 0.9])
def test_it_climbs_to_the_bottom_of_a_parabola(begin: float) -> None:
    """The vertex of a parabola in the logarithms is exact, from wherever the climb begins."""
    trials = searched(lambda rate, seed: math.exp(0.3 * (math.log10(rate) + 2.3) ** 2 + 0.01 * seed), begin=begin)
    verdict = judged(trials, 100, 100)
    assert verdict.rate == pytest.approx(10**-2.3, rel=0.05), "to two digits"
    assert verdict.interval is not None
    assert verdict.interval == pytest.approx((10**-2.3, 10**-2.3), rel=0.01), "seeds agree, and a parabola says so"
    assert judged(trials, 100, 800).rate == pytest.approx(10**-2.3 * 8**-FALLS, rel=0.05), "a longer one wants less"


def test_losses_may_be_negative() -> None:
    trials = searched(lambda rate, seed: -5 + (math.log10(rate) + 2) ** 2 + seed)
    assert judged(trials, 100, 100).rate == pytest.approx(0.01, rel=0.05)


def test_the_cost_is_bounded() -> None:
    asked: list[tuple[float, int]] = []

    def endless(rate: float, seed: int) -> float:
        asked.append((rate, seed))
        return -math.log(rate)

    searched(endless)
    assert len(asked) == len(set(asked)), "nothing is trained twice"
    assert len({rate for rate, _ in asked}) <= 12
    assert max(rate for rate, _ in asked) <= 100


def test_a_rate_that_breaks_for_one_seed_is_not_suggested() -> None:
    def breaks(rate: float, seed: int) -> float:
        return math.inf if rate > (0.02 if seed == 2 else 0.3) else 1 + 0.005 * (math.log10(rate) - 1) ** 2

    verdict = judged(searched(breaks), 100, 100)
    assert verdict.rate is not None
    assert verdict.rate < 0.02
    assert "not finite" in verdict.reason
    assert (
        "Three times that rate breaks, so there is no parabola to go by, and half a step of the search below"
        in verdict.reason
    )
    assert "parabola through them" not in verdict.reason


def test_beside_a_rate_that_breaks_the_band_is_half_a_step_to_either_side() -> None:
    """All seeds are at their bound there, so that they agree says nothing."""
    trials = searched(
        lambda rate, seed: math.inf if rate > 0.01 else 1 + 0.1 * (math.log10(rate) - 1) ** 2 + 0.01 * seed
    )
    verdict = judged(trials, 100, 800)
    assert verdict.interval is not None
    low, high = verdict.interval
    assert low < verdict.rate < high
    assert high / low == pytest.approx(3, rel=0.01)
    assert "; for 8 times as many steps the rate is multiplied by 0.44: " in verdict.reason
    both = searched(lambda rate, seed: 1.0 if 5e-4 < rate < 2e-3 else math.inf)
    verdict = judged(both, 100, 100)
    assert verdict.rate == 1e-3
    assert verdict.interval == pytest.approx((1e-3 / 3**0.5, 1e-3 * 3**0.5))
    assert "A third of that rate and three times that rate break" in verdict.reason
    low_breaks = judged(searched(lambda rate, seed: rate if rate > 9e-4 else math.inf), 100, 100)
    assert "A third of that rate breaks" in low_breaks.reason
    assert low_breaks.rate == pytest.approx(1e-3 * 3**0.5, rel=0.05)


@given(draw=st.integers(0, 10**6), noise=st.floats(0, 1), breaks=st.floats(-3, 3), steps=st.sampled_from([100, 800]))
def test_a_suggestion_lies_in_its_own_band(draw: int, noise: float, breaks: float, steps: int) -> None:
    def loss(rate: float, seed: int) -> float:
        place, luck = math.log10(rate), np.random.default_rng((draw, seed, int(1e6 * rate)))
        return math.inf if place > breaks + luck.normal() else (place + 2) ** 2 + 0.1 + noise * luck.random()

    verdict = judged(searched(loss, seeds=(0, 1, 2, 3)), 100, steps)
    if verdict.rate is not None:
        assert verdict.interval[0] <= verdict.rate <= verdict.interval[1], verdict
        if "breaks" in verdict.reason:
            assert verdict.interval[1] / verdict.interval[0] > 2.9, verdict


def test_it_leaves_a_plateau_that_is_too_low_or_too_high() -> None:
    """Where nothing is learnt the climb has no slope to follow; it looks further out until something is."""
    for begin in (1e-5, 1.0):
        trials = searched(
            lambda rate, seed: 2.3 if not 1e-4 < rate < 0.1 else 1 + (math.log10(rate) + 2.5) ** 2 / 3,
            begin=begin,
            learns=lambda rate, seeds: 1e-4 < rate < 0.1,
        )
        assert judged(trials, 100, 100).rate == pytest.approx(10**-2.5, rel=0.3)


@pytest.mark.parametrize(
    ("loss", "learns", "reason"),
    [
        (lambda rate, seed: math.inf, True, "not a finite number"),
        (lambda rate, seed: 1.0, False, "lowers the training loss"),
        (lambda rate, seed: -rate, True, "still falls at .*no higher rate"),
        (lambda rate, seed: rate, True, "still falls at .*no lower rate"),
        (lambda rate, seed: 1 + (math.log10(rate) + (5, 3, 1)[seed]) ** 2, True, "contradict each other by more than a decade"),
    ],
    ids=["broken", "nothing learnt", "no end above", "no end below", "seeds disagree"],
)  # fmt: skip
def test_without_a_stable_answer_it_says_why(loss, learns: bool, reason: str) -> None:
    verdict = judged(searched(loss, learns=lambda rate, seeds: learns), 50, 400)
    assert verdict.rate is None
    assert verdict.interval is None
    assert re.search(reason, verdict.reason)


# ---- short trainings


def test_a_short_training_is_a_training_and_can_be_repeated() -> None:
    """Each time the bits of a job that is turned once, whatever was run between."""
    settings = {**WINE, "training.log_every": 10}
    training = ShortTraining(from_recipe(Recipe().override({**settings, "optimizer.learning_rate": 0.5})))
    first = training.run(0.01, 60, evaluations=2)
    training.run(0.3, 60)
    training.ramp([1e-3, 1e-2, 1e-1] * 5, lambda losses: False)
    assert training.run(0.01, 60, evaluations=2) == first
    assert len(first.losses) == 60
    assert len(first.valid) == 2
    assert training.steps == 60 * 3 + 15
    once, tally = from_recipe(Recipe().override({**settings, "optimizer.learning_rate": 0.01})), _Tally(None)
    once.evaluate_every = 30
    assert fit(once, tally) == "finished"
    assert (tuple(tally.losses), tuple(tally.valid)) == (first.losses, first.valid)


class Growing(nn.Module):
    """A network that runs out of memory with more than eight samples, once `RUNS_OUT` is set."""

    RUNS_OUT = False

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if Growing.RUNS_OUT and len(x) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return self.body(x)


def test_afterwards_the_job_is_what_it_was(monkeypatch) -> None:
    """Whatever happens on the way: evaluations, batches that are cut, memory that runs out for good."""
    recipe = Recipe().override(
        {**SHORT, "recovery.out_of_memory": True, "evaluation.every": 15, "checkpoints.every": 20}
    )
    job = from_given(recipe, Growing(), table(), table(64, 1), loss="cross-entropy")
    weights = copy.deepcopy(job.model.state_dict())
    before = dict(vars(job)) | {"_share": ...}  # what was last asked for, kept at hand
    order, held = job.batches.order, job.valid.batch_size

    def as_it_was() -> None:
        assert vars(job) | {"_share": ...} == before
        assert (job.batches.order, job.batches.position, job.valid.batch_size) == (order, 0, held)
        assert job.recovered == Recovered()
        assert job.standing.step == 0
        assert all(torch.equal(value, weights[name]) for name, value in job.model.state_dict().items())
        assert all(parameter.grad is None for parameter in job.model.parameters())

    training = ShortTraining(job)
    whole = training.run(0.01, 30, evaluations=3)
    as_it_was()
    monkeypatch.setattr(Growing, "RUNS_OUT", True)
    cut = training.run(0.01, 30, evaluations=3)
    as_it_was()
    assert cut.losses != whole.losses, "dropout is drawn for other micro-batches"
    monkeypatch.setattr(Growing, "RUNS_OUT", False)
    assert training.run(0.01, 30, evaluations=3) == whole, "a batch that was cut at one rate is not cut at the next"
    job.recipe = before["recipe"] = job.recipe.override({"recovery.out_of_memory": False})
    monkeypatch.setattr(Growing, "RUNS_OUT", True)
    with pytest.raises(OutOfMemory, match="in step 1, with micro-batches of 32"):
        training.run(0.01, 30)
    as_it_was()
    assert training.steps == 90


@pytest.mark.parametrize("asked", [False, True])
def test_memory_that_runs_out_is_one_sentence(monkeypatch, asked: bool) -> None:
    """In a step, not at the first look: `recovery` is off, for it would make a difference between rates."""
    seen = []

    def measured(rate, seed):
        seen.append((rate, seed))
        monkeypatch.setattr(Growing, "RUNS_OUT", True)

    monkeypatch.setattr(Growing, "RUNS_OUT", False)
    with pytest.raises(OutOfMemory) as caught:
        wellfit.find_lr(
            Growing(), table(), table(64, 1), loss="cross-entropy", set={**SHORT, "recovery.out_of_memory": asked},
            tell=lambda line: measured(line, 0),
        )  # fmt: skip
    assert len(seen) == 1
    told = str(caught.value)
    assert "in step 1, with micro-batches of 32: CUDA out of memory" in told
    assert "(1) `training.gradient_accumulation_steps=2`" in told
    assert "`recovery` is off while rates are measured" in told


def test_where_the_first_look_needs_smaller_batches_all_rates_have_them(monkeypatch) -> None:
    monkeypatch.setattr(Growing, "RUNS_OUT", True)
    how = {**SHORT, "evaluation.batch_size": 8}
    found = wellfit.find_lr(
        Growing(), table(), table(64, 1), loss="cross-entropy", set={**how, "recovery.out_of_memory": True}
    )
    monkeypatch.setattr(Growing, "RUNS_OUT", False)
    cut = wellfit.find_lr(
        Growing(), table(), table(64, 1), loss="cross-entropy", set={**how, "training.gradient_accumulation_steps": 4}
    )
    assert found.suggestion is not None
    assert found == cut


def test_stages_of_finetuning_begin_anew(tmp_path) -> None:
    """What thaws on the way is frozen again, so a second run is the first."""
    run = wellfit.fit_recipe(
        "wine",
        set={"training.epochs": 2, "training.doctor": False},
        folder=tmp_path / "run",
        quiet=True,
        yardsticks=False,
    )
    for strategy in ("recipe", "progressive"):
        job = from_recipe(
            Recipe.load("wine").override(
                {"finetune.weights": str(run.folder), "finetune.strategy": strategy, "training.steps": 40, "training.epochs": None}
            )
        )  # fmt: skip
        training = ShortTraining(job)
        first = training.run(0.01, 40)
        training.run(0.1, 10)
        assert training.run(0.01, 40) == first, strategy


def test_of_too_much_held_out_data_every_nth_batch_is_taken() -> None:
    held = Held.of_tensors((torch.arange(10),), 2).thinned(2)
    assert [batch[0].tolist() for batch in held] == [[0, 1], [4, 5], [8, 9]]
    held.cut(2)
    assert [batch[0].tolist() for batch in held] == [[0], [2], [4], [6], [8]]


def test_a_broken_training_is_left_early() -> None:
    training = ShortTraining(
        from_recipe(
            Recipe().override({**WINE, "optimizer.kind": "sgd", "loss.kind": "cross-entropy", "training.log_every": 10})
        )
    )
    for parameter in training.job.model.parameters():
        parameter.register_hook(lambda grad: grad * math.nan)
    outcome = training.run(0.1, 60)
    assert not outcome.finite
    assert outcome.final() == math.inf
    assert len(outcome.losses) <= 10


# ---- everything as it was


class Batches:
    """Batches in an order of its own, drawn from the global generator and one of its own."""

    def __init__(self) -> None:
        self.x, self.y = table()

    def __len__(self) -> int:
        return 8

    def __iter__(self):
        for part in torch.randperm(256).split(32):
            yield self.x[part] + 0.01 * random.random(), self.y[part]


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_model_optimizer_and_generators_stay_bit_for_bit(kind) -> None:
    model = network()
    optimizer = kind([{"params": model[0].parameters()}, {"params": model[1:].parameters(), "lr": 1e-3}], lr=1e-2)
    x, y = table()
    for _ in range(3):  # so that there is state, and gradients
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    model[3].eval()
    loader = DataLoader(
        TensorDataset(x, y), batch_size=32, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(7)
    )
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate(), loader.generator.get_state()
    switches = torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled()
    for data in (loader, Batches()):
        found = wellfit.find_lr(
            model, data, (x, y), loss="cross-entropy", optimizer=optimizer, set={"training.steps": 60}
        )
        assert found.points
        assert found.present == 1e-2
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert torch.equal(loader.generator.get_state(), states[3])
    assert (torch.are_deterministic_algorithms_enabled(), torch.is_grad_enabled()) == switches
    assert all(torch.equal(value, before[0][name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), grads, strict=True))
    assert [module.training for module in model] == [True, True, True, False, True]
    after = optimizer.state_dict()
    assert after["param_groups"] == before[1]["param_groups"]
    for key, state in before[1]["state"].items():
        for name, value in state.items():
            now = after["state"][key][name]
            assert torch.equal(now, value) if isinstance(value, torch.Tensor) else now == value


def test_it_says_the_same_twice() -> None:
    one, two = (wellfit.find_lr(Recipe(), set=WINE) for _ in range(2))
    assert one == two


# ---- on real trainings


def test_the_rate_follows_the_curvature() -> None:
    """The best rate goes with one over the curvature, which goes with the square of the inputs."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(512, 6, generator=draw)
    y = x @ torch.randn(6, 1, generator=draw)
    model = nn.Linear(6, 1, bias=False)
    how = {
        "training.steps": 200,
        "training.batch_size": 32,
        "optimizer.kind": "sgd",
        "optimizer.momentum": 0.0,
        "training.max_grad_norm": None,
    }
    near = wellfit.find_lr(model, (x, y), loss="mse", set=how)
    far = wellfit.find_lr(model, (x / 6, y), loss="mse", set={**how, "optimizer.weight_decay": 0})
    assert near.suggestion is not None
    assert 0.03 < near.suggestion < 0.8, "twice the largest curvature's inverse is about 1"
    assert far.suggestion is not None
    assert 15 < far.suggestion / near.suggestion < 80, "the curvature is 36 times smaller"


def test_what_cannot_learn_is_refused() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(512, 4, generator=draw), torch.randn(512, 1, generator=draw)

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return x.sum(1, keepdim=True) * 0 + self.a * 0

    found = wellfit.find_lr(Constant(), (x, y), loss="mse", set=SHORT)
    assert found.suggestion is None
    assert "lowers the training loss" in found.reason
    assert found.reason in str(found)


def test_numbers_that_break_at_all_rates_are_refused() -> None:
    x, y = table()
    x[::5] = math.nan
    found = wellfit.find_lr(network(), (x, y), loss="cross-entropy", set=SHORT)
    assert found.suggestion is None
    assert "not a finite number" in found.reason
    assert json.dumps(found.as_dict(), allow_nan=False)


def test_too_few_steps_are_refused() -> None:
    found = wellfit.find_lr(
        network(), table(), loss="cross-entropy", set={"training.steps": 8, "training.batch_size": 32}
    )
    assert found.suggestion is None
    assert "8 steps, too few" in found.reason
    assert found.taken == 0


def frozen() -> nn.Module:
    model = network()
    model.requires_grad_(False)
    return model


class Strange(torch.optim.SGD):
    def __init__(self, parameters):
        super().__init__(parameters, lr=0.1)
        for group in self.param_groups:
            del group["lr"]


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def lbfgs(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(model.parameters())


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: wellfit.find_lr(frozen(), table(), loss="cross-entropy", set=SHORT), ModelError, "frozen"),
        (lambda: wellfit.find_lr(network(), loss="cross-entropy"), DataError, "without data"),
        (lambda: wellfit.find_lr(network(), iter([table()]), loss="cross-entropy"), DataError, "iterated only once"),
        (lambda: wellfit.find_lr("wine", seeds=2), RecipeError, "at least 3"),
        (lambda: wellfit.find_lr("wine", share=0), RecipeError, "`share` is 0"),
        (lambda: wellfit.find_lr("wine", table()), RecipeError, "names its own data"),
        (lambda: wellfit.find_lr(Recipe(task="given")), RecipeError, "passed to `wellfit.fit`"),
        (lambda: wellfit.find_lr(3.0, table()), ModelError, "float"),
        (lambda: wellfit.find_lr(m := network(), table(), loss="cross-entropy", optimizer=lbfgs(m)), RecipeError, "LBFGS"),
        (lambda: wellfit.find_lr(m := network(), table(), loss="cross-entropy", optimizer=Strange(m.parameters())), RecipeError, "no `lr`"),
        (lambda: wellfit.find_lr(network(), table(), loss="cross-entropy", optimizer=sgd(network())), ModelError, "no trainable parameter of this model"),
        (lambda: wellfit.find_lr(m := network(), table(), loss="cross-entropy", optimizer=sgd(m, 0)), RecipeError, "above 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_one_sentence(call, error, says: str) -> None:
    with pytest.raises(error, match=re.escape(says)) as caught:
        call()
    assert isinstance(caught.value, WellfitError)


def test_several_ranks_are_told_to_measure_first(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="without torchrun"):
        wellfit.find_lr("wine")


def test_an_optimizer_of_ones_own_is_measured_as_in_a_plain_loop() -> None:
    """Without clipping and schedule; groups keep their proportion; a kind of optimizer that wellfit does not know."""

    class Own(torch.optim.RMSprop):
        pass

    model = network()
    optimizer = Own([{"params": model[0].parameters()}, {"params": model[1:].parameters(), "lr": 1e-4}], lr=1e-3)
    found = wellfit.find_lr(model, table(), table(64, 1), loss="cross-entropy", optimizer=optimizer, set=SHORT)
    assert found.optimizer == "own"
    assert found.suggestion is not None
    assert 1e-4 < found.suggestion < 1


# ---- auto


def test_auto_measures_and_records_it(tmp_path) -> None:
    run = wellfit.fit_recipe(
        Recipe(), set={**WINE, "optimizer.learning_rate": "auto"}, folder=tmp_path / "run", quiet=True, yardsticks=False
    )
    found = wellfit.find_lr(Recipe(), set=WINE)
    recipe = wellfit.open(tmp_path / "run").recipe
    assert recipe.optimizer.learning_rate == found.suggestion
    origin = recipe.origin("optimizer.learning_rate")
    assert origin.by == "measured"
    assert found.reason in origin.why
    assert max(e.learning_rate for e in run.events() if isinstance(e, Stepped)) == pytest.approx(found.suggestion)
    assert any("is measured" in e.text for e in run.events() if isinstance(e, Noted))
    plain = wellfit.fit_recipe(
        Recipe(), set={**WINE, "optimizer.learning_rate": found.suggestion}, folder=tmp_path / "plain", quiet=True, yardsticks=False
    )  # fmt: skip
    assert all(torch.equal(value, plain.best_weights()[name]) for name, value in run.best_weights().items())


def test_auto_without_an_answer_is_derived_and_told(tmp_path) -> None:
    model = network()
    run = wellfit.fit(
        model, table(), table(64, 1), loss="cross-entropy", folder=tmp_path / "run", quiet=True,
        set={"training.steps": 8, "training.batch_size": 32, "optimizer.learning_rate": "auto"},
    )  # fmt: skip
    assert run.recipe.optimizer.learning_rate == 1e-3
    assert run.recipe.origin("optimizer.learning_rate").by == "derived"
    assert any("too few to measure" in e.text and "derived" in e.text for e in run.events() if isinstance(e, Noted))


@pytest.mark.parametrize("value", ["fast", -1, 0, 101, True, [1]])
def test_a_rate_that_is_none_is_one_sentence(value) -> None:
    with pytest.raises(
        RecipeError, match=r"`optimizer.learning_rate` is .* above 0 and at most 100, auto to have it measured"
    ) as caught:
        Recipe().override({"optimizer.learning_rate": value})
    assert str(caught.value).count("optimizer.learning_rate") == 1


# ---- words, numbers, picture, command


@pytest.mark.parametrize(
    ("present", "says"),
    [
        (1e-3, "The current rate, 0.001, is 3.2 times lower than suggested."),
        (0.032, "The current rate, 0.032, is 10 times higher than suggested."),
        (2e-3, "The current rate, 0.002, is near what is suggested: within a factor of three."),
    ],
)
def test_the_current_rate_is_compared(present: float, says: str) -> None:
    found = RateSearch(
        name="", optimizer="adamw", steps=100, short=50, scored="training", seeds=(0, 1, 2), present=present, points=(), sweep=(),
        suggestion=3.2e-3, reason="So it is.", interval=(3e-3, 4e-3), begins=1.0, taken=100,
    )  # fmt: skip
    assert says in found.says
    assert "It lies between 0.003 and 0.004 (90 % interval over 3 seeds)." in found.says


def test_the_picture_and_the_numbers(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    found = wellfit.find_lr(Recipe(), set=WINE)
    for ending in (".png", ".svg", ".pdf"):
        assert found.draw(tmp_path / f"rates{ending}").stat().st_size > 2000
    with pytest.raises(RecipeError, match=r"written as \.png"):
        found.draw(tmp_path / "rates.gif")
    kept = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert kept["suggestion"] == found.suggestion
    assert kept["whole_trainings"] == pytest.approx(found.taken / 60)
    assert [point["rate"] for point in kept["points"]] == sorted(point["rate"] for point in kept["points"])
    assert all(at["low"] <= at["loss"] <= at["high"] for at in kept["sweep"])
    assert found.table()[0][0] == "learning rate"


def test_the_command(tmp_path, monkeypatch, capsys) -> None:
    from wellfit.cli import main

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["wellfit", "find-lr", *arguments])
        status = 0
        try:
            main()
        except SystemExit as left:
            status = int(left.code or 0)
        return status, *capsys.readouterr()

    settings = [
        part
        for path, value in WINE.items()
        if path != "data.source"
        for part in ("--set", f"{path}={json.dumps(value)}")
    ]
    out = tmp_path / "rates.svg"
    status, said, told = run(
        "wine", *settings, "--set", "training.epochs=null", "--out", str(out), "--json", str(tmp_path / "rates.json")
    )
    assert status == 0, told
    rate = json.loads((tmp_path / "rates.json").read_text())["suggestion"]
    (command,) = [line for line in said.splitlines() if line.startswith("Train with it: ")]
    chosen = ["--set", "training.epochs=null", "--set", f"optimizer.learning_rate={rate:g}"]
    assert shlex.split(command.partition(": ")[2]) == ["wellfit", "train", "wine", *settings, *chosen]
    assert out.exists()
    assert told.count("steps at") >= 9
    status, said, _ = run("wine", "--set", "training.steps=5", "--set", "training.epochs=null")
    assert status == 3
    assert "too few" in said.replace("\n", " ")
    status, _, told = run("wine", "--out", str(tmp_path / "rates.gif"))
    assert status == 2
    assert ".png, .svg, .pdf" in told
    assert "Traceback" not in told


def test_where_the_rate_hardly_matters_that_is_said() -> None:
    """Seeds whose losses bend hardly, and at places that lie far apart: any rate between them does as well."""
    places = {0: -3.2, 1: -2.2, 2: -2.7}
    trials = searched(lambda rate, seed: 1.2 + 0.001 * (math.log10(rate) - places[seed]) ** 2, begin=2e-3)
    found = judged(trials, 100, 800)
    assert found.rate is None or "hardly depends on the rate" in found.reason
