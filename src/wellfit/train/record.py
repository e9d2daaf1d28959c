"""What happened, on its way out of the loop: buffered numbers, events, checkpoints.

The loop hands over tensors without reading them; they are read together when the log interval is due, because reading
one makes an accelerator finish everything before it. From there on there are only events: to the run's journal, then to
each observer. Observers run with the random generators put aside, so that not even drawing numbers lets them change the
training; one that raises is reported and dropped.
"""

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from wellfit import sharding
from wellfit.checkpoint import Checkpoints
from wellfit.data.batches import untouched_randomness
from wellfit.distributed import gathered, passed, rank, total
from wellfit.environment import peak_memory_bytes, utilization
from wellfit.events import Event, Noted, Paced, Started, Stepped
from wellfit.run import CHECKPOINTS, Journal, Run

if TYPE_CHECKING:
    from wellfit.train.setup import Job

Observer = Callable[[Event], object]


class Probe(Protocol):
    """What may look at a step: asked `due` before it, and told of the loss, the gradients and the update where it is."""

    vitals: list[Any]

    @property
    def due(self) -> bool: ...
    def loss(self, loss: Tensor, batch: Any) -> None: ...
    def before(self) -> None: ...
    def after(self) -> None: ...
    def back_to(self, step: int) -> None: ...


class Blind:
    """A probe that never looks."""

    due = False

    def __init__(self) -> None:
        self.vitals: list[Any] = []

    def loss(self, loss: Tensor, batch: Any) -> None: ...
    def before(self) -> None: ...
    def after(self) -> None: ...
    def back_to(self, step: int) -> None: ...


class Recorder(Protocol):
    """What the loop and recovery use of a record: of a run in its folder (`Record`), or of one that is kept in memory."""

    finite: bool
    tolerant: bool

    @property
    def first(self) -> bool: ...
    @property
    def probe(self) -> Probe: ...
    @property
    def checkpoints(self) -> Checkpoints | None:
        """Where saves go, below the run's folder. None where nothing is kept."""

    def add(
        self,
        step: int,
        losses: list[Tensor],
        weight: float | Tensor,
        grad_norm: Tensor,
        learning_rate: float,
        updated: bool,
        waited: float,
    ) -> None: ...
    def flush(self) -> bool: ...
    def emit(self, event: Event) -> None: ...
    def note(self, text: str) -> None: ...
    def back_to(self, step: int, best: int | None) -> None: ...
    def save_is_overdue(self) -> bool: ...
    def save(self, job: "Job", best: bool) -> None: ...


