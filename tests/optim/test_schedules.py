"""Schedules equal NumPy's reading of their formulas and torch's schedulers, and are functions of the step alone."""

import random
import warnings

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from wellfit.errors import RecipeError
from wellfit.optim.schedules import KINDS, share
from wellfit.recipe import Schedule

EXACT = {"rtol": 0, "atol": 1e-12}


def course(total: int, **settings) -> np.ndarray:
    schedule = Schedule(**{"warmup_steps": 0, **settings})
    return np.array([share(step, total, schedule) for step in range(total)])


def torchs(total: int, make) -> np.ndarray:
    """The rates that a torch scheduler gives to a peak rate of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some schedulers step past their end
            if len(rates) < total:
                scheduler.step()
    return np.array(rates)


# ---- against torch


@pytest.mark.parametrize("total", [1, 2, 7, 100])
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_cosine_is_torchs(total, final) -> None:
    expected = torchs(total, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=total, eta_min=final))
    np.testing.assert_allclose(course(total, kind="cosine", final_share=final), expected, **EXACT)


@pytest.mark.parametrize("total", [1, 2, 7, 100])
@pytest.mark.parametrize("final", [0.0, 0.25])
def test_linear_is_torchs(total, final) -> None:
    expected = torchs(total, lambda o: lr_scheduler.LinearLR(o, 1.0, final, total_iters=total))
    np.testing.assert_allclose(course(total, kind="linear", final_share=final), expected, **EXACT)


@pytest.mark.parametrize("warmup", [2, 5, 30])
def test_warmup_is_torchs_linear(warmup) -> None:
    expected = torchs(50, lambda o: lr_scheduler.LinearLR(o, 1 / warmup, 1.0, total_iters=warmup - 1))
    np.testing.assert_allclose(course(50, kind="constant", warmup_steps=warmup), expected, **EXACT)


@pytest.mark.parametrize("total", [4, 10, 101])
@pytest.mark.parametrize("rise", [0.3, 0.45, 0.5])
def test_one_cycle_is_torchs(total, rise) -> None:
    expected = torchs(
        total, lambda o: lr_scheduler.OneCycleLR(o, 1.0, total_steps=total, pct_start=rise, cycle_momentum=False)
    )
    np.testing.assert_allclose(course(total, kind="one-cycle", warmup_steps=rise), expected, **EXACT)
    if rise == 0.3:
        np.testing.assert_array_equal(
            course(total, kind="one-cycle"), course(total, kind="one-cycle", warmup_steps=rise)
        )


def test_one_cycle_takes_whole_steps_as_well() -> None:
    np.testing.assert_array_equal(
        course(40, kind="one-cycle", warmup_steps=10), course(40, kind="one-cycle", warmup_steps=0.25)
    )


def test_step_is_torchs() -> None:
    expected = torchs(20, lambda o: lr_scheduler.MultiStepLR(o, [10, 15], gamma=0.1))
    np.testing.assert_allclose(course(20, kind="step"), expected, **EXACT)


# ---- against NumPy, warmup included


@pytest.mark.parametrize(("warmup", "whole"), [(0, 0), (1, 1), (12, 12), (0.05, 3), (0.5, 30), (0.999, 59), (1e9, 59)])
@pytest.mark.parametrize("kind", ["constant", "linear", "cosine", "step", "warmup-stable-decay"])
def test_every_kind_follows_its_formula_after_the_warmup(kind, warmup, whole) -> None:
    total, final = 60, 0.05
    step = np.arange(total)
    progress = (step - whole) / (total - whole)
    decay = min(round(0.3 * total), total - whole)
    after = {
        "constant": np.ones(total),
        "linear": 1 + (final - 1) * progress,
        "cosine": final + (1 - final) * 0.5 * (1 + np.cos(np.pi * progress)),
        "step": 0.2 ** ((step >= 24).astype(int) + (step >= 54)),
        "warmup-stable-decay": np.where(step < total - decay, 1, final + (1 - final) * (total - step) / decay),
    }[kind]
    expected = np.where(step < whole, (step + 1) / max(whole, 1), after)
    got = course(
        total, kind=kind, warmup_steps=warmup, final_share=final, milestones=(0.4, 0.9), drop=0.2, decay_share=0.3
    )
    np.testing.assert_allclose(got, expected, **EXACT)


# ---- invariants


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("total", [1, 2, 3, 5, 64, 1000])
@pytest.mark.parametrize("warmup", [0, 1, 0.1, 0.9, 3, 1e6])
def test_every_step_learns_and_none_above_the_peak(kind, total, warmup) -> None:
    rates = course(total, kind=kind, warmup_steps=warmup)
    assert (rates > 0).all()
    assert (rates <= 1).all()
    top = int(rates.argmax())
    assert (np.diff(rates[: top + 1]) >= 0).all(), "rises to the peak"
    assert (np.diff(rates[top:]) <= 1e-15).all(), "and only falls after it"
    if kind != "one-cycle":
        assert rates.max() == 1


def test_what_the_last_step_is_left_with_is_as_documented() -> None:
    n = 45
    assert course(n + 5, kind="linear", warmup_steps=5)[-1] == pytest.approx(1 / n, abs=1e-12)
    assert course(n + 5, kind="cosine", warmup_steps=5)[-1] == pytest.approx(np.sin(np.pi / (2 * n)) ** 2, abs=1e-12)
    assert course(50, kind="one-cycle")[-1] == pytest.approx(1 / 250_000, abs=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_depends_on_nothing_but_the_step(kind) -> None:
    settings, steps = Schedule(kind=kind, warmup_steps=0.1), list(range(200))
    inward = {step: share(step, 200, settings) for step in steps}
    random.Random(0).shuffle(steps)
    for step in steps:
        assert share(step, 200, Schedule(kind=kind, warmup_steps=0.1)) == inward[step]


def test_the_table_holds_every_kind_that_a_recipe_can_name() -> None:
    assert set(KINDS) == set(Schedule.model_fields["kind"].annotation.__args__)


def test_milestones_that_are_not_shares_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"30.*shares of all steps"):
        share(0, 100, Schedule(kind="step", warmup_steps=0, milestones=(30, 60)))


def test_an_unresolved_warmup_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="not resolved"):
        share(0, 10, Schedule())
