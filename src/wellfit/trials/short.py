"""A job that is begun as often as one likes, at any learning rate and for any number of steps.

Each time the loop of `train/fit.py` itself turns it: the same micro-batches in the same order, the same optimizer, clipping,
precision and losses, from the same weights and random numbers. So two rates differ in nothing else, and a short run does what
a real one would do. Nothing is written to a disk, and afterwards the job is what it was.

    >>> training = ShortTraining(job)
    >>> slow, fast = training.run(1e-3, 200), training.run(3e-3, 200)
"""

import contextlib
import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wellfit import optim
from wellfit.data.batches import seed_everything
from wellfit.errors import RecipeError
from wellfit.events import Evaluated, Event
from wellfit.optim.gradients import Gradients
from wellfit.precision import Precision
from wellfit.train.fit import fit
from wellfit.train.record import Blind, Recorder
from wellfit.train.recovery import cut_as_recovered
from wellfit.train.setup import Job, Standing, with_rates
from wellfit.zero import Zero

FEWEST = 5  # losses that make a mean
CHANGED = (  # of a job, by a short training
    "steps", "evaluate_every", "save_every", "schedule", "valid", "optimizer", "gradients", "precision", "standing", "recovered",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """A short run. `losses`: of each step, the mean over its batch. `valid`: the validation loss at each evaluation."""

    losses: tuple[float, ...]
    finite: bool  # false: a loss or gradient norm was not, and the run was left there
    valid: tuple[float, ...] = ()

    def final(self, share: float = 0.1) -> float:
        """The mean training loss of the last `share` of the steps, at least five of them; infinite if the run broke."""
        if not self.finite or not self.losses:
            return math.inf
        last = self.losses[-max(FEWEST, round(share * len(self.losses))) :]
        return sum(last) / len(last)


class ShortTraining:
    """A job and its start. `optimizer` is the caller's own, copied for each run with `twins`, id of a parameter -> its copy in
    the job's model; without one the job's recipe makes it. `steps` counts those taken in all. Raises RecipeError under DeepSpeed.
    """

    def __init__(self, job: Job, optimizer: Any = None, twins: Mapping[int, Tensor] | None = None):
        self.job, self.optimizer, self.twins, self.steps = job, optimizer, dict(twins or {}), 0
        if isinstance(job.optimizer, Zero):
            raise RecipeError(
                f"`hardware.parallel` is {job.recipe.hardware.parallel!r}, and DeepSpeed holds on to the model from its first step on, so nothing "
                "short can be tried on it and taken back. Use ddp or fsdp here."
            )
        self.position = copy.deepcopy(job.batches.state_dict())
        self.modes = [(module, module.training) for module in job.model.modules()]
        lasting = {id(value) for value in job.model.state_dict(keep_vars=True).values()}
        self.weights = copy.deepcopy(job.model.state_dict())
        self.passing = [(b, b.detach().clone()) for b in job.model.buffers() if id(b) not in lasting]

    def run(self, rate: float, steps: int, *, evaluations: int = 0) -> Outcome:
        """A training of so many steps by the job's schedule, with `rate` at its peak, and evenly spaced evaluations.

        Raises KeyboardInterrupt if somebody asked to stop, as `ramp` does, and OutOfMemory.
        """
        return self._turned(rate, steps, self.job.schedule, evaluations, None)

    def ramp(self, rates: list[float], enough: Callable[[list[float]], bool]) -> Outcome:
        """One step at each of these rates. `enough` is asked now and then whether the losses so far suffice."""
        first = rates[0]
        return self._turned(first, len(rates), lambda step, _: rates[step] / first, 0, enough)

    def _turned(
        self,
        rate: float,
        steps: int,
        schedule: Callable[[int, int], float],
        evaluations: int,
        enough: Callable[[list[float]], bool] | None,
    ) -> Outcome:
        tally = _Tally(enough)
        self.turn(tally, steps, rate=rate, schedule=schedule, evaluations=evaluations)
        return Outcome(tuple(tally.losses), tally.finite, tuple(tally.valid))

    def turn(
        self,
        record: Recorder,
        steps: int,
        *,
        rate: float | None = None,
        schedule: Callable[[int, int], float] | None = None,
        evaluations: int = 0,
        around: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        """So many steps from the start, told to `record`. Without a rate and a schedule they are the job's own.

        `around` is entered when the job is as the loop will find it, and left before it is put back. Raises KeyboardInterrupt if
        somebody asked to stop, and OutOfMemory.
        """
        job, recipe = self.job, self.job.recipe
        before = {name: getattr(job, name) for name in CHANGED}
        try:
            job.optimizer, job.gradients = self._optimizer(rate), Gradients(job.model)
            job.precision, job.standing = Precision(recipe.hardware.precision, job.device), Standing(job.standing.goal)
            job.recovered = job.recovered.copy()
            job.steps, job.evaluate_every, job.save_every = steps, max(1, steps // max(1, evaluations)), steps
            job.schedule, job.valid = schedule or job.schedule, job.valid if evaluations else None
            seed_everything(recipe.training.seed)
            with around():
                reason = fit(job, record)
        finally:
            self.steps += job.standing.step
            for name, value in before.items():
                setattr(job, name, value)
            self._put_back()
        if reason == "interrupted":
            raise KeyboardInterrupt

    @torch.no_grad()
    def _put_back(self) -> None:
        """Weights, batches and all that is inside the job at their start."""
        job = self.job
        job.model.load_state_dict(self.weights)
        for buffer, value in self.passing:
            buffer.copy_(value)
        for module, training in self.modes:
            module.training = training
        for parameter in job.model.parameters():
            parameter.grad = None
        if job.stages is not None:
            job.stages.freeze()
        cut_as_recovered(job)
        job.batches.load_state_dict(copy.deepcopy(self.position))

    def _optimizer(self, rate: float | None) -> Any:
        if self.optimizer is None:
            recipe = self.job.recipe
            rate = recipe.optimizer.learning_rate if rate is None else rate  # type: ignore[assignment]  # resolved
            assert rate is not None
            settings = recipe.optimizer.model_copy(update={"learning_rate": float(rate)})
            chosen = recipe.model_copy(update={"optimizer": settings})
            return optim.build(self.job.model, with_rates(chosen, self.job.stages))
        own = copy.deepcopy(self.optimizer, dict(self.twins))
        first = float(own.param_groups[0]["lr"])
        for group in own.param_groups:
            group["peak"] = (first if rate is None else rate) * float(group["lr"]) / first
        return own


class _Tally:
    """A `Recorder` that keeps the losses in memory, and nothing else."""

    checkpoints = None
    first = True

    def __init__(self, enough: Callable[[list[float]], bool] | None):
        self.probe, self.enough = Blind(), enough
        self.losses: list[float] = []
        self.valid: list[float] = []
        self.finite, self.tolerant = True, False
        self._steps: list[tuple[list[Tensor], float | Tensor, Tensor, bool]] = []

    def add(
        self,
        step: int,  # noqa: ARG002 - they come one after the other
        losses: list[Tensor],
        weight: float | Tensor,
        grad_norm: Tensor,
        learning_rate: float,  # noqa: ARG002
        updated: bool,
        waited: float,  # noqa: ARG002
    ) -> None:
        self._steps.append((losses, weight, grad_norm, updated))

    def flush(self) -> bool:
        """Reads what was buffered. False where there is no point in going on."""
        if self._steps:
            sums = torch.stack([loss for losses, *_ in self._steps for loss in losses]).to(torch.float64).tolist()
            norms = torch.stack([norm for _, _, norm, _ in self._steps]).tolist()
            taken = 0
            for (losses, weight, _, updated), norm in zip(self._steps, norms, strict=True):
                loss = sum(sums[taken : taken + len(losses)]) / max(float(weight), 1e-12)
                taken += len(losses)
                self.losses.append(loss)
                # fp16 skips a step that overflows, which is no harm.
                self.finite = self.finite and (not updated or (math.isfinite(loss) and math.isfinite(norm)))
            self._steps = []
        return self.finite and not (self.enough is not None and self.enough(self.losses))

    def emit(self, event: Event) -> None:
        self.flush()
        if isinstance(event, Evaluated) and event.split == "valid" and "loss" in event.metrics:
            self.valid.append(event.metrics["loss"])

    def save_is_overdue(self) -> bool:
        return False

    def save(self, job: Job, best: bool) -> None:  # noqa: ARG002 - nothing is kept
        self.flush()

    def note(self, text: str) -> None: ...
    def back_to(self, step: int, best: int | None) -> None: ...