class Record:
    """The record of one process's training into `run`. Ranks other than 0 take part in totals and write nothing."""

    def __init__(
        self,
        run: Run,
        observers: Iterable[Observer],
        *,
        device: str,
        keep: int,
        minutes: float | None,
        batch_size: int,
        mesh: Any = None,
    ):
        self.run, self.device, self.batch_size = run, device, batch_size
        self.probe: Probe = Blind()
        self.first = rank() == 0
        self.journal = Journal(run) if self.first else None
        self.observers = list(observers) if self.first else []
        self.checkpoints = Checkpoints(run.folder / CHECKPOINTS, keep, mesh)
        self.seconds_between_saves = math.inf if minutes is None else 60 * minutes
        self.finite = True
        self.tolerant = False  # of skipped steps that are not finite: recovery says itself when it is at its end
        self.step = 0
        self._started: Started | None = None
        self._steps: list[
            tuple[int, int, float | Tensor, float, bool]
        ] = []  # step, micro-batches, weight, rate, updated
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._waited = 0.0
        self._clock = self._saved_at = self.began = time.perf_counter()

    # ---- numbers

    def add(
        self,
        step: int,
        losses: list[Tensor],
        weight: float | Tensor,
        grad_norm: Tensor,
        learning_rate: float,
        updated: bool,
        waited: float,
    ) -> None:
        """One optimizer step: the summed loss of each micro-batch, their common weight, and what else was done."""
        passed(step)
        self._steps.append((step, len(losses), weight, learning_rate, updated))
        self._losses += losses
        self._norms.append(grad_norm)
        self._waited += waited

    def flush(self) -> bool:
        """Reads what was buffered and tells it. False as soon as a loss or gradient norm was not finite."""
        if self._steps:
            self._tell([*self._stepped(), self._paced(), *self.probe.vitals])
            self.probe.vitals.clear()
        self._tell_saved()
        return self.finite

    def _stepped(self) -> list[Stepped]:
        # The synchronisation point: everything buffered comes over in a few transfers.
        sums = total(torch.stack(self._losses).to(torch.float64)).tolist()
        norms = torch.stack(self._norms).tolist()
        weights = [weight for _, _, weight, _, _ in self._steps]
        if isinstance(weights[0], Tensor):
            weights = torch.stack(weights).tolist()  # type: ignore[arg-type]
        told, taken = [], 0
        for (step, parts, _, rate, updated), weight, norm in zip(self._steps, weights, norms, strict=True):
            loss = sum(sums[taken : taken + parts]) / max(float(weight), 1e-12)
            taken += parts
            told.append(Stepped(step, loss, norm, rate, skipped=not updated))
        # fp16 skips a step that overflows, which is no harm; skipping every step on a loss that is not finite is.
        counted = [t for t in told if not t.skipped] or ([] if self.tolerant else told)
        self.finite = self.finite and all(
            math.isfinite(t.loss) and (t.skipped or math.isfinite(t.grad_norm)) for t in counted
        )
        self.step = told[-1].step
        return told

    def _paced(self) -> Paced:
        now, count = time.perf_counter(), len(self._steps)
        spent = max(now - self._clock, 1e-9)
        paced = Paced(
            step=self.step,
            seconds_per_step=spent / count,
            samples_per_second=self.batch_size * count / spent,
            data_wait=min(1.0, self._waited / spent),
            memory_bytes=peak_memory_bytes(self.device),
            utilization=utilization(self.device),
        )
        self._steps, self._losses, self._norms, self._waited, self._clock = [], [], [], 0.0, now
        return paced

    # ---- events

    def emit(self, event: Event) -> None:
        """Tells an event, after everything that was buffered before it."""
        self.flush()
        if isinstance(event, Started):
            self._started = event
        self._tell([event])
        self._clock = time.perf_counter()  # evaluating and saving is not stepping

    def note(self, text: str) -> None:
        """Something a person should know."""
        self._tell([Noted(self.step, text)])

    def back_to(self, step: int, best: int | None) -> None:
        """What was told and saved after `step` is void, because it is done again. `best`: the best step up to there."""
        self.flush()
        if self.first:
            self.checkpoints.forget_after(step)
            self.checkpoints.mark_best(best)
            self._tell_saved()
        if self._started is not None:
            self.emit(dataclasses.replace(self._started, step=step, time=time.time(), went_back=True))
        self.step = step
        self.probe.vitals.clear()
        self.probe.back_to(step)

    def _tell(self, events: list[Any]) -> None:
        if self.journal is None:
            return
        self.journal.write(events)
        if not self.observers:
            return
        with untouched_randomness():
            for observer in list(self.observers):
                try:
                    for event in events:
                        observer(event)
                except Exception as error:
                    self.observers.remove(observer)
                    name = getattr(observer, "__qualname__", type(observer).__qualname__)
                    text = f"The observer {name} failed and was dropped: {type(error).__name__}: {error}. Training goes on."
                    print(f"wellfit: {text}", file=sys.stderr)
                    self.note(text)

    # ---- checkpoints

    def save_is_overdue(self) -> bool:
        """Whether the last checkpoint is longer ago than the recipe allows. Saving changes no bits, so the clock may decide."""
        return time.perf_counter() - self._saved_at > self.seconds_between_saves

    def save(self, job: "Job", best: bool) -> None:
        """A checkpoint of the job as it stands, written in the background. All ranks call this; one writes."""
        if not self.flush():
            return
        beside = job.recovered.saving(job, best)
        random_states = gathered(job.random_state())
        cut = sharding.is_sharded(job.model)
        if self.first or cut or job.shares:
            state = {**job.state(), "random": random_states}
        if self.first or cut:
            self.checkpoints.save(job.standing.step, job.model.state_dict(), state, best, beside)
            self._tell_saved()
        self._saved_at = self._clock = time.perf_counter()

    def _tell_saved(self) -> None:
        saved = self.checkpoints.finished()
        if saved:
            self._tell(list(saved))

    def close(self) -> None:
        """Waits for what is being written and tells it. Raises CheckpointError if it could not be."""
        try:
            self.flush()
            self.checkpoints.wait()
            self._tell_saved()
        finally:
            if self.journal is not None:
                self.journal.close()
