"""The learning rate as a pure function of the step: a share of the peak rate, from 0 to 1.

Nothing is counted and nothing is kept, so a resumed run needs no schedule state, and asking twice or out of order
gives the same number. `step` counts the optimizer steps already taken, 0 to total - 1; the value is for the next one.

Warmup comes first: (step + 1) / warmup, so that the first step moves already and the last one of the warmup is at the
peak. Then each kind runs over the steps that are left. The ones that fall reach their end one step *after* the last,
like torch's schedulers, so that the last step still learns: with n steps after the warmup it has linear 1 / n and
cosine sin^2(pi / 2n) of the way from the end to the peak left to go.

Only the rate moves: one-cycle leaves the momentum alone, where Smith & Topin (2018) cycle it against the rate.

    >>> [round(share(step, 10, Schedule(kind="cosine", warmup_steps=2)), 2) for step in range(10)]
    [0.5, 1.0, 1.0, 0.96, 0.85, 0.69, 0.5, 0.31, 0.15, 0.04]
"""

import math
from collections.abc import Callable

from wellfit.errors import RecipeError
from wellfit.recipe import Schedule

DIV_FACTOR, FINAL_DIV_FACTOR = 25.0, 1e4  # torch's OneCycleLR: begins at peak / 25, ends at 1e-4 of that
ONE_CYCLE_RISE = 0.3  # share of the steps that rise, where no warmup is set; fastai's and torch's value


def share(step: int, total: int, settings: Schedule) -> float:
    """The factor on the peak rate for optimizer step number `step + 1` of `total`.

    `settings.warmup_steps` must be resolved (not None). Raises RecipeError for milestones that are not shares.
    """
    assert 0 <= step < total, (step, total)
    warmup = warmup_steps(settings.warmup_steps, total)
    if step < warmup and settings.kind != "one-cycle":
        return (step + 1) / warmup
    return KINDS[settings.kind](step, warmup, total, settings)


def warmup_steps(steps: float | None, total: int) -> int:
    """The warmup of a schedule in whole steps, with at least one step left after it."""
    assert steps is not None, "warmup_steps is not resolved"
    return min(round(steps * total if steps < 1 else steps), total - 1)


# ---- kinds: (step, warmup, total, settings) -> share, for warmup <= step < total


def _constant(_step: int, _warmup: int, _total: int, _settings: Schedule) -> float:
    return 1.0


def _linear(step: int, warmup: int, total: int, settings: Schedule) -> float:
    left = 1 - (step - warmup) / (total - warmup)
    return settings.final_share + (1 - settings.final_share) * left


def _cosine(step: int, warmup: int, total: int, settings: Schedule) -> float:
    """Loshchilov & Hutter 2017, eq. 5, without restarts."""
    left = (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
    return settings.final_share + (1 - settings.final_share) * left


def _one_cycle(step: int, _warmup: int, total: int, settings: Schedule) -> float:
    """Up and down along half cosines, as torch's `OneCycleLR`: the warmup is the rise. Ends at 1 / 250,000."""
    warmup = settings.warmup_steps or ONE_CYCLE_RISE
    rise = warmup * total if warmup < 1 else warmup  # torch does not round it to whole steps
    top = min(max(rise - 1, 0.0), max(total - 2, 0))
    if step <= top:
        start, end, progress = 1 / DIV_FACTOR, 1.0, step / top if top else 1.0
    else:
        start, end, progress = 1.0, 1 / DIV_FACTOR / FINAL_DIV_FACTOR, (step - top) / (total - 1 - top)
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def _step(step: int, _warmup: int, total: int, settings: Schedule) -> float:
    """He et al. 2016, 4.2: times `drop` at each milestone, rounded to whole steps."""
    wrong = [milestone for milestone in settings.milestones if not 0 < milestone < 1]
    if wrong:
        raise RecipeError(
            f"`schedule.milestones` holds {wrong[0]:g}; milestones are shares of all steps, between 0 and "
            "1, such as 0.5."
        )
    passed = sum(step >= max(1, round(milestone * total)) for milestone in settings.milestones)
    return settings.drop**passed


def _warmup_stable_decay(step: int, warmup: int, total: int, settings: Schedule) -> float:
    """Hägele et al. 2024: at the peak, then linearly down over the last `decay_share` of all steps."""
    decay = min(max(1, round(settings.decay_share * total)), total - warmup)
    left = min(1.0, (total - step) / decay)
    return settings.final_share + (1 - settings.final_share) * left


KINDS: dict[str, Callable[[int, int, int, Schedule], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "one-cycle": _one_cycle,
    "step": _step,
    "warmup-stable-decay": _warmup_stable_decay,
}
